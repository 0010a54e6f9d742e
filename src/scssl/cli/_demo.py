"""What ``scssl demo`` does: the way of a first analysis, on real cells."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

LABELS = "bulk_labels"
EMBEDDINGS = {
    "X_pca": "PCA, 50 components",
    "X_untrained": "untrained encoder",
    "X_ssl": "trained encoder",
}


def demo(out: str = "scssl_demo", *, rng: int = 0) -> None:
    """Train on 700 real blood cells that come with scanpy, in under a minute and without a network.

    Compares the embedding with PCA and with an untrained model by how well a cell's neighbours tell its
    type, and writes the cells, the model, the training curves and a UMAP to a folder.

    Parameters
    ----------
    out
        Folder to write.
    rng
        Seed of every random choice.
    """
    start = time.perf_counter()
    from scssl._io import check_place

    folder = check_place(out, "--out", folder=True)
    _check_folder(folder)
    print("Loading 700 blood cells that come with scanpy …", flush=True)

    import scanpy as sc

    import scssl
    from scssl._io import replace_file

    adata = scssl.datasets.pbmc68k_reduced()
    n_cells, n_genes = adata.shape
    n_types = adata.obs[LABELS].nunique()
    print(f"{n_cells} cells, {n_genes} genes, {n_types} cell types.\n", flush=True)

    Model = scssl.model.MaskedAutoencoder
    Model.setup_anndata(adata, labels_key=LABELS)
    model = Model(adata, rng=rng)
    with warnings.catch_warnings():
        # That the model is not trained yet is the point here.
        warnings.simplefilter("ignore", scssl.ScsslWarning)
        scssl.tl.embed(adata, model, key_added="X_untrained")
    model.train(rng=rng)
    scssl.tl.embed(adata, model)
    sc.pp.pca(adata, n_comps=50, random_state=rng)
    print("\nComparing, on cells that were held out of the labels five times …", flush=True)
    methods = {name: {"method": key} for key, name in EMBEDDINGS.items()}
    seeds = range(rng, rng + 5)
    scores = scssl.tl.benchmark(
        adata,
        methods,
        "embedding",
        label_key=LABELS,
        min_cells=2,
        seeds=list(seeds),
        progress=False,
    )
    with scssl.settings.override(verbosity="warning"):
        summary = scssl.tl.benchmark_summary(scores, baseline=EMBEDDINGS["X_pca"])

    print("\nDrawing …", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    scssl.pl.history(model, save=folder / "history.png")
    scssl.pl.embedding(adata, color=LABELS, rng=rng, save=folder / "umap.png")
    model.save(folder / "model", overwrite=True)
    with replace_file(folder / "adata.h5ad") as file:
        adata.write_h5ad(file)
    print(_report(summary, folder, time.perf_counter() - start))


def _check_folder(folder: Path) -> None:
    """Raise when ``folder`` is not the demo's to write in."""
    ours = {"adata.h5ad", "history.png", "model", "umap.png"}
    # Hidden are the leftovers of a demo that was killed.
    if folder.is_dir() and {e.name for e in folder.iterdir() if e.name[0] != "."} - ours:
        raise ValueError(f"{folder} holds other files. Give a new folder as --out.")


def _report(summary: DataFrame, folder: Path, seconds: float) -> str:
    """Table of the scores, the files, and what to do next."""
    means = summary.pivot(index="method", columns="metric", values=["mean", "low", "high"])
    width = max(map(len, EMBEDDINGS.values())) + 2
    lines = [
        "",
        "Is the type of a cell read from its embedding? Macro-F1 of held-out cells, mean of five draws",
        "and its 95 % interval:",
        "",
        f"  {'embedding':<{width}}{'15 nearest neighbours':>24}{'linear probe':>24}",
    ]
    for name in EMBEDDINGS.values():
        cells = [
            f"{means.loc[name, ('mean', metric)]:.3f}  "
            f"({means.loc[name, ('low', metric)]:.3f} to {means.loc[name, ('high', metric)]:.3f})"
            for metric in ("knn_macro_f1", "probe_macro_f1")
        ]
        lines.append(f"  {name:<{width}}{cells[0]:>24}{cells[1]:>24}")
    of_trained = summary[summary["method"] == EMBEDDINGS["X_ssl"]].set_index("metric")
    paired = of_trained.loc["knn_macro_f1", ["difference", "difference_low", "difference_high"]]
    lines += [
        "",
        _verdict(*paired),
        "",
        f"Written in {seconds:.0f} s:",
        f"  {folder / 'adata.h5ad'}   the cells, with the embeddings in .obsm",
        f"  {folder / 'model'}        the trained model",
        f"  {folder / 'history.png'}  training curves",
        f"  {folder / 'umap.png'}     the embedding, coloured by cell type",
        "",
        "Next, on your own cells:",
        "  scssl train cells.h5ad --out my_model",
        "  scssl embed cells.h5ad --model my_model --out embedded.h5ad",
    ]
    return "\n".join(lines)


def _verdict(difference: float, low: float, high: float) -> str:
    """What the paired difference of the trained encoder to PCA, and its interval, say."""
    if low <= 0 <= high:
        return "The trained encoder and PCA are level on these 700 cells."
    if difference > 0:
        return f"The trained encoder is {difference:.3f} above PCA on these 700 cells."
    return (
        f"PCA is {-difference:.3f} above the trained encoder on these 700 cells: few cells are "
        "enough for PCA,\nand few for a neural network."
    )
