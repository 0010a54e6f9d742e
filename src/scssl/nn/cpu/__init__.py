"""All compiled kernels, and the one place that says whether they are used."""

from __future__ import annotations

from ._norm import normalise, normalise_backward
from ._rows import adamw_rows, compress, transposed_product
