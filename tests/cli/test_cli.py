"""The command line says what it does, passes on what was typed, and fails in one line."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pytest

import scssl
from scssl._errors import ScsslWarning
from scssl.cli import _commands as commands
from scssl.cli import main
from scssl.cli._parser import (
    EMBED_OPTIONS,
    MODEL_OPTIONS,
    SETUP_OPTIONS,
    TRAIN_OPTIONS,
    build_parser,
)

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


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"scssl {scssl.__version__}\n"


@pytest.mark.parametrize(
    ("options", "function", "not_typed"),
    [
        (SETUP_OPTIONS, lambda model: model.setup_anndata, {"adata", "kwargs"}),
        (
            MODEL_OPTIONS,
            lambda model: model.__init__,
            {"self", "adata", "registry", "rng", "decoder"},
        ),
        (TRAIN_OPTIONS, lambda model: model.train, {"self", "callbacks"}),
        (EMBED_OPTIONS, lambda model: scssl.tl.embed, {"adata", "model", "copy", "token"}),
    ],
    ids=["setup", "model", "train", "embed"],
)
def test_options_are_those_of_the_python_api(options, function, not_typed):
    parameters = inspect.signature(function(scssl.model.MaskedAutoencoder)).parameters
    # Which model, and what only the models have that compare views, or whose cells see each other.
    others = {"model", "augmentation"} if options is MODEL_OPTIONS else set()
    if options is SETUP_OPTIONS:
        others = {"sample_key", "spatial_key"}
        assert others < set(inspect.signature(scssl.model.CellPLM.setup_anndata).parameters)
    assert set(options) - others == set(parameters) - not_typed
    for name, settings in options.items():
        if name in others or "by model" in settings["help"]:
            continue
        default = parameters[name].default
        if "(default: " not in settings["help"] or default is None:
            continue
        stated = settings["help"].split("(default: ")[1].rstrip(")")
        if isinstance(default, bool):
            assert stated == ("yes" if default else "no")
        elif isinstance(default, str):
            assert stated == default
        else:
            assert float(stated) == default


def test_only_what_was_typed_is_passed_on():
    parse = build_parser().parse_args
    assert set(vars(parse(["train", "f", "--out", "d"]))) == {
        *("run", "debug", "file", "out", "overwrite", "backed")
    }
    typed = vars(
        parse(
            ["train", "f", "--out", "d", "--hidden-dims", "64", "32", "--no-early-stopping"]
            + ["--devices", "2", "--lr", "1e-3", "--batch-key", "donor"]
        )
    )
    assert typed["hidden_dims"] == [64, 32]
    assert typed["early_stopping"] is False
    assert (typed["devices"], typed["lr"], typed["batch_key"]) == (2, 1e-3, "donor")
    for text, value in (("auto", "auto"), ("3", 3), ("all", None)):
        typed = vars(parse(["train", "f", "--out", "d", "--n-output-genes", text]))
        assert typed["n_output_genes"] == value


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


def test_another_model(file, tmp_path, capsys):
    out = str(tmp_path / "model")
    views = ["--model", "VICReg", "--augmentation", "mask", "gene_swap"]
    assert main(["train", file, "--out", out, *views, *SMALL]) == 0
    adata = ad.read_h5ad(file)
    Model = scssl.model.VICReg
    Model.setup_anndata(adata)
    model = Model(adata, augmentation=["mask", "gene_swap"], hidden_dims=[16], n_latent=4)
    model.train(max_epochs=2, progress=False)
    np.testing.assert_array_equal(
        Model.load(out).get_latent_representation(adata), model.get_latent_representation()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "VICReg", "--masking", "random"], "VICReg has no option --masking"),
        (["--augmentation", "mask"], "MaskedAutoencoder has no option --augmentation"),
        (["--model", "SimClear"], "There is no model 'SimClear'"),
        (["--model", "CellTypeClassifier"], "CellTypeClassifier.from_ssl_model"),
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
    monkeypatch.setattr(commands, "_read", lambda *_, **__: pytest.fail("checked too late"))
    assert main(["train", file, "--out", str(model_dir), *SMALL]) == 2
    assert "model exists already. Give another --out, or --overwrite" in capsys.readouterr().err
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
            "--out must end in .h5ad, found d.csv",
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
        raise KeyError("adata.obs has no 'x'")

    monkeypatch.setattr(commands, "train", fail)
    assert main(["train", "f", "--out", "d"]) == 2
    assert capsys.readouterr().err == "scssl: error: adata.obs has no 'x'\n"


def test_interrupt(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "train", interrupt)
    assert main(["train", "f", "--out", "d"]) == 130
    assert capsys.readouterr().err == "scssl: interrupted\n"


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
    assert "sample_key" in capsys.readouterr().err
