"""Pretraining on clusters of cells as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch

from scssl._checks import check_number, check_whole, check_widths
from scssl._random import RNG, as_seed, derive_seed
from scssl.data import Datasets, GeneVocabulary
from scssl.model.base import CellReader, DataSetup, SetupArgument, register_model

from ._cluster_rounds import ClusterRounds
from ._kmeans import check_engine
from ._network import HEAD_ACTIVATIONS, PseudoLabelModule

if TYPE_CHECKING:
    from anndata import AnnData


@register_model
class PseudoLabel(ClusterRounds):
    """Learn embeddings by predicting clusters of the cells of many data sets :cite:p:`Zhang2022`.

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
    registry
        Setup of a model that is loaded without data; not for users.
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
    rng
        Seed of the initial weights.

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

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        hidden_dims: Sequence[int] | None = None,
        n_latent: int | None = None,
        dropout: float = 0.0,
        activation: str = "relu",
        batch_norm: bool = False,
        head_activation: Literal["auto", "sigmoid", "relu"] | None = "auto",
        mask_rate: float | None = None,
        cells_per_cluster: Sequence[int] = (200, 100, 50),
        n_rounds: int = 5,
        weighted: bool | None = None,
        kmeans: Literal["auto", "sklearn", "faiss"] = "auto",
        preset: Literal["scpretrain"] | None = None,
        rng: RNG = 0,
    ) -> None:
        super().__init__(adata, registry)
        if preset not in (None, "scpretrain"):
            raise ValueError(f'`preset` must be "scpretrain" or None, found {preset!r}.')
        published = preset is not None
        if head_activation == "auto":
            head_activation = "sigmoid" if published else None
        default_hidden: tuple[int, ...] = () if published else (128,)
        self._arguments: dict[str, Any] = {
            "hidden_dims": check_widths(
                "hidden_dims", default_hidden if hidden_dims is None else hidden_dims, empty=True
            ),
            "n_latent": check_whole(
                "n_latent", (200 if published else 64) if n_latent is None else n_latent
            ),
            "dropout": float(dropout),
            "activation": activation,
            "batch_norm": bool(batch_norm),
            "head_activation": head_activation,
            "mask_rate": float((0 if published else 0.8) if mask_rate is None else mask_rate),
            "cells_per_cluster": _sizes(cells_per_cluster),
            "n_rounds": check_whole("n_rounds", n_rounds),
            "weighted": bool((not published) if weighted is None else weighted),
            "kmeans": kmeans,
            "preset": preset,
        }
        _check(self._arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(as_seed(rng), "weights"))
            self.module = self._build_module(self._arguments, genes=self.genes, setup=self.setup)
        self._clusters: np.ndarray | None = None
        self._opened: CellReader | None = None
        self._round = 0
        chosen = self._arguments
        sizes = "-".join(map(str, [len(self.genes), *chosen["hidden_dims"], chosen["n_latent"]]))
        self._model_summary_string = (
            f"{sizes} encoder {'with' if chosen['batch_norm'] else 'without'} batch normalisation, "
            f"clusters of {', '.join(map(str, chosen['cells_per_cluster']))} cells, "
            f"{chosen['n_rounds']} rounds"
        )
        self.init_params_ = self._get_init_params(locals())

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
        names = ["hidden_dims", "n_latent", "dropout", "activation", "batch_norm"]
        names += ["head_activation", "weighted", "mask_rate"]
        return PseudoLabelModule(len(genes), **{name: arguments[name] for name in names})

    def _config(self) -> dict[str, Any]:
        return self._arguments

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        if self._arguments["preset"] is not None:
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
            "weight_decay": 1e-2,
            "lr_schedule": "cosine",
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
            raise ValueError(
                "There are no clusters: they are of the cells that model.train() learns from."
            )
        names = [f"{per} cells" for per in self._arguments["cells_per_cluster"]]
        return pd.DataFrame(self._clusters, index=self._adata.obs_names, columns=names)

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
        """Make data the model's own, to embed them or to go on training.

        Parameters
        ----------
        adata
            An AnnData, or Datasets, with the genes that the model was set up with.
        """
        super().attach(adata)
        # They were of other cells.
        self._clusters = None


def _check(arguments: Mapping[str, Any]) -> None:
    check_number("dropout", arguments["dropout"], "[0, 1)")
    check_number("mask_rate", arguments["mask_rate"], "[0, 1)")
    if arguments["head_activation"] not in HEAD_ACTIVATIONS:
        known = ", ".join(map(repr, ("auto", *HEAD_ACTIVATIONS)))
        raise ValueError(
            f"`head_activation` must be one of {known}; found {arguments['head_activation']!r}."
        )
    # Whether it is installed matters when cells are clustered: a loaded model embeds without.
    check_engine(arguments["kmeans"])


def _sizes(per: Any) -> list[int]:
    if isinstance(per, (str, bytes)) or not isinstance(per, (Sequence, np.ndarray)):
        raise ValueError(
            "`cells_per_cluster` must be a list of numbers, one for each partition, such as (200, 100, "
            f"50), or (50,) for one partition; found {per!r}."
        )
    sizes = [check_whole(f"cells_per_cluster[{i}]", one) for i, one in enumerate(per)]
    if not sizes or min(sizes) < 2:
        raise ValueError(
            f"`cells_per_cluster` must be numbers of at least 2, found {tuple(sizes)}."
        )
    return sizes
