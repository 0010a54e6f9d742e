"""Prepare data, in the way of scanpy's ``pp``."""

from scssl.pp._programs import gene_programs, tf_targets

__all__ = ["gene_programs", "tf_targets"]
