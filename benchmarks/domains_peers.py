"""Domains of tissue by ``scssl.tl.spatial_domains`` and by published packages, on the same annotated sections.

Each section is divided on its own into as many domains as it has regions. PCA (64 components, or all but one) and the
masked autoencoder (defaults) are fitted to all sections of a data set together. STAGATE and GraphST of scssl learn
from one of these two and are divided by the mixture alone, as published, and with the hops of the default. Peers run
where they are installed, with what their own tutorials give them: CellCharter (triangulation without the longest 1 %
of the links, 3 hops, a covariance of each domain) on PCA and on the autoencoder; GraphST on counts, its Gaussian
mixture of one covariance on 20 components from scikit-learn in place of R's mclust, with and without its refinement
by 50 neighbours; Novae trained from scratch on all sections. A peer that fails is a row with its error.

Seconds are those of one process with one thread, of the road alone: what it starts from is not counted in.
Rows are appended to ``--out`` as they are found; what is there is not run again. ``--table`` only prints.

    SCSSL_DATA_DIR=... python benchmarks/domains_peers.py --out domains.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from _common import data_dir, machine, read, table
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

import scssl

# Of the Visium section the regions are the labels of its spots.
DATA = {
    "starmap_mpfc_3slices": "region",
    "osmfish_ss_cortex": "region",
    "visium_mouse_cortex_lr648": "cell_type",
}
EMBEDDINGS = {"PCA": "X_pca", "autoencoder": "X_ssl"}
_TRUTH, _SECTION = "_truth", "_section"


def load(name: str, seed: int) -> list[anndata.AnnData]:
    """Sections with counts in a layer, logarithms in X and both embeddings."""
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    adata.obs[_TRUTH] = adata.obs[DATA[name]].astype(str)
    adata.obs[_SECTION] = adata.obs["batch"].astype(str) if "batch" in adata.obs else "one"
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, rng=seed)
    model.train(rng=seed, progress=False)
    scssl.tl.embed(adata, model)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    n = min(64, adata.n_vars - 1)
    adata.obsm["X_pca"] = PCA(n, random_state=seed).fit_transform(adata.X.toarray())
    known = adata.obs[DATA[name]].notna().to_numpy()
    parts = [adata[(adata.obs[_SECTION] == one).to_numpy() & known].copy() for one in _names(adata)]
    for part in parts:
        scssl.pp.spatial_neighbors(part)
    return parts


def _names(adata: anndata.AnnData) -> list[str]:
    return sorted(adata.obs[_SECTION].unique())


# --- roads: domains of each section ----------------------------------------------------------------

Found = Iterator[tuple[str, list[np.ndarray], float]]


def neighborhood(parts: list[anndata.AnnData], seed: int) -> Found:
    """The default of scssl on both embeddings."""
    for name, rep in EMBEDDINGS.items():
        start = time.process_time()
        domains = [_domains(part, rep, "neighborhood", seed) for part in parts]
        yield f"neighborhood on {name}", domains, time.process_time() - start


def stagate(parts: list[anndata.AnnData], seed: int) -> Found:
    """STAGATE of scssl on both embeddings."""
    yield from _of_model("STAGATE", parts, seed)


def graphst(parts: list[anndata.AnnData], seed: int) -> Found:
    """GraphST of scssl on both embeddings."""
    yield from _of_model("GraphST", parts, seed)


def _of_model(model: str, parts: list[anndata.AnnData], seed: int) -> Found:
    model_class: Any = scssl.model.get_model_class(model)
    for name, rep in EMBEDDINGS.items():
        start = time.process_time()
        for part in parts:
            model_class.setup_anndata(part, use_rep=rep)
            fitted = model_class(part, rng=seed)
            fitted.train(rng=seed, progress=False)
            scssl.tl.embed(part, fitted, key_added="X_model")
        taken = time.process_time() - start
        for method in ("mixture", "neighborhood"):
            start = time.process_time()
            domains = [_domains(part, "X_model", method, seed) for part in parts]
            taken_too = taken + time.process_time() - start
            yield f"{model} on {name}, {method}", domains, taken_too


def _domains(part: anndata.AnnData, rep: str, method: Any, seed: int) -> np.ndarray:
    n = part.obs[_TRUTH].nunique()
    scssl.tl.spatial_domains(part, n, use_rep=rep, method=method, rng=seed)
    return part.obs["spatial_domain"].to_numpy()


def peer_cellcharter(parts: list[anndata.AnnData], seed: int) -> Found:
    """CellCharter on both embeddings."""
    import cellcharter
    import squidpy

    for name, rep in EMBEDDINGS.items():
        start, domains = time.process_time(), []
        for part in parts:
            own = anndata.AnnData(part.X, obs=part.obs[[_TRUTH]].copy(), obsm=dict(part.obsm))
            own.obsm[rep] = np.asarray(part.obsm[rep], dtype=np.float32)
            squidpy.gr.spatial_neighbors(own, coord_type="generic", delaunay=True)
            cellcharter.gr.remove_long_links(own)
            cellcharter.gr.aggregate_neighbors(own, n_layers=3, use_rep=rep)
            trainer = {"accelerator": "cpu", "enable_progress_bar": False}
            model = cellcharter.tl.Cluster(
                part.obs[_TRUTH].nunique(), random_state=seed, trainer_params=trainer
            )
            model.fit(own, use_rep="X_cellcharter")
            domains.append(np.asarray(model.predict(own, use_rep="X_cellcharter")))
        yield f"CellCharter on {name}", domains, time.process_time() - start


def peer_graphst(parts: list[anndata.AnnData], seed: int) -> Found:
    """GraphST from counts."""
    from GraphST.GraphST import GraphST
    from GraphST.utils import refine_label

    start, plain, refined = time.process_time(), [], []
    for part in parts:
        own = anndata.AnnData(part.layers["counts"].copy(), obs=part.obs[[_TRUTH]].copy())
        own.obsm["spatial"] = np.asarray(part.obsm["spatial"])
        # With a dense graph beyond some thousand cells it takes hours; "Stereo" is its sparse form.
        kind = "10X" if own.n_obs < 2000 else "Stereo"
        own = GraphST(own, random_seed=seed, datatype=kind).train()
        # As its own function does where R is there.
        values = PCA(20, random_state=42).fit_transform(own.obsm["emb"])
        n = own.obs[_TRUTH].nunique()
        mixture = GaussianMixture(n, covariance_type="tied", random_state=seed)
        own.obs["domain"] = mixture.fit_predict(values.astype(np.float64))
        plain.append(own.obs["domain"].to_numpy())
        refined.append(np.asarray(refine_label(own, 50, key="domain")))
    taken = time.process_time() - start
    yield "GraphST (graphst-modern) on counts", plain, taken
    yield "GraphST (graphst-modern) on counts, refined", refined, taken


def peer_novae(parts: list[anndata.AnnData], seed: int) -> Found:
    """Novae, trained from scratch on all sections."""
    import novae
    from lightning import seed_everything

    start = time.process_time()
    seed_everything(seed)
    own = []
    for part in parts:
        one = anndata.AnnData(part.layers["counts"].copy(), obs=part.obs[[_TRUTH]].copy())
        one.var_names = part.var_names
        one.obsm["spatial"] = np.asarray(part.obsm["spatial"])
        sc.pp.normalize_total(one)
        sc.pp.log1p(one)
        own.append(one)
    novae.spatial_neighbors(own)
    model = novae.Novae(own)
    model.fit(enable_progress_bar=False)
    model.compute_representations()
    domains = []
    for one in own:
        # Of each section the cut of the tree that has its number of domains.
        key = model.assign_domains(one, n_domains=one.obs[_TRUTH].nunique())
        domains.append(one.obs[key].astype(str).to_numpy())
    yield "Novae from scratch", domains, time.process_time() - start


ROADS: dict[str, Callable[[list[anndata.AnnData], int], Found]] = {
    "neighborhood": neighborhood,
    "STAGATE": stagate,
    "GraphST": graphst,
    "cellcharter": peer_cellcharter,
    "graphst-modern": peer_graphst,
    "novae": peer_novae,
}


# --- rows ------------------------------------------------------------------------------------------


def rows_of(road: str, name: str, parts: list[anndata.AnnData], seed: int) -> list[dict[str, Any]]:
    """A row for each way of a road: means over the sections, or what went wrong."""
    rows: list[dict[str, Any]] = []
    about = {"road": road, "data": name, "seed": seed}
    try:
        for way, domains, seconds in ROADS[road](parts, seed):
            truth = [part.obs[_TRUTH] for part in parts]
            pairs = list(zip(truth, domains, strict=True))
            ari = [float(adjusted_rand_score(*pair)) for pair in pairs]
            nmi = [float(normalized_mutual_info_score(*pair)) for pair in pairs]
            sizes = [len(np.unique(one)) for one in domains]
            found = {"ari": float(np.mean(ari)), "nmi": float(np.mean(nmi)), "seconds": seconds}
            rows.append({**about, "way": way, **found, "sections": ari, "n_domains": sizes})
            print(rows[-1], flush=True)
    except Exception as error:  # noqa: BLE001 - a peer that does not run is a finding
        rows.append({**about, "way": road, "error": f"{type(error).__name__}: {error}"})
        print(rows[-1], flush=True)
    return rows


def show(path: Path) -> None:
    """Mean ARI / NMI over seeds by data set, mean over data sets, and CPU seconds."""
    rows = pd.DataFrame(read(path))
    if "error" in rows:
        for _, row in rows[rows["error"].notna()].drop_duplicates("road").iterrows():
            print(f"{row['road']}: {row['error']}")
        rows = rows[rows["error"].isna()]
    means = rows.pivot_table(["ari", "nmi", "seconds"], "way", "data")
    order = means["ari"].mean(axis=1).sort_values(ascending=False).index
    lines = []
    for way in order:
        ari, nmi = means.loc[way, "ari"], means.loc[way, "nmi"]
        cells = {d: f"{ari[d]:.3f} / {nmi[d]:.3f}" if d in ari else "–" for d in DATA}
        mean = f"{ari.mean():.3f} / {nmi.mean():.3f}" if ari.notna().all() else "–"
        seconds = f"{means.loc[way, 'seconds'].sum():.0f}"
        lines.append({"": way, **cells, "mean": mean, "CPU s": seconds})
    n = rows.groupby(["way", "data"]).size()
    print(f"ARI / NMI, {n.min()} to {n.max()} seeds\n")
    print(table(lines))


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--roads", nargs="+", default=list(ROADS))
    parser.add_argument("--out", type=Path, default=Path("domains_peers.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("ERROR")
    warnings.filterwarnings("ignore")
    if not args.table:
        print(machine(), flush=True)
        done = {(row["road"], row["data"], row["seed"]) for row in read(args.out)}
        for seed in args.seeds:
            for name in args.data:
                left = [road for road in args.roads if (road, name, seed) not in done]
                parts = load(name, seed) if left else []
                for road in left:
                    with args.out.open("a") as file:
                        for row in rows_of(road, name, parts, seed):
                            file.write(json.dumps(row) + "\n")
    show(args.out)


if __name__ == "__main__":
    main()
