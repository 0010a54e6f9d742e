"""``benchmark``: what is to be run, running it, and the table of what was found."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scssl import __version__
from scssl._checks import check_adata, check_choice, check_number, check_whole
from scssl._errors import warn
from scssl._io import as_path, check_place, parse_json, replace_file
from scssl._settings import settings
from scssl.tl._common import own_randomness
from scssl.tl._smooth import smoothed

from ._cells import (
    Cells,
    Split,
    block_splits,
    cell_splits,
    group_splits,
    protocol_of,
    without_a_type,
)
from ._costs import Cost, hardware, versions
from ._declared import Declared
from ._methods import (
    KNOWN,
    UNKNOWN,
    Given,
    Method,
    NotPossible,
    Setting,
    Spec,
    read_methods,
    target_of,
)
from ._tasks import TASKS, Fitted, features_of, without_labels, without_modality

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")

SplitKind = Literal["cell", "batch", "block"]
DEFAULT_METHODS = ("PCA", "scVI", "MaskedAutoencoder", "SimCLR")
COLUMNS = [
    *(
        "data",
        "task",
        "method",
        "arguments",
        "split",
        "fold",
        "seed",
        "n_labels",
        "metric",
        "value",
    ),
    *("n_test", "seconds", "cpu_seconds", "memory_gb", "transductive", "error"),
    *("version", "versions", "hardware", "data_hash", "split_hash"),
    *("classes", "genes_matched", "trainable_weights"),
]
# Raised when rows mean something else than before, so that old ones are not taken for new ones.
_FORMAT = 1
_MODELS = ("augment", "data", "model", "module", "nn", "objective", "train")
_SCORING = (
    "_linear.py",
    "_scores.py",
    "tl/_benchmark",
    "tl/_cluster_metrics.py",
    "tl/_common.py",
    "tl/_estimators.py",
    "tl/_fuse.py",
    "tl/_protocol.py",
    "tl/_smooth.py",
)


@dataclass(frozen=True)
class Job:
    """One method fitted to one training part, and the tasks that are scored on it."""

    spec: Spec
    split: Split
    tasks: tuple[str, ...]
    budgets: tuple[int | None, ...]
    """Labels a class; a method that learns from labels is fitted for each anew."""
    transductive: bool

    def id(self, cells: Cells) -> str:
        """The same for the same fit, whatever is scored on it."""
        method = self.spec.make()
        about = {
            "format": _FORMAT,
            "recipe": recipe(*self._rooms(cells)),
            "packages": versions(method.distribution) if method.distribution else {},
            "data": [cells.name, cells.hash, cells.kind, cells.layer],
            "keys": [cells.label_key, cells.batch_key, cells.split_key, cells.min_cells],
            "read": cells.hash_of(self._read(cells)),
            "source": method.source,
            "declared": cells.declared.of(self.spec.name),
            "method": [self.spec.name, self.spec.method, self.spec.arguments],
            "split": [self.split.kind, self.split.fold, self.split.seed, self.split.unseen],
            "rows": self.split.hash,
            "budget": self.budgets if method.uses_labels else (),
            "transductive": self.transductive,
        }
        text = json.dumps(about, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def _rooms(self, cells: Cells) -> list[str]:
        """Code that the values depend on: that of the tasks and, for a model of scssl, that of models."""
        method = self.spec.make()
        rooms = [*_SCORING, *method.tools]
        if method.of_scssl:
            rooms += _MODELS
        if self.split.kind == "group":
            rooms.append("tl/_label_transfer.py")
        if cells.modality_key is not None:
            rooms.append("tl/_modality.py")
        return rooms

    def _read(self, cells: Cells) -> list[str]:
        """Names of what may be read of the data beside the matrix and the keys."""
        names = [self.spec.method, *_texts(self.spec.arguments)]
        if cells.modality_key is not None:
            names.append(cells.modality_key)
        # Graphs that views draw partners from, and places of cells, are found under their usual names.
        return [*names, cells.spatial_key, *cells.adata.obsp]

    def wanted(self) -> set[tuple[str, str]]:
        """Task and number of labels of each row that there has to be."""
        found = set()
        for task in self.tasks:
            named = "label_key" in TASKS[task].needs
            budgets = self.budgets if task == "few_labels" else (None,)
            found |= {(task, _shown(one) if named else "") for one in budgets}
        return found

    def without(self, rows: Sequence[dict[str, Any]]) -> Job | None:
        """What is left to do where there are these rows."""
        done = {(row["task"], row["n_labels"]) for row in rows if not row["error"] or row["final"]}
        left = [
            t for t in self.tasks if any(one not in done for one in self.wanted() if one[0] == t)
        ]
        return replace(self, tasks=tuple(left)) if left else None

    def __str__(self) -> str:
        fold = f", without {self.split.fold}" if self.split.fold else ""
        unseen = f" and {self.split.unseen}" if self.split.unseen else ""
        return f"{self.spec.name}, {' '.join(self.tasks)}, seed {self.split.seed}{fold}{unseen}"


def _shown(n_labels: int | None) -> str:
    return "all" if n_labels is None else str(n_labels)


def _texts(value: Any) -> list[str]:
    """All texts in arguments."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return (
        [text for one in value for text in _texts(one)] if isinstance(value, (list, tuple)) else []
    )


@functools.cache
def recipe(*rooms: str) -> str:
    """The same for the same code, so that a changed recipe is run again."""
    found, root = hashlib.sha256(), Path(__file__).parents[2]
    for room in rooms:
        place = root / room
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def benchmark(
    adata: AnnData,
    methods: str | Sequence[str] | Mapping[str, Any] = DEFAULT_METHODS,
    tasks: str | Sequence[str] | None = None,
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    modality_key: str | None = None,
    split: SplitKind = "cell",
    split_key: str | None = None,
    spatial_key: str = "spatial",
    test_size: float = 0.2,
    n_labels: int | Sequence[int | None] = (1, 5, 20, None),
    folds: int | None = None,
    min_cells: int = 10,
    transductive: bool = False,
    declared: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 5,
    n_jobs: int | None = None,
    out: str | Path | None = None,
    name: str = "data",
    progress: bool | None = None,
    dry_run: bool = False,
) -> pd.DataFrame:
    """Compare methods on your cells: the same splits, seeds and labels for all, one call.

    *Methods* are models of scssl by name, entries of ``adata.obsm``, and

    - ``"PCA"``: 50 components of 2,000 variable genes, ``"genes"``: these genes themselves;
    - ``"untrained"``: the encoder of :class:`~scssl.model.MaskedAutoencoder` before training;
    - ``"scVI"``, ``"scANVI"``, ``"JointEmbeddingSCVI"``, ``"totalVI"``, of scvi-tools, with the advice of its tutorials;
    - ``"CellTypist"``: logistic regression on all genes as celltypist trains it;
    - ``"Harmony"`` and ``"CONCORD"``, where their packages are installed;
    - ``"recommended"``: what :func:`embed` without a model and, of batches, :func:`integrate` take;
      ``"annotate"``: the labels of :func:`annotate`, which trains on reference and query (transductive);
    - ``"transfer"``: an encoder that was trained on other cells, see :func:`transfer_benchmark`.

    Each is given the same cells and what its own users give it: models of scssl their defaults and all
    genes, the others 2,000 variable genes, chosen on the training part; scVI is told the batch and
    stops early. A dict gives arguments, ``{"SimCLR, cold": {"method": "SimCLR", "temperature": 0.1}}``,
    told apart by name for ``setup_anndata``, the model and its ``train``; ``"sweep"`` in it makes one
    method of each combination of values. ``with_modality=True`` adds ``obsm[modality_key]`` of the same
    cells to what PCA and the joint-embedding models embed (``embed_modality="rna"``: to what such a model learns from, of
    which the RNA alone is embedded then), ``with_components=50`` puts as many principal components beside the
    embedding of a model, as :func:`fuse` does, and ``smoothing=15`` averages any embedding with the nearest cells
    of the training part, as :func:`smooth` does.

    *Tasks*

    - ``"embedding"``: macro-F1 and accuracy of 15 nearest neighbours and of a linear probe;
    - ``"few_labels"``: the same with 1, 5, 20 and all labels a class, the same cells for all;
    - ``"annotation"``: each batch is left out in turn and labelled: macro-F1, calibration error, and
      the AUROC with which cells of a type that was left out of the reference are told from others, and
      the share of these, and of known cells, that are more novel than 95 % of the reference;
    - ``"mapping"``: each batch is left out in turn and embedded by a model that never saw it: labels of
      the nearest cells of the reference, and ``mixing`` with cells of the same label;
    - ``"integration"``: scib-metrics :cite:p:`Luecken2022` of all cells, unscaled;
    - ``"clustering"``: Leiden and k-means against the labels, and silhouette, of the test cells;
    - ``"modality"``: ``obsm[modality_key]`` from the embedding by ridge regression, or by what predicts it itself
      (``"ProteinPredictor"``, pretrained as a classifier is, and ``"totalVI"``);
    - ``"reconstruction"``: explained variance of log-normalised expression.

    Nothing is fitted on test cells, unless `transductive` or the task is integration, which has none. Every
    embedding is scaled by one factor for all dimensions before a linear probe, whose penalty is chosen
    within the training labels. scANVI, CellTypist and ``"CellTypeClassifier"`` learn from the labels of
    the training part, as many as the task says, and are scored by the labels that they give themselves.
    They take no part in integration, which is scored by the same labels. ``"CellTypeClassifier"`` is pretrained on
    the training part first (``ssl_model=None``: not). scVI and scANVI learn a batch that was left out by
    surgery on its cells, without labels; their rows count as transductive.

    A method or task that fails is a row with its error; the others go on. With `out`, what is found is
    written at once, and a call with the same arguments goes on where a killed one stopped. Jobs run in
    parallel on the backend of joblib that is active: ``with joblib.parallel_config("dask"): ...``.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values. It is not changed.
    methods
        Names, or a dict of names and arguments.
    tasks
        Names of tasks; by default ``"embedding"`` and ``"few_labels"``, and with `batch_key`
        ``"annotation"``.
    label_key
        Column of `adata.obs` with cell types. Cells without one are learned from where no label is needed.
    batch_key
        Column of `adata.obs` with the batch, of which every method is told, and which is left out in turn.
    layer
        Layer with the values, instead of `adata.X`.
    modality_key
        Entry of `adata.obsm` with proteins or other features, for ``"modality"``.
    split
        What is held out in tasks that do not say it themselves: ``"cell"`` (random cells), ``"batch"``
        (each group of `split_key` or `batch_key` in turn) or ``"block"`` (blocks of tissue with a margin).
    split_key
        Column of `adata.obs` with what is left out as a whole (donor, section, data set), if not `batch_key`.
    spatial_key
        Entry of `adata.obsm` with places, for ``split="block"``.
    test_size
        Share of the cells of each label to test on, with ``split="cell"``.
    n_labels
        Numbers of labels a class for ``"few_labels"``; `None` for all.
    folds
        Groups to leave out, drawn once; all by default.
    min_cells
        Labels of fewer cells are not scored.
    transductive
        Fit to all cells, test cells included (never to their labels), and say so in the table.
    declared
        What the study is of: ``data_hash``; ``classes``, the names of the labels; ``genes_matched`` of a
        pretrained encoder; ``trainable_weights`` by method. Other data are refused before anything runs, and a
        fit with other genes or weights is a row without a value whose error says what was found. Weights are
        compared where all classes are learned. The rows of a first run have the numbers to declare.
    seeds
        Number of seeds, or the seeds themselves. Of one seed, splits are those of
        :func:`linear_probe` with ``rng=seed``, where all labels have `min_cells`.
    n_jobs
        Jobs at the same time; by default as ``joblib.parallel_config`` says, or one.
    out
        Folder for the results, ``results.csv`` and one file a job; data sets with other `name` may share it.
    name
        What the data are called in the table.
    progress
        Whether to show a bar; :attr:`scssl.settings.progress <scssl.Settings.progress>` by default.
    dry_run
        Check everything and run nothing: a row of the result is a method and a kind of split, with the
        number of fits, those that `out` has already, and the seconds that the others may take on one core.

    Returns
    -------
    pandas.DataFrame
        One row a value: ``data``, ``task``, ``method``, ``arguments``, ``split``, ``fold`` (what was left
        out), ``seed``, ``n_labels``, ``metric``, ``value``; ``seconds``, ``cpu_seconds`` and
        ``memory_gb`` of fitting and embedding; ``transductive``, ``error``; versions, hardware, and
        hashes of the data and of the split; ``classes`` (how many can be learned), ``genes_matched`` (genes
        of the data that the method reads, of a pretrained encoder those that it knows) and
        ``trainable_weights`` (NaN of methods that train none). For :func:`benchmark_summary` and :func:`scssl.pl.benchmark`.

    Raises
    ------
    KeyError
        If a column, layer or entry is missing.
    ValueError
        If there is no such method or task, a task lacks what it needs, or an argument is out of range.
    TypeError
        If a method has no such argument.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> results = scssl.tl.benchmark(
    ...     adata, ["PCA", "genes"], "embedding", label_key="bulk_labels", seeds=2, progress=False
    ... )
    >>> table = results.pivot_table("value", "method", "metric")
    >>> bool(table.loc["PCA", "probe_macro_f1"] > 0.6)
    True
    """
    cells, jobs = plan(
        adata,
        methods,
        tasks,
        label_key=label_key,
        batch_key=batch_key,
        layer=layer,
        modality_key=modality_key,
        split=split,
        split_key=split_key,
        spatial_key=spatial_key,
        test_size=test_size,
        n_labels=n_labels,
        folds=folds,
        min_cells=min_cells,
        transductive=transductive,
        declared=declared,
        seeds=seeds,
        name=name,
    )
    folder = None if out is None else _folder(out, make=not dry_run)
    known = [[] if folder is None else _read_rows(folder, job.id(cells)) for job in jobs]
    left = {i: job for i, one in enumerate(jobs) if (job := one.without(known[i])) is not None}
    if dry_run:
        return _plan_table(cells, jobs, left, known)
    _tell_absent(list(left.values()))
    shown = settings.progress if progress is None else progress
    try:
        for i, found in _run_all(cells, left, n_jobs, shown):
            again = set(left[i].tasks)
            known[i] = [row for row in known[i] if row["task"] not in again] + found
            if folder is not None:
                _write_rows(folder, jobs[i].id(cells), known[i])
    finally:
        if folder is not None:
            _write_table(folder)
    asked = [job.wanted() for job in jobs]
    rows = [
        row
        for one, wanted in zip(known, asked, strict=True)
        for row in one
        if (row["task"], row["n_labels"]) in wanted
    ]
    return as_table(rows)


def plan(
    adata: AnnData,
    methods: Any,
    tasks: Any,
    *,
    split: str,
    test_size: float,
    n_labels: int | Sequence[int | None],
    folds: int | None,
    transductive: bool,
    seeds: int | Sequence[int],
    **about: Any,
) -> tuple[Cells, list[Job]]:
    """The cells, checked, and everything that is to be run, before anything runs."""
    check_choice("split", split, get_args(SplitKind))
    check_number("test_size", test_size, "(0, 1)")
    check_whole("folds", folds, none=True)
    about["min_cells"] = check_whole("min_cells", about["min_cells"], 2)
    listed = [n_labels] if isinstance(n_labels, int) else list(n_labels)
    budgets = tuple(check_whole("n_labels", one, none=True) for one in listed)
    if not budgets or len(set(budgets)) < len(budgets):
        raise ValueError(f"`n_labels` must be numbers, each once; found {listed}.")
    chosen = _seeds(seeds)
    check_adata(adata)
    specs = read_methods(methods, list(adata.obsm))
    for spec in specs:
        # A model that is not there is told before anything runs.
        spec.make().source  # noqa: B018
    about["declared"] = Declared.read(about["declared"], [spec.name for spec in specs])
    cells = Cells(adata, **about)
    names = _tasks(tasks, cells)
    held_out = [name for name in names if TASKS[name].split == "held out"]
    grouped = [name for name in names if TASKS[name].split == "group"]
    splits: list[tuple[Split, tuple[str, ...]]] = []
    if held_out and split == "batch":
        # One fit for all that leaves the same group out.
        grouped, held_out = [*held_out, *grouped], []
    if held_out:
        made = (
            cell_splits(cells, chosen, test_size)
            if split == "cell"
            else block_splits(cells, chosen)
        )
        splits += [(one, tuple(held_out)) for one in made]
    if grouped:
        for one in group_splits(cells, chosen, folds):
            splits.append((one, tuple(grouped)))
            other = without_a_type(cells, one, cells.min_cells) if "annotation" in grouped else None
            if other is not None:
                splits.append((other, ("annotation",)))
    if "integration" in names:
        everything = np.arange(adata.n_obs)
        splits += [(Split("none", "", s, everything, everything), ("integration",)) for s in chosen]
    jobs = [
        job
        for one, asked in splits
        for spec in specs
        for job in _jobs(spec, one, asked, budgets, transductive or one.kind == "none")
    ]
    return cells, jobs


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, (int, np.integer)):
        return list(range(check_whole("seeds", seeds)))
    found = [check_whole("seeds", one, 0) for one in seeds]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"`seeds` must be a number, or seeds, each once; found {list(seeds)}.")
    return found


def _tasks(tasks: Any, cells: Cells) -> list[str]:
    if tasks is None:
        tasks = ["embedding", "few_labels"]
        if cells.batch_key is not None or cells.split_key is not None:
            tasks.append("annotation")
    names = [tasks] if isinstance(tasks, str) else list(dict.fromkeys(tasks))
    if not names:
        raise ValueError("`tasks` is empty: there is nothing to do.")
    for name in names:
        check_choice("tasks", name, TASKS)
        for key in TASKS[name].needs:
            given = getattr(cells, key)
            if key == "batch_key" and TASKS[name].split == "group":
                given = given or cells.split_key
            if given is None:
                raise ValueError(
                    f"Task {name!r} needs `{key}`: the name of "
                    + (
                        "an entry of adata.obsm."
                        if key == "modality_key"
                        else "a column of adata.obs."
                    )
                )
    return names


def _jobs(
    spec: Spec,
    split: Split,
    tasks: tuple[str, ...],
    budgets: tuple[int | None, ...],
    transductive: bool,
) -> Iterator[Job]:
    method = spec.make()
    transductive = transductive or isinstance(method, Given)
    if not method.uses_labels or "few_labels" not in tasks:
        own: tuple[int | None, ...] = (None,) if method.uses_labels else budgets
        yield Job(spec, split, tasks, own, transductive)
        return
    for budget in budgets:
        asked = tasks if budget is None else ("few_labels",)
        yield Job(spec, split, asked, (budget,), transductive)
    others = tuple(task for task in tasks if task != "few_labels")
    if None not in budgets and others:
        yield Job(spec, split, others, (None,), transductive)


def _plan_table(
    cells: Cells,
    jobs: Sequence[Job],
    left: Mapping[int, Job],
    known: Sequence[Sequence[dict[str, Any]]],
) -> pd.DataFrame:
    """What is to be run, and how long that may take."""
    import pandas as pd

    took: dict[str, list[float]] = {}
    for job, rows in zip(jobs, known, strict=True):
        took.setdefault(job.spec.name, []).extend(row["seconds"] for row in rows[:1])
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for i, job in enumerate(jobs):
        key = (job.spec.name, " ".join(job.tasks), job.split.kind)
        about = {"data": cells.name, "method": key[0], "tasks": key[1], "split": key[2]}
        line = lines.setdefault(key, {**about, "n_fits": 0, "n_done": 0, "seconds": 0.0})
        line["n_fits"] += 1
        if i not in left:
            line["n_done"] += 1
            continue
        n_cells = cells.adata.n_obs if job.transductive else len(job.split.train)
        guess = job.spec.make().seconds_per_kcell * n_cells / 1000
        line["seconds"] += float(np.mean(took[key[0]])) if took[key[0]] else guess
    table = pd.DataFrame(lines.values())
    return table.assign(seconds=table["seconds"].round(1))


def _tell_absent(jobs: Sequence[Job]) -> None:
    """Say now, and not only in a row after hours, what is not installed."""
    said = set()
    for job in jobs:
        for check in (job.spec.make().check, *(TASKS[task].check for task in job.tasks)):
            try:
                check()
            except ImportError as error:
                said.add(str(error))
    for text in sorted(said):
        warn(f"{text}. Its rows will say no more than that.")


# --- running ---------------------------------------------------------------------------------------


def _run_all(
    cells: Cells, jobs: Mapping[int, Job], n_jobs: int | None, progress: bool
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Jobs as they are done, in any order."""
    import joblib
    from tqdm.auto import tqdm

    if not jobs:
        return
    parallel = joblib.Parallel(n_jobs=n_jobs)
    backend, n = parallel._backend, joblib.effective_n_jobs(n_jobs)
    if n > 1 and getattr(backend, "supports_sharedmem", False):
        raise ValueError(
            "Fits share the seeds of NumPy and PyTorch with all that runs in their process, and threads "
            "are one process: take a backend of joblib with processes, such as loky."
        )
    calls = [joblib.delayed(_numbered)(i, cells, job) for i, job in jobs.items()]
    if getattr(backend, "supports_return_generator", False):
        found = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(calls)
    else:
        found = _in_parts(parallel, calls, n)
    bar = tqdm(total=len(jobs), disable=not progress, desc=f"benchmark {cells.name}", unit="fit")
    with bar:
        for i, rows in found:
            bar.set_postfix_str(jobs[i].spec.name, refresh=False)
            bar.update()
            yield i, rows


def _in_parts(parallel: Any, calls: Sequence[Any], n: int) -> Iterator[tuple[int, Any]]:
    """Some at a time, so that they can be kept, where results come at the end of a call only."""
    # The processes stay: those of ray import all that they need.
    with parallel:
        for part in itertools.batched(calls, n):
            yield from parallel(part)


def _numbered(i: int, cells: Cells, job: Job) -> tuple[int, list[dict[str, Any]]]:
    return i, run(cells, job)


def run(cells: Cells, job: Job) -> list[dict[str, Any]]:
    """Rows of one job. Only what stops the program stops it."""
    cost, scoring, start = Cost(), Cost(), time.perf_counter()
    scored: list[dict[str, Any]] = []
    fitted, error, final = None, "", False
    with warnings.catch_warnings(), _quiet(), own_randomness():
        # What warnings say of one fit of many, nobody can act on; errors are in the table.
        warnings.simplefilter("ignore")
        try:
            fitted = _fit(cells, job, cost)
        except Exception as problem:  # noqa: BLE001 - a row says what it was
            error, final = _text(problem), isinstance(problem, NotPossible)
        with scoring.measured():
            for task in job.tasks:
                scored += _score(task, job, fitted, error, final)
    about = {
        "data": cells.name,
        "method": job.spec.name,
        "arguments": json.dumps(job.spec.arguments, sort_keys=True, default=str),
        "split": job.split.kind,
        "fold": job.split.fold,
        "seed": job.split.seed,
        "n_test": len(job.split.test),
        "seconds": round(cost.seconds, 3),
        "cpu_seconds": round(cost.cpu_seconds, 3),
        "memory_gb": round(cost.memory_gb, 3),
        # What was trained further on the cells that it is tested on knows them.
        "transductive": job.transductive or (fitted is not None and fitted.method.adapted),
        "version": __version__,
        "versions": json.dumps(versions(job.spec.make().distribution)),
        "hardware": json.dumps(hardware()),
        "data_hash": cells.hash,
        "split_hash": job.split.hash,
        "classes": _n_classes(cells, job.split),
        **_of_fit(cells, fitted),
        # Of the run, whatever its rows: in the file of the fit, not in the table.
        "scoring_seconds": round(scoring.seconds, 3),
    }
    whole = time.perf_counter() - start
    about["overhead_seconds"] = round(whole - cost.seconds - scoring.seconds, 3)
    return [{**about, **row} for row in scored]


class _quiet:
    """No messages of one fit among many, of scssl or of others."""

    _loggers = ("scssl", "scvi", "lightning.pytorch", "harmonypy", "celltypist", "concord")

    def __enter__(self) -> None:
        self._before = [(logging.getLogger(n), logging.getLogger(n).level) for n in self._loggers]
        for logger, _ in self._before:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: Any) -> None:
        for logger, level in self._before:
            logger.setLevel(level)


def _text(problem: BaseException) -> str:
    """What went wrong and, if it was not to be expected, where."""
    if isinstance(problem, (NotPossible, ImportError)):
        return str(problem)
    frames = [
        f for f in traceback.extract_tb(problem.__traceback__) if "site-packages" not in f.filename
    ]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {problem}{place}"


def _fit(cells: Cells, job: Job, cost: Cost) -> Fitted:
    method = job.spec.make()
    # What is imported for the first method of a process is not of its costs.
    method.check()
    split, n = job.split, cells.adata.n_obs
    rows = np.arange(n) if job.transductive else split.train
    batches = cells.batch_names
    own = without_labels(cells, rows)
    setting = Setting(
        layer=cells.layer,
        kind=cells.kind,
        batch_key=cells.batch_key,
        seed=split.seed,
        modality_key=cells.modality_key,
        is_all=len(rows) == n,
        has_new_batches=batches is not None and not set(batches[split.test]) <= set(batches[rows]),
        target_sum=target_of(own, cells.layer, cells.kind),
    )
    budget = job.budgets[0] if method.uses_labels else None
    if method.uses_labels:
        own.obs[KNOWN] = _known(cells, split, rows, budget)
    if method.predicts_modality and cells.modality_key is not None:
        own.obsm[cells.modality_key] = _measured(cells, rows, split.train)
    fitted = Fitted(cells, split, method, job.transductive, None)
    with cost.measured():
        method.fit(own, setting)
        learns_all = cells.labels is None or _n_classes(cells, split) == cells.labels.nunique()
        cells.declared.check_fit(job.spec.name, method, learns_all=learns_all)
        if method.embeds:
            rest = np.setdiff1d(split.test, rows)
            fitted.values = _embedded(cells, method, [rows, rest])
            if method.smoothing:
                _smooth(fitted.values, rows, rest, method.smoothing, split.seed)
        if method.learns_from_query:
            method.meet(without_modality(cells, split.test))
    return fitted


def _measured(cells: Cells, rows: np.ndarray, known: np.ndarray) -> pd.DataFrame:
    """Second modality of the cells to fit to, NaN where it will be predicted."""
    found = features_of(cells).iloc[rows].copy()
    found[~np.isin(rows, known)] = np.nan
    return found


def _n_classes(cells: Cells, split: Split) -> int | None:
    """Labels that can be learned."""
    return None if cells.labels is None else int(cells.labels.iloc[split.train].nunique())


def _of_fit(cells: Cells, fitted: Fitted | None) -> dict[str, int | None]:
    if fitted is None:
        return {}
    method, n_genes = fitted.method, cells.adata.n_vars
    return {
        "genes_matched": n_genes if method.genes_matched is None else method.genes_matched,
        "trainable_weights": method.trainable_weights,
    }


def _embedded(cells: Cells, method: Method, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Embedding of all cells, NaN in the rows of no part."""
    values: np.ndarray | None = None
    for part in parts:
        if len(part):
            found = np.asarray(method.embed(without_labels(cells, part)))
            if not np.isfinite(found).all():
                raise ValueError("The embedding has values that are not finite.")
            if values is None:
                values = np.full((cells.adata.n_obs, found.shape[1]), np.nan, found.dtype)
            values[part] = found
    assert values is not None
    return values


def _smooth(
    values: np.ndarray, rows: np.ndarray, rest: np.ndarray, n_neighbors: int, seed: int
) -> None:
    """Average with the nearest of the cells that were fitted, which know nothing of the others."""
    n_neighbors = min(n_neighbors, len(rows) - 1)
    known = np.ascontiguousarray(values[rows], dtype=np.float32)
    if len(rest):
        new = np.ascontiguousarray(values[rest], dtype=np.float32)
        values[rest] = smoothed(known, new, n_neighbors=n_neighbors, seed=seed)
    values[rows] = smoothed(known, n_neighbors=n_neighbors, seed=seed)


def _known(cells: Cells, split: Split, rows: np.ndarray, budget: int | None) -> np.ndarray:
    """The labels that may be learned from, of the cells to fit to."""
    labels = np.full(cells.adata.n_obs, UNKNOWN, dtype=object)
    if split.kind == "none":
        raise NotPossible("It learns from the labels that integration is scored by.")
    protocol = protocol_of(cells, split, budget)
    labels[protocol.train] = protocol.names[protocol.codes[protocol.train]]
    return labels[rows].astype(str)


def _score(
    task: str, job: Job, fitted: Fitted | None, error: str, final: bool
) -> list[dict[str, Any]]:
    """Number of labels, metric, value and error of each row; `final` errors will not go by themselves."""
    what = TASKS[task]
    if fitted is not None:
        try:
            budgets = (job.budgets,) if task == "few_labels" else ()
            return [
                _row(task, n_labels, metric, float(value))
                for n_labels, found in what.score(fitted, *budgets)
                for metric, value in found.items()
            ]
        except Exception as problem:  # noqa: BLE001 - one task fails alone
            error, final = _text(problem), isinstance(problem, NotPossible)
    primary = "unseen_auroc" if job.split.unseen else what.primary
    if job.spec.make().labels_cells and task == "embedding":
        primary = "macro_f1"
    wanted = sorted(n_labels for one, n_labels in job.wanted() if one == task)
    return [_row(task, n_labels, primary, float("nan"), error, final) for n_labels in wanted]


def _row(
    task: str, n_labels: str, metric: str, value: float, error: str = "", final: bool = False
) -> dict[str, Any]:
    about = {"task": task, "n_labels": n_labels, "metric": metric, "value": value}
    return {**about, "error": error, "final": final}


# --- files -----------------------------------------------------------------------------------------


def _folder(out: str | Path, *, make: bool) -> Path:
    folder = check_place(out, "out", folder=True)
    if make:
        (folder / "rows").mkdir(parents=True, exist_ok=True)
    return folder


def _read_rows(folder: Path, id: str) -> list[dict[str, Any]]:
    """What a fit has found before."""
    file = folder / "rows" / f"{id}.json"
    if not file.is_file():
        return []
    rows: list[dict[str, Any]] = parse_json(file.read_bytes(), file)["rows"]
    return [{**row, "value": _number(row["value"])} for row in rows]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _write_rows(folder: Path, id: str, rows: list[dict[str, Any]]) -> None:
    plain = [{k: None if v != v else v for k, v in row.items()} for row in rows]
    with replace_file(folder / "rows" / f"{id}.json") as file:
        file.write_text(json.dumps({"rows": plain}, indent=1))


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame with the columns in order."""
    import pandas as pd

    return pd.DataFrame(rows, columns=COLUMNS)


def _write_table(folder: Path) -> None:
    """All rows of a folder in one file, for people and for other programs."""
    if any((folder / "rows").glob("*.json")):
        with replace_file(folder / "results.csv") as file:
            read_results(folder).to_csv(file, index=False)


def read_results(out: str | Path) -> pd.DataFrame:
    """The table of a folder that :func:`benchmark` wrote, of all data sets in it.

    Of values that are there twice, of other data or another recipe, the newest.
    """
    folder = as_path(out)
    files = sorted(
        (folder / "rows").glob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file)
    )
    if not files:
        raise FileNotFoundError(f"{folder} holds no results of scssl.tl.benchmark.")
    rows = [row for file in files for row in parse_json(file.read_bytes(), file)["rows"]]
    table = as_table([{**row, "value": _number(row["value"])} for row in rows])
    order = ["data", "task", "method", "n_labels", "metric", "fold", "seed"]
    old = table.duplicated([*order, "arguments", "split"], keep="last")
    if old.any():
        _LOGGER.info("%d older values of the same name in %s are left out.", old.sum(), folder)
    return table[~old].sort_values(order, kind="stable", ignore_index=True)
