"""Checkpoints with random weights in the layouts of Richter et al. (2025), and their networks.

Written from the documented names and shapes alone, and in NumPy: nothing of the package is used.
"""

from __future__ import annotations

import numpy as np
import torch

ENCODER = [512, 512, 256, 256, 64]
DECODER = [256, 256, 512, 512]
POSITIONS = [0, 3, 6, 9, 12]
N_TYPES = 164
FAMILIES = ["autoencoder", "nb_autoencoder", "byol", "simsiam", "barlow_twins", "barlow_twins_raw"]
FAMILIES += ["classifier"]


class Maker:
    """Draws tensors under their names."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.state: dict[str, torch.Tensor] = {}

    def normal(self, key, *shape, scale=1.0):
        self.state[key] = torch.randn(*shape, generator=self.rng) * scale

    def linear(self, key, n_in, n_out, *, bias=True):
        # As wide as what PyTorch starts from, and as the published networks did.
        scale = (3 * n_in) ** -0.5
        self.normal(f"{key}.weight", n_out, n_in, scale=scale)
        if bias:
            self.normal(f"{key}.bias", n_out, scale=scale)

    def stack(self, prefix, sizes, *, bias=True):
        for position, n_in, n_out in zip(POSITIONS, sizes, sizes[1:], strict=False):
            self.linear(f"{prefix}.{position}", n_in, n_out, bias=bias)

    def norm(self, key, width, *, affine=True):
        if affine:
            self.normal(f"{key}.weight", width)
            self.normal(f"{key}.bias", width)
        self.normal(f"{key}.running_mean", width)
        self.state[f"{key}.running_var"] = torch.rand(width, generator=self.rng)
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def copy(self, source, target):
        for key in [key for key in self.state if key.startswith(source)]:
            self.state[target + key.removeprefix(source)] = self.state[key]


def state_dict(family, n_genes, seed=0):
    """Tensors of a checkpoint of this kind."""
    make = Maker(seed)
    if family in ("autoencoder", "nb_autoencoder"):
        make.stack("encoder", [n_genes, *ENCODER])
        n_out = n_genes if family == "autoencoder" else 2 * n_genes
        make.stack("decoder.0", [64, *DECODER, n_out])
        if family == "nb_autoencoder":
            make.normal("px_r", n_genes)
    elif family in ("byol", "simsiam"):
        make.stack("inner_model", [n_genes, *ENCODER])
        make.copy("inner_model.", "byol.net.")
        make.copy("inner_model.", "byol.online_encoder.net.")
        if family == "byol":
            make.linear("byol.online_encoder.projector.0", 256, 4096)
            make.norm("byol.online_encoder.projector.1", 4096)
            make.linear("byol.online_encoder.projector.3", 4096, 256)
            make.copy("byol.online_encoder.", "byol.target_encoder.")
            for key in [key for key in make.state if key.startswith("byol.target_encoder.")]:
                make.state[key] = make.state[key] + 1
        else:
            projector = "byol.online_encoder.projector"
            for position, n_in, n_out in ((0, 256, 4096), (3, 4096, 4096), (6, 4096, 256)):
                make.linear(f"{projector}.{position}", n_in, n_out, bias=False)
                make.norm(f"{projector}.{position + 1}", n_out, affine=position < 6)
        make.linear("byol.online_predictor.0", 256, 4096)
        make.norm("byol.online_predictor.1", 4096)
        make.linear("byol.online_predictor.3", 4096, 256)
    elif family in ("barlow_twins", "barlow_twins_raw"):
        make.stack("backbone", [n_genes, *ENCODER])
        make.stack("projector", [64, *DECODER], bias=False)
        for position, width in ((1, 256), (4, 256), (7, 512)):
            make.norm(f"projector.{position}", width)
        make.norm("bn", 512, affine=False)
        if family == "barlow_twins":
            make.state = {f"barlow_twins.{key}": value for key, value in make.state.items()}
            make.copy("barlow_twins.backbone.", "inner_model.")
    elif family == "classifier":
        make.stack("classifier", [n_genes, *ENCODER])
        make.linear("classifier.15", 64, N_TYPES)
        make.state["class_weights"] = torch.rand(N_TYPES, generator=make.rng)
        make.state["child_lookup"] = torch.eye(N_TYPES, dtype=torch.int64)
    elif family == "cite":
        make.linear("encoder.0", 2146, 256)
        make.norm("encoder.1", 256)
        make.linear("encoder.4", 268, 256)
        make.norm("encoder.5", 256)
        make.linear("encoder.8", 268, 40)
    else:
        raise ValueError(family)
    return make.state


def write(path, state, *, raw=False):
    """A checkpoint file as the trainer writes it, or the state dict alone."""
    if raw:
        torch.save(state, path)
        return path
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}
    torch.save(
        {
            "epoch": 12,
            "global_step": 3456,
            "pytorch-lightning_version": "2.0.7",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": 0.1}},
            "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1e-3}]}],
            "lr_schedulers": [{"step_size": 2, "gamma": 0.9}],
        },
        path,
    )
    return path


def checkpoint(path, family, n_genes, seed=0):
    """Write a checkpoint of this kind and return its tensors."""
    state = state_dict(family, n_genes, seed)
    write(path, state, raw=family == "barlow_twins_raw")
    return state


# --- the published networks, in float64 -----------------------------------------------------------


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


def relu(x):
    return np.maximum(x, 0)


def forward(state, prefix, x, n_layers, activation, *, last):
    """Linear layers with an activation in between and, if `last`, after the last one."""
    for i, position in enumerate(POSITIONS[:n_layers]):
        weight = state[f"{prefix}.{position}.weight"].numpy().astype(np.float64)
        x = x @ weight.T + state[f"{prefix}.{position}.bias"].numpy()
        if i < n_layers - 1 or last:
            x = activation(x)
    return x


def embedding(state, family, x):
    """What the published network gives as the embedding of log-normalised expression."""
    if family in ("autoencoder", "nb_autoencoder"):
        return forward(state, "encoder", x, 5, selu, last=False)
    if family in ("byol", "simsiam"):
        return forward(state, "inner_model", x, 4, selu, last=True)
    if family == "barlow_twins":
        return forward(state, "inner_model", x, 5, selu, last=False)
    if family == "barlow_twins_raw":
        return forward(state, "backbone", x, 5, selu, last=False)
    return forward(state, "classifier", x, 5, relu, last=True)


def logits(state, x):
    """Output of a published classifier."""
    z = embedding(state, "classifier", x)
    return z @ state["classifier.15.weight"].numpy().T + state["classifier.15.bias"].numpy()


def reconstruction(state, x, *, sigmoid=True):
    """Output of a published autoencoder."""
    z = embedding(state, "autoencoder", x)
    y = forward(state, "decoder.0", z, 5, selu, last=False)
    return 1 / (1 + np.exp(-y)) if sigmoid else y


def normalize(counts):
    """Counts per 10,000 of the model's genes, log1p; empty cells stay empty."""
    total = counts.sum(axis=1, keepdims=True)
    return np.log1p(1e4 * counts / np.where(total > 0, total, 1))


def ensembl_ids(n_genes):
    """Ids in an order that is not sorted."""
    return [f"ENSG{(7919 * i) % 100_003:011d}" for i in range(n_genes)]
