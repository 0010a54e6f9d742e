"""Embed cells, label them and measure embeddings, in the way of scanpy's ``tl``."""

from ._annotate import annotate
from ._benchmark import (
    METRICS,
    Metric,
    arguments_of,
    benchmark,
    benchmark_summary,
    metric_of,
    score_label,
    takes_argument,
    tidy_results,
)
from ._classify import classify
from ._cluster_metrics import cluster_metrics
from ._domain_scores import domain_scores
from ._embed import embed
from ._fuse import fuse
from ._impute import impute, impute_curve
from ._integrate import integrate
from ._label_transfer import Reference, label_transfer
from ._leave_one_out import leave_one_dataset_out
from ._mixing import batch_mixing
from ._modality import modality_scores, predict_modality
from ._probes import knn_probe, knn_score, linear_probe
from ._reconstruction import reconstruction_metrics
from ._score_labels import score_labels
from ._smooth import smooth
from ._spatial_domains import n_domains, spatial_domains
from ._transfer import transfer_benchmark

__all__ = [
    "annotate",
    "batch_mixing",
    "benchmark",
    "benchmark_summary",
    "classify",
    "cluster_metrics",
    "domain_scores",
    "embed",
    "fuse",
    "impute",
    "impute_curve",
    "integrate",
    "knn_probe",
    "knn_score",
    "label_transfer",
    "leave_one_dataset_out",
    "linear_probe",
    "modality_scores",
    "n_domains",
    "predict_modality",
    "reconstruction_metrics",
    "score_labels",
    "smooth",
    "spatial_domains",
    "transfer_benchmark",
]
