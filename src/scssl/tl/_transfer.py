"""What an encoder that was trained on other cells is worth on these."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from scssl._checks import check_choice, check_whole

from ._benchmark import benchmark, saved_model

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.model import SSLModel

Arm = Literal[
    "zero-shot",
    "linear probe",
    "last layers",
    "all layers",
    "scratch",
    "untrained",
    "PCA",
    "scVI",
]
ARMS: tuple[Arm, ...] = get_args(Arm)


def transfer_benchmark(
    adata: AnnData,
    model: SSLModel | str | Path,
    label_key: str,
    *,
    arms: Arm | Sequence[Arm] = ARMS,
    n_last: int | Sequence[int] = 1,
    split: Literal["cell", "batch", "block"] = "cell",
    split_key: str | None = None,
    spatial_key: str = "spatial",
    batch_key: str | None = None,
    layer: str | None = None,
    min_overlap: float = 0.5,
    n_labels: int | Sequence[int | None] = (None,),
    test_size: float = 0.2,
    folds: int | None = None,
    min_cells: int = 10,
    arguments: Mapping[str, Any] | None = None,
    declared: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 5,
    n_jobs: int | None = None,
    out: str | Path | None = None,
    name: str = "data",
    progress: bool | None = None,
    dry_run: bool = False,
) -> pd.DataFrame:
    """Ask what a pretrained encoder is worth on other cells: arms that differ in one thing at a time.

    Task ``"few_labels"`` of :func:`benchmark`, whose splits, files and table these are. The arms:

    - ``"zero-shot"``: the encoder as it is;
    - ``"linear probe"``: a new linear head is trained on it;
    - ``"last layers"``: the last `n_last` layers of the encoder are trained with the head, those nearest to
      the genes stay as they were (``last 1 layer``; an arm for each number);
    - ``"all layers"``: the whole encoder is trained with the head;
    - ``"scratch"``: for each of the two before, the same network with **the same trainable weights**, from new
      weights (``scratch, all layers``), so that not the number of weights is what is compared;
    - ``"untrained"``: the encoder with new weights, as it is;
    - ``"PCA"``: as many components as the embedding has dimensions; ``"scVI"``: with the advice of scvi-tools.

    All that are trained start with the same random head on standardised embeddings, and have the same dropout
    (that of the pretrained encoder, none in frozen layers), learning rate (AdamW, 0.001 for encoder and head,
    weight decay 0.01, batches of 128 cells, 512 from 20,000 cells), 100 epochs at most and the same rule to
    stop: a tenth of the training cells are held out where a class has some 30 labels, training ends after 15
    epochs without a better loss there, and the best weights are kept. Where fine-tuning is not compared but
    used, :class:`~scssl.model.CellTypeClassifier` does better with its own defaults.

    ``macro_f1`` and ``accuracy`` are those of the arm's own head, and of a logistic regression on the embedding
    for arms without one; ``knn_macro_f1`` and ``knn_accuracy`` are those of 15 nearest neighbours in
    the embedding. The two answer different questions: what can be learned, and what lies together.

    Every row has hashes of the data and of the split, how many classes can be learned, how many genes of the
    encoder the data have, and how many weights were trained; with `declared`, what differs is refused.

    Parameters
    ----------
    adata
        Cells with labels, which the model was not trained on. It is not changed.
    model
        Pretrained model, its folder or its name on the Hugging Face Hub.
    label_key
        Column of `adata.obs` with cell types.
    arms
        Names of arms.
    n_last
        Numbers of layers of ``"last layers"``.
    split
        What is held out: ``"cell"`` (random cells), ``"batch"`` (each donor, section or other group of
        `split_key` in turn) or ``"block"``: blocks of tissue with a margin. No cell is learned from that is
        nearer to a cell that is held out than two typical distances of a sixth neighbour, or that is among the six
        neighbours of one, or has one among its own.
    split_key
        Column of `adata.obs` with what is left out as a whole, or with the section for blocks.
    spatial_key
        Entry of `adata.obsm` with places, for ``split="block"``.
    batch_key
        Column of `adata.obs` with the batch, of which scVI is told; what is left out if there is no `split_key`.
    layer
        Layer with the values, instead of `adata.X`.
    min_overlap
        Share of the model's genes that `adata` must have.
    n_labels
        Numbers of labels a class; `None` for all.
    test_size
        Share of the cells of each label to test on, with ``split="cell"``.
    folds
        Groups to leave out, drawn once; all by default.
    min_cells
        Labels of fewer cells are not scored.
    arguments
        Of :class:`~scssl.model.CellTypeClassifier` and its ``train``, for all arms that are trained, such as
        ``{"max_epochs": 50, "class_weight": "balanced"}``.
    declared
        What the study is of: ``data_hash``, ``classes``, ``genes_matched`` and ``trainable_weights`` by arm, as
        in :func:`benchmark`.
    seeds
        Number of seeds, or the seeds themselves.
    n_jobs
        Jobs at the same time; by default as ``joblib.parallel_config`` says, or one.
    out
        Folder for the results; a call with the same arguments goes on where a killed one stopped.
    name
        What the data are called in the table.
    progress
        Whether to show a bar; :attr:`scssl.settings.progress <scssl.Settings.progress>` by default.
    dry_run
        Check everything, run nothing and say what would be run.

    Returns
    -------
    pandas.DataFrame
        One row a value, as of :func:`benchmark`; for :func:`benchmark_summary` and
        :func:`scssl.pl.benchmark`.

    Raises
    ------
    KeyError
        If a column, layer or entry is missing.
    ValueError
        If there is no such arm, the data are not those that were declared, or an argument is out of range.
    BundleError
        If there is no sound model in the folder.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> others = adata[350:].copy()
    >>> scssl.model.MaskedAutoencoder.setup_anndata(others)
    >>> model = scssl.model.MaskedAutoencoder(others)
    >>> model.train(max_epochs=2, progress=False)
    >>> results = scssl.tl.transfer_benchmark(
    ...     adata[:350],
    ...     model,
    ...     "bulk_labels",
    ...     arms=["zero-shot", "all layers", "scratch"],
    ...     arguments={"max_epochs": 2},
    ...     seeds=1,
    ...     progress=False,
    ... )
    >>> weights = results.groupby("method")["trainable_weights"].first()
    >>> bool(weights["all layers"] == weights["scratch, all layers"])
    True
    """
    chosen = [arms] if isinstance(arms, str) else list(dict.fromkeys(arms))
    for arm in chosen:
        check_choice("arms", arm, ARMS)
    numbers = [n_last] if isinstance(n_last, int) else list(n_last)
    numbers = [check_whole("n_last", one) for one in numbers]
    with tempfile.TemporaryDirectory() as folder:
        start, n_latent = saved_model(model, Path(folder) / "model")
        same = {"method": "transfer", "model": start, "min_overlap": min_overlap}
        methods = _methods(chosen, numbers, same, dict(arguments or {}), n_latent)
        return benchmark(
            adata,
            methods,
            "few_labels",
            label_key=label_key,
            batch_key=batch_key,
            layer=layer,
            split=split,
            split_key=split_key,
            spatial_key=spatial_key,
            test_size=test_size,
            n_labels=n_labels,
            folds=folds,
            min_cells=min_cells,
            declared=declared,
            seeds=seeds,
            n_jobs=n_jobs,
            out=out,
            name=name,
            progress=progress,
            dry_run=dry_run,
        )


def _methods(
    arms: Sequence[str],
    n_last: Sequence[int],
    same: Mapping[str, Any],
    arguments: Mapping[str, Any],
    n_latent: int,
) -> dict[str, dict[str, Any]]:
    """The methods of the benchmark, by the names of their arms."""
    trained: dict[str, Any] = {}
    if "last layers" in arms:
        trained |= {f"last {n} layer{'s' if n > 1 else ''}": n for n in n_last}
    if "all layers" in arms:
        trained["all layers"] = "all"
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        if arm == "zero-shot":
            found[arm] = {**same}
        elif arm == "untrained":
            found[arm] = {**same, "weights": "new"}
        elif arm == "linear probe":
            found[arm] = {**same, "trainable": "head", **arguments}
        elif arm == "PCA":
            found[arm] = {"n_comps": n_latent}
        elif arm == "scVI":
            found[arm] = {}
        elif arm == "scratch":
            for name, layers in (trained or {"all layers": "all"}).items():
                new = {"trainable": layers, "weights": "new"}
                found[f"scratch, {name}"] = {**same, **new, **arguments}
        else:
            of_arm = {k: v for k, v in trained.items() if (v == "all") == (arm == "all layers")}
            for name, layers in of_arm.items():
                found[name] = {**same, "trainable": layers, **arguments}
    return found
