"""What a benchmark says: means with intervals, differences to a baseline, ranks with ties."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import numpy as np

from scssl._checks import check_choice, check_number, check_whole, some, whole_numbers
from scssl._errors import MissingKeyError, warn
from scssl._random import RNG, as_seed, derive_generator

from ._metrics import BATCH, BIO, BIO_WEIGHT, METRICS, Metric, metric_of, score_label
from ._study import read_results

if TYPE_CHECKING:
    import pandas as pd

_LOGGER = logging.getLogger("scssl")
TASKS = (
    *("embedding", "few_labels", "annotation", "mapping", "integration", "clustering"),
    *("modality", "reconstruction"),
)
# Values of which a bootstrap is trusted.
_FEW = 10
# What tells one score from another, and one value of it.
_SCORE = ("data", "task", "split", "n_labels", "metric")
_REPEAT = ("data", "fold", "seed")
_NEEDED = (*_SCORE, "fold", "seed", "method", "arguments", "value", "seconds")


def benchmark_summary(
    results: pd.DataFrame | str | Path,
    *,
    baseline: str | None = "PCA",
    simple: Sequence[str] = ("PCA", "scVI"),
    repeat_keys: Sequence[Literal["data", "fold", "seed"]] | None = None,
    scaled: bool = False,
    level: float = 0.95,
    interval: Literal["t", "bootstrap"] = "t",
    n_bootstrap: int = 10_000,
    rng: RNG = 0,
) -> pd.DataFrame:
    r"""Say of each score of a benchmark which methods are best, and which are not told apart.

    A score is a metric of a task on a data set, with one kind of split and number of labels. Its values
    are those of the folds and seeds. With :math:`n` values of mean :math:`\bar x` and standard deviation
    :math:`s`, the interval of the mean is :math:`\bar x \pm t_{n-1} s / \sqrt n` by Student's t, or that
    of the means of values drawn again with replacement (percentiles :cite:p:`Efron1979`); of scores from 0 to
    1 it ends there.

    Two methods are compared on the folds and seeds that both have: a difference and its interval are
    those of the mean of the differences pair by pair, and the p value is that of the paired t test, or,
    by bootstrap, twice the share of drawn means on the other side of zero. p values are not corrected for
    the number of comparisons.

    **Ranks.** Methods are ordered by mean. The first has rank 1. Each next one has the rank of the one
    that was last given a rank of its own if the interval of their paired difference includes 0; otherwise
    its rank is its place in the order. A method with a value that failed, or was not run while others
    were, stands behind all that have every value, however good its other values are, and is tied with
    none. With one value there is no interval: ranks are places then, ties unknown.

    A value is a seed, with its own random cells; where groups are left out it is a group, the mean over its
    seeds, which share its cells. Folds share training cells, so that intervals over them are somewhat too
    narrow. `repeat_keys` asks otherwise: ``("seed",)`` averages over folds, ``("data",)`` over both and asks
    what other data sets would give.

    Parameters
    ----------
    results
        Rows of :func:`benchmark`, of one run or several, or the folder they were written to.
    baseline
        Method that others are compared with, or `None` for no such comparison.
    simple
        Methods of which ``.attrs["sentence"]`` says where they are as good as the best.
    repeat_keys
        Columns of which each combination is a value. Over the others is averaged first. By default ``fold``
        where several were left out, else ``fold`` and ``seed``.
    scaled
        Scale each score of a data set so that the lowest mean of a method is 0 and the highest 1, as
        published tables of integration do :cite:p:`Luecken2022`, and take bio conservation, batch
        correction and the total of integration from the scaled scores. What a method then has depends on
        which others there are, and columns ``mean`` to ``difference_high`` are no longer in units of the
        score.
    level
        Level of intervals.
    interval
        By Student's t, which is right for few values that scatter like a normal distribution, or by
        bootstrap, which needs some ten.
    n_bootstrap
        Draws of the bootstrap.
    rng
        Seed or generator of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row for each score and method, best first: ``data`` (``"all"`` where it is averaged over),
        ``task``, ``split``, ``n_labels``, ``metric``; ``method`` (with the arguments that differ, where
        it was run with several); ``mean``, ``low``, ``high``, ``n`` (values), ``n_failed`` (rows without
        a value), ``n_absent`` (rows that other methods have); ``rank``, ``tied_with_best`` (whether the
        interval of the paired difference to the first method includes 0; missing where that cannot be
        known); ``difference`` (to the baseline, in units of the score), ``difference_low``,
        ``difference_high``, ``p_value``; ``seconds`` (mean of a run) and ``transductive``. What cannot be
        computed is NaN. ``.attrs["sentence"]`` says where `simple` methods are as good as the best; it
        is logged as well.

    Raises
    ------
    KeyError
        If a column is not in `results`.
    ValueError
        If `results` is empty or has a value twice, a metric is unknown, there is no such method, or a
        parameter is out of range.

    Examples
    --------
    >>> import pandas as pd, scssl
    >>> rows = [("PCA", 0, 0.80), ("PCA", 1, 0.82), ("SimCLR", 0, 0.85), ("SimCLR", 1, 0.87)]
    >>> results = pd.DataFrame(rows, columns=["method", "seed", "value"]).assign(
    ...     data="pbmc",
    ...     task="embedding",
    ...     metric="knn_macro_f1",
    ...     split="cell",
    ...     fold="",
    ...     n_labels="",
    ...     arguments="{}",
    ...     seconds=1.0,
    ... )
    >>> summary = scssl.tl.benchmark_summary(results)
    >>> summary[["method", "mean", "rank", "difference"]].round(2).values.tolist()
    [['SimCLR', 0.86, 1, 0.05], ['PCA', 0.81, 2, 0.0]]
    """
    import pandas as pd

    results = tidy_results(results)
    level = check_number("level", level, "(0, 1)")
    check_choice("interval", interval, ("t", "bootstrap"))
    n_bootstrap = check_whole("n_bootstrap", n_bootstrap, 100)
    given = () if repeat_keys is None else repeat_keys
    repeats: list[str] = [given] if isinstance(given, str) else list(given)
    for key in repeats or ([""] if repeat_keys is not None else []):
        check_choice("repeat_keys", key, _REPEAT)
    seed = as_seed(rng) if interval == "bootstrap" else 0
    rows = _rows(results)
    if scaled:
        rows = _scaled(rows)
    methods = list(rows["method"].unique())
    if baseline is not None and baseline not in methods:
        _no_baseline(baseline, methods)
    keys = [key for key in _SCORE if key not in repeats]
    found = []
    # Sorted, so that the order of rows changes no bit of a sum.
    for names, of_score in rows.groupby(keys, sort=True):
        score = dict(zip(keys, names, strict=True))
        estimate = _Estimate(level, n_bootstrap if interval == "bootstrap" else 0, seed, names)
        own = repeats
        if repeat_keys is None:
            # Seeds of one fold are scored on the same cells: they are no values of their own.
            own = ["fold"] if of_score["fold"].nunique() > 1 else ["fold", "seed"]
        table = _score_table(of_score, metric_of(score["metric"]), own, baseline, estimate)
        found.append(table.assign(**{"data": "all", **score}))
    summary = pd.concat(found, ignore_index=True)
    summary = summary.sort_values(list(_SCORE), key=_place, kind="stable", ignore_index=True)
    _tell_absent(summary)
    few = summary.loc[summary["n"].between(2, _FEW - 1), "n"]
    if interval == "bootstrap" and len(few):
        warn(
            f'Bootstrap intervals of {few.min()} values are too narrow. Pass `interval="t"`, which is wide '
            f"where values are few, or give {_FEW} values or more."
        )
    summary = summary[[*_SCORE, *(name for name in found[0] if name not in _SCORE)]]
    summary.attrs["sentence"] = _sentence(summary, simple, level)
    _LOGGER.info("%s", summary.attrs["sentence"])
    return summary


def tidy_results(results: Any) -> pd.DataFrame:
    """A table of results with text where names stand, "" for none; an error unless it has each value once."""
    import pandas as pd

    if isinstance(results, (str, Path)):
        results = read_results(results)
    if not isinstance(results, pd.DataFrame):
        raise TypeError(f"`results` must be a pandas.DataFrame, found {type(results).__name__}.")
    absent = [name for name in _NEEDED if name not in results]
    if absent:
        found = some(results.columns, 20) or "no columns"
        raise MissingKeyError(f"`results` has no column {absent[0]!r}; it has {found}.")
    if not len(results):
        raise ValueError("`results` has no rows.")
    keys = [*_SCORE, "fold", "seed", "method", "arguments"]
    keys += ["transductive"] if "transductive" in results else []
    twice = results.duplicated(keys)
    if twice.any():
        first = results[twice].iloc[0]
        raise ValueError(
            f"`results` has {int(twice.sum())} values twice, such as {first['metric']!r} of "
            f"{first['method']!r} on {first['data']!r}, seed {first['seed']}. To keep the last of each: "
            f"`results = results.drop_duplicates({keys!r}, keep='last')`."
        )
    if not pd.api.types.is_numeric_dtype(results["value"]):
        found = results["value"].dtype
        raise TypeError(f"Column 'value' of `results` must be numbers, found {found}.")
    results = results.reset_index(drop=True)
    for name in (*_SCORE, "fold", "method"):
        # A table that was read from a file has NaN where nothing stands.
        column = whole_numbers(results[name], "results").astype(object)
        results[name] = column.where(column.notna(), "").astype(str)
    return results


def arguments_of(results: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What each text in column ``arguments`` says."""
    try:
        given = {text: json.loads(text) for text in results["arguments"].unique()}
        return {text: dict(one) for text, one in given.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Column 'arguments' of `results` must be JSON of a method's arguments: {error}."
        ) from error


def name_methods(results: pd.DataFrame) -> pd.Series[Any]:
    """Names of methods, with the arguments that differ where one was run in several ways."""
    arguments = arguments_of(results)
    names = results["method"]
    for method in names.unique():
        own = names == method
        given = {text: arguments[text] for text in results["arguments"][own].unique()}
        known = sorted({name for one in given.values() for name in one})
        apart = [n for n in known if len({_shown(one.get(n)) for one in given.values()}) > 1]
        label = {}
        for text, one in given.items():
            shown = ", ".join(f"{n}={_shown(one[n])}" for n in apart if n in one)
            label[text] = f"{method} ({shown})" if shown else method
        names = names.mask(own, results["arguments"].map(label))
    if "transductive" in results:
        flags = results["transductive"].astype(bool)
        both = flags.groupby(names).transform("nunique") > 1
        names = names.mask(both & flags, names + ", transductive")
    return names


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _no_baseline(baseline: str, methods: Sequence[str]) -> NoReturn:
    raise ValueError(
        f"There is no method {baseline!r} (`baseline`) in `results`, but {some(methods, 20)}. Compare with "
        f"one of them, `baseline={methods[0]!r}`, or with none, `baseline=None`."
    )


def _rows(results: pd.DataFrame) -> pd.DataFrame:
    """What is needed, in one order, with a row for each score of a run that failed as a whole."""
    import pandas as pd

    rows = results[[*_NEEDED, *(n for n in ("transductive", "error") if n in results)]].copy()
    rows["method"] = name_methods(results)
    rows["value"] = rows["value"].where(np.isfinite(rows["value"]))
    whole = rows["metric"] == ""
    if whole.any():
        scores = rows.loc[~whole, list(_SCORE)].drop_duplicates()
        failed = rows[whole].drop(columns="metric")
        each = failed.merge(scores, on=["data", "task", "split"], suffixes=("_run", ""), how="left")
        same = (each["n_labels_run"] == "") | (each["n_labels_run"] == each["n_labels"])
        lost = each[each["metric"].isna()]
        if len(lost):
            first = lost.iloc[0]
            why = f", the first with: {first['error']}" if first.get("error") else ""
            warn(
                f"Every run of {first['task']!r} on {first['data']!r} failed{why}. It is left out."
            )
        each = each[same & each["metric"].notna()].drop(columns="n_labels_run")
        # A run that failed late has the scores that it had by then.
        run = [*_SCORE, "method", "fold", "seed"]
        rows = pd.concat([rows[~whole], each], ignore_index=True).drop_duplicates(run)
        if not len(rows):
            raise ValueError(
                "`results` has no value: every run failed, for the reasons in 'error'."
            )
    return rows.sort_values([*_SCORE, "method", "fold", "seed"], ignore_index=True)


def _scaled(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the means of the methods of a score from 0 to 1, equal ones in the middle."""
    import pandas as pd

    score = [rows[name] for name in _SCORE]
    means = rows.groupby([*score, rows["method"]])["value"].transform("mean")
    low, high = (means.groupby(score).transform(end) for end in ("min", "max"))
    value = ((rows["value"] - low) / (high - low)).where(high > low, 0.5)
    rows = rows.assign(value=value.where(rows["value"].notna()))
    is_own = rows["task"] == "integration"
    if not is_own.any():
        return rows
    run = list(dict.fromkeys([*_SCORE, *_REPEAT, "method"]))
    run.remove("metric")
    wide = rows[is_own].pivot(index=run, columns="metric", values="value")
    for name, group in (("bio_conservation", BIO), ("batch_correction", BATCH)):
        parts = [one for one in wide if METRICS[one].group == group and one != name]
        wide[name] = wide[parts].mean(axis=1, skipna=False)
    wide["total"] = (
        BIO_WEIGHT * wide["bio_conservation"] + (1 - BIO_WEIGHT) * wide["batch_correction"]
    )
    keys = pd.MultiIndex.from_frame(rows.loc[is_own, [*run, "metric"]])
    rows.loc[is_own, "value"] = wide.stack(future_stack=True).reindex(keys).to_numpy()
    return rows


class _Estimate(NamedTuple):
    """Intervals of means, and p values of means of differences."""

    level: float
    n_bootstrap: int
    """0 for Student's t."""
    seed: int
    names: tuple[str, ...]
    """Of the score, for its draws."""

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Ends of the interval of the mean; NaN for fewer than two values."""
        from scipy.stats import t

        n = len(values)
        if n < 2:
            return float("nan"), float("nan")
        if self.n_bootstrap:
            ends = [(1 - self.level) / 2, (1 + self.level) / 2]
            low, high = np.quantile(self._means(values), ends)
            return float(low), float(high)
        half = t.ppf((1 + self.level) / 2, n - 1) * values.std(ddof=1) / n**0.5
        return float(values.mean() - half), float(values.mean() + half)

    def p_value(self, values: np.ndarray) -> float:
        """Two-sided, of a mean of 0; NaN for fewer than two values."""
        from scipy.stats import t

        n, mean = len(values), values.mean() if len(values) else 0.0
        if n < 2:
            return float("nan")
        if self.n_bootstrap:
            means = self._means(values)
            # One draw more, so that no p value is 0.
            beyond = 1 + min(int((means <= 0).sum()), int((means >= 0).sum()))
            return min(1.0, 2 * beyond / (1 + self.n_bootstrap))
        error = values.std(ddof=1) / n**0.5
        if error == 0:
            # Of methods that no seed changes there is one value, however often it is written.
            return 1.0 if mean == 0 else float("nan")
        return float(2 * t.sf(abs(mean) / error, n - 1))

    def _means(self, values: np.ndarray) -> np.ndarray:
        """Means of values drawn with replacement, the same places for all methods of a score."""
        n = len(values)
        rng = derive_generator(self.seed, "benchmark_summary", *self.names, n)
        means: np.ndarray = values[rng.integers(n, size=(self.n_bootstrap, n))].mean(axis=1)
        return means


def _score_table(
    rows: pd.DataFrame,
    metric: Metric,
    repeats: list[str],
    baseline: str | None,
    estimate: _Estimate,
) -> pd.DataFrame:
    """The methods of one score, best first."""
    import pandas as pd

    values = rows.groupby(["method", *repeats], sort=True)["value"].mean().unstack("method")
    n_expected = len(rows[list(_REPEAT)].drop_duplicates())
    table = []
    for method, own in rows.groupby("method", sort=True):
        known = values[method].dropna().to_numpy()
        low, high = estimate.interval(known)
        if metric.bounded and len(known) > 1:
            # As far as scores go: of two values the interval is many times as wide as they are apart.
            low, high = max(low, min(0.0, known.min())), min(high, 1.0)
        of_baseline = values.get(baseline)
        apart = (
            (values[method] - of_baseline).dropna().to_numpy()
            if of_baseline is not None
            else known[:0]
        )
        low_apart, high_apart = estimate.interval(apart)
        worked = own["value"].notna()
        table.append(
            {
                "method": method,
                "mean": float(known.mean()) if len(known) else float("nan"),
                "low": low,
                "high": high,
                "n": len(known),
                "n_failed": int((~worked).sum()),
                "n_absent": n_expected - len(own),
                "difference": float(apart.mean()) if len(apart) else float("nan"),
                "difference_low": low_apart,
                "difference_high": high_apart,
                "p_value": estimate.p_value(apart),
                "seconds": float(own.loc[worked, "seconds"].mean()),
                "transductive": bool(own["transductive"].any()) if "transductive" in own else False,
            }
        )
    # A method without any value comes last.
    table.sort(
        key=lambda one: (
            one["n"] == 0,
            one["n_failed"] + one["n_absent"],
            -metric.gain(one["mean"]),
        )
    )
    frame = pd.DataFrame(table)
    ranks, tied = _ranks(frame, values, estimate)
    frame.insert(frame.columns.get_loc("n_absent") + 1, "rank", pd.array(ranks, dtype="Int64"))
    frame.insert(
        frame.columns.get_loc("rank") + 1, "tied_with_best", pd.array(tied, dtype="boolean")
    )
    return frame


def _ranks(
    table: pd.DataFrame, values: pd.DataFrame, estimate: _Estimate
) -> tuple[list[int | None], list[bool | None]]:
    """Ranks of methods in their order, and whether they are told apart from the first."""

    def tie(one: str, other: str) -> bool | None:
        low, high = estimate.interval((values[one] - values[other]).dropna().to_numpy())
        return None if np.isnan(low) else low <= 0 <= high

    methods = list(table["method"])
    complete = list(table["n_failed"] + table["n_absent"] == 0)
    ranks: list[int | None] = []
    tied: list[bool | None] = []
    leader = 0
    for place, method in enumerate(methods):
        equal = tie(method, methods[leader]) if complete[place] else False
        if equal is None:
            equal = bool(table["mean"][place] == table["mean"][leader])
        if not equal:
            leader = place
        ranks.append(leader + 1 if table["n"][place] else None)
        if not complete[place]:
            tied.append(False)
        else:
            tied.append(True if place == 0 else tie(method, methods[0]))
    return ranks, tied


def _place(column: pd.Series[Any]) -> pd.Series[Any]:
    """Where the values of a column stand: tasks and metrics in their own order, numbers by size."""
    order: dict[str, Any] = {}
    if column.name == "task":
        order = {name: f"{place:02d}" for place, name in enumerate(TASKS)}
    elif column.name == "metric":
        order = {name: f"{place:02d}" for place, name in enumerate(METRICS)}
    elif column.name == "n_labels":
        order = {name: name.zfill(9) for name in column if name.isdecimal()}
    return column.map(lambda name: order.get(name, name))


def _tell_absent(summary: pd.DataFrame) -> None:
    fewer = summary[summary["n_absent"] > 0]
    if len(fewer):
        first = fewer.iloc[0]
        warn(
            f"{int(fewer['n_absent'].sum())} values of {some(fewer['method'].unique())} are absent that other methods "
            f"have, such as {first['metric']!r} of {first['method']!r} in {first['task']!r} on "
            f"{first['data']!r}. Means are over what is there, and these methods are ranked last."
        )


def _sentence(summary: pd.DataFrame, simple: Sequence[str], level: float) -> str:
    """Where simple methods are as good as the best."""
    simple = [simple] if isinstance(simple, str) else list(simple)
    by_score = summary.groupby(list(_SCORE), sort=False)["method"]
    compared = summary[by_score.transform("size") > 1]
    if compared.empty:
        return "One method alone cannot be compared."
    # A method that was run in several ways is named with its arguments.
    of = {
        name: compared["method"].str.fullmatch(rf"{re.escape(name)}( \(.*\))?") for name in simple
    }
    if not any(is_it.any() for is_it in of.values()):
        return f"How good {' or '.join(simple)} would be is not known: not run."
    ties = compared["tied_with_best"]
    decided = ties.notna().groupby([compared[name] for name in _SCORE]).transform("all")
    if not decided.any():
        return "Of one value for each method it cannot be said which are as good as the best."
    said = []
    for data, rows in compared[decided].groupby("data", sort=False):
        n_methods = rows["method"].nunique()
        counts: list[str] = []
        for is_it in of.values():
            for method, own in rows[is_it[rows.index]].groupby("method", sort=False):
                good = own[own["tied_with_best"].astype(bool)]
                which = zip(good["task"], good["metric"], good["n_labels"], strict=True)
                where = [f"{task}: {score_label(*score)}" for task, *score in which]
                shown = ", ".join(where[:4]) + (", ..." if len(where) > 4 else "")
                is_good = f"is as good as the best of {n_methods} methods " if not counts else ""
                scores = "" if counts else " scores"
                counts.append(
                    f"{method} {is_good}in {len(good) or 'none'} of {len(own)}{scores}"
                    f"{f' ({shown})' if shown else ''}"
                )
        if counts:
            place = "over data sets" if data == "all" else f"on {data}"
            said.append(f"{place} {' and '.join(counts)}")
    return f"By {level:.0%} intervals of paired differences, {'; '.join(said)}."
