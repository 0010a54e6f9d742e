"""Models from the checkpoints that :cite:p:`Wen2024` published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scssl._errors import BundleError
from scssl.data import GeneVocabulary
from scssl.hub._bundle import CONFIG as BUNDLE_CONFIG
from scssl.hub._cellplm_checkpoint import read_cellplm
from scssl.hub._gene_table import read_symbols

from ._published import PublishedSource, _Place, adopt, build_published, check_unused

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = ".config.json", ".best.ckpt"
_EXAMPLE = '"ckpt/20231027_85M", or prefix="20231027_85M"'
# What of the model the weights leave open.
_FREE = (
    *("context", "context_size", "halo", "dropout", "mask_cells", "mask_rate", "visible_weight"),
    *("kl_weight", "warmup_steps", "free_bits", "cell_dropout", "spatial_share"),
)


class PublishedCellPLMMixin(PublishedSource):
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
        found = _locate(source, prefix)
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
        model = _from_published(
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


def _locate(source: str | Path, prefix: str | None) -> tuple[str | Path, str] | None:
    """Folder or repository, and prefix of a checkpoint; `None` where it is a model of scssl."""
    path = Path(source)
    if prefix is not None:
        if path.is_file():
            msg = f"{source} is a file. Pass its folder, or leave out `prefix`."
            raise ValueError(msg)
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
        shown = ", ".join(there)
        msg = f"{source} holds several checkpoints ({shown}). Say which: prefix={there[0]!r}"
        raise ValueError(msg)
    return (path, there[0]) if there else None


def _without_ending(name: str) -> str:
    return name.removesuffix(CONFIG).removesuffix(WEIGHTS)


def _from_published(
    cls: type[Any],
    source: str | Path,
    prefix: str,
    *,
    variant: str,
    symbols: str | Path | pd.DataFrame | None,
    sample_key: str | None,
    spatial_key: str | None,
    layer: str | None,
    sha256: str | None,
    revision: str | None,
    token: str | bool | None,
    arguments: dict[str, Any],
) -> Any:
    """Model with the weights of a published checkpoint, without data."""
    fixed = sorted(set(arguments) - set(_FREE))
    if fixed:
        msg = (
            f"`{fixed[0]}` is no argument here, or given by the weights. Free are {', '.join(_FREE)}. "
            "For a model of other shape that starts from these weights: "
            f"scssl.model.CellPLM.from_ssl_model(model, adata, {fixed[0]}=...)"
        )
        raise TypeError(msg)
    place = _Place(source, prefix + WEIGHTS, revision, token)
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
    obs = None if sample_key is None else pd.DataFrame({sample_key: ["sample"]}, index=["cell"])
    obsm = None if spatial_key is None else {spatial_key: np.zeros((1, 2))}
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


def _config(place: _Place, prefix: str) -> Path:
    try:
        return place.beside(prefix + CONFIG)
    except (BundleError, FileNotFoundError) as error:
        msg = (
            f"{error} A checkpoint of CellPLM is two files, {prefix}{CONFIG} and {prefix}{WEIGHTS}; the "
            "older .config.pkl is a pickle, which is not read. The configuration of 20230926_85M is in the "
            'folder "ckpt" of OmicsML/CellPLM on GitHub.'
        )
        raise type(error)(msg) from error
