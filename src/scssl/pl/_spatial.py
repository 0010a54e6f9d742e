"""Cells where they lie in the tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scssl._checks import check_adata, check_choice, check_number, check_whole, get_column, some
from scssl._errors import MissingKeyError
from scssl._places import coordinates_of, sample_codes

from ._embedding import drawable_column, genes_of
from ._figure import category_colors, figure, finish, legend_beside, legend_width, make_panels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

type Color = str | tuple[str, int | str]
# Inches of a panel, and the part of the distance between neighbours that a cell covers.
_PANEL, _COVER = 3.2, 0.9


@figure
def spatial(
    adata: AnnData,
    color: Color | Sequence[Color] | None = None,
    *,
    spatial_key: str | Sequence[str] = "spatial",
    sample_key: str | None = None,
    samples: Sequence[str] | None = None,
    n_columns: int = 4,
    size: float | None = None,
    cmap: str = "viridis",
    microns_per_unit: float | None = None,
    origin: Literal["upper", "lower"] = "upper",
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw cells where they lie, sections side by side.

    All sections have the same colours, and both axes the same unit. The y axis points down, as rows of
    images do and as instruments that take images count: turn it with `origin`.

    Parameters
    ----------
    adata
        Cells with places. Nothing is changed but ``adata.uns[f"{color}_colors"]``, as scanpy does.
    color
        What cells are coloured by: a column of `adata.obs`, a gene, or a column of an entry of `adata.obsm`
        as a tuple, ``("X_ssl", 0)``, by its name where it is a frame. A list of several is drawn below one
        another. Genes of counts are drawn log-normalised.
    spatial_key
        Entry of `adata.obsm` with the places, of which the first two coordinates are drawn, or two columns of
        `adata.obs`, x and y. Cells without a place are left out.
    sample_key
        Column of `adata.obs` with the section of each cell; without it all are drawn in one panel.
    samples
        Sections to draw, in this order; all by default.
    n_columns
        Panels in a row, where there is one `color`.
    size
        Area of a cell in square points; by default such that nearest cells just do not touch.
    cmap
        Colours of numbers.
    microns_per_unit
        Micrometres in a unit of the places, for a scale bar. By default ``microns_per_pixel`` of the
        ``scalefactors`` in ``adata.uns["spatial"]``, where Visium HD has it; without either there is no bar.
    origin
        ``"upper"``: the y axis points down; ``"lower"``: up.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If places, a column, a gene or a section is not there.
    ValueError
        If no cell has a place, an argument is out of range, or there are several panels for one `ax`.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> adata.obsm["spatial"] = np.random.default_rng(0).random((adata.n_obs, 2))
    >>> axes = scssl.pl.spatial(adata, "louvain", sample_key="phase", show=False)
    >>> [ax.get_title() for ax in axes]
    ['G1', 'G2M', 'S']
    """
    check_adata(adata)
    check_choice("origin", origin, ("upper", "lower"))
    n_columns = check_whole("n_columns", n_columns)
    size = check_number("size", size, "(0, inf)", none=True)
    scale = check_number("microns_per_unit", microns_per_unit, "(0, inf)", none=True)
    if scale is None:
        scale = _microns_per_pixel(adata)
    places = coordinates_of(adata, spatial_key, planar=False, needed=True)[:, :2]
    sections = _sections(adata, places, sample_key, samples)
    colors: list[Any] = list(color) if isinstance(color, list) else [color]
    if not colors:
        raise ValueError("There is nothing to draw: `color` is empty.")
    values = [_values(adata, one) for one in colors]

    width = min(len(sections), n_columns) if len(colors) == 1 else len(sections)
    n_panels = len(sections) * len(colors)
    legends = max(legend_width(one) for one in values)
    spans = [np.ptp(places[rows], axis=0) for rows in sections.values()]
    tall = max((float(y / x) if x else 1.0 for x, y in spans))
    height = _PANEL * float(np.clip(tall, 0.3, 2)) + 0.4
    shape = (_PANEL * width + legends, height * ceil(n_panels / width))
    panels = make_panels(n_panels, ax, shape, "give one `color`, one section", n_columns=width)
    for number, (name, column) in enumerate(zip(colors, values, strict=True)):
        row = panels[number * len(sections) :][: len(sections)]
        paint, shown = _paint(adata, name, column, cmap)
        for panel, (section, rows) in zip(row, sections.items(), strict=True):
            area = _area(places[rows]) if size is None else size
            panel.scatter(places[rows, 0], places[rows, 1], s=area, c=paint[rows], linewidth=0)
            _frame(panel, places[rows], origin, scale)
            panel.set_title(section)
        beside = row[min(width, len(row)) - 1]
        if isinstance(shown, dict):
            legend_beside(beside, shown, _title(name))
        elif shown is not None:
            bar = beside.inset_axes((1.03, 0, 0.04, 1))
            beside.figure.colorbar(shown, cax=bar, label=_title(name))
    return finish(panels, ax, show=show, save=save)


def _sections(
    adata: AnnData, places: np.ndarray, sample_key: str | None, samples: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """Rows of the cells that have a place, by the name of their section."""
    placed = ~np.isnan(places[:, 0])
    if sample_key is None:
        if samples is not None:
            raise ValueError("`samples` are sections of a `sample_key`, which is None.")
        return {"": np.flatnonzero(placed)}
    codes = sample_codes(adata, sample_key)
    names = get_column(adata, sample_key).astype(str).to_numpy()
    found = {
        str(names[codes == code][0]): np.flatnonzero((codes == code) & placed)
        for code in np.unique(codes[placed])
    }
    wanted = list(found) if samples is None else list(map(str, samples))
    unknown = [name for name in wanted if name not in found]
    if unknown or not wanted:
        raise MissingKeyError(
            f"No cell with a place is in {some(unknown) or 'no section'} of adata.obs[{sample_key!r}]; "
            f"there are: {some(found, 20)}."
        )
    return {name: found[name] for name in wanted}


def _values(adata: AnnData, color: Color | None) -> pd.Series[Any] | None:
    """What cells are coloured by, as numbers or categories."""
    if color is None:
        return None
    if isinstance(color, tuple):
        return _of_obsm(adata, color)
    if color in adata.obs.columns:
        return drawable_column(get_column(adata, color, "color"))
    return pd.Series(genes_of(adata, [color])[:, 0], index=adata.obs_names)


def _of_obsm(adata: AnnData, color: tuple[Any, ...]) -> pd.Series[Any]:
    key, name = color if len(color) == 2 else (color, None)
    if not isinstance(key, str) or key not in adata.obsm:
        there = some(adata.obsm, 20) or "nothing"
        raise MissingKeyError(
            f"`color` {color!r} must be an entry of adata.obsm, which has {there}, and one of its columns."
        )
    table: Any = adata.obsm[key]
    columns = list(table.columns) if isinstance(table, pd.DataFrame) else range(table.shape[1])
    if name not in columns:
        raise MissingKeyError(
            f"adata.obsm[{key!r}] has no column {name!r}; it has {some(columns)}."
        )
    if isinstance(table, pd.DataFrame):
        return drawable_column(table[name])
    return drawable_column(pd.Series(np.asarray(table[:, name]).ravel(), index=adata.obs_names))


def _title(color: Color | None) -> str:
    return "" if color is None else color if isinstance(color, str) else f"{color[0]} {color[1]}"


def _paint(
    adata: AnnData, color: Color | None, column: pd.Series[Any] | None, cmap: str
) -> tuple[np.ndarray, Any]:
    """Colour of every cell; and for the legend the colour of every category, or the scale of numbers."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgba, to_rgba_array

    unknown = to_rgba("lightgray")
    if column is None:
        return np.tile(to_rgba("dimgray"), (adata.n_obs, 1)), None
    if column.dtype == "category":
        key = color if isinstance(color, str) else None
        colors = category_colors(adata, key, column.cat.categories)
        # The code of a missing value is -1, the last.
        table = np.vstack([to_rgba_array(list(colors.values())).reshape(-1, 4), unknown])
        if column.isna().any():
            colors["NA"] = "lightgray"
        return table[column.cat.codes.to_numpy()], colors
    numbers = column.to_numpy(dtype=np.float64)
    finite = np.isfinite(numbers)
    low, high = (numbers[finite].min(), numbers[finite].max()) if finite.any() else (0, 1)
    scale = ScalarMappable(Normalize(low, high), cmap)
    painted: np.ndarray = np.asarray(scale.to_rgba(np.where(finite, numbers, low)))
    painted[~finite] = unknown
    return painted, scale


def _area(places: np.ndarray) -> float:
    """Area of a cell, in square points, at which nearest cells of a panel nearly touch."""
    from scipy.spatial import cKDTree

    extent = float(np.ptp(places, axis=0).max())
    if len(places) < 2 or not extent:
        return 20.0
    apart = float(np.median(cKDTree(places).query(places, 2)[0][:, 1])) / extent * _PANEL * 72
    return float(np.clip((_COVER * apart) ** 2, 1, 100))


def _frame(ax: Axes, places: np.ndarray, origin: str, scale: float | None) -> None:
    """No axes but equal ones, and a bar of a round length, about a quarter of the width."""
    ax.set_aspect("equal")
    if origin == "upper":
        ax.invert_yaxis()
    ax.axis("off")
    extent = np.ptp(places[:, 0])
    if scale is None or not extent:
        return
    wanted = extent * scale / 4
    power = 10.0 ** floor(log10(wanted))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= wanted)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    left = places[:, 0].min()
    # Below the cells, in the unit of the places across and of the axes up.
    across = ax.get_xaxis_transform()
    ends = [left, left + length / scale]
    ax.plot(ends, [-0.03, -0.03], color="black", linewidth=2, transform=across, clip_on=False)
    middle = sum(ends) / 2
    ax.text(middle, -0.05, text, transform=across, ha="center", va="top", fontsize="small")


def _microns_per_pixel(adata: AnnData) -> float | None:
    """What Space Ranger says of images of Visium HD, if all libraries have the same."""
    libraries = adata.uns.get("spatial")
    if not isinstance(libraries, Mapping):
        return None
    factors = [
        one.get("scalefactors", {}) for one in libraries.values() if isinstance(one, Mapping)
    ]
    found = {one.get("microns_per_pixel") for one in factors}
    return float(found.pop()) if len(found) == 1 and None not in found else None
