"""What kind of values a matrix holds: raw counts, log-normalised, or something no model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_choice

from ._rows import InputKind
from ._scan import Entry, MatrixStats, scan_matrix
from ._source import open_rows

if TYPE_CHECKING:
    from anndata import AnnData

# log1p of a million is 13.8, log2 of it 20: no logarithm of expression reaches this.
_LOG_MAX = 25.0


@dataclass(frozen=True)
class InputDecision:
    """How a matrix is treated, and why.

    Parameters
    ----------
    kind
        ``"counts"`` (normalised when read) or ``"lognorm"`` (used as it is).
    reason
        One sentence for the user.
    """

    kind: InputKind
    reason: str


def resolve_input(
    stats: MatrixStats,
    input: str = "auto",
    *,
    where: str | None = None,
    raw_hint: str = "",
    obs_names: Sequence[str] | None = None,
    var_names: Sequence[str] | None = None,
    by_model: bool = False,
) -> InputDecision:
    """Decide whether a matrix holds counts or log-normalised values, or refuse it.

    Parameters
    ----------
    stats
        Result of :func:`scan_matrix`.
    input
        ``"counts"`` or ``"lognorm"`` to state what the values are, which is checked, or ``"auto"``.
    where
        How messages call the matrix; by default the name it was scanned under.
    raw_hint
        Where counts are instead, see :func:`find_counts`; added to messages that need it.
    obs_names, var_names
        Names of cells and genes for messages; without them their numbers are given.
    by_model
        Whether `input` is what a model reads, so that it is the values that have to change.

    Returns
    -------
    InputDecision
        The kind and the reason.

    Raises
    ------
    ValueError
        If there are no cells, no genes or only zeros; if there are values that are not finite or
        negative; or if the values are not what `input` says, or neither of the two kinds. The
        message says what was found, where, and what to type.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import resolve_input, scan_matrix
    >>> counts = np.array([[0, 3, 120], [1, 0, 40]])
    >>> resolve_input(scan_matrix(counts)).kind
    'counts'
    >>> resolve_input(scan_matrix(np.log1p(counts))).kind
    'lognorm'
    >>> resolve_input(scan_matrix(np.log1p(counts)), "counts")
    Traceback (most recent call last):
        ...
    ValueError: adata.X looks log-normalised (...), but input="counts" was given. ...
    """
    check_choice("input", input, ("auto", "counts", "lognorm"))
    where = stats.where if where is None else where
    hint = f" {raw_hint}" if raw_hint else ""

    def name_of(entry: Entry | None) -> str:
        assert entry is not None
        cell = repr(str(obs_names[entry.row])) if obs_names is not None else f"row {entry.row}"
        gene = (
            repr(str(var_names[entry.column]))
            if var_names is not None
            else (f"column {entry.column}")
        )
        return f"{entry.value:g} in cell {cell}, gene {gene}"

    _refuse_unusable(stats, where, hint, name_of)
    if stats.all_integer:
        return _resolve_integers(stats, input, where, by_model)
    if stats.max >= _LOG_MAX or (stats.constant_sum and not stats.constant_expm1_sum):
        _refuse_unlogged(stats, _asked(input, by_model), where, hint, name_of)
    if input == "counts":
        mend = 'Pass input="lognorm" to use it as it is.'
        if by_model:
            mend = f"Put the counts there that these values were made of: {where} = ..."
        raise ValueError(
            f"{where} looks log-normalised ({name_of(stats.first_fraction)}, largest value "
            f"{stats.max:.3g}){_asked(input, by_model)}. {hint.lstrip() if by_model and hint else mend + hint}"
        )
    evidence = "; expm1 of all cells sums to the same" if stats.constant_expm1_sum else ""
    return InputDecision(
        "lognorm",
        f"{where} has fractions and no value above {stats.max:.3g}{evidence}: log-normalised, "
        "used as it is",
    )


def _refuse_unusable(stats: MatrixStats, where: str, hint: str, name_of: Any) -> None:
    if not stats.n_obs or not stats.n_vars:
        what = "cells" if not stats.n_obs else "genes"
        raise ValueError(f"{where} has no {what} (shape {stats.n_obs} × {stats.n_vars}).")
    if stats.n_nonfinite:
        raise ValueError(
            f"{where} has {stats.n_nonfinite:,} values that are NaN or infinite; the first is "
            f"{name_of(stats.first_nonfinite)}. Find out where they come from; to drop the cells: "
            f"adata = adata[np.isfinite(np.ravel({where}.sum(axis=1)))].copy()"
        )
    if stats.n_negative:
        raise ValueError(
            f"{where} has {stats.n_negative:,} negative values; the first is "
            f"{name_of(stats.first_negative)}. This looks like scaled or residual data "
            "(sc.pp.scale, Pearson residuals, regress_out), but a model needs raw counts or "
            "log-normalised values. Use those from before that step: a layer (layer=...), or adata.raw "
            f"(adata = adata.raw.to_adata()).{hint}"
        )
    if stats.n_empty_cells == stats.n_obs:
        raise ValueError(
            f"{where} is all zero: none of its {stats.n_obs:,} cells has a value.{hint}"
        )
    if stats.max > float(np.finfo(np.float32).max):
        raise ValueError(f"{where} has values up to {stats.max:.3g}, too large for float32.")


def _asked(input: str, by_model: bool) -> str:
    """Part of a message on what the values should be."""
    if input == "auto":
        return ""
    if not by_model:
        return f', but input="{input}" was given'
    kind = "raw counts" if input == "counts" else "log-normalised values"
    return f", but the model was set up with {kind} and reads these"


def _resolve_integers(stats: MatrixStats, input: str, where: str, by_model: bool) -> InputDecision:
    if input == "lognorm" and stats.max > 1:
        how = "normalise them first"
        if by_model:
            how = "Normalise them as those of the model were, for instance"
        else:
            how = f'Pass input="counts" to have them normalised, or {how}'
        layer = where.partition(".layers[")[2].removesuffix("]")
        layer = f", layer={layer}" if layer else ""
        raise ValueError(
            f"{where} holds counts (all values are whole numbers, up to {stats.max:g})"
            f"{_asked(input, by_model)}. {how}: sc.pp.normalize_total(adata, target_sum=1e4{layer}); "
            f"sc.pp.log1p(adata{layer})"
        )
    if input == "lognorm":
        return InputDecision("lognorm", f"{where} holds only 0 and 1, used as it is as asked")
    return InputDecision(
        "counts",
        f"all values of {where} are whole numbers from 0 to {stats.max:g}, median sum of a cell "
        f"{stats.median_sum:,.0f}: counts, normalised when read",
    )


def _refuse_unlogged(stats: MatrixStats, asked: str, where: str, hint: str, name_of: Any) -> None:
    found = f"{name_of(stats.first_fraction)}, largest value {stats.max:.4g}"
    if stats.constant_sum:
        what = (
            f"normalised but not log-transformed (all cells sum to {stats.median_sum:.4g}; {found})"
        )
        mend = "Take the logarithm: sc.pp.log1p(adata)"
    else:
        what = f"neither counts (not all whole numbers) nor logarithms ({found})"
        mend = (
            f"If these are estimated or corrected counts, round them: {where} = {where}.rint() where "
            f"sparse, np.rint({where}) where dense; if they are normalised, take the logarithm: "
            "sc.pp.log1p(adata)"
        )
    raise ValueError(f"{where} looks {what}{asked}. {mend}.{hint}")


def find_counts(adata: AnnData, *, layer: str | None = None, by_model: bool = False) -> str:
    """Look for counts in the other matrices of an AnnData.

    Parameters
    ----------
    adata
        Annotated data.
    layer
        The layer that is used already; ``None`` for ``adata.X``.
    by_model
        Whether a model reads the data, for which the layer cannot be another: counts are then to be
        put where it looks for them.

    Returns
    -------
    str
        Where counts were found and what to type, for `raw_hint` of :func:`resolve_input`;
        empty where there are none. Judged by a sample of cells.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from scssl.data import find_counts
    >>> adata = anndata.AnnData(np.log1p(np.ones((3, 2))), layers={"counts": np.full((3, 2), 5)})
    >>> find_counts(adata)
    'Counts were found in adata.layers["counts"]: pass layer="counts".'
    """
    hints = []
    here = "adata.X" if layer is None else f'adata.layers["{layer}"]'
    if layer is not None and _holds_counts(adata.X):
        hints.append(f"adata.X: {f'{here} = adata.X' if by_model else 'pass layer=None'}")
    hints += [
        f'adata.layers["{name}"]: '
        + (f'{here} = adata.layers["{name}"]' if by_model else f'pass layer="{name}"')
        for name, values in adata.layers.items()
        # Newer AnnData lists X itself as the layer None.
        if name is not None and name != layer and _holds_counts(values)
    ]
    raw = getattr(adata, "raw", None)
    if raw is not None and _holds_counts(raw.X):
        more = "" if layer is None or not by_model else f"; {here} = adata.X"
        hints.append(f"adata.raw: use adata = adata.raw.to_adata(){more}")
    return f"Counts were found in {'; in '.join(hints)}." if hints else ""


def _holds_counts(X: Any, n_cells: int = 256) -> bool:
    if X is None:
        return False
    try:
        source = open_rows(X)
    except (TypeError, ValueError):
        return False
    stats = scan_matrix(source.read(np.arange(min(n_cells, source.shape[0]))))
    return stats.all_integer and stats.n_negative == 0 and stats.max > 1
