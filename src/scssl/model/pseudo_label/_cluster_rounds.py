"""Rounds of clustering and training on the clusters."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from scssl._random import as_seed, derive_seed
from scssl.data import SelectedRows
from scssl.data.keys import CLUSTERS, DATASET
from scssl.data.matrix import pca
from scssl.model.base import (
    CellReader,
    DatasetsMixin,
    SSLModel,
    check_distributed,
    copied,
    history_lists,
    is_distributed,
    obs_column,
    refuse_missing,
)
from scssl.train import first_process_has

from ._kmeans import kmeans, numbers_of_clusters, resolve_engine
from ._network import PseudoLabelModule
from ._rounds import RoundFolder, RoundStart

_LOGGER = logging.getLogger("scssl")
_N_PCS = 50
# Normalised mutual information of successive rounds beyond which there is nothing new to learn.
_AGREED = 0.95


class ClusterRounds(DatasetsMixin, SSLModel):
    """The part of a model that clusters cells by data set, learns the clusters, and clusters again."""

    module: PseudoLabelModule
    _arguments: dict[str, Any]
    _clusters: np.ndarray | None
    _opened: CellReader | None
    _round: int

    def _training_data(self) -> CellReader:
        # Once for all rounds: opening data looks at every value.
        data = self._open() if self._opened is None else self._opened
        assert self._clusters is not None
        data.obs[CLUSTERS] = self._clusters
        return data

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

    def _open(self) -> CellReader:
        data = self._read(None)
        data.groups = self._dataset_codes()
        data.obs[DATASET] = data.groups
        return data

    def _check_columns(self, data: CellReader) -> None:
        """Data sets may be others than those of the setup: each round has heads of its own."""
        key, columns = self.setup.batch_key, data.adata.obs.columns
        if key is None:
            return
        if key in columns:
            refuse_missing(data.adata, data.adata.obs[key], key)
            return
        there = ", ".join(map(repr, columns[:20])) or "none"
        raise KeyError(
            f"There is no column {key!r} in adata.obs, with the data set of each cell; there are: {there}. "
            f'If all are of one data set: adata.obs["{key}"] = "mine". If there are several AnnData: '
            'model.attach(scssl.data.Datasets({"one": adata, "two": other})). To embed cells, without '
            "training on them: model.get_latent_representation(adata)"
        )

    def _dataset_names(self) -> list[str]:
        """Data sets of the model's own cells, in the order of their codes."""
        key = self._dataset_key
        if key is None or self._adata is None:
            return ["all cells"]
        # Other data may be attached to a trained model, with data sets of their own.
        return [str(name) for name in pd.factorize(obs_column(self._adata, key), sort=True)[1]]

    def _dataset_codes(self) -> np.ndarray:
        """Number of the data set of each of the model's own cells; int64."""
        assert self._adata is not None
        key = self._dataset_key
        if key is None:
            return np.zeros(self._adata.n_obs, dtype=np.int64)
        return pd.factorize(obs_column(self._adata, key), sort=True)[0].astype(np.int64)

    def _rounds(self, arguments: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        rng = arguments["rng"]
        if is_distributed(arguments["devices"]):
            check_distributed(arguments["strategy"], arguments["n_output_genes"], rng)
        seed = as_seed(rng)
        engine = resolve_engine(self._arguments["kmeans"])
        folder = RoundFolder(arguments["checkpoint_dir"], arguments["resume_from"])
        self._opened, resumed = self._open(), None
        run = self._identity(self._opened, seed=seed, engine=engine)
        done: list[dict[str, Any]] = []
        first, n_rounds = 0, int(self._arguments["n_rounds"])
        try:
            if arguments["resume_from"] is not None:
                resumed = folder.read(run)
                first, done = resumed.number, resumed.done
                self.module.load_state_dict(resumed.encoder)
                self.history_, self.is_trained_ = resumed.frames(), resumed.trained
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
            "order of the cells": _digest(self._adata.obs_names),
            "data sets": _digest([*self._dataset_names(), *self._dataset_codes()]),
            "k-means": engine,
        }

    def _start(
        self, number: int, done: list[dict[str, Any]], *, seed: int, engine: str
    ) -> RoundStart:
        """Cluster the cells of every data set."""
        data = self._open() if self._opened is None else self._opened
        before = self._clusters if number else None
        codes = self._dataset_codes()
        found = np.zeros((data.n_cells, len(self._arguments["cells_per_cluster"])), dtype=np.int32)
        agreements = []
        for code, sizes in enumerate(self._sizes()):
            rows = np.flatnonzero(codes == code)
            x = self._to_cluster(data, rows, derive_seed(seed, "pca", code))
            for p, k in enumerate(sizes):
                own = derive_seed(seed, "kmeans", number, code, p)
                found[rows, p] = kmeans(x, k, seed=own, engine=engine)
                if before is not None:
                    agreements.append(agreement(before[rows, p], found[rows, p]))
        # On GPUs the processes may embed a little differently, and number clusters in another way.
        found, agreements = first_process_has((found, agreements))
        self._clusters = found
        return RoundStart(
            number,
            copied(self.module.state_dict()),
            found,
            float(np.mean(agreements)) if agreements else None,
            bool(self.is_trained_),
            list(done),
            history_lists(self.history_),
        )

    def _to_cluster(self, data: CellReader, rows: np.ndarray, seed: int) -> np.ndarray:
        """What is clustered: principal components before there are embeddings."""
        if not self.is_trained_:
            source = SelectedRows(data.source, rows, data.alignment)
            return pca(
                source, input_kind=self.setup.input_kind, columns=None, n_pcs=_N_PCS, seed=seed
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
        per = self._arguments["cells_per_cluster"]
        return [numbers_of_clusters(int(n), per, name=name) for n, name in counts]

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: Mapping[str, Any], *, resumed: bool
    ) -> dict[str, Any]:
        assert self._clusters is not None
        digest = hashlib.sha256(np.ascontiguousarray(self._clusters).data).hexdigest()
        return {"round": self._round, "clusters": digest}


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Normalised mutual information of two partitions."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(one, other))


def _digest(values: Iterable[Any]) -> str:
    return hashlib.sha256("\0".join(map(str, values)).encode()).hexdigest()
