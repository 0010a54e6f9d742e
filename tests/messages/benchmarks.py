"""Tables of a benchmark."""

from __future__ import annotations

import json
import sys
from unittest.mock import patch

import pandas as pd

from . import case
from ._data import cells

CHAPTER = "Benchmarks"


def _results(**columns: object) -> pd.DataFrame:
    """Two methods, three seeds, 1 and 5 labels."""
    rows = [(m, n, seed) for m in ("PCA", "SimCLR") for n in ("1", "5") for seed in range(3)]
    table = pd.DataFrame(rows, columns=["method", "n_labels", "seed"])
    fixed: dict[str, object] = {"data": "pbmc3k", "task": "few_labels", "metric": "macro_f1"}
    fixed |= {"arguments": "{}", "split": "cell", "fold": "", "seconds": 1.0}
    return table.assign(value=[0.1 * (i % 7) for i in range(len(table))], **(fixed | columns))


_SUMMARY = "scssl.tl.benchmark_summary(results)"


@case(CHAPTER, "The baseline was not run")
def no_baseline():
    return {"results": _results().replace("PCA", "scVI")}, _SUMMARY


@case(CHAPTER, "Which way a score is better is not known")
def unknown_metric():
    return {"results": pd.concat([_results(), _results(metric="my_score")])}, _SUMMARY


@case(CHAPTER, "A value is there twice")
def value_twice():
    return {"results": pd.concat([_results(), _results()[:4]])}, _SUMMARY


@case(CHAPTER, "Values are too few for a bootstrap")
def few_values():
    return {"results": _results()}, 'scssl.tl.benchmark_summary(results, interval="bootstrap")'


@case(CHAPTER, "Several scores could be drawn")
def several_scores():
    results = pd.concat([_results(metric="accuracy"), _results(metric="knn_accuracy")])
    return {"results": results}, "scssl.pl.few_label_curve(results, show=False)"


@case(CHAPTER, "Several data sets do not fit in one axes")
def several_data_sets():
    from matplotlib.figure import Figure

    results = pd.concat([_results(), _results(data="kang_ifnb")])
    names = {"results": results, "ax": Figure().subplots()}
    return names, "scssl.pl.few_label_curve(results, ax=ax, show=False)"


@case(CHAPTER, "Runs differ in an argument that is not drawn")
def third_argument():
    grid = [
        (t, n, loss) for t in (0.1, 0.5) for n in (8, 32) for loss in ("dcl", "nt_xent", "vicreg")
    ]
    keys = ("temperature", "n_latent", "loss")
    texts = [json.dumps(dict(zip(keys, one, strict=True))) for one in grid]
    results = _results(method="SimCLR", n_labels="", task="embedding", arguments=texts)
    return {"results": results}, (
        'scssl.pl.ablation(results, "temperature", "n_latent", show=False)'
    )


_PLAN = 'scssl.tl.benchmark(adata, "X_ssl", "embedding", label_key="type", batch_key="batch", dry_run=True)'


@case(CHAPTER, "Two cells of a benchmark have one name")
def cells_of_one_name():
    adata = cells()
    adata.obs_names = ["cell", *adata.obs_names[1:-1], "cell"]
    return {"adata": adata}, _PLAN


@case(CHAPTER, "The batch of a cell of a benchmark is not known")
def batch_missing():
    adata = cells()
    adata.obs["batch"] = [None, *adata.obs["batch"].astype(str)[1:]]
    return {"adata": adata}, _PLAN


@case(CHAPTER, "A method or a score needs a package that is not installed", ways="instead")
def package_missing():
    adata = cells()

    def without(package, run, *args, **kwargs):
        with patch.dict(sys.modules, {package: None}):
            return run(*args, **kwargs)

    return {"adata": adata, "without": without}, (
        'without("harmonypy", scssl.tl.benchmark, adata, "Harmony", "embedding", label_key="type", '
        'batch_key="batch", seeds=1, progress=False)'
    )


_STUDY = (
    'scssl.tl.benchmark(adata, "X_ssl", "embedding", label_key="type", declared=declared, seeds=1, '
    "dry_run=True)"
)


@case(CHAPTER, "The data of a study are not those that were declared")
def other_data():
    return {"adata": cells(), "declared": {"data_hash": "0123456789abcdef"}}, _STUDY


@case(CHAPTER, "The classes of a study are not those that were declared")
def other_classes():
    return {"adata": cells(), "declared": {"classes": ["B", "T"]}}, _STUDY


@case(CHAPTER, "Blocks of tissue leave no cell to learn from")
def one_place():
    adata = cells()
    adata.obsm["spatial"] = adata.X[:, :2] * 0
    return {"adata": adata}, (
        'scssl.tl.benchmark(adata, "X_ssl", "embedding", label_key="type", split="block", seeds=1, '
        "dry_run=True)"
    )
