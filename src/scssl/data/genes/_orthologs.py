"""Which gene of one species is which of another, by a table of one-to-one orthologs."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scssl._checks import some
from scssl._errors import GeneMismatchError, warn

from ._kinds import bare_id, detect_id_type
from ._ortholog_tables import (
    OrthologTable,
    how_to_get,
    read_orthologs,
    species_key,
    species_of_ids,
    species_of_names,
)

if TYPE_CHECKING:
    import pandas as pd

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


@dataclass
class Resolved:
    """What is known of each gene of the data; changed while it is found out."""

    status: np.ndarray
    note: np.ndarray
    ortholog: np.ndarray


def map_names(
    names: np.ndarray,
    table: Any,
    species: tuple[str, str],
    on: Literal["symbol", "ensembl"] | None = None,
) -> tuple[Resolved, OrthologTable, Literal["symbol", "ensembl"]]:
    """Orthologs of genes by a table, and the kind of names; an error where the table cannot be the right one."""
    orthologs = read_orthologs(table, *species)
    if on is None:
        on = "ensembl" if detect_id_type(names) == "ensembl" else "symbol"
    check_kind(orthologs, names, on, species)
    found = resolve(orthologs, names, on, species)
    check_mapped(found, names, orthologs, on, species)
    return found, orthologs, on


def report_of(found: Resolved, names: np.ndarray) -> tuple[dict[str, int], pd.DataFrame]:
    """How many genes have each status, and a row for each gene."""
    import pandas as pd

    report = pd.DataFrame(
        {
            "gene": names.astype(object),
            "ortholog": np.where(found.status == "mapped", found.ortholog, ""),
            "status": found.status,
            "note": found.note,
        }
    )
    return {status: int((found.status == status).sum()) for status in STATUSES}, report


def translated(
    names: np.ndarray, table: Any, known: Iterable[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Genes of one species under the names by which a model knows those of another, and what was lost.

    The species are those of the table that have most of the names: of the data, and of the model. A gene that
    is not mapped gets a name that no model knows.

    Parameters
    ----------
    names
        Genes of the data.
    table
        Orthologs, as :func:`scssl.pp.map_orthologs` takes them.
    known
        Genes of the model.

    Returns
    -------
    The names, and ``from_species``, ``to_species``, ``counts`` of each status and ``genes``, a row for each.
    """
    of_species = species_of_names(table)
    here, there = ({bare_id(name) for name in part} for part in (names, known))

    def most(wanted: set[str], species: Iterable[str]) -> str:
        return max(species, key=lambda one: len(wanted & of_species[one]))

    own = most(here, of_species)
    other = most(there, [one for one in of_species if one != own])
    if len(there & of_species[own]) > len(there & of_species[other]):
        raise GeneMismatchError(
            f"Data and model both have genes of {own} in the table of orthologs: there is nothing to map. "
            "Leave it out: `orthologs=None`"
        )
    found, _, _ = map_names(names, table, (own, other))
    counts, report = report_of(found, names)
    mapped = found.status == "mapped"
    _LOGGER.info("%s of %s genes of %s mapped to %s.", counts["mapped"], len(names), own, other)
    new = np.array([f"{name} ({own})" for name in names], dtype=object)
    new[mapped] = found.ortholog[mapped]
    return new, {"from_species": own, "to_species": other, "counts": counts, "genes": report}


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
