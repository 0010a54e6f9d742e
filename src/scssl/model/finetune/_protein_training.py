"""How a model learns proteins: what it learns from, and where its head starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scssl.data.keys import PROTEINS
from scssl.model.base import SETUP, CellReader

from ._model import FineTunedModel
from ._protein_network import ProteinPredictorModule
from ._proteins import choose_transform, protein_table, transformed

_LOGGER = logging.getLogger("scssl")
_PROTEIN = "protein"
# Below this number of cells with proteins, a validation set costs more than it tells.
_FEW_CELLS = 100
# Ridge penalties per cell and feature of unit spread; the best one of each protein is taken.
_PENALTIES = np.logspace(-1, 4, 16)


class ProteinTrainingMixin(FineTunedModel):
    """Targets, defaults of training and the start of the head of :class:`ProteinPredictor`."""

    module: ProteinPredictorModule
    proteins: list[str]
    _arguments: dict[str, Any]
    _named: AnnData | None
    _n_measured = 0
    # Unlike a class label, a protein tells the encoder more than it knows already.
    _pretrained_lr_factor = 1.0

    def _targets(self, adata: AnnData) -> np.ndarray:
        """Transformed proteins of the model, NaN where not measured; matched by name."""
        obsm = self.registry_[SETUP][_PROTEIN]["obsm"]
        own = adata is self._named
        names = None
        if obsm in adata.obsm and not isinstance(adata.obsm[obsm], pd.DataFrame):
            if not own and "protein_names" not in adata.uns:
                raise ValueError(
                    f'The proteins in adata.obsm["{obsm}"] have no names, so they cannot be matched to '
                    "those of the model. Name them in the order of the columns: "
                    'adata.uns["protein_names"] = [...]. If they are those of the model, in its order: '
                    'adata.uns["protein_names"] = model.proteins'
                )
            names = self.proteins if own else adata.uns["protein_names"]
        values, found = protein_table(adata, obsm, names)
        columns = pd.Index(found).get_indexer(self.proteins)
        if (columns < 0).all():
            raise ValueError(
                f'None of the proteins of the model is in adata.obsm["{obsm}"]: it has '
                f"{', '.join(found[:5])}, the model {', '.join(self.proteins[:5])}."
            )
        chosen = np.where(columns >= 0, values[:, columns], np.nan)
        transform = self._arguments["transform"]
        # Of its own cells the model has said so when it was made.
        choose_transform(chosen, transform, f'adata.obsm["{obsm}"]', loud=not own)
        return transformed(chosen, transform)

    def _training_data(self) -> CellReader:
        data = super()._training_data()
        data.obs[PROTEINS] = self._targets(data.adata).astype(np.float32)
        return data

    def _training_cells(self, data: CellReader) -> np.ndarray:
        measured = np.flatnonzero(np.isfinite(data.obs[PROTEINS]).any(axis=1))
        self._n_measured = len(measured)
        _LOGGER.info("%s of %s cells have proteins.", f"{len(measured):,}", f"{data.n_cells:,}")
        return measured

    def _default_train_size(self, labels: pd.Series | None) -> float:
        return 1.0 if self._n_measured < _FEW_CELLS else 0.9

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        batch_size = 128 if n_cells < 20_000 else 512
        return {
            "max_epochs": int(np.clip(4000 // -(-n_cells // batch_size), 20, 200)),
            "batch_size": batch_size,
            "lr": 1e-3 if n_cells < 2000 else 3e-4,
            "weight_decay": 1e-2,
            "lr_schedule": "constant",
            "patience": 15,
        }

    def _start_head(self, data: CellReader, rows: np.ndarray) -> None:
        from sklearn.linear_model import RidgeCV

        module = self.module
        targets = data.obs[PROTEINS][rows].astype(np.float64)
        measured = np.isfinite(targets)
        mean, spread = _moments(targets, measured)
        module.target_mean.copy_(torch.from_numpy(mean))
        module.target_scale.copy_(torch.from_numpy(spread))
        if module.components is not None:
            self._start_components(data, rows)
        with torch.inference_mode():
            seen = self._apply(data, rows, None, self._features, module.head.n_in)
        x = module.head.standardise(torch.from_numpy(seen)).numpy().astype(np.float64)
        if self._arguments["head_start"] == "random":
            return
        y = (targets - mean) / spread
        weight = np.zeros((y.shape[1], x.shape[1]))
        bias = np.zeros(y.shape[1])
        # Proteins that were measured in the same cells are fitted together.
        patterns, which = np.unique(measured, axis=1, return_inverse=True)
        for i in range(patterns.shape[1]):
            cells, columns = patterns[:, i], np.flatnonzero(which.ravel() == i)
            if cells.sum() < 2:
                continue
            fitted = RidgeCV(_PENALTIES, alpha_per_target=True).fit(x[cells], y[cells][:, columns])
            weight[columns], bias[columns] = fitted.coef_, fitted.intercept_
        module.head.start_from(torch.from_numpy(weight), torch.from_numpy(bias))

    def _features(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.module.features(tensors, evaluate=True)

    def _start_components(self, data: CellReader, rows: np.ndarray) -> None:
        from scipy import sparse
        from sklearn.decomposition import PCA

        components = self.module.components
        assert components is not None
        parts = []
        for batch in data.loader(rows, 2048):
            x = batch["X"]
            arrays = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
            parts.append(sparse.csr_matrix(arrays, shape=tuple(x.shape)))
        n = components.bias.numel()
        pca = PCA(n, svd_solver="arpack", random_state=0).fit(
            sparse.vstack(parts).astype(np.float64)
        )
        weight = np.ascontiguousarray(pca.components_.T)
        with torch.no_grad():
            components.weight.copy_(torch.from_numpy(weight))
            components.bias.copy_(torch.from_numpy(-pca.mean_ @ weight))


def _moments(values: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the measured entries of each column; 1 for no deviation."""
    n = np.maximum(measured.sum(0), 1)
    mean = np.where(measured, values, 0).sum(0) / n
    spread = np.sqrt(np.where(measured, np.square(values - mean), 0).sum(0) / n)
    return mean, np.where(spread > 0, spread, 1.0)
