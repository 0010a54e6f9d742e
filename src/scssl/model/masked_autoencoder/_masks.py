"""The mask of a model: from its arguments, with gene programmes of the data, or from another model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scssl._errors import MissingKeyError
from scssl.augment import GenePrograms, Masking, is_own_mask, mask_needs, masking, remade

_LOGGER = logging.getLogger("scssl")
# Where scssl.pp writes programmes by default, and how.
_KEYS = {"programs": "gene_programs", "targets": "tf_targets"}
_SAY = 'Say what is to be hidden: `masking="random"`.'


def make_mask(
    adata: AnnData | None,
    asked: str | Masking | None,
    rate: float | None,
    options: Mapping[str, Any] | None,
    key: str | None,
) -> Masking | None:
    """Mask of a model with these arguments; `adata` has the programmes that it may need."""
    if asked is None:
        if rate is not None or options or key is not None:
            raise ValueError("masking=None is no mask, which has no rate, options or programmes.")
        return None
    needs = mask_needs(asked)
    if asked == "panel" and key is not None:
        needs = "programs"
    programs = None
    if needs is None:
        if key is not None:
            raise ValueError(
                f"masking={asked!r} uses no gene programmes; found programs_key={key!r}."
            )
    elif adata is None:
        raise ValueError(f"masking={asked!r} reads gene programmes from an AnnData. Pass `adata`.")
    else:
        programs = _read_programs(adata, key, needs)
    return masking(asked, rate=rate, programs=programs, **(options or {}))


def mask_of(other: Any, rows: np.ndarray, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The mask of another model as arguments of this one; what `kwargs` say of it is taken out.

    `rows` are the positions of the genes among those of the other model, -1 where it does not know them.
    """
    mask = other.module.masking
    if mask is None or not is_own_mask(mask):
        what = "is not known any more" if mask is None else f"({mask!r}) is not one of scssl"
        raise ValueError(f"The mask of the other model {what}. {_SAY}")
    if kwargs.get("programs_key") is not None:
        # The programmes are those of `adata`.
        config = mask.config()
        rest = ("name", "programs", "rate")
        options = {name: value for name, value in config.items() if name not in rest}
        options |= dict(kwargs.pop("mask_options", None) or {})
        rate = kwargs.pop("mask_rate", None)
        rate = config.get("rate") if rate is None else rate
        return {"masking": config["name"], "mask_rate": rate, "mask_options": options}
    rate, options = kwargs.pop("mask_rate", None), kwargs.pop("mask_options", None)
    programs = getattr(mask, "programs", None)
    if programs is not None:
        position = {int(row): gene for gene, row in enumerate(rows) if row >= 0}
        n_programs = len(programs)
        programs = programs.mapped(position, len(rows))
        if programs is None:
            raise ValueError(
                f"None of the {n_programs} gene programmes of the other model is in `adata`. {_SAY}"
            )
        _LOGGER.info("%d of %d gene programmes of the mask are left.", len(programs), n_programs)
    return {"masking": remade(mask, programs=programs, rate=rate, options=options)}


def _make(needs: str, key: str) -> str:
    """How such programmes are made, for messages."""
    name = _KEYS[needs]
    return f"of a GMT file FILE: `scssl.pp.{name}(adata, FILE, key_added={key!r})`."


def _read_programs(adata: AnnData, key: str | None, needs: str) -> GenePrograms:
    """Programmes in ``adata.varm[key]`` and ``adata.uns[key]``, as ``scssl.pp`` writes them."""
    key = _KEYS[needs] if key is None else key
    if key not in adata.varm or key not in adata.uns:
        there = ", ".join(map(repr, adata.varm)) or "nothing"
        raise MissingKeyError(
            f"There are no gene programmes {key!r} in adata.varm and adata.uns (adata.varm has {there}). "
            f"Make them {_make(needs, key)}"
        )
    record: dict[str, Any] = adata.uns[key]
    members = sparse.csc_matrix(adata.varm[key])
    names = list(record.get("names", ()))
    if len(names) != members.shape[1]:
        raise ValueError(
            f'adata.varm["{key}"] has {members.shape[1]} programmes, adata.uns["{key}"] names {len(names)}. '
            f"Make them again {_make(needs, key)}"
        )
    targets = None
    if needs == "targets":
        if "targets" not in record:
            raise ValueError(
                f'adata.uns["{key}"] names no transcription factors. Make them {_make(needs, key)}'
            )
        targets = adata.var_names.get_indexer(np.asarray(record["targets"], dtype=object))
        if (targets < 0).any():
            absent = record["targets"][int(np.flatnonzero(targets < 0)[0])]
            raise ValueError(
                f'The transcription factor {absent!r} of adata.uns["{key}"] is no longer in '
                f"adata.var_names. Make them again {_make(needs, key)}"
            )
    split = np.split(members.indices, members.indptr[1:-1])
    empty = [name for name, one in zip(names, split, strict=True) if not len(one)]
    if empty:
        raise ValueError(
            f"{len(empty)} programmes of {key!r} have no gene in `adata`, such as {empty[0]!r}. Make them "
            f"again {_make(needs, key)}"
        )
    return GenePrograms(names, split, adata.n_vars, targets=targets)
