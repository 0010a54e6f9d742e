"""Genes of one species under the names of their one-to-one orthologs in another."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from scssl._checks import check_choice, check_destination, check_key, some
from scssl._errors import GeneMismatchError, warn
from scssl.data.genes import bare_id, detect_id_type

from ._gene_names import check_changeable, names_of, rename
from ._ortholog_tables import (
    OrthologTable,
    how_to_get,
    read_orthologs,
    species_key,
    species_of_ids,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")

#: What can be said of a gene, in the order of reports.
STATUSES = (
    "mapped",
    "missing",
    "no_ortholog",
    "unnamed",
    "one_to_many",
    "many_to_one",
    "many_to_many",
    "ambiguous",
)
# Share of the genes that are mapped below which there is a warning.
_FEW_MAPPED = 0.2


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
    import pandas as pd

    check_destination(adata, key_added, copy=copy)
    check_changeable(adata, copy=copy, subset=unmapped == "drop")
    check_key(from_species, "from_species")
    check_key(to_species, "to_species")
    if species_key(from_species) == species_key(to_species):
        raise ValueError(f"`from_species` and `to_species` are both {species_key(from_species)!r}.")
    check_choice("on", on, ("symbol", "ensembl", None))
    check_choice("unmapped", unmapped, ("drop", "keep"))
    names = names_of(adata, gene_names)
    orthologs = read_orthologs(table, from_species, to_species)
    if on is None:
        on = "ensembl" if detect_id_type(names) == "ensembl" else "symbol"
    species = (from_species, to_species)
    check_kind(orthologs, names, on, species)
    found = resolve(orthologs, names, on, species)
    check_mapped(found, names, orthologs, on, species)
    if unmapped == "keep":
        keep_names_apart(found, adata.var_names)

    mapped = found.status == "mapped"
    counts = {status: int((found.status == status).sum()) for status in STATUSES}
    report = pd.DataFrame(
        {
            "gene": names.astype(object),
            "ortholog": np.where(mapped, found.ortholog, ""),
            "status": found.status,
            "note": found.note,
        }
    )
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


@dataclass
class Resolved:
    """What is known of each gene of the data; changed while it is found out."""

    status: np.ndarray
    note: np.ndarray
    ortholog: np.ndarray


def resolve(
    orthologs: OrthologTable,
    names: np.ndarray,
    on: Literal["symbol", "ensembl"],
    species: tuple[str, str],
) -> Resolved:
    """Which gene of one species is which of the other, and why a gene is none."""
    kind = "id" if on == "ensembl" else "symbol"
    genes_of_name: dict[str, set[str]] = defaultdict(set)
    partners: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    partner_names: dict[str, set[str]] = defaultdict(set)
    own_names: dict[str, str] = {}
    not_alone: dict[tuple[str, str], str] = {}
    columns = (f"from_{kind}", "from_id", "from_symbol", f"to_{kind}", "to_id", "to_symbol", "type")
    for name, own_id, own_symbol, other_name, other_id, other_symbol, type_ in zip(
        *(orthologs.pairs[column] for column in columns), strict=True
    ):
        # A gene is its id where there is one: two genes may have one symbol.
        own, other = own_id or own_symbol, other_id or other_symbol
        if name:
            genes_of_name[name].add(own)
            own_names[own] = name
        if own and other:
            partners[own].add(other)
            sources[other].add(own)
            if other_name:
                partner_names[other].add(other_name)
            if type_ and "one2one" not in type_:
                not_alone[own, other] = type_
    times = Counter(name for found in partner_names.values() for name in found)
    wanted = [bare_id(name) for name in names] if on == "ensembl" else list(names)
    in_data = Counter(wanted)

    def shown(genes: Iterable[str]) -> str:
        return some(sorted(genes))

    def look_up(name: str) -> tuple[str, str, str]:
        """Status, note and ortholog of a gene."""
        if name and in_data[name] > 1:
            return "ambiguous", f"{in_data[name]} genes of the data have this name", ""
        genes = genes_of_name.get(name)
        if not genes:
            return "missing", "", ""
        # Alternative assemblies of a gene have its symbol, but no orthologs.
        genes = genes & partners.keys()
        if not genes:
            return "no_ortholog", "", ""
        if len(genes) > 1:
            return "ambiguous", f"several genes in the table: {shown(genes)}", ""
        (gene,) = genes
        others = partners[gene]
        rivals = {source for other in others for source in sources[other]} - {gene}
        theirs = shown({min(partner_names.get(other, {other})) for other in others})
        if len(others) > 1:
            return "many_to_many" if rivals else "one_to_many", f"{species[1]}: {theirs}", ""
        (other,) = others
        if rivals:
            both = shown({own_names.get(rival, rival) for rival in rivals | {gene}})
            return "many_to_one", f"{species[1]}: {theirs}; {species[0]}: {both}", ""
        type_ = not_alone.get((gene, other), "")
        if type_:
            status = "many_to_many" if "many2many" in type_ else "one_to_many"
            return status, f"{type_} by the table", ""
        if other not in partner_names:
            return "unnamed", f"{other} in the table", ""
        if len(partner_names[other]) > 1 or times[min(partner_names[other])] > 1:
            return "ambiguous", f"several genes of {species[1]} or names: {theirs}", ""
        return "mapped", "", min(partner_names[other])

    found = np.array([look_up(name) for name in wanted], dtype=object).reshape(-1, 3)
    return Resolved(*found.T)


def keep_names_apart(found: Resolved, var_names: pd.Index) -> None:
    """Take back mappings onto the name of a gene that keeps its own, until there are none."""
    while True:
        mapped = found.status == "mapped"
        kept = set(var_names[~mapped])
        clash = mapped & np.isin(found.ortholog.astype(str), np.array(sorted(kept), dtype=str))
        if not clash.any():
            return
        found.status[clash] = "ambiguous"
        found.note[clash] = found.ortholog[clash] + " is the name of a gene that is kept"


def check_kind(
    orthologs: OrthologTable,
    names: np.ndarray,
    on: Literal["symbol", "ensembl"],
    species: tuple[str, str],
) -> None:
    kind, what = ("id", "Ensembl ids") if on == "ensembl" else ("symbol", "gene symbols")
    if kind not in orthologs.kinds:
        there = {"id": "Ensembl ids", "symbol": "gene symbols"}
        known = " and ".join(there[one] for one in sorted(orthologs.kinds)) or "no names"
        raise GeneMismatchError(
            f"The genes are looked up as {what}, but the table ({orthologs.table.source}) has {known} "
            f"of both species. If adata.var has a column with these, name it as `gene_names`. "
            f"{how_to_get(*species)}"
        )
    own = species_of_ids(names)
    if on == "ensembl" and own is not None and own == species_key(species[1]):
        raise GeneMismatchError(
            f"The genes are Ensembl ids of {own} already, such as {names[0]}: is `from_species` "
            f"({species[0]}) the species of the data?"
        )


def check_mapped(
    found: Resolved,
    names: np.ndarray,
    orthologs: OrthologTable,
    on: Literal["symbol", "ensembl"],
    species: tuple[str, str],
) -> None:
    """Refuse names that are those of the other species, or none of the table; warn of few."""
    kind = "id" if on == "ensembl" else "symbol"
    own, other = (set(orthologs.pairs[f"{side}_{kind}"]) - {""} for side in ("from", "to"))
    wanted = {bare_id(name) for name in names if name}
    n_own, n_other = len(wanted & own), len(wanted & other)
    n_mapped = int((found.status == "mapped").sum())
    if n_mapped >= _FEW_MAPPED * len(names):
        return
    if n_other > 2 * n_own:
        raise GeneMismatchError(
            f"The genes are those of {species[1]} already: {n_other:,} of {len(wanted):,} names are "
            f"of {species[1]} in the table, {n_own:,} of {species[0]}. Is `from_species` the species "
            "of the data?"
        )
    hint = ""
    n_cases = len({name.casefold() for name in wanted} & {name.casefold() for name in own})
    if n_cases > 2 * n_own:
        hint = (
            f" Without regard to case {n_cases:,} would be found: the names of the data seem to have "
            f"been changed to upper or lower case. Go back to the names of {species[0]}."
        )
    msg = (
        f"{n_mapped:,} of the {len(names):,} genes have a one-to-one ortholog in the table "
        f"({orthologs.table.source}), and {n_own:,} are in it at all.\n"
        f"  genes of the data:                 {some(sorted(wanted - own) or sorted(wanted))}\n"
        f"  genes of {species[0]} in the table: {some(sorted(own))}\n"
        f"Is it the right table, and is `from_species` the species of the data?{hint}"
    )
    if not n_mapped:
        raise GeneMismatchError(msg)
    warn(msg)


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
