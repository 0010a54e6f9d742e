"""Expression as a model with a decoder sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from scssl.data import GeneVocabulary
from scssl.model.base import gene_columns

from ._network import MaskedAutoencoderModule

if TYPE_CHECKING:
    from scssl.model.base import CellReader


class ReconstructionMixin:
    """Denoised profiles, and how well cells are reconstructed."""

    module: MaskedAutoencoderModule
    genes: GeneVocabulary
    _arguments: dict[str, Any]

    if TYPE_CHECKING:

        def _read(self, adata: AnnData | None, *, min_overlap: float = 0.5) -> CellReader: ...

        def _apply(self, *args: Any) -> np.ndarray: ...

    @torch.inference_mode()
    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        genes: Sequence[str] | None = None,
        min_overlap: float = 0.5,
    ) -> np.ndarray:
        """Reconstruct expression from the embedding: a denoised profile of each cell.

        With ``loss="nb"`` or ``"zinb"`` it is the log1p of expected counts per 10,000 (without the
        additional zeros), with ``"bce"`` the probability that a gene is detected.

        Parameters
        ----------
        adata
            Cells, the model's own by default. Covariates that the model was set up with must be in
            ``adata.obs``.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default.
        genes
            Names of the genes to reconstruct; all of the model by default, in the order of
            ``model.genes.names``. The result is dense: for many cells, name the genes you need.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        log1p-normalised expression, float32, shape ``(n_cells, n_genes)``. Genes that `adata` does
        not have are predicted as well.

        Raises
        ------
        KeyError
            If the model does not know a gene.
        """
        data = self._read(adata, min_overlap=min_overlap).with_covariates()
        columns = gene_columns(self.genes, genes, self.module.device)

        def reconstruct(batch: dict[str, Tensor]) -> Tensor:
            z = self.module.embed(batch)
            return self.module.generative(batch, z, genes=columns)["x_hat"]

        width = len(self.genes) if columns is None else len(columns)
        return self._apply(data, data.rows(indices), batch_size, reconstruct, width)

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
    ) -> np.ndarray:
        """Mean squared error of the reconstruction of each cell, nothing hidden.

        High values are cells unlike those the model was trained on, or of low quality. With
        ``loss="bce"`` it is the squared error of the probability of detection. With ``loss="nb"`` or
        ``"zinb"`` the reconstruction is the log1p of an expected value, which lies above the expected
        log1p: errors have this gap in them, and are to be compared with those of other cells by the same
        model, not with those of a model with another loss.

        Parameters
        ----------
        adata, indices, batch_size, min_overlap
            As in :meth:`get_reconstruction`.

        Returns
        -------
        Float32, shape ``(n_cells,)``, of log1p-normalised expression, over the genes of the model
        that `adata` has.
        """
        data = self._read(adata, min_overlap=min_overlap).with_covariates()
        present = None
        if data.alignment is not None and data.alignment.n_missing:
            present = torch.from_numpy(np.flatnonzero(data.alignment.present)).to(
                self.module.device
            )

        def error(batch: dict[str, Tensor]) -> Tensor:
            x_hat = self.module.generative(batch, self.module.embed(batch))["x_hat"]
            x = self.module._rows(batch)
            values = (x.values > 0).float() if self._arguments["loss"] == "bce" else x.values
            x_hat.view(-1).index_add_(0, x.rows * x.n_genes + x.columns, values, alpha=-1)
            if present is not None:
                x_hat = x_hat.index_select(1, present)
            return x_hat.square_().mean(dim=1)

        return self._apply(data, data.rows(indices), batch_size or 512, error, None)
