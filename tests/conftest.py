from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

matplotlib.use("agg")
if "OMP_NUM_THREADS" in os.environ:
    # Or numba, when it starts, gives PyTorch as many threads as there are cores, and with them other last bits.
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
if threading.current_thread() is threading.main_thread():
    # Shells start what runs in the background with Ctrl-C ignored, which tests of it must not be.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; tests that ask for it are skipped where there is none."""
    folder = os.environ.get("SCSSL_DATA_DIR")
    if not folder:
        pytest.skip("SCSSL_DATA_DIR is not set: no real data here")
    if not Path(folder).is_dir():
        # Set but wrong is a mistake, not an absence: it must not turn into silent skips.
        pytest.fail(f"SCSSL_DATA_DIR={folder} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def data_file(data_dir: Path):
    """Path of a file in the data folder by name; skips where the file is not there."""

    def find(name: str) -> Path:
        path = data_dir / name
        if not path.exists():
            pytest.skip(f"{name} is not in SCSSL_DATA_DIR")
        return path

    return find


@pytest.fixture
def all_pairs(monkeypatch):
    """All distances in place of pynndescent, which compiles itself for a minute or three.

    Gives the numbers of cells of the indices that were made. `tests/test_neighbors.py` has the
    search itself.
    """
    from sklearn.neighbors import NearestNeighbors

    made = []

    class AllPairs:
        def __init__(self, values, *, n_neighbors, random_state):
            made.append(len(values))
            self.search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(values)

        def query(self, values, k):
            return self.search.kneighbors(values, k)[::-1]

        @property
        def neighbor_graph(self):
            return self.search.kneighbors(self.search._fit_X)[::-1]

    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=AllPairs))
    return made


@pytest.fixture(scope="session")
def published():
    """Checkpoints in the published layouts: the module ``published_checkpoints.py``."""
    return _module_beside("published_checkpoints")


@pytest.fixture(scope="session")
def cellplm():
    """Checkpoints of CellPLM and their network: the module ``cellplm_reference.py``."""
    return _module_beside("cellplm_reference")


def _module_beside(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(tmp_path: Path):
    """A Hugging Face Hub on loopback that the real client talks to, with an empty cache."""
    from .hub.server import on_loopback

    with on_loopback(tmp_path / "hf_cache") as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses the data folder must say so, that `-m "not realdata"` can be trusted."""
    unmarked = [
        item.nodeid
        for item in items
        if {"data_dir", "data_file"} & set(getattr(item, "fixturenames", ()))
        and item.get_closest_marker("realdata") is None
    ]
    if unmarked:
        raise pytest.UsageError("Mark with pytest.mark.realdata: " + ", ".join(unmarked))
