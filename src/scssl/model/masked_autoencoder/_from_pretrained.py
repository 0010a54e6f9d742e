"""Masked autoencoders from checkpoints, of scssl or published by others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from anndata import AnnData

from scssl.model.base import check_unused, foreign

if TYPE_CHECKING:
    import torch


class PublishedMixin:
    """The part of a model that reads checkpoints of other programs."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        file: str | Path | None = None,
        genes: str | Path | pd.DataFrame | Sequence[str] | None = None,
        pretext: str | None = None,
        legacy_output: bool = False,
        layer: str | None = None,
        sha256: str | None = None,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a model of scssl, or a checkpoint of :cite:p:`Richter2025`.

        With `file`, a checkpoint as published in ``TillR/sc_pretrained`` on the Hugging Face Hub:
        random mask, gene-programme mask, BYOL, Barlow Twins, reconstruction, or the encoder of a
        cell-type classifier. Which one it is is told from its tensors; each of them is used, set
        aside for a reason (``model.source``), or an error. The file is not unpickled: only tensors
        are read. Input are counts, normalised to 10,000 per cell over the genes of the model.

        Without `file`, a model of scssl on the hub or in a folder.

        Parameters
        ----------
        source
            Repository, ``"owner/name"``, or a folder; or the path of a checkpoint.
        file
            Checkpoint in it, such as ``"RandomMask.ckpt"``; or the path of one.
        genes
            Table of the 19,331 genes in the order of the network's inputs, which the checkpoints do
            not hold: a ``.parquet`` (needs pyarrow), ``.csv`` or ``.tsv`` file or a data frame with
            the columns ``feature_id`` and ``feature_name``; ``"var.parquet"`` in `source` by
            default. Data are matched by Ensembl id first, then by symbol, never by position.
        pretext
            What the network was trained to do, if you know: the file does not tell random masks,
            gene-programme masks and reconstruction apart. Only recorded.
        legacy_output
            Reconstruct with the sigmoid of the published code, to reproduce its numbers. Without it
            the reconstruction is the linear output before the sigmoid.
        layer
            Layer with the counts of the data to embed, ``adata.X`` by default.
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
            If there is no sound model, or the checkpoint holds more than tensors, has a layout that
            is not known here, or other inputs than the 19,331 genes.
        GeneMismatchError
            If `genes` is not the table that belongs to the checkpoint.
        FileNotFoundError, PermissionError, ConnectionError
            If a repository or a file of it cannot be had.
        ValueError
            If arguments for checkpoints are given without `file`.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.MaskedAutoencoder.from_pretrained(
        ...     "TillR/sc_pretrained", file="RandomMask.ckpt", genes="var.parquet"
        ... )  # doctest: +SKIP
        """
        model_class: Any = cls
        options: dict[str, Any] = {
            "pretext": pretext,
            "legacy_output": legacy_output,
            "layer": layer,
            "sha256": sha256,
        }
        if file is None and not Path(source).is_file():
            check_unused('file="RandomMask.ckpt"', genes=genes, **options)
            loaded: Self = super().from_pretrained(  # type: ignore[misc]
                source, revision=revision, adata=adata, device=device, token=token
            )
            return loaded
        model: Any = foreign("masked_autoencoder_from")(
            model_class,
            source,
            file,
            genes,
            revision=revision,
            token=token,
            **options,
        )
        model.module.to(device).eval()
        if adata is not None:
            model.attach(adata)
        return model
