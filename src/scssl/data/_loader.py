"""Batches of cells as tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scssl._random import derive_generator
from scssl.data.keys import SEQUENCE, TARGET, partner_key, partner_obs_key
from scssl.data.matrix import INPUT_KINDS, InputKind, csr_from_parts, normalize_rows
from scssl.data.plans import balanced_order

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from scipy import sparse

    from scssl.data.genes import GeneAlignment
    from scssl.data.graphs import PartnerWalks
    from scssl.data.matrix import RowSource
    from scssl.data.plans import BatchPlan

_OWN_KEYS = ("X", "library", "indices", SEQUENCE, TARGET)

# glibc maps blocks above a threshold anew each time, and the page faults cost three times as much
# as reading a batch. Freeing one large block, never touched, raises the threshold of the process.
np.empty(31 * 2**20, dtype=np.uint8)

with warnings.catch_warnings():
    # torch says once per process that CSR support is in beta. It is all we need from it.
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    torch.sparse_csr_tensor([0], [], [], size=(0, 0), check_invariants=False)


class CellLoader:
    """Iterate over cells in batches, normalised and sparse.

    A batch is a dict of tensors with ``n`` cells: ``"X"``, sparse CSR float32 ``(n, n_genes)``,
    normalised; ``"library"``, float32 ``(n, 1)``, sum of each cell over these genes before
    normalisation; ``"indices"``, int64 ``(n,)``, row numbers in the source; and every entry of
    `obs` as ``(n, k)``, int64 for whole numbers and booleans, float32 for floats. With `counts`,
    ``"counts"`` has the values of ``"X"`` before normalisation, float32 ``(n_stored,)``. With
    `partners`, ``"partner:<view>:<walk>"`` (see :func:`partner_key`) has other cells in the same
    form as ``"X"``, one for each cell of the batch.

    The bits of a cell do not depend on the batch it is in, nor on how the source is read.

    Parameters
    ----------
    source
        Where the rows come from, see :func:`open_rows`.
    rows
        Row numbers, or a boolean mask, of the cells to iterate over; all by default.
    batch_size
        Cells per batch (per process).
    shuffle
        Draw a new order each epoch; it depends on `seed` and :meth:`set_epoch` alone.
    groups
        Group of each cell of the source, such as its data set; int64, shape ``(n_cells,)``. With
        `shuffle`, every batch then has as many cells of each group, see ``scssl.data.plans._balanced``.
    seed
        Seed of the order.
    drop_last
        Leave out the last batch where it is smaller than `batch_size`.
    alignment
        Map the genes of the source to those of a model, before anything is summed.
    input_kind
        ``"counts"`` (normalised here) or ``"lognorm"`` (passed through).
    target_sum
        Sum of each cell before the logarithm, for counts; `None`: counts are not scaled.
    obs
        Arrays of one row per cell of the source, ``(n_cells,)`` or ``(n_cells, k)``.
    counts
        Whether to give the counts as well; only where the input is counts.
    partners
        Which other cells to give with every cell. They are drawn anew in every epoch when `shuffle`
        is true, and are the same in every epoch otherwise; they depend on `seed`, epoch, `rank` and
        the number of the batch alone. Partners need not be among `rows`.
    partner_obs
        Names of the arrays of `obs` that batches have of the partners too.
    normalize
        Normalises a block of cells in place of what `input_kind` says, see
        :class:`BlockNormalizer`; ``"library"`` has the shape that it gives.
    plan
        What the batches are, in place of `batch_size`, `shuffle`, `groups` and `drop_last`: every process
        gets every `world_size`-th of them, and the first ones are repeated where they do not divide.
    rank, world_size
        Number of this process and of all. Each process gets every `world_size`-th cell of the
        order and the same number of batches; where the cells do not divide, the first ones are
        repeated (or, with `drop_last`, the last ones left out).

    Raises
    ------
    ValueError
        If an argument is out of range or an array of `obs` has another length than the source.
    TypeError
        If `rows` or an array of `obs` is not numeric.

    Examples
    --------
    >>> from scipy import sparse
    >>> from scssl.data import CellLoader, open_rows
    >>> counts = sparse.random(5, 20, density=0.5, format="csr", rng=0)
    >>> loader = CellLoader(open_rows(counts), batch_size=2, input_kind="counts")
    >>> [tuple(batch["X"].shape) for batch in loader]
    [(2, 20), (2, 20), (1, 20)]
    """

    def __init__(
        self,
        source: RowSource,
        rows: ArrayLike | None = None,
        *,
        batch_size: int,
        shuffle: bool = False,
        groups: np.ndarray | None = None,
        seed: int = 0,
        drop_last: bool = False,
        alignment: GeneAlignment | None = None,
        input_kind: InputKind,
        target_sum: float | None = 1e4,
        obs: Mapping[str, Any] | None = None,
        counts: bool = False,
        partners: PartnerWalks | None = None,
        partner_obs: Sequence[str] = (),
        normalize: Callable[[sparse.csr_matrix], tuple[sparse.csr_matrix, np.ndarray]]
        | None = None,
        plan: BatchPlan | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source, self.plan = source, plan
        self.rows = _checked_rows(rows, source.shape[0])
        self.batch_size = _positive(batch_size, "batch_size")
        self.shuffle = shuffle
        self.groups = None if groups is None else _checked_obs("groups", groups, source.shape[0])
        self.seed = seed
        self.normalize = normalize
        self.drop_last = drop_last
        self.alignment = alignment
        self.target_sum = None if target_sum is None else float(target_sum)
        self.rank, self.world_size = rank, _positive(world_size, "world_size")
        self.epoch = 0
        if input_kind not in INPUT_KINDS:
            raise ValueError(f"`input_kind` must be 'counts' or 'lognorm', found {input_kind!r}.")
        self.input_kind = input_kind
        if counts and input_kind != "counts":
            raise ValueError(f"`counts` needs counts, the input is {input_kind!r}.")
        self.counts = counts
        if partners is not None and partners.n_cells not in {None, source.shape[0]}:
            raise ValueError(
                f"The graphs of `partners` are of {partners.n_cells:,} cells, "
                f"the source has {source.shape[0]:,}."
            )
        self.partners = partners if partners is not None and partners.n_walks else None
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be in [0, {world_size}), found {rank}.")
        if target_sum is not None and not 0 < target_sum < np.inf:
            raise ValueError(
                f"`target_sum` must be a positive number or None, found {target_sum!r}."
            )
        if alignment is not None and len(alignment.columns) != source.shape[1]:
            raise ValueError(
                f"The alignment is for {len(alignment.columns):,} genes, "
                f"the source has {source.shape[1]:,}."
            )
        self._obs = {
            name: _checked_obs(name, values, source.shape[0])
            for name, values in (obs or {}).items()
        }
        self._partner_obs = {name: self._obs[name] for name in partner_obs}

    @property
    def n_cells(self) -> int:
        """Number of cells of one epoch, over all processes, without repeats."""
        return len(self.rows)

    @property
    def n_genes(self) -> int:
        """Number of genes of a batch."""
        if self.alignment is not None:
            return len(self.alignment.model_names)
        return self.source.shape[1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration.

        Parameters
        ----------
        epoch
            Number of the epoch. An iteration reads it when its first batch is asked for.
        """
        self.epoch = int(epoch)

    def __len__(self) -> int:
        if self.plan is not None:
            return -(-len(self.plan) // self.world_size)
        n_own = self._n_own()
        return n_own // self.batch_size if self.drop_last else -(-n_own // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        # A generator: nothing below runs before the first batch is asked for.
        if self.plan is not None:
            yield from self._planned(self.plan, self.epoch)
            return
        epoch, order = self.epoch, self._order()
        size = self.batch_size
        n_cells = min(len(order), len(self) * size)
        # Cells with partners are several cells to read.
        n_read = 1 if self.partners is None else 1 + self.partners.n_walks
        group = size * max(1, (self.source.rows_per_read or 0) // (size * n_read))
        for start in range(0, n_cells, group):
            rows = order[start : min(start + group, n_cells)]
            if self.partners is not None:
                yield from self._with_partners(rows, start // size, epoch)
                continue
            block = self.source.read(rows)
            if len(rows) <= size:
                yield self._batch(rows, block)
                continue
            for first in range(0, len(rows), size):
                part = slice(first, first + size)
                yield self._batch(rows[part], block[part])

    def _planned(self, plan: BatchPlan, epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of a plan, those of this process."""
        if self.world_size == 1:
            batches = plan.draw(epoch)
        else:
            drawn = list(plan.draw(epoch))
            n = len(self) * self.world_size
            batches = iter([drawn[i % len(drawn)] for i in range(self.rank, n, self.world_size)])
        for rows, extra in batches:
            batch = self._batch(rows, self.source.read(rows))
            for name, values in extra.items():
                batch[name] = torch.from_numpy(values[:, None] if values.ndim == 1 else values)
            yield batch

    def _with_partners(
        self, rows: np.ndarray, number: int, epoch: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of `rows`, the first of which has `number` in its epoch, from one read."""
        assert self.partners is not None
        batches: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        for first in range(0, len(rows), self.batch_size):
            part = rows[first : first + self.batch_size]
            # By number and not in sequence: a run that resumes draws what it would have drawn.
            names = [self.rank, number + len(batches), *([epoch] if self.shuffle else [])]
            drawn = self.partners.draw(part, derive_generator(self.seed, "partners", *names))
            batches.append((part, {partner_key(*key): found for key, found in drawn.items()}))
        # With repeats: storage that is slow to read looks for them itself, and elsewhere putting
        # rows back in place costs more than reading them twice.
        read = [np.concatenate([part, *found.values()]) for part, found in batches]
        block = self.source.read(np.concatenate(read))
        first = 0
        for (part, found), cells in zip(batches, read, strict=True):
            own = block if len(batches) == 1 else block[first : first + len(cells)]
            first += len(cells)
            yield self._batch(part, own, found)

    def _n_own(self) -> int:
        if self.drop_last:
            return len(self.rows) // self.world_size
        return -(-len(self.rows) // self.world_size)

    def _order(self) -> np.ndarray:
        """Rows of this process, in the order of this epoch."""
        rows = self.rows
        if self.shuffle:
            rng = derive_generator(self.seed, "cells", self.epoch)
            if self.groups is None:
                rows = rows[rng.permutation(len(rows))]
            else:
                rows = balanced_order(rows, self.groups[rows], rng)
        return np.resize(rows, self._n_own() * self.world_size)[self.rank :: self.world_size]

    def _batch(
        self,
        rows: np.ndarray,
        csr: sparse.csr_matrix,
        partners: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Batch of `rows` from their block, in which as many of each kind of partner follow."""
        if self.alignment is not None:
            csr = self.alignment.apply(csr)
        n = len(rows)
        n_own = int(csr.indptr[n])
        counts = torch.from_numpy(csr.data[:n_own].copy()) if self.counts else None
        if self.normalize is not None:
            csr, library = self.normalize(csr)
        else:
            csr, library = normalize_rows(
                csr, input_kind=self.input_kind, target_sum=self.target_sum
            )
        batch = {
            "X": _sparse_tensor(_rows_of(csr, 0, n) if partners else csr),
            "library": torch.from_numpy(library[:n]),
            "indices": torch.from_numpy(rows.copy()),
        }
        if counts is not None:
            batch["counts"] = counts
        for i, (key, drawn) in enumerate((partners or {}).items(), start=1):
            batch[key] = _sparse_tensor(_rows_of(csr, i * n, (i + 1) * n))
            for name, values in self._partner_obs.items():
                batch[partner_obs_key(name, key)] = torch.from_numpy(_gather_obs(values, drawn))
        for name, values in self._obs.items():
            batch[name] = torch.from_numpy(_gather_obs(values, rows))
        return batch


def _rows_of(csr: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """Rows of a block, on its memory."""
    low, high = csr.indptr[start], csr.indptr[stop]
    return csr_from_parts(
        csr.data[low:high],
        csr.indices[low:high],
        csr.indptr[start : stop + 1] - low,
        (stop - start, csr.shape[1]),
    )


def _sparse_tensor(csr: sparse.csr_matrix) -> torch.Tensor:
    """Sparse CSR tensor on the arrays of a canonical CSR matrix."""
    return torch.sparse_csr_tensor(
        torch.from_numpy(csr.indptr),
        torch.from_numpy(csr.indices),
        torch.from_numpy(csr.data),
        size=csr.shape,
        check_invariants=False,
    )


def _gather_obs(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    gathered = values[rows].astype(np.float32 if values.dtype.kind == "f" else np.int64)
    return gathered[:, None] if gathered.ndim == 1 else gathered


def _checked_rows(rows: ArrayLike | None, n_cells: int) -> np.ndarray:
    if rows is None:
        return np.arange(n_cells)
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n_cells,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(
            f"`rows` must be row numbers or a boolean mask of all {n_cells:,} cells, "
            f"found {rows.dtype} of shape {rows.shape}."
        )
    if rows.size and not (rows.min() >= 0 and rows.max() < n_cells):
        raise ValueError(
            f"`rows` must be in [0, {n_cells:,}), found {rows.min():,} to {rows.max():,}."
        )
    return rows.astype(np.int64)


def _checked_obs(name: str, values: Any, n_cells: int) -> np.ndarray:
    if name in _OWN_KEYS or name.startswith("partner:"):
        raise ValueError(f"`obs` must not use the name {name!r}, which the batch has itself.")
    values = np.asarray(values)
    if values.dtype.kind not in "biuf" or values.ndim not in {1, 2}:
        raise TypeError(
            f"obs[{name!r}] must be a numeric 1-D or 2-D array, found {values.ndim}-D {values.dtype}."
        )
    if len(values) != n_cells:
        raise ValueError(f"obs[{name!r}] has {len(values):,} rows, the source {n_cells:,}.")
    return values


def _positive(value: Any, name: str) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, found {value!r}.")
    return int(value)
