"""What pretraining on other data sets is worth on one that was left out."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scssl._errors import ScsslWarning
from scssl._random import RNG, as_seed, derive_seed
from scssl.tl._checks import check_integers
from scssl.tl._protocol import Protocol, make_protocol
from scssl.tl._scores import class_table, kappa_of, ranking_table, scores_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.data import Datasets

Arm = Literal["pretrained", "scratch", "PCA + LR"]
ARMS: tuple[Arm, ...] = get_args(Arm)
_KNOWN = "scssl_known_label"
_N_PCS = 50


def leave_one_dataset_out(
    datasets: Datasets,
    label_key: str,
    *,
    hold_out: Sequence[str] | None = None,
    groups: Mapping[str, str] | None = None,
    n_labels_per_class: Sequence[int | None] = (1, 5, 20, None),
    max_labels: int | None = 1000,
    test_size: float = 0.4,
    n_repeats: int = 5,
    arms: Sequence[Arm] = ARMS,
    model: str = "PseudoLabel",
    layer: str | None = None,
    input: Literal["auto", "counts", "lognorm"] = "auto",
    model_arguments: Mapping[str, Any] | None = None,
    train_arguments: Mapping[str, Any] | None = None,
    finetune_arguments: Mapping[str, Any] | None = None,
    rng: RNG = 0,
) -> pd.DataFrame:
    """Pretrain on all data sets but one, and fine-tune on few labels of the one that was left out.

    The protocol of :cite:p:`Zhang2022`. For each data set that is held out and each repeat:

    - a model is pretrained on the cells of all others, without labels. Nothing of the data set that is
      held out is read, neither for the weights nor for the genes.
    - its cells are split, stratified by label, and a few cells of each label of the training part are
      drawn. Split and draw are the same for all arms.
    - ``"pretrained"``: :class:`~scssl.model.CellTypeClassifier` that starts from the pretrained encoder,
      with all genes of the data set; ``"scratch"``: the same network from new weights; ``"PCA + LR"``:
      logistic regression on 50 principal components of the training part.
    - each is scored on the test part.

    Parameters
    ----------
    datasets
        The data sets; all must have genes with names of one kind.
    label_key
        Column of ``obs`` with the cell types. Data sets without it are only pretrained on.
    hold_out
        Data sets to hold out in turn; by default all with labels.
    groups
        Group by name of the data set: with one that is held out, all others of its group are left out
        too, such as those of the same donors. Data sets that are not named are a group each.
    n_labels_per_class
        Numbers of labelled cells per cell type to learn from; `None` for the whole training part.
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
        Arguments of the model.
    train_arguments
        Arguments of its ``train``.
    finetune_arguments
        Arguments of the classifier's ``train``, in both arms.
    rng
        Seed.

    Returns
    -------
    One row for each data set, repeat, number of labels and arm, with ``dataset``, ``seed``,
    ``n_labels_per_class`` (0 for all), ``arm``, ``n_train``, ``n_test``, ``split`` (a digest of the cells
    that are learnt from and tested on), ``accuracy``, ``cohen_kappa``, ``macro_f1``, ``macro_auroc`` and
    ``macro_auprc``. :func:`scssl.pl.paired_scatter` and :func:`scssl.pl.metric_bars` take it.

    Raises
    ------
    KeyError
        If no data set has the labels, or one that is named does not exist.
    TypeError
        If `datasets` are not Datasets.
    ValueError
        If nothing is left to pretrain on, or an argument is out of range.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> parts = {"one": adata[:350].copy(), "two": adata[350:].copy()}
    >>> table = scssl.tl.leave_one_dataset_out(
    ...     scssl.data.Datasets(parts, obs_keys=["bulk_labels"]),
    ...     "bulk_labels",
    ...     hold_out=["two"],
    ...     n_labels_per_class=[5],
    ...     n_repeats=1,
    ...     model_arguments={"n_rounds": 1},
    ...     train_arguments={"max_epochs": 1},
    ...     finetune_arguments={"max_epochs": 2},
    ... )
    >>> table["arm"].tolist()
    ['pretrained', 'scratch', 'PCA + LR']
    """
    import pandas as pd

    from scssl.data import Datasets

    if not isinstance(datasets, Datasets):
        msg = (
            f"`datasets` must be scssl.data.Datasets, found {type(datasets).__name__}. Make them: "
            'scssl.data.Datasets({"one": adata, "two": other})'
        )
        raise TypeError(msg)
    check_integers(n_repeats=(n_repeats, 1))
    for number in n_labels_per_class:
        if number is not None:
            check_integers(n_labels_per_class=(number, 1))
    strange = [arm for arm in arms if arm not in ARMS]
    if strange or not arms:
        msg = f"`arms` must be of {', '.join(map(repr, ARMS))}; found {list(arms)}."
        raise ValueError(msg)
    known = dict(datasets.items())
    labelled = [name for name, adata in known.items() if label_key in adata.obs]
    for name in labelled if hold_out is None else hold_out:
        if name not in labelled:
            msg = f"There is no data set {name!r} with labels {label_key!r}; there are {labelled}."
            raise KeyError(msg)
    names = labelled if hold_out is None else list(hold_out)
    if not names:
        msg = f"No data set has a column {label_key!r} in obs."
        raise KeyError(msg)
    seed = as_seed(rng)
    study = _Study(
        model, layer, input, dict(model_arguments or {}), dict(train_arguments or {}),
        dict(finetune_arguments or {}),
    )  # fmt: skip
    rows = []
    for name in names:
        others = _others(datasets, name, dict(groups or {}))
        for repeat in range(n_repeats):
            own = derive_seed(seed, "repeat", repeat)
            pretrained = study.pretrain(others, own) if "pretrained" in arms else None
            adata = known[name]
            for budget in n_labels_per_class:
                protocol = _protocol(adata, label_key, budget, max_labels, test_size, own)
                about = {
                    "dataset": name,
                    "seed": repeat,
                    "n_labels_per_class": 0 if budget is None else int(budget),
                    "n_train": len(protocol.train),
                    "n_test": len(protocol.test),
                    "split": _digest(protocol),
                }
                for arm in arms:
                    predicted = study.run(arm, adata, label_key, protocol, pretrained, own)
                    rows.append({**about, "arm": arm, **_score(protocol, predicted)})
    return pd.DataFrame(rows)


class _Study:
    """How models are made and trained, the same for every data set."""

    def __init__(
        self,
        model: str,
        layer: str | None,
        input: Any,
        model_arguments: dict[str, Any],
        train_arguments: dict[str, Any],
        finetune_arguments: dict[str, Any],
    ) -> None:
        from scssl.model import get_model_class

        self.model_class: Any = get_model_class(model)
        if not hasattr(self.model_class, "setup_datasets"):
            msg = f"{model} cannot be trained on several data sets at once."
            raise ValueError(msg)
        self.model, self.layer, self.input = model, layer, input
        self.model_arguments = model_arguments
        self.train_arguments = {"progress": False, **train_arguments}
        self.finetune_arguments = {"progress": False, **finetune_arguments}
        self._reduced: tuple[Any, np.ndarray] | None = None

    def pretrain(self, others: Datasets, seed: int) -> Any:
        """Model of the other data sets."""
        self.model_class.setup_datasets(others, self.layer, input=self.input)
        model = self.model_class(others, rng=seed, **self.model_arguments)
        model.train(rng=seed, **self.train_arguments)
        return model

    def run(
        self, arm: str, adata: AnnData, key: str, protocol: Protocol, pretrained: Any, seed: int
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
                    pretrained, cells, _KNOWN, new_genes="learn", min_overlap=0, rng=seed
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
                )
            model.train(rng=seed, **self.finetune_arguments)
            found = model.predict(adata, indices=protocol.test, soft=True)
        probabilities = np.zeros((len(protocol.test), len(protocol.names)))
        probabilities[:, np.searchsorted(protocol.names, found.columns)] = found.to_numpy()
        return probabilities

    def _regression(self, adata: AnnData, protocol: Protocol, seed: int) -> np.ndarray:
        from scssl.tl._estimators import fit

        # Numbers of labels differ in what is learnt from, not in the cells that are split.
        of = (id(adata), seed, protocol.pool.tobytes(), protocol.test.tobytes())
        if self._reduced is None or self._reduced[0] != of:
            self._reduced = of, self._components(adata, protocol, seed)
        values = self._reduced[1]
        fitted = fit(values, protocol, "lr", {}, seed)
        return fitted.apply(values[protocol.test])[1]

    def _components(self, adata: AnnData, protocol: Protocol, seed: int) -> np.ndarray:
        """Principal components of the training part, and the test part in terms of them."""
        from sklearn.decomposition import PCA

        from scssl.data import find_counts, normalize_rows, open_rows, resolve_input, scan_matrix

        matrix = adata.X if self.layer is None else adata.layers[self.layer]
        kind = self.input
        if kind == "auto":
            hint = find_counts(adata, layer=self.layer)
            kind = resolve_input(scan_matrix(matrix), raw_hint=hint).kind
        rows = np.concatenate([protocol.pool, protocol.test])
        x, _ = normalize_rows(open_rows(matrix).read(rows), input_kind=kind)
        n_pool = len(protocol.pool)
        n_pcs = min(_N_PCS, n_pool - 1, x.shape[1] - 1)
        pca = PCA(n_pcs, svd_solver="arpack", random_state=seed % 2**32).fit(x[:n_pool])
        values = np.zeros((adata.n_obs, n_pcs))
        values[rows] = pca.transform(x)
        return values


def _others(datasets: Datasets, name: str, groups: dict[str, str]) -> Datasets:
    """All data sets that are not of the group of one, with genes of their own."""
    from scssl.data import Datasets

    group = groups.get(name, name)
    kept = {n: adata for n, adata in datasets.items() if groups.get(n, n) != group and n != name}
    if not kept:
        msg = f"There is nothing left to pretrain on without {name!r} and its group."
        raise ValueError(msg)
    return Datasets(kept, datasets.how)


def _protocol(
    adata: AnnData,
    key: str,
    budget: int | None,
    max_labels: int | None,
    test_size: float,
    seed: int,
) -> Protocol:
    """Cells to learn from and to test on."""
    rows = np.flatnonzero(adata.obs[key].notna())
    if max_labels is not None:
        test_size = max(test_size, 1 - max_labels / max(len(rows), 1))
    with warnings.catch_warnings():
        # Labels with too few cells to learn from are left out of all arms alike.
        warnings.simplefilter("ignore", ScsslWarning)
        found = make_protocol(
            adata,
            adata.obs[key].iloc[rows],
            label_key=key,
            split=None,
            test_size=test_size,
            n_labels_per_class=budget,
            seed=seed,
        )
    codes = np.full(adata.n_obs, -1)
    codes[rows] = found.codes
    pool, train, test = (rows[part] for part in (found.pool, found.train, found.test))
    return Protocol(found.names, pool, train, test, codes, found.left_out)


def _digest(protocol: Protocol) -> str:
    digest = hashlib.sha256()
    for rows in (protocol.pool, protocol.train, protocol.test):
        digest.update(np.ascontiguousarray(rows, dtype=np.int64).data)
    return digest.hexdigest()[:12]


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
