"""The losses that CellPLM can be fine-tuned with, on tissues.

For each data set and seed a fifth of the cells is held out, stratified by label. Every row embeds all cells; labels
of the other four fifths alone are ever used: by the fine-tuned rows, and by the 15 nearest neighbours that call
the held-out cells. Scores are of the held-out cells: macro-F1 of those calls, ARI and NMI of Leiden clusters at
resolution 1, for cell types and, where there are any, regions. Seconds per epoch are of one thread, all rows
on the same machine; fine-tuned rows start from the CellPLM with positions, whose own time is not counted in.

No study of ``scssl benchmark``, whose methods start from nothing: these start from one model. CellPLM beside PCA, scVI
and the masked autoencoder is ``studies/tissues.yaml``.

Rows are appended to ``--out`` as they are found; what is there is not run again. ``--table`` only prints.

    SCSSL_DATA_DIR=... python benchmarks/cellplm_study.py --out cellplm.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from _common import data_dir, effective_rank_of, lognorm, machine, read, table
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import scssl

# In place of DLPFC, which is not in the data folder, another Visium section of a cortex.
DATA = [
    "starmap_mpfc_3slices",
    "osmfish_ss_cortex",
    "merfish_hypothalamus_3slices",
    "her2st_8sections",
    "visium_mouse_cortex_lr648",
]
TUNED = {
    "CellPLM, reconstruction again": "reconstruction",
    "CellPLM, KL only": "kl",
    "CellPLM, cross-entropy": "cross_entropy",
    "CellPLM, SupCon": "supcon",
}
START = "CellPLM, positions"
ROWS = [START, *TUNED]
LABELS, REGION, BATCH, N_GENES = "cell_type", "region", "batch", 4000


def load(name: str) -> anndata.AnnData:
    """Labelled cells of types with at least 10, on the 4,000 most variable genes."""
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    adata = adata[adata.obs[LABELS].notna()].copy()
    sizes = adata.obs[LABELS].value_counts()
    adata = adata[adata.obs[LABELS].isin(sizes.index[sizes >= 10]).to_numpy()].copy()
    adata.obs[LABELS] = adata.obs[LABELS].astype(str)
    adata.obs[BATCH] = adata.obs[BATCH].astype(str) if BATCH in adata.obs else "one"
    if adata.n_vars > N_GENES:
        normal = anndata.AnnData(lognorm(adata.X), obs=adata.obs[[BATCH]], var=adata.var[[]])
        sc.pp.highly_variable_genes(normal, n_top_genes=N_GENES, batch_key=BATCH)
        adata = adata[:, normal.var["highly_variable"].to_numpy()].copy()
    return adata


def batch_of(adata: anndata.AnnData) -> str | None:
    return BATCH if adata.obs[BATCH].nunique() > 1 else None


class Study:
    """One data set and seed."""

    def __init__(self, name: str, seed: int) -> None:
        self.adata, self.seed = load(name), seed
        labels = self.adata.obs[LABELS]
        rows = np.arange(len(labels))
        self.train, self.test = train_test_split(
            rows, test_size=0.2, stratify=labels, random_state=seed
        )
        # What a fine-tuned row may know of cell types.
        known = labels.astype(object).copy()
        known.iloc[self.test] = None
        self.adata.obs["known"] = pd.Categorical(known)
        self.pretrained: Any = None
        self.start: tuple[np.ndarray, float, int] | None = None

    def fit(self, row: str) -> tuple[np.ndarray, float, int]:
        """Embedding of all cells, seconds per epoch, epochs."""
        adata, seed = self.adata, self.seed
        if self.start is None:
            own = adata.copy()
            scssl.model.CellPLM.setup_anndata(
                own, sample_key=BATCH, spatial_key="spatial", batch_key=batch_of(own)
            )
            self.pretrained = scssl.model.CellPLM(own, rng=seed)
            self.start = self._trained(self.pretrained)
        if row == START:
            return self.start
        own = adata.copy()
        model = scssl.model.CellPLM.from_ssl_model(
            self.pretrained,
            own,
            objective=TUNED[row],
            sample_key=BATCH,
            spatial_key="spatial",
            batch_key=batch_of(own),
            labels_key="known",
            # With which the tables were measured; 0.1 is the default since.
            temperature=0.07,
            rng=seed,
        )
        return self._trained(model, max_epochs=30)

    def _trained(self, model: Any, **options: Any) -> tuple[np.ndarray, float, int]:
        model.train(rng=self.seed, progress=False, **options)
        done = model.training_
        return model.get_latent_representation(), done["seconds"] / done["epochs"], done["epochs"]

    def scores(self, embedding: np.ndarray) -> dict[str, float]:
        """Of the held-out cells."""
        found: dict[str, float] = {}
        for what, column in (("type", LABELS), ("region", REGION)):
            if column not in self.adata.obs:
                continue
            labels = self.adata.obs[column]
            there = labels.notna().to_numpy()
            train = self.train[there[self.train]]
            test = self.test[there[self.test]]
            known = labels.astype(str).to_numpy()
            calls = KNeighborsClassifier(15).fit(embedding[train], known[train])
            predicted = calls.predict(embedding[test])
            f1 = f1_score(known[test], predicted, average="macro", labels=np.unique(known[test]))
            cells = anndata.AnnData(obs=pd.DataFrame({"label": known[test]}))
            cells.obs_names = [str(i) for i in test]
            cells.obsm["z"] = embedding[test]
            clusters = scssl.tl.cluster_metrics(
                cells, "label", use_rep="z", resolution=1.0, n_repeats=3, rng=self.seed
            ).iloc[0]
            found |= {f"{what} macro-F1": float(f1)}
            found |= {f"{what} {s}": float(clusters[f"leiden_{s.lower()}"]) for s in ("ARI", "NMI")}
        return found


def run(name: str, seed: int, rows: list[str], out: Path) -> None:
    done = {(r["data"], r["seed"], r["row"]) for r in read(out)}
    missing = [row for row in rows if (name, seed, row) not in done]
    if not missing:
        return
    study = Study(name, seed)
    print(
        f"{name}, seed {seed}: {study.adata.n_obs:,} cells, {study.adata.n_vars:,} genes",
        flush=True,
    )
    for row in missing:
        embedding, seconds, epochs = study.fit(row)
        result = {"data": name, "seed": seed, "row": row, "s per epoch": seconds, "epochs": epochs}
        result |= {
            "rank": effective_rank_of(np.asarray(embedding)),
            **study.scores(np.asarray(embedding)),
        }
        with out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(
            "  "
            + ", ".join(
                f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in result.items()
            ),
            flush=True,
        )


def show(out: Path) -> None:
    frame = pd.DataFrame(read(out))
    scores = [f"{what} {s}" for what in ("type", "region") for s in ("macro-F1", "ARI", "NMI")]
    for name in [n for n in DATA if n in set(frame["data"])]:
        part = frame[frame["data"] == name]
        print(f"\n{name}, {part['seed'].nunique()} seeds\n")
        rows = []
        for row in part["row"].unique():
            own = part[part["row"] == row]
            line: dict[str, object] = {"": row, "n": len(own)}
            for score in [s for s in scores if s in own and own[s].notna().any()]:
                sd = f" ± {own[score].std():.3f}" if len(own) > 1 else ""
                line[score] = f"{own[score].mean():.3f}{sd}"
            line["rank"] = f"{own['rank'].mean():.1f}"
            line["s per epoch"] = f"{own['s per epoch'].mean():.2f}"
            line["epochs"] = f"{own['epochs'].mean():.0f}"
            rows.append(line)
        print(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--out", type=Path, default=Path("cellplm_study.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("ERROR")
    warnings.filterwarnings("ignore")
    if not args.table:
        print(machine(), flush=True)
        for seed in args.seeds:
            for name in args.data:
                run(name, seed, args.rows, args.out)
    show(args.out)


if __name__ == "__main__":
    main()
