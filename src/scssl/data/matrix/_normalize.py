"""The one normalisation of the package, on the stored values of a sparse block."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse

InputKind = Literal["counts", "lognorm"]
INPUT_KINDS: tuple[InputKind, ...] = ("counts", "lognorm")


def row_sums(csr: sparse.csr_matrix) -> np.ndarray:
    """Sum of the stored values of every row, in the dtype of the values.

    NumPy sums each segment pairwise and by itself, so the bits of a row do not depend on the rows
    around it; counts in float32 are exact up to 2**24.
    """
    sums = np.zeros(csr.shape[0], dtype=csr.data.dtype)
    filled = np.flatnonzero(np.diff(csr.indptr))
    if filled.size:
        sums[filled] = np.add.reduceat(csr.data, csr.indptr[filled])
    return sums


def normalize_rows(
    csr: sparse.csr_matrix, *, input_kind: InputKind, target_sum: float | None = 1e4
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Normalise the rows of a sparse block in place.

    Counts are scaled to a common sum per cell and log-transformed, on the stored values only; cells
    without counts stay zero. Log-normalised values are passed through. Every path of the package
    (training, embedding, tools) goes through this function.

    Parameters
    ----------
    csr
        Block of cells with float32 values. **Its values are overwritten**; it shares no memory with
        the user's matrix when it comes from :meth:`RowSource.read`.
    input_kind
        ``"counts"`` or ``"lognorm"``.
    target_sum
        Sum of every cell before the logarithm (counts only); `None`: counts as they are.

    Returns
    -------
    csr
        The same object, normalised.
    library
        Sum of each row before the normalisation, float32 of shape ``(n_rows, 1)``.

    Raises
    ------
    TypeError
        If the values are not float32.
    ValueError
        If `input_kind` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from scssl.data import normalize_rows
    >>> counts = sparse.csr_matrix(np.array([[1, 0, 3], [0, 0, 0]], dtype=np.float32))
    >>> normalised, library = normalize_rows(counts, input_kind="counts", target_sum=4)
    >>> np.expm1(normalised.toarray()).round(3).tolist()
    [[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
    >>> library.ravel().tolist()
    [4.0, 0.0]
    """
    if input_kind not in INPUT_KINDS:
        raise ValueError(f"`input_kind` must be 'counts' or 'lognorm', found {input_kind!r}.")
    if csr.data.dtype != np.float32:
        raise TypeError(f"normalize_rows works in place on float32 values, found {csr.data.dtype}.")
    library = row_sums(csr)
    if input_kind == "counts":
        if target_sum is not None:
            scale = np.zeros_like(library)
            np.divide(np.float32(target_sum), library, out=scale, where=library > 0)
            csr.data *= np.repeat(scale, np.diff(csr.indptr))
        np.log1p(csr.data, out=csr.data)
    return csr, library[:, None]
