"""The leaderboard of the documentation, from a folder that `studies/methods.yaml` filled.

    SCSSL_DATA_DIR=... scssl benchmark benchmarks/studies/methods.yaml --out results
    python benchmarks/leaderboard.py results

adds to `benchmarks/results/methods.csv.gz`, and writes the tables between the marks of `docs/leaderboard.md`, and the figure
beside them. Without a folder the page is made anew from the file that is there.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from pathlib import Path

import pandas as pd

import scssl

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "methods.csv.gz"
PAGE = ROOT / "docs" / "leaderboard.md"
FIGURE = ROOT / "docs" / "_static" / "leaderboard.svg"

# Task, metric and number of labels of each column, and what stands above it.
SCORES = {
    ("embedding", "knn_macro_f1", "all"): "kNN",
    ("few_labels", "macro_f1", "1"): "1 label",
    ("few_labels", "macro_f1", "5"): "5",
    ("few_labels", "macro_f1", "20"): "20",
    ("few_labels", "macro_f1", "all"): "all",
    ("clustering", "leiden_ari", "all"): "Leiden ARI",
}
INTEGRATION = {
    ("integration", "bio_conservation", "all"): "types",
    ("integration", "batch_correction", "all"): "batches",
    ("integration", "total", "all"): "total",
}
PROTEINS = {("modality", "pearson", ""): "Pearson", ("modality", "rmse", ""): "RMSE"}
_KEYS = ["task", "metric", "n_labels"]
# What trains for minutes, and so was not run on all data sets.
_LONG = ("scVI", "scANVI", "JointEmbeddingSCVI")


def collect(folder: Path) -> pd.DataFrame:
    """Values of a folder, in place of committed ones of the same data, task and method, with what they were measured by."""
    # As texts: what stays has the same bytes.
    new, old = (
        pd.read_csv(file, keep_default_na=False, dtype=str)
        for file in (folder / "results.csv", RESULTS)
    )
    place = RESULTS.with_suffix("").with_suffix(".json")
    about = json.loads(place.read_text())
    for key, known in about.items():
        found = [json.loads(one) for one in sorted(new.pop(key).unique())]
        known += [one for one in found if one not in known]
    place.write_text(json.dumps(about, indent=1) + "\n")
    again, given = (pd.MultiIndex.from_frame(one[["data", "task", "method"]]) for one in (old, new))
    table = pd.concat([old[~again.isin(given)], new], ignore_index=True)
    # Of the same table the same bytes.
    table.to_csv(
        RESULTS, index=False, compression={"method": "gzip", "mtime": 0, "compresslevel": 9}
    )
    return read()


def read() -> pd.DataFrame:
    """The committed values."""
    return pd.read_csv(RESULTS, keep_default_na=False, na_values={"value": [""], "seconds": [""]})


def means(results: pd.DataFrame, scores: dict[tuple[str, str, str], str]) -> pd.DataFrame:
    """Mean over seeds of each score, method and data set: all that worked."""
    wanted = pd.MultiIndex.from_tuples(scores)
    own = results[pd.MultiIndex.from_frame(results[_KEYS]).isin(wanted) & results["value"].notna()]
    own = own.assign(seconds=own["seconds"].astype(float))
    by = own.groupby(["data", *_KEYS, "method"], sort=False)[["value", "seconds"]]
    return by.mean().reset_index()


def overall(results: pd.DataFrame, scores: dict[tuple[str, str, str], str]) -> str:
    """Mean over data sets of methods that have them all; bold what is not told apart from the best."""
    values = means(results, scores)
    n = values.groupby("method")["data"].nunique()
    complete = n.index[n == n.max()]
    values = values[values["method"].isin(complete)].assign(
        split="", fold="", seed=0, arguments="{}"
    )
    baseline = "PCA" if "PCA" in complete else None
    summary = scssl.tl.benchmark_summary(values, repeat_keys=["data"], baseline=baseline)
    shown, order = {}, {}
    for key, rows in summary.groupby(_KEYS, sort=False):
        for one in rows.itertuples():
            text = number(one.mean)
            shown.setdefault(one.method, {})[key] = (
                f"**{text}**" if one.tied_with_best is True else text
            )
            order.setdefault(one.method, []).append(one.rank)
    cost = costs(results[results["data"].isin(values["data"])])
    lines = [
        [method, *(shown[method].get(key, "") for key in scores), *cost.loc[method]]
        for method in sorted(shown, key=lambda m: sum(order[m]) / len(order[m]))
    ]
    return table(["method", *scores.values(), *cost.columns], lines)


def costs(results: pd.DataFrame) -> pd.DataFrame:
    """Seconds of CPU for a thousand cells, peak of memory, and seeds, by method."""
    own = results[results["value"].notna()]
    runs = own.drop_duplicates(["data", "method", "split", "seed", "seconds"])
    # Cells of a data set, from the run that embeds them all: a fifth is held out.
    size = own.groupby("data")["n_test"].min() * 5 / 1000
    per_kcell = runs["cpu_seconds"].astype(float) / runs["data"].map(size)
    found = pd.DataFrame(
        {
            "CPU s per 1,000 cells": per_kcell.groupby(runs["method"])
            .median()
            .map("{:.1f}".format),
            "GB": runs["memory_gb"]
            .astype(float)
            .groupby(runs["method"])
            .max()
            .map("{:.1f}".format),
            "seeds": own.groupby("method")["seed"].nunique().astype(str),
        }
    )
    return found


def by_data(results: pd.DataFrame, score: tuple[str, str, str]) -> str:
    """One score: methods by data sets."""
    values = means(results, {score: ""})
    wide = values.pivot(index="data", columns="method", values="value")
    wide = wide[wide.mean().sort_values(ascending=False).index]
    lines = [
        [data, *("" if pd.isna(value) else mark(value, row) for value in row)]
        for data, row in wide.reindex(values["data"].unique()).iterrows()
    ]
    return table(["data", *wide.columns], lines)


def mark(value: float, row: pd.Series) -> str:
    """The best of a row in bold."""
    return f"**{number(value)}**" if value == row.max() else number(value)


def number(value: float) -> str:
    """Three places, without the zero in front."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def table(head: list[str], lines: list[list[str]]) -> str:
    """A table of Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def sentence(results: pd.DataFrame) -> str:
    """Where principal components and scVI are as good as the best of all methods."""
    values = means(results, SCORES).assign(split="", fold="", seed=0, arguments="{}")
    n = values.groupby("method")["data"].nunique()
    values = values[values["method"].isin(n.index[n == n.max()])]
    return str(
        scssl.tl.benchmark_summary(values, repeat_keys=["data"], baseline=None).attrs["sentence"]
    )


def parts(results: pd.DataFrame) -> dict[str, str]:
    """What stands between the marks of the page."""
    few = means(results, SCORES)
    common = set(few["data"])
    for method in _LONG:
        common &= set(few.loc[few["method"] == method, "data"])
    shared = results[results["data"].isin(common)]
    return {
        "all": overall(results, SCORES),
        "sentence": sentence(results),
        "shared sets": ", ".join(dict.fromkeys(shared["data"])) + ".",
        "shared": overall(shared, SCORES),
        "nearest": by_data(results, ("embedding", "knn_macro_f1", "all")),
        "probe": by_data(results, ("few_labels", "macro_f1", "all")),
        "few": by_data(results, ("few_labels", "macro_f1", "5")),
        "integration": overall(results, INTEGRATION),
        "integration by data": by_data(results, ("integration", "total", "all")),
        "proteins": overall(results, PROTEINS),
    }


def fill(page: str, found: dict[str, str]) -> str:
    """The page with what is between its marks made anew."""
    for name, text in found.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not block.search(page):
            raise ValueError(f"{PAGE} has no mark {name!r}.")
        page = block.sub(lambda m, text=text: f"{m[1]}\n{text}\n{m[2]}", page)
    return page


def draw(results: pd.DataFrame) -> None:
    """The scores of all data sets in one figure."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "scssl"
    values = means(results, SCORES).assign(split="", fold="", seed=0, arguments="{}")
    n = values.groupby("method")["data"].nunique()
    values = values[values["method"].isin(n.index[n == n.max()])]
    ax = scssl.pl.benchmark(values, show=False)
    ax.figure.savefig(FIGURE, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    """Write the file, the page and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="what `scssl benchmark` wrote to")
    asked = parser.parse_args()
    logging.getLogger("scssl").setLevel(logging.WARNING)
    results = read() if asked.folder is None else collect(asked.folder)
    PAGE.write_text(fill(PAGE.read_text(), parts(results)))
    draw(results)


if __name__ == "__main__":
    main()
