"""CellPLM from checkpoints, of scssl or published by others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pandas as pd
from anndata import AnnData

from scssl.model.base import check_unused, foreign

if TYPE_CHECKING:
    import torch

_EXAMPLE = '"ckpt/20231027_85M", or prefix="20231027_85M"'


class PublishedCellPLMMixin:
    """The part of a CellPLM that reads checkpoints of the published program."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        prefix: str | None = None,
        variant: Literal["auto", "gmvae", "vae", "ae"] = "auto",
        symbols: str | Path | pd.DataFrame | None = None,
        sample_key: str | None = None,
        spatial_key: str | None = None,
        layer: str | None = None,
        sha256: str | None = None,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model of scssl, or a checkpoint of :cite:p:`Wen2024`.

        A checkpoint is two files: ``{prefix}.config.json`` and ``{prefix}.best.ckpt``, for instance
        ``20230926_85M`` (``"gmvae"``) or ``20231027_85M`` (``"vae"``). Its variant is told from its
        tensors; each of them is used, set aside for a reason (``model.source``), or an error. The file is
        not unpickled: only tensors are read. Positions are off, as they are in all published code. Input
        are raw counts of human genes with Ensembl ids, of which the model takes log1p.

        Otherwise `source` is a model of scssl on the hub or in a folder.

        Parameters
        ----------
        source
            Path without the endings, such as ``"ckpt/20231027_85M"``; or the folder of the two files; or,
            with `prefix`, a repository of the Hugging Face Hub that has them.
        prefix
            What the names of the two files begin with, where `source` does not say it.
        variant
            What the tensors must be. By default they tell it, and the configuration has to agree.
        symbols
            Other names of the genes: a ``.csv``, ``.tsv`` or ``.parquet`` file or a data frame with the
            columns ``feature_id`` (or Ensembl ids as index) and ``feature_name``, in any order. Data with
            symbols are matched by it; without it they are refused.
        sample_key
            Column of ``adata.obs`` with the sample of each cell, see :meth:`setup_anndata`. Without it
            all cells that are embedded at a time are one sample.
        spatial_key
            Entry of ``adata.obsm`` with the place of each cell, for ``context="tiles"`` only.
        layer
            Layer with the counts, ``adata.X`` by default.
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
        **kwargs
            Arguments of the model that the weights leave open: ``context``, ``context_size`` and ``halo``
            (which cells see each other), and those of training.

        Raises
        ------
        BundleError
            If there is no sound model, or the files hold more than tensors, another network, or do not
            belong together.
        GeneMismatchError
            If `symbols` has none of the genes.
        FileNotFoundError, PermissionError, ConnectionError
            If a repository or a file of it cannot be had.
        TypeError
            If an argument is fixed by the weights.
        ValueError
            If a folder holds several checkpoints and `prefix` does not say which; if arguments for
            checkpoints are given for a model of scssl.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.CellPLM.from_pretrained("ckpt/20231027_85M")  # doctest: +SKIP
        """
        model_class: Any = cls
        found = foreign("locate_cellplm")(source, prefix)
        if found is None:
            check_unused(
                _EXAMPLE,
                variant=None if variant == "auto" else variant,
                symbols=symbols,
                sample_key=sample_key,
                spatial_key=spatial_key,
                layer=layer,
                sha256=sha256,
                **kwargs,
            )
            loaded: Self = super().from_pretrained(  # type: ignore[misc]
                source, revision=revision, adata=adata, device=device, token=token
            )
            return loaded
        model = foreign("cellplm_from")(
            model_class,
            *found,
            variant=variant,
            symbols=symbols,
            sample_key=sample_key,
            spatial_key=spatial_key,
            layer=layer,
            sha256=sha256,
            revision=revision,
            token=token,
            arguments=kwargs,
        )
        model.module.to(device).eval()
        if adata is not None:
            model.attach(adata)
        return model
