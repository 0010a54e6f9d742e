"""Break one behaviour after the other in a copy of the source, and see whether a test notices.

``python -m tests.mutants.run [PATTERN ...]``: those whose name or place has one of the patterns, by default
all. Ends with status 1 where a mutant survives. The tree itself is not touched.
"""

from __future__ import annotations

import compileall
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from py_compile import PycInvalidationMode

from .table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
# Imported once, of which each run of tests is a fork: they take longer than most of the tests.
HEAVY = [
    "torch",
    "lightning.pytorch",
    "scvi.data",
    "scvi.model",
    "scanpy",
    "sklearn",
    "hypothesis",
    "pytest",
]


def broken(mutant: Mutant, package: Path) -> tuple[Path, str]:
    """The file that a mutant is in, and its source with the mutant.

    Raises
    ------
    ValueError
        If what it replaces is not there exactly once.
    """
    place = package / mutant.place
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    sources = {path: path.read_text() for path in files}
    n = sum(source.count(mutant.text) for source in sources.values())
    if n != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.text!r} is {n} times in src/scssl/{mutant.place}, not once. Mend the "
            "entry in tests/mutants/table.py."
        )
    path = next(path for path, source in sources.items() if mutant.text in source)
    return path, sources[path].replace(mutant.text, mutant.to)


def run_tests(copy: Path, tests: tuple[str, ...], answer: Connection) -> None:
    """Run tests on the copy, in a process of their own; sends status and the first test that failed."""
    import pytest

    class First:
        failed = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not self.failed:
                self.failed = report.nodeid

    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy / "src"))
    os.chdir(ROOT)
    first, shown = First(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        import scssl

        assert Path(scssl.__file__).is_relative_to(copy), scssl.__file__
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        # What failed is all that is asked: neither plugins nor assertions that explain themselves.
        options.append("--assert=plain")
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        status = pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[first])
    answer.send((int(status), first.failed, shown.getvalue()))


def outcome(copy: Path, tests: tuple[str, ...], context: multiprocessing.context.BaseContext):
    """Status of pytest, the test that failed and what was shown."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run_tests, args=(copy, tests, theirs))  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        found = (-1, "", "the process ended without an answer")
    process.join()
    return found


def main(patterns: list[str]) -> int:
    """Run the mutants and print what became of each."""
    chosen = [m for m in MUTANTS if any(p in m.name or p in m.place for p in patterns or [""])]
    if not chosen:
        print(f"No mutant has {' or '.join(patterns)} in its name or place.", file=sys.stderr)
        return 2
    # Threads of their own would not survive the fork, and tests are small.
    os.environ |= {f"{one}_NUM_THREADS": "1" for one in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    survived, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="scssl-mutants-") as folder:
        copy = Path(folder)
        shutil.copytree(
            ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
        # By their content, so that a change within one tick of the clock is seen.
        mode = PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(copy / "src", quiet=2, invalidation_mode=mode)
        # A test that fails by itself kills everything.
        tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests)
        status, failed, shown = outcome(copy, tuple(tests), context)
        if status != 0:
            print(f"{shown}Without a mutant {failed or 'no test'} fails.", file=sys.stderr)
            return 2
        for mutant in chosen:
            path, changed = broken(mutant, copy / "src" / "scssl")
            source = path.read_text()
            path.write_text(changed)
            start = time.perf_counter()
            status, failed, shown = outcome(copy, mutant.tests, context)
            seconds = time.perf_counter() - start
            path.write_text(source)
            # Status 1 is of failed tests; that nothing was collected is no sign of anything.
            killed = status == 1 and bool(failed)
            by = failed.removeprefix("tests/") if killed else "SURVIVED"
            print(f"{mutant.name:32}{seconds:6.1f} s  {by}", flush=True)
            if not killed:
                survived.append(mutant.name)
                if status != 0:
                    print(shown)
                print(f"    {mutant.breaks}, and no test fails of {', '.join(mutant.tests)}")
    minutes = (time.perf_counter() - started) / 60
    print(f"{len(chosen) - len(survived)} of {len(chosen)} killed in {minutes:.1f} minutes")
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
