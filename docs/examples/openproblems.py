"""A model of scssl as a method of Open Problems: batch integration and label projection.

python openproblems.py integrate dataset.h5ad integrated.h5ad [MODEL]
python openproblems.py annotate train.h5ad test.h5ad prediction.h5ad [MODEL]
"""

from __future__ import annotations

import sys
from typing import Any

import anndata as ad

import scssl


def integrate(dataset: str, output: str, model: str = "SimCLR", **training: Any) -> None:
    """Embed the cells of all batches in ``obsm["X_emb"]``."""
    adata = ad.read_h5ad(dataset)
    scssl.pp.cross_batch_neighbors(adata, "batch", layer="counts", method="mnn")
    model_class = scssl.model.get_model_class(model)
    model_class.setup_anndata(adata, layer="counts", batch_key="batch")
    # Two views of a cell have in common what similar cells of other batches share.
    mixed = issubclass(model_class, scssl.model.JointEmbedding)
    trained = model_class(adata, **({"augmentation": "integration"} if mixed else {}))
    trained.train(**training)
    scssl.tl.embed(adata, trained)
    write(adata, output, model, obsm={"X_emb": adata.obsm["X_ssl"]})


def annotate(
    train: str, test: str, output: str, model: str = "MaskedAutoencoder", **training: Any
) -> None:
    """Label the cells of a test set in ``obs["label_pred"]``."""
    parts = {"train": ad.read_h5ad(train), "test": ad.read_h5ad(test)}
    # The model sees all cells and no label.
    both = ad.concat(parts, index_unique="-", label="part", merge="same")
    model_class = scssl.model.get_model_class(model)
    model_class.setup_anndata(both, layer="counts")
    trained = model_class(both)
    trained.train(**training)
    scssl.tl.embed(both, trained)
    reference, query = (both[both.obs["part"] == part].copy() for part in parts)
    reference.obs["label"] = parts["train"].obs["label"].to_numpy()
    scssl.tl.label_transfer(reference, query, "label")
    predicted = query.obs["ssl_label"].astype(str).to_numpy()
    write(parts["test"], output, model, obs=parts["test"].obs[[]].assign(label_pred=predicted))


def write(adata: ad.AnnData, output: str, model: str, **results: Any) -> None:
    """Write what Open Problems reads: results and where they come from, without the expression."""
    uns = {key: adata.uns[key] for key in ("dataset_id", "normalization_id")}
    parts = {"obs": adata.obs[[]], "var": adata.var[[]], **results}
    uns["method_id"] = f"scssl_{model.lower()}"
    ad.AnnData(**parts, shape=adata.shape, uns=uns).write_h5ad(output, compression="gzip")


if __name__ == "__main__":
    {"integrate": integrate, "annotate": annotate}[sys.argv[1]](*sys.argv[2:])
