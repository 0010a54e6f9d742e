"""Which labels are kinds of which, from a table of parents and children."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def descendants(children: Mapping[str, Iterable[str]] | pd.DataFrame) -> dict[str, frozenset[str]]:
    """All that is below each name of a table, at any depth.

    Parameters
    ----------
    children
        Children by parent, or a frame with a row per pair in the columns ``"parent"`` and ``"child"``.
        A name may have several parents.
    """
    table = _by_parent(children)
    below: dict[str, frozenset[str]] = {}
    # Depth first with a stack of our own: an ontology may be deeper than Python's recursion.
    for root in table:
        path: list[tuple[str, list[str]]] = [(root, list(table[root]))] if root not in below else []
        on_path = {root}
        while path:
            name, todo = path[-1]
            if todo:
                child = todo.pop()
                if child in on_path:
                    names = [step for step, _ in path]
                    loop = [*names[names.index(child) :], child]
                    raise ValueError(
                        "`children` goes in a circle, so that nothing is above anything: "
                        f"{' → '.join(map(repr, loop))}."
                    )
                if child not in below:
                    path.append((child, list(table[child])))
                    on_path.add(child)
            else:
                own = table[name]
                below[name] = frozenset(own).union(*(below[child] for child in own))
                path.pop()
                on_path.discard(name)
    return below


def _by_parent(children: Any) -> dict[str, list[str]]:
    """Children of every name, of the childless as well."""
    if hasattr(children, "columns"):
        absent = {"parent", "child"} - set(children.columns)
        if absent:
            found = ", ".join(map(repr, children.columns))
            raise ValueError(
                "`children` needs the columns 'parent' and 'child', one row per pair; it has "
                f"{found}. Rename them: children.rename(columns={{...}})."
            )
        pairs = list(zip(children["parent"], children["child"], strict=True))
    elif isinstance(children, Mapping):
        single = [parent for parent, found in children.items() if isinstance(found, str)]
        if single:
            raise TypeError(
                f"`children` maps a name to a list of names, found a string for {single[0]!r}. "
                f"Write {{{single[0]!r}: [{children[single[0]]!r}]}}."
            )
        pairs = [(parent, child) for parent, found in children.items() for child in found]
    else:
        raise TypeError(
            "`children` must be a dict of lists or a DataFrame with the columns 'parent' and "
            f"'child', found {type(children).__name__}."
        )
    table: dict[str, list[str]] = {}
    for pair in pairs:
        for name in pair:
            if not isinstance(name, str) or not name:
                raise TypeError(
                    f"Names in `children` must be strings that are not empty, found {name!r}."
                )
            table.setdefault(name, [])
        table[pair[0]].append(pair[1])
    if isinstance(children, Mapping):
        for name in children:
            table.setdefault(name, [])
    return table
