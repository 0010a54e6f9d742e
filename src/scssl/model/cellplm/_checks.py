"""Checks of the arguments of CellPLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scssl.model.base import DataSetup, positive, rate
from scssl.nn import ATTENTIONS, LATENTS, N_GROUPS

from ._network import CELLPLM_LOSSES, OBJECTIVES, SUPERVISED


def check_arguments(arguments: Mapping[str, Any], setup: DataSetup) -> None:
    """Refuse arguments that do not go together, or with the data."""
    a = arguments
    for name, known in (
        ("latent", LATENTS),
        ("attention", ATTENTIONS),
        ("loss", CELLPLM_LOSSES),
        ("objective", OBJECTIVES),
        ("position", ("sinusoidal", "off")),
    ):
        if a[name] not in known:
            msg = f"`{name}` must be one of {', '.join(map(repr, known))}; found {a[name]!r}."
            raise ValueError(msg)
    if a["n_hidden"] % a["n_heads"] or a["n_hidden"] % N_GROUPS:
        msg = (
            f"`n_hidden` must be a multiple of {N_GROUPS} and of `n_heads`, found "
            f"n_hidden={a['n_hidden']}, n_heads={a['n_heads']}."
        )
        raise ValueError(msg)
    rate(dropout=a["dropout"])
    positive(temperature=a["temperature"])
    for name in ("visible_weight", "kl_weight", "warmup_steps", "free_bits"):
        if not 0 <= a[name] < np.inf:
            msg = f"`{name}` must not be negative, found {a[name]}."
            raise ValueError(msg)
    if a["loss"] != "mse" and setup.input_kind != "counts":
        msg = (
            f"loss={a['loss']!r} needs counts, but {setup.where} was set up as log-normalised. Set "
            'up a layer with counts: setup_anndata(adata, layer="counts"), or take loss="mse".'
        )
        raise ValueError(msg)
    if a["position"] == "sinusoidal" and setup.spatial_key is None:
        msg = (
            'position="sinusoidal", but no coordinates were set up. Say where they are: '
            'setup_anndata(adata, spatial_key="spatial")'
        )
        raise ValueError(msg)
    if a["context"] == "tiles" and setup.spatial_key is None:
        msg = (
            'context="tiles" cuts tissues by place, but no coordinates were set up. Say where they are: '
            'setup_anndata(adata, spatial_key="spatial")'
        )
        raise ValueError(msg)
    if a["spatial_share"] is not None and setup.spatial_key is None:
        msg = (
            f"spatial_share={a['spatial_share']} is a share of cells with a place, but no coordinates "
            'were set up. Say where they are: setup_anndata(adata, spatial_key="spatial")'
        )
        raise ValueError(msg)
    if a["objective"] == "kl" and a["latent"] == "ae":
        msg = 'objective="kl" needs a latent space with a divergence: latent="vae" or "gmvae".'
        raise ValueError(msg)
    if a["objective"] == "kl" and not a["kl_weight"]:
        msg = 'objective="kl" has nothing else to learn from: pass a `kl_weight` above 0.'
        raise ValueError(msg)
    if a["objective"] in SUPERVISED and setup.labels_key is None:
        msg = (
            f"objective={a['objective']!r} learns from labels, and none were set up. Name their column: "
            'setup_anndata(adata, labels_key="cell_type")'
        )
        raise ValueError(msg)


def check_pairs(codes: np.ndarray, key: str) -> None:
    """Refuse labels of which no two cells have the same: there is nothing to bring together."""
    if np.bincount(codes[codes >= 0]).max() < 2:
        msg = (
            f'objective="supcon" brings cells of the same label together, but no two cells have the same one in '
            f'adata.obs["{key}"]. Is it the column you meant?'
        )
        raise ValueError(msg)
