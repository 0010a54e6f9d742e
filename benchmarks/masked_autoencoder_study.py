"""What pretraining is worth: pretext tasks, probes and fine-tuning on real data, by label budget.

For each data set and seed the cells are split, stratified by type, into 80 % for training and 20 % for
testing. Everything is fitted on the training part, labels or none: PCA, scaled genes not needed, the
pretext tasks, scVI. A probe or a classifier then learns from all labels of the training part, or from
20, 5 or 1 per class, the same cells for every row, and is scored on the test part.

Rows are appended to ``--out`` when all of a data set and seed are found, and what is there already is not run
again, so that a stopped study goes on where it was, and an arm can be added or measured again on the same cells.
``--table`` only prints what is there.

    SCSSL_DATA_DIR=... python benchmarks/masked_autoencoder_study.py --out study.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _common import data_dir, lognorm, machine, table
from sklearn.decomposition import PCA

import scssl
from scssl._scores import class_table, scores_of
from scssl.tl import make_protocol

DATA = ["pbmc3k", "mouse_bladder", "kang_ifnb", "scmixology_5batch", "cbmc_cite"]
BUDGETS = [None, 20, 5, 1]
LABELS = "cell_type"
NAMED = {"pbmc3k", "kang_ifnb"}  # genes have symbols, so that programmes can be matched
MASKS = ["random", "gene_program", "gp_to_gp", "gp_to_tf"]
CLASSIFIERS = ["from scratch", "fine-tuned"]
ARMS = ["PCA-50", "scVI", "untrained", *MASKS, *CLASSIFIERS]


def load(name: str) -> anndata.AnnData:
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    adata = adata[adata.obs[LABELS].notna()].copy()
    sizes = adata.obs[LABELS].value_counts()
    # A class needs cells to learn from and cells to test on.
    kept = adata.obs[LABELS].isin(sizes.index[sizes >= 10]).to_numpy()
    adata = adata[kept].copy()
    adata.obs[LABELS] = adata.obs[LABELS].astype(str)
    return adata


def add_programs(adata: anndata.AnnData, train: np.ndarray) -> None:
    """Hallmark programmes; and, in the absence of a free table of targets, co-expressed genes."""
    resources = data_dir() / "resources"
    scssl.pp.gene_programs(adata, resources / "msigdb_h.all.v7.0.symbols.gmt", min_genes=3)
    x = np.asarray(lognorm(adata.X[train]).todense())
    seen = (x > 0).mean(0) > 0.02
    factors = {line.strip() for line in (resources / "hs_hgnc_tfs.txt").read_text().splitlines()}
    own = np.flatnonzero(seen & adata.var_names.isin(factors))
    standard = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    related = standard[:, own].T @ standard / len(x)
    related[:, ~seen] = -1
    related[np.arange(len(own)), own] = -1
    targets = {
        adata.var_names[gene]: list(adata.var_names[np.argsort(-related[i])[:50]])
        for i, gene in enumerate(own)
    }
    scssl.pp.tf_targets(adata, targets)


def representations(adata, train, name, seed, arms):
    """Embeddings of all cells by models of the training cells; the randomly masked model."""
    if "PCA-50" in arms:
        x = lognorm(adata.X)
        pca = PCA(50, random_state=seed).fit(x[train].toarray())
        adata.obsm["PCA-50"] = pca.transform(x.toarray()).astype(np.float32)
    if "scVI" in arms:
        adata.obsm["scVI"] = run_scvi(adata, train, seed)
    own = adata[train].copy()
    masks = [mask for mask in MASKS if mask in arms]
    if set(masks) - {"random"}:
        add_programs(own, np.arange(len(train)))
    scssl.model.MaskedAutoencoder.setup_anndata(own, input="counts")
    models = {}
    if "untrained" in arms:
        model = scssl.model.MaskedAutoencoder(own, rng=seed)
        adata.obsm["untrained"] = quiet(model.get_latent_representation, adata)
    if "fine-tuned" in arms and "random" not in masks:
        masks.append("random")
    for mask in masks:
        model = scssl.model.MaskedAutoencoder(own, masking=mask, rng=seed)
        started = time.time()
        model.train(rng=seed, progress=False)
        print(
            f"  {mask}: {time.time() - started:.0f} s, {model.training_['epochs']} epochs",
            flush=True,
        )
        models[mask] = model
        if mask in arms:
            adata.obsm[mask] = model.get_latent_representation(adata)
    return models.get("random")


def run_scvi(adata, train, seed):
    """scVI with its defaults on 2,000 variable genes, latent width and stopping as for the others."""
    import scanpy as sc
    import scvi

    scvi.settings.seed = seed
    normal = anndata.AnnData(lognorm(adata.X[train]), var=adata.var[[]].copy())
    sc.pp.highly_variable_genes(normal, n_top_genes=min(2000, adata.n_vars))
    counts = adata.X[:, normal.var["highly_variable"].to_numpy()]
    own, query = anndata.AnnData(counts[train].copy()), anndata.AnnData(counts.copy())
    scvi.model.SCVI.setup_anndata(own)
    model = scvi.model.SCVI(own, n_latent=64)
    started = time.time()
    model.train(
        100,
        early_stopping=True,
        early_stopping_patience=20,
        train_size=0.9,
        enable_progress_bar=False,
    )
    print(f"  scVI: {time.time() - started:.0f} s", flush=True)
    return model.get_latent_representation(query)


def quiet(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def classify(adata, protocol, seed, source):
    """Scores of a classifier that starts from `source`, or from scratch."""
    column = pd.Series(pd.NA, index=adata.obs_names, dtype="object")
    column.iloc[protocol.train] = adata.obs[LABELS].to_numpy()[protocol.train]
    cells = adata[protocol.pool].copy()
    cells.obs["known"] = column.iloc[protocol.pool].to_numpy()
    classifier = scssl.model.CellTypeClassifier
    if source is None:
        classifier.setup_anndata(cells, labels_key="known", input="counts")
        model = classifier(cells, rng=seed)
    else:
        model = classifier.from_ssl_model(source, cells, "known", rng=seed)
    started = time.time()
    model.train(rng=seed, progress=False)
    predicted = model.predict(adata, indices=protocol.test).to_numpy()
    position = {name: i for i, name in enumerate(protocol.names)}
    codes = np.array([position[label] for label in predicted])
    scores = scores_of(class_table(protocol.codes[protocol.test], codes, protocol.names))
    return {**scores, "seconds": time.time() - started}


def study(name: str, seed: int, out: Path, arms: list[str]) -> None:
    key = f"{name}/{seed}"
    have = {row["arm"] for row in read(out) if row["key"] == key}
    if name not in NAMED:
        have |= set(MASKS[1:])
    arms = [arm for arm in arms if arm not in have]
    if not arms:
        return
    print(f"{name}, seed {seed}", flush=True)
    adata = load(name)
    budgets = {}
    for budget in BUDGETS:
        budgets[budget] = make_protocol(
            adata,
            adata.obs[LABELS],
            label_key=LABELS,
            split=None,
            test_size=0.2,
            n_labels_per_class=budget,
            seed=seed,
        )
    protocol = budgets[None]
    source = representations(adata, protocol.pool, name, seed, arms)
    reps = [rep for rep in arms if rep not in CLASSIFIERS]
    rows = []

    def add(what, budget, arm, scores):
        rows.append(
            {
                "key": key,
                "data": name,
                "seed": seed,
                "what": what,
                "labels": budget or "all",
                "arm": arm,
                "macro_f1": float(scores["macro_f1"]),
                "accuracy": float(scores["accuracy"]),
            }
        )

    options = {"use_rep": reps, "split": (protocol.pool, protocol.test), "rng": seed}
    for budget in BUDGETS:
        probes = {"kNN": scssl.tl.knn_probe, "linear": scssl.tl.linear_probe} if reps else {}
        for what, probe in probes.items():
            neighbors = {"n_neighbors": min(15, budget or 15)} if what == "kNN" else {}
            found = quiet(
                lambda p=probe, n=neighbors, b=budget: p(
                    adata, LABELS, n_labels_per_class=b, **options, **n
                )
            )
            for _, row in found.iterrows():
                add(what, budget, row["use_rep"], row)
        for arm in [arm for arm in arms if arm in CLASSIFIERS]:
            start = source if arm == "fine-tuned" else None
            add("classifier", budget, arm, quiet(classify, adata, budgets[budget], seed, start))
    with out.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def show(out: Path) -> None:
    frame = pd.DataFrame(read(out))
    for (what, labels), part in frame.groupby(["what", "labels"], sort=False):
        grouped = part.groupby(["arm", "data"], sort=False)["macro_f1"]
        cells = grouped.agg(["mean", "std", "count"])
        rows = []
        for arm in [arm for arm in ARMS if arm in set(part["arm"])]:
            row = {"arm": arm}
            for name in frame["data"].unique():
                if (arm, name) in cells.index:
                    mean, sd, n = cells.loc[(arm, name)]
                    row[name] = f"{mean:.3f} ± {sd:.3f}" + ("" if n == 5 else f" ({int(n)})")
            rows.append(row)
        print(f"\n{what}, labels per class: {labels}\n")
        print(table(rows))
    part = frame[frame["what"] == "classifier"]
    if part["arm"].nunique() < 2:
        return
    wide = part.pivot_table(
        index=["labels", "data", "seed"], columns="arm", values="macro_f1"
    ).reset_index()
    wide["gain"] = wide["fine-tuned"] - wide["from scratch"]
    print("\nfine-tuned minus from scratch, macro-F1, mean over seeds\n")
    print(wide.groupby(["labels", "data"])["gain"].mean().unstack().round(3).to_string())
    print(wide.groupby("labels")["gain"].agg(["mean", "std"]).round(3).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--out", type=Path, default=Path("masked_autoencoder_study.jsonl"))
    parser.add_argument(
        "--arms",
        nargs="+",
        default=[arm for arm in ARMS if arm != "scVI"],
        choices=ARMS,
        help="rows of the tables; by default all but scVI (slow on a CPU)",
    )
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("WARNING")
    warnings.filterwarnings("ignore", module="anndata")
    if not args.table:
        print(machine(), flush=True)
        for seed in args.seeds:
            for name in args.data:
                study(name, seed, args.out, args.arms)
    show(args.out)


if __name__ == "__main__":
    main()
