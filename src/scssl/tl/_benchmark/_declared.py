"""What a study declares of its data and of its arms, so that other data or arms are no result of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scssl._checks import check_whole, no_argument, some

from ._methods import NotPossible

if TYPE_CHECKING:
    from ._cells import Cells
    from ._methods import Method

_KEYS = ("data_hash", "classes", "genes_matched", "trainable_weights")


@dataclass(frozen=True)
class Declared:
    """Hash and classes of the data, genes that a pretrained encoder finds, weights that methods train."""

    data_hash: str | float | None = None
    classes: tuple[str, ...] | None = None
    genes_matched: int | None = None
    trainable_weights: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Any, methods: list[str]) -> Declared:
        """What was given, an error if it can be nothing that these methods have."""
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise TypeError(
                f"`declared` must be a dict with {some(_KEYS)}, found {type(given).__name__}."
            )
        for key, value in given.items():
            if key not in _KEYS:
                raise ValueError(no_argument("`declared`", str(key), value, _KEYS))
        weights, classes = given.get("trainable_weights") or {}, given.get("classes")
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"`declared` must have numbers by method as trainable_weights, found {weights!r}."
            )
        if classes is not None and not isinstance(classes, (list, tuple, set)):
            raise TypeError(f"`declared` must have a list of names as classes, found {classes!r}.")
        absent = [name for name in weights if name not in methods]
        if absent:
            raise ValueError(
                f"`declared` has weights of {absent[0]!r}, which is no method; there are {some(methods, 20)}."
            )
        return cls(
            given.get("data_hash"),
            None if classes is None else tuple(sorted(map(str, classes))),
            check_whole("genes_matched", given.get("genes_matched"), 0, none=True),
            {name: check_whole("trainable_weights", n, 0) for name, n in weights.items()},
        )

    def check_data(self, cells: Cells) -> None:
        """Refuse other data than those that were declared."""
        if self.classes is not None:
            found = () if cells.labels is None else tuple(sorted(set(cells.labels.dropna())))
            if found != self.classes:
                absent, more = set(self.classes) - set(found), set(found) - set(self.classes)
                raise ValueError(
                    f"{cells.name!r} has {len(found)} classes of {cells.min_cells} cells or more in adata.obs"
                    f"[{cells.label_key!r}], and {len(self.classes)} are declared (missing: "
                    f"{some(sorted(absent)) or 'none'}; not declared: {some(sorted(more)) or 'none'}). If "
                    f'the study is of these data: `declared["classes"] = {list(found)}`'
                )
        if self.data_hash is not None and not _is(cells.hash, self.data_hash):
            raise ValueError(
                f"{cells.name!r} has the hash {cells.hash!r}, and {self.data_hash!r} is declared: values, "
                "genes, names or labels are others. If the study is of these data: "
                f'`declared["data_hash"] = "{cells.hash}"`'
            )

    def of(self, name: str) -> list[int | None]:
        """What is declared of a method."""
        return [self.genes_matched, self.trainable_weights.get(name)]

    def check_fit(self, name: str, method: Method, *, learns_all: bool) -> None:
        """Refuse a fit that is not what was declared; `learns_all`: of a class left out the head has no weights."""
        found, weights = method.genes_matched, self.trainable_weights.get(name)
        if None not in (found, self.genes_matched) and found != self.genes_matched:
            raise NotPossible(
                f"Refused: its encoder finds {found:,} of its genes in the data, and {self.genes_matched:,} "
                "are declared."
            )
        if weights is not None and learns_all and method.trainable_weights != weights:
            raise NotPossible(
                f"Refused: it trains {method.trainable_weights or 0:,} weights, and {weights:,} are declared "
                f"of {name!r}."
            )


def _is(found: str, declared: str | float) -> bool:
    """Whether a hash is the one declared, which a file of a study gives as a number where it can be read as one."""
    if isinstance(declared, str):
        return found == declared
    try:
        return float(found) == float(declared)
    except ValueError:
        return False
