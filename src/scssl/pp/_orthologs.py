"""Genes of one species under the names of their one-to-one orthologs in another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from scssl._checks import check_choice, check_destination, check_key
from scssl.data.genes import (
    keep_names_apart,
    map_names,
    report_of,
    species_key,
)

from ._gene_names import check_changeable, names_of, rename

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")


def map_orthologs(
    adata: AnnData,
    table: str | Path | pd.DataFrame | None = None,
    *,
    from_species: str,
    to_species: str,
    on: Literal["symbol", "ensembl"] | None = None,
    gene_names: str | None = None,
    unmapped: Literal["drop", "keep"] = "drop",
    key_added: str = "orthologs",
    copy: bool = False,
) -> AnnData | None:
    """Name genes after their one-to-one orthologs in another species.

    A gene is mapped if the table gives it one ortholog, and gives that ortholog no other gene of
    `from_species`. Whether the data has the other genes makes no difference, so that two data sets
    are mapped alike. Names are compared as they are, in upper and lower case; Ensembl ids without
    their versions.

    The table is a file (tabs or commas, perhaps compressed) or a data frame, in one of these forms:

    * an Ensembl BioMart export: ``Gene stable ID``, ``Gene name``, ``Human gene stable ID``, ``Human
      gene name``, ``Human homology type``, or the same by the names of the attributes
      (``hsapiens_homolog_ensembl_gene``, ...). Columns without a species are those of the other one.
    * the homology report of MGI, ``HOM_MouseHumanSequence.rpt``: ``DB Class Key``, ``Common Organism
      Name``, ``Symbol``. Genes of one class are orthologs.
    * columns ``<species>__gene_name`` and ``<species>__gene_id``, or one column per species that is
      called after it. Genes of one row are orthologs.

    Where neither column nor file says otherwise, a table of which many-to-many pairs were taken out
    is believed: pairs of a gene that was taken out cannot be seen. BioMart's homology type can.

    Parameters
    ----------
    adata
        Annotated cells of one species. Rows, layers and all that belongs to genes follow; `adata.raw`
        stays as it is, with the names of `from_species`.
    table
        Orthologs, as above. None comes with the package: without one, the error says where to get it.
    from_species
        Species of the data, as the table calls it, or as ``"human"``, ``"mouse"`` or by its Latin name.
        Names are compared as a whole: ``"mouse"`` is not the mouse lemur.
    to_species
        Species to map to.
    on
        Kind of names on both sides; by default that of the names of the data.
    gene_names
        Column of `adata.var` with the names to look up; `adata.var_names` by default.
    unmapped
        What becomes of genes without a one-to-one ortholog: they are taken out (``"drop"``), or they
        keep their names (``"keep"``). A gene whose new name is that of a gene that is kept is not
        renamed.
    key_added
        Entry of `adata.uns` for the report.
    copy
        Leave `adata` as it is and return a copy with the result.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.var_names``
            Names in `to_species`.
        ``adata.var[f"{from_species}_gene"]``
            Names before.
        ``adata.uns[key_added]`` : :class:`dict`
            ``genes``, a data frame with a row for every gene of the data as it was: ``gene``,
            ``ortholog`` (empty if it is not mapped), ``status`` and ``note``; ``counts`` of each
            status; ``params``, with the digest of the file.

        The status is ``mapped``, ``missing`` (not in the table), ``no_ortholog`` (in the table, without
        a partner), ``unnamed`` (the ortholog has no name of this kind), ``one_to_many``,
        ``many_to_one``, ``many_to_many`` or ``ambiguous`` (a name is that of several genes, in the data
        or in the table).

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says how to get one, and what to type then.
    TypeError
        If there is no `table`, with the same message.
    GeneMismatchError
        If the table does not have both species or their names of this kind, no gene is mapped, or the
        genes are those of `to_species`.
    KeyError
        If there is no column `gene_names`.
    ValueError
        If an argument is out of range, or `adata` is a view or backed and would have to be changed.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scssl
    >>> from anndata import AnnData
    >>> genes = pd.DataFrame(index=["Qars", "Zfp518b", "Cd3d", "Gm123"])
    >>> adata = AnnData(np.ones((3, 4), dtype=np.float32), var=genes)
    >>> table = pd.DataFrame(
    ...     {"mouse": ["Qars", "Zfp518b", "Cd3d"], "human": ["QARS1", "ZNF518B", "CD3D"]}
    ... )
    >>> scssl.pp.map_orthologs(adata, table, from_species="mouse", to_species="human")
    >>> list(adata.var_names)
    ['QARS1', 'ZNF518B', 'CD3D']
    >>> adata.uns["orthologs"]["genes"][["gene", "status"]].iloc[-1].tolist()
    ['Gm123', 'missing']
    """
    check_destination(adata, key_added, copy=copy)
    check_changeable(adata, copy=copy, subset=unmapped == "drop")
    check_key(from_species, "from_species")
    check_key(to_species, "to_species")
    if species_key(from_species) == species_key(to_species):
        raise ValueError(f"`from_species` and `to_species` are both {species_key(from_species)!r}.")
    check_choice("on", on, ("symbol", "ensembl", None))
    check_choice("unmapped", unmapped, ("drop", "keep"))
    names = names_of(adata, gene_names)
    species = (from_species, to_species)
    found, orthologs, on = map_names(names, table, species, on)
    if unmapped == "keep":
        keep_names_apart(found, adata.var_names)

    mapped = found.status == "mapped"
    counts, report = report_of(found, names)
    old_names = adata.var_names.to_numpy(dtype=object)
    if unmapped == "drop" and not mapped.all():
        if copy:
            adata = adata[:, mapped].to_memory() if adata.isbacked else adata[:, mapped].copy()
        else:
            adata._inplace_subset_var(mapped)
        old_names, new_names = old_names[mapped], found.ortholog[mapped]
    else:
        if copy:
            adata = adata.to_memory() if adata.isbacked else adata.copy()
        new_names = np.where(mapped, found.ortholog, old_names)
    column = f"{from_species}_gene"
    rename(adata, new_names, column, old_names)
    adata.uns[key_added] = {
        "genes": report,
        "counts": counts,
        "params": {
            "from_species": from_species,
            "to_species": to_species,
            "on": on,
            "gene_names": gene_names or "",
            "unmapped": unmapped,
            "table": orthologs.table.source,
            "table_sha256": orthologs.table.sha256,
            "table_format": orthologs.form,
        },
    }
    _tell(counts, unmapped, adata.raw is not None, species)
    return adata if copy else None


def _tell(counts: dict[str, int], unmapped: str, has_raw: bool, species: tuple[str, str]) -> None:
    n_mapped, n = counts["mapped"], sum(counts.values())
    others = ", ".join(
        f"{c:,} {status}" for status, c in counts.items() if c and status != "mapped"
    )
    fate = "were taken out" if unmapped == "drop" else "keep their names"
    _LOGGER.info(
        "%d of %d genes of %s mapped to %s%s.%s",
        n_mapped,
        n,
        *species,
        f"; the others {fate} ({others})" if others else "",
        f" adata.raw keeps the names of {species[0]}." if has_raw else "",
    )
