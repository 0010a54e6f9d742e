"""Spatial domains: parts of a tissue in which cells have neighbourhoods alike."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scssl._checks import (
    check_adata,
    check_choice,
    check_destination,
    check_number,
    check_whole,
    get_embedding,
)
from scssl._errors import warn
from scssl._places import graph_of, sample_codes
from scssl._random import RNG, as_seed, derive_seed

from ._common import to_be_written

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")

Method = Literal["neighborhood", "mixture"]
Covariance = Literal["tied", "full", "diag"]
_METHODS = ("neighborhood", "mixture")
_COVARIANCES = ("tied", "full", "diag")
# Added to variances, which are 1 in the mean: no domain can shrink to a point.
_LEAST_VARIANCE = 1e-4
_MAX_ITER = 200
