"""The cells of an AnnData as a model wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
from anndata import AnnData
from scipy import sparse

from scssl.data import (
    BalancedPlan,
    BatchPlan,
    BlockNormalizer,
    CellContext,
    CellLoader,
    PartnerWalks,
    RowSource,
    SequentialPlan,
    ShuffledPlan,
    open_rows,
)
from scssl.data.keys import CONTINUOUS, POSITION, PRESENT, category_key

from ._setup import DataSetup


class CellReader:
    """The cells of one AnnData as a model wants them."""

    def __init__(self, setup: DataSetup, adata: AnnData, matrix: Any, alignment: Any) -> None:
        self.setup, self.adata, self.alignment = setup, adata, alignment
        self.n_cells = adata.n_obs
        self._source: RowSource = (
            matrix if isinstance(matrix, RowSource) else open_rows(matrix, where=setup.where)
        )
        #: How cells with several modalities are normalised.
        self.normalize: BlockNormalizer | None = None
        self.obs: dict[str, np.ndarray] = {}
        #: Whether batches have the counts beside the normalised values.
        self.counts = False
        #: Graphs to draw other cells from, which batches then have beside the cells.
        self.partners: PartnerWalks | None = None
        #: Group of each cell, of which every batch in training has as many.
        self.groups: np.ndarray | None = None
        #: Which cells see each other, where they do.
        self.context: CellContext | None = None
        #: Whether cells that are not learnt from are seen by those that are.
        self.fills_context = False
        #: Label of each cell, where those of few cells are to come as often as others in training.
        self.balance: np.ndarray | None = None
        #: Which genes each panel has, boolean, where cells differ in what was measured.
        self.measured: np.ndarray | None = None
        self.fingerprint: dict[str, Any] = {}

    @property
    def source(self) -> RowSource:
        """The rows, with the genes of the data."""
        return self._source

    def with_covariates(self) -> Self:
        """Read the columns too that a decoder is told."""
        for key in self.setup.covariate_keys():
            self.obs[category_key(key)] = self.setup.codes(self.adata, key)
        if self.setup.continuous_keys:
            self.obs[CONTINUOUS] = self.setup.continuous(self.adata)
        return self

    def read(self, rows: np.ndarray, n_cells: int = 4096) -> Iterator[sparse.csr_matrix]:
        """Values of these cells as they are stored, in the model's order of features."""
        for start in range(0, len(rows), n_cells):
            block = self._source.read(rows[start : start + n_cells])
            yield block if self.alignment is None else self.alignment.apply(block)

    def restrict_partners(self, rows: np.ndarray) -> None:
        """Let only these cells be drawn as partners of others."""
        if self.partners is not None:
            tables = {name: table.restrict(rows) for name, table in self.partners.tables.items()}
            self.partners = PartnerWalks(tables, self.partners.walks)

    def loader(
        self,
        rows: np.ndarray,
        batch_size: int,
        *,
        role: Literal["training", "validation", "embedding"] = "embedding",
        seed: int = 0,
    ) -> CellLoader:
        """Batches of these cells; in training in an order of `seed` that is another in each epoch.

        Where cells see each other, those to embed (ascending, each once) come with all that they see.
        """
        obs = self.obs
        if self.context is not None and self.context.positions is not None:
            obs = {**obs, POSITION: self.context.positions}
        return CellLoader(
            self._source,
            self._plan(rows, batch_size, role, seed),
            alignment=self.alignment,
            input_kind=self.setup.input_kind,
            target_sum=self.setup.target_sum,
            obs=obs,
            counts=self.counts,
            partners=self.partners,
            partner_obs=tuple({PRESENT} & set(self.obs)),
            normalize=self.normalize,
        )

    def _plan(self, rows: np.ndarray, batch_size: int, role: str, seed: int) -> BatchPlan:
        context, everything = self.context, np.arange(self.n_cells)
        if context is not None:
            if role == "embedding":
                return context.embedding(rows)
            if role == "validation":
                return context.validation(rows, batch_size, seed=seed, fill=everything)
            fill = everything if self.fills_context else None
            return context.training(rows, batch_size, seed=seed, fill=fill, labels=self.balance)
        if role != "training":
            return SequentialPlan(rows, batch_size, seed=seed)
        if self.groups is None:
            return ShuffledPlan(rows, batch_size, seed=seed)
        return BalancedPlan(rows, batch_size, self.groups, seed=seed)

    def rows(self, indices: Any) -> np.ndarray:
        """Row numbers of `indices`: numbers, a mask or cell names."""
        if indices is None:
            return np.arange(self.n_cells)
        indices = np.asarray(indices)
        if not indices.size:
            return np.zeros(0, dtype=np.int64)
        if indices.ndim != 1:
            raise ValueError(
                f"`indices` must be a list of cells, found an array of shape {indices.shape}."
            )
        if indices.dtype.kind == "b":
            if indices.shape != (self.n_cells,):
                raise ValueError(
                    f"A mask needs one value per cell ({self.n_cells:,}), found {indices.shape}."
                )
            return np.flatnonzero(indices)
        if indices.dtype.kind in "OUST":
            if not self.adata.obs_names.is_unique:
                raise ValueError(
                    "Cell names are not unique: pass row numbers, or adata.obs_names_make_unique()"
                )
            found = self.adata.obs_names.get_indexer(indices.astype(str))
            if (found < 0).any():
                absent = indices[found < 0]
                raise KeyError(
                    f"{len(absent)} names are not in adata.obs_names, such as {str(absent[0])!r}."
                )
            return found
        if indices.dtype.kind not in "iu":
            raise TypeError(
                f"`indices` must be row numbers, a mask or names, found {indices.dtype}."
            )
        if indices.min() < -self.n_cells or indices.max() >= self.n_cells:
            worst = indices.max() if indices.max() >= self.n_cells else indices.min()
            raise IndexError(f"`indices` has {worst}, but `adata` has {self.n_cells:,} cells.")
        return np.where(indices < 0, indices + self.n_cells, indices)


def check_unchanged(
    now: Mapping[str, Any], recorded: Mapping[str, Any] | None, called: tuple[str, str]
) -> None:
    """Refuse data that are not as they were recorded; `called` is their name and how they are set up."""
    changed = [
        name
        for name, value in now.items()
        # Models saved by earlier versions know less of their data.
        if recorded is not None
        and name in recorded
        and value != recorded[name]
        # Sums depend a little on how a matrix is stored.
        and not (isinstance(value, float) and np.isclose(value, recorded[name], rtol=1e-4))
    ]
    if recorded is not None and changed:
        what = "; ".join(f"{name}: {recorded[name]} then, {now[name]} now" for name in changed)
        data, how = called
        raise ValueError(
            f"`{data}` has changed since {how} ({what}). Set it up again and make a new "
            "model, or pass the changed data as adata=... to embed it."
        )
