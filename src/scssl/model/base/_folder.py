"""The folder of a model, its card, and checkpoints of other programs."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch.overrides import TorchFunctionMode

from scssl.data import GeneVocabulary
from scssl.hub import CardFacts
from scssl.module import SSLModule

if TYPE_CHECKING:
    from ._model import SSLModel

#: Entry of a registry that says where weights are from, which are not of scssl.
SOURCE = "scssl_source"
# Parts of a module that make embeddings; what is beside them only serves training or a head.
_ENCODES = ("encoder.", "gene_encoder.", "covariate_encoder.", "linear_path.", "idf")
# What is done to the values of a modality.
_READ = {
    "counts": "raw counts, scaled per cell and log-transformed by the model",
    "lognorm": "values that are scaled per cell and log-transformed already",
    "clr": "raw counts, of which the model takes the centred log ratio",
    "log1p": "raw counts, log-transformed by the model",
    "none": "values as they are",
    "tfidf": "raw counts, of which the model takes TF-IDF",
    "binary": "raw counts, of which the model takes whether there are any",
}


def encoder_digest(module: SSLModule) -> str:
    """Digest of what embeddings are made with."""
    digest = hashlib.sha256()
    digest.update(module.embeds_by().encode())
    for name, value in sorted(module.state_dict().items()):
        name = name.removeprefix("backbone.")
        # Counters of batch normalisation are whole numbers, and not used in embedding.
        if not name.startswith(_ENCODES) or not value.is_floating_point():
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        plain = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()


def without_genes(registry: Mapping[str, Any]) -> Any:
    """A registry of scvi-tools as JSON; the gene names are stored once, in their own file."""
    plain = _without_arrays(registry)
    del plain["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"]
    return plain


def _without_arrays(registry: Any) -> Any:
    if isinstance(registry, Mapping):
        return {
            str(name): _without_arrays(value)
            for name, value in registry.items()
            if name != "_scvi_uuid"
        }
    if isinstance(registry, np.ndarray):
        return [_without_arrays(value) for value in registry.tolist()]
    if isinstance(registry, (list, tuple)):
        return [_without_arrays(value) for value in registry]
    return registry.item() if isinstance(registry, np.generic) else registry


def with_genes(registry: dict[str, Any], genes: GeneVocabulary) -> dict[str, Any]:
    fields = registry["field_registries"]
    fields[REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"] = genes.names
    for content in fields.values():
        state = content["state_registry"]
        if "categorical_mapping" in state:
            found = np.asarray(state["categorical_mapping"], dtype=object)
            if found.ndim != 1:
                raise ValueError(f"the categories {state['categorical_mapping']!r} are no list")
            state["categorical_mapping"] = found
    return registry


class _Layers(TorchFunctionMode):
    """Stops what calls PyTorch more often than a network with so many tensors does."""

    def __init__(self, n_tensors: int) -> None:
        super().__init__()
        self.left = 1000 + 100 * n_tensors

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it has more layers than there are tensors")
        return func(*args, **(kwargs or {}))


def build_fitting[Model: SSLModel](
    build: Callable[[], Model], tensors: Mapping[str, torch.Tensor], n_genes: int
) -> Model:
    """Model that these tensors, and no others, are the weights of.

    It is first built without memory: arguments are those of strangers, and may ask for any size.
    """
    with torch.device("meta"), _Layers(len(tensors)):
        module = build().module
        expected = module.state_dict()
        for place, part in module.named_modules():
            for layer in getattr(part, "warm_layers", ()):
                # Only of a model that was started from another one.
                name = f"{place}.warm_{layer}".removeprefix(".")
                if name in tensors:
                    expected[name] = torch.empty(n_genes, dtype=torch.bool)
    for name in sorted(expected.keys() | tensors.keys()):
        wanted, found = (
            f"{'numbers' if one[name].is_floating_point() else one[name].dtype} of shape "
            f"{tuple(one[name].shape)}"
            if name in one
            else "nothing"
            for one in (expected, tensors)
        )
        if found != wanted:
            raise ValueError(f"{name} is {found}, where {wanted} is expected")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name} has weights that are not finite")
    return build()


def card_facts(model: SSLModel) -> CardFacts:
    """What the card says of the model."""
    setup, name = model.setup, type(model).__name__
    of_batch = [] if setup.batch_key is None else [setup.batch_key]
    used = {
        "batch": of_batch,
        "labels": [] if setup.labels_key is None else [setup.labels_key],
        "covariates": [*setup.categorical_keys, *setup.continuous_keys],
    }
    embeds_with = of_batch + used["covariates"] if model.module.encodes_covariates else []
    source = model.source
    example = ["scssl.tl.embed(adata, model)", 'adata.obsm["X_ssl"]']
    if hasattr(model, "predict"):
        example.append("model.predict(adata)")
    return CardFacts(
        model=name,
        description=f"A `{name}` of scssl: it turns the "
        f"expression of {len(model.genes):,} genes in a cell into an embedding of "
        f"{model.n_latent} dimensions. Its task: {_first_sentence(type(model))}",
        example=example,
        summary=model._model_summary_string,
        n_parameters=sum(p.numel() for p in model.module.parameters()),
        n_latent=model.n_latent,
        n_genes=len(model.genes),
        gene_ids=model.genes.id_type,
        gene_examples=[str(gene) for gene in model.genes.names[:3]],
        species=model.genes.species,
        input=setup.input_kind,
        target_sum=setup.target_sum,
        where=setup.where,
        modalities={
            one.where: f"{one.kind}, {_READ[one.normalization]}" for one in setup.modalities
        },
        columns=embeds_with,
        trained_with={f"{k} column": names for k, names in used.items() if names},
        training=model.training_,
        source=None if source is None else f"{source['source']}, {source['file']}",
        versions=versions(),
    )


def _first_sentence(cls: type) -> str:
    """First line of the docstring of a class, in lower case and without citations."""
    line = (inspect.getdoc(cls) or "").split("\n", 1)[0]
    line = re.sub(r"\s*:cite:[\w:]+:`[^`]*`", "", line)
    return line[:1].lower() + line[1:]


def versions() -> dict[str, str]:
    """Of the packages that decide what a model does."""
    return {name: version(name) for name in ("scssl", "torch", "scvi-tools", "anndata")}


def foreign(name: str) -> Any:
    """What reads checkpoints of other programs: a function of ``scssl.published``, by name.

    Readers build models, so they stand above them, and a model finds them by name.
    """
    return getattr(importlib.import_module("scssl.published"), name)


def from_foreign(reader: str, *args: Any, device: Any, adata: Any, **options: Any) -> Any:
    """Model that a reader of :func:`foreign` makes of a checkpoint, on a device and with data if there are any."""
    model = foreign(reader)(*args, **options)
    model.module.to(device).eval()
    if adata is not None:
        model.attach(adata)
    return model


def check_unused(example: str, /, **arguments: Any) -> None:
    """Refuse arguments that mean something for checkpoints only; how to name one, for the message."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise ValueError(f"`{name}` is for checkpoints. Say which one to read: {example}")
