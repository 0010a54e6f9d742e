"""Gene programmes, written beside the genes of an AnnData."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import warn

from ._sets import Sets, gene_index, matches, read_names, read_sets

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# Share of the genes of programmes in the data below which there is a warning.
_FEW_FOUND = 0.2
_LOGGER = logging.getLogger("scssl")


def gene_programs(
    adata: AnnData,
    programs: str | Path | Mapping[str, Iterable[str]] | pd.DataFrame,
    *,
    gene_names: str | None = None,
    min_genes: int = 5,
    min_fraction: float = 0.0,
    min_programs: int | None = None,
    key_added: str = "gene_programs",
    copy: bool = False,
) -> AnnData | None:
    """Match gene programmes to the genes of the data, for masks and for reading a model.

    Names are matched without regard to case, on both sides, and Ensembl ids without their version.

    Parameters
    ----------
    adata
        Data with gene names.
    programs
        A GMT file (a programme per line: name, description, genes, separated by tabs), a dict of
        genes by name of programme, or a table: with the columns ``program`` and ``gene``, or one
        boolean column per programme and genes as index.
    gene_names
        Column of ``adata.var`` with the names that the programmes use; ``adata.var_names`` by
        default.
    min_genes
        Genes of a programme that must be in the data; programmes with fewer are left out.
    min_fraction
        Share of a programme's genes that must be in the data.
    min_programs
        Programmes that must be left; by default 5 % of them, and at least 2 where there are more.
    key_added
        Where the result goes in ``adata.varm`` and ``adata.uns``.
    copy
        Leave `adata` as it is and return a copy with the result.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.varm[key_added]`` : :class:`scipy.sparse.csr_matrix` (bool)
            Which gene is in which programme, shape ``(n_genes, n_programs)``.
        ``adata.uns[key_added]`` : :class:`dict`
            ``names`` of the programmes, ``size`` (genes of each) and ``found`` (of these in the
            data), ``left_out`` (names of the programmes that are not used), ``fraction_used`` (of the
            programmes), ``fraction_found`` (of their genes, in the data), ``fraction_covered`` (of the
            genes of the data, by programmes that are used), and the parameters.

    Raises
    ------
    ValueError
        If too few programmes are left, or the file or table is not as described.
    FileNotFoundError
        If there is no such file.
    KeyError
        If there is no column `gene_names`.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> programs = {"T cells": ["CD3D", "CD3E", "IL7R"], "B cells": ["CD79A", "CD79B", "MS4A1"]}
    >>> scssl.pp.gene_programs(adata, programs, min_genes=2)
    >>> adata.varm["gene_programs"].shape
    (765, 2)
    """
    _check(adata, key_added, min_genes, min_fraction, "min_genes", min_programs)
    sets = read_sets(programs)
    index = gene_index(adata, gene_names)
    found = {name: matches(genes, index) for name, genes in sets.genes.items()}
    kept = [
        name
        for name, genes in sets.genes.items()
        if len(found[name]) >= min_genes and len(found[name]) >= min_fraction * len(genes)
    ]
    return _write(
        adata,
        sets,
        kept,
        found,
        key_added,
        copy,
        min_programs,
        params={
            "source": sets.source,
            "gene_names": gene_names or "",
            "min_genes": min_genes,
            "min_fraction": min_fraction,
        },
    )


def tf_targets(
    adata: AnnData,
    targets: str | Path | Mapping[str, Iterable[str]] | pd.DataFrame,
    *,
    tfs: str | Path | Sequence[str] | None = None,
    gene_names: str | None = None,
    min_targets: int = 10,
    min_fraction: float = 0.9,
    min_programs: int | None = None,
    key_added: str = "tf_targets",
    copy: bool = False,
) -> AnnData | None:
    """Match the targets of transcription factors to the genes of the data, for ``"gp_to_tf"``.

    A factor is used if it is measured itself and enough of its targets are. Several sets of one
    factor are joined. The factor is never a target of itself.

    Parameters
    ----------
    adata
        Data with gene names.
    targets
        A table with the columns ``tf`` and ``gene``, a dict of target genes by factor, or a GMT file
        whose sets are called after the factor up to the first underscore (``GATA1_01``), as the sets
        C3 TFT of MSigDB are.
    tfs
        Transcription factors to use: a list, or a file with one name per line. All by default.
    gene_names
        Column of ``adata.var`` with the names that the table uses; ``adata.var_names`` by default.
    min_targets
        Targets that must be in the data, 10 as in :cite:p:`Richter2025`.
    min_fraction
        Share of the targets that must be in the data, 0.9 as in :cite:p:`Richter2025`.
    min_programs
        Factors that must be left; by default 5 % of those asked for, and at least 2 where there are
        more.
    key_added
        Where the result goes in ``adata.varm`` and ``adata.uns``.
    copy
        Leave `adata` as it is and return a copy with the result.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.varm[key_added]`` : :class:`scipy.sparse.csr_matrix` (bool)
            Which gene is a target of which factor, shape ``(n_genes, n_factors)``.
        ``adata.uns[key_added]`` : :class:`dict`
            As :func:`gene_programs` writes it, and ``targets``: the name in ``adata.var_names`` of
            each factor.

    Raises
    ------
    ValueError
        If too few factors are left, or the file or table is not as described.
    FileNotFoundError
        If there is no such file.
    KeyError
        If there is no column `gene_names`.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> targets = {"SPI1": ["LYZ", "CST3", "FCN1"], "GATA3": ["IL7R", "CD3D", "CD3E"]}
    >>> scssl.pp.tf_targets(adata, targets, min_targets=2, min_fraction=0.5)
    >>> list(adata.uns["tf_targets"]["targets"])
    ['SPI1', 'GATA3']
    """
    _check(adata, key_added, min_targets, min_fraction, "min_targets", min_programs)
    sets = read_sets(targets, factors=True)
    index = gene_index(adata, gene_names)
    if tfs is not None:
        sets = _listed(sets, read_names(tfs))
    found, kept = {}, []
    for name, genes in sets.genes.items():
        own = matches([name], index)
        found[name] = np.setdiff1d(matches(genes, index), own)
        # Ensembl ids can give one symbol twice; a factor has to be one gene.
        if len(own) == 1 and len(found[name]) >= max(1, min_targets):
            others = len({gene.casefold() for gene in genes} - {name.casefold()})
            if len(found[name]) >= min_fraction * others:
                kept.append(name)
    factors = [adata.var_names[matches([name], index)[0]] for name in kept]
    return _write(
        adata,
        sets,
        kept,
        found,
        key_added,
        copy,
        min_programs,
        params={
            "source": sets.source,
            "gene_names": gene_names or "",
            "min_targets": min_targets,
            "min_fraction": min_fraction,
        },
        targets=np.array(factors, dtype=object),
    )


def _listed(sets: Sets, names: list[str]) -> Sets:
    """The sets of these factors only."""
    wanted = {name.casefold() for name in names}
    genes = {name: one for name, one in sets.genes.items() if name.casefold() in wanted}
    if not genes:
        raise ValueError(
            f"None of the {len(names)} names in `tfs` ({', '.join(map(repr, names[:3]))}) is a factor of "
            f"`targets`, which has {', '.join(map(repr, list(sets.genes)[:3]))}. Name factors of it, or "
            "leave `tfs` out to use all."
        )
    return Sets(genes, sets.source)


def _check(adata: Any, key: Any, least: Any, fraction: Any, name: str, min_programs: Any) -> None:
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TypeError(f"`adata` must be an AnnData, found {type(adata).__name__}.")
    if not isinstance(key, str) or not key:
        raise TypeError(f"`key_added` must be a string that is not empty, found {key!r}.")
    for what, value in ((name, least), ("min_programs", min_programs)):
        if what == "min_programs" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"`{what}` must be an integer of at least 1, found {value!r}.")
    if not 0 <= fraction <= 1:
        raise ValueError(f"`min_fraction` must be in [0, 1], found {fraction!r}.")


def _write(
    adata: AnnData,
    sets: Sets,
    kept: list[str],
    found: Mapping[str, np.ndarray],
    key: str,
    copy: bool,
    min_programs: int | None,
    *,
    params: dict[str, Any],
    targets: np.ndarray | None = None,
) -> AnnData | None:
    from scipy import sparse

    n_genes = sum(len(genes) for genes in sets.genes.values())
    n_found = sum(len(found[name]) for name in sets.genes)
    what = "transcription factors" if targets is not None else "gene programmes"
    n_sets = len(sets.genes)
    least = max(min(2, n_sets), -(-n_sets // 20)) if min_programs is None else min_programs
    if len(kept) < max(least, 1):
        first = next(iter(sets.genes.values()), [])
        limits = ", ".join(f"{name}={value}" for name, value in params.items() if "min" in name)
        few = f"Only {len(kept):,}" if kept else "None"
        enough = "" if not kept else f" If these are enough: min_programs={len(kept)}."
        raise ValueError(
            f"{few} of {n_sets:,} {what} {'are' if len(kept) > 1 else 'is'} left with {limits}: {n_found:,} of their "
            f"{n_genes:,} genes are in the data. The data have genes like "
            f"{', '.join(map(str, adata.var_names[:3]))}, the programmes like "
            f"{', '.join(map(str, list(first)[:3]))}. If adata.var has a column with names of the other "
            f'kind: gene_names="...".{enough}'
        )
    _LOGGER.info(
        "%d of %d %s used; %.0f %% of their genes are in the data.",
        len(kept),
        len(sets.genes),
        what,
        100 * n_found / max(n_genes, 1),
    )
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    rows = np.concatenate([found[name] for name in kept])
    covered, matched = len(np.unique(rows)) / adata.n_vars, n_found / max(n_genes, 1)
    if matched < _FEW_FOUND:
        warn(
            f"Of the genes of {what} only {100 * matched:.0f} % are in the data, so they stand for little of "
            "what they are called after. Use data with more genes, or leave out those of which most genes "
            "are missing: min_fraction=0.5"
        )
    columns = np.repeat(np.arange(len(kept)), [len(found[name]) for name in kept])
    adata.varm[key] = sparse.csr_matrix(
        (np.ones(len(rows), dtype=bool), (rows, columns)), shape=(adata.n_vars, len(kept))
    )
    used = set(kept)
    adata.uns[key] = {
        "names": np.array(kept, dtype=object),
        "size": np.array([len(sets.genes[name]) for name in kept]),
        "found": np.array([len(found[name]) for name in kept]),
        "left_out": np.array([name for name in sets.genes if name not in used], dtype=object),
        "fraction_used": len(kept) / n_sets,
        "fraction_found": matched,
        "fraction_covered": covered,
        "params": {**params, "min_programs": least},
    }
    if targets is not None:
        adata.uns[key]["targets"] = targets
    return adata if copy else None
