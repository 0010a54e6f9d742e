"""Models from the checkpoints that :cite:p:`Richter2025` published (theislab/ssl_in_scg).

The kind is told from the names and shapes of the tensors, never from the name of the file. Every
tensor is used, or set aside for a reason that is written down, or is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from scssl._errors import BundleError
from scssl.data import GeneVocabulary
from scssl.model.base import backbone_of, get_model_class

from ._checkpoint import Ledger, Published, read_checkpoint
from ._gene_table import SCTAB, GeneOrder, read_gene_table
from ._models import adopt, build_published, empty_registry
from ._place import TABLE, Place

if TYPE_CHECKING:
    from torch import Tensor

N_GENES = 19_331
_POSITIONS = (0, 3, 6, 9, 12)
_ENCODER = (512, 512, 256, 256, 64)
_DECODER = (256, 256, 512, 512)
_SIGMOID = (
    "The output is the sigmoid of the published code, which ends at 1, while log-normalised expression "
    "reaches 9."
)
_NO_SIGMOID = (
    "Reconstructions are what the published code puts into a sigmoid (legacy_output=True): they rise "
    "with expression, but are not on its scale."
)


def masked_autoencoder_from(
    cls: type[Any],
    source: str | Path,
    file: str | Path | None,
    genes: str | Path | pd.DataFrame | Sequence[str] | None,
    *,
    layer: str | None = None,
    **options: Any,
) -> Any:
    """Masked autoencoder without data; arguments are those of its ``from_pretrained``."""
    published, vocabulary = open_published(source, file, genes, **options)
    model = build_published(cls, vocabulary, published, layer=layer)
    adopt(model, vocabulary, published)
    return model


def classifier_from(
    cls: type[Any],
    source: str | Path,
    file: str | Path | None,
    genes: str | Path | pd.DataFrame | Sequence[str] | None,
    *,
    classes: Sequence[str] | None,
    labels_key: str = "cell_type",
    layer: str | None = None,
    **options: Any,
) -> Any:
    """Classifier without data, with encoder and head; arguments are those of its ``from_pretrained``."""
    published, vocabulary = open_published(source, file, genes, use_head=True, **options)
    assert published.head is not None
    names = _checked_classes(classes, len(published.head["bias"]), published.report["file"])
    encoder = build_published(
        get_model_class("MaskedAutoencoder"), vocabulary, published, layer=layer
    )
    obs = pd.DataFrame({labels_key: names}, index=[f"cell{i}" for i in range(len(names))])
    registry = empty_registry(cls, vocabulary, layer=layer, obs=obs, labels_key=labels_key)
    model = cls(registry=registry, backbone=backbone_of(encoder), n_components=0, unit_length=False)
    # The model sorts its classes; the outputs of the network are in an order of their own.
    order = [names.index(name) for name in model.classes]
    model.module.head.start_from(published.head["weight"][order], published.head["bias"][order])
    adopt(model, vocabulary, published)
    return model


def _checked_classes(classes: Sequence[str] | None, n_classes: int, file: str) -> list[str]:
    if classes is None:
        raise ValueError(
            f"{file} has {n_classes} classes and does not name them. Pass them in the order of the outputs, "
            "as `classes`, or read the encoder alone, with scssl.model.MaskedAutoencoder.from_pretrained."
        )
    names = [str(name) for name in classes]
    if isinstance(classes, str) or len(names) != n_classes:
        found = repr(classes) if isinstance(classes, str) else len(names)
        raise ValueError(f"`classes` must name the {n_classes} classes of {file}, found {found}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not all(name.strip() for name in names):
        problem = f"{twice[0]!r} occurs more than once" if twice else "one is empty"
        raise ValueError(f"The names of classes must be unique and not empty; {problem}.")
    return names


def open_published(
    source: str | Path,
    file: str | Path | None,
    genes: str | Path | pd.DataFrame | Sequence[str] | None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    sha256: str | None = None,
    legacy_output: bool = False,
    use_head: bool = False,
    pretext: str | None = None,
    order: GeneOrder = SCTAB,
) -> tuple[Published, GeneVocabulary]:
    """Find, read and check a checkpoint and its table of genes: of as many as `order`, it must be that."""
    place = Place(source, file, revision, token)

    # Of a repository the small file first: a wrong table is found before the download of a large one.
    genes = TABLE if genes is None else genes
    is_path = isinstance(genes, (str, Path))
    try:
        table = read_gene_table(place.table(genes) if is_path else genes, order=order)  # type: ignore[arg-type]
    except (ValueError, OSError):
        if place.folder is not None:
            # What is no checkpoint has no table either, and that is to be said first.
            read_checkpoint(place.checkpoint(sha256), expected_sha256=sha256)
        raise
    published = read_published(
        place.checkpoint(sha256),
        legacy_output=legacy_output,
        use_head=use_head,
        expected_sha256=sha256,
        n_genes=len(table.ids),
    )
    is_known = len(table.ids) == order.n_genes
    if not is_known:
        published.notes.append(
            f"The genes are not those of {order.name}: the order of the table ({table.source}) is taken as it is."
        )
    published.report.update(
        {
            "source": place.name,
            "revision": place.revision,
            "pretext": pretext,
            "genes": {"source": table.source, "sha256": table.sha256, "n": len(table.ids)},
        }
    )
    species = "human" if is_known else None
    return published, GeneVocabulary(table.ids, species=species, aliases=table.symbols)


def read_published(
    path: str | Path,
    *,
    legacy_output: bool = False,
    use_head: bool = False,
    expected_sha256: str | None = None,
    n_genes: int = N_GENES,
) -> Published:
    """Read a published checkpoint, of the layouts known here.

    With `legacy_output` the decoder ends in a sigmoid, as the published one; `use_head` asks for the head
    of a classifier.
    """
    ledger = Ledger.open(path, "state_dict", n_genes=n_genes, expected_sha256=expected_sha256)
    found = _find_converter(ledger)(ledger)
    if use_head and found.head is None:
        raise BundleError(f"{ledger.where} is no classifier: it is {found.title}.")
    if legacy_output and found.family != "autoencoder":
        of = f"{ledger.where} is {found.title}, whose output is not offered"
        raise BundleError(f"legacy_output=True is the sigmoid of an autoencoder; {of}.")
    if found.head is not None and not use_head:
        for key in [key for key, name in ledger.used.items() if name.startswith("head.")]:
            del ledger.used[key]
            ledger.unused[key] = "the head; scssl.model.CellTypeClassifier.from_pretrained reads it"
    if found.family == "autoencoder":
        found.arguments["output_activation"] = "sigmoid" if legacy_output else None
        found.notes.append(_SIGMOID if legacy_output else _NO_SIGMOID)
    found.report = ledger.report(found)
    return found


def _find_converter(ledger: Ledger) -> Callable[[Ledger], Published]:
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
            f"{ledger.where} has batch norm in its encoder and a first layer of shape {width}, like the "
            "CITE-seq models, which are not converted: their inputs (genes, batches) are not published."
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
        f"{ledger.where} has no layout that is known here; its tensors are {ledger.tensors()}. Known are "
        "autoencoders, BYOL, Barlow Twins and cell-type classifiers of Richter et al. (2025)."
    )


def _check_width(ledger: Ledger, key: str) -> None:
    shape, n_genes = tuple(ledger.state[key].shape), ledger.n_genes
    if len(shape) == 2 and shape[1] == n_genes:
        return
    width = f"{shape[-1]:,}" if shape else "no"
    hint = ""
    if len(shape) == 2 and 0 < shape[1] - n_genes <= 50:
        hint = f" {shape[1] - n_genes} are besides the genes, like the batch in models for integration."
    raise BundleError(
        f"The first layer of {ledger.where} takes {width} inputs ({key}, shape {shape}), and the table of genes "
        f"has {n_genes:,}.{hint} Pass the table that it was trained with, a row for each input in their order, "
        "as `genes`; for the released checkpoints leave `genes` out."
    )


def _layers(prefix: str, *widths: int) -> list[tuple[str, tuple[int, int]]]:
    """Name of each linear layer from the first of these widths to the last, and shape of its weight."""
    shapes = zip(widths[1:], widths, strict=False)
    return [(f"{prefix}.{i}", shape) for i, shape in zip(_POSITIONS, shapes, strict=False)]


def _take_encoder(ledger: Ledger, prefix: str, n_layers: int = 5) -> dict[str, Tensor]:
    """The first layers of an encoder under our names; the layer on the genes is transposed."""
    tensors: dict[str, Tensor] = {}
    widths = (ledger.n_genes, *_ENCODER[:n_layers])
    for i, (source, shape) in enumerate(_layers(prefix, *widths)):
        name = "gene_encoder" if i == 0 else f"encoder.2.layers.{3 * (i - 1)}"
        tensors |= ledger.take_layer(source, shape, name)
    tensors["gene_encoder.weight"] = tensors["gene_encoder.weight"].T.contiguous()
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


def _autoencoder(ledger: Ledger) -> Published:
    last = ledger.n_rows("decoder.0.12.weight")
    counts = "px_r" in ledger.state or last == 2 * ledger.n_genes
    tensors = _take_encoder(ledger, "encoder")
    n_out = 2 * ledger.n_genes if counts else ledger.n_genes
    decoder = _layers("decoder.0", _ENCODER[-1], *_DECODER, n_out)
    if counts:
        reason = (
            "decoder of counts: it was trained on log-normalised values, and half of its output has no "
            "use"
        )
        for source, shape in decoder:
            ledger.drop_layer(source, shape, reason)
        ledger.drop("px_r", (ledger.n_genes,), "dispersion of the decoder of counts")
        title = "an autoencoder with a decoder of counts (negative binomial)"
        notes = ["Only the encoder is used: there is an embedding and no reconstruction."]
        return Published("nb_autoencoder", title, _arguments(), tensors, notes)
    names = [f"decoder.layers.{i}" for i in _POSITIONS[:-1]] + ["gene_decoder"]
    for (source, shape), name in zip(decoder, names, strict=True):
        tensors |= ledger.take_layer(source, shape, name)
    title = "an autoencoder (random mask, gene-programme mask or reconstruction)"
    notes = [
        "The layout is the same for all pretext tasks, so the file does not tell which it was."
    ]
    return Published("autoencoder", title, _arguments(decoder=True), tensors, notes)


def _byol(ledger: Ledger) -> Published:
    tensors = _take_encoder(ledger, "inner_model", n_layers=4)
    ledger.drop_layer("inner_model.12", (64, 256), "untrained: the loss saw the layer before it")
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
        for source, shape in _layers("byol.target_encoder.net", ledger.n_genes, *_ENCODER):
            ledger.drop_layer(source, shape, target)
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
    return Published(family, f"an encoder trained by {name}", arguments, tensors, notes)


def _drop_mlp(ledger: Ledger, prefix: str, reason: str, *, simsiam: bool = False) -> None:
    """Leave out a projector or predictor: two layers, or the three without bias of SimSiam."""
    wide, n_out = 4096, 256
    _drop_norm(ledger, f"{prefix}.1", wide, reason)
    if not simsiam:
        ledger.drop_layer(f"{prefix}.0", (wide, n_out), reason)
        ledger.drop_layer(f"{prefix}.3", (n_out, wide), reason)
        return
    for position, shape in ((0, (wide, n_out)), (3, (wide, wide)), (6, (n_out, wide))):
        ledger.drop(f"{prefix}.{position}.weight", shape, reason)
    _drop_norm(ledger, f"{prefix}.4", wide, reason)
    _drop_norm(ledger, f"{prefix}.7", n_out, reason, affine=False)


def _drop_norm(ledger: Ledger, name: str, width: int, reason: str, *, affine: bool = True) -> None:
    """Leave out a batch norm."""
    if affine:
        ledger.drop_layer(name, (width,), reason)
    ledger.drop(f"{name}.running_mean", (width,), reason)
    ledger.drop(f"{name}.running_var", (width,), reason)
    ledger.drop(f"{name}.num_batches_tracked", (), reason)


def _barlow_twins(ledger: Ledger) -> Published:
    outer = "barlow_twins." if ledger.has("barlow_twins.") else ""
    tensors = _take_encoder(ledger, f"{outer}backbone")
    ledger.drop_copies("inner_model.", f"{outer}backbone.")
    reason = "projector of pre-training"
    for source, shape in _layers(f"{outer}projector", _ENCODER[-1], *_DECODER):
        ledger.drop(f"{source}.weight", shape, reason)
    for position, width in ((1, 256), (4, 256), (7, 512)):
        _drop_norm(ledger, f"{outer}projector.{position}", width, reason)
    _drop_norm(ledger, f"{outer}bn", 512, "batch norm of the loss", affine=False)
    title = "an encoder trained by Barlow Twins"
    notes = ["There is no decoder."]
    return Published("barlow_twins", title, _arguments(dropout=0.0), tensors, notes)


def _classifier(ledger: Ledger) -> Published:
    tensors = _take_encoder(ledger, "classifier")
    n_types = ledger.n_rows("classifier.15.weight")
    layer = ledger.take_layer("classifier.15", (n_types, _ENCODER[-1]), "head")
    head = {name.removeprefix("head."): tensor for name, tensor in layer.items()}
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
    return Published("classifier", title, arguments, tensors, notes, head)
