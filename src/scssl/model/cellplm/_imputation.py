"""Expression of genes that were not measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scssl._errors import warn
from scssl.data import Datasets, GeneVocabulary
from scssl.data.keys import CONTINUOUS, PANEL, TARGET, category_key
from scssl.model.base import DataSetup, as_strings, gene_columns

from ._network import CellPLMModule

if TYPE_CHECKING:
    from anndata import AnnData

    from scssl.model.base import CellReader


class ImputationMixin:
    """Predict genes that a panel does not have from cells in which they were measured."""

    module: CellPLMModule
    genes: GeneVocabulary
    setup: DataSetup
    is_trained_: bool

    if TYPE_CHECKING:

        def _read(self, adata: Any, *, min_overlap: float = 0.5) -> CellReader: ...

        def _apply(self, *args: Any) -> np.ndarray: ...

    @torch.inference_mode()
    def get_imputed_expression(
        self,
        adata: AnnData | Datasets | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        genes: Sequence[str] | None = None,
        as_batch: str | None = None,
        min_overlap: float = 0.0,
    ) -> pd.DataFrame:
        """Expected expression of cells, also of genes that were not measured in them.

        Of counts, expected counts: those of the genes that were measured in a cell sum to what was counted
        of them, and those of other genes are on the same scale. Of normalised values, expected values.

        Parameters
        ----------
        adata
            Cells, the model's own by default. They need not have all genes of the model.
        indices
            Rows, a boolean mask or cell names; all by default.
        genes
            Genes to impute; all of the model by default. The result is dense: for many cells, name the
            genes you need.
        as_batch
            Batch (of ``batch_key``, or name of a data set) that the decoder is told for all cells: for
            genes that were not measured in the cells' own, one in which they were. By default, that of the
            cells where `adata` has it and the model knows it, else the mean over the batches.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        Float32 frame, one row per cell and one column per gene.

        Raises
        ------
        ValueError
            If the model is not trained, has no decoder or did not train it (`objective`), or there is no
            batch `as_batch`.
        KeyError
            If the model does not know a gene.
        """
        if not self.is_trained_:
            raise ValueError(
                "The model is not trained, so there is nothing to impute with. Call model.train()."
            )
        if self.module.decodes and self.module.objective != "reconstruction":
            raise ValueError(
                f"The model was trained with objective={self.module.objective!r}, which leaves the decoder as "
                'it is: it cannot tell expression. Impute with a model of objective="reconstruction".'
            )
        columns = gene_columns(self.genes, genes, self.module.device)
        data = self._read(adata, min_overlap=min_overlap)
        self._tell_batch(data, as_batch)
        for key in self.setup.categorical_keys:
            if key in data.adata.obs:
                data.obs[category_key(key)] = _known_codes(data.adata, self.setup, key)
        continuous = self.setup.continuous_keys
        if continuous and all(key in data.adata.obs for key in continuous):
            data.obs[CONTINUOUS] = self.setup.continuous(data.adata)

        def impute(batch: dict[str, Tensor]) -> Tensor:
            asked = batch[TARGET].squeeze(1).bool()
            z = self.module.embed(batch)
            return self.module.generative(batch, z, genes=columns, cells=asked)["x_hat"]

        names = self.genes.names if columns is None else self.genes.names[columns.cpu().numpy()]
        rows = data.rows(indices)
        if as_batch is None and len(rows):
            self._warn_of_own_batch(data, rows, columns)
        found = self._apply(data, rows, None, impute, len(names))
        return pd.DataFrame(found, index=data.adata.obs_names[rows], columns=names)

    def _warn_of_own_batch(
        self, data: CellReader, rows: np.ndarray, columns: Tensor | None
    ) -> None:
        """Say that the decoder never saw a gene together with what it is told of these cells."""
        key = self.setup.batch_key
        if key is None or data.measured is None or category_key(key) not in data.obs:
            return
        if (data.obs[category_key(key)][rows] < 0).all():
            return
        measured = data.measured[np.unique(data.obs[PANEL][rows])].all(axis=0)
        lacking = int((~(measured if columns is None else measured[columns.cpu().numpy()])).sum())
        if lacking:
            warn(
                f"{lacking:,} of the genes were not measured in all of these cells, and the decoder is told their "
                "own batch, with which it never saw these genes. Name one in which they were: as_batch=..., one "
                f"of {', '.join(map(repr, self.setup.categories[key][:5]))}."
            )

    def _tell_batch(self, data: CellReader, as_batch: str | None) -> None:
        key = self.setup.batch_key
        if as_batch is not None:
            known = [] if key is None else self.setup.categories[key]
            if as_batch not in known:
                there = ", ".join(map(repr, known[:10])) or "none, as no batch_key was set up"
                raise ValueError(f"There is no batch {as_batch!r}; the model knows {there}.")
            assert key is not None
            code = known.index(as_batch)
            data.obs[category_key(key)] = np.full(data.n_cells, code, dtype=np.int64)
        elif key is not None and key in data.adata.obs:
            data.obs[category_key(key)] = _known_codes(data.adata, self.setup, key)


def _known_codes(adata: AnnData, setup: DataSetup, key: str) -> np.ndarray:
    """Codes of a column, -1 for categories that the model does not know and where there is none."""
    values = adata.obs[key]
    codes = np.full(len(values), -1, dtype=np.int64)
    # Missing values make floats of whole numbers, and would hide that these are whole.
    there = values.notna().to_numpy()
    codes[there] = pd.Index(setup.categories[key]).get_indexer(as_strings(values[there]))
    return codes
