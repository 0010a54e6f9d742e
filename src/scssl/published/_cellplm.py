"""Models from the checkpoints that :cite:p:`Wen2024` published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scssl._errors import BundleError
from scssl.data import GeneVocabulary
from scssl.hub import CONFIG as BUNDLE_CONFIG
from scssl.model.cellplm import FREE

from ._autoencoder import Place, adopt, build_published
from ._cellplm_file import read_cellplm
from ._gene_table import read_symbols

CONFIG, WEIGHTS = ".config.json", ".best.ckpt"


def locate_cellplm(source: str | Path, prefix: str | None) -> tuple[str | Path, str] | None:
    """Folder or repository, and prefix of a checkpoint; `None` where it is a model of scssl."""
    path = Path(source)
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
        shown = ", ".join(there)
        raise ValueError(
            f"{source} holds several checkpoints ({shown}). Say which: prefix={there[0]!r}"
        )
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
    spatial_key: str | None,
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
            f"`{fixed[0]}` is no argument here, or given by the weights. Free are {', '.join(FREE)}. "
            "For a model of other shape that starts from these weights: "
            f"scssl.model.CellPLM.from_ssl_model(model, adata, {fixed[0]}=...)"
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


def _config(place: Place, prefix: str) -> Path:
    try:
        return place.beside(prefix + CONFIG)
    except (BundleError, FileNotFoundError) as error:
        raise type(error)(
            f"{error} A checkpoint of CellPLM is two files, {prefix}{CONFIG} and {prefix}{WEIGHTS}; the "
            "older .config.pkl is a pickle, which is not read. The configuration of 20230926_85M is in the "
            'folder "ckpt" of OmicsML/CellPLM on GitHub.'
        ) from error
