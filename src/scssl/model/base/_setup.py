"""What ``setup_anndata`` learns of a data set, and how any data set is read after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scssl._checks import (
    check_choice,
    check_number,
    first_fraction,
    get_column,
    get_embedding,
    get_matrix,
    number,
    some,
    whole_numbers,
)
from scssl._errors import MissingKeyError, warn
from scssl.data import (
    BalancedPlan,
    BatchPlan,
    BlockNormalizer,
    CellContext,
    CellLoader,
    GeneVocabulary,
    InputDecision,
    MatrixStats,
    OneGroupPlan,
    PartnerWalks,
    RowSource,
    RowSpans,
    Scale,
    SequentialPlan,
    ShuffledPlan,
    check_scale,
    find_counts,
    open_rows,
    refuse_features,
    resolve_input,
    scan_matrix,
)
from scssl.data.keys import CONTINUOUS, POSITION, PRESENT, category_key
from scssl.data.matrix import is_on_disk, sample_digest, usual_target_sum

_LOGGER = logging.getLogger("scssl")
_MAX_CATEGORIES = 1000
_LARGEST = 1e38
# Entry of a fingerprint.
_SAMPLE = "values of some cells"


@dataclass(frozen=True)
class ModalitySetup:
    """How a model reads one modality of a MuData. JSON only.

    `kind` is how the model calls it, ``"rna"``, ``"protein"`` or ``"atac"``; `name` how the MuData does, empty
    for an AnnData that is read in its place. For `normalization` see :class:`scssl.data.FeatureBlock`.
    """

    kind: str
    name: str
    layer: str | None
    normalization: str
    n_features: int

    @property
    def mod(self) -> str:
        """The modality, as a user would write it."""
        return f'mdata.mod["{self.name}"]' if self.name else "adata"

    @property
    def where(self) -> str:
        """The matrix, as a user would write it."""
        return f"{self.mod}.X" if self.layer is None else f'{self.mod}.layers["{self.layer}"]'


@dataclass(frozen=True)
class DataSetup:
    """How a model reads an AnnData. JSON only, so that it is part of a saved model."""

    #: Layer with the expression values, `None` for ``adata.X``.
    layer: str | None
    #: ``"counts"`` or ``"lognorm"``.
    input_kind: Any
    #: Sum of a cell before the logarithm, for counts; `None`: counts are not scaled.
    target_sum: float | None
    batch_key: str | None = None
    labels_key: str | None = None
    categorical_keys: tuple[str, ...] = ()
    continuous_keys: tuple[str, ...] = ()
    #: Of each categorical column, in the order of their codes.
    categories: Mapping[str, list[str]] = field(default_factory=dict)
    #: Where cells have several. `layer` is then that of the first, `input_kind` that of RNA.
    modalities: tuple[ModalitySetup, ...] = ()
    #: Column with the sample of a cell, where cells see each other; where its place is, an entry of
    #: ``obsm`` or two columns.
    sample_key: str | None = None
    spatial_key: str | tuple[str, str] | None = None
    #: Entry of ``obsp`` with neighbours; `None` where they follow from places.
    connectivity_key: str | None = None
    #: Entry of ``obsm`` that is read in place of expression.
    use_rep: str | None = None
    #: Mean and standard deviation of each continuous column; models saved earlier read them as they are.
    continuous_scale: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: What was recognised in the values, see :class:`scssl.data.Scale`; empty of older models.
    scale: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expected(self) -> Scale | None:
        """What values have to be like to be read."""
        return Scale(**self.scale) if self.scale else None

    @property
    def where(self) -> str:
        """The matrix, as a user would write it."""
        if self.use_rep is not None:
            return f'adata.obsm["{self.use_rep}"]'
        return "adata.X" if self.layer is None else f'adata.layers["{self.layer}"]'

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        content = asdict(self)
        content["modalities"] = list(content["modalities"])
        # Not of all models: what is not there is left out.
        rare = (
            *("modalities", "sample_key", "spatial_key", "connectivity_key", "use_rep"),
            *("continuous_scale", "scale"),
        )
        return {name: value for name, value in content.items() if value or name not in rare}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DataSetup:
        """Inverse of :meth:`to_dict`; `content` may be of strangers."""
        made: dict[str, Any] = {
            k: tuple(content[k]) for k in ("categorical_keys", "continuous_keys")
        }
        made["modalities"] = tuple(ModalitySetup(**one) for one in content.get("modalities", ()))
        scale = content.get("continuous_scale", {})
        made["continuous_scale"] = {
            key: (float(mean), float(deviation)) for key, (mean, deviation) in scale.items()
        }
        if isinstance(content.get("spatial_key"), list):
            made["spatial_key"] = tuple(content["spatial_key"])
        setup = cls(**{**content, **made})
        check_choice("input_kind", setup.input_kind, ("counts", "lognorm"))
        check_number("target_sum", setup.target_sum, "(0, inf)", none=True)
        columns = [setup.batch_key, setup.labels_key, *setup.categorical_keys]
        places = setup.spatial_key if isinstance(setup.spatial_key, tuple) else (setup.spatial_key,)
        names = [*columns, *setup.continuous_keys, setup.layer, setup.sample_key, *places]
        names += [setup.connectivity_key, setup.use_rep]
        for key in columns:
            names += [] if key is None else setup.categories[key]
        if wrong := [name for name in names if not isinstance(name, str | None)]:
            raise TypeError(f"{wrong[0]!r} is no name in data")
        return setup

    @property
    def sees_others(self) -> bool:
        """Whether cells are read together with others of their sample or tissue."""
        return any((self.sample_key, self.spatial_key, self.connectivity_key))

    def covariate_keys(self) -> tuple[str, ...]:
        """Categorical columns that a decoder is told: the batch and the covariates."""
        batch = () if self.batch_key is None else (self.batch_key,)
        return (*batch, *self.categorical_keys)

    def codes(self, adata: AnnData, key: str) -> np.ndarray:
        """Codes of a categorical column; int64, shape ``(n_cells,)``."""
        values = get_column(adata, key)
        refuse_missing(adata, values, key)
        names, known = as_strings(values), self.categories[key]
        codes = pd.Index(known).get_indexer(names)
        if (codes < 0).any():
            new = sorted(set(names[codes < 0]))
            raise ValueError(
                f'adata.obs["{key}"] has {len(new)} categories that the model was not trained with: '
                f"{some(new)}. It knows {some(known)}. Rename them, or leave these cells out: "
                f'`adata = adata[~adata.obs["{key}"].astype(str).isin({new})].copy()`'
            )
        return codes.astype(np.int64)

    def check_counts(self, loss: str) -> None:
        """Refuse a loss of counts where there are none."""
        if loss in ("nb", "zinb") and self.input_kind != "counts":
            raise ValueError(
                f"loss={loss!r} needs counts, but {self.where} was set up as log-normalised. Set "
                'up a layer with counts, or take `loss="mse"`.'
            )

    def continuous(self, adata: AnnData) -> np.ndarray:
        """Continuous covariates, standardised as in training; float32, shape ``(n_cells, n_covariates)``."""
        columns = []
        for key in self.continuous_keys:
            mean, spread = self.continuous_scale.get(key, (0.0, 1.0))
            columns.append((numbers_of(adata, key) - mean) / spread)
        return np.stack(columns, axis=1).astype(np.float32)


def matrix_of(
    adata: AnnData, layer: str | None, name: str = "adata", *, mend: str | None = None
) -> Any:
    """The matrix in X or a layer; `mend` is what to do where there is none."""
    matrix, where = get_matrix(adata, layer, name)
    if matrix is None:
        # anndata lists X among the layers, under None.
        layers = [one for one in adata.layers if one is not None]
        there = some(layers, 20) or "none"
        how = mend or "Say which layer to use" + (f": `layer={layers[0]!r}`" if layers else "")
        raise ValueError(f"{where} is None. {how}; there are: {there}.")
    return matrix


def decide_input(
    adata: AnnData,
    layer: str | None,
    stats: MatrixStats,
    input: str,
    *,
    by_model: bool,
    expected: Scale | None = None,
    name: str = "adata",
    layer_name: str = "layer",
) -> InputDecision:
    """What a matrix holds; an error, if it is not what was asked for, says where that is."""
    names = {"obs_names": adata.obs_names, "var_names": adata.var_names}
    known: Any = {**names, "by_model": by_model, "expected": expected, "name": name}
    try:
        return resolve_input(stats, input, **known)
    except ValueError:
        # Looking for counts elsewhere reads other matrices: only where there is a message to write.
        called: Any = {"name": name, "layer_name": layer_name, "by_model": by_model}
        logarithms = stats.n_negative > 0 and input != "counts"
        hint = find_counts(adata, layer=layer, logarithms=logarithms, **called)
        return resolve_input(stats, input, raw_hint=hint, **known)


def inspect(
    adata: AnnData,
    layer: str | None,
    input: str,
    *,
    by_model: bool = False,
    expected: Scale | None = None,
    used: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> tuple[Any, MatrixStats, InputDecision]:
    """Scan the matrix, or `rows` of it, and decide what it holds; flag cells without a count.

    `by_model` where a model exists, and with it the layer and the input; it was trained with values as
    `expected`, of which genes are `used`.
    """
    refuse_features(adata, by_model=by_model)
    where = DataSetup(layer, "", 0).where
    matrix = matrix_of(adata, layer)
    stats = scan_matrix(matrix, where=where, used=used, rows=rows)
    decision = decide_input(adata, layer, stats, input, by_model=by_model, expected=expected)
    if stats.n_empty_cells:
        empty = some(adata.obs_names[stats.empty_cells[:3]])
        warn(
            f"{stats.n_empty_cells:,} of {stats.n_obs:,} cells have no value in {where} ({empty}). "
            "They are kept, and all get the same embedding. To leave them out: "
            f"`adata = adata[np.ravel({where}.sum(axis=1)) > 0].copy()`"
        )
    return matrix, stats, decision


def feature_names(adata: AnnData, use_rep: str | None) -> Any:
    """Names of what is read of a cell: genes, or dimensions of an embedding."""
    if use_rep is None:
        return adata.var_names
    return [f"{use_rep}:{i}" for i in range(get_embedding(adata, use_rep).shape[1])]


def make_setup(adata: AnnData, given: Mapping[str, Any]) -> tuple[DataSetup, MatrixStats]:
    """Check a data set and record how to read it; `given` are arguments of ``setup_anndata``."""
    layer, input = given["layer"], given["input"]
    batch_key, labels_key = given["batch_key"], given["labels_key"]
    categorical, continuous = (
        tuple(given.get(f"{kind}_covariate_keys") or ()) for kind in ("categorical", "continuous")
    )
    if adata.is_view:
        raise ValueError("`adata` is a view. Make it an object first: `adata = adata.copy()`")
    use_rep = given.get("use_rep")
    GeneVocabulary(feature_names(adata, use_rep))  # refuses duplicated and empty names
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()].unique()
        warn(
            f"{len(twice):,} cell names occur more than once ({some(twice)}). Results are by "
            "position and stay right; to make them unique: `adata.obs_names_make_unique()`"
        )
    named = [("batch_key", batch_key), ("labels_key", labels_key)]
    named += [("categorical_covariate_keys", key) for key in categorical]
    categories = {
        key: categories_of(adata, key, labels=argument == "labels_key", argument=argument)
        for argument, key in named
        if key is not None
    }
    scale = _scale_of(adata, continuous)
    kind, told = "lognorm", {}
    if use_rep is None:
        _, stats, decision = inspect(adata, layer, input)
        if input == "auto":
            _LOGGER.info("Input: %s.", decision.reason)
        kind, told = decision.kind, asdict(decision.scale)
    else:
        stats = scan_matrix(get_embedding(adata, use_rep))
    target_sum = given["target_sum"]
    if target_sum == "auto":
        target_sum = usual_target_sum(adata.n_vars, stats.median_sum if kind == "counts" else 0)
    setup = DataSetup(
        layer,
        kind,
        target_sum,
        batch_key,
        labels_key,
        categorical,
        continuous,
        categories,
        sample_key=given.get("sample_key"),
        spatial_key=given.get("spatial_key"),
        connectivity_key=given.get("connectivity_key"),
        use_rep=use_rep,
        scale=told,
        continuous_scale=scale,
    )
    return setup, stats


def check_like(data: Any, setup: DataSetup, other: DataSetup) -> None:
    """Refuse data set up for a model that starts from another whose data were made otherwise."""
    if setup.expected is None or other.expected is None or setup.modalities or other.modalities:
        return
    # Not the same genes: levels say nothing.
    found = replace(setup.expected, level=0.0)
    adata = data if isinstance(data, AnnData) else data.items()[0][1]
    X = matrix_of(adata, setup.layer)
    whose = "The model to start from was trained with"
    check_scale(found, other.expected, X, where=setup.where, whose=whose)


def fingerprint(names: Any, stats: MatrixStats, X: Any = None) -> dict[str, Any]:
    """What would be different if the data, with features of these names, had been changed since.

    Of a matrix `X` on disk also what is enough to know it again.
    """
    found: dict[str, Any] = {
        "cells": stats.n_obs,
        "genes": stats.n_vars,
        "gene names": GeneVocabulary(names).hash,
        "stored values": stats.n_stored,
        "largest value": float(stats.max),
        "median sum of a cell": float(stats.median_sum),
    }
    return found | ({_SAMPLE: sample_digest(X)} if X is not None and is_on_disk(X) else {})


def is_known(names: Any, X: Any, recorded: Mapping[str, Any] | None) -> bool:
    """Whether a matrix on disk is the one that was recorded, as far as some of its cells tell."""
    if recorded is None or recorded.get("gene names") != GeneVocabulary(names).hash:
        return False
    # Values in memory change in place, and to look at all of them costs little.
    return is_on_disk(X) and recorded.get(_SAMPLE) == sample_digest(X)


def categories_of(
    adata: AnnData, key: str, *, labels: bool, argument: str | None = None, name: str = "adata"
) -> list[str]:
    values = get_column(adata, key, argument, name)
    if not labels:
        refuse_missing(adata, values, key, name)
    values = values[values.notna()]
    fraction = first_fraction(values)
    if fraction is not None:
        raise ValueError(
            f'{name}.obs["{key}"] holds fractions ({number(fraction)}, ...), which are no categories. '
            "Pass it in `continuous_covariate_keys`, or name another column."
        )
    found = as_strings(values, name).unique().sort_values()
    if len(found) > _MAX_CATEGORIES and not labels:
        warn(f'{name}.obs["{key}"] has {len(found):,} categories. Is it the column you meant?')
    return [str(one) for one in found]


def refuse_missing(adata: AnnData, values: pd.Series, key: str, name: str = "adata") -> None:
    missing = values.isna()
    if missing.any():
        cell = adata.obs_names[np.flatnonzero(missing)[0]]
        raise ValueError(
            f'{name}.obs["{key}"] has {int(missing.sum()):,} missing values, the first for cell '
            f'{cell!r}. Fill them: {name}.obs["{key}"] = '
            f'{name}.obs["{key}"].astype("object").fillna("unknown")'
        )


def as_strings(values: pd.Series, name: str = "adata") -> pd.Index:
    return pd.Index(whole_numbers(values, name).astype(str))


# What can be done with columns that pandas would take for numbers in units of its own.
_NO_NUMBERS = {
    "M": ("dates", "({column} - {column}.min()).dt.total_seconds() / 86400"),
    "m": ("durations", "{column}.dt.total_seconds()"),
    "c": ("complex numbers", "{column}.to_numpy().real"),
}


def numbers_of(adata: AnnData, key: str, named: Sequence[str] | None = None) -> np.ndarray:
    """A continuous covariate, one of those that a user `named` if now; finite numbers, float64."""
    values = get_column(adata, key, None if named is None else "continuous_covariate_keys")
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    values, column = values.infer_objects(), f'adata.obs["{key}"]'
    if values.dtype.kind in _NO_NUMBERS:
        what, how = _NO_NUMBERS[values.dtype.kind]
        raise ValueError(
            f"{column} holds {what}, and a continuous covariate needs numbers. Make numbers of them: "
            f"`{column} = {how.format(column=column)}`"
        )
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    # Models calculate in float32, which ends at 3e38.
    bad = np.flatnonzero(~(np.abs(numbers) < _LARGEST))
    if len(bad):
        first = values.iloc[bad[0]]
        numeric = f'pd.to_numeric({column}.astype(object), errors="coerce").astype("float64")'
        how = f"Leave these cells out: `adata = adata[{numeric}.abs() < {_LARGEST:g}].copy()`"
        if isinstance(first, str) and named is not None:
            rest = [one for one in named if one != key]
            given = f'continuous_covariate_keys={rest}, categorical_covariate_keys=["{key}"]'
            how = f"If they are categories: `{given}`"
        raise ValueError(
            f"{column} has {len(bad):,} values that are not finite numbers in float32, the first is "
            f"{first!r}, and a continuous covariate needs them. {how}"
        )
    return numbers


def _scale_of(adata: AnnData, keys: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of continuous columns; 1 for no deviation."""
    scale = {}
    for key in keys:
        values = numbers_of(adata, key, keys)
        mean, spread = float(values.mean()), float(values.std())
        # Of equal values, rounding leaves a little.
        scale[key] = mean, spread if spread > 1e-12 * abs(mean) else 1.0
    return scale


class CellReader:
    """The cells of one AnnData as a model wants them."""

    def __init__(self, setup: DataSetup, adata: AnnData, matrix: Any, alignment: Any) -> None:
        self.setup, self.adata, self.alignment = setup, adata, alignment
        self.n_cells = adata.n_obs
        #: The rows, with the genes of the data.
        self.source: RowSource = (
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
        #: Group of each cell that batches in training go by in place of `groups`, where a user names one.
        self.batched_by: np.ndarray | None = None
        #: Whether they are then of one group each, and not of as many cells of each.
        self.one_group = False
        #: Weights of the groups, where some are to come more often than others.
        self.weights: dict[int, float] = {}
        #: Which cells are validated on, boolean, where a user says it.
        self.held_out: np.ndarray | None = None
        #: Which cells see each other, where they do.
        self.context: CellContext | None = None
        #: Whether cells that are not learnt from are seen by those that are.
        self.fills_context = False
        #: Label of each cell, where those of few cells are to come as often as others in training.
        self.balance: np.ndarray | None = None
        #: Which genes each panel has, boolean, where cells differ in what was measured.
        self.measured: np.ndarray | None = None
        self.fingerprint: dict[str, Any] = {}

    def name_of(self, row: int) -> str:
        """Name of a cell, for a message."""
        return str(self.adata.obs_names[row])

    def with_covariates(self) -> Self:
        """Read the columns too that a decoder is told."""
        for key in self.setup.covariate_keys():
            self.obs[category_key(key)] = self.codes(key)
        if self.setup.continuous_keys:
            self.obs[CONTINUOUS] = self.continuous()
        return self

    def codes(self, key: str) -> np.ndarray:
        """Codes of a categorical column, see :meth:`DataSetup.codes`."""
        return self.setup.codes(self.adata, key)

    def continuous(self) -> np.ndarray:
        """Continuous covariates, see :meth:`DataSetup.continuous`."""
        return self.setup.continuous(self.adata)

    def read(self, rows: np.ndarray, n_cells: int = 4096) -> Iterator[sparse.csr_matrix]:
        """Values of these cells as they are stored, in the model's order of features."""
        for start in range(0, len(rows), n_cells):
            block = self.source.read(rows[start : start + n_cells])
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
            self.source,
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
        context, everything = self.context, RowSpans([(0, self.n_cells)])
        if context is not None:
            if role == "embedding":
                return context.embedding(rows)
            if role == "validation":
                return context.validation(rows, batch_size, seed=seed, fill=everything)
            fill = everything if self.fills_context else None
            return context.training(rows, batch_size, seed=seed, fill=fill, labels=self.balance)
        if role != "training":
            return SequentialPlan(rows, batch_size, seed=seed)
        shuffled, balanced, one_group = self._plans
        groups = self.groups if self.batched_by is None else self.batched_by
        if groups is None:
            return shuffled(rows, batch_size, seed=seed)
        if self.one_group:
            return one_group(rows, batch_size, groups, seed=seed)
        return balanced(rows, batch_size, groups, weights=self.weights, seed=seed)

    #: What batches of training are made by: of all cells, of as many of each group, of one group each.
    _plans: ClassVar[tuple[Any, Any, Any]] = (ShuffledPlan, BalancedPlan, OneGroupPlan)

    def batch_by(
        self, key: str, *, one_group: bool, weights: Mapping[str, float] | None = None
    ) -> None:
        """Let batches in training go by a column, which says more than :attr:`groups`."""
        if self.context is not None:
            raise ValueError(
                f"Cells see each other in this model, and batches are of whole contexts; found {key!r} to go by. "
                "Leave `balance_key` and `separate_key` out."
            )
        self.batched_by, known = self.groups_of(key)
        self.one_group, weights = one_group, weights or {}
        if unknown := [name for name in weights if name not in known]:
            suggested = {known[0]: 2.0}
            raise ValueError(
                f"`balance_weights` names {some(unknown)}, and column {key!r} has {some(known, 20)}. Name some of "
                f"these, such as `balance_weights={suggested!r}`."
            )
        self.weights = {known.index(name): weight for name, weight in weights.items()}

    def hold_out(self, categories: Mapping[str, Sequence[str]]) -> None:
        """Validate on all cells of some categories, by column, and on no others."""
        found = np.zeros(self.n_cells, dtype=bool)
        for key, names in categories.items():
            codes, known = self.groups_of(key)
            if unknown := [name for name in names if name not in known]:
                suggested = {key: known[:1]}
                raise ValueError(
                    f"`hold_out` names {some(unknown)}, and column {key!r} has {some(known, 20)}. Name some of "
                    f"these, such as `hold_out={suggested!r}`."
                )
            found |= np.isin(codes, [known.index(name) for name in names])
        if found.all():
            raise ValueError(
                f"`hold_out` {dict(categories)!r} is all cells: none is left to learn from. Name fewer."
            )
        self.held_out = found

    def groups_of(self, key: str) -> tuple[np.ndarray, list[str]]:
        """Number of the category of each cell in a column, and the categories."""
        values = get_column(self.adata, key)
        if values.dtype.kind == "f":
            raise ValueError(
                f"Column {key!r} of adata.obs holds numbers, and no categories. Batches go by a column such as "
                "the data set, the donor or the cell type."
            )
        refuse_missing(self.adata, values, key)
        codes, names = pd.factorize(values, sort=True)
        return codes, [str(name) for name in names]

    def rows(self, indices: Any) -> np.ndarray:
        """Row numbers of `indices`: numbers, a mask or cell names."""
        if indices is None:
            return np.arange(self.n_cells)
        indices = np.asarray(indices)
        if not indices.size:
            return np.zeros(0, dtype=np.int64)
        if indices.ndim != 1:
            raise ValueError(f"`indices` must be a list of cells, found shape {indices.shape}.")
        if indices.dtype.kind == "b":
            if indices.shape != (self.n_cells,):
                raise ValueError(f"A mask has {self.n_cells:,} values here, found {indices.shape}.")
            return np.flatnonzero(indices)
        if indices.dtype.kind in "OUST":
            if not self.adata.obs_names.is_unique:
                raise ValueError(
                    "Cell names are not unique. Pass row numbers, or make them unique: "
                    "`adata.obs_names_make_unique()`"
                )
            found = self.adata.obs_names.get_indexer(indices.astype(str))
            if (found < 0).any():
                absent = indices[found < 0]
                raise MissingKeyError(
                    f"{len(absent)} cells are not in adata.obs_names: {some(absent)}."
                )
            return found
        if indices.dtype.kind not in "iu":
            raise TypeError(f"`indices` must be rows, a mask or names, found {indices.dtype}.")
        if indices.min() < -self.n_cells or indices.max() >= self.n_cells:
            worst = indices.max() if indices.max() >= self.n_cells else indices.min()
            raise IndexError(f"`indices` has {worst}, but `adata` has {self.n_cells:,} cells.")
        # Of a small type, the sum would not fit.
        indices = indices.astype(np.int64)
        return np.where(indices < 0, indices + self.n_cells, indices)


def check_unchanged(
    now: Mapping[str, Any],
    recorded: Mapping[str, Any] | None,
    called: Callable[[], tuple[str, str]],
) -> None:
    """Refuse data that are not as they were recorded; `called` gives their name and how they are set up."""
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
        data, how = called()
        raise ValueError(
            f"`{data}` has changed since {how} ({what}). Set it up again and make a new "
            "model, or pass the changed data to embed it."
        )
