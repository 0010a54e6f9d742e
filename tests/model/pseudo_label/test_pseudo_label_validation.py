"""Which cells pretraining on clusters is validated on, and with which loss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss

from scssl.model import PseudoLabel

from ..conftest import make_counts

SMALL = {"hidden_dims": (16,), "n_latent": 8, "kmeans": "sklearn", "n_rounds": 1}


def build(adata, key, labels_key=None, **options):
    PseudoLabel.setup_anndata(adata, dataset_key=key, labels_key=labels_key, input="counts")
    return PseudoLabel(adata, **{**SMALL, **options})


def three_studies(n_cells=3000):
    """Cells in file order by study, as files are put together."""
    adata = make_counts(n_cells=n_cells, n_genes=30)
    sizes = [n_cells // 2, n_cells // 3, n_cells - n_cells // 2 - n_cells // 3]
    adata.obs["study"] = np.repeat(["a", "b", "c"], sizes)
    return adata


@pytest.fixture(scope="module")
def adata():
    return three_studies()


@pytest.mark.parametrize("weighted", [True, False])
def test_validation_loss_does_not_depend_on_the_batch_size(adata, weighted):
    found = []
    for batch_size in (512, 1024, 4096):
        model = build(adata, "study", weighted=weighted, cells_per_cluster=(300, 150))
        model.train(
            1, batch_size=batch_size, lr=1e-12, weight_decay=0, train_size=0.4, progress=False
        )
        assert len(model.validation_indices_) == 1800
        found.append(model.history["validation_loss"].iloc[0, 0])
    np.testing.assert_allclose(found, found[0], rtol=1e-5)
    # Nothing is known yet: each partition costs the logarithm of its number of clusters.
    guess = 1 if weighted else sum(np.log(k) for sizes in model._sizes() for k in sizes)
    np.testing.assert_allclose(found[0], guess, rtol=0.1)


@pytest.mark.parametrize("weighted", [True, False])
def test_validation_loss_is_the_objective(adata, weighted):
    """Recomputed with scikit-learn, from batches of one data set, of two, and of all."""
    model = build(adata, "study", weighted=weighted, cells_per_cluster=(300, 150))
    model._start(0, [], seed=0, engine="sklearn")
    model.module.start_round(model._sizes(), 0)
    module, data = model.module.eval(), model._training_data()
    # Cells in file order; those of "b" are not among the first validation cells.
    rows, code = np.arange(0, 3000, 3), model._dataset_codes()[::3]
    expected = []
    for dataset, sizes in enumerate(model._sizes()):
        own = rows[code == dataset]
        with torch.inference_mode():
            z = model._apply(data, own, None, module.embed, model.n_latent)
            logits = module.heads[dataset](torch.from_numpy(z)).double()
        parts = zip(logits.split(sizes, 1), model._clusters[own].T, sizes, strict=True)
        losses = [log_loss(y, p.softmax(1), labels=range(k)) for p, y, k in parts]
        scale = np.log(sizes)
        expected.append(np.mean(losses / scale) if weighted else np.sum(losses))
    expected = np.mean(expected) if weighted else np.sum(expected)
    for batch_size in (100, 333, 1000):
        with torch.inference_mode():
            outputs = [module.loss(batch) for batch in data.loader(rows, batch_size)]
        names = outputs[0].extra_metrics
        tally = {name: sum(o.extra_metrics[name] for o in outputs) for name in names}
        assert tally["cells"].tolist() == np.bincount(code).tolist()
        np.testing.assert_allclose(module.validation_scores(tally)["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("labels_key", [None, "cell_type"])
def test_every_data_set_is_validated_on(labels_key):
    adata = make_counts(n_cells=600, n_genes=30)
    # Small ones with so many types that none of them has ten cells.
    adata.obs["study"] = np.repeat([f"s{i:02d}" for i in range(13)], [360] + [20] * 12)
    kinds = np.where(np.arange(600) < 360, "large", np.arange(600) // 2)
    adata.obs["cell_type"] = pd.Categorical(kinds.astype(str))
    model = build(adata, "study", labels_key, cells_per_cluster=(10,))
    model.train(1, batch_size=64, progress=False)
    studies = adata.obs["study"].iloc[model.validation_indices_].value_counts()
    assert studies["s00"] == 36
    assert studies.drop("s00").tolist() == [2] * 12
    both = np.concatenate([model.train_indices_, model.validation_indices_])
    np.testing.assert_array_equal(np.sort(both), np.arange(600))


def test_validation_cells_are_stratified_by_label_within_data_sets():
    adata = three_studies(900)
    model = build(adata, "study", "cell_type", cells_per_cluster=(100,))
    model.train(1, batch_size=64, progress=False)
    held_out = adata.obs.iloc[model.validation_indices_]
    found = held_out.groupby(["study", "cell_type"], observed=True).size().unstack()
    assert found.to_numpy().tolist() == [[15] * 3, [10] * 3, [5] * 3]


def test_labels_that_all_differ_do_not_stratify():
    adata = three_studies(90)
    adata.obs["name"] = pd.Categorical(adata.obs_names)
    model = build(adata, "study", "name", cells_per_cluster=(10,))
    model.train(1, batch_size=32, progress=False)
    assert adata.obs["study"].iloc[model.validation_indices_].value_counts().tolist() == [4, 3, 1]


SCRIPT = """
import os, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import numpy as np
from conftest import make_counts
from scssl.model import PseudoLabel

n = int(sys.argv[2])
adata = make_counts(n_cells=1000, n_genes=30)
adata.obs["study"] = np.repeat(["a", "b", "c"], [500, 333, 167])
PseudoLabel.setup_anndata(adata, dataset_key="study", input="counts")
model = PseudoLabel(adata, hidden_dims=(16,), n_latent=8, cells_per_cluster=(100, 50),
                    kmeans="sklearn", n_rounds=1)
model.train(1, batch_size=64, lr=1e-12, weight_decay=0, train_size=0.4, accelerator="cpu",
            devices=n, strategy="ddp" if n > 1 else "auto", progress=False)
loss = model.history["validation_loss"].iloc[0, 0]
np.save(f"{n}-{os.environ.get('LOCAL_RANK', '0')}.npy", [loss, len(model.validation_indices_)])
"""


@pytest.mark.slow
def test_validation_loss_is_that_of_all_processes(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    for n in ("1", "2"):
        command = [sys.executable, "train.py", str(Path(__file__).parents[1]), n]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, *two = (np.load(tmp_path / f"{name}.npy") for name in ("1-0", "2-0", "2-1"))
    assert one[1] == 600
    for found in two:
        np.testing.assert_allclose(found, one, rtol=1e-5)
