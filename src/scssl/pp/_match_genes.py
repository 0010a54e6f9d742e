"""The genes of a data set under the names of a reference."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_destination, some
from scssl._errors import GeneMismatchError, warn
from scssl._io import read_table

from ._gene_names import check_changeable
from ._gene_names import rename as rename_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.data import GeneVocabulary
    from scssl.data.genes import Match, Stage
    from scssl.model import SSLModel

# Share of the shorter list that is found, below which there is a warning.
_FEW_FOUND = 0.5
_LOGGER = logging.getLogger("scssl")
_HOW_TO_GET = (
    "To get a table of synonyms, save for human "
    "https://storage.googleapis.com/public-download-files/hgnc/tsv/tsv/hgnc_complete_set.txt, for "
    "mouse https://www.informatics.jax.org/downloads/reports/MRK_List2.rpt, or the gene_info file of "
    "a species from https://ftp.ncbi.nlm.nih.gov/gene/DATA/GENE_INFO. A dict of symbols by synonym or "
    "a table with the columns 'synonym' and 'symbol' will do as well."
)

# Columns, in lower case, by what they hold, and what separates several synonyms in a field.
_SYMBOLS = ("symbol", "approved symbol", "marker symbol", "gene name")
_SYNONYMS = {
    "alias_symbol": "|",
    "prev_symbol": "|",
    "alias symbols": ",",
    "previous symbols": ",",
    "alias symbol": None,
    "previous symbol": None,
    "marker synonyms (pipe-separated)": "|",
    "synonyms": "|",
    "gene synonym": None,
    "synonym": None,
    "alias": None,
}


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

    check_destination(adata, key_added, copy=copy)
    check_changeable(adata, copy=copy, subset=False)
    vocabulary = _vocabulary(reference)
    other_names = None if synonyms is None else _Synonyms(synonyms)

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


class _Synonyms:
    """Symbols by their other names, of what :func:`scssl.pp.match_genes` takes as `synonyms`."""

    def __init__(self, table: Any) -> None:
        self._symbols: dict[str, set[str]] = defaultdict(set)
        self.source, self.sha256 = "dict", ""
        if isinstance(table, Mapping):
            for synonym, symbols in table.items():
                self._add(symbols if not isinstance(symbols, str) else [symbols], str(synonym))
            self._approved = {name for names in self._symbols.values() for name in names}
        else:
            self._read(table)

    def _add(self, symbols: Iterable[Any], synonym: str) -> None:
        if synonym.strip():
            self._symbols[synonym.strip()].update(str(symbol).strip() for symbol in symbols)

    def _read(self, table: Any) -> None:
        read = read_table(table, argument="synonyms", how_to_get=_HOW_TO_GET)
        columns = {name.casefold().removeprefix("#"): name for name in read.frame}
        symbol = next((columns[name] for name in _SYMBOLS if name in columns), None)
        found = {
            columns[name]: separator for name, separator in _SYNONYMS.items() if name in columns
        }
        if symbol is None or not found:
            there = ", ".join(map(repr, read.frame.columns[:10]))
            raise ValueError(
                f"`synonyms` ({read.source}) needs a column of symbols and one of their synonyms; it has "
                f"{there}. {_HOW_TO_GET}"
            )
        self.source, self.sha256 = read.source, read.sha256
        self._approved = set(read.frame[symbol]) - {""}
        for column, separator in found.items():
            for name, field in zip(read.frame[symbol], read.frame[column], strict=True):
                # A hyphen is how NCBI writes that there are none.
                if not name or field in ("", "-"):
                    continue
                for synonym in field.split(separator) if separator else [field]:
                    self._add([name], synonym)

    def symbols_of(self, name: str) -> list[str]:
        """Symbols that a name may stand for, sorted; the name itself if it is a symbol."""
        if name in self._approved:
            return [name]
        return sorted(self._symbols.get(name, ()))

    def stage(self, model: pd.Index, query: pd.Index) -> Stage:
        """Look genes up by the symbol that their name stands for, on both sides."""
        import pandas as pd

        from scssl.data.genes import Stage

        keys, wanted = (
            pd.Index([self._symbol(name) for name in names], dtype=object)
            for names in (model, query)
        )
        return Stage("synonym", keys, np.arange(len(model)), wanted)

    def _symbol(self, name: str) -> str:
        symbols = self.symbols_of(name)
        return symbols[0] if len(symbols) == 1 else name


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
    synonyms: _Synonyms | None,
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
    from scssl.data.genes import called, detect_id_type, mismatch_hint

    if n_found >= _FEW_FOUND * min(len(vocabulary), len(query)):
        return
    id_types = (vocabulary.id_type, detect_id_type(query.to_numpy()))
    hint = mismatch_hint(
        vocabulary.names, query.to_numpy(), n_found, id_types=id_types, to_allow=None
    )
    warn(
        f"Only {n_found:,} of the {len(query):,} genes of the data are among the "
        f"{len(vocabulary):,} of the reference.\n"
        f"  genes of the reference: {some(vocabulary.names)}\n"
        f"  genes of the data:      {some(query)}\n{called(hint, 'adata', 'reference')}"
    )
