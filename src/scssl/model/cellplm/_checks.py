"""Checks of the arguments of CellPLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scssl._checks import check_number
from scssl.model.base import DataSetup
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
            raise ValueError(
                f"`{name}` must be one of {', '.join(map(repr, known))}; found {a[name]!r}."
            )
    if a["n_hidden"] % a["n_heads"] or a["n_hidden"] % N_GROUPS:
        raise ValueError(
            f"`n_hidden` must be a multiple of {N_GROUPS} and of `n_heads`, found "
            f"n_hidden={a['n_hidden']}, n_heads={a['n_heads']}."
        )
    check_number("dropout", a["dropout"], "[0, 1)")
    check_number("temperature", a["temperature"], "(0, inf)")
    for name in ("visible_weight", "kl_weight", "warmup_steps", "free_bits"):
        if not 0 <= a[name] < np.inf:
            raise ValueError(f"`{name}` must not be negative, found {a[name]}.")
    if a["loss"] != "mse" and setup.input_kind != "counts":
        raise ValueError(
            f"loss={a['loss']!r} needs counts, but {setup.where} was set up as log-normalised. Set "
            'up a layer with counts: setup_anndata(adata, layer="counts"), or take loss="mse".'
        )
    if a["position"] == "sinusoidal" and setup.spatial_key is None:
        raise ValueError(
            'position="sinusoidal", but no coordinates were set up. Say where they are: '
            'setup_anndata(adata, spatial_key="spatial")'
        )
    if a["context"] == "tiles" and setup.spatial_key is None:
        raise ValueError(
            'context="tiles" cuts tissues by place, but no coordinates were set up. Say where they are: '
            'setup_anndata(adata, spatial_key="spatial")'
        )
    if a["spatial_share"] is not None and setup.spatial_key is None:
        raise ValueError(
            f"spatial_share={a['spatial_share']} is a share of cells with a place, but no coordinates "
            'were set up. Say where they are: setup_anndata(adata, spatial_key="spatial")'
        )
    if a["objective"] == "kl" and a["latent"] == "ae":
        raise ValueError(
            'objective="kl" needs a latent space with a divergence: latent="vae" or "gmvae".'
        )
    if a["objective"] == "kl" and not a["kl_weight"]:
        raise ValueError(
            'objective="kl" has nothing else to learn from: pass a `kl_weight` above 0.'
        )
    if a["objective"] in SUPERVISED and setup.labels_key is None:
        raise ValueError(
            f"objective={a['objective']!r} learns from labels, and none were set up. Name their column: "
            'setup_anndata(adata, labels_key="cell_type")'
        )


def check_pairs(codes: np.ndarray, key: str) -> None:
    """Refuse labels of which no two cells have the same: there is nothing to bring together."""
    if np.bincount(codes[codes >= 0]).max() < 2:
        raise ValueError(
            f'objective="supcon" brings cells of the same label together, but no two cells have the same one in '
            f'adata.obs["{key}"]. Is it the column you meant?'
        )
