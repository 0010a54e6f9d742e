"""Models that are trained on several AnnData at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from anndata import AnnData

from scssl._errors import GeneMismatchError, warn
from scssl.data import (
    Datasets,
    GeneVocabulary,
    SelectedRows,
    StackedRows,
    check_datasets,
    check_scale,
    open_rows,
)
from scssl.data.matrix import PANEL_GENES, row_sums, typical_sum, usual_target_sum

from ._model import SETUP, SSLModel
from ._setup import CellReader, DataSetup, categories_of, inspect
from ._setup_method import SetupArgument, setup_method

_DATASET = "dataset"
# Share of the genes below which a data set is warned of.
_FEW_GENES = 0.1
# Cells of each that tell how much is counted in one.
_SOME_CELLS = 2000


class DatasetsMixin(SSLModel):
    """Set up several data sets, or one with a column of data sets, and read them."""

    def __init__(
        self, adata: AnnData | Datasets | None = None, registry: dict[str, Any] | None = None
    ) -> None:
        if isinstance(adata, Datasets):
            self._collection, adata = adata, adata.handle
        super().__init__(adata, registry)

    #: Arguments of :meth:`setup_datasets` that not all models take, or that mean something else to this one.
    _datasets_takes: ClassVar[Mapping[str, SetupArgument]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        base: Any = DatasetsMixin.setup_datasets
        inherited: Any = cls.setup_datasets
        # A method that a class writes itself stays.
        if inherited.__func__ is base.__func__:
            own: Any = setup_method(base, cls._datasets_takes)
            cls.setup_datasets = own  # type: ignore[method-assign]

    @classmethod
    def _called(cls, data: Any) -> tuple[str, str]:
        several = isinstance(data, Datasets)
        return ("datasets", "setup_datasets") if several else super()._called(data)

    @classmethod
    def setup_datasets(
        cls,
        datasets: Datasets,
        layer: str | None = None,
        *,
        labels_key: str | None = None,
        input: Literal["auto", "counts", "lognorm"] = "auto",
        target_sum: float | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Check several AnnData and say where things are in them.

        The matrix of each is looked at once. None of them is changed, and nothing is copied: training
        reads cells from where they are, a batch at a time.

        Parameters
        ----------
        datasets
            The data sets and their genes, see :class:`scssl.data.Datasets`.
        layer
            Layer with the expression values, ``X`` of each by default.
        labels_key
            One of the `obs_keys` of `datasets`, by which the validation split is stratified. Never used
            as a target.
        input
            What the values are, of all data sets alike, see :meth:`setup_anndata`.
        target_sum
            Sum of a cell before the logarithm, for counts, over the genes of `datasets`; ``"auto"`` as of
            :meth:`setup_anndata`, with the median of their medians.

        Raises
        ------
        GeneMismatchError
            If a data set has none of the genes of `datasets`.
        ValueError
            If values are missing, negative, or not what `input` says, or are counts in one data set and
            logarithms in another.
        KeyError
            If a layer or column does not exist.
        TypeError
            If `datasets` are not Datasets.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> one, two = adata[:300].copy(), adata[300:].copy()
        >>> datasets = scssl.data.Datasets({"one": one, "two": two})
        >>> scssl.model.PseudoLabel.setup_datasets(datasets)
        >>> model = scssl.model.PseudoLabel(datasets, n_rounds=1)
        >>> model.train(max_epochs=1, progress=False)
        >>> model.get_latent_representation(two).shape
        (400, 64)
        """
        given = {k: v for k, v in locals().items() if k not in ("cls", "datasets", "kwargs")}
        check_datasets(datasets)
        given = cls._checked_setup(datasets, given | kwargs)
        _check_genes(datasets)
        handle = datasets.handle
        found_in = {n: _named(n, inspect, adata, layer, input) for n, adata in datasets.items()}
        kinds: dict[str, list[str]] = {}
        for name, (_, _, decision) in found_in.items():
            kinds.setdefault(decision.kind, []).append(name)
        if len(kinds) > 1:
            found = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in kinds.items())
            layers = set.intersection(
                *(set(adata.layers) - {layer} for _, adata in datasets.items())
            )
            use = f", such as `layer={min(layers)!r}`" if layers else ""
            raise ValueError(
                f"Values are not of the same kind in all data sets ({found}). Take what is of one kind{use}."
            )
        scales = {name: decision.scale for name, (_, _, decision) in found_in.items()}
        first = next((one for one in scales.values() if one.certain), next(iter(scales.values())))
        for name, (matrix, _, decision) in found_in.items():
            whose = "Other data sets hold"
            where = DataSetup(layer, "", 0).where
            one = replace(decision.scale, level=0.0)
            _named(name, partial(check_scale, where=where, whose=whose), one, first, matrix)
        kind = next(iter(kinds))
        target_sum = given["target_sum"]
        if target_sum == "auto":
            typical = _typical_sum(datasets, found_in) if kind == "counts" else 0
            target_sum = usual_target_sum(len(datasets.genes), typical)
        categories = {_DATASET: [name for name, _ in datasets.items()]}
        if labels_key is not None:
            categories[labels_key] = categories_of(handle, labels_key, labels=True)
        setup = DataSetup(
            layer,
            kind,
            target_sum,
            _DATASET,
            labels_key,
            categories=categories,
            sample_key=given.get("sample_key"),
            spatial_key=given.get("spatial_key"),
            scale=asdict(first),
        )
        reader = _stacked(datasets, setup, datasets.genes, found_in, 0.0)
        recorded = cls._also_recorded(datasets, setup, given)
        found = reader.fingerprint | recorded.pop("fingerprint", {})
        manager = cls._manager(**given)
        cls._register_features(manager, handle, datasets.genes.names)
        manager.registry[SETUP] = {"setup": setup.to_dict(), "fingerprint": found, **recorded}
        cls.register_manager(manager)

    @property
    def _dataset_key(self) -> str | None:
        """Column with the data set of each of the model's own cells; `None` for one data set."""
        return _DATASET if isinstance(self._collection, Datasets) else self.setup.batch_key

    def _read_collection(self, data: Any, *, own: bool, min_overlap: float) -> CellReader | None:
        if not isinstance(data, Datasets):
            return super()._read_collection(data, own=own, min_overlap=min_overlap)
        overlap = 0.0 if own else min_overlap
        reader = read_datasets(data, self.setup, genes=self.genes, min_overlap=overlap)
        self._also_read(reader, data)
        return reader

    def attach(self, adata: AnnData | Datasets) -> None:
        """Make data the model's own, to embed them or to go on training.

        Parameters
        ----------
        adata
            An AnnData, or Datasets, with the genes that the model was set up with.
        """
        if not isinstance(adata, Datasets):
            super().attach(adata)
            return
        reader = self._read(adata)
        self._adata, self._collection = adata.handle, adata
        self.registry_[SETUP]["fingerprint"] = reader.fingerprint


def _check_genes(datasets: Datasets) -> None:
    """Of data sets with few of the genes little is left to cluster and to learn."""
    n_genes = len(datasets.genes)
    few = {
        str(name): int(n)
        for name, n in datasets.report()["n_matched"].items()
        if n < _FEW_GENES * n_genes
    }
    for name, n in few.items():
        found = (
            f"Data set {name!r} has {n:,} of the {n_genes:,} genes to learn from; the others are zero in "
            "its cells. If its genes have names of another kind or species, rename them: "
            "scssl.pp.match_genes says what fits, scssl.pp.map_orthologs brings "
            "species together. Then make the Datasets anew, or leave it out."
        )
        if not n:
            raise GeneMismatchError(found)
        warn(found)


def _named(name: str, function: Any, *args: Any) -> Any:
    """Call a function; errors say of which data set they are."""
    try:
        return function(*args)
    except (ValueError, KeyError) as error:
        error.add_note(f"In data set {name!r}.")
        raise


def read_datasets(
    datasets: Datasets, setup: DataSetup, *, genes: GeneVocabulary, min_overlap: float = 0.0
) -> CellReader:
    """Check data sets against a setup and open them as one."""
    check = partial(inspect, by_model=True, expected=setup.expected)
    found = {
        name: _named(name, check, adata, setup.layer, setup.input_kind)
        for name, adata in datasets.items()
    }
    return _stacked(datasets, setup, genes, found, min_overlap)


def _typical_sum(datasets: Datasets, found: Mapping[str, Any]) -> float:
    """Median over data sets of the median sum of a cell over the genes to learn from, of some cells of each."""
    if len(datasets.genes) > PANEL_GENES:
        return 0.0
    medians = []
    for name, adata in datasets.items():
        alignment = datasets.genes.align(adata.var_names, min_overlap=0.0)
        rows = np.unique(np.linspace(0, adata.n_obs - 1, _SOME_CELLS).astype(np.int64))
        own = SelectedRows(open_rows(found[name][0]), rows, alignment)
        medians.append(typical_sum(row_sums(own.read(np.arange(len(rows))))))
    return typical_sum(np.array(medians))


def _stacked(
    datasets: Datasets,
    setup: DataSetup,
    genes: GeneVocabulary,
    found: Mapping[str, Any],
    min_overlap: float,
) -> CellReader:
    """Data sets as one, from the matrix and the statistics that :func:`inspect` gave of each."""
    sources = []
    for name, adata in datasets.items():
        alignment = genes.align(adata.var_names, min_overlap=min_overlap, var=adata.var)
        source = open_rows(found[name][0], where=setup.where)
        sources.append(SelectedRows(source, None, None if alignment.is_identity else alignment))
    stats = [one[1] for one in found.values()]
    reader = CellReader(setup, datasets.handle, StackedRows(sources), None)
    reader.fingerprint = {
        "cells": datasets.n_cells,
        "genes": len(genes),
        "gene names": genes.hash,
        "stored values": int(sum(one.n_stored for one in stats)),
        "largest value": float(max(one.max for one in stats)),
        "median sum of a cell": float(np.median([float(one.median_sum) for one in stats])),
    }
    return reader
