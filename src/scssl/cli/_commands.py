"""The commands: each is a call of the public Python API.

What is heavy is imported when a command runs, or when its options are asked for.
"""

from __future__ import annotations

import importlib
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ._demo import demo
from ._files import (
    add_to_copy,
    check_cells,
    check_input,
    check_output,
    is_store,
    read_cells,
    stays_on_disk,
    write_cells,
)
from ._options import Groups, first_sentence, options_of


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
    """Train a model on the cells of an .h5ad file, a Zarr store or a store of scssl and save it as a folder.

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
    path = check_cells(file)
    # Before, not after, hours of training.
    folder = check_output(out, overwrite=overwrite, folder=True)

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
    adata: Any
    if is_store(path):
        from scssl.data import Store

        adata = Store(path)
    else:
        adata = read_cells(path, backed=backed)
    if ssl_model is not None:
        trained = model_class.from_ssl_model(ssl_model, adata, **make)
    else:
        how = "setup_store" if is_store(path) else "setup_anndata"
        if not hasattr(model_class, how):
            raise ValueError(f"{model} is not trained on stores. Give it an .h5ad file.")
        getattr(model_class, how)(adata, **setup)
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


def build_store(file: str | Path, *files: str | Path, out: str | Path, **options: Any) -> None:
    """Put the cells of many files on disk in random order, to train on any number of them.

    Genes are matched by name, every value is checked, and a build that was interrupted goes on where it was when
    it is typed again. Train on the result with `scssl train`.

    Parameters
    ----------
    file
        Counts of cells: .h5ad, Zarr, or .h5 of 10x Genomics.
    *files
        Further files.
    out
        Folder to write.
    **options
        Of :func:`scssl.data.build_store`.
    """
    from scssl import data

    print(data.build_store([file, *files], out, **options))


def embed(
    file: str | Path,
    *,
    model: str | None = None,
    out: str | Path,
    overwrite: bool = False,
    backed: bool | None = None,
    **options: Any,
) -> None:
    """Embed the cells of an .h5ad file or a Zarr store with a trained model.

    Without --model one is trained on these cells and not kept. Genes are matched by name; how many were found is
    written to .uns beside the embedding.

    Parameters
    ----------
    file
        Cells to embed.
    model
        Folder that `scssl train` wrote, or a model on the Hugging Face Hub (owner/name); by default one is trained.
    out
        File to write, .h5ad or .zarr: the cells with their embedding.
    overwrite
        Replace what --out holds.
    backed
        Leave the matrix on disk and read it batch by batch; by default where the file is larger than 4 GB. The
        embedding is the same.
    **options
        Of :func:`scssl.tl.embed`.
    """
    path, target = _cells_and_target(file, out, overwrite=overwrite)
    key = options.get("key_added", "X_ssl")

    from scssl._checks import check_destination
    from scssl.tl import embed as tl_embed

    check_destination(None, key)
    backed = stays_on_disk(path, target, backed)
    adata = read_cells(path, backed=backed)
    tl_embed(adata, model, **options)
    if backed:
        add_to_copy(path, target, adata, key)
    else:
        write_cells(adata, target)
    n_cells, n_latent = adata.obsm[key].shape
    print(f'{out}: {n_cells:,} cells, {n_latent} dimensions in .obsm["{key}"].')


def annotate(
    reference: str | Path,
    query: str | Path,
    *,
    label_key: str,
    out: str | Path,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Label the cells of a file by those of an annotated one.

    Without --model one is trained on both, without labels. Labels with confidence, and calls of unknown
    cells, are columns of .obs of the new file.

    Parameters
    ----------
    reference
        Cells with labels.
    query
        Cells to label.
    label_key
        Column of .obs of the reference with the labels.
    out
        File to write, .h5ad or .zarr: the query with its labels.
    overwrite
        Replace what --out holds.
    **options
        Of :func:`scssl.tl.annotate`.
    """
    known = check_cells(reference)
    path, target = _cells_and_target(query, out, overwrite=overwrite)

    from scssl import tl

    cells = read_cells(path, backed=False)
    tl.annotate(read_cells(known, backed=False), cells, label_key, **options)
    write_cells(cells, target)
    key = options.get("key_added", "ssl_label")
    found = cells.uns[key]["summary"]
    print(
        f'{out}: {found["n_cells"]:,} cells, {found["n_labels_found"]} labels in .obs["{key}_call"], '
        f"{found['share_unknown']:.1%} unknown, {found['share_doubtful']:.1%} doubtful."
    )


def integrate(
    file: str | Path,
    *,
    batch_key: str,
    out: str | Path,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Embed the cells of a file such that its batches lie together.

    Parameters
    ----------
    file
        Cells of at least two batches.
    batch_key
        Column of .obs with the batches.
    out
        File to write, .h5ad or .zarr: the cells with their embedding.
    overwrite
        Replace what --out holds.
    **options
        Of :func:`scssl.tl.integrate`.
    """
    path, target = _cells_and_target(file, out, overwrite=overwrite)

    from scssl import tl

    cells = read_cells(path, backed=False)
    tl.integrate(cells, batch_key, **options)
    write_cells(cells, target)
    key = options.get("key_added", "X_integrated")
    written = cells.uns[key]
    print(
        f'{out}: {cells.n_obs:,} cells in .obsm["{key}"] by {written["method"]}: {written["reason"]}.'
    )


def impute(
    query: str | Path,
    reference: str | Path,
    *,
    out: str | Path,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Predict the genes that the cells of a file lack from those of a reference.

    What was measured stays; which genes are imputed is a column of .var of the new file, and how well genes
    that were held out are predicted is in .uns.

    Parameters
    ----------
    query
        Cells to impute genes of.
    reference
        Cells in which these were measured.
    out
        File to write, .h5ad or .zarr: the query with all genes, as logarithms.
    overwrite
        Replace what --out holds.
    **options
        Of :func:`scssl.tl.impute`.
    """
    known = check_cells(reference)
    path, target = _cells_and_target(query, out, overwrite=overwrite)

    from scssl import tl

    cells = [read_cells(one, backed=False) for one in (path, known)]
    imputed = tl.impute(*cells, **options)
    write_cells(imputed, target)
    key = options.get("key_added", "imputed")
    scores = imputed.uns[key]["scores"].set_index("method")["pearson"]
    told = ", ".join(f"{method} {score:.3f}" for method, score in scores.items())
    print(
        f'{out}: {imputed.n_obs:,} cells, {imputed.var[key].sum():,} genes with .var["{key}"]; mean correlation '
        f"of genes held out: {told}."
    )


def finetune(
    file: str | Path,
    *,
    model: str,
    out: str | Path,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Train a classifier of cell types that starts from a trained model.

    Parameters
    ----------
    file
        Cells with labels.
    model
        Folder of the trained model, or its name on the Hugging Face Hub (owner/name).
    out
        Folder to save the classifier in.
    overwrite
        Replace what --out holds.
    **options
        Of ``CellTypeClassifier.from_ssl_model`` and of its ``train``.
    """
    kind = "CellTypeClassifier"
    train(file, out=out, model=kind, ssl_model=model, overwrite=overwrite, **options)


def neighbors(
    file: str | Path,
    *,
    batch_key: str,
    out: str | Path,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Find the neighbours of the cells of a file across its batches.

    Parameters
    ----------
    file
        Cells of at least two batches.
    batch_key
        Column of .obs with the batches.
    out
        File to write, .h5ad or .zarr: the cells with the graph.
    overwrite
        Replace what --out holds.
    **options
        Of :func:`scssl.pp.cross_batch_neighbors`.
    """
    path, target = _cells_and_target(file, out, overwrite=overwrite)

    from scssl import pp

    cells = read_cells(path, backed=False)
    before = set(cells.obsp)
    pp.cross_batch_neighbors(cells, batch_key, **options)
    write_cells(cells, target)
    made = ", ".join(f'.obsp["{key}"]' for key in cells.obsp if key not in before) or "replaced"
    print(f"{out}: {cells.n_obs:,} cells, graphs {made}.")


def score(file: str | Path, *, label_key: str, pred_key: str, **options: Any) -> None:
    """Score a column of labels of a file by a column of true ones.

    Parameters
    ----------
    file
        Cells with both columns.
    label_key
        Column of .obs with the true labels.
    pred_key
        Column of .obs with the labels to score.
    **options
        Of :func:`scssl.tl.score_labels`.
    """
    path = check_cells(file)

    from scssl import tl

    cells = read_cells(path, backed=True)
    scores = tl.score_labels(cells, label_key, pred_key, **options)
    print(scores.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def _cells_and_target(file: str | Path, out: str | Path, *, overwrite: bool) -> tuple[Path, Path]:
    """Cells to read, and where they may be written with a result."""
    path, suffix = check_cells(file), Path(out).suffix
    if suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"--out must end in .h5ad or .zarr, found {out}.")
    n_bytes = path.stat().st_size if path.is_file() else 0
    return path, check_output(out, overwrite=overwrite, folder=suffix == ".zarr", n_bytes=n_bytes)


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
    folder = check_output(out, overwrite=overwrite, folder=True)
    if repo is None:
        check_input(file)

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
        options["classes"] = _read_classes(check_input(classes))
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
    the study or in SCSSL_DATA_DIR), and arguments of its own. Everything is checked before anything runs, so that
    all data sets are in memory at first, each until it is done; a study that was killed goes on when it is typed again.

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

    study = Study(file, overrides, read=lambda path: read_cells(path, backed=False))
    from scssl import tl

    plans, asked = [], []
    for name in study.data:
        adata, arguments = study.read(name)
        plans.append(tl.benchmark(adata, **arguments, out=out, dry_run=True))
        if not dry_run:
            asked.append((adata, arguments))
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
    tables = []
    while asked:
        adata, arguments = asked.pop(0)
        tables.append(tl.benchmark(adata, **arguments, out=out, n_jobs=n_jobs))
    results = pd.concat(tables, ignore_index=True)
    names = list(results["method"].unique())
    baseline = next((name for name in names if name.partition(" (")[0] == "PCA"), None)
    summary = tl.benchmark_summary(results, baseline=baseline)
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


def _options_of_call(module: str, name: str, *own: str) -> Callable[[Sequence[str]], Groups]:
    """Options of a function of the package, but for the arguments that the command names itself."""

    def options(words: Sequence[str]) -> Groups:
        function = getattr(importlib.import_module(f"scssl.{module}"), name)
        skip = ("adata", "reference", "query", "copy", *own)
        return {f"options of scssl.{module}.{name}": options_of(function, skip=skip)}

    return options


def _finetune_options(words: Sequence[str]) -> Groups:
    return model_options(_model_class("CellTypeClassifier"), from_ssl_model=True)


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
        "embed cells with a model",
        "FILE.h5ad --out FILE.h5ad [--model MODEL] [options]",
        """\
  scssl embed cells.h5ad --out embedded.h5ad                        # trains a model on these cells
  scssl embed cells.h5ad --model my_model --out embedded.h5ad
  scssl embed cells.h5ad --model owner/name --out embedded.h5ad     # from the Hugging Face Hub
""",
        _embed_options,
    ),
    "build-store": Command(
        build_store,
        "put the cells of many files on disk, to train on",
        "FILE.h5ad [FILE.h5ad ...] --out DIR [options]",
        """\
  scssl build-store blood.h5ad lung.h5ad --out atlas --obs-keys cell_type donor
  scssl build-store more.h5ad --out atlas --append
  scssl train atlas --out my_model --batch-key donor
""",
        _options_of_call("data", "build_store", "inputs", "out"),
    ),
    "annotate": Command(
        annotate,
        "label the cells of a file by those of an annotated one",
        "REFERENCE.h5ad QUERY.h5ad --label-key COLUMN --out FILE.h5ad [options]",
        """\
  scssl annotate reference.h5ad query.h5ad --label-key cell_type --out labelled.h5ad
  scssl annotate reference.h5ad query.h5ad --label-key cell_type --batch-key donor --out labelled.h5ad
  scssl annotate reference.h5ad query.h5ad --label-key cell_type --model owner/name --out labelled.h5ad
""",
        _options_of_call("tl", "annotate", "label_key"),
    ),
    "integrate": Command(
        integrate,
        "embed cells such that batches lie together",
        "FILE.h5ad --batch-key COLUMN --out FILE.h5ad [options]",
        """\
  scssl integrate cells.h5ad --batch-key donor --out integrated.h5ad
  scssl integrate cells.h5ad --batch-key donor --out integrated.h5ad --method SimCLR
""",
        _options_of_call("tl", "integrate", "batch_key"),
    ),
    "impute": Command(
        impute,
        "predict genes that a panel lacks",
        "QUERY.h5ad REFERENCE.h5ad --out FILE.h5ad [options]",
        """\
  scssl impute panel.h5ad reference.h5ad --out imputed.h5ad
  scssl impute panel.h5ad reference.h5ad --genes CD8A FOXP3 --method spage --out imputed.h5ad
""",
        _options_of_call("tl", "impute"),
    ),
    "finetune": Command(
        finetune,
        "train a classifier that starts from a trained model",
        "FILE.h5ad --model MODEL --out DIR [options]",
        """\
  scssl finetune cells.h5ad --model my_model --labels-key cell_type --out types
""",
        _finetune_options,
    ),
    "neighbors": Command(
        neighbors,
        "find neighbours of cells across batches",
        "FILE.h5ad --batch-key COLUMN --out FILE.h5ad [options]",
        """\
  scssl neighbors cells.h5ad --batch-key donor --out with_graph.h5ad --method mnn
""",
        _options_of_call("pp", "cross_batch_neighbors", "batch_key"),
    ),
    "score": Command(
        score,
        "score labels by true ones",
        "FILE.h5ad --label-key COLUMN --pred-key COLUMN [options]",
        """\
  scssl score labelled.h5ad --label-key cell_type --pred-key ssl_label_call
""",
        _options_of_call("tl", "score_labels", "label_key", "pred_key", "children"),
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
