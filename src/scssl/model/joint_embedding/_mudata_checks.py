"""Checks of a MuData and of the values of its modalities."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from scssl._errors import warn
from scssl.data import MatrixStats, find_counts, resolve_input, scan_matrix
from scssl.model.base import ModalitySetup, matrix_of

_LOGGER = logging.getLogger("scssl")


def check_mudata(mdata: Any) -> None:
    """Refuse anything but a MuData whose modalities are of cells."""
    if not hasattr(mdata, "mod") or not hasattr(mdata, "obsmap"):
        raise TypeError(
            f"`mdata` must be a MuData, found {type(mdata).__name__}. For a file: mdata = "
            'mudata.read_h5mu("file.h5mu"); from AnnData: mdata = mudata.MuData({"rna": rna, '
            '"prot": protein}). Of one modality alone: setup_anndata(adata)'
        )
    if getattr(mdata, "axis", 0) != 0:
        raise ValueError(
            f"The modalities of `mdata` must share cells (axis=0), found axis={mdata.axis}. Make it "
            "anew: mdata = mudata.MuData(dict(mdata.mod))"
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
            raise KeyError(
                f"There is no modality {name!r} in `mdata`, given as {kind}=...; there are: {there}."
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
            f'{there}. Name them, for instance setup_mudata(mdata, rna="rna", protein="prot")'
        )
        if which is not None and len(mdata.mod) == 1:
            msg += f'. For one modality: setup_anndata(mdata.mod["{which}"])'
        raise ValueError(msg)
    return found


def check_modality(
    adata: AnnData, setup: ModalitySetup, input: str, *, new: bool = False
) -> tuple[MatrixStats, str]:
    """Scan the matrix of a modality and refuse what cannot be normalised as asked.

    Returns what was found and the normalisation; that of RNA follows from the values. `new` data are
    read by a model that exists, which changes what can be done about them.
    """
    try:
        matrix = matrix_of(adata, setup.layer)
    except (KeyError, ValueError) as error:
        message = error.args[0]
        if new:
            message = message.replace(
                "Say which layer to use: layer=...", f"Fill it: {setup.where} = ..."
            )
        message = message.replace("layer=...", f"{setup.kind}_layer=...")
        raise type(error)(_of_modality(message, setup)) from error
    stats = scan_matrix(matrix, where=setup.where)
    if setup.kind == "rna":
        try:
            kind = _rna_kind(adata, setup, stats, input, new)
        except ValueError as error:
            message = _of_modality(str(error), setup)
            # Of the arguments of setup_mudata, not of those of scanpy.
            raise ValueError(re.sub(r"(?<!, )\blayer=", "rna_layer=", message)) from error
    else:
        kind = setup.normalization
        _check_values(adata, setup, stats, new)
    if stats.n_empty_cells and kind != "none":
        first = str(adata.obs_names[stats.empty_cells[0]])
        warn(
            f"{stats.n_empty_cells:,} of {stats.n_obs:,} cells have no value in {setup.where}, the "
            f"first is {first!r}. They count as cells that have this modality. If it was not measured, "
            f"leave them out of it: {setup.mod} = {setup.mod}[np.ravel({setup.where}.sum(axis=1)) > "
            "0].copy(); mdata.update()"
        )
    return stats, kind


def _rna_kind(
    adata: AnnData, setup: ModalitySetup, stats: MatrixStats, input: str, new: bool
) -> str:
    known: Any = {"obs_names": adata.obs_names, "var_names": adata.var_names, "by_model": new}
    try:
        decision = resolve_input(stats, input, **known)
    except ValueError:
        hint = find_counts(adata, layer=setup.layer, by_model=new)
        decision = resolve_input(stats, input, raw_hint=hint, **known)
    if input == "auto":
        _LOGGER.info("Input: %s.", decision.reason)
    return decision.kind


def _of_modality(message: str, setup: ModalitySetup) -> str:
    """A message about ``adata``, about a modality."""
    return re.sub(r"\badata\b", setup.mod, message)


def _check_values(adata: AnnData, setup: ModalitySetup, stats: MatrixStats, new: bool) -> None:
    what, where = setup.normalization, setup.where
    leave_out = f"del {setup.mod}; mdata.update()" if new else f"{setup.kind}=None"

    def place(entry: Any) -> str:
        cell, feature = adata.obs_names[entry.row], adata.var_names[entry.column]
        return f"{entry.value:g} in cell {str(cell)!r}, feature {str(feature)!r}"

    if not stats.n_obs or not stats.n_vars:
        lacking = "cells" if not stats.n_obs else "features"
        raise ValueError(f"{where} has no {lacking}. Leave the modality out: {leave_out}")
    if stats.n_nonfinite:
        raise ValueError(
            f"{where} has {stats.n_nonfinite:,} values that are NaN or infinite; the first is "
            f"{place(stats.first_nonfinite)}. Cells in which {setup.name!r} was not measured are left out "
            f"of that modality: {setup.mod} = {setup.mod}[np.isfinite(np.ravel({where}.sum(axis=1)))]"
            ".copy(); mdata.update()"
        )
    if what == "none":
        return
    option = f"{setup.kind}_normalization"
    wanted = f"{option}={what!r} is for counts"
    mend = f"Pass a layer with counts: {setup.kind}_layer=..."
    if setup.kind == "protein":
        mend += f' To use them as they are: {option}="none"'
    if new and (stats.n_negative or not stats.all_integer):
        # The model exists: what can change are the values.
        wanted = f"the model reads counts ({what!r})"
        hint = find_counts(adata, layer=setup.layer, by_model=True)
        mend = _of_modality(hint, setup) or (
            f"Put the counts there that these values were made of: {where} = ..."
        )
    if stats.n_negative:
        raise ValueError(
            f"{where} has {stats.n_negative:,} negative values; the first is "
            f"{place(stats.first_negative)}. But {wanted}, and these are normalised already. {mend}"
        )
    if not stats.all_integer:
        raise ValueError(
            f"{where} has fractions ({place(stats.first_fraction)}, largest value {stats.max:.4g}), but "
            f"{wanted}. {mend}"
        )
    if stats.n_empty_cells == stats.n_obs:
        raise ValueError(f"{where} is all zero. Leave the modality out: {leave_out}")
