"""RNA to protein: ridge regression on PCA, the network from scratch, pretrained, fine-tuned.

Pearson correlation per protein on held-out cells, mean over proteins; mean and standard deviation
over five folds, whose number is also the seed of the model. All rows are given the same folds. PCA
and self-supervised pretraining see the expression of all cells, but no proteins; every regression
sees the proteins of the training cells alone. Counts are log1p-transformed for all rows.

No study of ``scssl benchmark``: there embeddings are compared, by one ridge regression (``studies/proteins.yaml``);
here a network is fine-tuned to predict proteins itself.

    SCSSL_DATA_DIR=/path/to/data python benchmarks/protein.py [data set ...]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import scanpy as sc
from _common import data_dir, machine, table
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold

import scssl

DATA = ("cbmc_cite", "pbmc_cite_2batch_400")
PREDICTOR = scssl.model.ProteinPredictor


def load(name: str) -> anndata.AnnData:
    """Cells with proteins; without the mouse cells and those that nobody named."""
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    if "cell_type" in adata.obs:
        adata = adata[~adata.obs["cell_type"].isin(["Mouse", "Unknown"])].copy()
    adata.obsm["protein"] = np.asarray(adata.obsm["protein"], dtype=np.float64)
    return adata


def targets(adata: anndata.AnnData) -> np.ndarray:
    """What is predicted: log1p of counts, other values as they are."""
    values = adata.obsm["protein"]
    counts = values.min() >= 0 and (values == values.round()).all()
    return np.log1p(values) if counts else values


def pca(adata: anndata.AnnData, *, scaled: bool) -> np.ndarray:
    """50 components of log-normalised genes; or of the 2,000 most variable ones, scaled."""
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if scaled:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000)
        adata = adata[:, adata.var["highly_variable"]].copy()
        sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=50)
    return np.asarray(adata.obsm["X_pca"])


def pearson(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean over proteins."""
    p, m = predicted - predicted.mean(0), measured - measured.mean(0)
    norm = np.sqrt((p * p).sum(0) * (m * m).sum(0))
    return float(((p * m).sum(0) / norm).mean())


def ridge(features: np.ndarray, *, choose: bool = False) -> Callable[..., np.ndarray]:
    """Ridge regression with penalty 1, or with the one that the training cells choose."""

    def fit(adata, y, train, test, seed):
        x = features
        model = Ridge(1.0)
        if choose:
            x = (x - x[train].mean(0)) / x[train].std(0)
            model = RidgeCV(np.logspace(-1, 4, 16), alpha_per_target=True)
        return model.fit(x[train], y[train]).predict(x[test])

    return fit


def network(
    source: scssl.model.SSLModel | None, train_kwargs: dict | None = None, **kwargs
) -> Callable[..., np.ndarray]:
    """A `ProteinPredictor` that starts from a model, or from scratch."""

    def fit(adata, y, train, test, seed):
        adata = adata.copy()
        adata.obsm["protein"][test] = np.nan
        if source is None:
            PREDICTOR.setup_anndata(adata)
            model = PREDICTOR(adata, rng=seed, **kwargs)
        else:
            model = PREDICTOR.from_ssl_model(source, adata, rng=seed, **kwargs)
        model.train(rng=seed, progress=False, **(train_kwargs or {}))
        return model.predict(indices=test).to_numpy()

    return fit


def pretrained(adata: anndata.AnnData, path: Path | None) -> scssl.model.SSLModel:
    """Masked autoencoder with the defaults, trained on the expression of all cells."""
    if path is not None and path.exists():
        return scssl.model.SSLModel.load(path)
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata)
    model.train(progress=False)
    if path is not None:
        model.save(path)
    return model


def arms(adata: anndata.AnnData, source: scssl.model.SSLModel) -> dict[str, Callable]:
    """Rows of the table."""
    embedding = source.get_latent_representation(adata).astype(np.float64)
    return {
        "ridge on PCA-50": ridge(pca(adata, scaled=False)),
        "ridge on PCA-50, penalty chosen": ridge(pca(adata, scaled=False), choose=True),
        "ridge on PCA-50 of scaled genes, penalty chosen": ridge(
            pca(adata, scaled=True), choose=True
        ),
        "ridge on SSL embedding, penalty chosen": ridge(embedding, choose=True),
        "from scratch, embedding only": network(None, n_components=0),
        "from scratch": network(None),
        "pretrained, frozen, linear, embedding only": network(
            source, freeze="encoder", head="linear", n_components=0
        ),
        "pretrained, frozen": network(source, freeze="encoder"),
        "pretrained, fine-tuned, embedding only": network(source, n_components=0),
        "pretrained, fine-tuned (default)": network(source),
    }


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", default=DATA)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="folder to keep pretrained models in")
    parser.add_argument("--only", help="rows whose name has this in it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    scssl.settings.verbosity = "error"
    print(machine())
    for name in options.names:
        adata = load(name)
        y = targets(adata)
        source = pretrained(adata, options.cache and options.cache / f"{name}_protein")
        splits = list(KFold(5, shuffle=True, random_state=0).split(y))[: options.folds]
        rows = []
        for label, fit in arms(adata, source).items():
            if options.only and options.only not in label:
                continue
            start = time.perf_counter()
            r = [
                pearson(fit(adata, y, train, test, seed), y[test])
                for seed, (train, test) in enumerate(splits)
            ]
            seconds = (time.perf_counter() - start) / len(splits)
            rows.append(
                {
                    "row": label,
                    "Pearson per protein": f"{np.mean(r):.3f} ± {np.std(r, ddof=1):.3f}",
                    "seconds per fold": f"{seconds:.1f}",
                }
            )
            print(rows[-1], flush=True)
        print(f"\n{name}: {adata.n_obs:,} cells, {adata.n_vars:,} genes, {y.shape[1]} proteins\n")
        print(table(rows), "\n", flush=True)


if __name__ == "__main__":
    main()
