"""Every line that a message tells to type, and the data it is told for.

A case is a function that makes the names a user has and gives the code they typed::

    @case("Labels", "A cell has no label")
    def cell_without_label():
        adata = cells()
        adata.obs["type"] = ["T"] * 59 + [None]
        return {"adata": adata}, 'scssl.tl.linear_probe(adata, "type", use_rep="X_ssl")'

The code must raise an error or a warning of scssl whose message has code to type in backticks: a statement
(``adata = adata[...].copy()``), keyword arguments to pass (``layer="counts"``, without spaces at the equals
sign), a command (``scssl ...``, which is run, or ``pip install ...``, of which it is checked that the package
declares what it names), or an option of the user's command (``--overwrite``). `test_messages.py` does what the
message says, on that data, and runs the user's code again, which must then work and no longer say so. The page "Troubleshooting" of the docs is made
of the same cases by `docs/conf.py`.

``case(..., ways="each")``, the default: every line is a way of its own, and each is tried on fresh data.
``ways="all"``: the lines are typed one after another. ``ways="instead"``: each line is run in place of the
user's code.

A name in capitals, as in ``torch.save(..., NEW)``, is for the user to choose: the case gives it a value.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from ._harness import CASES, Case, Outcome, case, follow, is_command, told_in, trigger

__all__ = [
    "CASES",
    "Case",
    "Outcome",
    "all_cases",
    "case",
    "follow",
    "is_command",
    "told_in",
    "trigger",
]


def all_cases() -> list[Case]:
    """The cases of all files of this folder, in the order of their chapters."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.stem.startswith(("_", "test_")):
            importlib.import_module(f"{__name__}.{path.stem}")
    return sorted(CASES.values(), key=lambda one: (one.chapter, one.title))
