"""The method that suits a data set, by what is known of it, and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import close_to, some

from ._common import values_of

if TYPE_CHECKING:
    from anndata import AnnData

    from scssl.data.matrix import InputKind
    from scssl.model import SSLModel

_LOGGER = logging.getLogger("scssl")
AUTO, MNN = "auto", "MNN"
# Total of scib-metrics, unscaled, of views across batches in SimCLR, whose negatives are of the own batch, and
# in VICReg: kang_ifnb .793 .776, scmixology_5batch .816 .872, her2st_8sections .440 .409; mean of these and of
# two sets that were kept aside .731 and .707.
_LARGE, _MANY_BATCHES_TOO = "SimCLR", "VICReg"
# Batches from which on a step of 128 cells has too few of each to tell a cell apart from.
_MANY_BATCHES = 17
# Cells below which components that are moved together keep the types better than a network with views
# across batches. Macro-F1 of a batch left out by nearest neighbours, network and components: 100, 200 and 400
# cells of kang_ifnb .53 .80, .63 .88, .87 .87; 600 of her2st_8sections .15 .22; scmixology_5batch is level.
_FEW_CELLS = 1000
# Within one batch: mean over seven data sets of macro-F1 of held-out cells by nearest neighbours .819, without
# components .796, components alone .786, scVI .772 (docs/leaderboard.md).
_ONE_BATCH, _N_COMPONENTS = "MaskedAutoencoder", 50


@dataclass(frozen=True)
class Plan:
    """A method, and why it was taken."""

    method: str
    reason: str

    def say(self) -> None:
        """Log which method it is, and why."""
        _LOGGER.info("%s: %s.", self.method, self.reason)

    def trained(
        self,
        cells: AnnData,
        batch_key: str | None,
        kind: InputKind,
        seed: int,
        *,
        max_epochs: int | None,
        progress: bool,
    ) -> SSLModel:
        """Model that is trained on cells, of which this sets up and may change everything but ``X``."""
        self.say()
        from scssl.model import JointEmbedding, get_model_class

        model_class: Any = get_model_class(self.method)
        told = batch_key is not None and "batch_key" in model_class._setup_takes
        # What is to be said of the values was said of the user's own.
        model_class.setup_anndata(cells, input=kind, **({"batch_key": batch_key} if told else {}))
        arguments: dict[str, Any] = {}
        if batch_key is None:
            arguments = {"n_components": _N_COMPONENTS}
        elif issubclass(model_class, JointEmbedding):
            arguments = {"augmentation": "integration"}
        model = model_class(cells, rng=seed, **arguments)
        model.train(max_epochs, progress=progress, rng=seed)
        if model.training_["stopped_by"] == "interrupt":
            raise KeyboardInterrupt
        trained: SSLModel = model
        return trained


def plan_for(method: str, n_cells: int, n_batches: int) -> Plan:
    """The method that is asked for, or the one that suits so many cells; of one batch, or of several."""
    if method == AUTO and n_batches == 1:
        beside = f"with {_N_COMPONENTS} principal components beside the network"
        return Plan(_ONE_BATCH, f"{beside} it did best within one batch")
    size = f"{n_cells:,} cells of {n_batches} batches"
    if method == AUTO and n_cells < _FEW_CELLS:
        return Plan(MNN, f"{size} are too few for a network (from {_FEW_CELLS:,} on)")
    if method == AUTO and n_batches >= _MANY_BATCHES:
        return Plan(_MANY_BATCHES_TOO, f"{size}, of which a step of training has a few cells each")
    if method == AUTO:
        return Plan(_LARGE, f"{size}, views across batches did best on data of this kind")
    if method != MNN:
        from scssl.model import get_model_class, list_models

        known = [name for name in list_models() if get_model_class(name)._learns_embeddings]
        if method not in known:
            can_be = [AUTO, MNN, *known]
            alike = (one for one in can_be if one.lower() == str(method).lower())
            close = next(alike, None) or close_to(method, can_be)
            meant = "" if close is None else f" Did you mean `method={close!r}`?"
            have = f"{AUTO!r}, {MNN!r} or a model ({some(known, len(known))})"
            raise ValueError(f"`method` must be {have}, found {method!r}.{meant}")
    return Plan(method, "as asked for")


def of_variable_genes(
    adata: AnnData, layer: str | None, batch_key: str | None
) -> tuple[AnnData, InputKind]:
    """The cells with what is needed of them, the matrix itself where all genes are used, and its kind."""
    import anndata

    matrix, decision = values_of(adata, layer)
    var = adata.var[[]]
    if "highly_variable" in adata.var:
        chosen = adata.var["highly_variable"].to_numpy(dtype=bool, na_value=False)
        if not chosen.any():
            raise ValueError(
                'adata.var["highly_variable"] selects no gene: `del adata.var["highly_variable"]`.'
            )
        matrix, var = matrix[:, np.flatnonzero(chosen)], var[chosen]
    keys = [] if batch_key is None else [batch_key]
    return anndata.AnnData(matrix, obs=adata.obs[keys].copy(), var=var), decision.kind
