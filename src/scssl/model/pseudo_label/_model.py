"""Pretraining on clusters of cells as labels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scssl._checks import get_column, some
from scssl._errors import MissingKeyError
from scssl._random import RNG, as_seed, derive_seed
from scssl.data import Datasets, GeneVocabulary, SelectedRows
from scssl.data.keys import CLUSTERS, DATASET
from scssl.data.matrix import pca
from scssl.model.base import (
    CellReader,
    DatasetsMixin,
    DataSetup,
    SetupArgument,
    StartsFromEncoder,
    StoresMixin,
    copied,
    refuse_missing,
    register_model,
    takes,
)
from scssl.train import (
    TrainOptions,
    check_distributed,
    first_process_has,
    history_frames,
    history_lists,
)

from ._kmeans import agreement, kmeans, numbers_of_clusters, resolve_engine
from ._network import PseudoLabelModule
from ._options import PseudoLabelOptions
from ._rounds import RoundFolder, RoundStart

_LOGGER = logging.getLogger("scssl")
_N_PCS = 50
# Normalised mutual information of successive rounds beyond which there is nothing new to learn.
_AGREED = 0.95


@register_model
class PseudoLabel(StartsFromEncoder, DatasetsMixin, StoresMixin):
    """Learn embeddings by predicting clusters of the cells of many data sets :cite:p:`Zhang2022`.

    For a start with few labels of a data set that is not among them. Not in the place of principal
    components: with all labels of a data set, what was fine-tuned from this encoder alone was below
    logistic regression on its components on nine of nine, by .066 of macro-F1 on the mean. A
    :class:`CellTypeClassifier` that starts from it sees both.

    The cells of each data set are clustered by themselves, in several partitions from coarse to fine;
    one encoder and a linear head for each data set learn to tell the clusters. Cells of different data
    sets are never compared, so that their batch effects are nothing to be learnt. The first round
    clusters principal components; each further round clusters the embeddings of the round before and
    starts new heads on the encoder so far.

    Data sets are not brought together either: the cells that are learnt from may stay apart by data set.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata` or :meth:`setup_datasets`.
    hidden_dims
        Widths of the encoder's hidden layers; (128,) by default, none for one linear layer.
    n_latent
        Width of the embedding, 64 by default; 200 in :cite:p:`Zhang2022`.
    dropout
        Share of the units of the embedding dropped in training, 0 by default.
    activation
        ``"relu"`` (default), ``"selu"``, ``"gelu"``, ``"silu"`` or ``"leaky_relu"``.
    batch_norm
        Whether every layer of the encoder is followed by batch normalisation, of which embeddings use
        the running statistics; by default not, as cells are then learnt by heart more readily.
    head_activation
        Between embedding and heads: `None` for nothing, ``"sigmoid"`` as in :cite:p:`Zhang2022`,
        ``"relu"``, or ``"auto"`` (default): nothing, or that of the preset. The embedding is what is
        before it.
    mask_rate
        Share of the genes that is hidden from the encoder in training, anew in each step; 0.8 by
        default, 0 in :cite:p:`Zhang2022`. Heads of different data sets share nothing but the encoder,
        which can learn by heart to which data set a cell belongs: hiding genes makes that harder.
    cells_per_cluster
        Mean size of the clusters of each partition; (200, 100, 50) as in :cite:p:`Zhang2022`. Of data
        sets with few cells there are at least 2 clusters, and at most half as many as cells.
    n_rounds
        Rounds of clustering and training, 5 by default. Fewer where the clusters of a round agree
        with those of the round before (normalised mutual information above 0.95).
    weighted
        Whether data sets and partitions count the same: the mean over both, each loss divided by the
        logarithm of the number of clusters. Otherwise their sum, as in :cite:p:`Zhang2022`.
    kmeans
        ``"sklearn"``: k-means by mini-batches; ``"faiss"``; ``"auto"`` (default): faiss where it is
        installed.
    preset
        ``"scpretrain"``: the encoder, head and training of :cite:p:`Zhang2022`, namely one linear layer
        of 200 units, a sigmoid before the heads, the sum of all losses, and Adam with a learning rate
        of 1e-4 for at most 50 epochs of 30 steps with a patience of 5. As published, a step is on a
        30th of the cells: its memory and time grow with the data, unless `batch_size` is given to
        :meth:`train`. The logits are not squashed before the cross-entropy as in the published code.
        Arguments that are given replace its own.

    Notes
    -----
    Training arguments such as `max_epochs` are of one round. The partitions of the last round are in
    :attr:`clusters_`, what happened in each round in :attr:`rounds_`.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.PseudoLabel.setup_anndata(adata)
    >>> model = scssl.model.PseudoLabel(adata, n_rounds=2)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "dataset_key": SetupArgument(
            """Column of ``adata.obs`` with the data set of each cell, within which cells are clustered. By
            default all cells are one data set.""",
            str | None,
        ),
        "batch_key": SetupArgument("Another name of `dataset_key`, that of other models."),
        **dict.fromkeys(
            ("categorical_covariate_keys", "continuous_covariate_keys"),
            SetupArgument("Not used in training; columns to be checked and kept with the model."),
        ),
    }

    @takes(PseudoLabelOptions)
    def __init__(
        self,
        adata: AnnData | Datasets | None = None,
        registry: dict[str, Any] | None = None,
        *,
        rng: RNG = 0,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        self._options = chosen = PseudoLabelOptions.chosen(options)
        self._arguments = chosen.to_dict()
        if registry is None:
            # One that is loaded can embed without.
            resolve_engine(chosen.kmeans)
        self._start_module(rng)
        self._clusters: np.ndarray | None = None
        self._opened: CellReader | None = None
        self._round = 0
        sizes = "-".join(map(str, [len(self.genes), *chosen.hidden_dims, chosen.n_latent]))
        self._model_summary_string = (
            f"{sizes} encoder {'with' if chosen.batch_norm else 'without'} batch normalisation, "
            f"clusters of {', '.join(map(str, chosen.cells_per_cluster))} cells, "
            f"{chosen.n_rounds} rounds"
        )

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        key, other = given.get("dataset_key"), given.get("batch_key")
        if key is not None and other not in (None, key):
            raise ValueError(
                f"`batch_key` is another name of `dataset_key`; found {other!r} and {key!r}. Give one."
            )
        # Of Datasets there is no such column.
        told = {} if key is None else {"batch_key": key}
        return super()._checked_setup(data, given | told)

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> PseudoLabelModule:
        return PseudoLabelModule(len(genes), PseudoLabelOptions(**arguments))

    def _rounds(self, arguments: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        several = (arguments[name] for name in ("devices", "num_nodes", "strategy", "rng"))
        check_distributed(*several)
        seed = as_seed(arguments["rng"])
        engine = resolve_engine(self._options.kmeans)
        folder = RoundFolder(arguments["checkpoint_dir"], arguments["resume_from"])
        self._opened, resumed = self._open(), None
        run = self._identity(self._opened, seed=seed, engine=engine)
        done: list[dict[str, Any]] = []
        first, n_rounds = 0, self._options.n_rounds
        try:
            if arguments["resume_from"] is not None:
                resumed = folder.read(run)
                first, done = resumed.number, resumed.done
                self.module.load_state_dict(resumed.encoder)
                self.history_, self.is_trained_ = history_frames(resumed.history), resumed.trained
            for number in range(first, n_rounds):
                if resumed is not None and number == first:
                    start = resumed
                    self._clusters = start.clusters
                else:
                    start = self._start(number, done, seed=seed, engine=engine)
                    if start.agreement is not None and start.agreement > _AGREED:
                        _LOGGER.info(
                            "The clusters agree with those of the round before (%.3f): done after %d "
                            "rounds.",
                            start.agreement,
                            number,
                        )
                        break
                folder.write(start, run)
                self.module.start_round(self._sizes(), derive_seed(seed, "heads", number))
                self._round = number
                _LOGGER.info("Round %d of %d", number + 1, n_rounds)
                before = self._n_epochs()
                yield {"rng": seed, **folder.arguments(number, resumed=start is resumed)}
                done.append(
                    {
                        "n_epochs": self._n_epochs() - before,
                        "best_loss": self.training_["best_loss"],
                        "agreement": start.agreement,
                    }
                )
                self.module.end_round()
                self.training_ = {**self.training_, "rounds": list(done), "kmeans": engine}
                if self.training_["stopped_by"] == "interrupt":
                    break
        finally:
            self.module.end_round()
            self._opened = None

    def _identity(self, data: CellReader, *, seed: int, engine: str) -> dict[str, Any]:
        """What a run must have in common with one that it goes on with."""
        assert self._adata is not None
        return {
            "seed": seed,
            "setup": self.setup.to_dict(),
            "model": f"{type(self).__name__}({self._config()})",
            "data": data.fingerprint,
            # Sums over all cells say nothing of their order.
            "order of the cells": _digest(self._adata.obs_names)
            if self._store is None
            else self._store.digest,
            "data sets": _digest([*self._dataset_names(), *self._dataset_codes()]),
            "k-means": engine,
        }

    def _start(
        self, number: int, done: list[dict[str, Any]], *, seed: int, engine: str
    ) -> RoundStart:
        """Cluster the cells of every data set; of several processes the first does."""
        self._clusters, agreed = first_process_has(
            lambda: self._cluster(number, seed=seed, engine=engine)
        )
        return RoundStart(
            number,
            copied(self.module.state_dict()),
            self._clusters,
            agreed,
            bool(self.is_trained_),
            list(done),
            history_lists(self.history_),
        )

    def _cluster(self, number: int, *, seed: int, engine: str) -> tuple[np.ndarray, float | None]:
        """Clusters of all cells, and how well they agree with those before."""
        data = self._open()
        before = self._clusters if number else None
        codes = self._dataset_codes()
        found = np.zeros((data.n_cells, len(self._options.cells_per_cluster)), dtype=np.int32)
        agreements = []
        for code, sizes in enumerate(self._sizes()):
            rows = np.flatnonzero(codes == code)
            x = self._to_cluster(data, rows, derive_seed(seed, "pca", code))
            for p, k in enumerate(sizes):
                own = derive_seed(seed, "kmeans", number, code, p)
                found[rows, p] = kmeans(x, k, seed=own, engine=engine)
                if before is not None:
                    agreements.append(agreement(before[rows, p], found[rows, p]))
        return found, float(np.mean(agreements)) if agreements else None

    def _to_cluster(self, data: CellReader, rows: np.ndarray, seed: int) -> np.ndarray:
        """What is clustered: principal components before there are embeddings."""
        if not self.is_trained_:
            source = SelectedRows(data.source, rows, data.alignment)
            return pca(
                source,
                input_kind=self.setup.input_kind,
                columns=None,
                n_pcs=_N_PCS,
                seed=seed,
                target_sum=self.setup.target_sum,
            )
        with torch.inference_mode():
            z = self._apply(data, rows, None, self.module.embed, self.n_latent)
        # Dimensions that do not vary stay as they are.
        spread = z.std(0)
        scaled: np.ndarray = (z - z.mean(0)) / np.where(spread > 1e-6, spread, 1)
        return scaled

    def _sizes(self) -> list[list[int]]:
        """Number of clusters of each partition of each data set."""
        counts = zip(np.bincount(self._dataset_codes()), self._dataset_names(), strict=True)
        per = self._options.cells_per_cluster
        return [numbers_of_clusters(int(n), per, name=name) for n, name in counts]

    def _dataset_names(self) -> list[str]:
        """Data sets of the model's own cells, in the order of their codes."""
        key = self._dataset_key
        if key is None or self._adata is None:
            return ["all cells"]
        if self._store is not None:
            names = self._store.categories(key)
            return [names[code] for code in np.unique(self._store.column(key))]
        # Other data may be attached to a trained model, with data sets of their own.
        return [str(name) for name in pd.factorize(get_column(self._adata, key), sort=True)[1]]

    def _dataset_codes(self) -> np.ndarray:
        """Number of the data set of each of the model's own cells; int64."""
        assert self._adata is not None
        key = self._dataset_key
        if self._store is not None:
            n_cells = self._store.n_cells
            column = np.zeros(n_cells) if key is None else self._store.column(key)
            return np.unique(column, return_inverse=True)[1]
        if key is None:
            return np.zeros(self._adata.n_obs, dtype=np.int64)
        return pd.factorize(get_column(self._adata, key), sort=True)[0].astype(np.int64)

    def _open(self) -> CellReader:
        """The model's own cells; once for all rounds, as opening data looks at every value."""
        if self._opened is not None:
            return self._opened
        data = self._read(None)
        data.groups = self._dataset_codes()
        data.obs[DATASET] = data.groups
        return data

    def _training_data(self) -> CellReader:
        data = self._open()
        assert self._clusters is not None
        data.obs[CLUSTERS] = self._clusters
        return data

    def _divided(self, data: CellReader, train_size: float | None, seed: int) -> Any:
        rows, held_out, train_size = super()._divided(data, train_size, seed)
        if data.held_out is not None:
            codes, names = self._dataset_codes(), self._dataset_names()
            if len(lost := np.setdiff1d(codes[np.asarray(held_out)], codes[np.asarray(rows)])):
                raise ValueError(
                    f"Every data set has a head of its own, and all cells of {some(names[i] for i in lost)} are "
                    "held out: its head would learn nothing. Hold out a part of each, such as donors."
                )
        return rows, held_out, train_size

    def _split(
        self,
        data: CellReader,
        cells: np.ndarray,
        labels: pd.Series | None,
        train_size: float,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each data set is split by itself, so that all are validated on."""
        assert data.groups is not None
        codes = data.groups[cells]
        if codes.min() == codes.max():
            return super()._split(data, cells, labels, train_size, seed)
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for code in np.unique(codes).tolist():
            own = np.flatnonzero(codes == code)
            types = None if labels is None else labels.iloc[own]
            if types is not None and not types.duplicated().any():
                types = None
            split = super()._split(data, own, types, train_size, derive_seed(seed, code))
            for part, places in zip(parts, split, strict=True):
                part.append(own[places])
        training, validation = (np.sort(np.concatenate(part)) for part in parts)
        return training, validation

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: TrainOptions, *, resumed: bool
    ) -> dict[str, Any]:
        assert self._clusters is not None
        digest = hashlib.sha256(np.ascontiguousarray(self._clusters).data).hexdigest()
        return {"round": self._round, "clusters": digest}

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        if self._options.preset is not None:
            return {
                "max_epochs": 50,
                "batch_size": max(2, -(-n_cells // 30)),
                "lr": 1e-4,
                "weight_decay": 0.0,
                "lr_schedule": "constant",
                "patience": 5,
            }
        few = n_cells < 20_000
        return {
            "max_epochs": int(np.clip(round(40_000 / max(n_cells, 1)), 5, 20)),
            "batch_size": 128 if few else max(256, 16 * len(self._dataset_names())),
            "lr": 1e-3,
            "patience": 5,
        }

    @property
    def clusters_(self) -> pd.DataFrame:
        """Clusters that were found last; one column for each partition, by its cells per cluster.

        Clusters of different data sets have nothing to do with each other, though they have the same
        numbers.

        Raises
        ------
        ValueError
            If the model was not trained since it was made or loaded.
        """
        if self._clusters is None or self._adata is None:
            raise ValueError("There are no clusters: `model.train()` finds those of its cells.")
        names = [f"{per} cells" for per in self._options.cells_per_cluster]
        index = self._adata.obs_names if self._store is None else None
        return pd.DataFrame(self._clusters, index=index, columns=names)

    @property
    def rounds_(self) -> pd.DataFrame:
        """What happened in each round.

        Columns are the number of epochs, the best validation loss, and the agreement of its clusters
        with those of the round before: normalised mutual information, mean over data sets and
        partitions, NaN in the first.
        """
        columns = ["n_epochs", "best_loss", "agreement"]
        found = pd.DataFrame(self.training_.get("rounds", []), columns=columns)
        return found.astype({"agreement": float}).rename_axis("round")

    def attach(self, adata: AnnData | Datasets) -> None:
        super().attach(adata)
        # They were of other cells.
        self._clusters = None

    def _check_columns(self, data: CellReader) -> None:
        """Data sets may be others than those of the setup: each round has heads of its own."""
        key, columns = self.setup.batch_key, data.adata.obs.columns
        if key is None:
            return
        if key in columns:
            refuse_missing(data.adata, get_column(data.adata, key), key)
            return
        there = ", ".join(map(repr, columns[:20])) or "none"
        raise MissingKeyError(
            f"There is no column {key!r} in adata.obs, with the data set of each cell; there are: {there}. "
            f'If all are of one data set: `adata.obs["{key}"] = "mine"`. If there are several AnnData, attach '
            "scssl.data.Datasets of them. Cells are embedded without."
        )


def _digest(values: Iterable[Any]) -> str:
    return hashlib.sha256("\0".join(map(str, values)).encode()).hexdigest()
