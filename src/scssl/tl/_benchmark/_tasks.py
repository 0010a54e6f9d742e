"""What methods are asked to do, and how it is scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import ScsslWarning
from scssl._random import derive_generator
from scssl._scores import calibration_error, class_table, reliability, scores_of
from scssl.tl._cluster_metrics import cluster_metrics
from scssl.tl._common import absent, nearest, votes
from scssl.tl._estimators import fit
from scssl.tl._label_transfer import Reference
from scssl.tl._modality import modality_scores, predict_modality
from scssl.tl._protocol import Protocol

from ._cells import Cells, Split, protocol_of
from ._methods import Method, NotPossible

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

N_NEIGHBORS = 15
_N_CLUSTERINGS = 3
_SCORED_GENES = 2000
# What may be called unknown of cells like those of the reference: the default of label transfer.
_FALSE_UNKNOWN = 0.05
# Name of an embedding, of labels and of batches in the small AnnData that are handed to other tools.
_REP, _LABEL, _BATCH = "X", "label", "batch"

Found = dict[str, float]


@dataclass
class Fitted:
    """A method that was fitted to the training part of a split, and what it says of the cells."""

    cells: Cells
    split: Split
    method: Method
    transductive: bool
    values: np.ndarray | None
    """Embedding of all cells; NaN in the rows of neither part. `None` of a method without one."""
    _probes: dict[int | None, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of the split and of all that is fitted."""
        return self.split.seed

    def cells_of(self, rows: np.ndarray) -> AnnData:
        """These cells, without labels."""
        return without_labels(self.cells, rows)

    def embedding(self) -> np.ndarray:
        """The embedding; an error if the method has none."""
        if self.values is None:
            raise NotPossible("The method has no embedding.")
        return self.values

    def probe(self, n_labels: int | None) -> tuple[Protocol, np.ndarray, np.ndarray]:
        """Logistic regression on the embedding: labels and probabilities of the test cells."""
        protocol = protocol_of(self.cells, self.split, n_labels)
        if n_labels not in self._probes:
            fitted = fit(self.embedding(), protocol, "lr", {"C": "chosen"}, self.seed)
            found = fitted.apply(self.embedding()[protocol.test])[1]
            self._probes[n_labels] = found.argmax(axis=1), found
        return protocol, *self._probes[n_labels]

    def own_labels(self, n_labels: int | None) -> tuple[Protocol, np.ndarray, np.ndarray]:
        """As :meth:`probe`, by the method itself."""
        protocol = protocol_of(self.cells, self.split, n_labels)
        table = self.method.predict(self.cells_of(protocol.test))
        found = np.zeros((len(protocol.test), len(protocol.names)))
        place = {str(name): i for i, name in enumerate(protocol.names)}
        for name in table.columns:
            if str(name) in place:
                found[:, place[str(name)]] = table[name].to_numpy()
        return protocol, found.argmax(axis=1), found

    def labelled(self, n_labels: int | None) -> tuple[Protocol, np.ndarray, np.ndarray]:
        """Labels by the method itself if it labels cells, else by the probe."""
        return (self.own_labels if self.method.labels_cells else self.probe)(n_labels)

    @cached_property
    def batches(self) -> np.ndarray | None:
        """Names of the batches."""
        return self.cells.batch_names


def without_labels(cells: Cells, rows: np.ndarray) -> AnnData:
    """Some cells in memory, without the labels and without matrices that are not read."""
    import anndata

    whole = cells.adata
    view = whole[rows]
    read = None if cells.layer is None else {cells.layer: view.layers[cells.layer]}
    own = anndata.AnnData(
        view.X if read is None else None,
        obs=view.obs.drop(columns=[cells.label_key] if cells.label_key is not None else []),
        var=view.var,
        layers=read,
        obsm=dict(view.obsm),
        obsp=dict(view.obsp),
        uns=dict(whole.uns),
    )
    return own.to_memory() if whole.isbacked else own.copy() if own.is_view else own


def without_modality(cells: Cells, rows: np.ndarray) -> AnnData:
    """Some cells in which the second modality was not measured."""
    own = without_labels(cells, rows)
    if cells.modality_key is not None:
        del own.obsm[cells.modality_key]
    return own


def _scores(protocol: Protocol, predicted: np.ndarray, prefix: str = "") -> Found:
    found = scores_of(class_table(protocol.codes[protocol.test], predicted, protocol.names))
    return {f"{prefix}{name}": found[name] for name in ("macro_f1", "accuracy")}


def _knn(fitted: Fitted, n_labels: int | None) -> Found:
    protocol, values = protocol_of(fitted.cells, fitted.split, n_labels), fitted.embedding()
    n = N_NEIGHBORS if n_labels is None else min(N_NEIGHBORS, n_labels)
    n = min(n, len(protocol.train))
    found = nearest(values[protocol.train], values[protocol.test], n)
    tally = votes(protocol.codes[protocol.train[found]], len(protocol.names))
    return _scores(protocol, tally.argmax(axis=1), "knn_")


def embedding(fitted: Fitted) -> Iterator[tuple[str, Found]]:
    """Nearest neighbours and a linear probe, held-out cells."""
    if fitted.method.labels_cells:
        protocol, predicted, _ = fitted.own_labels(None)
        yield "all", _scores(protocol, predicted)
    if fitted.values is not None:
        yield "all", _knn(fitted, None)
        protocol, predicted, _ = fitted.probe(None)
        yield "all", _scores(protocol, predicted, "probe_")


def few_labels(fitted: Fitted, budgets: tuple[int | None, ...]) -> Iterator[tuple[str, Found]]:
    """Macro-F1 by the number of labels a class; a method that learns from labels was given as many."""
    for n_labels in budgets:
        protocol, predicted, _ = fitted.labelled(n_labels)
        found = _scores(protocol, predicted)
        if fitted.values is not None:
            found |= _knn(fitted, n_labels)
        yield "all" if n_labels is None else str(n_labels), found


def annotation(fitted: Fitted) -> Iterator[tuple[str, Found]]:
    """Labels of a group that was held out, their calibration, and what is said of a type not known."""
    if fitted.split.unseen:
        yield "all", _unseen(fitted)
        return
    protocol, predicted, probabilities = fitted.labelled(None)
    found = _scores(protocol, predicted)
    confidence = probabilities.max(axis=1)
    correct = predicted == protocol.codes[protocol.test]
    found["ece"] = calibration_error(reliability(confidence, correct))
    yield "all", found


def _unseen(fitted: Fitted) -> Found:
    """How well uncertainty tells cells of a type that was not learned from the others."""
    from sklearn.metrics import roc_auc_score

    protocol = protocol_of(fitted.cells, fitted.split, None)
    labels = np.asarray(fitted.cells.labels, dtype=object)[fitted.split.test]
    # Other labels that only the test part has were not learned either: they are in neither group.
    is_new = labels == fitted.split.unseen
    is_scored = is_new | np.isin(labels.astype(str), protocol.names.astype(str))
    rows, is_new = fitted.split.test[is_scored], is_new[is_scored]
    novelty: np.ndarray | None
    if fitted.method.labels_cells:
        cells = fitted.cells_of(rows)
        novelty = fitted.method.novelty(cells)
        uncertain = 1 - fitted.method.predict(cells).to_numpy().max(axis=1)
    else:
        values = fitted.embedding()
        known = np.ascontiguousarray(values[protocol.train], dtype=np.float32)
        reference = Reference(
            known,
            protocol.codes[protocol.train],
            len(protocol.names),
            n_neighbors=min(N_NEIGHBORS, len(known) - 1),
            exact=True,
            seed=fitted.seed,
        )
        asked = np.ascontiguousarray(values[rows], dtype=np.float32)
        novelty = reference.transfer(asked, is_new=True)[2]
    if novelty is None:
        return {"unseen_auroc": float(roc_auc_score(is_new, uncertain))}
    is_called = novelty >= 1 - _FALSE_UNKNOWN
    return {
        "unseen_auroc": float(roc_auc_score(is_new, novelty)),
        "unseen_found": float(is_called[is_new].mean()),
        "known_lost": float(is_called[~is_new].mean()),
    }


def mapping(fitted: Fitted) -> Iterator[tuple[str, Found]]:
    """A group that was never seen: labels of its nearest cells in the others, and whether it lies among them."""
    found = _knn(fitted, None)
    found["mixing"] = _mixing(fitted)
    yield "all", {name.removeprefix("knn_"): value for name, value in found.items()}


def _mixing(fitted: Fitted) -> float:
    """Share of cells of the reference among the neighbours of a query cell, relative to what is expected.

    Among cells of its own label, of which both sides are drawn to the same number: 1 is mixed, 0 apart.
    """
    protocol, values = protocol_of(fitted.cells, fitted.split, None), fitted.embedding()
    shares, weights = [], []
    for code in range(len(protocol.names)):
        sides = [rows[protocol.codes[rows] == code] for rows in (protocol.train, protocol.test)]
        n = min(map(len, sides))
        if n < 2:
            continue
        draw = derive_generator(fitted.seed, "mixing", code)
        sides = [np.sort(draw.choice(rows, n, replace=False)) for rows in sides]
        both = values[np.concatenate(sides)]
        # Fewer than there are on a side: more would reach the other side however far it is.
        k = min(N_NEIGHBORS, n - 1)
        # The nearest of a cell is the cell itself.
        neighbors = nearest(both, both[n:], k + 1)[:, 1:]
        shares.append(min(1.0, float((neighbors < n).mean()) / (n / (2 * n - 1))))
        weights.append(n)
    return float(np.average(shares, weights=weights)) if shares else float("nan")


def clustering(fitted: Fitted) -> Iterator[tuple[str, Found]]:
    """Clusters of the test cells against labels, told the labels' number (k-means) or nothing (Leiden)."""
    protocol = protocol_of(fitted.cells, fitted.split, None)
    rows = protocol.test
    own = _small(fitted, rows, protocol.names[protocol.codes[rows]])
    row = cluster_metrics(
        own,
        _LABEL,
        use_rep=_REP,
        n_repeats=_N_CLUSTERINGS,
        n_neighbors=min(N_NEIGHBORS, len(rows) - 1),
        rng=fitted.seed,
    ).iloc[0]
    names = ("leiden_ari", "leiden_nmi", "kmeans_ari", "kmeans_nmi", "silhouette")
    yield "all", {name: float(row[name]) for name in names}


def _small(fitted: Fitted, rows: np.ndarray, labels: Any = None) -> AnnData:
    import pandas as pd

    own = _bare(fitted, rows)
    own.obsm[_REP] = fitted.embedding()[rows].astype(np.float32)
    if labels is not None:
        own.obs[_LABEL] = pd.Categorical(np.asarray(labels, dtype=str))
    return own


def _bare(fitted: Fitted, rows: np.ndarray) -> AnnData:
    import anndata
    import pandas as pd

    return anndata.AnnData(obs=pd.DataFrame(index=fitted.cells.adata.obs_names[rows]))


def modality(fitted: Fitted) -> Iterator[tuple[str, Found]]:
    """Proteins of held-out cells, by the method itself or by ridge regression, the penalty chosen in training."""
    if fitted.method.with_modality:
        raise NotPossible("What is predicted is part of what it embeds.")
    measured, itself = _scored(features_of(fitted.cells)), fitted.method.predicts_modality
    parts = []
    for rows in (fitted.split.train, fitted.split.test):
        own = (_bare if itself else _small)(fitted, rows)
        own.obsm["measured"] = measured.iloc[rows]
        parts.append(own)
    reference, query = parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScsslWarning)
        if itself:
            cells = without_modality(fitted.cells, fitted.split.test)
            query.obsm["predicted"] = fitted.method.predict_modality(cells)
        else:
            predict_modality(
                reference, query, "measured", use_rep=_REP, method="head", key_added="predicted"
            )
        row = modality_scores(query, "measured", "predicted").iloc[0]
    yield (
        "",
        {
            "pearson": float(row["pearson_per_feature"]),
            "spearman": float(row["spearman_per_feature"]),
            "rmse": float(row["rmse_per_feature"]),
        },
    )


def features_of(cells: Cells) -> pd.DataFrame:
    """Values of the second modality, with names."""
    import pandas as pd
    from scipy import sparse

    assert cells.modality_key is not None
    found: Any = cells.adata.obsm[cells.modality_key]
    named = hasattr(found, "columns")
    values = np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=np.float64)
    columns = found.columns if named else [f"feature_{i}" for i in range(values.shape[1])]
    return pd.DataFrame(values, cells.adata.obs_names, [str(one) for one in columns])


def _scored(features: pd.DataFrame) -> pd.DataFrame:
    """What is scored: counts as log1p, as their users do."""
    values = features.to_numpy()
    known = values[np.isfinite(values)]
    is_counts = bool((known >= 0).all() and (known == np.rint(known)).all())
    return np.log1p(features) if is_counts else features


def reconstruction(fitted: Fitted) -> Iterator[tuple[str, Found]]:
    """Log-normalised expression of held-out cells, over the genes that vary most among the others."""
    from ._methods import Setting, _normalised, target_of, variable_genes

    cells = fitted.cells
    # Those that a method that takes as many was given.
    n = cells.adata.n_obs
    rows = np.arange(n) if fitted.transductive else fitted.split.train
    known = fitted.cells_of(rows)
    target_sum = target_of(known, cells.layer, cells.kind)
    setting = Setting(cells.layer, cells.kind, None, fitted.seed, target_sum=target_sum)
    x = _normalised(known, setting)
    batches = None if fitted.batches is None else fitted.batches[rows]
    genes = variable_genes(x, batches, min(_SCORED_GENES, x.shape[1]))
    test = fitted.cells_of(fitted.split.test)
    truth = _normalised(test, setting)[:, genes].toarray().astype(np.float64)
    found = np.asarray(fitted.method.reconstruct(test, genes), dtype=np.float64)
    variance = truth.var(axis=0)
    varies = variance > 0
    left = (truth - found).var(axis=0)
    explained = 1 - left[varies] / variance[varies]
    yield (
        "",
        {
            "explained_variance_weighted": float(np.average(explained, weights=variance[varies])),
            "mse": float(((truth - found) ** 2).mean()),
        },
    )


def integration(fitted: Fitted) -> Iterator[tuple[str, Found]]:
    """scib-metrics of all cells, unscaled: what a value is does not depend on what it is compared with."""
    if fitted.method.uses_labels:
        raise NotPossible("It learns from the labels that integration is scored by.")
    rows = np.flatnonzero(fitted.cells.labels.notna().to_numpy())
    assert fitted.batches is not None
    own = _small(fitted, rows, fitted.cells.labels.iloc[rows])
    import pandas as pd

    own.obs[_BATCH] = pd.Categorical(fitted.batches[rows])
    yield "all", scib(own)


# Of scib-metrics, what its table calls them and what ours does.
_SCIB = {
    "KMeans NMI": "kmeans_nmi",
    "KMeans ARI": "kmeans_ari",
    "Silhouette label": "silhouette_label",
    "cLISI": "clisi_knn",
    "BRAS": "bras",
    "iLISI": "ilisi_knn",
    "KBET": "kbet_per_label",
    "Graph connectivity": "graph_connectivity",
    "Batch correction": "batch_correction",
    "Bio conservation": "bio_conservation",
    "Total": "total",
}


def scib(adata: AnnData) -> Found:
    """Unscaled metrics of scib-metrics :cite:p:`Luecken2022` of ``obsm["X"]``; total .6 bio and .4 batch.

    Without isolated labels, as most data sets have every type in every batch, and without principal
    component regression, which compares with an embedding before integration.
    """
    TASKS["integration"].check()
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Benchmarker(
            adata,
            batch_key=_BATCH,
            label_key=_LABEL,
            embedding_obsm_keys=[_REP],
            bio_conservation_metrics=BioConservation(isolated_labels=False),
            batch_correction_metrics=BatchCorrection(pcr_comparison=False),
            pre_integrated_embedding_obsm_key=_REP,
            n_jobs=1,
            progress_bar=False,
        )
        bench.benchmark()
        row = bench.get_results(min_max_scale=False).drop(index="Metric Type").iloc[0]
    return {_SCIB[str(name)]: float(value) for name, value in row.items() if str(name) in _SCIB}


def scib_metrics(values: np.ndarray, batches: np.ndarray, labels: np.ndarray) -> Found:
    """:func:`scib` of an embedding with numbered batches and labels."""
    import anndata
    import pandas as pd

    cells = anndata.AnnData(shape=(len(values), 0), obsm={_REP: values})
    cells.obs[_BATCH] = pd.Categorical(batches.astype(str))
    cells.obs[_LABEL] = pd.Categorical(labels.astype(str))
    return scib(cells)


@dataclass(frozen=True)
class Task:
    """A task: how the cells are split for it, what it needs, and its score."""

    score: Callable[..., Iterator[tuple[str, Found]]]
    split: str
    """``"held out"`` (as the call says), ``"group"`` or ``"all"``."""
    primary: str
    """The score that a row of a failure stands for."""
    needs: tuple[str, ...] = ()
    """Arguments of the call that it cannot do without."""
    package: str = ""
    """What has to be installed for it."""

    def check(self) -> None:
        """Raise ImportError, with the line that installs it, if its package is not there."""
        if self.package and find_spec(self.package) is None:
            raise absent(self.package.replace("_", "-"), "benchmark")


TASKS = {
    "embedding": Task(embedding, "held out", "probe_macro_f1", ("label_key",)),
    "few_labels": Task(few_labels, "held out", "macro_f1", ("label_key",)),
    "annotation": Task(annotation, "group", "macro_f1", ("label_key", "batch_key")),
    "integration": Task(integration, "all", "total", ("label_key", "batch_key"), "scib_metrics"),
    "clustering": Task(clustering, "held out", "leiden_nmi", ("label_key",)),
    "modality": Task(modality, "held out", "pearson", ("modality_key",)),
    "reconstruction": Task(reconstruction, "held out", "explained_variance_weighted"),
    "mapping": Task(mapping, "group", "macro_f1", ("label_key", "batch_key")),
}
