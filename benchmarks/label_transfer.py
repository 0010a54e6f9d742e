"""Calibration and novelty of ``tl.label_transfer`` on held-out cells and left-out types.

For each seed 30 % of the cells of every type are the query, the others the reference.

Calibration: expected calibration error of the query's confidence against its known labels, and the
share of the query that is called unknown although its types are in the reference.

Novelty: one type at a time is taken out of the reference. AUROC of the novelty, cells of that type
against the other cells of the query; ``found`` is the share of the type that is called unknown,
``false`` that of the others. No score is chosen or fitted with cells of the type that is left out.

"PCA-50" and "autoencoder" are made once from all cells, with no labels, as one embeds a query together
with its reference. "... of the reference" (``--strict``) are fitted anew for each split and each type on
four fifths (PCA) or nine tenths (autoencoder) of the reference alone, which has no cell of that type, and
calibrated on the rest of it with `held_out_key`; "..., not held out" is the same without that argument.

Alternatives (``--alternatives``): AUROC of other scores, each type left out in turn as above.

No study of ``scssl benchmark``: here the embedding is given and the scores of label transfer are what is compared, on
data without batches. Batches that are left out are task ``annotation`` there.

    SCSSL_DATA_DIR=... python benchmarks/label_transfer.py --data pbmc3k mouse_bladder --cache models

The labels of these data sets are clusters of the same cells, made from principal components.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _common import data_dir, lognorm, machine, table
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import scssl
from scssl.tl import Reference

TITLES = {"pca": "PCA-50", "autoencoder": "autoencoder"}
HELD_OUT = "held_out"


def held_out(labels: np.ndarray, seed: int, share: float = 0.3) -> np.ndarray:
    """Mask of the query: `share` of every type, one cell at least, but never all."""
    rng = np.random.default_rng(seed)
    query = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        query[rows[: max(1, round(share * len(rows)))]] = len(rows) > 1
    return query


def pca(train: sparse.csr_matrix, *others: sparse.csr_matrix) -> list[np.ndarray]:
    """Fifty principal components of the first matrix, of all."""
    fitted = PCA(50, svd_solver="arpack", random_state=0).fit(train)
    return [fitted.transform(x).astype(np.float32) for x in (train, *others)]


def trained(adata: anndata.AnnData, seed: int = 0) -> scssl.model.MaskedAutoencoder:
    """Masked autoencoder with defaults."""
    adata = adata.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, rng=seed)
    model.train(rng=seed, progress=False)
    return model


class Once:
    """An embedding of all cells, made once and kept in a folder."""

    def __init__(self, name: str, adata: anndata.AnnData, kind: str, cache: Path | None) -> None:
        file = None if cache is None else cache / f"{name}_{kind}.npy"
        if file is not None and file.exists():
            self.values = np.load(file)
            return
        if kind == "pca":
            self.values = pca(lognorm(adata.X))[0]
        else:
            self.values = trained(adata).get_latent_representation()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, self.values)

    def __call__(self, reference: np.ndarray, query: np.ndarray, seed: int):
        return self.values[reference], self.values[query], None


class OfReference:
    """An embedding fitted to most of the reference alone, and the cells it was not fitted to."""

    def __init__(self, adata: anndata.AnnData, kind: str) -> None:
        self.adata, self.kind, self.x = adata, kind, lognorm(adata.X)

    def __call__(self, reference: np.ndarray, query: np.ndarray, seed: int):
        aside = np.zeros(len(reference), dtype=bool)
        if self.kind == "autoencoder":
            model = trained(self.adata[reference], seed)
            aside[model.validation_indices] = True
            parts = (self.adata[rows].copy() for rows in (reference, query))
            return *(model.get_latent_representation(part) for part in parts), aside
        rows = np.random.default_rng(seed).permutation(len(reference))
        aside[rows[: len(rows) // 5]] = True
        found = pca(*(self.x[rows] for rows in (reference[~aside], reference[aside], query)))
        values = np.empty((len(reference), found[0].shape[1]), dtype=np.float32)
        values[~aside], values[aside] = found[:2]
        return values, found[2], aside


def transfer(adata, values, parts, aside, seed: int, **kwargs):
    """Query with what label transfer wrote into it, and its scores."""
    reference, query = (
        anndata.AnnData(obs=adata.obs.iloc[rows].copy(), obsm={"X_ssl": embedded})
        for rows, embedded in zip(parts, values, strict=True)
    )
    if aside is not None:
        reference.obs[HELD_OUT] = aside
        kwargs["held_out_key"] = HELD_OUT
    with warnings.catch_warnings():
        # Of a query that is too familiar, which the rows "not held out" are there to show.
        warnings.simplefilter("ignore", scssl.ScsslWarning)
        scssl.tl.label_transfer(reference, query, "cell_type", rng=seed, **kwargs)
    scores = scssl.tl.score_labels(
        query, "cell_type", "ssl_label", confidence_key="ssl_label_confidence"
    )
    return query, scores.iloc[0]


def calibration(adata, embed, labels, seeds: int) -> dict[str, str]:
    rows = []
    for seed in range(seeds):
        query = held_out(labels, seed)
        parts = np.flatnonzero(~query), np.flatnonzero(query)
        *values, aside = embed(*parts, seed)
        out, scores = transfer(adata, values, parts, aside, seed)
        own = out.uns["ssl_label"]["calibration"]
        kept = out.obs["ssl_label_call"] != "unknown"
        right = out.obs["ssl_label"].astype(str) == out.obs["cell_type"].astype(str)
        rows.append(
            {
                "accuracy": scores["accuracy"],
                "macro-F1": scores["macro_f1"],
                "ECE of votes, reference": own["ece_of_votes"],
                "ECE, reference": own["ece"],
                "ECE, query": scores["ece"],
                "unknown": 1 - kept.mean(),
                "accuracy of the rest": right[kept].mean(),
            }
        )
    return summary(pd.DataFrame(rows))


def summary(frame: pd.DataFrame) -> dict[str, str]:
    """Mean and, of several seeds, standard deviation of each column."""
    spread = frame.std(ddof=1)
    return {
        c: f"{frame[c].mean():.3f}" + (f" ± {spread[c]:.3f}" if len(frame) > 1 else "")
        for c in frame
    }


def novelty(adata, embed, labels, seeds: int) -> dict[str, pd.DataFrame]:
    """AUROC and calls by left-out type; also without `held_out_key` where there is one."""
    rows: dict[str, list[dict]] = {"": [], ", not held out": []}
    for seed in range(seeds):
        query = held_out(labels, seed)
        for left in np.unique(labels):
            parts = np.flatnonzero(~query & (labels != left)), np.flatnonzero(query)
            *values, aside = embed(*parts, seed)
            new = labels[parts[1]] == left
            for title, found in rows.items():
                if title and aside is None:
                    continue
                out, _ = transfer(adata, values, parts, None if title else aside, seed)
                unknown = (out.obs["ssl_label_call"] == "unknown").to_numpy()
                found.append(
                    {
                        "left out": left,
                        "seed": seed,
                        "cells": int(new.sum()),
                        "AUROC": roc_auc_score(new, out.obs["ssl_label_novelty"]),
                        "found": unknown[new].mean(),
                        "false": unknown[~new].mean(),
                    }
                )
    return {title: pd.DataFrame(found) for title, found in rows.items() if found}


def alternatives(adata, embed, labels, seeds: int) -> dict[str, str]:
    """AUROC of several scores of novelty, mean over left-out types."""
    rows = []
    for seed in range(seeds):
        query = held_out(labels, seed)
        for left in np.unique(labels):
            parts = np.flatnonzero(~query & (labels != left)), np.flatnonzero(query)
            known, new, _ = embed(*parts, seed)
            names, codes = np.unique(labels[parts[0]], return_inverse=True)
            model = Reference(known, codes, len(names), n_neighbors=15, exact=True, seed=seed)
            distances, neighbors = model.index.query(new, 15)
            found = codes[neighbors]
            votes = np.stack([(found == c).mean(axis=1) for c in range(len(names))], axis=1)
            # The distance of the predicted label's own cells, drawn towards that of all by ten cells.
            logs, sizes = np.log(model._spread), np.bincount(codes)[:, None]
            own = np.array(
                [[np.median(logs[codes == c]), logs[codes == c].std()] for c in range(len(names))]
            )
            own = (sizes * own + 10 * np.array([np.median(logs), logs.std()])) / (sizes + 10)
            place, width = own[votes.argmax(axis=1)].T
            local, central = model._local(distances, neighbors), model.centres.distance(new)
            scores = {
                "mean distance": distances.mean(axis=1),
                "by label": (np.log(distances.mean(axis=1)) - place) / width,
                "entropy of votes": -(votes * np.log(np.maximum(votes, 1e-12))).sum(axis=1),
                "local ratio": local,
                "Mahalanobis": central,
                "both": model._both(local, central),
            }
            is_new = labels[parts[1]] == left
            area = {title: roc_auc_score(is_new, score) for title, score in scores.items()}
            rows.append({"seed": seed, **area})
    return summary(pd.DataFrame(rows).groupby("seed").mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="*", default=["pbmc3k", "mouse_bladder"])
    parser.add_argument("--embeddings", nargs="*", default=["pca", "autoencoder"])
    parser.add_argument("--strict", nargs="*", default=[], choices=list(TITLES))
    parser.add_argument("--alternatives", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="folder to keep embeddings in")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="anndata")
    logging.getLogger("scssl").setLevel("WARNING")
    print(machine(), flush=True)
    calibrated, by_type, means, compared = [], [], [], []
    for name in args.data:
        adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        arms = {TITLES[kind]: Once(name, adata, kind, args.cache) for kind in args.embeddings}
        arms |= {
            f"{TITLES[kind]} of the reference": OfReference(adata, kind) for kind in args.strict
        }
        if args.alternatives:
            compared += [
                {"data": name, "embedding": arm, **alternatives(adata, embed, labels, args.seeds)}
                for arm, embed in arms.items()
            ]
            continue
        columns = {}
        for arm, embed in arms.items():
            result = calibration(adata, embed, labels, args.seeds)
            calibrated.append({"data": name, "embedding": arm, **result})
            for title, frame in novelty(adata, embed, labels, args.seeds).items():
                by_seed = frame.groupby("seed")[["AUROC", "found", "false"]].mean()
                n_types = frame["left out"].nunique()
                means.append(
                    {"data": name, "embedding": arm + title, "types": n_types, **summary(by_seed)}
                )
                columns.setdefault(
                    arm, frame.groupby("left out")[["cells", "AUROC", "found"]].mean()
                )
            print(f"{name}, {arm} done", flush=True)
        for left in np.unique(labels):
            shown = {
                arm: f"{frame.loc[left, 'AUROC']:.3f}, {frame.loc[left, 'found']:.2f}"
                for arm, frame in columns.items()
            }
            cells = int(next(iter(columns.values())).loc[left, "cells"])
            by_type.append({"data": name, "left out": left, "cells": cells, **shown})
    if compared:
        print("Alternatives", table(compared), sep="\n\n")
    if calibrated:
        print("Calibration", table(calibrated), "Novelty", table(means), sep="\n\n")
        print("\nAUROC and share found, by type", table(by_type), sep="\n\n")


if __name__ == "__main__":
    main()
