"""Embed cells, label them and measure embeddings, in the way of scanpy's ``tl``."""

from scssl.tl._classify import classify
from scssl.tl._cluster_metrics import cluster_metrics
from scssl.tl._embed import embed
from scssl.tl._knn_score import knn_score
from scssl.tl._label_transfer import label_transfer
from scssl.tl._leave_one_out import leave_one_dataset_out
from scssl.tl._modality import modality_scores
from scssl.tl._predict_modality import predict_modality
from scssl.tl._probes import knn_probe, linear_probe
from scssl.tl._reconstruction import reconstruction_metrics
from scssl.tl._score_labels import score_labels

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
