"""The commands: each is a call of the public Python API.

What is heavy is imported when a command runs, or when its options are asked for.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._demo import demo
from ._options import Groups, first_sentence, options_of

if TYPE_CHECKING:
    from anndata import AnnData


def train(
    file: str | Path,
    *,
    out: str | Path,
    model: str = "MaskedAutoencoder",
    ssl_model: str | None = None,
    overwrite: bool = False,
    backed: bool = False,
    **options: Any,
) -> None:
    """Train a model on the cells of an .h5ad file or a Zarr store and save it as a folder.

    Values are raw counts or log-normalised; which one is detected, and a contradiction is an error.

    Parameters
    ----------
    file
        Cells to learn from.
    out
        Folder to save the model in.
    model
        Which model.
    ssl_model
        Trained model to start from, its folder or its name on the Hugging Face Hub.
    overwrite
        Replace what --out holds.
    backed
        Leave the matrix on disk and read it batch by batch.
    **options
        Of ``setup_anndata``, of the model and of its ``train``.
    """
    path = _check_cells(file)
    # Before, not after, hours of training.
    folder = _check_output(out, overwrite=overwrite, folder=True)

    from scssl.hub import check_target

    check_target(folder, overwrite=overwrite)
    model_class = _model_class(model)
    if ssl_model is None and not model_class._learns_embeddings:
        first = f"{folder}_ssl"
        line = shlex.join(["scssl", "train", str(file), "--out", first])
        raise ValueError(
            f"{model} starts from a trained model. Train one, `{line}`, and start from it: "
            f"`--ssl-model {shlex.quote(first)}`"
        )
    groups = model_options(model_class, from_ssl_model=ssl_model is not None).values()
    for option in [option for group in groups for option in group.values()]:
        if option.is_required and option.name not in options:
            raise ValueError(f"{model} needs {option.flag}: {option.help}.")
    setup, make, fit = (
        {name: options[name] for name in group if name in options} for group in groups
    )
    adata = _read(path, backed=backed)
    if ssl_model is not None:
        trained = model_class.from_ssl_model(ssl_model, adata, **make)
    else:
        model_class.setup_anndata(adata, **setup)
        if "preset" in make and hasattr(model_class, "from_preset"):
            trained = model_class.from_preset(make.pop("preset"), adata, **make)
        else:
            trained = model_class(adata, **make)
    try:
        trained.train(**fit)
    finally:
        # What was learnt before Ctrl-C or SIGTERM, too; of a run that failed there is nothing.
        if trained.is_trained_:
            _save(trained, out, overwrite=overwrite)
            print(trained)
            _tell_next(out, file)
    if trained.training_["stopped_by"] == "interrupt":
        raise KeyboardInterrupt


def embed(
    file: str | Path, *, model: str, out: str | Path, overwrite: bool = False, **options: Any
) -> None:
    """Embed the cells of an .h5ad file or a Zarr store with a trained model.

    Genes are matched by name; how many were found is written to .uns beside the embedding.

    Parameters
    ----------
    file
        Cells to embed.
    model
        Folder that `scssl train` wrote, or a model on the Hugging Face Hub (owner/name).
    out
        File to write, .h5ad or .zarr: the cells with their embedding.
    overwrite
        Replace what --out holds.
    **options
        Of :func:`scssl.tl.embed`.
    """
    path, suffix = _check_cells(file), Path(out).suffix
    if suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"--out must end in .h5ad or .zarr, found {out}.")
    n_bytes = path.stat().st_size if path.is_file() else 0
    target = _check_output(out, overwrite=overwrite, folder=suffix == ".zarr", n_bytes=n_bytes)
    key = options.get("key_added", "X_ssl")

    from scssl._checks import check_destination
    from scssl.tl import embed as tl_embed

    check_destination(None, key)
    adata = _read(path, backed=False)
    tl_embed(adata, model, **options)
    _write(adata, target)
    n_cells, n_latent = adata.obsm[key].shape
    print(f'{out}: {n_cells:,} cells, {n_latent} dimensions in .obsm["{key}"].')


def convert(
    *,
    file: str | Path,
    out: str | Path,
    repo: str | None = None,
    overwrite: bool = False,
    classes: str | Path | None = None,
    **options: Any,
) -> None:
    """Make a model folder of a checkpoint that others published.

    Those of Richter et al. (2025), TillR/sc_pretrained on the Hugging Face Hub: random mask, gene-programme
    mask, BYOL, Barlow Twins, reconstruction or classifier; and CellPLM (Wen et al. 2024), two files whose
    names end with .best.ckpt and .config.json.

    Which one it is is told from its tensors. The file is not unpickled: only tensors are read, and each of
    them is used, set aside for a reason, or an error.

    Parameters
    ----------
    file
        The checkpoint; with --repo one in it. What else there is to say of it: --file FILE --help.
    out
        Folder to save the model in.
    repo
        Repository of the Hugging Face Hub to read from (owner/name).
    overwrite
        Replace what --out holds.
    classes
        File with the names of a classifier's classes, one per line, in the order of the network's outputs;
        without it, of a classifier the encoder alone is converted.
    **options
        Of ``from_pretrained`` of the model.
    """
    folder = _check_output(out, overwrite=overwrite, folder=True)
    if repo is None:
        _check_input(file)

    from scssl import model
    from scssl._io import as_path
    from scssl._settings import settings
    from scssl.hub import check_target

    cellplm = str(file).endswith((".best.ckpt", ".config.json"))
    autoencoder, classifier = (
        options_of(one, "from_pretrained")
        for one in (model.MaskedAutoencoder, model.CellTypeClassifier)
    )
    known = options_of(model.CellPLM, "from_pretrained") if cellplm else autoencoder | classifier
    for name in [*options, *([] if classes is None else ["classes"])]:
        if name not in known:
            kind = "a CellPLM" if cellplm else "no CellPLM, whose names end with .best.ckpt"
            raise ValueError(f"--{name.replace('_', '-')} does not apply: {file} is {kind}.")
    if classes is not None:
        options["classes"] = _read_classes(_check_input(classes))
        for name in options:
            if name not in classifier:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is for autoencoders, --classes for classifiers.")
    elif "labels_key" in options:
        raise ValueError("--labels-key is the column of the classes: pass --classes too.")
    if "genes" in options and (genes := as_path(options["genes"])).is_file():
        # What is typed is meant from here, not from the folder of the checkpoint.
        options["genes"] = str(genes.resolve())

    check_target(folder, overwrite=overwrite)
    model_class: Any = model.MaskedAutoencoder if classes is None else model.CellTypeClassifier
    model_class = model.CellPLM if cellplm else model_class
    where = {"source": file}
    if repo is not None:
        where = {"source": repo, "prefix" if cellplm else "file": file}
    try:
        # What it would log is in the summary.
        with settings.override(verbosity="warning"):
            converted = model_class.from_pretrained(**where, **options)
    except ImportError as error:
        raise ValueError(str(error)) from error
    converted.save(out, overwrite=overwrite)
    print(converted)
    print(_summary(converted.source))
    _tell_next(out, "cells.h5ad")


def _save(trained: Any, out: str | Path, *, overwrite: bool) -> None:
    """Save a model in --out, or where temporary files are if that cannot be written any more."""
    try:
        trained.save(out, overwrite=overwrite)
    except (OSError, ValueError) as error:
        problem = str(error).rstrip(".")
        try:
            kept = Path(tempfile.mkdtemp(prefix="scssl-")) / "model"
            trained.save(kept)
        except OSError as second:
            raise OSError(f"{problem}. Nor could the model be saved elsewhere: {second}") from error
        raise OSError(f"{problem}. The trained model is in {kept}: move it from there.") from error


def benchmark(
    file: str | Path,
    *overrides: str,
    out: str | Path,
    n_jobs: int | None = None,
    dry_run: bool = False,
) -> None:
    """Compare methods on data sets, as a study in a YAML file says.

    Its keys are the arguments of scssl.tl.benchmark; under data each data set by name has its file (beside
    the study or in SCSSL_DATA_DIR), and arguments of its own. Everything is checked before anything runs; a
    study that was killed goes on when it is typed again.

    Parameters
    ----------
    file
        The study.
    *overrides
        Keys to set, such as seeds=2 or methods.SimCLR.temperature=0.1,0.2.
    out
        Folder for the results. Studies that share it are one table.
    n_jobs
        Fits at the same time.
    dry_run
        Print what would be run, and how long it may take, and stop.
    """
    from ._study import Study

    study = Study(file, overrides, read=lambda path: _read(path, backed=False))
    from scssl import tl

    plans = []
    for name in study.data:
        adata, arguments = study.read(name)
        plans.append(tl.benchmark(adata, **arguments, out=out, dry_run=True))
    import pandas as pd

    plan = pd.concat(plans, ignore_index=True)
    n_fits, n_done = int(plan["n_fits"].sum()), int(plan["n_done"].sum())
    minutes = plan["seconds"].sum() / 60
    if dry_run:
        print(plan.to_string(index=False))
    print(
        f"{n_fits} fits, {n_done} of them done; the others may take {minutes:.0f} min on one core."
    )
    if dry_run:
        return
    for name in study.data:
        adata, arguments = study.read(name)
        tl.benchmark(adata, **arguments, out=out, n_jobs=n_jobs)
    summary = tl.benchmark_summary(out)
    shown = ["data", "task", "metric", "n_labels", "method", "mean", "low", "high", "n"]
    print(summary[shown].to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(summary.attrs["sentence"])
    print(f"All values are in {Path(out) / 'results.csv'}.")


def _tell_next(out: str | Path, cells: str | Path) -> None:
    print(f"The model is in {out}. To embed cells with it:")
    print(
        f"  {shlex.join(['scssl', 'embed', str(cells), '--model', str(out)])} --out embedded.h5ad"
    )


def model_options(model_class: Any, *, from_ssl_model: bool) -> Groups:
    """Options of setting up data, of making a model and of training it."""
    skip = ("adata", "registry", "model", "callbacks")
    make = options_of(model_class, "__init__", skip=skip)
    fit = options_of(model_class, "train", skip=skip)
    # Further arguments of this one are there for scvi-tools.
    setup = options_of(model_class, "setup_anndata", skip=skip, handed_on=False)
    if from_ssl_model:
        # Sets up the data itself, and hands on to the model what is not its own.
        own = options_of(model_class, "from_ssl_model", skip=skip)
        make, setup = ({**make, **own} if model_class._learns_embeddings else own), {}
    make["rng"] = fit["rng"] = replace(
        fit["rng"], text="Seed of every random choice, the initial weights included."
    )
    return {"data (setup_anndata)": setup, f"model ({model_class.__name__})": make, "training": fit}


def _train_options(words: Sequence[str]) -> Groups:
    name = typed(words, "--model")
    if name is None and ("--help" in words or "-h" in words):
        return {}
    known = models_in_source()
    if name is not None and name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"Did you mean `--model {close[0]}`? " if close else ""
        raise ValueError(f"There is no model {name!r}. {hint}There are {', '.join(known)}.")
    model_class = _model_class(name or "MaskedAutoencoder")
    from_ssl_model = typed(words, "--ssl-model") is not None or not model_class._learns_embeddings
    return model_options(model_class, from_ssl_model=from_ssl_model)


def _embed_options(words: Sequence[str]) -> Groups:
    from scssl import tl

    return {
        "embedding (scssl.tl.embed)": options_of(tl.embed, skip=["adata", "model", "token", "copy"])
    }


def _convert_options(words: Sequence[str]) -> Groups:
    if typed(words, "--file") is None:
        return {}
    from scssl import model

    skip = ("source", "file", "prefix", "classes", "adata", "device", "token")
    names = ("MaskedAutoencoder", "CellTypeClassifier", "CellPLM")
    readers = {name: getattr(model, name) for name in names}
    return {
        f"{name}.from_pretrained": options_of(one, "from_pretrained", skip=skip)
        for name, one in readers.items()
    }


def typed(words: Sequence[str], flag: str) -> str | None:
    """What was typed for an option last, before anything is parsed."""
    found = None
    for word, following in zip(words, [*words, None][1:], strict=True):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def models_in_source() -> dict[str, str]:
    """Names of the registered models and what each does, without importing any of them."""
    folder = Path(__file__).parents[1] / "model"
    registered = re.compile(r'^@register_model\nclass (\w+)\(.*\):\n    r?"""(.*?)\n', re.MULTILINE)
    found = [
        match
        for path in folder.rglob("*.py")
        for match in registered.findall(path.read_text(encoding="utf-8"))
    ]
    texts = ((name, re.sub(r" :cite:\w:`[^`]*`", "", text)) for name, text in sorted(found))
    return {name: first_sentence(text) for name, text in texts}


def models_with(flag: str) -> list[str]:
    """Names of the models that have this option."""
    name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    found = []
    for model in models_in_source():
        model_class = _model_class(model)
        starts = model_class._learns_embeddings
        groups = model_options(model_class, from_ssl_model=not starts).values()
        found += [model] if any(name in group for group in groups) else []
    return found


def _model_class(name: str) -> Any:
    from scssl.model import get_model_class

    return get_model_class(name)


def _check_input(file: str | Path) -> Path:
    from scssl._io import as_path

    path = as_path(file)
    if not path.is_file():
        problem = (
            f"{path} is a folder, not a file." if path.is_dir() else f"There is no file {path}."
        )
        raise FileNotFoundError(problem)
    return path


def _check_cells(file: str | Path) -> Path:
    from scssl._io import as_path

    path = as_path(file)
    if path.is_dir() and not _is_zarr(path):
        raise ValueError(
            f"{path} is a folder, and no Zarr store. Give an .h5ad file or a Zarr store."
        )
    return path if path.is_dir() else _check_input(path)


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def _check_output(
    out: str | Path, *, overwrite: bool, folder: bool = False, n_bytes: int = 0
) -> Path:
    from scssl._io import check_place

    path = check_place(out, "--out", folder=folder, n_bytes=n_bytes)
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise ValueError(f"{path} exists already. Give another --out, or replace it: `--overwrite`")
    if taken and path.suffix == ".zarr" and not _is_zarr(path):
        raise ValueError(f"{path} holds files and no Zarr store. Give another --out.")
    return path


def _read(path: Path, *, backed: bool) -> AnnData:
    import anndata

    try:
        if path.is_dir():
            return _open_zarr(path) if backed else anndata.read_zarr(path)
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except (OSError, KeyError) as error:
        kind = "a Zarr store" if path.is_dir() else ".h5ad"
        raise ValueError(f"{path} cannot be read as {kind} of cells: {error}") from error


def _open_zarr(path: Path) -> AnnData:
    """Cells whose matrices stay on the disk."""
    import anndata
    import zarr
    from anndata.io import read_elem, sparse_dataset

    def matrix(stored: Any) -> Any:
        return stored if isinstance(stored, zarr.Array) else sparse_dataset(stored)

    store: Any = zarr.open_group(path, mode="r")
    rest = {name: read_elem(store[name]) for name in ("obs", "var", "obsm", "uns") if name in store}
    layers = {name: matrix(stored) for name, stored in store["layers"].members()}
    return anndata.AnnData(matrix(store["X"]), layers=layers, **rest)


def _write(adata: AnnData, path: Path) -> None:
    """Write the whole file or nothing, so that ``path`` may be what was read."""
    from scssl._io import replace_file, replace_folder

    if path.suffix == ".zarr":
        with replace_folder(path) as folder:
            adata.write_zarr(folder)
    else:
        with replace_file(path) as file:
            adata.write_h5ad(file)


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


@dataclass(frozen=True)
class Command:
    """What is known of a command before it runs."""

    function: Callable[..., None]
    """What it does; its arguments are options."""
    summary: str
    """The same in a few words."""
    usage: str
    """What has to be typed."""
    examples: str = ""
    """Lines to copy."""
    options: Callable[[Sequence[str]], Groups] | None = None
    """Further options, given what was typed."""
    list_models: bool = False
    """Whether its help lists the models."""

    def epilog(self, words: Sequence[str]) -> str:
        """What stands at the end of its help."""
        text = f"examples:\n{self.examples}" if self.examples else ""
        if self.list_models and typed(words, "--model") is None:
            models = models_in_source()
            width = max(map(len, models))
            lines = "\n".join(f"  {name:{width}}  {text}" for name, text in models.items())
            one = "options of one of them:\n  scssl train --model NAME --help"
            text = f"models:\n{lines}\n\n{one}\n\n{text}"
        return text


COMMANDS = {
    "demo": Command(demo, "try it: train, embed, compare, draw", "[--out DIR]"),
    "train": Command(
        train,
        "train a model on an .h5ad file or a Zarr store",
        "FILE.h5ad --out DIR [--model NAME] [options of the model]",
        """\
  scssl train cells.h5ad --out my_model
  scssl train cells.h5ad --out my_model --layer counts --batch-key donor --labels-key cell_type
  scssl train cells.h5ad --out my_model --model SimCLR --loss dcl --augmentation mask gene_swap
  scssl train atlas.h5ad --backed --out my_model --batch-size 4096 --precision bf16-mixed
  scssl train cells.h5ad --out my_model --checkpoint-dir checkpoints
  scssl train cells.h5ad --out my_model --resume-from checkpoints      # go on after an interruption
  scssl train cells.h5ad --out types --model CellTypeClassifier --ssl-model my_model --labels-key cell_type
  scssl train --model SimCLR --print-config > run.yaml
  scssl train cells.h5ad --out my_model --config run.yaml
""",
        _train_options,
        list_models=True,
    ),
    "embed": Command(
        embed,
        "embed cells with a trained model",
        "FILE.h5ad --model MODEL --out FILE.h5ad [options]",
        """\
  scssl embed cells.h5ad --model my_model --out embedded.h5ad
  scssl embed cells.h5ad --model owner/name --out embedded.h5ad     # from the Hugging Face Hub
""",
        _embed_options,
    ),
    "benchmark": Command(
        benchmark,
        "compare methods, as a study in a file says",
        "STUDY.yaml --out DIR [KEY=VALUE ...]",
        """\
  scssl benchmark study.yaml --out results --dry-run
  scssl benchmark study.yaml --out results
  scssl benchmark study.yaml seeds=2 methods.SimCLR.temperature=0.1,0.2,0.5 --out results
""",
    ),
    "convert": Command(
        convert,
        "make a model of a published checkpoint",
        "--file FILE.ckpt --out DIR [options]",
        """\
  scssl convert --file RandomMask.ckpt --genes var.parquet --out random_mask
  scssl convert --repo TillR/sc_pretrained --file BYOL.ckpt --out byol
  scssl convert --file HLCA_SSL.ckpt --genes var.parquet --classes cell_types.txt --out hlca
  scssl convert --file ckpt/20231027_85M.best.ckpt --symbols genes.csv --out cellplm
""",
        _convert_options,
    ),
}
