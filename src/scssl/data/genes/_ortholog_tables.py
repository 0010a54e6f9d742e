"""Tables of orthologs of several formats, as pairs of genes of two species."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scssl._errors import GeneMismatchError

from ._kinds import ENSEMBL, bare_id, detect_id_type

if TYPE_CHECKING:
    import pandas as pd

    from scssl._io import NameTable

_MGI = "HOM_MouseHumanSequence.rpt"
_MGI_URL = f"https://www.informatics.jax.org/downloads/reports/{_MGI}"
_BIOMART = "https://www.ensembl.org/biomart/martview"

# Other names of a species in the supported tables. A species is never told by part of its name:
# "mouse" is not the mouse lemur.
_SPECIES = {
    "homo sapiens": "human",
    "hsapiens": "human",
    "mus musculus": "mouse",
    "mmusculus": "mouse",
    "mouse laboratory": "mouse",
    "rattus norvegicus": "rat",
    "rnorvegicus": "rat",
    "norway rat bn nhsdmcwi": "rat",
    "danio rerio": "zebrafish",
    "drerio": "zebrafish",
    "microcebus murinus": "mouse lemur",
    "mmurinus": "mouse lemur",
    "macaca mulatta": "macaque",
    "mmulatta": "macaque",
    "pan troglodytes": "chimpanzee",
    "ptroglodytes": "chimpanzee",
    "sus scrofa": "pig",
    "sscrofa": "pig",
}
# What Ensembl calls them: of the other names those without a space.
_ENSEMBL_NAMES = {key: name for name, key in _SPECIES.items() if " " not in name}
_SPECIES_OF_IDS = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSMICG": "mouse lemur",
    "ENSMMUG": "macaque",
    "ENSPTRG": "chimpanzee",
    "ENSSSCG": "pig",
}
# Columns by what they hold; the species is the group, absent in what BioMart says of its data set.
_COLUMNS = {
    "id": (
        r"(?:(.+) )?gene stable id",
        r"(.+)_homolog_ensembl_gene",
        r"ensembl_gene_id()",
        r"(.+)__gene_id",
        r"gene stable id version()",
    ),
    "symbol": (
        r"(?:(.+) )?gene name",
        r"(.+)_homolog_associated_gene_name",
        r"external_gene_name()",
        r"(.+)__gene_name",
    ),
    "type": (r"(.+) homology type", r"(.+)_homolog_orthology_type"),
}
_CLASSES = ("DB Class Key", "HomoloGene ID")
_ORGANISM, _SYMBOL = "Common Organism Name", "Symbol"


@dataclass(frozen=True)
class OrthologTable:
    """Pairs of genes; a gene without a partner is in a row of its own."""

    pairs: pd.DataFrame
    """Unique rows with the columns ``from_id``, ``from_symbol``, ``to_id``, ``to_symbol`` and
    ``type`` (of the homology), empty where something is not known."""
    kinds: frozenset[str]
    """Names that are known of both species: ``"id"``, ``"symbol"``."""
    form: str
    """``"MGI"``, ``"BioMart"`` or ``"columns"``."""
    table: NameTable


def read_orthologs(table: Any, from_species: str, to_species: str) -> OrthologTable:
    """Read a table of any of the formats, which must have both species and no ids of others."""
    help_ = how_to_get(from_species, to_species)
    if table is None:
        raise TypeError(f"There is no `table` of orthologs, and none may be shipped. {help_}")
    # Late: it imports torch.
    from scssl._io import read_table

    read = read_table(table, argument="table", how_to_get=help_)
    keys = (species_key(from_species), species_key(to_species))
    frame = read.frame
    classes = next((name for name in _CLASSES if name in frame), None)
    if classes is not None and {_ORGANISM, _SYMBOL} <= set(frame):
        form, pairs = "MGI", _of_classes(read, classes, keys, (from_species, to_species))
    else:
        form, pairs = _of_columns(read, keys, (from_species, to_species))
    pairs = pairs.drop_duplicates(ignore_index=True)
    for side in ("from_id", "to_id"):
        pairs[side] = [bare_id(name) for name in pairs[side]]
    for side, given in (("from", from_species), ("to", to_species)):
        found = species_of_ids(pairs[f"{side}_id"])
        if found is not None and found != species_key(given):
            raise GeneMismatchError(
                f"The table ({read.source}) has ids of {found} where those of {given} are expected, "
                f"such as {next(filter(None, pairs[f'{side}_id']))}: is `{side}_species` right? If "
                f"{given} means {found}, say `{side}_species={found!r}`."
            )
    kinds = frozenset(
        kind
        for kind in ("id", "symbol")
        if (pairs[f"from_{kind}"] != "").any() and (pairs[f"to_{kind}"] != "").any()
    )
    return OrthologTable(pairs.drop_duplicates(ignore_index=True), kinds, form, read)


def species_of_names(table: Any) -> dict[str, set[str]]:
    """Species of a table, by what they are called there, and all names of their genes."""
    # Late: it imports torch.
    from scssl._io import read_table

    read = read_table(table, argument="orthologs", how_to_get="")
    frame = read.frame
    classes = next((name for name in _CLASSES if name in frame), None)
    if classes is not None and {_ORGANISM, _SYMBOL} <= set(frame):
        found = {name: set(part) for name, part in frame.groupby(_ORGANISM)[_SYMBOL]}
    else:
        sides, called = _find_columns(frame)
        found = {
            called[key]: {
                bare_id(name)
                for kind, column in side.items()
                if kind != "type"
                for name in frame[column]
            }
            for key, side in sides.items()
        }
        if "" in found:
            # Those of whom the export is, which does not name them.
            found[species_of_ids(found[""]) or "the table"] = found.pop("")
    if len(found) < 2:
        raise GeneMismatchError(
            f"The table of orthologs ({read.source}) has names of {len(found)} species; two are needed. "
            f"Its columns are {', '.join(map(repr, frame.columns[:8]))}."
        )
    return {species: names - {""} for species, names in found.items()}


def how_to_get(from_species: str, to_species: str) -> str:
    """Where the user finds a table, since none may be shipped, and the lines to type then."""

    def call(table: str) -> str:
        species = f"from_species={from_species!r}, to_species={to_species!r}"
        return f"`scssl.pp.map_orthologs(adata, {table}, {species})`"

    keys = (species_key(from_species), species_key(to_species))
    ways = []
    if set(keys) == {"mouse", "human"}:
        ways.append(f"symbols, in a shell\n    curl -O {_MGI_URL}\n    {call(f'"{_MGI}"')}")
    ways.append(
        f"symbols or Ensembl ids, from {_BIOMART}: Ensembl Genes, the genes of {from_species}, "
        f"Attributes, Homologues; tick 'Gene stable ID' and 'Gene name' and, of {to_species}, 'gene "
        "stable ID', 'gene name' and 'homology type'; Results, TSV, which saves mart_export.txt"
        f"\n    {call('"mart_export.txt"')}"
    )
    own, other = (_ENSEMBL_NAMES.get(key) for key in keys)
    if own and other:
        columns = ["ensembl_gene_id", "external_gene_name"] + [
            f"{other}_homolog_{what}"
            for what in ("ensembl_gene", "associated_gene_name", "orthology_type")
        ]
        ways.append(
            "the same from Python, with pybiomart installed: the table that scanpy's biomart_annotations "
            f'gives for "{own}" and {columns}\n    {call("table")}'
        )
    return (
        f"To get a table of orthologs of {from_species} and {to_species}, where there is internet:\n"
        + "\n".join(f"{i}. {way}" for i, way in enumerate(ways, 1))
    )


def species_key(name: str) -> str:
    """A species as tables are searched for it."""
    words = " ".join(re.findall(r"[a-z0-9]+", name.casefold()))
    return _SPECIES.get(words, words)


def species_of_ids(names: Any) -> str | None:
    """The species of most Ensembl ids, if there are any and it is known."""
    found: dict[str, int] = {}
    for name in names:
        match = ENSEMBL.fullmatch(name)
        if match is not None:
            prefix = match[1][: re.search(r"\d", match[1]).start()]  # type: ignore[union-attr]
            found[prefix] = found.get(prefix, 0) + 1
    return _SPECIES_OF_IDS.get(max(found, key=lambda prefix: found[prefix])) if found else None


def _of_classes(
    read: NameTable, classes: str, keys: tuple[str, str], given: tuple[str, str]
) -> pd.DataFrame:
    """Genes of one class are orthologs of one another."""
    frame = read.frame
    species = frame[_ORGANISM].map({name: species_key(name) for name in frame[_ORGANISM].unique()})
    for key, name in zip(keys, given, strict=True):
        if not (species == key).any():
            _refuse_species(read, name, sorted(set(frame[_ORGANISM])), given)
    sides = [
        frame.loc[(species == key) & (frame[_SYMBOL] != ""), [classes, _SYMBOL]].rename(
            columns={_SYMBOL: f"{side}_symbol"}
        )
        for side, key in zip(("from", "to"), keys, strict=True)
    ]
    pairs = sides[0].merge(sides[1], on=classes, how="outer").fillna("")
    return pairs.assign(from_id="", to_id="", type="").drop(columns=classes)


def _of_columns(
    read: NameTable, keys: tuple[str, str], given: tuple[str, str]
) -> tuple[str, pd.DataFrame]:
    """Genes of one row are orthologs."""
    import pandas as pd

    frame = read.frame
    sides, names = _find_columns(frame)
    form = "BioMart" if any("type" in side for side in sides.values()) or "" in sides else "columns"
    missing = [i for i, key in enumerate(keys) if key not in sides]
    if len(missing) == 1 and "" in sides:
        # BioMart does not say what species its own columns are of.
        sides[keys[missing[0]]] = sides[""]
        missing = []
    elif not missing and "" in sides:
        raise GeneMismatchError(
            f"The table ({read.source}) is of orthologs of a third species: genes of one row need not be "
            f"orthologs. Export one that begins with genes of {given[0]} or {given[1]}. "
            f"{how_to_get(*given)}"
        )
    if missing:
        _refuse_species(read, given[missing[0]], [names[key] for key in sides if key], given)
    content = {"type": ""}
    for side, key in zip(("from", "to"), keys, strict=True):
        for kind in ("id", "symbol"):
            column = sides[key].get(kind)
            content[f"{side}_{kind}"] = "" if column is None else frame[column]
        if "type" in sides[key]:
            content["type"] = frame[sides[key]["type"]]
    pairs = pd.DataFrame(content, index=frame.index)
    return form, pairs


def _find_columns(frame: pd.DataFrame) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Columns of each species by what they hold, and what the table calls the species."""
    sides: dict[str, dict[str, str]] = {}
    names: dict[str, str] = {}
    for kind, patterns in _COLUMNS.items():
        for pattern in patterns:
            for column in frame:
                match = re.fullmatch(pattern, column, re.IGNORECASE)
                if match is not None and (match[1] or "").casefold() != "source of":
                    key = species_key(match[1] or "")
                    sides.setdefault(key, {}).setdefault(kind, column)
                    names.setdefault(key, match[1] or "")
    if not sides:
        # A column may be called after its species alone; its values say what they are.
        for column in frame:
            values = frame[column][frame[column] != ""].to_numpy()
            if len(values) and not column.startswith("Unnamed: "):
                kind = "id" if detect_id_type(values) == "ensembl" else "symbol"
                sides.setdefault(species_key(column), {}).setdefault(kind, column)
                names.setdefault(species_key(column), column)
    return sides, names


def _refuse_species(read: NameTable, name: str, there: list[str], given: tuple[str, str]) -> None:
    shown = ", ".join(map(repr, there[:10])) or "none that is known"
    columns = ", ".join(map(repr, read.frame.columns[:8]))
    raise GeneMismatchError(
        f"The table ({read.source}) has no genes of {name!r}; its species are {shown}, its columns "
        f"{columns}. Species are told by their whole name. A table may also have one column of names "
        f"for each species, called after it. {how_to_get(*given)}"
    )
