"""An embedding of scssl in the tasks of cz-benchmarks (pip install cz-benchmarks)."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

import scssl


def embedding(adata: AnnData, model: str = "MaskedAutoencoder", **training: Any) -> np.ndarray:
    """Embed cells with a model that is trained on them, or with a trained one (its folder or its Hub name)."""
    if model in scssl.model.list_models():
        model_class = scssl.model.get_model_class(model)
        model_class.setup_anndata(adata)
        trained = model_class(adata)
        trained.train(**training)
    else:
        trained = model
    embedded: AnnData = scssl.tl.embed(adata, trained, copy=True)
    return np.asarray(embedded.obsm["X_ssl"])


def judge(adata: AnnData, label_key: str, batch_key: str, values: np.ndarray) -> list[Any]:
    """Scores of an embedding in four tasks of cz-benchmarks."""
    from czbenchmarks import tasks

    labels, batches = adata.obs[label_key], adata.obs[batch_key]
    inputs = {
        tasks.ClusteringTask: tasks.ClusteringTaskInput(obs=adata.obs, input_labels=labels),
        tasks.EmbeddingTask: tasks.EmbeddingTaskInput(input_labels=labels),
        tasks.MetadataLabelPredictionTask: tasks.MetadataLabelPredictionTaskInput(labels=labels),
        tasks.BatchIntegrationTask: tasks.BatchIntegrationTaskInput(
            labels=labels, batch_labels=batches
        ),
    }
    return [
        score
        for task, given in inputs.items()
        for score in task().run(cell_representation=values, task_input=given)
    ]
