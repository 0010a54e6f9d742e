"""Options of the commands. Nothing heavy is imported here: ``scssl --help`` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any


def add_command(
    commands: Any, name: str, run: Callable[[dict[str, Any]], None], **texts: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_output(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    parser.add_argument("--out", metavar=metavar, required=True, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")


def add_options(group: Any, options: Mapping[str, Mapping[str, Any]]) -> None:
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
