"""The scores of a benchmark: what each is called, which way is better, what it tells."""

from __future__ import annotations

from typing import NamedTuple

from scssl._checks import close_to, either


class Metric(NamedTuple):
    """A score, as it stands in the column ``metric`` of a benchmark."""

    name: str
    #: How figures write it.
    label: str
    #: What it is about; scores of a group stand together.
    group: str
    higher_is_better: bool = True
    #: Whether 1 is the best (0 where lower is better) and chance near 0, so that means over scores say something.
    bounded: bool = True

    def gain(self, value: float) -> float:
        """The score, or its distance from the worst, so that more is better."""
        if self.higher_is_better:
            return value
        return 1 - value if self.bounded else -value


LABELS, CONFIDENCE, CLUSTERS = "cell types", "confidence", "clusters"
BIO, BATCH, TOTAL = "bio conservation", "batch correction", "total"
EXPRESSION = "expression"
# Of bio conservation in the total of integration; batch correction has the rest.
BIO_WEIGHT = 0.6

# In the order in which columns and panels stand.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("knn_macro_f1", "kNN macro-F1", LABELS),
        Metric("knn_accuracy", "kNN accuracy", LABELS),
        Metric("probe_macro_f1", "probe macro-F1", LABELS),
        Metric("probe_accuracy", "probe accuracy", LABELS),
        Metric("macro_f1", "macro-F1", LABELS),
        Metric("weighted_f1", "weighted F1", LABELS),
        Metric("accuracy", "accuracy", LABELS),
        Metric("balanced_accuracy", "balanced accuracy", LABELS),
        Metric("cohen_kappa", "Cohen's κ", LABELS),
        Metric("macro_auroc", "macro AUROC", LABELS),
        Metric("macro_auprc", "macro AUPRC", LABELS),
        Metric("ece", "calibration error", CONFIDENCE, higher_is_better=False),
        Metric("unseen_auroc", "AUROC of unseen type", CONFIDENCE),
        Metric("unseen_found", "unseen type found", CONFIDENCE),
        Metric("known_lost", "known cells called unknown", CONFIDENCE, higher_is_better=False),
        Metric("ari", "ARI", CLUSTERS),
        Metric("nmi", "NMI", CLUSTERS),
        Metric("leiden_ari", "Leiden ARI", CLUSTERS),
        Metric("leiden_nmi", "Leiden NMI", CLUSTERS),
        Metric("silhouette", "silhouette", CLUSTERS),
        # Those of scib-metrics, by the names it gives them.
        Metric("isolated_labels", "isolated labels", BIO),
        Metric("kmeans_nmi", "k-means NMI", BIO),
        Metric("kmeans_ari", "k-means ARI", BIO),
        Metric("silhouette_label", "label silhouette", BIO),
        Metric("clisi_knn", "cLISI", BIO),
        Metric("bras", "BRAS", BATCH),
        Metric("ilisi_knn", "iLISI", BATCH),
        Metric("kbet_per_label", "kBET", BATCH),
        Metric("graph_connectivity", "graph connectivity", BATCH),
        Metric("pcr_comparison", "PCR comparison", BATCH),
        Metric("bio_conservation", "bio conservation", BIO),
        Metric("batch_correction", "batch correction", BATCH),
        Metric("total", "total", TOTAL),
        Metric("mixing", "mixing of query and reference", BATCH),
        Metric("pearson", "Pearson", EXPRESSION),
        Metric("spearman", "Spearman", EXPRESSION),
        Metric("explained_variance_weighted", "explained variance", EXPRESSION),
        Metric("explained_variance_uniform", "explained variance a gene", EXPRESSION),
        Metric("rmse", "RMSE", EXPRESSION, higher_is_better=False, bounded=False),
        Metric("mse", "MSE", EXPRESSION, higher_is_better=False, bounded=False),
        Metric(
            "mse_masked", "MSE of hidden entries", EXPRESSION, higher_is_better=False, bounded=False
        ),
    )
}


def metric_of(name: str) -> Metric:
    """The score of this name, or an error that says what may have been meant."""
    if name in METRICS:
        return METRICS[name]
    close = close_to(name, METRICS)
    hint = f"Is it {close!r}?" if close else f"There are {either(METRICS)}."
    raise ValueError(
        f"Whether more or less of {name!r} in column 'metric' is better is not known. {hint} To leave it "
        f'out: `results = results[results["metric"] != {name!r}]`.'
    )


def score_label(metric: str, n_labels: str = "") -> str:
    """How figures and sentences write a metric with this number of labels."""
    shown = "1 label" if n_labels == "1" else f"{n_labels} labels"
    return f"{metric_of(metric).label}{f' with {shown}' if n_labels else ''}"
