"""Batches of cells as tensors."""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scssl._checks import check_choice, check_number
from scssl.data.keys import (
    COUNTS,
    INDICES,
    LIBRARY,
    PLACES,
    SEQUENCE,
    TARGET,
    X,
    partner_key,
    partner_obs_key,
)
from scssl.data.matrix import INPUT_KINDS, InputKind, normalize_rows, rows_of

if TYPE_CHECKING:
    from scipy import sparse

    from scssl.data.genes import GeneAlignment
    from scssl.data.graphs import PartnerWalks
    from scssl.data.matrix import RowSource
    from scssl.data.plans import BatchPlan

_OWN_KEYS = (X, LIBRARY, INDICES, PLACES, SEQUENCE, TARGET)

# glibc maps blocks above a threshold anew each time, and the page faults cost three times as much
# as reading a batch. Freeing one large block, never touched, raises the threshold of the process.
np.empty(31 * 2**20, dtype=np.uint8)

with warnings.catch_warnings():
    # torch says once per process that CSR support is in beta. It is all we need from it.
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    torch.sparse_csr_tensor([0], [], [], size=(0, 0), check_invariants=False)


class CellLoader:
    """Read the batches of a plan, normalised and sparse.

    A batch is a dict of tensors with ``n`` cells: ``"X"``, sparse CSR float32 ``(n, n_genes)``,
    normalised; ``"library"``, float32 ``(n, 1)``, sum of each cell over these genes before
    normalisation; ``"indices"``, int64 ``(n,)``, row numbers in the source; and every entry of
    `obs`, and every array that the plan gives, as ``(n, k)``, of `obs` int64 for whole numbers and booleans,
    float32 for floats. With `counts`, ``"counts"`` has the values of ``"X"`` before normalisation,
    float32 ``(n_stored,)``. With `partners`, ``"partner:<view>:<walk>"`` (see :func:`partner_key`) has
    other cells in the same form as ``"X"``, one for each cell of the batch.

    The bits of a cell do not depend on the batch it is in, nor on how the source is read.

    Parameters
    ----------
    source
        Where the rows come from, see :func:`open_rows`.
    plan
        Which cells each batch has: a :class:`ShuffledPlan`, a :class:`SequentialPlan`, or any other
        :class:`BatchPlan`.
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
        Which other cells to give with every cell. They are drawn anew in every epoch in which the plan
        gives other batches, and are the same in every epoch otherwise; they depend on the seed of the plan,
        the epoch and the number of the batch alone. Partners need not be among the cells of the plan.
    partner_obs
        Names of the arrays of `obs` that batches have of the partners too.
    normalize
        Normalises a block of cells in place of what `input_kind` says, see
        :class:`BlockNormalizer`; ``"library"`` has the shape that it gives.

    Raises
    ------
    ValueError
        If an argument is out of range, or the plan, the alignment, the partners or an array of `obs` are of
        other cells or genes than the source.
    TypeError
        If an array of `obs` is not numeric.

    Examples
    --------
    >>> from scipy import sparse
    >>> from scssl.data import CellLoader, SequentialPlan, open_rows
    >>> counts = sparse.random(5, 20, density=0.5, format="csr", rng=0)
    >>> loader = CellLoader(open_rows(counts), SequentialPlan(5, 2), input_kind="counts")
    >>> [tuple(batch["X"].shape) for batch in loader]
    [(2, 20), (2, 20), (1, 20)]
    """

    def __init__(
        self,
        source: RowSource,
        plan: BatchPlan,
        *,
        alignment: GeneAlignment | None = None,
        input_kind: InputKind,
        target_sum: float | None = 1e4,
        obs: Mapping[str, Any] | None = None,
        counts: bool = False,
        partners: PartnerWalks | None = None,
        partner_obs: Sequence[str] = (),
        normalize: Callable[[sparse.csr_matrix], tuple[sparse.csr_matrix, np.ndarray]]
        | None = None,
    ) -> None:
        n_cells, n_genes = source.shape
        rows = plan.rows
        if rows.size and not (rows.min() >= 0 and rows.max() < n_cells):
            raise ValueError(
                f"`rows` of the plan must be in [0, {n_cells:,}), found {rows.min():,} to "
                f"{rows.max():,}."
            )
        if alignment is not None and len(alignment.columns) != n_genes:
            raise ValueError(
                f"The alignment is for {len(alignment.columns):,} genes, the source has {n_genes:,}."
            )
        if partners is not None and partners.n_cells not in {None, n_cells}:
            raise ValueError(
                f"The graphs of `partners` are of {partners.n_cells:,} cells, the source has {n_cells:,}."
            )
        if counts and input_kind != "counts":
            raise ValueError(f"`counts` needs counts, the input is {input_kind!r}.")
        self.source, self.plan, self.alignment, self.counts = source, plan, alignment, counts
        self.input_kind = check_choice("input_kind", input_kind, INPUT_KINDS)
        self.target_sum = check_number("target_sum", target_sum, "(0, inf)", none=True)
        self.normalize = normalize
        self.partners = partners if partners is not None and partners.n_walks else None
        self.epoch = self._first = 0
        self._obs = {
            name: _checked_obs(name, values, n_cells) for name, values in (obs or {}).items()
        }
        self._partner_obs = {name: self._obs[name] for name in partner_obs}

    @property
    def n_cells(self) -> int:
        """Number of cells of one epoch, over all processes, without repeats."""
        return len(self.plan.rows)

    @property
    def n_genes(self) -> int:
        """Number of genes of a batch."""
        if self.alignment is not None:
            return len(self.alignment.model_names)
        return self.source.shape[1]

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch of the next iteration.

        Parameters
        ----------
        epoch
            Its number. An iteration reads it when its first batch is asked for.
        first
            Number of the batch that this iteration begins with, for a run that goes on within the epoch. Those
            after it begin with the first one.
        """
        self.epoch, self._first = int(epoch), int(first)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return self.batches()

    def batches(self, first: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of the epoch, or those that are left of it.

        Parameters
        ----------
        first
            Number of the first one; by default that of :meth:`set_epoch`.
        """
        batches = self._batches(first)
        return _ahead(batches) if self.source.reads_ahead else batches

    def _batches(self, first: int | None) -> Iterator[dict[str, torch.Tensor]]:
        # A generator: nothing below runs before the first batch is asked for.
        if first is None:
            first, self._first = self._first, 0
        waiting: list[_Wanted] = []
        for wanted in self._wanted(self.epoch, first):
            # Several batches in one read where the source is slow to read single ones.
            n_rows = sum(len(one.read) for one in (*waiting, wanted))
            if waiting and n_rows > (self.source.rows_per_read or 0):
                yield from self._read(waiting)
                waiting = []
            waiting.append(wanted)
        if waiting:
            yield from self._read(waiting)

    def _wanted(self, epoch: int, first: int) -> Iterator[_Wanted]:
        plan = self.plan
        if self.partners is None:
            for rows, extra in plan.batches(epoch, first):
                yield _Wanted(rows, extra, {})
            return
        both = zip(islice(plan.draw(epoch), first, None), plan.batches(epoch, first), strict=True)
        for number, ((every, _), (rows, extra)) in enumerate(both, first):
            # For the cells of all processes, of which each reads those of its own.
            drawn = self.partners.draw(every, plan.generator("partners", number, epoch))
            own = extra.get(PLACES, slice(None))
            partners = {partner_key(*key): found[own] for key, found in drawn.items()}
            yield _Wanted(rows, extra, partners)

    def _read(self, batches: list[_Wanted]) -> Iterator[dict[str, torch.Tensor]]:
        # With repeats: storage that is slow to read looks for them itself, and elsewhere putting
        # rows back in place costs more than reading them twice.
        block = self.source.read(np.concatenate([wanted.read for wanted in batches]))
        start = 0
        for wanted in batches:
            stop = start + len(wanted.read)
            # On the memory of the block: no row of it is in two batches.
            yield self._batch(wanted, block if len(batches) == 1 else rows_of(block, start, stop))
            start = stop

    def _batch(self, wanted: _Wanted, csr: sparse.csr_matrix) -> dict[str, torch.Tensor]:
        """Batch from the block of its cells, in which as many of each kind of partner follow."""
        if self.alignment is not None:
            csr = self.alignment.apply(csr)
        rows, partners = wanted.rows, wanted.partners
        n = len(rows)
        counts = torch.from_numpy(csr.data[: csr.indptr[n]].copy()) if self.counts else None
        if self.normalize is not None:
            csr, library = self.normalize(csr)
        else:
            csr, library = normalize_rows(
                csr, input_kind=self.input_kind, target_sum=self.target_sum
            )
        batch = {
            X: _sparse_tensor(rows_of(csr, 0, n) if partners else csr),
            LIBRARY: torch.from_numpy(library[:n]),
            INDICES: torch.from_numpy(rows.copy()),
        }
        if counts is not None:
            batch[COUNTS] = counts
        for i, (key, drawn) in enumerate(partners.items(), start=1):
            batch[key] = _sparse_tensor(rows_of(csr, i * n, (i + 1) * n))
            for name, values in self._partner_obs.items():
                batch[partner_obs_key(name, key)] = torch.from_numpy(_gather_obs(values, drawn))
        for name, values in self._obs.items():
            batch[name] = torch.from_numpy(_gather_obs(values, rows))
        for name, values in wanted.extra.items():
            batch[name] = torch.from_numpy(values[:, None] if values.ndim == 1 else values)
        return batch


def _ahead[T](made: Iterator[T], n: int = 4) -> Iterator[T]:
    """The same, up to `n` of them made in another thread while one is worked on."""
    ready: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(n)
    stopped = threading.Event()

    def work() -> None:
        try:
            for one in made:
                ready.put(([one], None))
                if stopped.is_set():
                    return
            ready.put(([], None))
        except BaseException as error:  # noqa: BLE001 - raised where the next one is asked for
            ready.put(([], error))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            found, error = ready.get()
            if error is not None:
                raise error
            if not found:
                return
            yield found[0]
    finally:
        stopped.set()
        while worker.is_alive():
            # It may be waiting for room.
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.01)


@dataclass(frozen=True)
class _Wanted:
    """Cells of a batch, what the plan says of them, and the partners that were drawn for them."""

    rows: np.ndarray
    extra: Mapping[str, np.ndarray]
    partners: dict[str, np.ndarray]

    @cached_property
    def read(self) -> np.ndarray:
        """All rows to read, the cells first."""
        return np.concatenate([self.rows, *self.partners.values()])


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
