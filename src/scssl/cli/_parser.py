"""What can be typed. Nothing heavy is imported here: ``scssl --help`` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

DESCRIPTION = """\
Learn representations of single cells without labels, and use them.

Start with the demo, which needs no data and no network:

  scssl demo

Then on your own cells (an .h5ad file with raw counts, or log-normalised values):

  scssl train cells.h5ad --out my_model
  scssl embed cells.h5ad --model my_model --out embedded.h5ad

The embedding is in .obsm["X_ssl"] of the new file, ready for scanpy:

  sc.pp.neighbors(adata, use_rep="X_ssl")
"""

TRAIN = """\
Train a model on the cells of an .h5ad file and save it as a folder.

Values are raw counts or log-normalised; which one is detected, and a contradiction is an error.
"""
TRAIN_EXAMPLES = """\
examples:
  scssl train cells.h5ad --out my_model
  scssl train cells.h5ad --out my_model --layer counts --batch-key donor --labels-key cell_type
  scssl train atlas.h5ad --backed --out my_model --batch-size 4096 --precision bf16-mixed
  scssl train cells.h5ad --out my_model --checkpoint-dir checkpoints
  scssl train cells.h5ad --out my_model --resume-from checkpoints      # go on after an interruption
"""
EMBED = """\
Embed the cells of an .h5ad file with a trained model.

Genes are matched by name; how many were found is written to .uns beside the embedding.
"""
EMBED_EXAMPLES = """\
example:
  scssl embed cells.h5ad --model my_model --out embedded.h5ad
  scssl embed cells.h5ad --model owner/name --out embedded.h5ad     # from the Hugging Face Hub
"""
DEMO = """\
Train on 700 real blood cells that come with scanpy, in under a minute and without a network.

Compares the embedding with PCA and with an untrained model by how well a cell's neighbours tell its
type, and writes the cells, the model, the training curves and a UMAP to a folder.
"""


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command line."""
    from ._convert import add_convert

    parser = argparse.ArgumentParser(
        prog="scssl", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"scssl {version('scssl')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_train(commands)
    _add_embed(commands)
    add_convert(commands)
    return parser


def _add_command(
    commands: Any, name: str, run: Callable[[dict[str, Any]], None], **texts: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_demo(commands: Any) -> None:
    def run(arguments: dict[str, Any]) -> None:
        from ._demo import demo

        demo(**arguments)

    parser = _add_command(
        commands, "demo", run, help="try it: train, embed, compare, draw", description=DEMO
    )
    parser.add_argument(
        "--out", metavar="DIR", default="scssl_demo", help="folder to write (default: scssl_demo)"
    )
    parser.add_argument(
        "--rng",
        metavar="SEED",
        type=int,
        default=0,
        help="seed of every random choice (default: 0)",
    )


def _add_embed(commands: Any) -> None:
    def run(arguments: dict[str, Any]) -> None:
        from ._commands import embed

        embed(**arguments)

    parser = _add_command(
        commands,
        "embed",
        run,
        help="embed cells with a trained model",
        description=EMBED,
        epilog=EMBED_EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE.h5ad", help="cells to embed")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=True,
        help="folder that `scssl train` wrote, or a model on the Hugging Face Hub (owner/name)",
    )
    _add_output(parser, "FILE.h5ad", "file to write: the cells with their embedding")
    options = parser.add_argument_group("options of scssl.tl.embed")
    _add_options(options, EMBED_OPTIONS)


def _add_train(commands: Any) -> None:
    def run(arguments: dict[str, Any]) -> None:
        from ._commands import train

        train(**arguments)

    parser = _add_command(
        commands,
        "train",
        run,
        help="train a model on an .h5ad file",
        description=TRAIN,
        epilog=TRAIN_EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE.h5ad", help="cells to learn from")
    _add_output(parser, "DIR", "folder to save the model in")
    parser.add_argument(
        "--backed", action="store_true", help="leave the matrix on disk and read it batch by batch"
    )
    for title, options in (
        ("data (setup_anndata)", SETUP_OPTIONS),
        ("model", MODEL_OPTIONS),
        ("training (train)", TRAIN_OPTIONS),
    ):
        _add_options(parser.add_argument_group(title), options)


def _add_output(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    parser.add_argument("--out", metavar=metavar, required=True, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")


def _add_options(group: Any, options: Mapping[str, Mapping[str, Any]]) -> None:
    for name, settings in options.items():
        # What is not typed is not passed on, so that every default is that of the Python API.
        group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, **settings)


def _int_or_text(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _number_of_genes(text: str) -> int | str | None:
    return None if text == "all" else _int_or_text(text)


def _key_value(text: str) -> tuple[str, str | float]:
    key, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text}")
    try:
        return key, float(value)
    except ValueError:
        return key, value


def _mask_signal(text: str) -> str | None:
    return None if text == "none" else text


SETUP_OPTIONS: dict[str, dict[str, Any]] = {
    "layer": {"metavar": "NAME", "help": "layer with the values (default: X)"},
    "batch_key": {"metavar": "COLUMN", "help": "column of obs with the batch"},
    "sample_key": {
        "metavar": "COLUMN",
        "help": "of CellPLM: column of obs with the sample, whose cells see each other",
    },
    "spatial_key": {
        "metavar": "NAME",
        "help": "of CellPLM: entry of obsm with the places of the cells",
    },
    "labels_key": {
        "metavar": "COLUMN",
        "help": "column of obs with cell types; only to choose validation cells of every type",
    },
    "categorical_covariate_keys": {
        "metavar": "COLUMN",
        "nargs": "+",
        "help": "further columns of obs",
    },
    "continuous_covariate_keys": {
        "metavar": "COLUMN",
        "nargs": "+",
        "help": "further columns of obs",
    },
    "input": {
        "choices": ["auto", "counts", "lognorm"],
        "help": "kind of values: raw counts, log-normalised, or detected (default: auto)",
    },
    "target_sum": {
        "metavar": "N",
        "type": float,
        "help": "sum of a cell before the logarithm, for counts (default: 10000)",
    },
}
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "model": {
        "metavar": "NAME",
        "help": "MaskedAutoencoder (default), SimCLR, VICReg, BarlowTwins, BYOL, MoCo, NNCLR, SimSiam, "
        "DINO, PseudoLabel or CellPLM",
    },
    "augmentation": {
        "metavar": "NAME",
        "nargs": "+",
        "help": "of the models that compare views: what makes them, in this order, such as mask gene_swap "
        "(default: default)",
    },
    "hidden_dims": {
        "metavar": "N",
        "nargs": "+",
        "type": int,
        "help": "widths of the encoder's hidden layers (default: by model)",
    },
    "n_latent": {"metavar": "N", "type": int, "help": "dimensions of the embedding (default: 64)"},
    "dropout": {
        "metavar": "RATE",
        "type": float,
        "help": "share of units dropped in training (default: by model)",
    },
    "activation": {
        "metavar": "NAME",
        "help": "selu, gelu, relu, silu or leaky_relu (default: by model)",
    },
    "masking": {
        "choices": ["random", "gene_program", "gp_to_gp", "gp_to_tf"],
        "help": "what is hidden from the encoder; the last three need gene programmes in the file, as "
        "scssl.pp.gene_programs or scssl.pp.tf_targets write them (default: random)",
    },
    "mask_rate": {
        "metavar": "RATE",
        "type": float,
        "help": "share that is hidden (default: 0.5 of the values, or 0.25 of the programmes)",
    },
    "mask_options": {
        "metavar": "NAME=VALUE",
        "nargs": "+",
        "type": _key_value,
        "help": "further arguments of the mask, such as per=batch or hide_fraction=0.5",
    },
    "programs_key": {
        "metavar": "KEY",
        "help": "where the gene programmes are in varm and uns (default: gene_programs or tf_targets)",
    },
    "mask_signal": {
        "metavar": "NAME",
        "type": _mask_signal,
        "help": "rescale what is visible, give an indicator of what is hidden, or none "
        "(default: rescale)",
    },
    "loss": {
        "choices": ["mse", "nb", "zinb", "bce"],
        "help": "squared error, likelihood of the counts, or detection (default: mse)",
    },
    "latent_activation": {
        "action": argparse.BooleanOptionalAction,
        "help": "activation after the embedding layer too (default: no)",
    },
    "output_activation": {
        "choices": ["sigmoid"],
        "help": "sigmoid only to reproduce the published code (default: none)",
    },
    "encode_covariates": {
        "action": argparse.BooleanOptionalAction,
        "help": "tell the encoder too the batch and the covariates (default: no)",
    },
    "preset": {
        "metavar": "NAME",
        "help": "a published recipe, such as ssl_in_scg.random_mask; options given here win",
    },
}
TRAIN_OPTIONS: dict[str, dict[str, Any]] = {
    "max_epochs": {
        "metavar": "N",
        "type": int,
        "help": "passes over the cells at most (default: by number of cells)",
    },
    "batch_size": {
        "metavar": "N",
        "type": int,
        "help": "cells per step (default: by number of cells)",
    },
    "lr": {"metavar": "RATE", "type": float, "help": "learning rate"},
    "weight_decay": {"metavar": "RATE", "type": float, "help": "weight decay"},
    "lr_schedule": {
        "choices": ["constant", "cosine", "step"],
        "help": "course of the learning rate; step is times 0.9 every two epochs",
    },
    "train_size": {
        "metavar": "SHARE",
        "type": float,
        "help": "share of the cells to learn from; the rest validates (default: 0.9)",
    },
    "early_stopping": {
        "action": argparse.BooleanOptionalAction,
        "help": "stop when the validation loss no longer falls (default: yes)",
    },
    "patience": {"metavar": "N", "type": int, "help": "epochs without improvement before it stops"},
    "gradient_clip": {"metavar": "NORM", "type": float, "help": "largest norm of the gradient"},
    "n_output_genes": {
        "metavar": "N",
        "type": _number_of_genes,
        "help": "genes predicted per step: a number, all or auto (default: auto)",
    },
    "accelerator": {"metavar": "NAME", "help": "cpu, gpu or auto (default: auto)"},
    "devices": {
        "metavar": "N",
        "type": _int_or_text,
        "help": "number of devices; auto is one (default: auto)",
    },
    "strategy": {"metavar": "NAME", "help": "how several devices share the work, such as ddp"},
    "precision": {"metavar": "NAME", "help": "such as bf16-mixed (default: float32)"},
    "compile": {
        "action": argparse.BooleanOptionalAction,
        "help": "compile the hidden layers with torch.compile (default: no)",
    },
    "checkpoint_dir": {"metavar": "DIR", "help": "folder to keep the state of training in"},
    "resume_from": {"metavar": "DIR", "help": "go on with the training kept in this folder"},
    "rng": {
        "metavar": "SEED",
        "type": int,
        "help": "seed of every random choice, the initial weights included (default: 0)",
    },
    "progress": {
        "action": argparse.BooleanOptionalAction,
        "help": "show progress (default: yes)",
    },
}
EMBED_OPTIONS: dict[str, dict[str, Any]] = {
    "key_added": {"metavar": "KEY", "help": "name of the embedding (default: X_ssl)"},
    "batch_size": {
        "metavar": "N",
        "type": int,
        "help": "cells to read at a time; the embedding does not depend on it",
    },
    "min_overlap": {
        "metavar": "SHARE",
        "type": float,
        "help": "share of the model's genes that the file must have (default: 0.5)",
    },
    "revision": {
        "metavar": "NAME",
        "help": "branch, tag or commit of a model on the hub (default: the newest)",
    },
}
