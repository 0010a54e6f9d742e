"""Gene programmes from files, dicts and tables, written beside the genes of an AnnData."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import check_adata, check_destination, check_number, check_whole, some
from scssl._errors import warn
from scssl._io import as_path
from scssl.data.genes import bare_id

from ._gene_names import names_of

if TYPE_CHECKING:
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
    limits = {"min_genes": min_genes, "min_fraction": min_fraction}
    _check(adata, key_added, limits, min_programs, copy=copy)
    sets, source = _read_sets(programs, "program")
    index = _gene_index(adata, gene_names)
    found = {name: _matches(genes, index) for name, genes in sets.items()}
    kept = [
        name
        for name, genes in sets.items()
        if len(found[name]) >= min_genes and len(found[name]) >= min_fraction * len(genes)
    ]
    params = {"source": source, "gene_names": gene_names or "", **limits}
    return _write(adata, key_added, sets, kept, found, params, min_programs, copy=copy)


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
    limits = {"min_targets": min_targets, "min_fraction": min_fraction}
    _check(adata, key_added, limits, min_programs, copy=copy)
    sets, source = _read_sets(targets, "tf")
    index = _gene_index(adata, gene_names)
    if tfs is not None:
        sets = _listed(sets, _read_names(tfs))
    found, kept = {}, []
    for name, genes in sets.items():
        own = _matches([name], index)
        found[name] = np.setdiff1d(_matches(genes, index), own)
        # Ensembl ids can give one symbol twice; a factor has to be one gene.
        if len(own) == 1 and len(found[name]) >= max(1, min_targets):
            others = len({gene.casefold() for gene in genes} - {name.casefold()})
            if len(found[name]) >= min_fraction * others:
                kept.append(name)
    factors = [adata.var_names[_matches([name], index)[0]] for name in kept]
    params = {"source": source, "gene_names": gene_names or "", **limits}
    more = {"targets": np.array(factors, dtype=object)}
    return _write(adata, key_added, sets, kept, found, params, min_programs, copy=copy, more=more)


def _listed(sets: dict[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    """The sets of these factors only."""
    wanted = {name.casefold() for name in names}
    genes = {name: one for name, one in sets.items() if name.casefold() in wanted}
    if not genes:
        raise ValueError(
            f"None of the {len(names)} names in `tfs` ({some(names, 3)}) is a factor of `targets`, "
            f"which has {some(sets, 3)}. Name factors of it, or leave `tfs` out to use all."
        )
    return genes


def _check(adata: Any, key: Any, limits: dict[str, Any], min_programs: Any, *, copy: bool) -> None:
    check_adata(adata)
    check_destination(adata, key, copy=copy)
    for name, value in limits.items():
        if name == "min_fraction":
            check_number(name, value, "[0, 1]")
        else:
            check_whole(name, value)
    check_whole("min_programs", min_programs, none=True)


def _write(
    adata: AnnData,
    key: str,
    sets: Mapping[str, list[str]],
    kept: list[str],
    found: Mapping[str, np.ndarray],
    params: dict[str, Any],
    min_programs: int | None,
    *,
    copy: bool,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> AnnData | None:
    """Write the sets that are kept, and what is known of them, or raise where these are too few."""
    from scipy import sparse

    what = "transcription factors" if more else "gene programmes"
    n_genes, n_found = (sum(map(len, one.values())) for one in (sets, found))
    least = max(min(2, len(sets)), -(-len(sets) // 20)) if min_programs is None else min_programs
    if len(kept) < max(least, 1):
        limits = ", ".join(f"{name}={value}" for name, value in params.items() if "min" in name)
        few = f"Only {len(kept):,}" if kept else "None"
        enough = f" If these are enough: `min_programs={len(kept)}`." if kept else ""
        other = _fitting_column(adata, sets, params["gene_names"] or None)
        raise ValueError(
            f"{few} of {len(sets):,} {what} {'are' if len(kept) > 1 else 'is'} left with {limits}: "
            f"{n_found:,} of their {n_genes:,} genes are in the data. The data have genes like "
            f"{some(adata.var_names, 3)}, the programmes like "
            f"{some(next(iter(sets.values()), []), 3)}.{other}{enough}"
        )
    # Those that were to be left out where genes are missing say nothing.
    share = params["min_fraction"]
    asked = [name for name in sets if len(found[name]) >= share * len(sets[name])]
    n_genes, n_found = (sum(len(one[name]) for name in asked) for one in (sets, found))
    matched = n_found / max(n_genes, 1)
    _LOGGER.info(
        "%d of %d %s used; %.0f %% of their genes are in the data.",
        len(kept),
        len(sets),
        what,
        100 * matched,
    )
    if matched < _FEW_FOUND:
        warn(
            f"Of the genes of {what} only {100 * matched:.0f} % are in the data. Use data with more genes, or "
            "leave out those of which most genes are missing: `min_fraction=0.5`."
        )
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    rows = np.concatenate([found[name] for name in kept])
    columns = np.repeat(np.arange(len(kept)), [len(found[name]) for name in kept])
    adata.varm[key] = sparse.csr_matrix(
        (np.ones(len(rows), dtype=bool), (rows, columns)), shape=(adata.n_vars, len(kept))
    )
    left_out = [name for name in sets if name not in set(kept)]
    adata.uns[key] = {
        "names": np.array(kept, dtype=object),
        "size": np.array([len(sets[name]) for name in kept]),
        "found": np.array([len(found[name]) for name in kept]),
        "left_out": np.array(left_out, dtype=object),
        "fraction_used": len(kept) / len(sets),
        "fraction_found": matched,
        "fraction_covered": len(np.unique(rows)) / adata.n_vars,
        "params": {**params, "min_programs": least},
        **more,
    }
    return adata if copy else None


def _read_sets(source: Any, column: str) -> tuple[dict[str, list[str]], str]:
    """Sets of genes by name from a GMT file, a dict or a table, and where they are from.

    `column` of a table has their names: ``"program"``, or ``"tf"`` for targets of transcription factors,
    whose names in a GMT file end at the first underscore and of which sets of one name are joined.
    """
    if isinstance(source, pd.DataFrame):
        return _of_table(source, column), "table"
    if isinstance(source, Mapping):
        for name, genes in source.items():
            if isinstance(genes, str):
                raise TypeError(f"The genes of {name!r} must be a list, found {genes!r}.")
        return {str(name): _unique(genes) for name, genes in source.items()}, "dict"
    if not isinstance(source, (str, Path)):
        found = type(source).__name__
        raise TypeError(f"Gene sets are a GMT file, a dict or a DataFrame, found {found}.")
    path = as_path(source)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        table = pd.read_csv(path, sep="," if path.suffix.lower() == ".csv" else "\t")
        return _of_table(table, column), path.name
    return _of_gmt(path, factors=column == "tf"), path.name


def _read_names(source: str | Path | Sequence[str]) -> list[str]:
    """Names from a list, or from a file with one per line."""
    if isinstance(source, (str, Path)):
        path = as_path(source)
        if not path.is_file():
            one = f"For one name pass a list: `tfs=[{str(source)!r}]`"
            raise FileNotFoundError(f"There is no file {path}. {one}.")
        source = path.read_text(encoding="utf-8").split("\n")
    return _unique(source)


def _gene_index(adata: AnnData, column: str | None) -> dict[str, list[int]]:
    """Positions of the genes of the data by name, without case and Ensembl version."""
    index: dict[str, list[int]] = {}
    for position, name in enumerate(names_of(adata, column)):
        if name:
            index.setdefault(_key(name), []).append(position)
    return index


def _fitting_column(adata: AnnData, sets: Mapping[str, list[str]], column: str | None) -> str:
    """What to pass where another column of ``adata.var`` has more of the genes than `column`."""
    wanted = {_key(gene) for genes in sets.values() for gene in genes}
    found = {
        name: len(wanted & set(_gene_index(adata, name))) for name in (column, *map(str, adata.var))
    }
    best = max(found, key=lambda name: found[name])
    return f" adata.var[{best!r}] has them: `gene_names={best!r}`." if best != column else ""


def _matches(genes: Iterable[str], index: Mapping[str, list[int]]) -> np.ndarray:
    """Positions of genes in the data, ascending, each once."""
    found = {position for gene in genes for position in index.get(_key(gene), ())}
    return np.array(sorted(found), dtype=np.int64)


def _key(name: str) -> str:
    return bare_id(name.strip().upper()).casefold()


def _unique(names: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))


def _of_gmt(path: Path, *, factors: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        if len(rest) < 2:
            raise ValueError(
                f"{path}, line {number}, is not of a GMT file: it needs a name, a description and "
                f"genes, separated by tabs; found {line[:60]!r}."
            )
        name = name.strip().split("_")[0] if factors else name.strip()
        if name in found and not factors:
            raise ValueError(f"{path} has the set {name!r} twice, again in line {number}.")
        found[name] = _unique([*found.get(name, ()), *rest[1:]])
    return found


def _of_table(table: Any, name: str) -> dict[str, list[str]]:
    if {name, "gene"} <= set(table.columns):
        return {
            str(one): _unique(genes)
            for one, genes in table.dropna(subset=[name, "gene"]).groupby(name, sort=False)["gene"]
        }
    kinds = {str(kind) for kind in table.dtypes}
    if kinds == {"bool"}:
        return {str(one): _unique(table.index[table[one]]) for one in table}
    raise ValueError(
        f"The table needs the columns {name!r} and 'gene', or only boolean columns with genes as "
        f"index; it has {', '.join(f'{c} ({t})' for c, t in table.dtypes.head(5).items())}."
    )
