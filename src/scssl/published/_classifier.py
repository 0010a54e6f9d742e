"""Classifiers from the checkpoints that :cite:p:`Richter2025` published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scssl.data import GeneVocabulary
from scssl.model.base import backbone_of, get_model_class

from ._autoencoder import (
    adopt,
    build_published,
    empty_registry,
    open_published,
)


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
    """Classifier with the encoder and the head of a published checkpoint, without data.

    Parameters
    ----------
    cls
        :class:`scssl.model.CellTypeClassifier`.
    source, file, genes
        As in :func:`open_published`.
    classes
        Names of the classes in the order of the network's outputs.
    labels_key
        Name of the column with the classes.
    layer
        Layer with the counts of the data that will be classified, ``adata.X`` by default.
    **options
        Further arguments of :func:`open_published`.
    """
    published, table = open_published(source, file, genes, use_head=True, **options)
    assert published.head is not None
    names = _checked_classes(classes, len(published.head["bias"]), published.report["file"])
    vocabulary = GeneVocabulary(table.ids, species="human", aliases=table.symbols)
    encoder = build_published(
        get_model_class("MaskedAutoencoder"), vocabulary, published, layer=layer
    )
    obs = pd.DataFrame({labels_key: names}, index=[f"cell{i}" for i in range(len(names))])
    registry = empty_registry(cls, vocabulary, layer=layer, obs=obs, labels_key=labels_key)
    model = cls(registry=registry, backbone=backbone_of(encoder))
    # The model sorts its classes; the outputs of the network are in an order of their own.
    order = [names.index(name) for name in model.classes]
    model.module.head.start_from(published.head["weight"][order], published.head["bias"][order])
    adopt(model, vocabulary, published)
    return model


def _checked_classes(classes: Sequence[str] | None, n_classes: int, file: str) -> list[str]:
    if classes is None:
        raise ValueError(
            f"{file} has {n_classes} classes and does not name them. Pass their names in the order of "
            "the network's outputs: classes=[...]; or read the encoder alone: "
            "scssl.model.MaskedAutoencoder.from_pretrained"
        )
    names = [str(name) for name in classes]
    if isinstance(classes, str) or len(names) != n_classes:
        found = repr(classes) if isinstance(classes, str) else f"{len(names)}"
        raise ValueError(
            f"{file} has {n_classes} classes; `classes` must name as many, found {found}."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not all(name.strip() for name in names):
        problem = f"{twice[0]!r} occurs more than once" if twice else "one is empty"
        raise ValueError(f"The names of classes must be unique and not empty; {problem}.")
    return names
