"""What pretraining on other data sets is worth: leave one data set out, few labels, real data.

Human data sets with symbols, and mouse ones through one-to-one orthologs, with all genes that any of them has.
``scssl.tl.leave_one_dataset_out`` pretrains on all but one and compares a classifier that starts from there with
the same network from new weights and with logistic regression on principal components, on the same cells.
Rows are appended to ``--out``. ``--table`` only prints, with Wilcoxon's signed-rank test over data sets; ``--figures DIR``
draws what is in ``--out`` and stops. No study of ``scssl benchmark``: there a method sees one data set at a time.

    SCSSL_DATA_DIR=... python benchmarks/leave_one_dataset_out.py --out lodo.jsonl
    python benchmarks/leave_one_dataset_out.py --out lodo.jsonl --table --figures docs/_static
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata
import pandas as pd
from _common import data_dir, machine, table

import scssl

LABELS = "cell_type"
HUMAN = [
    "pbmc3k",
    "kang_ifnb",
    "scmixology_10x5cl_hvg500",
    "her2st_8sections",
    "pbmc_cite_2batch_400",
]
MOUSE = ["mouse_pancreas_endocrinogenesis", "visium_mouse_cortex_lr648", "st_olfactory_bulb"]
ORTHOLOGS = "resources/orthologs_mouselemur_human_mouse_one2one.csv"
# Both species of one study: its other half is no other data set.
GROUPS = {"baron_human": "baron", "baron_mouse": "baron"}
ARMS = ["pretrained", "scratch", "PCA + LR"]
# As they are written beside dots.
SHORT = {
    "kang_ifnb": "kang",
    "scmixology_10x5cl_hvg500": "scmixology",
    "her2st_8sections": "her2st",
    "mouse_pancreas_endocrinogenesis": "pancreas, mouse",
    "visium_mouse_cortex_lr648": "cortex, mouse",
    "st_olfactory_bulb": "bulb, mouse",
    "baron_human": "baron, human",
    "baron_mouse": "baron, mouse",
}
BUDGETS = [1, 5, 20, "all"]


def labelled(adata: anndata.AnnData) -> anndata.AnnData:
    """Cells of types with at least 10 cells."""
    if LABELS not in adata.obs:
        return adata
    sizes = adata.obs[LABELS].value_counts()
    adata = adata[adata.obs[LABELS].isin(sizes.index[sizes >= 10]).to_numpy()].copy()
    adata.obs[LABELS] = adata.obs[LABELS].astype(str)
    return adata


def load() -> scssl.data.Datasets:
    found = {name: anndata.read_h5ad(data_dir() / f"{name}.h5ad") for name in (*HUMAN, *MOUSE)}
    both = anndata.read_h5ad(data_dir() / "baron_human_mouse_328.h5ad")
    for species in ("human", "mouse"):
        # Symbols of both are those of human here already.
        found[f"baron_{species}"] = both[(both.obs["species"] == species).to_numpy()].copy()
    for name in MOUSE:
        scssl.pp.map_orthologs(
            found[name], data_dir() / ORTHOLOGS, from_species="mouse", to_species="human"
        )
    return scssl.data.Datasets({name: labelled(adata) for name, adata in found.items()}, "union")


def read(path: Path) -> pd.DataFrame:
    """Rows of a file, the numbers of labels in order."""
    frame = pd.read_json(path, lines=True)
    names = pd.Index(BUDGETS, dtype=object)
    frame["n_labels_per_class"] = pd.Categorical(
        frame["n_labels_per_class"], categories=names, ordered=True
    )
    return frame


def show(frame: pd.DataFrame) -> None:
    """Means of all data sets, and whether pretraining gains over data sets."""
    means = frame.groupby(["dataset", "n_labels_per_class", "arm"], observed=True, sort=False)
    for metric in ("macro_f1", "accuracy", "macro_auroc"):
        print(f"\n{metric}, mean ± sd of seeds\n")
        cells = means[metric].agg(["mean", "std", "count"])
        rows = []
        for name in frame["dataset"].unique():
            for budget in BUDGETS:
                row: dict[str, object] = {"data": name, "labels per type": budget}
                for arm in ARMS:
                    if (name, budget, arm) in cells.index:
                        mean, sd, n = cells.loc[(name, budget, arm)]
                        row[arm] = f"{mean:.3f}" + (f" ± {sd:.3f}" if n > 1 else "")
                row["seeds"] = frame[frame["dataset"] == name]["seed"].nunique()
                rows.append(row)
        print(table(rows))
    print("\npretrained against others, data sets as pairs (means of seeds)\n")
    print(table([*compare(frame, "macro_f1"), *compare(frame, "accuracy")]))


def compare(frame: pd.DataFrame, metric: str) -> list[dict[str, object]]:
    """Gains over data sets with Wilcoxon's signed-rank test, two-sided, by number of labels."""
    from scipy.stats import wilcoxon

    rows = []
    for budget in BUDGETS:
        some = frame[frame["n_labels_per_class"] == budget]
        means = some.groupby(["dataset", "arm"])[metric].mean().unstack()
        for other in ARMS[1:]:
            if {"pretrained", other} <= set(means):
                gain = (means["pretrained"] - means[other]).dropna()
                rows.append(
                    {
                        "metric": metric,
                        "labels per type": budget,
                        "against": other,
                        "data sets": len(gain),
                        "gain": int((gain > 0).sum()),
                        "mean": f"{gain.mean():+.3f}",
                        "median": f"{gain.median():+.3f}",
                        "Wilcoxon p": f"{wilcoxon(gain).pvalue:.4f}" if (gain != 0).any() else "1",
                    }
                )
    return rows


def draw(frame: pd.DataFrame, folder: Path) -> None:
    """Figures: one dot for each data set, and bars by number of labels."""
    import matplotlib

    matplotlib.use("agg")
    frame = frame.assign(dataset=frame["dataset"].replace(SHORT))
    for other, name in (("scratch", "scratch"), ("PCA + LR", "pca")):
        scssl.pl.paired_scatter(
            frame,
            "macro_f1",
            x=other,
            y="pretrained",
            panel_key="n_labels_per_class",
            names=True,
            save=folder / f"leave_one_dataset_out_{name}.svg",
        )
    # The mean of a seed is one of all data sets, or seeds could not be compared.
    runs = frame.groupby("seed")["dataset"].nunique()
    whole = frame[frame["seed"].isin(runs.index[runs == runs.max()])]
    left = sorted(set(frame["seed"]) - set(whole["seed"]))
    print(
        f"\nbars: {runs.max()} data sets" + (f", without the unfinished seeds {left}" * bool(left))
    )
    scssl.pl.metric_bars(
        whole,
        ["macro_f1", "accuracy"],
        group_key="n_labels_per_class",
        save=folder / "leave_one_dataset_out_bars.svg",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--hold-out", nargs="+", help="go on with these data sets")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("leave_one_dataset_out.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="draw what is in --out and stop"
    )
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("ERROR")
    warnings.filterwarnings("ignore")
    if not args.table and args.figures is None:
        print(machine(), flush=True)
        scssl.tl.leave_one_dataset_out(
            load(),
            LABELS,
            hold_out=args.hold_out,
            groups=GROUPS,
            n_repeats=args.repeats,
            out=args.out,
        )
    rows = read(args.out)
    if args.table or args.figures is None:
        show(rows)
    if args.figures is not None:
        draw(rows, args.figures)


if __name__ == "__main__":
    main()
