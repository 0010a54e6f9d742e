"""Models from the checkpoints that :cite:p:`Wen2024` published.

A checkpoint is two files: weights, and a configuration with sizes, variant and genes. The variant is
told from the names of the tensors. Every tensor is used, or set aside for a reason that is written
down, or is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import check_choice, either, some
from scssl._errors import BundleError
from scssl._io import MAX_JSON_BYTES, as_path, parse_json, read_bytes
from scssl.data import GeneVocabulary
from scssl.hub import CONFIG as BUNDLE_CONFIG
from scssl.model.cellplm import FREE

from ._checkpoint import Ledger, Published
from ._gene_table import read_symbols
from ._models import adopt, build_published
from ._place import Place

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = ".config.json", ".best.ckpt"
VARIANTS = ("gmvae", "vae", "ae")
#: How the two released lists of genes, which are one, begin and end.
RELEASED_GENES = (19_374, "ENSG00000000003", "ENSG00000291317")
# Options that change the network, and the only value of each that is converted: that of the released models.
_FIXED: dict[str, Any] = {
    "enc_mod": "flowformer",
    "dec_mod": "nbmlp",
    "norm": "groupnorm",
    "pe_type": "sin",
    "cat_pe": False,
    "dsbn": False,
    "input_covariate": False,
    "platform_num": 0,
    "gene_emb": None,
}
# Of these the published code takes another value where they are absent, or none.
_NEEDED = ("enc_mod", "dec_mod", "norm", "cat_pe")
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
_TITLES = {
    "gmvae": "a mixture of Gaussians as latent space (gmvae)",
    "vae": "a Gaussian latent space (vae)",
    "ae": "a latent space without distribution (ae)",
}


def locate_cellplm(source: str | Path, prefix: str | None) -> tuple[str | Path, str] | None:
    """Folder or repository, and prefix of a checkpoint; `None` where it is a model of scssl."""
    path = as_path(source, "source")
    # The name of a repository has no ~.
    source = str(path)
    if prefix is not None:
        if path.is_file():
            raise ValueError(f"{source} is a file. Pass its folder, or leave out `prefix`.")
        return source, _without_ending(prefix)
    bare = _without_ending(str(source))
    if bare != str(source) or any(Path(bare + end).is_file() for end in (CONFIG, WEIGHTS)):
        return Path(bare).parent, Path(bare).name
    if not path.is_dir() or (path / BUNDLE_CONFIG).is_file():
        return None
    there = sorted(
        {file.name.removesuffix(end) for end in (CONFIG, WEIGHTS) for file in path.glob(f"?*{end}")}
    )
    if len(there) > 1:
        which = f"Say which: `prefix={there[0]!r}`"
        raise ValueError(f"{source} holds several checkpoints ({', '.join(there)}). {which}")
    return (path, there[0]) if there else None


def _without_ending(name: str) -> str:
    return name.removesuffix(CONFIG).removesuffix(WEIGHTS)


def cellplm_from(
    cls: type[Any],
    source: str | Path,
    prefix: str,
    *,
    variant: str,
    symbols: str | Path | pd.DataFrame | None,
    sample_key: str | None,
    spatial_key: str | Sequence[str] | None,
    layer: str | None,
    sha256: str | None,
    revision: str | None,
    token: str | bool | None,
    arguments: dict[str, Any],
) -> Any:
    """Model with the weights of a published checkpoint, without data."""
    fixed = sorted(set(arguments) - set(FREE))
    if fixed:
        raise TypeError(
            f"`{fixed[0]}` is no argument here, or given by the weights. Free are {', '.join(FREE)}. A "
            "model of another shape is made by `from_ssl_model` of this one."
        )
    place = Place(source, prefix + WEIGHTS, revision, token)
    # The small file first: what is wrong with it is found before the download of a large one.
    config = _config(place, prefix)
    published = read_cellplm(
        place.checkpoint(sha256), config, variant=variant, expected_sha256=sha256
    )
    aliases, names = [""] * len(published.genes), None
    if symbols is not None:
        aliases, names = read_symbols(symbols, published.genes)
    published.arguments.update(arguments)
    report = published.report
    report["source"], report["revision"], report["prefix"] = place.name, place.revision, prefix
    report["genes"] = {"n": len(published.genes), "symbols": names}
    # Even where no gene has one: aliases are what lets versions of ids be left out.
    vocabulary = GeneVocabulary(published.genes, species="human", aliases=aliases)
    # One made-up cell, in the columns that are set up.
    obs, obsm = pd.DataFrame(index=["cell"]), {}
    if sample_key is not None:
        obs[sample_key] = "sample"
    if isinstance(spatial_key, str):
        obsm[spatial_key] = np.zeros((1, 2))
    elif spatial_key is not None:
        obs[list(spatial_key)] = 0.0
    model = build_published(
        cls,
        vocabulary,
        published,
        layer=layer,
        obs=obs,
        obsm=obsm,
        target_sum=None,
        sample_key=sample_key,
        spatial_key=spatial_key,
    )
    adopt(model, vocabulary, published)
    return model


def _config(place: Place, prefix: str) -> Path:
    try:
        return place.beside(prefix + CONFIG)
    except (BundleError, FileNotFoundError) as error:
        raise type(error)(
            f"{error} A checkpoint is two files, {prefix}{CONFIG} and {prefix}{WEIGHTS}; a .config.pkl is "
            'not read. That of 20230926_85M is in the folder "ckpt" of OmicsML/CellPLM on GitHub.'
        ) from error


def read_cellplm(
    path: str | Path,
    config: str | Path,
    *,
    variant: str = "auto",
    expected_sha256: str | None = None,
) -> Published:
    """Read a checkpoint: its weights and its configuration, ``{prefix}.config.json``.

    The tensors tell the variant, and the configuration has to agree, or `variant` says which they must be.
    """
    check_choice("variant", variant, ("auto", *VARIANTS))
    # The small file first.
    known_as = read_config(Path(config))
    names = ("model_state_dict", "state_dict")
    n_genes = len(known_as.genes)
    ledger = Ledger.open(path, *names, n_genes=n_genes, expected_sha256=expected_sha256)
    notes = []
    if all(key.startswith("module.") for key in ledger.state):
        # As models are saved that were trained on several devices.
        ledger.state = {k.removeprefix("module."): value for k, value in ledger.state.items()}
        notes.append("The names of all tensors began with 'module.'.")
    latent = _find_variant(ledger, known_as, variant)
    has_decoder = ledger.has("decoder.")
    tensors = _take_encoder(ledger, known_as)
    tensors |= _take_latent(ledger, known_as, latent, trains=has_decoder)
    arguments = _arguments(known_as, latent, decoder=has_decoder)
    if has_decoder:
        decoder, said = _take_decoder(ledger, known_as)
        tensors |= decoder
        arguments["decoder_width"] = len(decoder["decoder.hidden.bias"])
        if known_as.n_decoder != known_as.n_hidden:
            arguments["decoder_hidden"] = known_as.n_decoder
        notes += said
    else:
        notes.append("There is no decoder: the model embeds, and cannot impute.")
    head = _drop_head(ledger, known_as)
    if head is not None:
        notes.append(
            "It was fine-tuned to annotate cells. The names of its classes are not in the files, so "
            "the head is not used: train one with CellTypeClassifier.from_ssl_model."
        )
    ids = known_as.genes
    if (n_genes, ids[0], ids[-1]) != RELEASED_GENES:
        n_released, first, last = RELEASED_GENES
        notes.append(
            f"The genes are not those of the released models: {n_genes:,} from {ids[0]} to {ids[-1]} "
            f"instead of {n_released:,} from {first} to {last}."
        )
    notes.append(
        "The embedding is the mean of the latent distribution, without noise. Input is log1p of raw "
        "counts."
    )
    title = f"a CellPLM with {_TITLES[latent]}"
    found = Published("cellplm", title, arguments, tensors, notes, head, ids)
    found.report = ledger.report(
        found,
        variant=latent,
        filled=_fill(tensors, known_as, decoder=has_decoder),
        config={"file": known_as.file, **known_as.options},
    )
    return found


@dataclass(frozen=True)
class CellPLMConfig:
    """What a configuration says of the network."""

    file: str
    """Name of the file."""
    genes: tuple[str, ...]
    """Name of each row of the gene embedding."""
    n_hidden: int
    n_decoder: int
    n_layers: int
    n_heads: int
    n_latent: int
    n_clusters: int
    latent: str | None
    """Variant of the latent space, where it is named."""
    n_covariates: Mapping[str, int | None]
    """Rows of the embeddings of ``"batch"`` and ``"dataset"``, `None` where they are not given."""
    training: Mapping[str, float]
    """Arguments of our model that only training uses."""
    options: Mapping[str, Any]
    """The whole file but for the genes."""


def read_config(path: Path) -> CellPLMConfig:
    """Read and check a configuration: one that names genes and sizes of a network that is converted."""
    # Through links: the cache of huggingface_hub is made of them.
    options = parse_json(read_bytes(path.resolve(), max_bytes=MAX_JSON_BYTES), path)
    genes = _genes(options.pop("gene_list", None), path)
    for name, expected in _FIXED.items():
        found = options.get(name, None if name in _NEEDED else expected)
        if found != expected:
            what = f"{name}={found!r}" if name in options else f"no {name}"
            only = f"converted are networks with {name}={expected!r} only, like the released ones"
            raise BundleError(f"{path.name} has {what}; {only}.")
    n_hidden, n_layers, n_latent = (
        _size(options, name, path) for name in ("enc_hid", "enc_layers", "post_latent_dim")
    )
    n_heads = _size(options, "enc_head", path, default=8)
    dec_hid = _size(options, "dec_hid", path, default=n_hidden)
    if n_hidden % n_heads or n_hidden % 4 or dec_hid % 4:
        raise BundleError(
            f"{path.name} has enc_hid={n_hidden}, {dec_hid=}, enc_head={n_heads}: the widths must be multiples "
            "of 4, and enc_hid of enc_head."
        )
    latent = options.get("latent_mod")
    if latent is not None and latent not in VARIANTS:
        raise BundleError(f"{path.name} has latent_mod={latent!r}; known are {either(VARIANTS)}.")
    return CellPLMConfig(
        path.name,
        genes,
        n_hidden,
        dec_hid,
        n_layers,
        n_heads,
        n_latent,
        _size(options, "num_clusters", path, default=16),
        latent,
        {
            kind: _size(options, f"{kind}_num", path) if options.get(f"{kind}_num") else None
            for kind in ("batch", "dataset")
        },
        {
            ours: _share(options, name, path)
            for ours, name in (
                ("dropout", "model_dropout"),
                ("mask_cells", "mask_node_rate"),
                ("mask_rate", "mask_feature_rate"),
                ("cell_dropout", "drop_node_rate"),
            )
            if name in options
        },
        options,
    )


def _genes(names: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        what = "it has no gene_list, which names the rows of the gene embedding"
        raise BundleError(f"{path.name} is no configuration of CellPLM: {what}.")
    wrong = next((i for i, n in enumerate(names) if not isinstance(n, str) or not n.strip()), None)
    if wrong is not None:
        raise BundleError(f"gene_list of {path.name} has no name in row {wrong}: {names[wrong]!r}.")
    if len(set(names)) != len(names):
        twice = sorted(name for name, n in Counter(names).items() if n > 1)
        raise BundleError(f"gene_list of {path.name} has genes more than once: {some(twice)}.")
    return tuple(names)


def _size(options: Mapping[str, Any], name: str, path: Path, *, default: int | None = None) -> int:
    found = options.get(name, default)
    if type(found) is not int or found < 1:
        what = "nothing" if found is None else repr(found)
        raise BundleError(f"{name} in {path.name} must be a whole number above 0, found {what}.")
    return found


def _share(options: Mapping[str, Any], name: str, path: Path) -> float:
    found = options[name]
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 1:
        raise BundleError(f"{name} in {path.name} must be a number in [0, 1), found {found!r}.")
    return float(found)


def _find_variant(ledger: Ledger, config: CellPLMConfig, variant: str) -> str:
    """Which latent space it is, by what only that one has."""
    found = [name for name, prefix in _MARKS.items() if ledger.has(prefix)]
    if len(found) != 1 or not ledger.has("embedder.feat_enc."):
        raise BundleError(
            f"{ledger.where} is no checkpoint of CellPLM: its tensors are {ledger.tensors()}. Expected "
            f"are embedder.feat_enc.emb and one latent space out of {', '.join(_MARKS.values())}."
        )
    (latent,) = found
    if variant not in ("auto", latent):
        raise BundleError(f"{ledger.where} has the tensors of variant={latent!r}, not {variant!r}.")
    if variant == "auto" and config.latent not in (None, latent):
        raise BundleError(
            f"{config.file} says {config.latent!r}, but {ledger.where} has the tensors of {latent!r}. "
            f'If you know that genes and other sizes are the same: `variant="{latent}"`'
        )
    return latent


def _take_encoder(ledger: Ledger, config: CellPLMConfig) -> dict[str, Tensor]:
    """Gene embedding and transformer."""
    d = config.n_hidden
    tensors = {
        "gene_encoder.weight": ledger.take(
            "embedder.feat_enc.emb", (ledger.n_genes, d), "gene_encoder.weight"
        )
    }
    ledger.drop_layer("embedder.norm0", (d,), "in no forward pass of the published code")
    ledger.drop("embedder.pe_enc.missing_pe", (d,), _OFF)
    ledger.drop("embedder.pe_enc.pe_enc.weight", (_GRID, d), _OFF)
    tensors |= ledger.take_layer("embedder.extra_linear.0", (d, d), "encoder.input")
    tensors |= ledger.take_layer("embedder.extra_linear.3", (d,), "encoder.input_norm")
    for i in range(config.n_layers):
        # Ours has the name of the published one.
        name = f"encoder.layers.{i}"
        for part in ("query", "key", "value", "out"):
            key = f"{name}.self_attn.{part}_projection"
            tensors |= ledger.take_layer(key, (d, d), f"{name}.attention.{part}")
        tensors |= ledger.take_layer(f"{name}._ff_block.0", (2 * d, d), f"{name}.ff.0")
        tensors |= ledger.take_layer(f"{name}._ff_block.3", (d, 2 * d), f"{name}.ff.3")
        for part in ("norm1", "norm2"):
            tensors |= ledger.take_layer(f"{name}.{part}", (d,), f"{name}.{part}")
    return tensors | ledger.take_layer("pre_latent_norm.norm", (d,), "encoder.norm")


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
            tensors |= ledger.take_layer(key, shape, name)
        else:
            reason = "of the loss only, and without a decoder there is no training"
            ledger.drop_layer(key, shape, reason)
    return tensors


def _take_decoder(ledger: Ledger, config: CellPLMConfig) -> tuple[dict[str, Tensor], list[str]]:
    d, n_genes, layer = config.n_decoder, ledger.n_genes, "decoder.layers.0"
    tensors = ledger.take_layer(f"{layer}.0", (d, config.n_latent), "decoder.input")
    name = "decoder.activation.weight"
    tensors[name] = ledger.take(f"{layer}.1.weight", (1,), name)
    tensors |= ledger.take_layer(f"{layer}.3", (d,), "decoder.norm")
    out = "decoder.out_layer"
    width = ledger.n_rows(f"{out}.dec_1.bias")
    tensors |= ledger.take_layer(f"{out}.dec_1", (width, d), "decoder.hidden")
    tensors |= ledger.take_layer(f"{out}.dec_mean.0", (n_genes, width), "gene_decoder")
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

    d, prefix, target = config.n_decoder, f"{_COVARIATES}{kind}", "decoder.hidden.bias"
    n_rows = config.n_covariates[kind] or max(ledger.n_rows(f"{prefix}.0.weight"), 1)
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
    shape = (ledger.n_rows(f"{key}.bias"), config.n_latent)
    reason = "head of an annotation model; the names of its classes are not in the files"
    ledger.drop_layer(key, shape, reason)
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
