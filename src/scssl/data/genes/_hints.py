"""Why two lists of gene names do not match, and the line to type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

_VERSION = re.compile(r"\.\d+$")


class _Fix(NamedTuple):
    reason: str
    rename: Callable[[str], str]
    line: str


_FIXES = (
    _Fix(
        "the names of the data carry version suffixes ('ENSG00000167286.9')",
        lambda name: _VERSION.sub("", name),
        r'adata.var_names = adata.var_names.str.replace(r"\.\d+$", "", regex=True)',
    ),
    _Fix(
        "the names differ in white space",
        str.strip,
        "adata.var_names = adata.var_names.str.strip()",
    ),
    _Fix(
        "the names differ in case, which often means another species (human CD3D, mouse Cd3d): "
        "map orthologues then (scssl.pp.map_orthologs); if the species is the same",
        str.upper,
        "adata.var_names = adata.var_names.str.upper()",
    ),
    _Fix(
        "the names differ in case, which often means another species (mouse Cd3d, human CD3D): "
        "map orthologues then (scssl.pp.map_orthologs); if the species is the same",
        str.capitalize,
        "adata.var_names = adata.var_names.str.capitalize()",
    ),
)
_MODEL_VERSIONED = (
    'versioned = {name.split(".")[0]: name for name in model.genes.names}; '
    'adata.var_names = [versioned.get(name.split(".")[0], name) for name in adata.var_names]'
)


def mismatch_hint(
    model: np.ndarray, query: np.ndarray, n_matched: int, *, id_types: tuple[str, str]
) -> str:
    """Most likely reason why `query` does not match `model`, with the line that mends it.

    Parameters
    ----------
    model, query
        Gene names of both sides.
    n_matched
        Number of names that match as they are.
    id_types
        Detected id type of the model and of the data.
    """
    kinds = {"ensembl": "Ensembl ids", "symbol": "gene symbols", "unknown": "placeholders"}
    if id_types[0] != id_types[1]:
        hint = (
            f"The model knows {kinds[id_types[0]]}, the data has {kinds[id_types[1]]}. If the data "
            'has the others in a column of adata.var: adata.var_names = adata.var["<that column>"]'
        )
        if "unknown" in id_types:
            return hint
        return (
            f"{hint}; with a table of both: scssl.pp.match_genes(adata, model, synonyms={{<name in the "
            "data>: <name in the model>, ...})"
        )

    gains = [_n_common(model, [fix.rename(name) for name in query]) for fix in _FIXES]
    best = int(np.argmax(gains))
    bare_model = [_VERSION.sub("", name) for name in model]
    bare_query = [_VERSION.sub("", name) for name in query]
    if id_types[0] == "ensembl" and _n_common(bare_model, bare_query) > max(n_matched, gains[best]):
        return (
            "The Ensembl ids of the model carry other version suffixes ('ENSG00000167286.9') than "
            f"those of the data; match them without: {_MODEL_VERSIONED}"
        )
    if gains[best] > n_matched:
        fix = _FIXES[best]
        return f"It seems that {fix.reason}: {fix.line}"

    if id_types[0] == "ensembl":
        prefixes = [re.match(r"[A-Za-z]+", str(names[0])) for names in (model, query)]
        found = [prefix.group() for prefix in prefixes if prefix]
        if len(set(found)) == 2:
            return (
                f"The ids begin with {found[0]} in the model and {found[1]} in the data: these are "
                "different species; map orthologues first: scssl.pp.map_orthologs(adata, table, "
                "from_species=..., to_species=...)"
            )
    return (
        "If the data really shares so few genes with the model, lower `min_overlap`; otherwise "
        "check that model and data are of the same species and annotation."
    )


def _n_common(left: np.ndarray | list[str], right: np.ndarray | list[str]) -> int:
    return int(pd.Index(left).unique().isin(right).sum())
