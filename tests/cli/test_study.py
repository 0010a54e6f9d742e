"""A study in a file is what `tl.benchmark` would be asked for in Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl.cli import main
from scssl.cli._study import Study


@pytest.fixture
def adata(tmp_path):
    rng = np.random.default_rng(0)
    types = rng.integers(0, 3, 150)
    counts = rng.poisson(1 + 4 * np.eye(3)[types].repeat(10, axis=1))
    adata = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    adata.obs["cell_type"] = pd.Categorical(np.array(list("abc"))[types])
    adata.obs["donor"] = pd.Categorical(np.array(["x", "y"])[rng.integers(0, 2, 150)])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return adata


@pytest.fixture
def study(adata, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "data:\n"
        "  whole: {file: cells.h5ad}\n"
        "  of x: {file: cells.h5ad, subset: {donor: x}, seeds: 1}\n"
        "label_key: cell_type\n"
        "tasks: [embedding]\n"
        "seeds: 2\n"
        "methods:\n"
        "  PCA: {n_comps: 3}\n"
        "  genes:\n"
    )
    return path


def test_a_study(adata, study, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["benchmark", str(study), "--out", str(out), "--dry-run"]) == 0
    assert "6 fits, 0 of them done" in capsys.readouterr().out and not out.exists()
    assert main(["benchmark", str(study), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "PCA" in text and str(out / "results.csv") in text
    found = pd.read_csv(out / "results.csv").set_index(["data", "method", "metric", "seed"])
    expected = scssl.tl.benchmark(
        adata, {"PCA": {"n_comps": 3}}, "embedding", label_key="cell_type", seeds=2, progress=False
    ).set_index(["method", "metric", "seed"])
    for (method, metric, seed), value in expected["value"].items():
        assert found.loc["whole", method, metric, seed]["value"] == value
    x = found.loc["of x"].reset_index()
    assert set(x["seed"]) == {0} and x["data_hash"].nunique() == 1
    assert main(["benchmark", str(study), "--out", str(out), "--dry-run"]) == 0
    assert "6 of them done" in capsys.readouterr().out


def test_each_data_set_is_read_once(study, tmp_path, monkeypatch):
    read, known = [], ad.read_h5ad
    monkeypatch.setattr(
        ad, "read_h5ad", lambda *args, **kwargs: read.append(1) or known(*args, **kwargs)
    )
    assert main(["benchmark", str(study), "seeds=1", "--out", str(tmp_path / "out")]) == 0
    assert len(read) == 2, "as many as the study has data sets"


@pytest.mark.slow
def test_kill_9_in_the_middle_changes_no_value(study, tmp_path):
    """Twice, at different moments; fits that were there are not run again."""
    study.write_text(
        study.read_text() + "  MaskedAutoencoder: {max_epochs: 8, n_latent: 4, hidden_dims: [8]}\n"
    )
    command = [sys.executable, "-c", "import sys; from scssl.cli import main; sys.exit(main())"]
    command += ["benchmark", str(study), "--out"]
    rows, kept = tmp_path / "killed" / "rows", {}
    for n_rows in (2, 5):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([*command, str(rows.parent)], stdout=log, stderr=log)
        while len(list(rows.glob("*.json"))) < n_rows:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        written = {file: file.stat().st_mtime_ns for file in rows.glob("*.json")}
        assert n_rows <= len(written) < 9 and kept.items() <= written.items()
        kept = written
    for out in ("killed", "whole"):
        assert main(["benchmark", str(study), "--out", str(tmp_path / out)]) == 0
    assert all(file.stat().st_mtime_ns == kept[file] for file in kept)
    costs = ["seconds", "cpu_seconds", "memory_gb", "hardware"]
    killed, whole = (
        pd.read_csv(tmp_path / out / "results.csv").drop(columns=costs)
        for out in ("killed", "whole")
    )
    assert whole["value"].notna().all() and len(list(rows.glob("*.json"))) == 9
    pd.testing.assert_frame_equal(killed, whole, check_exact=True)


def test_keys_are_set_by_words(study):
    words = ["seeds=3", "methods.PCA.n_comps=2,4", "data.whole.tasks=clustering"]
    asked = Study(study, words)
    adata, arguments = asked.read("whole")
    assert arguments["seeds"] == 3 and arguments["tasks"] == "clustering"
    assert arguments["methods"]["PCA"] == {"n_comps": 3, "sweep": {"n_comps": [2, 4]}}
    plan = scssl.tl.benchmark(adata, **arguments, dry_run=True)
    assert list(plan["method"]) == ["PCA (n_comps=2)", "PCA (n_comps=4)", "genes"]
    # Where a method has no such argument it stays as it is.
    methods = Study(study, ["method.n_comps=5"]).methods
    assert methods["PCA"]["n_comps"] == "5" and not methods["genes"]
    methods = Study(study, ["methods=PCA,genes", "methods.PCA.n_comps=[1,2],3"]).methods
    assert methods == {"PCA": {"sweep": {"n_comps": [["1", "2"], "3"]}}, "genes": {}}
    assert Study(study, ["methods=PCA"]).asked("whole")["methods"] == "PCA"


def test_nothing_and_a_file_alone(study):
    text = (
        study.read_text()
        .replace("genes:", "genes: null")
        .replace("{file: cells.h5ad}", "cells.h5ad")
    )
    study.write_text(text.replace("  of x:", "  cells: null\n  of x:"))
    asked = Study(study)
    assert [asked.data[name][0].name for name in asked.data] == ["cells.h5ad"] * 3
    assert asked.asked("whole")["methods"] == {"PCA": {"n_comps": 3}, "genes": {}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seeds: 2", "sedes: 2"), "there is no sedes. Did you mean 'seeds'"),
        (("seeds: 1", "sedes: 1"), "there is no data.of x.sedes"),
        (("seeds: 2", "test_size: much"), "test_size must be a number"),
        (("cells.h5ad, sub", "absent.h5ad, sub"), "There is no file absent.h5ad"),
        (("PCA:", "PCR:"), "Did you mean 'PCA'"),
        (("n_comps", "n_cmps"), "n_cmps"),
        (("donor: x", "doner: x"), "doner"),
        (("label_key: cell_type", "label_key: type"), "type"),
        (("whole: {file: cells.h5ad}", "whole: [cells.h5ad]"), "data.whole must be a file"),
    ],
)
def test_all_is_checked_before_anything_runs(study, tmp_path, capsys, change, said, monkeypatch):
    from scssl.tl._benchmark import _study

    monkeypatch.setattr(_study, "run", lambda *_: pytest.fail("it ran"))
    study.write_text(study.read_text().replace(*change))
    assert main(["benchmark", str(study), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_words_that_set_nothing(study, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--dry-run"]
    assert main(["benchmark", str(study), "seeds", *out]) == 2
    assert "sets nothing" in capsys.readouterr().err
    assert main(["benchmark", str(study), "data.hole.seeds=1", *out]) == 2
    assert "there is no 'hole'" in capsys.readouterr().err
