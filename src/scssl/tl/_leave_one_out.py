"""What pretraining on other data sets is worth on one that was left out."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scssl._checks import (
    check_choice,
    check_key,
    check_number,
    check_whole,
    some,
    whole_numbers,
)
from scssl._errors import MissingKeyError, ScsslWarning, warn
from scssl._io import check_place
from scssl._random import RNG, as_seed, derive_seed
from scssl._scores import all_scores

from ._estimators import fit
from ._protocol import Protocol, make_protocol

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.data import Datasets

_LOGGER = logging.getLogger("scssl")
Arm = Literal["pretrained", "scratch", "PCA + LR"]
ARMS: tuple[Arm, ...] = get_args(Arm)
_SCORES = ("accuracy", "cohen_kappa", "macro_f1", "macro_auroc", "macro_auprc")
_ALL = "all"
# What the training of a network needs.
_MIN_TRAIN = 3
_KNOWN = "scssl_known_label"
_N_PCS = 50
# Arguments of the classifier that both its arms take.
_CLASSIFIER = ("freeze", "head", "loss", "class_weight")


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
    from scssl.data import Datasets, check_datasets

    check_datasets(datasets)
    check_key(label_key, "label_key")
    file = None if out is None else check_place(out, "out")
    n_repeats = check_whole("n_repeats", n_repeats)
    check_number("test_size", test_size, "(0, 1)")
    max_labels = check_whole("max_labels", max_labels, none=True)
    what = "a whole number, None for all cells"
    number = (int, np.integer, type(None))
    budgets = [
        check_whole("n_labels_per_class", one, none=True)
        for one in _listed(n_labels_per_class, "n_labels_per_class", number, what)
    ]
    chosen = _listed(arms, "arms", str, "a name")
    for arm in chosen:
        check_choice("arms", arm, ARMS)
    group_of = _groups_of(datasets, groups)
    study = _Arms(
        model,
        layer,
        input,
        model_arguments=model_arguments,
        train_arguments=train_arguments,
        classifier_arguments=classifier_arguments,
        finetune_arguments=finetune_arguments,
    )
    pretrains, trains = "pretrained" in chosen, {"pretrained", "scratch"} & set(chosen)
    names = _held_out(
        datasets, label_key, hold_out, budgets, max_labels, test_size, _MIN_TRAIN if trains else 2
    )
    if pretrains:
        for name in names:
            _without(datasets, name, group_of)
        if not isinstance(datasets.how, str):
            warn(
                "`datasets` has genes from a list, which stays the same whatever is held out. If what is held "
                "out had a part in it, take those of the data: `datasets = "
                'scssl.data.Datasets(dict(datasets.items()), genes="intersection")`.'
            )
    seed, rows = as_seed(rng), []
    try:
        for name in names:
            adata = dict(datasets.items())[name]
            for repeat in range(n_repeats):
                own = derive_seed(seed, "repeat", repeat)
                pretrained = None
                if pretrains:
                    others = Datasets(_without(datasets, name, group_of), datasets.how)
                    pretrained = study.pretrain(others, own)
                done = []
                for budget in budgets:
                    protocol = _protocol_of(adata, label_key, budget, max_labels, test_size, own)
                    about = {
                        "dataset": name,
                        "seed": repeat,
                        "n_labels_per_class": _ALL if budget is None else budget,
                        "n_train": len(protocol.train),
                        "n_test": len(protocol.test),
                        "split": _digest(protocol),
                    }
                    for arm in chosen:
                        predicted = study.run(arm, adata, protocol, pretrained, own)
                        done.append({**about, "arm": arm, **_score(protocol, predicted)})
                rows += done
                if file is not None:
                    with file.open("a") as lines:
                        lines.write(_table(done).to_json(orient="records", lines=True))
    except (Exception, KeyboardInterrupt) as error:
        where = "sys.last_value.table" + ("" if out is None else f", and in {out}")
        vars(error)["table"] = _table(rows) if rows else None
        error.add_note(f"The study ended early. Its {len(rows)} rows so far: {where}.")
        raise
    return _table(rows)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows, with numbers of labels in order, all of them last."""
    import pandas as pd

    table = pd.DataFrame(rows)
    budgets = table["n_labels_per_class"].tolist()
    numbers = sorted({one for one in budgets if one != _ALL})
    names = pd.Index([*numbers, *([_ALL] if _ALL in budgets else [])], dtype=object)
    table["n_labels_per_class"] = pd.Categorical(budgets, categories=names, ordered=True)
    return table


def _score(protocol: Protocol, probabilities: np.ndarray) -> dict[str, float]:
    truth, predicted = protocol.codes[protocol.test], probabilities.argmax(axis=1)
    row, _ = all_scores(truth, predicted, probabilities, protocol.names)
    return {name: row[name] for name in _SCORES}


# --- what is held out, learnt from and tested on ---------------------------------------------------


def _listed(value: Any, name: str, kind: type | tuple[type, ...], what: str) -> list[Any]:
    """The values of argument `name`, each once, where one alone may stand for a list of one."""
    several = isinstance(value, Iterable) and not isinstance(value, kind)
    found = list(value) if several else [value]
    wrong = [one for one in found if not isinstance(one, kind)]
    if wrong:
        raise TypeError(f"`{name}` must be {what} or a list of them, found {wrong[0]!r}.")
    if not found:
        raise ValueError(f"`{name}` is empty: there is nothing to do.")
    twice = [one for one in dict.fromkeys(found) if found.count(one) > 1]
    if twice:
        raise ValueError(f"`{name}` has {twice[0]!r} more than once.")
    return found


def _groups_of(datasets: Datasets, groups: Mapping[str, str] | None) -> dict[str, str]:
    """Group of each data set."""
    names = [name for name, _ in datasets.items()]
    given = {} if groups is None else groups
    if not isinstance(given, Mapping):
        raise TypeError(f"`groups` must be a dict by data set, found {type(groups).__name__}.")
    for name in given:
        # What is misspelt would be pretrained on, though it belongs to what is held out.
        if name not in names:
            raise MissingKeyError(
                f"`groups` names {name!r}, which is no data set; there are {names}."
            )
    return {name: given.get(name, name) for name in names}


def _without(datasets: Datasets, name: str, group_of: Mapping[str, str]) -> dict[str, AnnData]:
    """All data sets that are not of the group of one."""
    kept = {n: a for n, a in datasets.items() if group_of[n] != group_of[name]}
    if not kept:
        raise ValueError(f"There is nothing left to pretrain on without {name!r} and its group.")
    return kept


def _held_out(
    datasets: Datasets,
    label_key: str,
    hold_out: str | Sequence[str] | None,
    budgets: Sequence[int | None],
    max_labels: int | None,
    test_size: float,
    min_train: int,
) -> list[str]:
    """Names of the data sets to hold out, all of which can be scored with all numbers of labels."""
    known = dict(datasets.items())
    labelled = [name for name, adata in known.items() if label_key in adata.obs]
    if not labelled:
        raise MissingKeyError(f"No data set has a column {label_key!r} in obs.")
    names = labelled if hold_out is None else _listed(hold_out, "hold_out", str, "a name")
    kept, reasons = [], {}
    for name in names:
        if name not in labelled:
            there = f"with labels {label_key!r}; there are {labelled}"
            raise MissingKeyError(f"There is no data set {name!r} {there}.")
        try:
            for budget in budgets:
                # Sizes of the parts are the same with any seed.
                found = _protocol_of(known[name], label_key, budget, max_labels, test_size, 0)
                if len(found.train) < min_train:
                    few = f"{len(found.train)} cells of {len(found.names)} labels to learn from"
                    few += f", and a network needs {min_train}"
                    raise ValueError(f"with n_labels_per_class={budget} there are {few}.")
        except ValueError as error:
            if hold_out is not None:
                raise ValueError(f"Data set {name!r} cannot be held out: {error}") from error
            reasons[name] = str(error)
        else:
            kept.append(name)
    if not kept:
        why = " ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"No data set can be held out. {why}")
    for name, reason in reasons.items():
        _LOGGER.warning("Data set %r is only pretrained on, not held out: %s", name, reason)
    return kept


def _protocol_of(
    adata: AnnData,
    key: str,
    budget: int | None,
    max_labels: int | None,
    test_size: float,
    seed: int,
) -> Protocol:
    """Cells to learn from and to test on."""
    labels = whole_numbers(adata.obs[key])
    known = labels[labels.notna()]
    n_scored = int((known.astype(str).value_counts() > 1).sum())
    if n_scored < 2:
        need = "(to learn from, to test on), and two such labels are needed"
        raise ValueError(f"obs[{key!r}] has {n_scored} labels of two cells and more {need}.")
    if max_labels is not None:
        test_size = max(test_size, 1 - max_labels / len(known))
    with warnings.catch_warnings():
        # Labels with too few cells to learn from are left out of all arms alike.
        warnings.simplefilter("ignore", ScsslWarning)
        return make_protocol(
            adata,
            labels,
            label_key=key,
            split=None,
            test_size=test_size,
            n_labels_per_class=budget,
            seed=seed,
        )


def _digest(protocol: Protocol) -> str:
    """The same for the same cells."""
    made = hashlib.sha256()
    for rows in (protocol.pool, protocol.train, protocol.test):
        made.update(np.ascontiguousarray(rows, dtype=np.int64).data)
    return made.hexdigest()[:12]


# --- the arms --------------------------------------------------------------------------------------


class _Arms:
    """How models are made and trained, the same for every data set."""

    def __init__(
        self,
        model: str,
        layer: str | None,
        input: Any,
        *,
        model_arguments: Mapping[str, Any] | None,
        train_arguments: Mapping[str, Any] | None,
        classifier_arguments: Mapping[str, Any] | None,
        finetune_arguments: Mapping[str, Any] | None,
    ) -> None:
        from scssl.model import get_model_class

        self.model_class: Any = get_model_class(model)
        if not hasattr(self.model_class, "setup_datasets"):
            raise ValueError(f"{model} cannot be trained on several data sets at once.")
        self.model, self.layer, self.input = model, layer, input
        self.model_arguments = dict(model_arguments or {})
        self.train_arguments = {"progress": False, **(train_arguments or {})}
        self.classifier_arguments = dict(classifier_arguments or {})
        self.finetune_arguments = {"progress": False, **(finetune_arguments or {})}
        strange = sorted(set(self.classifier_arguments) - set(_CLASSIFIER))
        if strange:
            takes = f"takes {some(_CLASSIFIER)} of CellTypeClassifier"
            raise ValueError(f"`classifier_arguments` {takes}; found {some(strange)}.")
        for name in ("model_arguments", "train_arguments", "finetune_arguments"):
            if "rng" in getattr(self, name):
                raise ValueError(f"`{name}` has 'rng', which is the study's own: leave it out.")
        self._reduced: tuple[Any, np.ndarray] | None = None

    def pretrain(self, others: Datasets, seed: int) -> Any:
        """Model of the other data sets."""
        self.model_class.setup_datasets(others, self.layer, input=self.input)
        model = self.model_class(others, rng=seed, **self.model_arguments)
        model.train(rng=seed, **self.train_arguments)
        _raise_if_interrupted(model)
        return model

    def run(
        self, arm: str, adata: AnnData, protocol: Protocol, pretrained: Any, seed: int
    ) -> np.ndarray:
        """Probability of each label for the test cells."""
        if arm == "PCA + LR":
            return self._regression(adata, protocol, seed)
        import pandas as pd

        from scssl.model import CellTypeClassifier

        # Only the training part is set up; of it, only the cells drawn have a label.
        cells = adata[protocol.pool].to_memory()
        labels = pd.Series(None, index=adata.obs_names, dtype=object)
        labels.iloc[protocol.train] = protocol.names[protocol.codes[protocol.train]]
        cells.obs[_KNOWN] = pd.Categorical(labels.iloc[protocol.pool].to_numpy())
        with warnings.catch_warnings():
            # Of genes that no cell of a small part has, of cells without a count in it.
            warnings.simplefilter("ignore", ScsslWarning)
            if arm == "pretrained":
                model = CellTypeClassifier.from_ssl_model(
                    pretrained,
                    cells,
                    _KNOWN,
                    new_genes="learn",
                    min_overlap=0,
                    rng=seed,
                    **self.classifier_arguments,
                )
            else:
                CellTypeClassifier.setup_anndata(
                    cells, layer=self.layer, labels_key=_KNOWN, input=self.input
                )
                model = CellTypeClassifier(
                    cells,
                    backbone=self.model,
                    backbone_arguments=self.model_arguments,
                    rng=seed,
                    **self.classifier_arguments,
                )
            model.train(rng=seed, **self.finetune_arguments)
            _raise_if_interrupted(model)
            found = model.predict(adata, indices=protocol.test, soft=True)
        probabilities = np.zeros((len(protocol.test), len(protocol.names)))
        probabilities[:, np.searchsorted(protocol.names, found.columns)] = found.to_numpy()
        return probabilities

    def _regression(self, adata: AnnData, protocol: Protocol, seed: int) -> np.ndarray:
        # Numbers of labels differ in what is learnt from, not in the cells that are split.
        of = (id(adata), seed, protocol.pool.tobytes(), protocol.test.tobytes())
        if self._reduced is None or self._reduced[0] != of:
            self._reduced = of, self._components(adata, protocol, seed)
        values = self._reduced[1]
        fitted = fit(values, protocol, "lr", {}, seed)
        return fitted.apply(values[protocol.test])[1]

    def _components(self, adata: AnnData, protocol: Protocol, seed: int) -> np.ndarray:
        """Principal components of the training part, and the test part in terms of them."""
        from scssl.data import (
            find_counts,
            normalize_rows,
            open_rows,
            refuse_features,
            resolve_input,
            scan_matrix,
        )
        from scssl.data.matrix import fitted_pca, row_sums, typical_sum, usual_target_sum

        matrix = adata.X if self.layer is None else adata.layers[self.layer]
        kind = self.input
        if kind == "auto":
            refuse_features(adata)
            hint = find_counts(adata, layer=self.layer)
            kind = resolve_input(scan_matrix(matrix), raw_hint=hint).kind
        rows = np.concatenate([protocol.pool, protocol.test])
        x, n_pool = open_rows(matrix).read(rows), len(protocol.pool)
        scale = usual_target_sum(x.shape[1], typical_sum(row_sums(x[:n_pool])))
        normalize_rows(x, input_kind=kind, target_sum=scale)
        n_pcs = min(_N_PCS, n_pool - 1, x.shape[1] - 1)
        pca = fitted_pca(x[:n_pool], n_pcs, seed % 2**32)
        values = np.zeros((adata.n_obs, n_pcs))
        if pca is not None:
            values[rows] = pca.transform(x)
        return values


def _raise_if_interrupted(model: Any) -> None:
    """Ctrl-C ends training with a model that can be used, but not compared with others."""
    if model.training_["stopped_by"] == "interrupt":
        raise KeyboardInterrupt
