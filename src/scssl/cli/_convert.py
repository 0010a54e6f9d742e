"""``scssl convert``: a published checkpoint as a model folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ._options import add_command, add_options, add_output

CONVERT = """\
Make a model folder of a checkpoint that Richter et al. (2025) published (TillR/sc_pretrained on the
Hugging Face Hub): random mask, gene-programme mask, BYOL, Barlow Twins, reconstruction or classifier;
or of a CellPLM (Wen et al. 2024), two files whose names end with .best.ckpt and .config.json.

Which one it is is told from its tensors. The file is not unpickled: only tensors are read, and each of
them is used, set aside for a reason, or an error.
"""
CONVERT_EXAMPLES = """\
examples:
  scssl convert --file RandomMask.ckpt --genes var.parquet --out random_mask
  scssl convert --repo TillR/sc_pretrained --file BYOL.ckpt --out byol
  scssl convert --file HLCA_SSL.ckpt --genes var.parquet --classes cell_types.txt --out hlca
  scssl convert --file ckpt/20231027_85M.best.ckpt --symbols genes.csv --out cellplm
"""
CONVERT_OPTIONS: dict[str, dict[str, Any]] = {
    "genes": {
        "metavar": "FILE",
        "help": "table of the genes in the order of the network's inputs, with the columns feature_id "
        "and feature_name: .parquet, .csv or .tsv (default: var.parquet beside the checkpoint)",
    },
    "legacy_output": {
        "action": "store_true",
        "help": "reconstruct with the sigmoid of the published code",
    },
    "pretext": {
        "metavar": "TEXT",
        "help": "what the network was trained to do, which the file does not tell; only recorded",
    },
    "layer": {
        "metavar": "NAME",
        "help": "layer with the counts of the cells that will be embedded (default: X)",
    },
    "labels_key": {
        "metavar": "COLUMN",
        "help": "with --classes: column of obs with the classes (default: cell_type)",
    },
    "variant": {
        "choices": ["auto", "gmvae", "vae", "ae"],
        "help": "of a CellPLM: what it must be (default: told from the tensors)",
    },
    "symbols": {
        "metavar": "FILE",
        "help": "of a CellPLM: table with the columns feature_id and feature_name, by which cells whose "
        "genes are symbols are matched: .parquet, .csv or .tsv",
    },
    "sample_key": {
        "metavar": "COLUMN",
        "help": "of a CellPLM: column of obs with the sample of each cell (default: all are one)",
    },
    "spatial_key": {
        "metavar": "NAME",
        "help": "of a CellPLM: entry of obsm with the place of each cell",
    },
    "sha256": {"metavar": "DIGEST", "help": "digest that the checkpoint must have"},
    "revision": {
        "metavar": "NAME",
        "help": "with --repo: branch, tag or commit (default: the newest)",
    },
}


_OF_CELLPLM = ("variant", "symbols", "sample_key", "spatial_key")
_OF_OTHERS = ("genes", "legacy_output", "pretext", "labels_key")


def add_convert(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "convert",
        lambda arguments: convert(**arguments),
        help="make a model of a published checkpoint",
        description=CONVERT,
        epilog=CONVERT_EXAMPLES,
    )
    parser.add_argument(
        "--file", metavar="FILE.ckpt", required=True, help="the checkpoint; with --repo one in it"
    )
    parser.add_argument(
        "--repo", metavar="OWNER/NAME", help="repository of the Hugging Face Hub to read from"
    )
    add_output(parser, "DIR", "folder to save the model in")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names of a classifier's classes, one per line, in the order of the network's outputs; "
        "without it, of a classifier the encoder alone is converted",
    )
    add_options(parser.add_argument_group("options of from_pretrained"), CONVERT_OPTIONS)


def convert(
    *,
    file: str,
    out: str,
    repo: str | None = None,
    overwrite: bool = False,
    classes: str | None = None,
    **options: Any,
) -> None:
    """Convert the checkpoint ``file`` and save the model in ``out``."""
    from ._commands import _check_input, _check_output

    _check_output(Path(out), overwrite=overwrite)
    if repo is None:
        _check_input(file)
    cellplm = file.endswith((".best.ckpt", ".config.json"))
    given = [*options, *([] if classes is None else ["classes"])]
    wrong = [n for n in given if n in ((*_OF_OTHERS, "classes") if cellplm else _OF_CELLPLM)]
    if wrong:
        kind = "a CellPLM" if cellplm else "no CellPLM, whose names end with .best.ckpt"
        raise ValueError(f"--{wrong[0].replace('_', '-')} does not apply: {file} is {kind}.")
    if classes is not None:
        options["classes"] = _read_classes(_check_input(classes))
        if options.pop("legacy_output", False) or options.pop("pretext", None) is not None:
            raise ValueError(
                "--legacy-output and --pretext are for autoencoders, --classes for classifiers."
            )
    elif "labels_key" in options:
        raise ValueError("--labels-key is the column of the classes: pass --classes too.")
    if "genes" in options and Path(options["genes"]).is_file():
        # What is typed is meant from here, not from the folder of the checkpoint.
        options["genes"] = str(Path(options["genes"]).resolve())

    from scssl._settings import settings
    from scssl.hub import check_target
    from scssl.model import CellPLM, CellTypeClassifier, MaskedAutoencoder

    check_target(Path(out), overwrite=overwrite)
    model_class: Any = MaskedAutoencoder if classes is None else CellTypeClassifier
    model_class = CellPLM if cellplm else model_class
    where = {"source": file}
    if repo is not None:
        where = {"source": repo, "prefix" if cellplm else "file": file}
    try:
        # What it would log is in the summary.
        with settings.override(verbosity="warning"):
            model = model_class.from_pretrained(**where, **options)
    except ImportError as error:
        raise ValueError(str(error)) from error
    model.save(out, overwrite=overwrite)
    print(model)
    print(_summary(model.source))
    print(
        f"The model is in {out}. To embed cells with it:\n"
        f"  scssl embed cells.h5ad --model {out} --out embedded.h5ad"
    )


def _read_classes(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: one class per line is expected.") from error
    return [line.strip() for line in lines if line.strip()]


def _summary(source: dict[str, Any]) -> str:
    """What became of the tensors, and what to know of the model."""
    reasons = Counter(
        "the same as others" if reason.startswith("the same tensor") else reason
        for reason in source["unused"].values()
    )
    lines = [f"  sha256 {source['sha256']}", f"  tensors used: {len(source['used'])}"]
    lines += [f"  tensors not used: {n} ({reason})" for reason, n in reasons.items()]
    return "\n".join([*lines, *(f"  note: {note}" for note in source["notes"])])
