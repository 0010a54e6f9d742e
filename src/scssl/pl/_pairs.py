"""Which scores of two arms belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scssl._errors import warn

if TYPE_CHECKING:
    import pandas as pd


def pairs_of(
    rows: pd.DataFrame,
    metric: str,
    x: str,
    y: str,
    arm_key: str,
    dataset_key: str,
    repeat_key: str | None,
) -> pd.DataFrame:
    """Mean and standard deviation of both arms by data set."""
    rows = rows[rows[arm_key].isin([x, y])]
    keys = [dataset_key, arm_key, *([] if repeat_key is None else [repeat_key])]
    _check_one_row(rows, keys, repeat_key)
    for name, of_set in rows.groupby(dataset_key, observed=True, sort=False):
        # Without a key there is one repeat.
        repeats = of_set[repeat_key] if repeat_key is not None else of_set[arm_key].map(lambda _: 0)
        found = {arm: set(repeats[of_set[arm_key] == arm]) for arm in (x, y)}
        for arm, other in ((x, y), (y, x)):
            lacking = sorted(found[other] - found[arm], key=str)
            if lacking:
                what = "row" if repeat_key is None else f"{repeat_key} {_shown(lacking)}"
                raise ValueError(
                    f"Data set {name!r} has no {what} of {arm!r}, but of {other!r}: without the same "
                    "runs of both arms the pair means nothing. Leave it out: "
                    f"`scores = scores[scores[{dataset_key!r}] != {name!r}]`."
                )
    groups = rows.groupby([dataset_key, arm_key], observed=True, sort=False)[metric]
    mean, sd = groups.mean().unstack(), groups.std().unstack()
    broken = rows.loc[rows[metric].isna(), dataset_key].unique()
    if len(broken):
        warn(
            f"{len(broken)} of {len(mean)} data sets are left out, their {metric!r} is NaN in a run: "
            f"{', '.join(map(str, broken[:5]))}."
        )
    points = mean[[x, y]].set_axis(["x", "y"], axis=1)
    points[["x_sd", "y_sd"]] = sd[[x, y]].to_numpy()
    return points[~points.index.isin(broken)]


def _check_one_row(rows: pd.DataFrame, keys: list[str], repeat_key: str | None) -> None:
    """Raise where a data set has several rows of an arm and repeat, with what tells them apart."""
    twice = rows.duplicated(keys, keep=False)
    if not twice.any():
        return
    first = rows[twice].iloc[0]
    same = rows[(rows[keys] == first[keys]).all(axis=1)]
    dataset, arm = (first[key] for key in keys[:2])
    where = "" if repeat_key is None else f" with {repeat_key} {_shown([first[repeat_key]])}"
    msg = f"Data set {dataset!r} has {len(same)} rows of {arm!r}{where}"
    # Scores differ too, but nobody chooses a row by them.
    apart = [
        column
        for column in rows
        if rows[column].dtype.kind != "f" and not rows.duplicated([*keys, column]).any()
    ]
    if not apart:
        msg += ", and no column says why. Keep one of them."
        if repeat_key is None:
            msg += " Of repeats, name the column as `repeat_key`."
        raise ValueError(msg)
    column, value = str(apart[0]), _shown([same[apart[0]].iloc[0]])
    msg += (
        f" that differ in {column!r}. Draw a panel for each of its values, `panel_key={column!r}`, or "
        f"choose one: `scores = scores[scores[{column!r}] == {value}]`."
    )
    if repeat_key is None:
        msg += f" If they are repeats: `repeat_key={column!r}`."
    raise ValueError(msg)


def _shown(values: list[Any]) -> str:
    """Values as they are typed."""
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    return ", ".join(map(repr, plain[:5]))
