"""The command line says what it does, passes on what was typed, and fails in one line."""

from __future__ import annotations

import errno
import inspect
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import scssl
from scssl._errors import MissingKeyError, ScsslWarning
from scssl.cli import _commands as commands
from scssl.cli import _files, main
from scssl.cli._main import DESCRIPTION, parse
from scssl.train._callbacks import Monitor

SMALL = ["--hidden-dims", "16", "--n-latent", "4", "--max-epochs", "2", "--no-progress"]


@pytest.fixture
def file(tmp_path):
    generator = np.random.default_rng(0)
    adata = ad.AnnData(generator.poisson(1, (60, 20)).astype(np.float32))
    adata.var_names = [f"GENE{i}" for i in range(20)]
    adata.obs_names = [f"cell{i}" for i in range(60)]
    adata.obs["type"] = np.repeat(["B", "T"], 30)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return str(tmp_path / "cells.h5ad")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["train", "--help"], ["demo", "--help"], ["convert", "--help"]],
)
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys\nfrom scssl.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'scanpy', 'scvi', 'anndata', 'numpy', 'pandas', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "scssl" in done.stdout


def test_help_of_every_command_says_what_it_does_and_how(capsys):
    for command in ("demo", "train", "embed"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert text.count("--out") >= 2
        if command != "demo":
            assert f"  scssl {command} cells.h5ad" in text, "an example to copy"


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_do_not_spin_unless_asked(given, monkeypatch, capsys):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert main(["embed", "absent.h5ad", "--model", "model", "--out", "out.h5ad"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"scssl {scssl.__version__}\n"


@pytest.mark.parametrize("name", scssl.model.list_models())
def test_every_argument_of_every_model_is_an_option(name):
    """Also those that a class hands on to its bases, with what their docstrings say."""
    model = scssl.model.get_model_class(name)
    typed = parse(["train", "f", "--out", "d", "--model", name, *needed(name)])[1]
    assert set(typed) - {"labels_key", "ssl_model"} == {"file", "out", "model"}
    not_typed = {
        "self",
        "cls",
        "adata",
        "registry",
        "callbacks",
        "args",
        "kwargs",
        "options",
        "model",
    }
    starts = model._learns_embeddings
    groups = commands.model_options(model, from_ssl_model=not starts)
    setup, make, fit = groups.values()
    expected = [(setup, model.setup_anndata), (make, model.__init__)] if starts else []
    expected += [(make, model.from_ssl_model)] if not starts else []
    for options, function in [*expected, (fit, model.train)]:
        assert set(inspect.signature(function).parameters) - not_typed <= set(options) | {"rng"}
        for option in options.values():
            assert option.help, option
            assert not set("`\\") & set(option.help), option.help
            assert len(option.help) < 500, option.help
    for options in groups.values():
        assert not options.keys() & not_typed
    if issubclass(model, scssl.model.JointEmbedding):
        assert {"augmentation", "hidden_dims", "projector_dims"} <= make.keys()


def needed(name):
    """Options without which a model cannot be trained."""
    if scssl.model.get_model_class(name)._learns_embeddings:
        return []
    return ["--ssl-model", "m", *(["--labels-key", "x"] if name == "CellTypeClassifier" else [])]


def test_defaults_in_the_help_are_those_of_the_python_api(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--model", "MaskedAutoencoder", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    parameters = inspect.signature(scssl.model.MaskedAutoencoder).parameters
    assert f"dropped in training (default: {parameters['dropout'].default})" in said
    assert "--loss mse|nb|zinb|bce" in said
    assert "--[no-]encode-covariates" in said
    assert "(default: yes)" in said
    for title in ("data (setup_anndata):", "model (MaskedAutoencoder):", "training:"):
        assert title in said


def test_models_are_listed_without_loading_them(capsys):
    listed = commands.models_in_source()
    assert list(listed) == scssl.model.list_models()
    for name, text in listed.items():
        first = scssl.model.get_model_class(name).__doc__.split("\n")[0]
        assert text[:20] == first[:20]
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    for name, text in listed.items():
        assert f"  {name} " in said
        assert text in said
    assert "scssl train --model NAME --help" in said


def test_every_option_of_embedding_is_typed():
    not_typed = {"adata", "model", "copy", "token"}
    options = commands.COMMANDS["embed"].options([])
    (of_embed,) = options.values()
    assert set(of_embed) == set(inspect.signature(scssl.tl.embed).parameters) - not_typed


def test_only_what_was_typed_is_passed_on():
    assert set(parse(["train", "f", "--out", "d"])[1]) == {"file", "out"}
    _, typed = parse(
        ["train", "f", "--out", "d", "--hidden-dims", "64", "32", "--no-early-stopping"]
        + ["--devices", "2", "--lr", "1e-3", "--batch-key=donor", "--mask-options", "per=batch"]
        + ["--gradient-clip=none"]
    )
    assert typed["hidden_dims"] == [64, 32]
    assert typed["early_stopping"] is False
    assert (typed["devices"], typed["lr"], typed["batch_key"]) == (2, 1e-3, "donor")
    assert (typed["mask_options"], typed["gradient_clip"]) == ({"per": "batch"}, None)
    for text, value in (("auto", "auto"), ("3", 3), ("all", None)):
        _, typed = parse(["train", "f", "--out", "d", "--n-output-genes", text])
        assert typed["n_output_genes"] == value


def test_every_model_has_a_vocabulary_of_its_own(capsys):
    start = ["train", "f", "--out", "d"]
    assert parse([*start, "--model", "SimCLR", "--loss", "dcl"])[1]["loss"] == "dcl"
    assert parse([*start, "--loss", "nb"])[1]["loss"] == "nb"
    assert parse([*start, "--model", "CellPLM", "--target-sum", "none"])[1]["target_sum"] is None
    with pytest.raises(SystemExit) as stop:
        parse([*start, "--model", "SimCLR", "--loss", "nb"])
    assert stop.value.code == 2
    assert "argument --loss: must be nt_xent or dcl, found nb" in capsys.readouterr().err


def test_a_configuration_is_what_could_be_typed(tmp_path, capsys):
    typed = ["--model", "SimCLR", "--hidden-dims", "16", "8", "--loss=dcl", "--no-progress"]
    typed += ["--augmentation", "mask", "gene_swap", "--gradient-clip=none", "--batch-key", "off"]
    assert main(["train", *typed, "--print-config"]) == 0
    text = capsys.readouterr().out
    assert "loss: dcl\n" in text
    assert "\n# n_latent: 64\n" in text
    assert text.count("rng:") == 1
    (tmp_path / "run.yaml").write_text(text)
    start = ["train", "f", "--out", "d"]
    configured = ["--config", str(tmp_path / "run.yaml")]
    assert parse([*start, *configured]) == parse([*start, *typed])
    # What is typed goes first, wherever it stands.
    for words in (
        [*start, "--loss", "nt_xent", *configured],
        [*start, *configured, "--loss=nt_xent"],
    ):
        assert parse(words)[1]["loss"] == "nt_xent"
    # What has to be given may stand in the file too.
    (tmp_path / "run.yaml").write_text("file: f\nout: d\nn-latent: 3\n")
    assert parse(["train", *configured])[1] == {"file": "f", "out": "d", "n_latent": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("n_latent: many", "run.yaml: n_latent must be a whole number, found many."),
        ("lozz: mse", "MaskedAutoencoder has no option --lozz. Did you mean --loss?"),
        ("- loss", "must hold options, one a line"),
        ("loss: [", "cannot be read as YAML"),
        ("model: SimCRL", "There is no model 'SimCRL'. Did you mean `--model SimCLR`?"),
    ],
)
def test_a_configuration_with_a_mistake(content, message, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(content)
    assert main(["train", "f", "--out", "d", "--config", str(tmp_path / "run.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert main(["train", "f", "--out", "d", "--config", "absent.yaml"]) == 2
    assert "There is no file absent.yaml." in capsys.readouterr().err


def test_a_classifier_starts_from_a_trained_model(file, tmp_path, capsys):
    trained, out = str(tmp_path / "model"), str(tmp_path / "types")
    assert main(["train", file, "--out", trained, *SMALL]) == 0
    start = ["--model", "CellTypeClassifier", "--ssl-model", trained, "--labels-key", "type"]
    few = ["--max-epochs", "1", "--no-progress", "--head", "mlp"]
    assert main(["train", file, "--out", out, *start, *few]) == 0
    assert scssl.model.CellTypeClassifier.load(out).classes == ["B", "T"]
    assert main(["train", file, "--out", out, "--overwrite", *start[:4]]) == 2
    assert "which column of adata.obs has the labels" in capsys.readouterr().err


def test_train_and_embed_equal_the_python_api(file, tmp_path, capsys):
    model_dir, out = str(tmp_path / "model"), str(tmp_path / "new" / "embedded.h5ad")
    assert (
        main(["train", file, "--out", model_dir, "--labels-key", "type", "--rng", "1", *SMALL]) == 0
    )
    assert f"scssl embed {file} --model {model_dir}" in capsys.readouterr().out
    assert main(["embed", file, "--model", model_dir, "--out", out, "--key-added", "X_new"]) == 0
    assert '60 cells, 4 dimensions in .obsm["X_new"]' in capsys.readouterr().out

    adata = ad.read_h5ad(file)
    Model = scssl.model.MaskedAutoencoder
    Model.setup_anndata(adata, labels_key="type")
    model = Model(adata, hidden_dims=[16], n_latent=4, rng=1)
    model.train(max_epochs=2, progress=False, rng=1)
    expected = model.get_latent_representation()
    embedded = ad.read_h5ad(out)
    np.testing.assert_array_equal(embedded.obsm["X_new"], expected)
    assert embedded.uns["X_new"]["n_genes_matched"] == 20
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["embedded.h5ad"]


def test_embed_without_a_model_equals_the_python_api(file, tmp_path, capsys):
    out = str(tmp_path / "embedded.h5ad")
    assert main(["embed", file, "--out", out, "--rng", "2", "--no-progress"]) == 0
    assert '60 cells, 114 dimensions in .obsm["X_ssl"]' in capsys.readouterr().out
    adata = ad.read_h5ad(file)
    scssl.tl.embed(adata, rng=2)
    np.testing.assert_array_equal(ad.read_h5ad(out).obsm["X_ssl"], adata.obsm["X_ssl"])


def test_the_first_lines_of_the_help_work(file, tmp_path, monkeypatch):
    train, embed = re.findall(r"^  scssl ((?:train|embed) .*)$", DESCRIPTION, re.MULTILINE)
    (key,) = re.findall(r'use_rep="(\w+)"', DESCRIPTION)
    monkeypatch.chdir(tmp_path)
    assert main([*train.split(), *SMALL]) == 0
    assert main(embed.split()) == 0
    assert ad.read_h5ad("embedded.h5ad").obsm[key].shape == (60, 4)


def test_another_model(file, tmp_path, capsys):
    out = str(tmp_path / "model")
    views = ["--model", "VICReg", "--augmentation", "mask", "gene_swap"]
    assert main(["train", file, "--out", out, *views, *SMALL, "--target-sum", "1e4"]) == 0
    adata = ad.read_h5ad(file)
    Model = scssl.model.VICReg
    Model.setup_anndata(adata, target_sum=1e4)
    model = Model(adata, augmentation=["mask", "gene_swap"], hidden_dims=[16], n_latent=4)
    model.train(max_epochs=2, progress=False)
    np.testing.assert_array_equal(
        Model.load(out).get_latent_representation(adata), model.get_latent_representation()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model", "VICReg", "--masking", "random"],
            "VICReg has no option --masking. Of MaskedAutoencoder it is one.",
        ),
        (["--augmentation", "mask"], "MaskedAutoencoder has no option --augmentation"),
        (["--model", "SimClear"], "There is no model 'SimClear'"),
        (["--model", "CellTypeClassifier"], "CellTypeClassifier starts from a trained model"),
    ],
)
def test_options_of_another_model(file, tmp_path, capsys, options, message):
    assert main(["train", file, "--out", str(tmp_path / "model"), *options]) == 2
    assert message in capsys.readouterr().err


def test_backed_training_equals_training_in_memory(file, tmp_path):
    for name, options in (("a", []), ("b", ["--backed"])):
        assert main(["train", file, "--out", str(tmp_path / name), *SMALL, *options]) == 0
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b


def test_output_is_replaced_only_when_asked(file, tmp_path, capsys, monkeypatch):
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    (model_dir / "thesis.txt").write_text("years of work")
    monkeypatch.setattr(commands, "read_cells", lambda *_, **__: pytest.fail("checked too late"))
    assert main(["train", file, "--out", str(model_dir), *SMALL]) == 2
    assert (
        "model exists already. Give another --out, or replace it: `--overwrite`"
        in capsys.readouterr().err
    )
    assert main(["train", file, "--out", str(model_dir), "--overwrite", *SMALL]) == 2
    assert "holds files and no scssl model" in capsys.readouterr().err
    assert main(["embed", file, "--model", str(model_dir), "--out", file]) == 2
    assert "cells.h5ad exists already" in capsys.readouterr().err


def test_embed_may_replace_its_own_input(file, tmp_path):
    model_dir = str(tmp_path / "model")
    main(["train", file, "--out", model_dir, *SMALL])
    assert main(["embed", file, "--model", model_dir, "--out", file, "--overwrite"]) == 0
    assert ad.read_h5ad(file).obsm["X_ssl"].shape == (60, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "absent.h5ad", "--out", "d"], "There is no file absent.h5ad."),
        (["embed", "FILE", "--model", "absent", "--out", "d.h5ad"], "There is no folder absent"),
        (
            ["embed", "FILE", "--model", "absent", "--out", "d.csv"],
            "--out must end in .h5ad or .zarr, found d.csv",
        ),
        (["train", "FILE", "--out", "d", "--batch-key", "donor"], "donor"),
        (["train", "FILE", "--out", "d", "--layer", "counts"], "counts"),
        (["train", "FILE", "--out", "d", "--input", "lognorm"], "lognorm"),
    ],
)
def test_errors_are_one_message_and_status_two(
    arguments, message, file, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [file if a == "FILE" else a for a in arguments]
    before = set(tmp_path.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("scssl: error: ")
    assert message in error
    assert "Traceback" not in error
    assert set(tmp_path.iterdir()) == before, "nothing is written"
    with pytest.raises((ValueError, KeyError, TypeError, OSError)):
        main([*arguments, "--debug"])


def test_a_file_that_is_no_h5ad(tmp_path, capsys):
    (tmp_path / "cells.h5ad").write_text("barcode,gene\n")
    assert main(["train", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "d")]) == 2
    assert "cells.h5ad cannot be read as .h5ad" in capsys.readouterr().err


def test_wrong_usage_is_explained(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "cells.h5ad"])
    assert stop.value.code == 2
    assert "the following arguments are required: --out" in capsys.readouterr().err


def test_a_key_error_is_shown_without_quotes(monkeypatch, capsys):
    def fail(*_, **__):
        raise MissingKeyError("adata.obs has no 'x'")

    monkeypatch.setattr(commands, "train", fail)
    assert main(["train", "f", "--out", "d"]) == 2
    assert capsys.readouterr().err == "scssl: error: adata.obs has no 'x'\n"


def test_interrupt(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "train", interrupt)
    assert main(["train", "f", "--out", "d"]) == 130
    assert capsys.readouterr().err == "scssl: interrupted\n"


@pytest.mark.filterwarnings("default:Training was interrupted")
@pytest.mark.parametrize(
    ("numbers", "status", "word"),
    [
        ((signal.SIGINT,), 130, "interrupted"),
        ((signal.SIGINT, signal.SIGINT), 130, "interrupted"),
        ((signal.SIGTERM,), 143, "terminated"),
    ],
)
def test_signals_in_training_leave_a_model(
    file, tmp_path, monkeypatch, capsys, numbers, status, word
):
    done = Monitor.on_train_batch_end

    def receive(self, trainer, *arguments):
        done(self, trainer, *arguments)
        if trainer.current_epoch == 1:
            for number in numbers:
                signal.raise_signal(number)

    monkeypatch.setattr(Monitor, "on_train_batch_end", receive)
    before = signal.getsignal(signal.SIGTERM)
    # An epoch has several steps: one that a signal comes in the last of is whole.
    arguments = ["--out", str(tmp_path / "model"), *SMALL, "--batch-size", "10"]
    assert main(["train", file, *arguments]) == status
    assert signal.getsignal(signal.SIGTERM) is before
    shown = capsys.readouterr()
    assert shown.err.endswith(f"scssl: {word}\n")
    assert "interrupted after 1 full epochs" in shown.err
    assert f"The model is in {tmp_path / 'model'}" in shown.out
    assert scssl.model.MaskedAutoencoder.load(tmp_path / "model").training_["epochs"] == 1


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_model_is_kept_where_the_disk_is_full(file, tmp_path, monkeypatch, capsys, everywhere):
    write, out, temporary = Path.write_bytes, tmp_path / "model", tmp_path / "temporary"

    def write_where_there_is_room(self, content):
        if everywhere or temporary not in self.parents:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, content)

    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(Path, "write_bytes", write_where_there_is_room)
    assert main(["train", file, "--out", str(out), *SMALL]) == 2
    shown = capsys.readouterr()
    assert "No space left on device" in shown.err
    assert "To embed cells" not in shown.out
    assert not out.exists()
    if everywhere:
        assert "Nor could the model be saved elsewhere: [Errno 28] No space" in shown.err
        return
    (kept,) = re.findall(r"The trained model is in (\S+): move it from there\.", shown.err)
    assert scssl.model.MaskedAutoencoder.load(kept).training_["epochs"] == 2


def test_a_model_is_kept_where_another_was_saved_meanwhile(file, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "model")
    end = scssl.model.MaskedAutoencoder.train

    def train_while_another_is_saved(self, **arguments):
        end(self, **arguments)
        self.save(out)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scssl.model.MaskedAutoencoder, "train", train_while_another_is_saved)
    words = ["train", file, "--out", out, *SMALL]
    arguments = parse(words)[1]
    with pytest.raises(OSError, match=r"already holds a model.*The trained model is in \S+/model:"):
        commands.train(**arguments)


def test_sigterm_outside_of_training_leaves_nothing_half_written(
    file, tmp_path, monkeypatch, capsys
):
    def write(self, file):
        file.write_bytes(b"half of")
        signal.raise_signal(signal.SIGTERM)

    model, out = str(tmp_path / "model"), tmp_path / "out.h5ad"
    assert main(["train", file, "--out", model, *SMALL]) == 0
    monkeypatch.setattr(ad.AnnData, "write_h5ad", write)
    assert main(["embed", file, "--model", model, "--out", str(out)]) == 143
    assert capsys.readouterr().err.endswith("scssl: terminated\n")
    assert {entry.name for entry in tmp_path.iterdir()} == {"cells.h5ad", "model"}


def test_errors_that_are_ours_to_mend_are_not_hidden(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("bug")

    monkeypatch.setattr(commands, "train", fail)
    with pytest.raises(RuntimeError, match="bug"):
        main(["train", "f", "--out", "d"])


@pytest.mark.filterwarnings("default")
def test_our_warnings_are_one_line_and_others_are_not_shown(monkeypatch, capsys):
    def warn(*_, **__):
        warnings.warn("3 empty cells", ScsslWarning, stacklevel=1)
        warnings.warn("internals", UserWarning, stacklevel=1)

    monkeypatch.setattr(commands, "train", warn)
    assert main(["train", "f", "--out", "d"]) == 0
    assert capsys.readouterr().err == "scssl: warning: 3 empty cells\n"


def test_a_tissue_and_a_preset_of_a_model_without_from_preset(file, tmp_path, capsys):
    adata = ad.read_h5ad(file)
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(size=(adata.n_obs, 2))
    adata.obs["slice"] = ["a", "b"] * (adata.n_obs // 2)
    tissue = str(tmp_path / "tissue.h5ad")
    adata.write_h5ad(tissue)
    out = str(tmp_path / "model")
    few = ["--max-epochs", "1", "--batch-size", "32", "--n-latent", "4"]
    options = ["--model", "CellPLM", "--sample-key", "slice", "--spatial-key", "spatial"]
    assert main(["train", tissue, "--out", out, *options, *few]) == 0
    assert "with positions" in capsys.readouterr().out
    setup = scssl.model.CellPLM.load(out).setup
    assert (setup.sample_key, setup.spatial_key) == ("slice", "spatial")
    options = ["--model", "PseudoLabel", "--preset", "scpretrain", "--batch-key", "slice"]
    assert main(["train", tissue, "--out", str(tmp_path / "other"), *options, *few]) == 0
    assert main(["train", tissue, "--out", str(tmp_path / "no"), "--sample-key", "slice"]) == 2
    assert (
        "no option --sample-key. Of CellPLM, GraphST, STAGATE it is one." in capsys.readouterr().err
    )


def test_alone_it_shows_its_help(capsys):
    assert main([]) == 0
    assert "scssl demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("trian cells.h5ad", "scssl has no command trian. Did you mean `scssl train cells.h5ad`?"),
        ("--verison", "scssl has no option --verison. Did you mean `scssl --version`?"),
        (
            "embed a.h5ad --modle m --out b.h5ad",
            "Did you mean `scssl embed a.h5ad --model m --out b.h5ad`?",
        ),
        ("demo --oot=x", "has no option --oot. Did you mean `scssl demo --out=x`?"),
    ],
)
def test_what_is_mistyped_is_named_before_what_is_missing(typed, message, capsys):
    assert main(typed.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_wrong_usage_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "required: FILE, --out. To see what can be typed: `scssl train --help`" in error


def test_a_zarr_store_is_read_and_written(file, tmp_path, capsys):
    store, out = tmp_path / "my cells.zarr", tmp_path / "new.zarr"
    ad.read_h5ad(file).write_zarr(store)
    for name, source, options in (("a", file, []), ("b", store, []), ("c", store, ["--backed"])):
        assert main(["train", str(source), "--out", str(tmp_path / name), *SMALL, *options]) == 0
    said = capsys.readouterr().out
    assert f"scssl embed '{store}' --model {tmp_path / 'c'} --out embedded.h5ad" in said
    weights = {(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert len(weights) == 1
    command = ["embed", str(store), "--model", str(tmp_path / "c"), "--out", str(out)]
    assert main(command) == 0
    (out / "of another store").mkdir()
    assert main([*command, "--overwrite"]) == 0
    assert not (out / "of another store").exists()
    assert ad.read_zarr(out).obsm["X_ssl"].shape == (60, 4)
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "d.zarr").mkdir()
    (tmp_path / "d.zarr" / "thesis.txt").write_text("years of work")
    assert main([*command[:-1], str(tmp_path / "d.zarr"), "--overwrite"]) == 2
    assert "holds files and no Zarr store" in capsys.readouterr().err
    assert main(["embed", str(tmp_path), *command[2:], "--overwrite"]) == 2
    assert "is a folder, and no Zarr store" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_backed_embedding_equals_that_in_memory(kind, file, tmp_path, capsys, monkeypatch):
    adata = ad.read_h5ad(file)
    adata.raw = adata.copy()
    adata.obsm["X_ssl"] = np.zeros((60, 2))
    adata.X = sparse.csr_matrix(adata.X)
    cells, model = tmp_path / f"sparse.{kind}", str(tmp_path / "model")
    getattr(adata, f"write_{kind}")(cells)
    assert main(["train", str(cells), "--out", model, *SMALL]) == 0
    embed = ["embed", str(cells), "--model", model, "--out"]
    out = [str(tmp_path / f"{name}.{kind}") for name in ("memory", "backed", "large")]
    assert main([*embed, out[0], "--no-backed"]) == 0
    monkeypatch.setattr(commands, "write_cells", lambda *_: pytest.fail("it was in memory"))
    assert main([*embed, out[1], "--backed"]) == 0
    assert "stays on disk" not in capsys.readouterr().out
    monkeypatch.setattr(_files, "LARGE", 1000)
    assert main([*embed, out[2]]) == 0
    assert "its matrix stays on disk (--backed)" in capsys.readouterr().out
    # Onto itself, too.
    assert main([*embed, str(cells), "--overwrite"]) == 0
    expected, *found = (getattr(ad, f"read_{kind}")(one) for one in (*out, cells))
    for one in found:
        np.testing.assert_array_equal(one.obsm["X_ssl"], expected.obsm["X_ssl"])
        assert (one.X != expected.X).nnz == (one.raw.X != expected.raw.X).sum() == 0
        assert one.obs.equals(expected.obs)
        assert one.uns == expected.uns
    assert expected.obsm["X_ssl"].shape == (60, 4)
    assert not list(tmp_path.glob(".*"))


def test_the_key_is_checked_before_cells_are_read(file, capsys, monkeypatch):
    monkeypatch.setattr(commands, "read_cells", lambda *_, **__: pytest.fail("checked too late"))
    assert main(["embed", file, "--model", "m", "--out", "o.h5ad", "--key-added", "a/b"]) == 2
    assert "`--key-added a_b`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cells.h5ad", "a.npz"])
def test_a_file_that_is_no_checkpoint(name, file, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", a=1)
    path = str(tmp_path / name)
    assert main(["convert", "--file", path, "--out", str(tmp_path / "model")]) == 2
    assert f"{path} is not a checkpoint of torch" in capsys.readouterr().err


@pytest.fixture
def two_batches(tmp_path, monkeypatch):
    """Cells of two types in two batches, the second of which is a file of its own too."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    kind = np.arange(120) % 2
    rate = np.where(np.arange(30) % 2 == kind[:, None], 6.0, 1.0)
    adata = ad.AnnData(generator.poisson(rate).astype(np.float32))
    adata.var_names = [f"GENE{i}" for i in range(30)]
    adata.obs_names = [f"cell{i}" for i in range(120)]
    adata.obs["type"] = np.array(["B", "T"])[kind]
    adata.obs["donor"] = np.repeat(["one", "two"], [80, 40])
    adata.write_h5ad("cells.h5ad")
    adata[:80].write_h5ad("known.h5ad")
    adata[80:].write_h5ad("new.h5ad")
    return adata


def test_jobs_equal_the_calls_of_the_python_api(two_batches, capsys):
    type_known = ["--label-key", "type"]
    assert main(["annotate", "known.h5ad", "new.h5ad", *type_known, "--out", "labelled.h5ad"]) == 0
    assert '40 cells, 2 labels in .obs["ssl_label_call"]' in capsys.readouterr().out
    query = two_batches[80:].copy()
    scssl.tl.annotate(two_batches[:80].copy(), query, "type")
    written = ad.read_h5ad("labelled.h5ad")
    assert written.obs["ssl_label_novelty"].equals(query.obs["ssl_label_novelty"])

    assert main(["score", "labelled.h5ad", *type_known, "--pred-key", "ssl_label"]) == 0
    scores = scssl.tl.score_labels(query, "type", "ssl_label")
    assert f"{scores['accuracy'][0]:.3f}" in capsys.readouterr().out

    donor = ["--batch-key", "donor"]
    assert (
        main(["integrate", "cells.h5ad", *donor, "--out", "new.zarr", "--key-added", "X_new"]) == 0
    )
    assert '120 cells in .obsm["X_new"] by MNN: 120 cells of 2 batches' in capsys.readouterr().out
    scssl.tl.integrate(two_batches, "donor")
    found = ad.read_zarr("new.zarr").obsm["X_new"]
    np.testing.assert_array_equal(found, two_batches.obsm["X_integrated"])

    panel = two_batches[80:, :20].copy()
    panel.write_h5ad("panel.h5ad")
    nearest = ["--method", "pca_knn", "--genes", "GENE25", "GENE29", "--n-neighbors", "9"]
    assert main(["impute", "panel.h5ad", "known.h5ad", *nearest, "--out", "imputed.h5ad"]) == 0
    assert '40 cells, 2 genes with .var["imputed"]; mean cor' in capsys.readouterr().out
    imputed = scssl.tl.impute(
        panel, two_batches[:80].copy(), ["GENE25", "GENE29"], method="pca_knn", n_neighbors=9
    )
    assert (ad.read_h5ad("imputed.h5ad").X != imputed.X).nnz == 0

    graph = ["--method", "mnn", "--n-neighbors", "4", "--out", "graph.h5ad"]
    assert main(["neighbors", "cells.h5ad", *donor, *graph]) == 0
    assert 'graphs .obsp["mnn"], .obsp["mnn_within"]' in capsys.readouterr().out
    scssl.pp.cross_batch_neighbors(two_batches, "donor", method="mnn", n_neighbors=4)
    assert (ad.read_h5ad("graph.h5ad").obsp["mnn"] != two_batches.obsp["mnn"]).nnz == 0


def test_fine_tuning_is_a_command(two_batches, capsys):
    few = ["--max-epochs", "1", "--no-progress"]
    small = ["--hidden-dims", "8", "--n-latent", "4"]
    assert main(["train", "cells.h5ad", "--labels-key", "type", "--out", "ssl", *few, *small]) == 0
    assert main(["finetune", "cells.h5ad", "--model", "ssl", "--out", "types", *few]) == 0
    assert scssl.model.CellTypeClassifier.load("types").classes == ["B", "T"]
    assert main(["finetune", "cells.h5ad", "--model", "ssl", "--out", "types", *few]) == 2
    assert "types exists already" in capsys.readouterr().err
