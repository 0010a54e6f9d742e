"""Checkpoints of :cite:p:`Wen2024`, and their weights under our names.

The variant is told from the names of the tensors. Every tensor is used, or set aside for a reason that
is written down, or is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._errors import BundleError

from ._cellplm_config import RELEASED_GENES, VARIANTS, CellPLMConfig, read_config
from ._checkpoint_file import read_checkpoint, split_checkpoint
from ._ledger import Ledger, some
from ._ssl_in_scg_file import Published

if TYPE_CHECKING:
    from torch import Tensor

_LATENT = "latent.layers.1."
_INFERENCE = f"{_LATENT}inference."
_MARKS = {
    "gmvae": f"{_INFERENCE}inference_qyx.",
    "vae": f"{_LATENT}hid_2mu.",
    "ae": f"{_LATENT}lat_2lat.",
}
_COVARIATES = "decoder.covariate_layers.0."
_GRID = 100 * 100
# Steps in which the weight of the divergence rose.
_WARMUP = 10_000
_OFF = "positional encoding, which is replaced by zero in all published code: positions are off"


@dataclass(frozen=True)
class PublishedCellPLM(Published):
    """A published checkpoint of CellPLM, read and understood."""

    genes: tuple[str, ...]
    """Ensembl ids, in the order of the rows of the gene embedding."""


def read_cellplm(
    path: str | Path,
    config: str | Path,
    *,
    variant: str = "auto",
    expected_sha256: str | None = None,
) -> PublishedCellPLM:
    """Read a published checkpoint of CellPLM.

    Parameters
    ----------
    path
        The weights, ``{prefix}.best.ckpt``.
    config
        The configuration, ``{prefix}.config.json``.
    variant
        ``"gmvae"``, ``"vae"`` or ``"ae"``, which the tensors must then be; by default they tell it,
        and the configuration has to agree.
    expected_sha256
        Digest that the weights must have.

    Raises
    ------
    BundleError
        If a file is not sound, the two do not belong together, or this is another network.
    ValueError
        If there is no such variant.
    """
    if variant not in ("auto", *VARIANTS):
        known = ", ".join(map(repr, ("auto", *VARIANTS)))
        raise ValueError(f"`variant` must be one of {known}; found {variant!r}.")
    # The small file first.
    known_as = read_config(Path(config))
    file = read_checkpoint(path, expected_sha256=expected_sha256)
    state, entries = split_checkpoint(file, "model_state_dict", "state_dict")
    notes = []
    if all(key.startswith("module.") for key in state):
        # As models are saved that were trained on several devices.
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
        notes.append("The names of all tensors began with 'module.'.")
    ledger = Ledger(file.name, state, len(known_as.genes))
    latent = _find_variant(ledger, known_as, variant)
    has_decoder = ledger.has("decoder.")
    tensors = _take_encoder(ledger, known_as)
    tensors |= _take_latent(ledger, known_as, latent, trains=has_decoder)
    arguments = _arguments(known_as, latent, decoder=has_decoder)
    if has_decoder:
        decoder, said = _take_decoder(ledger, known_as)
        tensors |= decoder
        arguments["decoder_width"] = len(decoder["decoder.hidden.bias"])
        notes += said
    else:
        notes.append("There is no decoder: the model embeds, and cannot impute.")
    head = _drop_head(ledger, known_as)
    if head is not None:
        notes.append(
            "It was fine-tuned to annotate cells. The names of its classes are not in the files, so "
            "the head is not used: train one with CellTypeClassifier.from_ssl_model."
        )
    ledger.finish()
    n_genes, first, last = RELEASED_GENES
    ids = known_as.genes
    if (len(ids), ids[0], ids[-1]) != RELEASED_GENES:
        notes.append(
            f"The genes are not those of the released models: {len(ids):,} from {ids[0]} to {ids[-1]} "
            f"instead of {n_genes:,} from {first} to {last}."
        )
    notes.append(
        "The embedding is the mean of the latent distribution, without noise. Input is log1p of raw "
        "counts."
    )
    filled = _fill(tensors, known_as, decoder=has_decoder)
    report = {
        "file": file.name,
        "size": file.size,
        "sha256": file.sha256,
        "family": "cellplm",
        "variant": latent,
        "is": f"a CellPLM with {_TITLES[latent]}",
        "notes": notes,
        "used": ledger.used,
        "unused": ledger.unused,
        "filled": filled,
        "other_entries": entries,
        "config": {"file": known_as.file, **known_as.options},
    }
    n_classes = None if head is None else len(head["bias"])
    return PublishedCellPLM("cellplm", arguments, tensors, head, n_classes, report, ids)


_TITLES = {
    "gmvae": "a mixture of Gaussians as latent space (gmvae)",
    "vae": "a Gaussian latent space (vae)",
    "ae": "a latent space without distribution (ae)",
}


def _find_variant(ledger: Ledger, config: CellPLMConfig, variant: str) -> str:
    """Which latent space it is, by what only that one has."""
    found = [name for name, prefix in _MARKS.items() if ledger.has(prefix)]
    if len(found) != 1 or not ledger.has("embedder.feat_enc."):
        raise BundleError(
            f"{ledger.where} is no checkpoint of CellPLM: its tensors are "
            f"{some([f'{k} {tuple(v.shape)}' for k, v in ledger.state.items()], 8)}. Expected are "
            f"embedder.feat_enc.emb and one latent space out of {', '.join(_MARKS.values())}."
        )
    (latent,) = found
    if variant not in ("auto", latent):
        raise BundleError(f"{ledger.where} has the tensors of variant={latent!r}, not {variant!r}.")
    if variant == "auto" and config.latent not in (None, latent):
        raise BundleError(
            f"{config.file} says {config.latent!r}, but {ledger.where} has the tensors of {latent!r}: "
            "they are not of one model. If you know that the genes and the other sizes are the same, "
            f'pass variant="{latent}".'
        )
    return latent


def _take_linear(ledger: Ledger, key: str, shape: tuple[int, int], name: str) -> dict[str, Tensor]:
    return {
        f"{name}.weight": ledger.take(f"{key}.weight", shape, f"{name}.weight"),
        f"{name}.bias": ledger.take(f"{key}.bias", shape[:1], f"{name}.bias"),
    }


def _take_norm(ledger: Ledger, key: str, width: int, name: str) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": ledger.take(f"{key}.{part}", (width,), f"{name}.{part}")
        for part in ("weight", "bias")
    }


def _take_encoder(ledger: Ledger, config: CellPLMConfig) -> dict[str, Tensor]:
    """Gene embedding and transformer."""
    d = config.n_hidden
    tensors = {
        "gene_encoder.weight": ledger.take(
            "embedder.feat_enc.emb", (ledger.n_genes, d), "gene_encoder.weight"
        )
    }
    for part in ("weight", "bias"):
        ledger.drop(f"embedder.norm0.{part}", (d,), "in no forward pass of the published code")
    ledger.drop("embedder.pe_enc.missing_pe", (d,), _OFF)
    ledger.drop("embedder.pe_enc.pe_enc.weight", (_GRID, d), _OFF)
    tensors |= _take_linear(ledger, "embedder.extra_linear.0", (d, d), "encoder.input")
    tensors |= _take_norm(ledger, "embedder.extra_linear.3", d, "encoder.input_norm")
    for i in range(config.n_layers):
        source, name = f"encoder.layers.{i}", f"encoder.layers.{i}"
        for part in ("query", "key", "value", "out"):
            tensors |= _take_linear(
                ledger,
                f"{source}.self_attn.{part}_projection",
                (d, d),
                f"{name}.attention.{part}",
            )
        tensors |= _take_linear(ledger, f"{source}._ff_block.0", (2 * d, d), f"{name}.ff.0")
        tensors |= _take_linear(ledger, f"{source}._ff_block.3", (d, 2 * d), f"{name}.ff.3")
        for part in ("norm1", "norm2"):
            tensors |= _take_norm(ledger, f"{source}.{part}", d, f"{name}.{part}")
    return tensors | _take_norm(ledger, "pre_latent_norm.norm", d, "encoder.norm")


def _take_latent(
    ledger: Ledger, config: CellPLMConfig, latent: str, *, trains: bool
) -> dict[str, Tensor]:
    """Latent space; what only training needs of it where there is a decoder to train with."""
    d, n_latent, k = config.n_hidden, config.n_latent, config.n_clusters
    wide, square, prior = (n_latent, d), (n_latent, n_latent), (n_latent, k)
    ours, variational = "encoder.latent", "variational"
    layers: tuple[tuple[str, tuple[int, int], str], ...]
    if latent == "gmvae":
        layers = (
            (f"{_INFERENCE}inference_qyx.0.logits", (k, d), f"{ours}.clusters"),
            (f"{_INFERENCE}inference_qzyx.0", (n_latent, d + k), f"{ours}.mix"),
            (f"{_INFERENCE}inference_qzyx.2.mu", square, f"{ours}.mean"),
            (f"{_INFERENCE}inference_qzyx.2.var", square, f"{variational}.variance"),
            (f"{_INFERENCE}y_mu", prior, f"{variational}.prior_mean"),
            (f"{_INFERENCE}y_var", prior, f"{variational}.prior_variance"),
        )
    elif latent == "vae":
        layers = (
            (f"{_LATENT}hid_2mu", wide, f"{ours}.mean"),
            (f"{_LATENT}hid_2sigma", wide, f"{variational}.log_variance"),
        )
    else:
        layers = ((f"{_LATENT}lat_2lat.0", wide, f"{ours}.mean"),)
    tensors: dict[str, Tensor] = {}
    for key, shape, name in layers:
        if trains or not name.startswith(variational):
            tensors |= _take_linear(ledger, key, shape, name)
            continue
        for part, size in (("weight", shape), ("bias", shape[:1])):
            reason = "of the loss only, and without a decoder there is no training"
            ledger.drop(f"{key}.{part}", size, reason)
    return tensors


def _take_decoder(ledger: Ledger, config: CellPLMConfig) -> tuple[dict[str, Tensor], list[str]]:
    d, n_genes, layer = config.n_hidden, ledger.n_genes, "decoder.layers.0"
    tensors = _take_linear(ledger, f"{layer}.0", (d, config.n_latent), "decoder.input")
    name = "decoder.activation.weight"
    tensors[name] = ledger.take(f"{layer}.1.weight", (1,), name)
    tensors |= _take_norm(ledger, f"{layer}.3", d, "decoder.norm")
    out = "decoder.out_layer"
    bias = ledger.state.get(f"{out}.dec_1.bias")
    width = len(bias) if bias is not None and bias.ndim else 0
    tensors |= _take_linear(ledger, f"{out}.dec_1", (width, d), "decoder.hidden")
    tensors |= _take_linear(ledger, f"{out}.dec_mean.0", (n_genes, width), "gene_decoder")
    tensors["log_dispersion"] = ledger.take(f"{out}.dec_disp", (n_genes,), "log_dispersion")
    notes = []
    for kind in ("batch", "dataset"):
        if not ledger.has(f"{_COVARIATES}{kind}.") and config.n_covariates[kind] is None:
            continue
        shift, n_rows = _mean_covariate(ledger, config, kind)
        # Nothing but a sum is between the covariates and this layer, so a constant is part of its bias.
        hidden = tensors["decoder.hidden.weight"].double() @ shift
        tensors["decoder.hidden.bias"] = (tensors["decoder.hidden.bias"] + hidden).float()
        notes.append(
            f"The {n_rows:,} rows of the {kind} covariate have no published names and are not kept: "
            "the decoder gets their mean, as part of decoder.hidden.bias."
        )
    return tensors, notes


def _mean_covariate(ledger: Ledger, config: CellPLMConfig, kind: str) -> tuple[Tensor, int]:
    """What a covariate adds on average over its rows, and the number of these."""
    from torch.nn import functional

    d, prefix, target = config.n_hidden, f"{_COVARIATES}{kind}", "decoder.hidden.bias"
    rows = ledger.state.get(f"{prefix}.0.weight")
    n_rows = config.n_covariates[kind] or max(len(rows) if rows is not None and rows.ndim else 0, 1)
    embedding, slope, weight, bias = (
        ledger.take(f"{prefix}.{part}", shape, target)
        for part, shape in (
            ("0.weight", (n_rows, d)),
            ("1.weight", (1,)),
            ("2.weight", (d,)),
            ("2.bias", (d,)),
        )
    )
    # In blocks: the whole would be as large again as the embedding, in double precision.
    total = sum(
        functional.group_norm(functional.prelu(block, slope), 4, weight, bias).double().sum(0)
        for block in embedding.split(1024)
    )
    return total / n_rows, n_rows  # type: ignore[return-value]


def _drop_head(ledger: Ledger, config: CellPLMConfig) -> dict[str, Tensor] | None:
    """Set the head of an annotation model aside; its tensors, if there is one."""
    if not ledger.has("head."):
        return None
    # A dropout that comes first moves the layer on.
    key = "head.mlp.1" if ledger.has("head.mlp.1.") else "head.mlp.0"
    bias = ledger.state.get(f"{key}.bias")
    n_classes = len(bias) if bias is not None and bias.ndim else 0
    reason = "head of an annotation model; the names of its classes are not in the files"
    ledger.drop(f"{key}.weight", (n_classes, config.n_latent), reason)
    ledger.drop(f"{key}.bias", (n_classes,), reason)
    return {part: ledger.state[f"{key}.{part}"] for part in ("weight", "bias")}


def _arguments(config: CellPLMConfig, latent: str, *, decoder: bool) -> dict[str, Any]:
    clusters = {"n_clusters": config.n_clusters} if latent == "gmvae" else {}
    return {
        # Weights of the loss and training, should it go on.
        "preset": "cellplm",
        "n_hidden": config.n_hidden,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_latent": config.n_latent,
        "latent": latent,
        **clusters,
        "attention": "flow",
        "position": "off",
        "decoder": decoder,
        "loss": "nb",
        "warmup_steps": _WARMUP,
        **config.training,
    }


def _fill(tensors: dict[str, Tensor], config: CellPLMConfig, *, decoder: bool) -> dict[str, str]:
    """Add what our module has and the published one does not; why each has its value."""
    import torch

    tensors["gene_encoder.bias"] = torch.zeros(config.n_hidden)
    filled = {"gene_encoder.bias": "zero: the published sum over genes has no constant"}
    if decoder:
        tensors["warmup"] = torch.tensor(_WARMUP)
        filled["warmup"] = "all steps done: the published file does not count them"
    return filled
