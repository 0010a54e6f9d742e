"""Published recipes by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A published recipe: where it is from and what differs on purpose, arguments of the model, defaults of ``train``."""

    source: str
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


_RICHTER = "Richter et al. 2025 (theislab/ssl_in_scg), with a linear output instead of a sigmoid"
_LAYERS = {
    "hidden_dims": (512, 512, 256, 256),
    "n_latent": 64,
    "dropout": 0.1,
    "activation": "selu",
    "mask_signal": "rescale",
}
_TRAINING = {
    "max_epochs": 1000,
    "batch_size": 8192,
    "lr": 1e-3,
    "weight_decay": 0.01,
    "lr_schedule": "step",
    "gradient_clip": 1.0,
    "early_stopping": False,
}
_ISOLATED = _TRAINING | {"batch_size": 16_384, "weight_decay": 0.0}

PRESETS: dict[str, Preset] = {
    "ssl_in_scg.random_mask": Preset(
        _RICHTER, _LAYERS | {"masking": "random", "mask_rate": 0.5}, _TRAINING
    ),
    "ssl_in_scg.gene_program": Preset(
        f"{_RICHTER}; their programmes are MSigDB C8, a quarter of them hidden, one draw per batch",
        _LAYERS | {"masking": "gene_program", "mask_rate": 0.25, "mask_options": {"per": "batch"}},
        _TRAINING,
    ),
    "ssl_in_scg.gp_to_gp": Preset(
        f"{_RICHTER}; as described: the published run took an unmasked path",
        _LAYERS | {"masking": "gp_to_gp", "dropout": 0.05},
        _ISOLATED,
    ),
    "ssl_in_scg.gp_to_tf": Preset(
        f"{_RICHTER}; as described: the published run took an unmasked path",
        _LAYERS | {"masking": "gp_to_tf", "dropout": 0.05},
        _ISOLATED,
    ),
    "sc_mae": Preset(
        "theislab/sc_mae, with a linear output instead of a sigmoid",
        {
            "hidden_dims": (512, 256),
            "n_latent": 128,
            "dropout": 0.1,
            "activation": "selu",
            "mask_signal": None,
            "masking": "random",
            "mask_rate": 0.5,
        },
        {"batch_size": 2048, "lr": 5e-3, "weight_decay": 0.1, "lr_schedule": "constant"},
    ),
}
