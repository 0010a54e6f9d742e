"""Studies are run by hand, for hours: that they can be run is tried here."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl.cli._study import Study

STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A file for each data set that a study names."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(2, (90, 40)), dtype=np.float32))
    adata.obs["cell_type"] = pd.Categorical(np.array(list("abc"))[np.arange(90) % 3])
    adata.obs["batch"] = pd.Categorical(np.array(list("xy"))[np.arange(90) % 2])
    adata.obs["species"] = adata.obs["batch"]
    adata.obs["region"] = adata.obs["cell_type"]
    adata.obsm["protein"] = rng.poisson(3, (90, 4)).astype(float)
    adata.obsm["spatial"] = rng.random((90, 2))
    return adata, folder


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_study_can_be_run(path, cells, monkeypatch):
    adata, folder = cells
    monkeypatch.setattr(scssl.settings, "_data_dir", folder)
    monkeypatch.setattr(Study, "_path", lambda self, file: folder / file)
    monkeypatch.setattr(Study, "read", lambda self, name: (adata, self.asked(name)))
    words = []
    if "method: transfer" in path.read_text():
        scssl.model.MaskedAutoencoder.setup_anndata(adata)
        scssl.model.MaskedAutoencoder(adata).save(folder / "model")
        words.append(f"method.model={folder / 'model'}")
    study = Study(path, words)
    for name in study.data:
        _, arguments = study.read(name)
        plan = scssl.tl.benchmark(adata, **arguments, dry_run=True)
        assert len(plan) and (plan["n_fits"] > 0).all()


def test_the_leaderboard_is_that_of_the_committed_values():
    import importlib.util

    place = STUDIES.parent / "leaderboard.py"
    spec = importlib.util.spec_from_file_location("leaderboard", place)
    leaderboard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(leaderboard)
    page = leaderboard.PAGE.read_text()
    assert leaderboard.fill(page, leaderboard.parts(leaderboard.read())) == page
    assert "<!-- all -->\n\n| method" in page
