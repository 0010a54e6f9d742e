"""Cells in a dask array, embedded where their blocks are."""

from __future__ import annotations

import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scssl._checks import check_adata, check_whole, get_column
from scssl._errors import BundleError
from scssl._io import check_place
from scssl.data.matrix import open_chunks

from ._model import SSLModel
from ._setup import matrix_of

_LOADING = threading.Lock()
#: Folders of models that were saved nowhere else, by digest of the encoder; they are gone with the process.
_SAVED: dict[str, tempfile.TemporaryDirectory[str]] = {}


class DaskMixin(SSLModel):
    """Embed the blocks of a dask array, on the cluster that there is."""

    def embed_dask(
        self,
        adata: AnnData,
        *,
        folder: str | Path | None = None,
        batch_size: int | None = None,
        min_overlap: float = 0.5,
    ) -> Any:
        """Embed cells that were read lazily, each block where dask computes it.

        Nothing is read before the result is asked for. It is computed on the threads of this process, or on the
        cluster of which there is a ``distributed.Client``; each worker loads the model once. Numbers are those
        of :meth:`get_latent_representation`, to the bit. Values are checked block by block.

        Parameters
        ----------
        adata
            Cells of which the matrix is a dask array, as of :func:`anndata.experimental.read_lazy`.
        folder
            Folder of the model, which all workers see; the model is saved there if it is not there yet. By
            default a temporary one, for workers on this machine.
        batch_size
            Cells to calculate at a time, 2,048 by default. It makes no difference to the result.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        :class:`dask.array.Array`
            Float32, shape ``(n_cells, n_latent)``, with the blocks of cells of `adata`. Its ``compute()`` gives the
            embedding, its ``to_zarr`` writes it piece by piece.

        Raises
        ------
        GeneMismatchError
            If too few genes are found.
        KeyError
            If the encoder is told columns that `adata` does not have.
        TypeError
            If the matrix is no dask array.
        ValueError
            If `folder` holds another model; when the result is computed, if values are not of the kind that the
            model was trained on.

        Examples
        --------
        >>> import anndata
        >>> adata = anndata.experimental.read_lazy("cells.zarr")  # doctest: +SKIP
        >>> model.embed_dask(adata).to_zarr("embedding.zarr")  # doctest: +SKIP
        """
        check_adata(adata, matrix=True)
        chunks = open_chunks(matrix_of(adata, self.setup.layer), where=self.setup.where)
        if chunks is None:
            raise TypeError(f"{self.setup.where} is no dask array. " + _how_to_embed(adata))
        check_whole("batch_size", 2048 if batch_size is None else batch_size)
        self.genes.align(adata.var_names, min_overlap=min_overlap, var=adata.var)
        columns = self._columns_to_embed(adata)
        self._warn_if_untrained()
        from dask import array, delayed

        encoder = self.encoder_hash
        place = str(self._folder_of_workers(folder, encoder))
        given = {"batch_size": batch_size, "min_overlap": min_overlap}
        # A task of its own: the names are sent to a worker once.
        genes = delayed(adata.var_names)
        embed = delayed(_embed_block, pure=True)
        blocks = [
            array.from_delayed(
                embed(
                    (place, encoder),
                    list(parts),
                    (first, last),
                    genes,
                    columns[first:last],
                    self.setup.layer,
                    given,
                ),
                (last - first, self.n_latent),
                np.float32,
            )
            for parts, first, last in zip(
                chunks.array.to_delayed(),
                chunks.rows[:-1].tolist(),
                chunks.rows[1:].tolist(),
                strict=True,
            )
        ]
        return array.concatenate(blocks)

    def _columns_to_embed(self, adata: AnnData) -> pd.DataFrame:
        """What the encoder is told of the cells beside expression."""
        found = pd.DataFrame(index=pd.RangeIndex(adata.n_obs))
        if self.module.encodes_covariates:
            setup = self.setup
            for key in setup.covariate_keys():
                # Refused now, and not by a worker.
                setup.codes(adata, key)
            for key in (*setup.covariate_keys(), *setup.continuous_keys):
                found[key] = get_column(adata, key).to_numpy()
        return found

    def _folder_of_workers(self, folder: str | Path | None, encoder: str) -> Path:
        """Folder that holds this model, for workers to load it from."""
        if folder is None:
            if encoder not in _SAVED:
                _SAVED[encoder] = tempfile.TemporaryDirectory(prefix="scssl-")
            place = Path(_SAVED[encoder].name).resolve() / "model"
        else:
            place = check_place(folder, "folder", folder=True).resolve()
        if not place.exists():
            self.save(place)
        elif (found := SSLModel.load(place).encoder_hash) != encoder:
            raise ValueError(
                f"{folder} holds another model, with encoder {found[:8]} and not {encoder[:8]}. Give another "
                f"place: `folder={str(folder) + '_2'!r}`"
            )
        return place


def _how_to_embed(adata: AnnData) -> str:
    if adata.isbacked:
        return f"Read it lazily: `adata = anndata.experimental.read_lazy({str(adata.filename)!r})`"
    return "Embed cells in memory at once: `model.get_latent_representation(adata)`"


@lru_cache(maxsize=1)
def _loaded(folder: str, encoder: str) -> SSLModel:
    if not Path(folder).is_dir():
        raise BundleError(
            f"A worker of dask does not see {folder}. Call embed_dask with a `folder` on a disk that all have."
        )
    model = SSLModel.load(folder)
    if model.encoder_hash != encoder:
        raise BundleError(f"The model in {folder} was replaced. Call embed_dask again.")
    return model


def _embed_block(
    of_model: tuple[str, str],
    parts: list[Any],
    rows: tuple[int, int],
    genes: pd.Index,
    columns: pd.DataFrame,
    layer: str | None,
    given: dict[str, Any],
) -> np.ndarray:
    """What a worker does: cells of one block, in parts with some of the genes each."""
    with _LOADING:
        model = _loaded(*of_model)
    values = parts[0]
    if len(parts) > 1:
        values = sparse.hstack(parts, "csr") if sparse.issparse(values) else np.hstack(parts)
    # Cells are called by their rows in messages: names may not be in memory.
    names = pd.Index(range(*rows)).astype(str)
    cells = AnnData(
        values if layer is None else None,
        obs=columns.set_axis(names),
        var=pd.DataFrame(index=genes),
        layers=None if layer is None else {layer: values},
    )
    return model.get_latent_representation(cells, **given)
