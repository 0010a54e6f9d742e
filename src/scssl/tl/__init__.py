"""Embed cells, label them and measure embeddings, in the way of scanpy's ``tl``."""

from ._checks import (
    check_adata,
    check_integers,
    check_key,
    check_share,
    get_column,
    get_embedding,
    get_labels,
)
from ._classify import classify
from ._cluster_metrics import cluster_metrics
from ._embed import embed
from ._knn_score import knn_score
from ._label_transfer import label_transfer
from ._leave_one_out import leave_one_dataset_out
from ._modality import modality_scores
from ._predict_modality import predict_modality
from ._probes import knn_probe, linear_probe
from ._reconstruction import reconstruction_metrics
from ._score_labels import score_labels
from ._scores import calibration_error, class_table, reliability

__all__ = [
    "classify",
    "cluster_metrics",
    "embed",
    "knn_probe",
    "knn_score",
    "label_transfer",
    "leave_one_dataset_out",
    "linear_probe",
    "modality_scores",
    "predict_modality",
    "reconstruction_metrics",
    "score_labels",
]
