"""Genes by name: vocabularies, alignment, kinds of names."""

from __future__ import annotations

from ._alignment import GeneAlignment
from ._names import (
    ENSEMBL,
    Match,
    Stage,
    alias_stage,
    bare_id,
    case_stage,
    detect_id_type,
    exact_stage,
    match_in_stages,
    mismatch_hint,
    version_stage,
)
from ._vocabulary import GeneVocabulary
