"""Models that are trained on a store, from disk, and embed one piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from scssl._checks import check_key, check_whole, some
from scssl._errors import warn
from scssl._io import check_place
from scssl.data import (
    BalancedChunkPlan,
    BatchPlan,
    ChunkPlan,
    ContextOptions,
    OneGroupChunkPlan,
    RowSpans,
    RunContext,
    Scale,
    hold_out,
)
from scssl.data.matrix import even_ranges, usual_target_sum
from scssl.data.store import HANDLE, EmbeddingFolder, Store

from ._dask import DaskMixin
from ._model import SETUP
from ._setup import CellReader, DataSetup
from ._setup_method import SetupArgument, setup_method

# Above, a validation loss is exact enough, and validating takes longer than it tells.
_MOST_HELD_OUT = 50_000
#: The argument of :meth:`StoresMixin.setup_store` of models whose cells see those of their sample.
STORE_SAMPLES = {
    "sample_key": SetupArgument(
        "Column of the store with the sample of each cell, by which it was laid out (``group_key`` of "
        ":func:`scssl.data.build_store`). Without it all cells are one sample.",
        str | None,
    )
}


class StoresMixin(DaskMixin):
    """Set up a store, train on it and embed it; nothing of it is kept in memory for each cell."""

    def __init__(self, adata: Any = None, registry: dict[str, Any] | None = None) -> None:
        if isinstance(adata, Store):
            self._collection, adata = adata, adata.handle
        super().__init__(adata, registry)

    #: Arguments of :meth:`setup_store` that not all models take, or that mean something else to this one.
    _store_takes: ClassVar[Mapping[str, SetupArgument]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        base: Any = StoresMixin.setup_store
        own: Any = setup_method(base, cls._store_takes)
        cls.setup_store = own  # type: ignore[method-assign]

    @property
    def _store(self) -> Store | None:
        return self._collection if isinstance(self._collection, Store) else None

    @classmethod
    def _called(cls, data: Any) -> tuple[str, str]:
        of_store = isinstance(data, Store) or HANDLE in getattr(data, "uns", ())
        return ("store", "setup_store") if of_store else super()._called(data)

    @classmethod
    def setup_store(
        cls,
        store: Store,
        *,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        target_sum: float | Literal["auto"] | None = "auto",
        **kwargs: Any,
    ) -> None:
        """Say where things are in a store; what its values are was found when it was built.

        The model is made and trained as on an AnnData, with ``Model(store)`` and ``train()``, and its cells
        are read from disk while it is. Cells that are held out are runs of neighbours of every shard, 50,000
        at most, and not stratified, as the order of a store is random.

        Parameters
        ----------
        store
            What :func:`scssl.data.build_store` built, see :class:`scssl.data.Store`.
        batch_key
            Column of the store with the batch, as of :meth:`setup_anndata`.
        labels_key
            Column with cell types. Never used as a target in self-supervised training.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns that the decoder is told.
        target_sum
            Sum of a cell before the logarithm, as of :meth:`setup_anndata`; for ``"auto"`` the mean of the cells
            stands for the median.

        Raises
        ------
        KeyError
            If a column does not exist.
        TypeError
            If `store` is no Store.
        ValueError
            If a column has missing values, or is of another kind than what it is used for.

        Examples
        --------
        >>> import scssl
        >>> store = scssl.data.Store("atlas")  # doctest: +SKIP
        >>> scssl.model.MaskedAutoencoder.setup_store(store)  # doctest: +SKIP
        >>> model = scssl.model.MaskedAutoencoder(store)  # doctest: +SKIP
        >>> model.train()  # doctest: +SKIP
        >>> model.embed_store(store, "embedding")  # doctest: +SKIP
        """
        given = {k: v for k, v in locals().items() if k not in ("cls", "store", "kwargs")}
        _check_store(store)
        given = cls._checked_setup(store, {"layer": None, "input": "counts", **given, **kwargs})
        if store.group_key is not None and "sample_key" not in cls._store_takes:
            columns = [key for key in store.columns if key not in ("dataset", "input", "row")]
            warn(
                f"Cells of the store are next to others of the same {store.group_key!r}, and {cls.__name__} "
                "learns from batches of runs of neighbours: build it in random order. "
                f"`store = scssl.data.build_store(inputs, out, obs_keys={columns})`"
            )
        target_sum = given["target_sum"]
        if target_sum == "auto":
            found = store.statistics
            filled = store.n_cells - found["empty cells"]
            typical = found["sum of all"] / max(filled, 1)
            target_sum = usual_target_sum(len(store.genes), typical)
        categorical, continuous = (
            tuple(given.get(f"{kind}_covariate_keys") or ())
            for kind in ("categorical", "continuous")
        )
        told = [*categorical, *([] if batch_key is None else [batch_key])]
        named = [*told, *([] if labels_key is None else [labels_key])]
        setup = DataSetup(
            None,
            "counts",
            target_sum,
            batch_key,
            labels_key,
            categorical,
            continuous,
            {key: store.categories(key) for key in named},
            sample_key=given.get("sample_key"),
            scale=asdict(Scale("counts", certain=True)),
            continuous_scale={key: _scale(store, key, continuous) for key in continuous},
        )
        for key in told:
            _refuse_missing(store, key, store.column(key) < 0)
        recorded = cls._also_recorded(store, setup, given)
        found = _fingerprint(store) | recorded.pop("fingerprint", {})
        manager = cls._manager(**given)
        cls._register_features(manager, store.handle, store.genes.names)
        features = manager.registry["field_registries"]["X"]["summary_stats"]
        features["n_cells"] = store.n_cells
        manager.registry[SETUP] = {"setup": setup.to_dict(), "fingerprint": found, **recorded}
        cls.register_manager(manager)

    def _read_collection(self, data: Any, *, own: bool, min_overlap: float) -> CellReader | None:
        if not isinstance(data, Store):
            return super()._read_collection(data, own=own, min_overlap=min_overlap)
        if self.setup.input_kind != "counts" or self.setup.modalities:
            kind = "several modalities" if self.setup.modalities else "log-normalised values"
            raise ValueError(f"The model reads {kind}, and a store holds counts of genes.")
        alignment = self.genes.align(data.genes.names, min_overlap=min_overlap)
        reader = _StoreReader(self.setup, data, None if alignment.is_identity else alignment)
        # Opened anew: what is on disk may be another one by now.
        reader.fingerprint = _fingerprint(Store(data.path))
        self._also_read(reader, data)
        return reader

    def attach(self, adata: Any) -> None:
        """Make data the model's own, to embed them or to go on training.

        Parameters
        ----------
        adata
            An AnnData, or a :class:`scssl.data.Store`, with the genes that the model was set up with.
        """
        if not isinstance(adata, Store):
            super().attach(adata)
            return
        reader = self._read(adata)
        self._adata, self._collection = adata.handle, adata
        self.registry_[SETUP]["fingerprint"] = reader.fingerprint

    def _divided(self, data: CellReader, train_size: float | None, seed: int) -> Any:
        if not isinstance(data, _StoreReader):
            return super()._divided(data, train_size, seed)
        if data.held_out is not None:
            rows, asked = (
                RowSpans.of(np.flatnonzero(one)) for one in (~data.held_out, data.held_out)
            )
            # In the order of a store the first are as good as any, but where it is laid out by sample.
            few = asked.part(0, min(len(asked), _MOST_HELD_OUT))
            if data.context is not None:
                _, few = hold_out(asked.spans, train_size=0.0, most=_MOST_HELD_OUT, seed=seed)
            return rows, few, len(rows) / data.n_cells
        train_size = self._default_train_size(None) if train_size is None else train_size
        runs = (
            data.context.runs.spans if isinstance(data.context, RunContext) else data.store.shards
        )
        parts = hold_out(runs, train_size=train_size, most=_MOST_HELD_OUT, seed=seed)
        return *parts, train_size

    @torch.inference_mode()
    def embed_store(
        self,
        store: Store,
        out: str | Path,
        part: tuple[int, int] = (0, 1),
        *,
        batch_size: int | None = None,
        key_added: str = "X_ssl",
        min_overlap: float = 0.5,
    ) -> None:
        """Embed the cells of a store, a shard at a time, into a folder.

        Each shard becomes a file, which is there as a whole or not at all. Files that are there are left as
        they are: a call that was interrupted goes on where it was, and several processes or machines fill
        one folder, each a part. :func:`scssl.data.read_embedding` reads it.

        Parameters
        ----------
        store
            The cells.
        out
            Folder to write to.
        part
            Which shards to embed, ``(i, n)``: every `n`-th from number `i` on, of 0 to ``n - 1``; all by
            default.
        batch_size
            Cells to read at a time, 2,048 by default. It makes no difference to the result.
        key_added
            Entry of ``obsm`` for the embedding.
        min_overlap
            Share of the model's genes that the store must have.

        Raises
        ------
        GeneMismatchError
            If too few genes are found.
        ValueError
            If `out` holds the embedding of another store or model, or there is no such part.

        Examples
        --------
        >>> model.embed_store(store, "embedding", part=(0, 8))  # doctest: +SKIP
        """
        _check_store(store)
        check_key(key_added, "key_added")
        number, n_parts = _part(part)
        folder = EmbeddingFolder(check_place(out, "out", folder=True))
        data = self._read(store, min_overlap=min_overlap)
        if self.module.encodes_covariates:
            data = data.with_covariates()
        self._warn_if_untrained()
        folder.start(
            {
                "store": store.digest,
                "model": self.encoder_hash,
                "class": type(self).__name__,
                "key": key_added,
                "n_shards": len(store.shards),
            }
        )
        for shard in range(number, len(store.shards), n_parts):
            if not folder.has(shard):
                rows = np.arange(*store.shards[shard])
                z = self._apply(data, rows, batch_size, self.module.embed, self.n_latent)
                folder.write(shard, store.cells(shard), {key_added: z})


class _StoreReader(CellReader):
    """The cells of a store as a model wants them."""

    def __init__(self, setup: DataSetup, store: Store, alignment: Any) -> None:
        super().__init__(setup, store.handle, store.rows, alignment)
        self.store, self.n_cells = store, store.n_cells

    def name_of(self, row: int) -> str:
        where = self.store.obs(slice(row, row + 1), ["input", "row"]).iloc[0]
        return f"{where['row']} of input {where['input']}"

    def codes(self, key: str) -> np.ndarray:
        codes = self.store.column(key)
        known, there = self.setup.categories[key], self.store.categories(key)
        if known == there:
            return codes
        places = {name: code for code, name in enumerate(known)}
        if new := [name for name in there if name not in places]:
            raise ValueError(
                f"Column {key!r} of the store has {len(new)} categories that the model was not trained with: "
                f"{some(new)}. It knows {some(known)}."
            )
        return np.array([places[name] for name in there])[codes]

    def continuous(self) -> np.ndarray:
        columns = [
            (self.store.column(key) - mean) / spread
            for key, (mean, spread) in self.setup.continuous_scale.items()
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def _plan(self, rows: Any, batch_size: int, role: str, seed: int) -> BatchPlan:
        rows = rows if role == "training" or self.context is not None else np.asarray(rows)
        return super()._plan(rows, batch_size, role, seed)

    _plans = (ChunkPlan, BalancedChunkPlan, OneGroupChunkPlan)

    def groups_of(self, key: str) -> tuple[np.ndarray, list[str]]:
        names, codes = self.store.categories(key), self.store.column(key)
        _refuse_missing(self.store, key, codes < 0)
        return codes, names


def samples_of(store: Store, key: str | None, options: ContextOptions) -> RunContext:
    """Which cells of a store see each other, or an error unless those of a sample are next to one another."""
    if key is None:
        return RunContext([(0, store.n_cells)], [0], options)
    store.categories(key)
    if key != store.group_key:
        columns = [one for one in store.columns if one not in ("input", "dataset", "row")]
        raise ValueError(
            f"Cells see those of their sample, {key!r}, and these are next to one another in a store that was "
            f"built by it alone. Build one: `store = scssl.data.build_store(inputs, out, obs_keys={columns}, "
            f"group_key={key!r})`"
        )
    codes = store.column(key)
    _refuse_missing(store, key, codes < 0)
    breaks = [
        start + 1 + np.flatnonzero(np.diff(codes[start : stop + 1]))
        for start, stop in even_ranges(store.n_cells, 2**20)
    ]
    starts = np.concatenate(([0], *breaks)).astype(np.int64)
    runs = np.column_stack([starts, np.append(starts[1:], store.n_cells)])
    return RunContext(runs, codes[starts], options)


def _check_store(store: Any) -> None:
    if not isinstance(store, Store):
        path = repr(str(store)) if isinstance(store, (str, Path)) else "FOLDER"
        raise TypeError(
            f"`store` must be a scssl.data.Store, found {type(store).__name__}. Open it: "
            f"`store = scssl.data.Store({path})`"
        )


def _fingerprint(store: Store) -> dict[str, Any]:
    return {"cells": store.n_cells, "genes": len(store.genes), "store": store.digest}


def _scale(store: Store, key: str, named: Sequence[str]) -> tuple[float, float]:
    """Mean and standard deviation of a column of numbers, one of those that a user named."""
    values = store.column(key)
    if values.dtype.kind != "f":
        rest = [one for one in named if one != key]
        raise ValueError(
            f"Column {key!r} of the store holds categories, and a continuous covariate needs numbers. Pass "
            f"`continuous_covariate_keys={rest}, categorical_covariate_keys=[{key!r}]`"
        )
    _refuse_missing(store, key, ~np.isfinite(values))
    return float(values.mean()), float(values.std()) or 1.0


def _refuse_missing(store: Store, key: str, missing: np.ndarray) -> None:
    if missing.any():
        where = sorted(set(store.obs(np.flatnonzero(missing), ["input"])["input"].astype(str)))
        raise ValueError(
            f"Column {key!r} of the store is missing for {int(missing.sum()):,} cells, of the inputs "
            f"{some(where)}. Leave it out, or fill it there and build the store again."
        )


def _part(part: Any) -> tuple[int, int]:
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        raise ValueError(f"`part` must be two numbers, found {part!r}. For all: `part=(0, 1)`")
    n_parts = check_whole("part[1]", part[1])
    return check_whole("part[0]", part[0], 0, n_parts - 1), n_parts
