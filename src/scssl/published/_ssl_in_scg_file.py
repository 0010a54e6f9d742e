"""Checkpoints of :cite:p:`Richter2025`: which kind one is, and its weights under our names.

The kind is told from the names and shapes of the tensors, never from the name of the file. Every
tensor is used, or set aside for a reason that is written down, or is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._errors import BundleError

from ._checkpoint_file import read_checkpoint, split_checkpoint
from ._ledger import Ledger, some

if TYPE_CHECKING:
    from torch import Tensor

N_GENES = 19_331
_POSITIONS = (0, 3, 6, 9, 12)
_ENCODER = (512, 512, 256, 256, 64)
_DECODER = (256, 256, 512, 512)
_BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_SIGMOID = (
    "The output is the sigmoid of the published code, which ends at 1, while log-normalised expression "
    "reaches 9."
)
_NO_SIGMOID = (
    "Reconstructions are what the published code puts into a sigmoid (legacy_output=True): they rise "
    "with expression, but are not on its scale."
)


@dataclass(frozen=True)
class Published:
    """A published checkpoint, read and understood."""

    family: str
    """``"autoencoder"``, ``"nb_autoencoder"``, ``"byol"``, ``"simsiam"``, ``"barlow_twins"`` or
    ``"classifier"``."""
    arguments: dict[str, Any]
    """Of :class:`scssl.model.MaskedAutoencoder`."""
    tensors: dict[str, Tensor]
    """State dict of its module."""
    head: dict[str, Tensor] | None
    """``weight`` and ``bias`` of the last layer of a classifier."""
    n_classes: int | None
    """Number of classes of a classifier."""
    report: dict[str, Any]
    """What became of every tensor, where the file came from, and what to know about it."""


def read_published(
    path: str | Path,
    *,
    legacy_output: bool = False,
    use_head: bool = False,
    expected_sha256: str | None = None,
    n_genes: int = N_GENES,
) -> Published:
    """Read a published checkpoint.

    Parameters
    ----------
    path
        The file.
    legacy_output
        Reproduce the published output of the decoder, a sigmoid.
    use_head
        Whether the head of a classifier is used.
    expected_sha256
        Digest that the file must have.
    n_genes
        Number of genes of the first layer, 19,331 in all files that are published.

    Raises
    ------
    BundleError
        If the file is not sound, or not one of the layouts known here.
    """
    file = read_checkpoint(path, expected_sha256=expected_sha256)
    state, entries = split_checkpoint(file, "state_dict")
    ledger = Ledger(file.name, state, n_genes)
    convert = _find_converter(ledger)
    made = convert(ledger)
    if use_head and made.head is None:
        raise BundleError(f"{file.name} is no classifier: it is {made.title}.")
    if legacy_output and made.family != "autoencoder":
        raise BundleError(
            f"legacy_output=True reproduces the sigmoid of a published autoencoder; {file.name} is "
            f"{made.title}, whose output is not offered."
        )
    if made.head is not None and not use_head:
        for key in [key for key, name in ledger.used.items() if name.startswith("head.")]:
            del ledger.used[key]
            ledger.unused[key] = "the head; scssl.model.CellTypeClassifier.from_pretrained reads it"
    ledger.finish()
    if made.family == "autoencoder":
        made.arguments["output_activation"] = "sigmoid" if legacy_output else None
        made.notes.append(_SIGMOID if legacy_output else _NO_SIGMOID)
    report = {
        "file": file.name,
        "size": file.size,
        "sha256": file.sha256,
        "family": made.family,
        "is": made.title,
        "notes": made.notes,
        "used": ledger.used,
        "unused": ledger.unused,
        "other_entries": entries,
    }
    n_classes = None if made.head is None else len(made.head["bias"])
    return Published(made.family, made.arguments, made.tensors, made.head, n_classes, report)


@dataclass
class _Made:
    """What a converter makes of a checkpoint."""

    family: str
    title: str
    tensors: dict[str, Tensor]
    arguments: dict[str, Any]
    notes: list[str]
    head: dict[str, Tensor] | None = None


def _find_converter(ledger: Ledger) -> Callable[[Ledger], _Made]:
    """Which layout it is, by what only that layout has."""
    state = ledger.state
    first = {
        "classifier.0.weight": _classifier,
        "inner_model.0.weight": _byol,
        "backbone.0.weight": _barlow_twins,
        "barlow_twins.backbone.0.weight": _barlow_twins,
        "encoder.0.weight": _autoencoder,
    }
    if "encoder.1.running_mean" in state:
        width = tuple(state["encoder.0.weight"].shape) if "encoder.0.weight" in state else "?"
        raise BundleError(
            f"{ledger.where} is a network with batch norm in its encoder, whose first layer has shape "
            f"{width}: the layout of the CITE-seq models, which predict proteins from selected genes "
            "and one-hot batches. Their inputs are not published, so they are not converted."
        )
    for key, converter in first.items():
        if key not in state or (converter is _byol and not ledger.has("byol.")):
            # The trainer of Barlow Twins has an inner_model too.
            continue
        if converter is _barlow_twins and not ledger.has(
            key.replace("backbone.0.weight", "projector.")
        ):
            continue
        _check_width(ledger, key)
        return converter
    raise BundleError(
        f"{ledger.where} has no layout that is known here; its tensors are "
        f"{some([f'{k} {tuple(v.shape)}' for k, v in state.items()], 8)}. Known are autoencoders, "
        "BYOL, Barlow Twins and cell-type classifiers of Richter et al. (2025)."
    )


def _check_width(ledger: Ledger, key: str) -> None:
    shape, n_genes = tuple(ledger.state[key].shape), ledger.n_genes
    if len(shape) == 2 and shape[1] == n_genes:
        return
    width = f"{shape[-1]:,}" if shape else "no"
    hint = ""
    if len(shape) == 2 and 0 < shape[1] - n_genes <= 50:
        hint = (
            f" It takes {shape[1] - n_genes} inputs besides the genes, like the models for data "
            "integration, to which a one-hot batch is appended."
        )
    raise BundleError(
        f"The first layer of {ledger.where} takes {width} inputs ({key}, shape {shape}); converted are "
        f"only networks on the {n_genes:,} genes of scTab.{hint}"
    )


def _take_encoder(ledger: Ledger, prefix: str, n_layers: int = 5) -> dict[str, Tensor]:
    """The first layers of an encoder under our names; the layer on the genes is transposed."""
    tensors, n_in = {}, ledger.n_genes
    for i, (position, n_out) in enumerate(zip(_POSITIONS[:n_layers], _ENCODER, strict=False)):
        name = "gene_encoder" if i == 0 else f"encoder.2.layers.{3 * (i - 1)}"
        source = f"{prefix}.{position}"
        weight = ledger.take(f"{source}.weight", (n_out, n_in), f"{name}.weight")
        tensors[f"{name}.weight"] = weight.T.contiguous() if i == 0 else weight
        tensors[f"{name}.bias"] = ledger.take(f"{source}.bias", (n_out,), f"{name}.bias")
        n_in = n_out
    return tensors


def _arguments(**kwargs: Any) -> dict[str, Any]:
    return {
        "hidden_dims": list(_ENCODER[:-1]),
        "n_latent": _ENCODER[-1],
        "activation": "selu",
        "dropout": 0.1,
        "latent_activation": False,
        "output_activation": None,
        "decoder": False,
        **kwargs,
    }


def _autoencoder(ledger: Ledger) -> _Made:
    last = ledger.state.get("decoder.0.12.weight")
    counts = "px_r" in ledger.state or (last is not None and len(last) == 2 * ledger.n_genes)
    tensors = _take_encoder(ledger, "encoder")
    widths = (*_DECODER, 2 * ledger.n_genes if counts else ledger.n_genes)
    n_in = _ENCODER[-1]
    for position, n_out in zip(_POSITIONS, widths, strict=True):
        source = f"decoder.0.{position}"
        if counts:
            reason = (
                "decoder of counts: it was trained on log-normalised values, and half of its output "
                "has no use"
            )
            ledger.drop(f"{source}.weight", (n_out, n_in), reason)
            ledger.drop(f"{source}.bias", (n_out,), reason)
        else:
            name = "gene_decoder" if position == _POSITIONS[-1] else f"decoder.layers.{position}"
            for part, shape in (("weight", (n_out, n_in)), ("bias", (n_out,))):
                tensors[f"{name}.{part}"] = ledger.take(f"{source}.{part}", shape, f"{name}.{part}")
        n_in = n_out
    if counts:
        ledger.drop("px_r", (ledger.n_genes,), "dispersion of the decoder of counts")
        title = "an autoencoder with a decoder of counts (negative binomial)"
        notes = ["Only the encoder is used: there is an embedding and no reconstruction."]
        return _Made("nb_autoencoder", title, tensors, _arguments(), notes)
    title = "an autoencoder (random mask, gene-programme mask or reconstruction)"
    notes = [
        "The layout is the same for all pretext tasks, so the file does not tell which it was.",
    ]
    return _Made("autoencoder", title, tensors, _arguments(decoder=True), notes)


def _byol(ledger: Ledger) -> _Made:
    tensors = _take_encoder(ledger, "inner_model", n_layers=4)
    for part, shape in (("weight", (64, 256)), ("bias", (64,))):
        ledger.drop(f"inner_model.12.{part}", shape, "untrained: the loss saw the layer before it")
    ledger.drop_copies("byol.net.", "inner_model.")
    ledger.drop_copies("byol.online_encoder.net.", "inner_model.")
    momentum = ledger.has("byol.target_encoder.")
    projector = "projector of pre-training"
    _drop_mlp(ledger, "byol.online_encoder.projector", projector, simsiam=not momentum)
    _drop_mlp(ledger, "byol.online_predictor", "predictor of pre-training")
    if momentum:
        target = (
            "target network: a copy of the initial weights, as the published code never moves it"
        )
        n_in = ledger.n_genes
        for position, n_out in zip(_POSITIONS, _ENCODER, strict=True):
            key = f"byol.target_encoder.net.{position}"
            ledger.drop(f"{key}.weight", (n_out, n_in), target)
            ledger.drop(f"{key}.bias", (n_out,), target)
            n_in = n_out
        _drop_mlp(ledger, "byol.target_encoder.projector", target)
    family, name = ("byol", "BYOL") if momentum else ("simsiam", "SimSiam")
    arguments = _arguments(
        hidden_dims=list(_ENCODER[:3]), n_latent=_ENCODER[3], dropout=0.0, latent_activation=True
    )
    notes = [
        "The embedding is that of the loss: 256 dimensions, after the activation of the fourth "
        "layer. The fifth layer (64 dimensions) was never trained.",
        "There is no decoder.",
    ]
    return _Made(family, f"an encoder trained by {name}", tensors, arguments, notes)


def _drop_mlp(ledger: Ledger, prefix: str, reason: str, *, simsiam: bool = False) -> None:
    """Leave out a projector or predictor: two layers, or the three without bias of SimSiam."""
    wide, n_out = 4096, 256
    layers: tuple[tuple[int, int, int], ...]
    norms: tuple[tuple[int | None, int, tuple[str, ...]], ...]
    if simsiam:
        layers = ((0, wide, n_out), (3, wide, wide), (6, n_out, wide))
        norms = ((1, wide, _BN), (4, wide, _BN), (7, n_out, _BN[2:]))
    else:
        layers = ((0, wide, n_out), (3, n_out, wide))
        norms = ((1, wide, _BN),)
    for position, rows, columns in layers:
        ledger.drop(f"{prefix}.{position}.weight", (rows, columns), reason)
        if not simsiam:
            ledger.drop(f"{prefix}.{position}.bias", (rows,), reason)
    _drop_norms(ledger, prefix, norms, reason)


def _drop_norms(
    ledger: Ledger,
    prefix: str,
    norms: Sequence[tuple[int | None, int, tuple[str, ...]]],
    reason: str,
) -> None:
    for position, width, parts in norms:
        name = f"{prefix}.{position}" if position is not None else prefix
        for part in parts:
            ledger.drop(f"{name}.{part}", () if part == _BN[-1] else (width,), reason)


def _barlow_twins(ledger: Ledger) -> _Made:
    outer = "barlow_twins." if ledger.has("barlow_twins.") else ""
    tensors = _take_encoder(ledger, f"{outer}backbone")
    ledger.drop_copies("inner_model.", f"{outer}backbone.")
    reason, n_in = "projector of pre-training", _ENCODER[-1]
    for position, n_out in zip(_POSITIONS[:4], _DECODER, strict=True):
        ledger.drop(f"{outer}projector.{position}.weight", (n_out, n_in), reason)
        n_in = n_out
    _drop_norms(ledger, f"{outer}projector", [(1, 256, _BN), (4, 256, _BN), (7, 512, _BN)], reason)
    _drop_norms(ledger, f"{outer}bn", [(None, 512, _BN[2:])], "batch norm of the loss")
    title = "an encoder trained by Barlow Twins"
    return _Made("barlow_twins", title, tensors, _arguments(dropout=0.0), ["There is no decoder."])


def _classifier(ledger: Ledger) -> _Made:
    tensors = _take_encoder(ledger, "classifier")
    last = ledger.state.get("classifier.15.weight")
    n_types = len(last) if last is not None and last.ndim else 0
    head = {
        part: ledger.take(f"classifier.15.{part}", shape, f"head.{part}")
        for part, shape in (("weight", (n_types, _ENCODER[-1])), ("bias", (n_types,)))
    }
    for key, shape, reason in (
        ("class_weights", (n_types,), "weights of the classes in the training loss"),
        ("child_lookup", (n_types, n_types), "hierarchy of the classes in the published scores"),
    ):
        if key in ledger.state:
            ledger.drop(key, shape, reason)
    notes = [
        "Classifiers were published with ReLU, whatever the network that they started from had.",
        "The embedding is what the head sees: 64 dimensions after the ReLU, with many exact zeros.",
        "There is no decoder.",
    ]
    arguments = _arguments(activation="relu", latent_activation=True)
    title = f"a cell-type classifier of {n_types} classes"
    return _Made("classifier", title, tensors, arguments, notes, head)
