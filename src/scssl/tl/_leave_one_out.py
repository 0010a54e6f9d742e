"""What pretraining on other data sets is worth on one that was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_seed

from ._checks import check_integers, check_key, check_share
from ._leave_one_out_arms import Arms
from ._leave_one_out_plan import (
    ALL,
    as_category,
    budgets_of,
    digest,
    groups_of,
    held_out,
    listed,
    protocol_of,
    without,
)
from ._protocol import Protocol
from ._scores import class_table, kappa_of, ranking_table, scores_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from scssl.data import Datasets

Arm = Literal["pretrained", "scratch", "PCA + LR"]
ARMS: tuple[Arm, ...] = get_args(Arm)
# What the training of a network needs.
_MIN_TRAIN = 3


def leave_one_dataset_out(
    datasets: Datasets,
    label_key: str,
    *,
    hold_out: str | Sequence[str] | None = None,
    groups: Mapping[str, str] | None = None,
    n_labels_per_class: int | Sequence[int | None] | None = (1, 5, 20, None),
    max_labels: int | None = 1000,
    test_size: float = 0.4,
    n_repeats: int = 5,
    arms: Arm | Sequence[Arm] = ARMS,
    model: str = "PseudoLabel",
    layer: str | None = None,
    input: Literal["auto", "counts", "lognorm"] = "auto",
    model_arguments: Mapping[str, Any] | None = None,
    train_arguments: Mapping[str, Any] | None = None,
    classifier_arguments: Mapping[str, Any] | None = None,
    finetune_arguments: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    rng: RNG = 0,
) -> pd.DataFrame:
    """Pretrain on all data sets but one, and fine-tune on few labels of the one that was left out.

    The protocol of :cite:p:`Zhang2022`. For each data set that is held out and each repeat:

    - a model is pretrained on the cells of all others, without labels. Nothing of the data set that is
      held out is read, neither for the weights nor for the genes, unless `datasets` was given a list of
      genes: that is kept as it is, and genes that were chosen with the data set that is held out
      know of it.
    - its cells are split, stratified by label, and a few cells of each label of the training part are
      drawn. Split and draw are the same for all arms, and fewer cells are part of more.
    - each arm learns from the cells drawn and is scored on the test part.

    The arms:

    - ``"pretrained"``: :class:`~scssl.model.CellTypeClassifier` that starts from the pretrained
      encoder, with all genes of the data set: weights of new ones start at zero. The head starts as
      the logistic regression of the labels on the embeddings, and the learning rate of the encoder is
      0.1 times that of the head. It is trained for as many epochs as make 2,000 steps, but at least 20
      and at most 100, which are 100 steps where the labels are few.
    - ``"scratch"``: the same network on the same genes, from new weights, encoder and head with the
      same learning rate; for at most 200 epochs instead of 100.
    - ``"PCA + LR"``: logistic regression on 50 principal components of all cells of the training part.

    Both networks are trained by AdamW (learning rate 0.001, weight decay 0.01, batches of 128 cells, 512
    from 20,000 cells). Of 30 and more training cells of the median label, a tenth of the cells are a
    validation set: training stops after 15 epochs without improvement, and the best weights are
    kept. With fewer there is none, and the last weights are kept. `finetune_arguments` changes this.

    Parameters
    ----------
    datasets
        The data sets; all must have genes with names of one kind.
    label_key
        Column of ``obs`` with the cell types. Data sets without it are only pretrained on.
    hold_out
        Data sets to hold out in turn, or one. By default all that can be scored: with at least two
        labels of two cells and more; the log says which are left.
    groups
        Group by name of the data set: with one that is held out, all others of its group are left out
        too, such as those of the same donors. Data sets that are not named are a group each.
    n_labels_per_class
        Numbers of labelled cells per cell type to learn from, or one; `None` for the whole training
        part.
    max_labels
        Most cells of the training part, 1,000 as in :cite:p:`Zhang2022`; `None` for no limit.
    test_size
        Share of the cells to test on, 0.4 at least as in :cite:p:`Zhang2022`.
    n_repeats
        Number of seeds: of weights, split and draw.
    arms
        Which of the three.
    model
        Class of the pretrained model: one with ``setup_datasets``.
    layer
        Layer with the expression values, ``X`` by default.
    input
        What the values are, as in ``setup_datasets``.
    model_arguments
        Arguments of the model, and of the network from scratch.
    train_arguments
        Arguments of the model's ``train``: how it is pretrained.
    classifier_arguments
        ``freeze``, ``head``, ``loss`` and ``class_weight`` of the classifier, in both its arms.
    finetune_arguments
        Arguments of the classifier's ``train``, in both its arms, such as ``max_epochs``, ``lr`` and
        ``backbone_lr``.
    out
        File to which the rows are appended, as lines of JSON, whenever all of one data set and repeat
        are done: ``pandas.read_json(out, lines=True)``.
    rng
        Seed.

    Returns
    -------
    One row for each data set, repeat, number of labels and arm, with ``dataset``, ``seed``,
    ``n_labels_per_class`` (an ordered category, ``"all"`` last), ``arm``, ``n_train``, ``n_test``,
    ``split`` (a digest of the cells that are learnt from and tested on), ``accuracy``, ``cohen_kappa``,
    ``macro_f1``, ``macro_auroc`` and ``macro_auprc``. :func:`scssl.pl.paired_scatter` and
    :func:`scssl.pl.metric_bars` take it.

    Raises
    ------
    KeyError
        If no data set has the labels, or one that is named does not exist.
    KeyboardInterrupt
        If training is interrupted. This and any error on the way has the table of the data sets and
        repeats that are done as its attribute ``table``, afterwards ``sys.last_value.table``.
    TypeError
        If `datasets` are not Datasets, or an argument is of another kind.
    ValueError
        If nothing is left to pretrain on, a data set to hold out cannot be scored, or an argument is
        out of range. All of this before anything is trained.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> parts = {"one": adata[:350].copy(), "two": adata[350:].copy()}
    >>> table = scssl.tl.leave_one_dataset_out(
    ...     scssl.data.Datasets(parts, obs_keys=["bulk_labels"]),
    ...     "bulk_labels",
    ...     hold_out="two",
    ...     n_labels_per_class=5,
    ...     n_repeats=1,
    ...     model_arguments={"n_rounds": 1},
    ...     train_arguments={"max_epochs": 1},
    ...     finetune_arguments={"max_epochs": 2},
    ... )
    >>> table["arm"].tolist()
    ['pretrained', 'scratch', 'PCA + LR']
    """
    from scssl.data import Datasets

    if not isinstance(datasets, Datasets):
        raise TypeError(
            f"`datasets` must be scssl.data.Datasets, found {type(datasets).__name__}. Make them: "
            'scssl.data.Datasets({"one": adata, "two": other})'
        )
    check_key(label_key, "label_key")
    check_integers(n_repeats=(n_repeats, 1))
    check_share(test_size, "test_size")
    if max_labels is not None:
        check_integers(max_labels=(max_labels, 1))
    budgets = budgets_of(n_labels_per_class)
    chosen = listed(arms, "arms", str, "a name")
    if not set(chosen) <= set(ARMS):
        raise ValueError(f"`arms` must be of {', '.join(map(repr, ARMS))}; found {chosen}.")
    group_of = groups_of(datasets, groups)
    study = Arms(
        model,
        layer,
        input,
        model_arguments=model_arguments,
        train_arguments=train_arguments,
        classifier_arguments=classifier_arguments,
        finetune_arguments=finetune_arguments,
    )
    pretrains, trains = "pretrained" in chosen, {"pretrained", "scratch"} & set(chosen)
    names = held_out(
        datasets, label_key, hold_out, budgets, max_labels, test_size, _MIN_TRAIN if trains else 2
    )
    if pretrains:
        for name in names:
            without(datasets, name, group_of)
        if not isinstance(datasets.how, str):
            warn(
                "`datasets` has genes from a list, which stays the same whatever is held out. If the "
                "data sets that are held out had a part in choosing it, pretraining knows of them: use "
                'scssl.data.Datasets(..., genes="union") or "intersection".'
            )
    seed, rows = as_seed(rng), []
    try:
        for name in names:
            adata = dict(datasets.items())[name]
            for repeat in range(n_repeats):
                own = derive_seed(seed, "repeat", repeat)
                pretrained = None
                if pretrains:
                    others = Datasets(without(datasets, name, group_of), datasets.how)
                    pretrained = study.pretrain(others, own)
                done = []
                for budget in budgets:
                    protocol = protocol_of(adata, label_key, budget, max_labels, test_size, own)
                    about = {
                        "dataset": name,
                        "seed": repeat,
                        "n_labels_per_class": ALL if budget is None else int(budget),
                        "n_train": len(protocol.train),
                        "n_test": len(protocol.test),
                        "split": digest(protocol),
                    }
                    for arm in chosen:
                        predicted = study.run(arm, adata, protocol, pretrained, own)
                        done.append({**about, "arm": arm, **_score(protocol, predicted)})
                rows += done
                if out is not None:
                    with Path(out).open("a") as file:
                        file.write(_table(done).to_json(orient="records", lines=True))
    except (Exception, KeyboardInterrupt) as error:
        where = "sys.last_value.table" + ("" if out is None else f", and in {out}")
        vars(error)["table"] = _table(rows) if rows else None
        error.add_note(f"The study ended early. Its {len(rows)} rows so far: {where}.")
        raise
    return _table(rows)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(rows)
    table["n_labels_per_class"] = as_category(table["n_labels_per_class"].tolist())
    return table


def _score(protocol: Protocol, probabilities: np.ndarray) -> dict[str, float]:
    truth = protocol.codes[protocol.test]
    table = class_table(truth, probabilities.argmax(axis=1), protocol.names)
    scores = scores_of(table)
    ranked = ranking_table(truth, probabilities, protocol.names)
    return {
        "accuracy": scores["accuracy"],
        "cohen_kappa": kappa_of(table),
        "macro_f1": scores["macro_f1"],
        "macro_auroc": float(ranked["auroc"].mean()),
        "macro_auprc": float(ranked["auprc"].mean()),
    }
