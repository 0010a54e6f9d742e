"""Joint-embedding methods on real data, beside PCA, scVI and the masked autoencoder.

For each data set and seed every row is fitted to all cells without labels, on the same 4,000 variable genes,
with the package's defaults. Scores: macro-F1 of nearest neighbours and of a linear probe on the 20 % of the
cells that they did not learn from (the same split for every row), effective rank, seconds per epoch, and with
``--scib`` the unscaled metrics of scib-metrics.

Rows are appended to ``--out`` as they are found; what is there is not run again. ``--table`` only prints.
``--seconds`` prints seconds per epoch instead, of CPU time, so that it matters less what else the machine does:
what four epochs take more than one, by three. Set OMP_NUM_THREADS=1 for it. ``--lr`` fits the self-supervised
rows with these learning rates instead of their defaults, into another file, and prints the scores of each.

    SCSSL_DATA_DIR=... python benchmarks/joint_embedding_study.py --out joint.jsonl
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
import scanpy as sc
from _common import data_dir, lognorm, machine, table
from _scib import scib
from sklearn.decomposition import PCA

import scssl
from scssl.nn import effective_rank

DATA = [
    "pbmc3k",
    "mouse_bladder",
    "worm_neuron",
    "kang_ifnb",
    "scmixology_5batch",
    "her2st_8sections",
    "cbmc_cite",
]
METHODS = [
    name
    for name in scssl.model.list_models()
    if issubclass(scssl.model.get_model_class(name), scssl.model.JointEmbedding)
]
# Of data sets with batches: views by mutual neighbours in other batches.
MIXED = [f"{name}, integration" for name in ("SimCLR", "BYOL", "VICReg")]
ROWS = ["PCA-50", "scVI", "MaskedAutoencoder", *METHODS, *MIXED]
LABELS, BATCH, N_GENES = "cell_type", "batch", 4000


def load(name: str) -> anndata.AnnData:
    """Labelled cells of types with at least 10, on the variable genes."""
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    adata = adata[adata.obs[LABELS].notna()].copy()
    sizes = adata.obs[LABELS].value_counts()
    adata = adata[adata.obs[LABELS].isin(sizes.index[sizes >= 10]).to_numpy()].copy()
    adata.obs[LABELS] = adata.obs[LABELS].astype(str)
    return variable(adata)


def variable(adata: anndata.AnnData) -> anndata.AnnData:
    if adata.n_vars <= N_GENES:
        return adata
    normal = anndata.AnnData(lognorm(adata.X), obs=adata.obs[[]], var=adata.var[[]])
    batch = batch_of(adata)
    if batch is not None:
        normal.obs[BATCH] = adata.obs[batch].to_numpy()
    sc.pp.highly_variable_genes(
        normal, n_top_genes=N_GENES, batch_key=None if batch is None else BATCH
    )
    return adata[:, normal.var["highly_variable"].to_numpy()].copy()


def batch_of(adata: anndata.AnnData) -> str | None:
    return BATCH if BATCH in adata.obs and adata.obs[BATCH].nunique() > 1 else None


def fit(
    row: str,
    adata: anndata.AnnData,
    seed: int,
    *,
    query: anndata.AnnData | None = None,
    lr: float | None = None,
    **options,
) -> tuple[np.ndarray, float, np.ndarray | None]:
    """Embedding of the cells by one row, seconds per epoch, and that of a query."""
    if row == "PCA-50":
        x = lognorm(adata.X)
        started = time.perf_counter()
        pca = PCA(50, random_state=seed).fit(x.toarray())
        seconds = time.perf_counter() - started
        other = None if query is None else pca.transform(lognorm(query.X).toarray())
        return pca.transform(x.toarray()), seconds, other
    if row == "scVI":
        return fit_scvi(adata, seed, query)
    rate = {} if lr is None else {"lr": lr}
    model = build(row, adata, seed, **options)
    model.train(rng=seed, progress=False, **rate)
    done = model.training_
    other = None if query is None else model.get_latent_representation(query)
    return model.get_latent_representation(), done["seconds"] / done["epochs"], other


def build(row: str, adata: anndata.AnnData, seed: int, **options):
    """A model that is not trained yet."""
    if row in MIXED:
        row, options["augmentation"] = row.split(", ")
        pca = PCA(50, random_state=seed).fit_transform(lognorm(adata.X).toarray())
        adata.obsm["X_pca"] = pca.astype(np.float32)
        scssl.pp.cross_batch_neighbors(adata, BATCH, use_rep="X_pca", method="mnn", rng=seed)
    model_class = scssl.model.get_model_class(row)
    model_class.setup_anndata(adata, batch_key=batch_of(adata), input="counts")
    return model_class(adata, rng=seed, **options)


def build_scvi(adata: anndata.AnnData, seed: int):
    import scvi

    scvi.settings.seed = seed
    own = anndata.AnnData(adata.X.copy(), obs=adata.obs.copy(), var=adata.var[[]].copy())
    scvi.model.SCVI.setup_anndata(own, batch_key=batch_of(adata))
    return scvi.model.SCVI(own, n_latent=64)


def fit_scvi(adata, seed, query):
    """scVI with its defaults, told the batch, latent width and stopping as for the others."""
    import scvi

    model = build_scvi(adata, seed)
    started = time.perf_counter()
    options = {"early_stopping": True, "early_stopping_patience": 20, "enable_progress_bar": False}
    model.train(100, train_size=0.9, **options)
    seconds = (time.perf_counter() - started) / max(1, len(model.history["elbo_train"]))
    if query is None:
        return model.get_latent_representation(), seconds, None
    # Surgery: weights for the new batch are learnt on the query, the rest is frozen.
    new = anndata.AnnData(query.X.copy(), obs=query.obs.copy(), var=query.var[[]].copy())
    mapped = scvi.model.SCVI.load_query_data(new, model)
    mapped.train(100, plan_kwargs={"weight_decay": 0.0}, **options)
    return model.get_latent_representation(), seconds, mapped.get_latent_representation()


def study(
    name: str, seed: int, rows: list[str], out: Path, with_scib: bool, lr: float | None = None
) -> None:
    done = {(r["data"], r["seed"], r["row"], r.get("lr")) for r in read(out)}
    missing = [row for row in rows if (name, seed, row, lr) not in done]
    if not missing:
        return
    adata = load(name)
    if batch_of(adata) is None:
        missing = [row for row in missing if row not in MIXED]
    print(f"{name}, seed {seed}: {adata.n_obs:,} cells, {adata.n_vars:,} genes", flush=True)
    for row in missing:
        embedding, seconds, _ = fit(row, adata, seed, lr=lr)
        adata.obsm[row] = embedding.astype(np.float32)
        found = {
            "data": name,
            "seed": seed,
            "row": row,
            "seconds_per_epoch": seconds,
            "rank": effective_rank_of(embedding),
        }
        if lr is not None:
            found["lr"] = lr
        options = {"use_rep": [row], "rng": seed, "test_size": 0.2}
        for what, probe in (("kNN", scssl.tl.knn_probe), ("linear", scssl.tl.linear_probe)):
            scores = probe(adata, LABELS, **options).iloc[0]
            found |= {f"{what} macro-F1": float(scores["macro_f1"])}
            found |= {f"{what} accuracy": float(scores["accuracy"])}
        if with_scib and (batch_of(adata) is not None or seed == 0):
            metrics = scib(adata, [row], batch_key=batch_of(adata), label_key=LABELS).loc[row]
            found |= {f"scib {key}": float(value) for key, value in metrics.items()}
        with out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(
            f"  {row}: "
            + ", ".join(
                f"{k} {v:.3f}" for k, v in found.items() if k not in ("data", "seed", "row")
            ),
            flush=True,
        )


def epoch_seconds(row: str, adata: anndata.AnnData) -> float:
    """CPU time of an epoch; of PCA, of all of it."""
    if row == "PCA-50":
        x = lognorm(adata.X).toarray()
        started = time.process_time()
        PCA(50, random_state=0).fit(x)
        return time.process_time() - started
    spent = []
    # What is compiled or imported on first use is not of an epoch.
    for epochs in (1, 1, 4):
        if row == "scVI":
            model, options = build_scvi(adata, 0), {"train_size": 0.9, "enable_progress_bar": False}
        else:
            model, options = build(row, adata, 0), {"rng": 0, "progress": False}
        started = time.process_time()
        model.train(epochs, **options)
        spent.append(time.process_time() - started)
    return (spent[2] - spent[1]) / 3


def show_seconds(names: list[str], rows: list[str]) -> None:
    found: dict[str, dict[str, object]] = {row: {"": row} for row in rows}
    for name in names:
        adata = load(name)
        for row in rows:
            if row not in MIXED or batch_of(adata) is not None:
                found[row][name] = f"{epoch_seconds(row, adata):.2f}"
                print(name, found[row], flush=True)
    print(table([{name: line.get(name, "") for name in ("", *names)} for line in found.values()]))


def effective_rank_of(embedding: np.ndarray) -> float:
    import torch

    return effective_rank(torch.from_numpy(np.asarray(embedding, dtype=np.float64)))


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def show(out: Path) -> None:
    frame = pd.DataFrame(read(out))
    names = [n for n in DATA if n in set(frame["data"])]
    scores = ["kNN macro-F1", "linear macro-F1", "seconds_per_epoch", "rank"]
    scores += ["scib Bio conservation", "scib Batch correction", "scib Total"]
    for score in [score for score in scores if score in frame]:
        if frame[score].isna().all():
            continue
        cells = frame.groupby(["row", "data"])[score].agg(["mean", "std", "count"])
        rows = []
        for row in [r for r in ROWS if r in set(frame["row"])]:
            line = {"": row}
            for name in names:
                if (row, name) not in cells.index or cells.loc[(row, name), "count"] == 0:
                    line[name] = ""
                    continue
                mean, sd, n = cells.loc[(row, name)]
                digits = 2 if score == "seconds_per_epoch" else 1 if score == "rank" else 3
                spread = f" ± {sd:.{digits}f}" if n > 1 else ""
                line[name] = f"{mean:.{digits}f}{spread}" + ("" if n == 5 else f" ({int(n)})")
            rows.append(line)
        print(f"\n{score}; in brackets the number of seeds where it is not 5\n")
        print(table(rows))


def show_rates(out: Path) -> None:
    frame = pd.DataFrame(read(out))
    for name in [n for n in DATA if n in set(frame["data"])]:
        part = frame[frame["data"] == name]
        print(f"\n{name}, macro-F1 of nearest neighbours by learning rate\n")
        cells = part.groupby(["row", "lr"])["kNN macro-F1"].mean()
        rates = sorted(set(part["lr"]))
        rows = [r for r in ROWS if r in set(part["row"])]
        print(
            table(
                [{"": r, **{f"{lr:g}": f"{cells.get((r, lr)):.3f}" for lr in rates}} for r in rows]
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--out", type=Path, default=Path("joint_embedding_study.jsonl"))
    parser.add_argument("--scib", action="store_true", help="with scib-metrics (slow)")
    parser.add_argument("--lr", type=float, nargs="+", help="learning rates instead of the default")
    parser.add_argument("--seconds", action="store_true", help="seconds per epoch, no scores")
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("WARNING")
    warnings.filterwarnings("ignore")
    if args.seconds:
        print(machine(), flush=True)
        show_seconds(args.data, args.rows)
        return
    if args.lr:
        for name in args.data if not args.table else ():
            for seed in args.seeds:
                for lr in args.lr:
                    study(name, seed, args.rows, args.out, False, lr)
        show_rates(args.out)
        return
    if not args.table:
        print(machine(), flush=True)
        for seed in args.seeds:
            for name in args.data:
                study(name, seed, args.rows, args.out, args.scib)
    show(args.out)


if __name__ == "__main__":
    main()
