"""Gene programmes of an AnnData, as a mask takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scssl.augment import GenePrograms

DEFAULT_KEYS = {"programs": "gene_programs", "targets": "tf_targets"}
_MAKE = {
    "programs": 'scssl.pp.gene_programs(adata, "programmes.gmt")',
    "targets": 'scssl.pp.tf_targets(adata, "targets.gmt", tfs=[...])',
}


def read_programs(adata: AnnData, key: str | None, *, needs: str) -> GenePrograms:
    """Programmes in ``adata.varm[key]`` and ``adata.uns[key]``, as ``scssl.pp`` writes them.

    Raises
    ------
    KeyError
        If they are not there.
    ValueError
        If they do not belong together, or name no transcription factors where these are needed.
    """
    key = DEFAULT_KEYS[needs] if key is None else key
    if key not in adata.varm or key not in adata.uns:
        there = ", ".join(map(repr, adata.varm)) or "nothing"
        raise KeyError(
            f"There are no gene programmes {key!r} in adata.varm and adata.uns (adata.varm has {there}). "
            f"Make them before setup_anndata: {_MAKE[needs]}"
        )
    record: dict[str, Any] = adata.uns[key]
    members = sparse.csc_matrix(adata.varm[key])
    names = list(record.get("names", ()))
    if len(names) != members.shape[1]:
        raise ValueError(
            f'adata.varm["{key}"] has {members.shape[1]} programmes, adata.uns["{key}"] names '
            f"{len(names)}. Make them again: {_MAKE[needs]}"
        )
    targets = None
    if needs == "targets":
        if "targets" not in record:
            raise ValueError(
                f'adata.uns["{key}"] names no transcription factors. Make them: {_MAKE["targets"]}'
            )
        targets = adata.var_names.get_indexer(np.asarray(record["targets"], dtype=object))
        if (targets < 0).any():
            absent = record["targets"][int(np.flatnonzero(targets < 0)[0])]
            raise ValueError(
                f'The transcription factor {absent!r} of adata.uns["{key}"] is no longer in '
                f"adata.var_names. Make them again: {_MAKE['targets']}"
            )
    split = np.split(members.indices, members.indptr[1:-1])
    empty = [name for name, one in zip(names, split, strict=True) if not len(one)]
    if empty:
        raise ValueError(
            f"{len(empty)} programmes of {key!r} have no gene in `adata` any more, such as "
            f"{empty[0]!r}. Make them again: {_MAKE[needs]}"
        )
    return GenePrograms(names, split, adata.n_vars, targets=targets)
