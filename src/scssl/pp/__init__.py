"""Prepare data, in the way of scanpy's ``pp``."""

from ._cross_batch import cross_batch_neighbors
from ._match_genes import match_genes
from ._orthologs import map_orthologs
from ._programs import gene_programs, tf_targets
from ._spatial_neighbors import spatial_neighbors

__all__ = [
    "cross_batch_neighbors",
    "gene_programs",
    "map_orthologs",
    "match_genes",
    "spatial_neighbors",
    "tf_targets",
]
