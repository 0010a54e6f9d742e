"""Mistakes that a review found; each test failed before it was mended."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import scssl
from scssl._errors import BundleError, ScsslWarning
from scssl.augment import Masking, RandomMask
from scssl.hub import read_bundle, write_bundle

from .conftest import TRAIN, arguments_of, make_counts

MODEL = scssl.model.MaskedAutoencoder


def build(adata=None, *, setup=None, **kwargs):
    adata = make_counts() if adata is None else adata
    MODEL.setup_anndata(adata, **(setup or {}))
    return MODEL(adata, **{**arguments_of(MODEL), **kwargs})


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("method", ["load", "load_registry", "view_setup_args"])
def test_nothing_unpickles_a_foreign_folder(method, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(BundleError):
        getattr(MODEL, method)(folder)
    with pytest.raises(BundleError, match="no pickles"):
        MODEL.convert_legacy_save(folder, tmp_path / "converted")
    assert not (tmp_path / "ran").exists()


def test_setup_of_a_saved_model(tmp_path, capsys):
    model = build(setup={"batch_key": "batch"})
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    assert MODEL.load_registry(tmp_path / "model")["setup_args"]["batch_key"] == "batch"
    MODEL.view_setup_args(tmp_path / "model")
    assert "batch" in capsys.readouterr().out


def test_absent_genes_are_not_learnt_as_zeros(tmp_path):
    model = build()
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model", model.adata[:, :50].copy())
    assert loaded.get_latent_representation().shape == (150, loaded.n_latent)
    with pytest.raises(ValueError, match="10 genes of the model are not in `adata`"):
        loaded.train(**TRAIN)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": 1}, "data"),
        ({"setup": {"target_sum": 1e3}}, "setup"),
        ({"setup": {"labels_key": "cell_type"}}, "setup"),
        ({"train": {"gradient_clip": 1.0}}, "gradient_clip"),
        ({"train": {"lr": 0.1}}, "lr"),
    ],
)
def test_a_checkpoint_belongs_to_one_run(change, what, tmp_path):
    build().train(**TRAIN, checkpoint_dir=tmp_path)
    other = build(make_counts(seed=change.get("data", 0)), setup=change.get("setup"))
    with pytest.raises(ValueError, match=f"another run: its {what} is"):
        other.train(**TRAIN, resume_from=tmp_path, **change.get("train", {}))


def test_a_new_run_does_not_overwrite_a_checkpoint(tmp_path):
    build().train(**TRAIN, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="checkpoint of another run.*resume_from="):
        build().train(**TRAIN, checkpoint_dir=tmp_path)


def stopping(**kwargs):
    return {"batch_size": 32, "progress": False, "lr": 0.05, "patience": 2, **kwargs}


def test_resuming_a_run_that_had_stopped_trains_no_more(tmp_path):
    straight, again = build(), build()
    straight.train(100, **stopping(checkpoint_dir=tmp_path))
    assert straight.training_["stopped_by"] == "early_stopping"
    again.train(100, **stopping(resume_from=tmp_path))
    assert again.training_["stopped_by"] == "early_stopping"
    assert len(again.history["lr"]) == len(straight.history["lr"])
    np.testing.assert_array_equal(
        again.get_latent_representation(), straight.get_latent_representation()
    )


def test_patience_can_be_raised_when_resuming(tmp_path):
    first, longer = build(), build()
    first.train(100, **stopping(checkpoint_dir=tmp_path))
    longer.train(100, **stopping(resume_from=tmp_path, patience=5))
    assert len(longer.history["lr"]) > len(first.history["lr"])


def test_history_of_several_runs():
    model = build()
    model.train(**TRAIN, train_size=1.0)
    model.train(**TRAIN)
    assert {len(frame) for frame in model.history.values()} == {4}
    assert model.history["validation_loss"]["validation_loss"].isna().tolist() == [1, 1, 0, 0]
    assert model.training_["best_epoch"] in (2, 3)
    best = model.training_["best_loss"]
    assert best == model.history["validation_loss"]["validation_loss"].iloc[2:].min()
    assert f"loss {best:.4g}" in repr(model)


def test_a_resumed_second_run_keeps_the_first(tmp_path):
    model = build()
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    # The length of a run is part of every other schedule.
    options = {"lr_schedule": "constant", "progress": False, "batch_size": 32}
    model.train(max_epochs=2, **options, checkpoint_dir=tmp_path / "run")
    loaded = MODEL.load(tmp_path / "model", make_counts())
    loaded.train(max_epochs=3, **options, resume_from=tmp_path / "run")
    assert len(loaded.history["train_loss"]) == 5
    np.testing.assert_array_equal(loaded.history["train_loss"][:4], model.history["train_loss"])


@pytest.mark.parametrize("column", ["library", "indices", "continuous", "column_names", "X"])
def test_columns_may_have_any_name(column, tmp_path):
    adata = make_counts()
    adata.obs[column] = adata.obs["batch"]
    model = build(
        adata,
        setup={"categorical_covariate_keys": [column], "continuous_covariate_keys": ["age"]},
    )
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model", adata)
    np.testing.assert_array_equal(loaded.get_reconstruction(), model.get_reconstruction())


def test_fractions_are_no_categories_of_a_query():
    adata = make_counts()
    adata.obs["lane"] = np.arange(150) % 2 + 1
    model = build(adata, setup={"batch_key": "lane"})
    model.train(**TRAIN)
    query = adata.copy()
    query.obs["lane"] = query.obs["lane"] + 0.7
    with pytest.raises(ValueError, match=r"'1\.7'"):
        model.get_reconstruction(query)
    query.obs["lane"] = adata.obs["lane"].astype(float)
    np.testing.assert_array_equal(model.get_reconstruction(query), model.get_reconstruction())
    query.obs.loc["cell7", "lane"] = np.nan
    with pytest.raises(ValueError, match="1 missing values, the first for cell 'cell7'"):
        model.get_reconstruction(query)


def test_attached_data_are_watched_too(tmp_path):
    model = build(setup={"labels_key": "cell_type"})
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    adata = make_counts()
    loaded = MODEL.load(tmp_path / "model", adata)
    adata.X.data *= 2
    with pytest.raises(ValueError, match="changed since"):
        loaded.train(**TRAIN)
    del adata.obs["cell_type"]
    with pytest.raises(KeyError, match="adata.obs has no 'cell_type'"):
        MODEL.load(tmp_path / "model", adata)


class Half(RandomMask):
    def config(self):
        return {"name": "half"}


class Duck:
    """A mask that is no subclass."""

    def draw(self, x, rng, *, indicator=False):
        return RandomMask(0.5).draw(x, rng, indicator=indicator)

    def config(self):
        return {"anything": print}

    def target_genes(self):
        return None


class Inherits(RandomMask):
    """A mask that says it is that of the package."""


@pytest.mark.parametrize(
    "mask", [Half(0.5), Duck(), Inherits(0.5)], ids=["half", "duck", "inherits"]
)
def test_a_mask_of_ones_own_is_left_behind(mask, tmp_path):
    model = build(masking=mask)
    model.train(**TRAIN)
    assert isinstance(model.module.masking, Masking)
    with pytest.warns(ScsslWarning, match=r"is not one of scssl and not saved"):
        model.save(tmp_path / "model")
    adata = make_counts()
    loaded = MODEL.load(tmp_path / "model", adata)
    z, x_hat = model.get_latent_representation(), model.get_reconstruction()
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    np.testing.assert_array_equal(loaded.get_reconstruction(), x_hat)
    with pytest.raises(ValueError, match=r"has no mask, .*from_ssl_model\(model, adata, masking="):
        loaded.train(**TRAIN)
    loaded.save(tmp_path / "again")
    for one in (model, loaded):
        tuned = scssl.model.CellTypeClassifier.from_ssl_model(one, make_counts(), "cell_type")
        np.testing.assert_array_equal(tuned.get_latent_representation(), z)
        further = MODEL.from_ssl_model(one, make_counts(), masking=mask)
        further.train(**TRAIN)
    tuned.train(**TRAIN)
    tuned.save(tmp_path / "tuned")
    with pytest.raises(ValueError, match="is not known any more"):
        MODEL.from_ssl_model(loaded, make_counts())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, config, genes: config["arguments"].update(dropout=7),
        lambda tensors, config, genes: config["arguments"]["masking"].update(rate=7),
        lambda tensors, config, genes: config.update(input="xx"),
        lambda tensors, config, genes: genes["names"].append("GENE0"),
        lambda tensors, config, genes: next(iter(tensors.values())).fill_(float("nan")),
    ],
    ids=["dropout", "rate", "input", "genes", "nan"],
)
def test_nonsense_with_the_right_digests_is_refused(spoil, tmp_path):
    model = build()
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    tensors, config, genes = dict(bundle.tensors), dict(bundle.config), dict(bundle.genes)
    spoil(tensors, config, genes)
    write_bundle(tmp_path / "bad", tensors=tensors, config=config, genes=genes)
    with pytest.raises(BundleError, match="does not fit"):
        MODEL.load(tmp_path / "bad")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"target_sum": -1}, ValueError, "`target_sum` must be a positive number"),
        ({"categorical_covariate_keys": "batch"}, TypeError, r'_keys=\["batch"\]'),
        ({"continuous_covariate_keys": "age"}, TypeError, r'_keys=\["age"\]'),
        ({"label_key": "cell_type"}, TypeError, "no argument 'label_key'"),
    ],
)
def test_setup_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        MODEL.setup_anndata(make_counts(), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gradient_clip": -1}, '`gradient_clip` must be a positive number, None or "auto"'),
        ({"weight_decay": np.inf}, r"`weight_decay` must be a number in \[0, inf\)"),
        ({"n_output_genes": 10.7}, "`n_output_genes` must be"),
        ({"precision": "bf16-true", "accelerator": "cpu"}, "bf16-mixed"),
        ({"devices": 2, "strategy": "ddp_spawn"}, '`strategy` must be "ddp"'),
        ({"devices": "2", "strategy": "ddp_spawn"}, '`strategy` must be "ddp"'),
        ({"devices": 2, "rng": None}, "`rng` must be a number"),
        ({"num_nodes": 0}, "`num_nodes` must be"),
    ],
)
def test_train_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build().train(**kwargs)


def test_cells_without_any_gene_of_the_model_are_flagged():
    model = build()
    model.train(**TRAIN)
    query = make_counts(n_genes=80)
    x = query.X.tolil()
    x[3, :60] = 0
    x[3, 70] = 5
    query.X = x.tocsr()
    with pytest.warns(
        ScsslWarning, match="1 of 150 cells have no value in any gene of the model: all get"
    ):
        model.get_latent_representation(query)


def test_one_latent_dimension_is_not_a_collapse(recwarn):
    build(n_latent=1).train(**TRAIN)
    assert not [w for w in recwarn if issubclass(w.category, ScsslWarning)]


def test_every_cell_is_trained_on_in_every_epoch():
    model = build(make_counts(n_cells=100))
    model.train(max_epochs=1, batch_size=60, progress=False)
    # 90 training cells: two batches of 45 and not one of 60.
    assert model.training_["batch_size"] == 45


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MaskedAutoencoder", "SimCLR"])
def test_two_processes(tmp_path, name):
    """Of a script that starts the other one itself: both have the model of one process."""
    import subprocess
    import sys

    options = {"hidden_dims": (32,), "n_latent": 8}
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import make_counts
import scssl, numpy as np, os
from lightning.pytorch.callbacks import Callback

class Steps(Callback):
    lrs = []
    def on_train_batch_end(self, trainer, plan, *_):
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.n_steps, self.done = plan.n_steps, trainer.global_step

def train(model, steps, n, **kwargs):
    model.train(2, batch_size=24 // n, lr=1e-3, lr_schedule="cosine", accelerator="cpu",
                progress=False, callbacks=[steps], devices=n, **kwargs)

def made():
    adata = make_counts(135)
    model_class = scssl.model.get_model_class({name!r})
    model_class.setup_anndata(adata)
    return model_class(adata, **{options!r})

if __name__ == "__main__":
    model, steps = made(), Steps()
    train(model, steps, 2, strategy="ddp")
    rank = os.environ.get("LOCAL_RANK", "0")
    np.savez(f"rank{{rank}}.npz", z=model.get_latent_representation(),
             loss=model.history["validation_loss"], split=model.validation_indices_,
             n_steps=steps.n_steps, done=steps.done, last_lr=steps.lrs[-1],
             size=model.training_["batch_size"])
    if rank == "1":
        alone = made()
        train(alone, Steps(), 1)
        np.savez("alone.npz", z=alone.get_latent_representation(),
                 loss=alone.history["validation_loss"], size=alone.training_["batch_size"])
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    a, b, alone = (np.load(tmp_path / f"{name}.npz") for name in ("rank0", "rank1", "alone"))
    for key in ("z", "loss", "split", "n_steps", "done", "last_lr"):
        np.testing.assert_array_equal(a[key], b[key])
    # Batch normalisation behind it takes off what all cells have in common, of which there is no gradient but
    # rounding; its running means, by which cells are validated, follow a little behind.
    np.testing.assert_allclose(a["loss"], alone["loss"], rtol=2e-3, atol=1e-4)
    centred, of_one = (one - one.mean(axis=0) for one in (a["z"], alone["z"]))
    np.testing.assert_allclose(centred, of_one, rtol=0, atol=1e-5)
    # 122 cells to train on: six batches of 20 or 21 of both, which divide into 10 and 11.
    assert (a["size"], alone["size"]) == (11, 21)
    assert a["n_steps"] == a["done"] == 2 * 6
    # The schedule ends where that of one process does.
    assert a["last_lr"] == pytest.approx(1e-5)
