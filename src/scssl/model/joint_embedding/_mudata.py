"""Cells with several modalities: checks, and how they are read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scssl._checks import check_choice, check_key, get_column, number
from scssl._errors import GeneMismatchError, MissingKeyError, warn
from scssl.data import (
    BlockNormalizer,
    FeatureBlock,
    GeneAlignment,
    GeneVocabulary,
    JoinedRows,
    MatrixStats,
    Scale,
    find_counts,
    open_rows,
    refuse_features,
    scan_matrix,
)
from scssl.data.keys import PRESENT
from scssl.data.matrix import Normalization
from scssl.model.base import (
    CellReader,
    DataSetup,
    ModalitySetup,
    categories_of,
    decide_input,
    matrix_of,
)

_LOGGER = logging.getLogger("scssl")
NORMALIZATIONS = {"protein": ("clr", "log1p", "none"), "atac": ("tfidf", "binary")}


@dataclass(frozen=True)
class Cells:
    """The cells of a MuData, or of the AnnData of one modality, as the rest of a model knows those of an AnnData."""

    source: Any
    obs: pd.DataFrame

    @property
    def obs_names(self) -> pd.Index:
        return self.obs.index

    @property
    def n_obs(self) -> int:
        return len(self.obs)

    @property
    def uns(self) -> Any:
        return self.source.uns


def places_of(mdata: Any, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Row in each modality of every cell of the MuData, -1 where it lacks the cell."""
    places = {}
    for kind, name in names.items():
        own = mdata.mod[name].obs_names
        if not own.is_unique:
            twice = str(own[own.duplicated()][0])
            raise ValueError(
                f'The cell names of mdata.mod["{name}"] are not unique ({twice!r}), so its cells cannot be '
                f'told apart. Make them so: `mdata.mod["{name}"].obs_names_make_unique(); mdata.update()`'
            )
        places[kind] = own.get_indexer(mdata.obs_names)
        if (places[kind] >= 0).sum() < len(own):
            raise ValueError(
                f'mdata.obs_names lack cells of mdata.mod["{name}"], which was changed: `mdata.update()`'
            )
    nowhere = np.flatnonzero(np.all([rows < 0 for rows in places.values()], axis=0))
    if len(nowhere):
        used = " or ".join(map(repr, names.values()))
        keep = " | ".join(f'mdata.obsm["{name}"].ravel()' for name in names.values())
        raise ValueError(
            f"{len(nowhere):,} cells of `mdata` are in no modality that is used ({used}), the first is "
            f"{str(mdata.obs_names[nowhere[0]])!r}. Leave them out: `mdata = mdata[{keep}].copy()`"
        )
    return places


def obs_of(
    mdata: Any, places: Mapping[str, np.ndarray], names: Mapping[str, str], keys: Sequence[str]
) -> pd.DataFrame:
    """Annotations of the cells: those of the MuData, and columns that only modalities have.

    A column of the MuData goes first. Without it, modalities may not contradict each other.
    """
    obs = mdata.obs
    for key in keys:
        check_key(key, "batch_key or labels_key")
        if key in obs.columns:
            continue
        column = pd.Series(np.full(len(obs), None, dtype=object), index=obs.index)
        for kind, name in names.items():
            own = mdata.mod[name].obs
            if key in own.columns:
                rows = places[kind]
                values = get_column(mdata.mod[name], key, name=f'mdata.mod["{name}"]')
                values = pd.Series(values.astype(object).to_numpy()[rows], index=obs.index)
                both = column.notna() & values.notna() & (rows >= 0)
                other = both & (column.astype(str) != values.astype(str))
                if other.any():
                    _refuse_contradiction(mdata, column, values, other, key, names, name)
                column = column.where(column.notna() | (rows < 0), values)
        if column.notna().any():
            obs = obs.assign(**{key: column.infer_objects()})
    return obs


def _refuse_contradiction(
    mdata: Any,
    column: pd.Series,
    values: pd.Series,
    other: pd.Series,
    key: str,
    names: Mapping[str, str],
    name: str,
) -> None:
    """Refuse a column of which two modalities say different things of the same cells."""
    there = [one for one in names.values() if key in mdata.mod[one].obs.columns]
    first = int(other.argmax())
    raise ValueError(
        f'{int(other.sum()):,} cells have another obs["{key}"] in mdata.mod["{name}"] than in '
        f"{', '.join(map(repr, there[: there.index(name)]))}: of the first, {str(other.index[first])!r}, "
        f"{str(values.iloc[first])!r} and {str(column.iloc[first])!r}. Say which goes first: "
        f"`{_whole(key, there)}` or `{_whole(key, [name, *(one for one in there if one != name)])}`"
    )


def _whole(key: str, there: Sequence[str]) -> str:
    """Code for a column of the MuData from those of modalities, of which earlier ones go first."""
    first, *others = (f'mdata.mod["{name}"].obs["{key}"].astype("object")' for name in there)
    joined = first + "".join(f".combine_first({other})" for other in others)
    return f'mdata.obs["{key}"] = {joined}.reindex(mdata.obs_names)'


def make_mudata_setup(
    mdata: Any,
    asked: Mapping[str, str | None],
    layers: Mapping[str, str | None],
    normalizations: Mapping[str, str],
    *,
    batch_key: str | None,
    labels_key: str | None,
    input: str,
    target_sum: float,
) -> tuple[DataSetup, list[str], dict[str, Any]]:
    """Check a MuData and record how to read it; its features, and what identifies the data."""
    check_mudata(mdata)
    if mdata.is_view:
        raise ValueError("`mdata` is a view. Make it an object first: `mdata = mdata.copy()`")
    if not mdata.obs_names.is_unique:
        raise ValueError(
            "Cell names must be unique. Make those of its modalities unique, and put `mdata` together anew."
        )
    for kind, chosen in normalizations.items():
        check_choice(f"{kind}_normalization", chosen, NORMALIZATIONS[kind])
    names = find_modalities(mdata, asked)
    for kind, layer in layers.items():
        if layer is not None and kind not in names:
            raise ValueError(f"`{kind}_layer` was given, but the modality {kind} is not used.")
    unused = [name for name in mdata.mod if name not in names.values()]
    if unused:
        _LOGGER.info("Modalities of `mdata` that are not used: %s.", ", ".join(map(repr, unused)))
    places = places_of(mdata, names)
    keys = [key for key in (batch_key, labels_key) if key is not None]
    cells = Cells(mdata, obs_of(mdata, places, names, keys))
    for key in keys:
        if key not in cells.obs.columns:
            there = ", ".join(map(repr, mdata.obs.columns[:20])) or "none"
            raise MissingKeyError(
                f"There is no column {key!r} in mdata.obs or its modalities; mdata.obs has: {there}."
            )
    if batch_key is not None and batch_key not in mdata.obs.columns:
        _refuse_incomplete(mdata, cells.obs[batch_key], batch_key, names)
    categories = {
        key: categories_of(cast("AnnData", cells), key, labels=key == labels_key, name="mdata")
        for key in keys
    }
    modalities, features, stats = [], [], {}
    for kind, name in names.items():
        adata = mdata.mod[name]
        GeneVocabulary(adata.var_names)  # refuses duplicated and empty names
        one = ModalitySetup(kind, name, layers[kind], normalizations.get(kind, ""), adata.n_vars)
        others = [other for other in names.values() if other != name]
        stats[kind], found = check_modality(adata, one, input, others=others)
        modalities.append(replace(one, normalization=found))
        features += [f"{kind}:{feature}" for feature in adata.var_names]
    rna = next((one.normalization for one in modalities if one.kind == "rna"), "lognorm")
    setup = DataSetup(
        modalities[0].layer,
        rna,
        float(target_sum),
        batch_key,
        labels_key,
        categories=categories,
        modalities=tuple(modalities),
        scale=asdict(scale) if "rna" in stats and (scale := stats["rna"].scale) else {},
    )
    return setup, features, mudata_fingerprint(stats, places, features)


def _refuse_incomplete(mdata: Any, column: pd.Series, key: str, names: Mapping[str, str]) -> None:
    """Refuse a column of modalities that does not cover all cells, as that of a mosaic may not."""
    missing = column.isna()
    if not missing.any():
        return
    there = [name for name in names.values() if key in mdata.mod[name].obs.columns]
    raise ValueError(
        f'There is no mdata.obs["{key}"], and the modalities with such a column '
        f"({', '.join(map(repr, there))}) do not have it for {int(missing.sum()):,} cells, the first is "
        f"{str(column.index[int(missing.argmax())])!r}. Make one for all cells: "
        f'`{_whole(key, there)}.fillna("unknown")`'
    )


def mudata_fingerprint(
    stats: Mapping[str, MatrixStats], places: Mapping[str, np.ndarray], features: Sequence[str]
) -> dict[str, Any]:
    """What would be different if the data had been changed since."""
    there = np.stack([rows >= 0 for rows in places.values()])
    found: dict[str, Any] = {
        "cells": there.shape[1],
        "genes": len(features),
        "gene names": GeneVocabulary(features).hash,
        "modalities of the cells": hashlib.sha256(np.packbits(there).tobytes()).hexdigest()[:16],
    }
    for kind, one in stats.items():
        found[f"stored values of {kind}"] = one.n_stored
        found[f"largest value of {kind}"] = float(one.max)
        found[f"median sum of a cell of {kind}"] = float(one.median_sum)
    return found


def read_mudata(
    data: Any,
    setup: DataSetup,
    genes: GeneVocabulary,
    *,
    min_overlap: float,
    idf: np.ndarray | None,
) -> CellReader:
    """Open the cells of a MuData, or of an AnnData with RNA, as a model reads them."""
    known = {one.kind: one for one in setup.modalities}
    if isinstance(data, AnnData):
        if "rna" not in known:
            first = setup.modalities[0].name
            raise ValueError(
                "The model reads no RNA, and wants a MuData: `import mudata; "
                f'adata = mudata.MuData({{"{first}": adata}})`'
            )
        mods, names = {"rna": data}, data.obs_names
        places = {"rna": np.arange(data.n_obs)}
        obs = data.obs
    else:
        check_mudata(data)
        if not data.n_obs:
            raise ValueError("`mdata` has no cells.")
        # A subset to cells without a modality keeps it, with no cells.
        mods = {
            kind: data.mod[one.name]
            for kind, one in known.items()
            if one.name in data.mod and data.mod[one.name].n_obs
        }
        if not mods:
            wanted = ", ".join(repr(one.name) for one in known.values())
            raise MissingKeyError(
                f"`mdata` has none of the model's modalities ({wanted}) with any cell; it has: "
                f"{', '.join(map(repr, data.mod))}. Rename one of them in mdata.mod."
            )
        names = data.obs_names
        places = places_of(data, {kind: known[kind].name for kind in mods})
        keys = [key for key in (setup.batch_key, setup.labels_key) if key is not None]
        obs = obs_of(data, places, {kind: known[kind].name for kind in mods}, keys)
    stats, sources, blocks, columns, query = {}, [], [], [], []
    n_by_alias, ambiguous, start = 0, [], 0
    reports = []
    for one in setup.modalities:
        stop = start + one.n_features
        n_found = 0
        if one.kind in mods:
            adata = mods[one.kind]
            given = replace(one, name="") if isinstance(data, AnnData) else one
            own = GeneVocabulary(stripped(genes, one, start))
            try:
                found = own.align(
                    adata.var_names, min_overlap=min_overlap, var=adata.var, name=given.mod
                )
            except GeneMismatchError as error:
                raise GeneMismatchError(f"In {given.mod}: {error}") from error
            expected = one.normalization if one.kind == "rna" else "auto"
            like: Any = {"used": found.columns >= 0}
            if one.kind == "rna":
                like["expected"] = setup.expected
            stats[one.kind], _ = check_modality(adata, given, expected, new=True, **like)
            sources.append(open_rows(matrix_of(adata, one.layer), where=given.where))
            columns.append(np.where(found.columns >= 0, found.columns + start, -1))
            query += [f"{one.kind}:{name}" for name in adata.var_names]
            ambiguous += [f"{one.kind}:{name}" for name in found.ambiguous]
            n_by_alias, n_found = n_by_alias + found.n_by_alias, found.n_matched
            if found.n_missing:
                reports.append(f"{one.kind}: {found.report()}")
        else:
            reports.append(f"{one.kind}: not in the data.")
        assert setup.target_sum is not None
        blocks.append(
            FeatureBlock(
                one.kind,
                start,
                stop,
                cast("Normalization", one.normalization),
                setup.target_sum,
                n_found,
                idf if one.normalization == "tfidf" else None,
            )
        )
        start = stop
    alignment = GeneAlignment(
        genes.names,
        np.asarray(query, dtype=object),
        np.concatenate(columns),
        np.asarray(ambiguous, dtype=object),
        n_by_alias,
    )
    for report in reports:
        _LOGGER.info(report)
    matrix = JoinedRows(sources, [places[kind] for kind in mods])
    cells: Any = Cells(data, obs)
    reader = CellReader(setup, cells, matrix, None if alignment.is_identity else alignment)
    reader.normalize = BlockNormalizer(blocks)
    absent = np.full(len(names), -1)
    present = [places.get(one.kind, absent) >= 0 for one in setup.modalities]
    reader.obs[PRESENT] = np.stack(present, axis=1)
    reader.fingerprint = mudata_fingerprint(stats, places, query)
    return reader


def stripped(genes: GeneVocabulary, one: ModalitySetup, start: int) -> list[str]:
    """Names of the features of a modality, without what says whose they are."""
    prefix = len(one.kind) + 1
    return [name[prefix:] for name in genes.names[start : start + one.n_features]]


def check_mudata(mdata: Any) -> None:
    """Refuse anything but a MuData whose modalities are of cells."""
    if not hasattr(mdata, "mod") or not hasattr(mdata, "obsmap"):
        raise TypeError(
            f"`mdata` must be a MuData, found {type(mdata).__name__}. A file is read by "
            "mudata.read_h5mu, several AnnData are put together by mudata.MuData; one modality alone "
            "is set up with setup_anndata."
        )
    if getattr(mdata, "axis", 0) != 0:
        raise ValueError(
            f"The modalities of `mdata` must share cells (axis=0), found axis={mdata.axis}. Make it "
            "anew from its modalities."
        )


def find_modalities(mdata: Any, asked: Mapping[str, str | None]) -> dict[str, str]:
    """Name in the MuData of every modality to use, by kind; names that are usual need not be there."""
    usual = {"rna": "rna", "protein": "prot", "atac": "atac"}
    there = ", ".join(map(repr, mdata.mod))
    found: dict[str, str] = {}
    for kind, name in asked.items():
        if name is None:
            continue
        if name not in mdata.mod:
            if name == usual[kind]:
                continue
            raise MissingKeyError(
                f"There is no modality {name!r} in `mdata`, given as `{kind}`; there are: {there}."
            )
        if name in found.values():
            raise ValueError(
                f"The modality {name!r} was named twice. Pass None for what `mdata` does not have."
            )
        found[kind] = name
    if len(found) < 2:
        which = next(iter(found.values()), None)
        msg = (
            f"Needs two modalities, found {'none' if which is None else repr(which)}; `mdata` has: "
            f"{there}. Name them as `rna`, `protein` or `atac`"
        )
        if which is not None and len(mdata.mod) == 1:
            msg += f'. For one modality, set up mdata.mod["{which}"] with setup_anndata'
        raise ValueError(msg)
    return found


def check_modality(
    adata: AnnData,
    setup: ModalitySetup,
    input: str,
    *,
    new: bool = False,
    others: Sequence[str] = (),
    expected: Scale | None = None,
    used: np.ndarray | None = None,
) -> tuple[MatrixStats, str]:
    """Scan the matrix of a modality and refuse what cannot be normalised as asked.

    Returns what was found and the normalisation; that of RNA follows from the values. `new` data are
    read by a model that exists, which changes what can be done about them; otherwise the names of the
    `others` that are set up do.
    """
    layer_name = f"{setup.kind}_layer"
    layers = [one for one in adata.layers if one is not None]
    mend = "Fill it" if new else f"Say which layer to use, as `{layer_name}`"
    if layers and not new:
        mend = f"Say which layer to use: `{layer_name}={layers[0]!r}`"
    matrix = matrix_of(adata, setup.layer, setup.mod, mend=mend)
    stats, kind = scan_matrix(matrix, where=setup.where, used=used), setup.normalization
    if setup.kind == "rna":
        refuse_features(adata, by_model=new, name=setup.mod)
        called: Any = {"name": setup.mod, "layer_name": layer_name, "expected": expected}
        decision = decide_input(adata, setup.layer, stats, input, by_model=new, **called)
        kind = decision.kind
        if input == "auto":
            _LOGGER.info("Input: %s.", decision.reason)
    else:
        _check_values(adata, setup, stats, new, others)
    if stats.n_empty_cells and kind != "none":
        first = str(adata.obs_names[stats.empty_cells[0]])
        warn(
            f"{stats.n_empty_cells:,} of {stats.n_obs:,} cells have no value in {setup.where}, the "
            f"first is {first!r}. They count as cells that have this modality. If it was not measured, "
            f"leave them out of it: {_keep(setup, f'np.ravel({setup.where}.sum(axis=1)) > 0')}"
        )
    return stats, kind


def _keep(setup: ModalitySetup, cells: str) -> str:
    """The line that leaves the other cells out of a modality, or of an AnnData that is read in its place."""
    line = f"{setup.mod} = {setup.mod}[{cells}].copy()"
    return f"`{line}; mdata.update()`" if setup.name else f"`{line}`"


def _check_values(
    adata: AnnData, setup: ModalitySetup, stats: MatrixStats, new: bool, others: Sequence[str]
) -> None:
    what, where = setup.normalization, setup.where
    leave_out = f"Leave the modality out: `{setup.kind}=None`"
    if new:
        leave_out = f"Leave the modality out: `del {setup.mod}; mdata.update()`"
    elif len(others) == 1:
        leave_out = (
            f'There is one modality then: set up mdata.mod["{others[0]}"] with setup_anndata.'
        )

    def place(entry: Any) -> str:
        cell, feature = adata.obs_names[entry.row], adata.var_names[entry.column]
        return f"{number(entry.value)} in cell {str(cell)!r}, feature {str(feature)!r}"

    if not stats.n_obs or not stats.n_vars:
        lacking = "cells" if not stats.n_obs else "features"
        raise ValueError(f"{where} has no {lacking}. {leave_out}")
    if stats.n_nonfinite:
        raise ValueError(
            f"{where} has {stats.n_nonfinite:,} values that are NaN or infinite; the first is "
            f"{place(stats.first_nonfinite)}. Cells in which {setup.name!r} was not measured are left out "
            f"of that modality: {_keep(setup, f'np.isfinite(np.ravel({where}.sum(axis=1)))')}"
        )
    if what == "none":
        return
    option = f"{setup.kind}_normalization"
    wanted, mend = f"the normalisation {what!r} is for counts", ""
    if stats.n_negative or not stats.all_integer:
        called: Any = {"name": setup.mod, "layer_name": f"{setup.kind}_layer"}
        mend = find_counts(adata, layer=setup.layer, by_model=new, **called)
        mend = mend or f"Put the counts that these values were made of into {where}."
    if new:
        # The model exists: what can change are the values.
        wanted = f"the model reads counts ({what!r})"
    elif setup.kind == "protein":
        mend += f' To use them as they are: `{option}="none"`'
    if stats.n_negative:
        raise ValueError(
            f"{where} has {stats.n_negative:,} negative values; the first is "
            f"{place(stats.first_negative)}. But {wanted}, and these are normalised already. {mend}"
        )
    if not stats.all_integer:
        raise ValueError(
            f"{where} has fractions ({place(stats.first_fraction)}), but {wanted}. {mend}"
        )
    if stats.n_empty_cells == stats.n_obs:
        raise ValueError(f"{where} is all zero. {leave_out}")
