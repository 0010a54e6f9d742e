"""The page "Troubleshooting" of the docs: what is said, with what to type then.

``python -m tests.messages._page`` writes it.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import chdir
from itertools import groupby
from pathlib import Path

from . import Case, Outcome, all_cases, is_command, told_in, trigger
from ._data import with_a_hub

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "troubleshooting.md"
_HEAD = """<!-- Made by `python -m tests.messages._page` from the cases of tests/messages. -->

# Troubleshooting

What scssl says when something is wrong with the data or a call, by what it is about. Every message on this page
was raised by the code above it, and what it says to type, in backticks, was typed on that data and mended it: they
are tests. Find yours with the search of the browser, by words between the names: columns, layers and cells will be
others. What to type is in the message that you have, with your names.
"""


def _plain(text: str) -> str:
    """Without what differs between machines: folders for a while, and formats of figures."""
    folders = rf"{re.escape(tempfile.gettempdir())}/(tmp|scssl-messages-)[a-z0-9_]{{8}}"
    text = re.sub(folders, "results", text)
    text = re.sub(r"http://127\.0\.0\.1:\d+", "https://huggingface.co", text)
    # What the client of the hub says differs between its versions.
    text = re.sub(r"(failed: 4\d\d) Client Error.*?(?= It is not| What there is)", r"\1.", text)
    return re.sub(r"(no kind of figure, which are eps)[\w, ]*\.", r"\1, ...", text)


def page(said: list[tuple[Case, str, list[Outcome]]]) -> str:
    """The page, of each case with the user's code and what was said."""
    parts = [_HEAD]
    for chapter, cases in groupby(said, key=lambda one: one[0].chapter):
        parts.append(f"## {chapter}\n")
        for case, code, outcomes in cases:
            first = next(one for one in outcomes if told_in(one.message))
            parts += [
                f"### {case.title}\n",
                f"```{'bash' if is_command(code) else 'python'}\n{code}\n```\n",
                f"```text\n{first.category}: {first.message}\n```\n",
            ]
    return _plain("\n".join(parts))


def collect() -> list[tuple[Case, str, list[Outcome]]]:
    """Every case, run."""
    said = []
    # Cases write files where they are.
    with tempfile.TemporaryDirectory() as folder, chdir(folder), with_a_hub():
        for case in all_cases():
            names, code = case.make()
            said.append((case, code, trigger(names, code)))
    return said


if __name__ == "__main__":
    PAGE.write_text(page(collect()))
