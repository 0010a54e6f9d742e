"""Which gene of one species is which of the other, and why a gene is none."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scssl._errors import GeneMismatchError, warn
from scssl.data.genes import bare_id, some_names

from ._ortholog_tables import OrthologTable, how_to_get, species_key, species_of_ids

if TYPE_CHECKING:
    import pandas as pd

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

    ortholog: np.ndarray
    status: np.ndarray
    note: np.ndarray

    def refuse(self, row: int, status: str, note: str) -> None:
        self.status[row], self.note[row] = status, note


def resolve(
    orthologs: OrthologTable,
    names: np.ndarray,
    on: Literal["symbol", "ensembl"],
    species: tuple[str, str],
) -> Resolved:
    kind = "id" if on == "ensembl" else "symbol"
    pairs = orthologs.pairs
    genes_of_name: dict[str, set[str]] = defaultdict(set)
    partners: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    partner_names: dict[str, set[str]] = defaultdict(set)
    own_names: dict[str, str] = {}
    not_alone: dict[tuple[str, str], str] = {}
    for name, own_id, own_symbol, other_name, other_id, other_symbol, type_ in zip(
        *(pairs[c] for c in (f"from_{kind}", "from_id", "from_symbol", f"to_{kind}", "to_id", "to_symbol", "type")),
        strict=True,
    ):  # fmt: skip
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
    n = len(names)
    found = Resolved(*(np.full(n, "", dtype=object) for _ in range(3)))
    for row, name in enumerate(wanted):
        if name and in_data[name] > 1:
            found.refuse(row, "ambiguous", f"{in_data[name]} genes of the data have this name")
            continue
        genes = genes_of_name.get(name)
        if not genes:
            found.refuse(row, "missing", "")
            continue
        # Alternative assemblies of a gene have its symbol, but no orthologs.
        genes = {gene for gene in genes if gene in partners}
        if not genes:
            found.refuse(row, "no_ortholog", "")
            continue
        if len(genes) > 1:
            found.refuse(row, "ambiguous", f"several genes in the table: {_some(genes)}")
            continue
        gene = genes.pop()
        others = partners[gene]
        rivals = {source for other in others for source in sources[other]} - {gene}
        shown = {next(iter(sorted(partner_names.get(other, {other})))) for other in others}
        if len(others) > 1:
            status = "many_to_many" if rivals else "one_to_many"
            found.refuse(row, status, f"{species[1]}: {_some(shown)}")
            continue
        other = next(iter(others))
        if rivals:
            both = {own_names.get(rival, rival) for rival in rivals | {gene}}
            found.refuse(
                row, "many_to_one", f"{species[1]}: {_some(shown)}; {species[0]}: {_some(both)}"
            )
        elif (gene, other) in not_alone:
            status = "many_to_many" if "many2many" in not_alone[gene, other] else "one_to_many"
            found.refuse(row, status, f"{not_alone[gene, other]} by the table")
        elif other not in partner_names:
            found.refuse(row, "unnamed", f"{other} in the table")
        elif len(partner_names[other]) > 1 or times[next(iter(partner_names[other]))] > 1:
            found.refuse(
                row, "ambiguous", f"several genes of {species[1]} or names: {_some(shown)}"
            )
        else:
            found.refuse(row, "mapped", "")
            found.ortholog[row] = next(iter(partner_names[other]))
    return found


def _some(names: set[str]) -> str:
    return some_names(sorted(names))


def keep_names_apart(found: Resolved, var_names: pd.Index) -> None:
    """Take back mappings onto the name of a gene that keeps its own, until there are none."""
    while True:
        mapped = found.status == "mapped"
        kept = set(var_names[~mapped])
        clash = mapped & np.isin(found.ortholog.astype(str), np.array(sorted(kept), dtype=str))
        if not clash.any():
            return
        for row in np.flatnonzero(clash).tolist():
            note = f"{found.ortholog[row]} is the name of a gene that is kept"
            found.refuse(row, "ambiguous", note)


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
            f"of both species. If adata.var has a column with these: "
            f'gene_names="<that column>". {how_to_get(*species)}'
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
        f"  genes of the data:                 {some_names(sorted(wanted - own) or sorted(wanted))}\n"
        f"  genes of {species[0]} in the table: {some_names(sorted(own))}\n"
        f"Is it the right table, and is `from_species` the species of the data?{hint}"
    )
    if not n_mapped:
        raise GeneMismatchError(msg)
    warn(msg)
