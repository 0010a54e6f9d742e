"""Checkpoints with random weights in the layout of Wen et al. (2024), and their network.

Written from the documented names, shapes and formulas alone, in double precision and with all pairs of
cells at once: nothing of the package is used.
"""

from __future__ import annotations

import json
from collections import OrderedDict

import numpy as np
import torch

VARIANTS = ("gmvae", "vae", "ae")
EPS = 1e-6
N_GRID = 10_000
CONFIG = {
    "name": "synthetic",
    "enc_mod": "flowformer",
    "enc_hid": 16,
    "enc_layers": 2,
    "enc_head": 4,
    "lamda": 5.0,
    "post_latent_dim": 8,
    "dec_mod": "nbmlp",
    "dec_hid": 16,
    "dec_layers": 2,
    "model_dropout": 0.2,
    "mask_node_rate": 0.75,
    "mask_feature_rate": 0.25,
    "drop_node_rate": 0.3,
    "norm": "groupnorm",
    "dataset": "HLCA",
    "w_li": 5.0,
    "w_en": 5.0,
    "num_clusters": 5,
    "cat_pe": False,
    "max_batch_size": 4000,
    "dar": False,
    "input_covariate": False,
    "beta": [2.0, 1.5],
    "ecs": False,
    "dsbn": False,
    "dae": True,
    "mask_beta": True,
    "batch_num": 7,
    "dataset_num": 3,
}
#: Sizes of the released checkpoints.
RELEASED = {
    **{"enc_hid": 1024, "dec_hid": 1024, "enc_layers": 4, "post_latent_dim": 512},
    **{"num_clusters": 16, "batch_num": 12_596, "dataset_num": 484, "out_dim": 19_374},
}


def ensembl_ids(n_genes):
    """Ids in ascending order."""
    return [f"ENSG{3 + 17 * i:011d}" for i in range(n_genes)]


def configuration(n_genes, latent="vae", **changes):
    return {
        **CONFIG,
        "latent_mod": latent,
        "out_dim": n_genes,
        "gene_list": ensembl_ids(n_genes),
        **changes,
    }


class Maker:
    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(seed)
        self.state = OrderedDict()

    def normal(self, key, *shape, scale=1.0, shift=0.0):
        self.state[key] = shift + scale * torch.randn(*shape, generator=self.rng)

    def linear(self, key, n_in, n_out, *, gain=1.0):
        self.normal(f"{key}.weight", n_out, n_in, scale=gain * n_in**-0.5)
        self.normal(f"{key}.bias", n_out, scale=0.3)

    def norm(self, key, width):
        self.normal(f"{key}.weight", width, scale=0.3, shift=1.0)
        self.normal(f"{key}.bias", width, scale=0.3)

    def covariate(self, key, n_rows, width):
        self.normal(f"{key}.0.weight", n_rows, width)
        self.normal(f"{key}.1.weight", 1, scale=0.1, shift=0.25)
        self.norm(f"{key}.2", width)


def state_dict(config, *, decoder=True, n_classes=None, seed=0):
    """Tensors of a checkpoint, in the order in which they are saved."""
    make = Maker(seed)
    d, k, size = config["enc_hid"], config["num_clusters"], config["post_latent_dim"]
    n_genes = len(config["gene_list"])
    make.norm("embedder.norm0", d)
    make.linear("embedder.extra_linear.0", d, d)
    make.norm("embedder.extra_linear.3", d)
    make.normal("embedder.pe_enc.missing_pe", d)
    make.normal("embedder.pe_enc.pe_enc.weight", N_GRID, d)
    make.normal("embedder.feat_enc.emb", n_genes, d, scale=1.5 * n_genes**-0.5)
    for i in range(config["enc_layers"]):
        for part in ("query", "key", "value", "out"):
            make.linear(f"encoder.layers.{i}.self_attn.{part}_projection", d, d, gain=2.0)
        make.linear(f"encoder.layers.{i}._ff_block.0", d, 2 * d)
        make.linear(f"encoder.layers.{i}._ff_block.3", 2 * d, d)
        make.norm(f"encoder.layers.{i}.norm1", d)
        make.norm(f"encoder.layers.{i}.norm2", d)
    latent = "latent.layers.1."
    if config["latent_mod"] == "gmvae":
        inference = f"{latent}inference."
        make.linear(f"{inference}inference_qyx.0.logits", d, k, gain=3.0)
        make.linear(f"{inference}inference_qzyx.0", d + k, size, gain=2.0)
        make.linear(f"{inference}inference_qzyx.2.mu", size, size)
        make.linear(f"{inference}inference_qzyx.2.var", size, size)
        make.linear(f"{inference}y_mu", k, size)
        make.linear(f"{inference}y_var", k, size)
    elif config["latent_mod"] == "vae":
        make.linear(f"{latent}hid_2mu", d, size)
        make.linear(f"{latent}hid_2sigma", d, size)
    else:
        make.linear(f"{latent}lat_2lat.0", d, size)
    if decoder and n_classes is None:
        width = config["dec_hid"]
        make.linear("decoder.layers.0.0", size, width)
        make.normal("decoder.layers.0.1.weight", 1, scale=0.1, shift=0.25)
        make.norm("decoder.layers.0.3", width)
        covariates = "decoder.covariate_layers.0"
        for kind in ("batch", "dataset"):
            if config[f"{kind}_num"]:
                make.covariate(f"{covariates}.{kind}", config[f"{kind}_num"], width)
        make.normal("decoder.out_layer.dec_disp", n_genes)
        make.linear("decoder.out_layer.dec_1", width, 128)
        make.linear("decoder.out_layer.dec_mean.0", 128, n_genes)
    if n_classes is not None:
        make.linear("head.mlp.1", size, n_classes)
    make.norm("pre_latent_norm.norm", d)
    return make.state


def write(folder, prefix, config, state, *, entry="model_state_dict", module=False):
    """The two files of a checkpoint; the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}.config.json").write_text(json.dumps(config))
    if module:
        state = OrderedDict((f"module.{key}", value) for key, value in state.items())
    content = state if entry is None else {"epoch": 3, entry: state}
    path = folder / f"{prefix}.best.ckpt"
    torch.save(content, path)
    return path


def checkpoint(folder, prefix, latent, n_genes, *, seed=0, decoder=True, n_classes=None, **changes):
    """Write a checkpoint of a variant; its configuration and its tensors."""
    config = configuration(n_genes, latent, **changes)
    state = state_dict(config, decoder=decoder, n_classes=n_classes, seed=seed)
    write(folder, prefix, config, state)
    return config, state


# --- the published network, all pairs of cells at once --------------------------------------------


def _get(state, key):
    return state[key].double().numpy()


def linear(state, key, x):
    return x @ _get(state, f"{key}.weight").T + _get(state, f"{key}.bias")


def layer_norm(state, key, x):
    centred = x - x.mean(1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return scaled * _get(state, f"{key}.weight") + _get(state, f"{key}.bias")


def group_norm(state, key, x, n_groups=4):
    groups = x.reshape(len(x), n_groups, -1)
    centred = groups - groups.mean(2, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(2, keepdims=True) + 1e-5)
    scaled = scaled.reshape(x.shape)
    return scaled * _get(state, f"{key}.weight") + _get(state, f"{key}.bias")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x * torch.special.ndtr(torch.from_numpy(x)).numpy()


def prelu(state, key, x):
    return np.where(x > 0, x, _get(state, f"{key}.weight")[0] * x)


def attention(state, key, x, n_heads):
    """Flow attention of one sequence; a matrix of all pairs per head."""
    queries, keys, values = (
        linear(state, f"{key}.{part}_projection", x) for part in ("query", "key", "value")
    )
    heads, width, n = [], x.shape[1] // n_heads, len(x)
    for h in range(n_heads):
        part = slice(h * width, (h + 1) * width)
        q, k, v = sigmoid(queries[:, part]), sigmoid(keys[:, part]), values[:, part]
        incoming = 1 / ((q + EPS) @ (k.sum(0) + EPS))
        outgoing = 1 / ((k + EPS) @ (q.sum(0) + EPS))
        conserved_in = (q + EPS) @ ((k * outgoing[:, None]).sum(0) + EPS)
        conserved_out = (k + EPS) @ ((q * incoming[:, None]).sum(0) + EPS)
        source = np.exp(np.clip(conserved_out, -1, 1))
        competition = n * source / source.sum()
        pairs = (q * incoming[:, None]) @ k.T
        heads.append(sigmoid(conserved_in)[:, None] * (pairs @ (competition[:, None] * v)))
    return linear(state, f"{key}.out_projection", np.concatenate(heads, 1))


def hidden(config, state, counts):
    """Cells of one sequence after the encoder; `counts` has the genes of the checkpoint in order."""
    h = np.log1p(np.asarray(counts, dtype=np.float64)) @ _get(state, "embedder.feat_enc.emb")
    h = group_norm(
        state,
        "embedder.extra_linear.3",
        np.maximum(linear(state, "embedder.extra_linear.0", h), 0),
    )
    for i in range(config["enc_layers"]):
        layer = f"encoder.layers.{i}"
        normed = layer_norm(state, f"{layer}.norm1", h)
        h = h + attention(state, f"{layer}.self_attn", normed, config["enc_head"])
        normed = layer_norm(state, f"{layer}.norm2", h)
        wide = gelu(linear(state, f"{layer}._ff_block.0", normed))
        h = h + linear(state, f"{layer}._ff_block.3", wide)
    return layer_norm(state, "pre_latent_norm.norm", h)


def embedding(config, state, counts):
    """What the published network gives for the cells of one sequence, without noise."""
    h = hidden(config, state, counts)
    latent = "latent.layers.1."
    if config["latent_mod"] == "vae":
        return linear(state, f"{latent}hid_2mu", h)
    if config["latent_mod"] == "ae":
        return linear(state, f"{latent}lat_2lat.0", h)
    inference = f"{latent}inference.inference_"
    logits = linear(state, f"{inference}qyx.0.logits", h)
    clusters = np.eye(logits.shape[1])[logits.argmax(1)]
    mixed = linear(state, f"{inference}qzyx.0", np.concatenate([h, clusters], 1))
    return linear(state, f"{inference}qzyx.2.mu", np.maximum(mixed, 0))


def clusters(config, state, counts):
    """Component of the mixture of each cell."""
    logits = linear(
        state, "latent.layers.1.inference.inference_qyx.0.logits", hidden(config, state, counts)
    )
    return logits.argmax(1)


def mean_covariate(state, kind):
    """What a covariate adds, as a mean over its activated rows."""
    key = f"decoder.covariate_layers.0.{kind}"
    rows = prelu(state, f"{key}.1", _get(state, f"{key}.0.weight"))
    return group_norm(state, f"{key}.2", rows).mean(0)


def decoded(state, z):
    """Mean and dispersion of the counts, for an embedding; covariates at their mean."""
    h = linear(state, "decoder.layers.0.0", z)
    h = group_norm(state, "decoder.layers.0.3", prelu(state, "decoder.layers.0.1", h))
    h = h + mean_covariate(state, "batch") + mean_covariate(state, "dataset")
    h = np.maximum(linear(state, "decoder.out_layer.dec_1", h), 0)
    mean = np.clip(np.exp(linear(state, "decoder.out_layer.dec_mean.0", h)), 1e-5, 1e6)
    return mean, np.clip(np.exp(_get(state, "decoder.out_layer.dec_disp")), 1e-4, 1e4)
