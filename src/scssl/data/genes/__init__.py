"""Genes by name: vocabularies, alignment, kinds of names."""

from __future__ import annotations

from ._kinds import ENSEMBL, bare_id, called, detect_id_type, mismatch_hint, warn_of_names
from ._ortholog_tables import species_key
from ._orthologs import keep_names_apart, map_names, report_of, translated
from ._vocabulary import (
    GeneAlignment,
    GeneVocabulary,
    Match,
    Stage,
    alias_stage,
    case_stage,
    exact_stage,
    match_in_stages,
    version_stage,
)
