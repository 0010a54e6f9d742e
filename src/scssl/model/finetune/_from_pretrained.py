"""Classifiers from checkpoints, of scssl or published by others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from anndata import AnnData

from scssl.model.base import check_unused, foreign

if TYPE_CHECKING:
    import torch


class PublishedClassifierMixin:
    """The part of a classifier that reads checkpoints of other programs."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        file: str | Path | None = None,
        genes: str | Path | pd.DataFrame | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        labels_key: str = "cell_type",
        layer: str | None = None,
        sha256: str | None = None,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a classifier of scssl, or a cell-type classifier of :cite:p:`Richter2025`.

        With `file`, a checkpoint as published in ``TillR/sc_pretrained`` on the Hugging Face Hub,
        encoder and head; see :meth:`MaskedAutoencoder.from_pretrained` for how it is read. Without
        `file`, a model of scssl on the hub or in a folder.

        Parameters
        ----------
        source
            Repository, ``"owner/name"``, or a folder; or the path of a checkpoint.
        file
            Checkpoint in it, such as ``"Finetuned Models/Cell Type Prediction/HLCA_SSL.ckpt"``; or
            the path of one.
        genes
            Table of the genes, as for :meth:`MaskedAutoencoder.from_pretrained`.
        classes
            Names of the classes in the order of the network's outputs, which the checkpoints do not
            hold.
        labels_key
            Name of the column with the classes.
        layer
            Layer with the counts of the data to classify, ``adata.X`` by default.
        sha256
            Digest that the checkpoint must have.
        revision
            Branch, tag or commit of the repository; the newest of the main branch by default.
        adata
            Data to attach to the model, as in :meth:`load`.
        device
            Where to put the weights.
        token
            Access token, for private repositories; that of ``hf auth login`` by default.

        Raises
        ------
        BundleError
            If there is no sound model, or the checkpoint is no classifier of a layout known here.
        GeneMismatchError
            If `genes` is not the table that belongs to the checkpoint.
        FileNotFoundError, PermissionError, ConnectionError
            If a repository or a file of it cannot be had.
        ValueError
            If `classes` are missing, not as many as the network has outputs, or not unique; if
            arguments for checkpoints are given without `file`.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.CellTypeClassifier.from_pretrained(
        ...     "TillR/sc_pretrained",
        ...     file="Finetuned Models/Cell Type Prediction/HLCA_SSL.ckpt",
        ...     classes=names_of_the_classes,
        ... )  # doctest: +SKIP
        """
        model_class: Any = cls
        if file is None and not Path(source).is_file():
            check_unused(
                'file="HLCA_SSL.ckpt"', genes=genes, classes=classes, layer=layer, sha256=sha256
            )
            loaded: Self = super().from_pretrained(  # type: ignore[misc]
                source, revision=revision, adata=adata, device=device, token=token
            )
            return loaded
        model = foreign("classifier_from")(
            model_class,
            source,
            file,
            genes,
            classes=classes,
            labels_key=labels_key,
            layer=layer,
            sha256=sha256,
            revision=revision,
            token=token,
        )
        model.module.to(device).eval()
        if adata is not None:
            model.attach(adata)
        return model
