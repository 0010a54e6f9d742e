"""The genes of a data set under the names of a reference."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import GeneMismatchError, warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.data import GeneVocabulary
    from scssl.data.genes import Match
    from scssl.model import SSLModel

    from ._synonyms import Synonyms

# Share of the shorter list that is found, below which there is a warning.
_FEW_FOUND = 0.5
_LOGGER = logging.getLogger("scssl")


def match_genes(
    adata: AnnData,
    reference: GeneVocabulary | SSLModel | AnnData | Sequence[str],
    *,
    synonyms: str | Path | pd.DataFrame | Mapping[str, str] | None = None,
    ignore_case: bool = False,
    rename: bool = True,
    key_added: str = "match_genes",
    copy: bool = False,
) -> AnnData | None:
    """Give the genes of a data set the names that a model or another data set has for them.

    Genes are looked up by name; those that are not found as Ensembl ids without versions; then by
    the other names that the reference knows, if it is a vocabulary with aliases; then by synonyms, if
    there is a table; then without regard to case, if that is asked for. What one step has found, a
    later one does not take back: a gene whose match is found already, or that fits several genes, or
    a gene that another fits as well, is left as it is and reported. So are genes whose name occurs
    more than once in the data.

    No gene is added, taken out or moved: a model does that itself, by name. To see what would be
    found without changing names, pass ``rename=False``. Genes of another species are not synonyms:
    see :func:`map_orthologs`.

    Parameters
    ----------
    adata
        Data with the genes to match.
    reference
        Names to match to: a model, a :class:`scssl.data.GeneVocabulary`, an AnnData or a list.
    synonyms
        Other names of genes: a dict of symbols by synonym, or a file (tabs or commas) or data frame
        with a column of symbols and one or more of synonyms. Known are the complete set of HGNC
        (``symbol``, ``alias_symbol``, ``prev_symbol``), MGI's ``MRK_List2.rpt`` (``Marker Symbol``,
        ``Marker Synonyms (pipe-separated)``), NCBI's ``gene_info`` (``Symbol``, ``Synonyms``), BioMart
        (``Gene name``, ``Gene Synonym``), and ``symbol`` with ``synonym``. They are followed from either
        side. A name that is the symbol of a gene is never taken for a synonym of another, and a synonym
        of several genes for none.
    ignore_case
        Whether what is not found otherwise may differ in case. Never across species: that misses one
        in eighteen of the one-to-one orthologs of mouse and human, and takes some genes for others.
    rename
        Whether genes get the names of the reference.
    key_added
        Entry of `adata.uns` for the report, and begin of the name of the column of old names.
    copy
        Leave `adata` as it is and return a copy with the result.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.var_names``, ``adata.var[f"{key_added}_original"]``
            Names after and before, if `rename`.
        ``adata.uns[key_added]`` : :class:`dict`
            ``genes``, a data frame with a row for every gene: ``gene``, ``matched`` (empty if there is
            none), ``how`` (``exact``, ``version``, ``alias``, ``synonym`` or ``case``) and ``note``;
            ``counts`` of each, of genes ``not_found`` and ``refused``; ``missing``, the genes of the
            reference that the data does not have; ``params``.

    Raises
    ------
    FileNotFoundError
        If there is no such file of synonyms; the message says how to get one.
    GeneMismatchError
        If the reference has duplicated or empty names.
    TypeError
        If `reference` has no names of genes.
    ValueError
        If the table has no such columns, or `adata` is a view and would have to be changed.

    Warns
    -----
    ScsslWarning
        If fewer than half of the genes are found that could be, with the likely reason.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scssl
    >>> from anndata import AnnData
    >>> genes = pd.DataFrame(index=["LYZ", "QARS", "ENSG00000167286.9"])
    >>> adata = AnnData(np.ones((3, 3), dtype=np.float32), var=genes)
    >>> reference = ["QARS1", "ENSG00000167286", "LYZ"]
    >>> scssl.pp.match_genes(adata, reference, synonyms={"QARS": "QARS1"})
    >>> list(adata.var_names)
    ['LYZ', 'QARS1', 'ENSG00000167286']
    >>> adata.uns["match_genes"]["genes"]["how"].tolist()
    ['exact', 'synonym', 'version']
    """
    import pandas as pd

    from scssl.data.genes import (
        alias_stage,
        case_stage,
        exact_stage,
        match_in_stages,
        version_stage,
    )

    from ._rename import check_changeable
    from ._rename import rename as rename_genes
    from ._synonyms import Synonyms

    check_changeable(adata, copy=copy, subset=False)
    if not isinstance(key_added, str) or not key_added:
        raise TypeError(f"`key_added` must be a string that is not empty, found {key_added!r}.")
    vocabulary = _vocabulary(reference)
    other_names = None if synonyms is None else Synonyms(synonyms)

    model = pd.Index(vocabulary.names, dtype=object)
    query = pd.Index(adata.var_names, dtype=object)
    stages = [exact_stage(model, query), version_stage(model, query)]
    if vocabulary.aliases is not None:
        stages.append(alias_stage(vocabulary.aliases, query))
    if other_names is not None:
        stages.append(other_names.stage(model, query))
    if ignore_case:
        stages.append(case_stage(model, query))
    match = match_in_stages(stages, len(query), repeated=query.duplicated(keep=False))

    is_found = match.columns >= 0
    matched = np.full(len(query), "", dtype=object)
    matched[is_found] = vocabulary.names[match.columns[is_found]]
    present = np.zeros(len(model), dtype=bool)
    present[match.columns[is_found]] = True
    report = pd.DataFrame(
        {
            "gene": query.to_numpy(copy=True),
            "matched": matched,
            "how": match.how,
            "note": _notes(match, query, vocabulary.names, matched, other_names),
        }
    )
    counts = {stage.how: int((match.how == stage.how).sum()) for stage in stages}
    counts["refused"] = int((match.problem != "").sum())
    counts["not_found"] = len(query) - int(is_found.sum()) - counts["refused"]
    _warn_of_few(vocabulary, query, int(is_found.sum()))

    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    if rename:
        names = np.where(is_found, matched, query.to_numpy())
        rename_genes(adata, names, f"{key_added}_original", query.to_numpy(copy=True))
    adata.uns[key_added] = {
        "genes": report,
        "counts": counts,
        "missing": vocabulary.names[~present].copy(),
        "params": {
            "n_reference": len(vocabulary),
            "reference_hash": vocabulary.hash,
            "synonyms": "" if other_names is None else other_names.source,
            "synonyms_sha256": "" if other_names is None else other_names.sha256,
            "ignore_case": bool(ignore_case),
            "rename": bool(rename),
        },
    }
    _LOGGER.info(
        "%d of %d genes of the reference are in the data (%s).%s",
        int(is_found.sum()),
        len(vocabulary),
        ", ".join(f"{count:,} {name}" for name, count in counts.items() if count),
        "" if rename else " Names were not changed.",
    )
    return adata if copy else None


def _vocabulary(reference: Any) -> GeneVocabulary:
    from scssl.data import GeneVocabulary

    genes = getattr(reference, "genes", None)
    for found in (reference, genes):
        if isinstance(found, GeneVocabulary):
            return found
    names = getattr(reference, "var_names", reference)
    if isinstance(names, (str, Mapping)) or not hasattr(names, "__iter__"):
        raise TypeError(
            "`reference` must be a model, a GeneVocabulary, an AnnData or a list of names, found "
            f"{type(reference).__name__}."
        )
    try:
        return GeneVocabulary(list(names))
    except (TypeError, GeneMismatchError) as error:
        raise type(error)(f"In `reference`: {error}") from error


def _notes(
    match: Match,
    query: pd.Index,
    names: np.ndarray,
    matched: np.ndarray,
    synonyms: Synonyms | None,
) -> np.ndarray:
    """Why a gene was refused, or what its name could mean."""
    notes = np.full(len(query), "", dtype=object)
    owner = dict(zip(match.columns.tolist(), query, strict=True))
    for row in np.flatnonzero(matched == "").tolist():
        problem, candidate = match.problem[row], match.candidate[row]
        wanted = names[candidate] if candidate >= 0 else ""
        if problem == "repeated":
            notes[row] = "the data has this name more than once"
        elif problem == "several":
            notes[row] = "fits several genes of the reference"
        elif problem == "taken":
            by = owner.get(int(candidate), "a name that the data has more than once")
            notes[row] = f"fits {wanted}, which is {by}"
        elif problem == "rivals":
            notes[row] = f"fits {wanted}, as another gene of the data does"
        elif synonyms is not None and len(symbols := synonyms.symbols_of(query[row])) > 1:
            notes[row] = f"synonym of several genes: {', '.join(symbols)}"
    return notes


def _warn_of_few(vocabulary: GeneVocabulary, query: pd.Index, n_found: int) -> None:
    from scssl.data.genes import detect_id_type, mismatch_hint, some_names

    if n_found >= _FEW_FOUND * min(len(vocabulary), len(query)):
        return
    id_types = (vocabulary.id_type, detect_id_type(query.to_numpy()))
    hint = mismatch_hint(vocabulary.names, query.to_numpy(), n_found, id_types=id_types)
    warn(
        f"Only {n_found:,} of the {len(query):,} genes of the data are among the "
        f"{len(vocabulary):,} of the reference.\n"
        f"  genes of the reference: {some_names(vocabulary.names)}\n"
        f"  genes of the data:      {some_names(query)}\n{hint}"
    )
