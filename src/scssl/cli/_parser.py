"""What can be typed. Nothing heavy is imported here: ``scssl --help`` answers at once."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

from ._convert import add_convert
from ._options import (
    EMBED_OPTIONS,
    MODEL_OPTIONS,
    SETUP_OPTIONS,
    TRAIN_OPTIONS,
    add_command,
    add_options,
    add_output,
)

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


def _add_demo(commands: Any) -> None:
    def run(arguments: dict[str, Any]) -> None:
        from ._demo import demo

        demo(**arguments)

    parser = add_command(
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

    parser = add_command(
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
    add_output(parser, "FILE.h5ad", "file to write: the cells with their embedding")
    options = parser.add_argument_group("options of scssl.tl.embed")
    add_options(options, EMBED_OPTIONS)


def _add_train(commands: Any) -> None:
    def run(arguments: dict[str, Any]) -> None:
        from ._commands import train

        train(**arguments)

    parser = add_command(
        commands,
        "train",
        run,
        help="train a model on an .h5ad file",
        description=TRAIN,
        epilog=TRAIN_EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE.h5ad", help="cells to learn from")
    add_output(parser, "DIR", "folder to save the model in")
    parser.add_argument(
        "--backed", action="store_true", help="leave the matrix on disk and read it batch by batch"
    )
    for title, options in (
        ("data (setup_anndata)", SETUP_OPTIONS),
        ("model", MODEL_OPTIONS),
        ("training (train)", TRAIN_OPTIONS),
    ):
        add_options(parser.add_argument_group(title), options)
