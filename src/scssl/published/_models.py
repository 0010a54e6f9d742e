"""Models with the weights of published checkpoints, without data."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scssl.data import GeneVocabulary
from scssl.model.base import SETUP, SOURCE

from ._checkpoint import Published

if TYPE_CHECKING:
    from scssl.model.base import SSLModel

_LOGGER = logging.getLogger("scssl")


def build_published(
    cls: type[Any], genes: GeneVocabulary, published: Published, **setup: Any
) -> Any:
    """Model of class `cls` with these weights, on these genes; set up as :func:`empty_registry`."""
    model = cls(registry=empty_registry(cls, genes, **setup), **published.arguments)
    model.module.load_state_dict(published.tensors, strict=True)
    model.genes, model.is_trained_ = genes, True
    return model


def adopt(model: SSLModel, genes: GeneVocabulary, published: Published) -> None:
    """Record in a model which checkpoint its weights are from."""
    report = published.report
    model.genes = genes
    model.is_trained_ = True
    model.registry_[SOURCE] = report
    _LOGGER.info(
        "%s is %s: %d tensors used, %d not used. %s",
        report["file"],
        report["is"],
        len(report["used"]),
        len(report["unused"]),
        " ".join(report["notes"]),
    )


def empty_registry(
    cls: type[SSLModel],
    genes: GeneVocabulary,
    *,
    layer: str | None = None,
    obs: pd.DataFrame | None = None,
    obsm: dict[str, np.ndarray] | None = None,
    **setup: Any,
) -> dict[str, Any]:
    """What ``setup_anndata`` of counts of these genes registers, without any data.

    It is taken from a setup of made-up cells, so that it is what `cls` and scvi-tools write: by default
    of one cell, otherwise of cells with these entries of `obs` and `obsm`.
    """
    n_cells = 1 if obs is None else len(obs)
    one_count = (np.ones(n_cells, np.float32), (np.arange(n_cells), np.zeros(n_cells, np.int64)))
    counts = sparse.csr_matrix(one_count, shape=(n_cells, len(genes)))
    layers = None if layer is None else {layer: counts}
    cells = AnnData(counts, obs=obs, obsm=obsm, layers=layers)
    cells.var_names = genes.names.astype(str)
    cls.setup_anndata(cells, layer=layer, **{"input": "counts", "target_sum": 1e4, **setup})
    manager = cls._setup_adata_manager_store.pop(cells.uns["_scvi_uuid"])
    registry: dict[str, Any] = manager.registry
    registry["field_registries"][REGISTRY_KEYS.X_KEY]["summary_stats"]["n_cells"] = 0
    del registry[SETUP]["fingerprint"]
    return registry
