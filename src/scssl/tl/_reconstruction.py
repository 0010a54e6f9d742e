"""How well a model reconstructs expression, seen and hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_adata, check_destination, check_number, check_whole, get_matrix
from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_generator

from ._common import get_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from scssl.model import MaskedAutoencoder


def reconstruction_metrics(
    adata: AnnData,
    model: MaskedAutoencoder,
    *,
    indices: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    mask_rate: float | None = None,
    min_overlap: float = 0.5,
    batch_size: int = 512,
    rng: RNG = 0,
    key_added: str = "reconstruction",
) -> pd.DataFrame:
    r"""Score a model's reconstruction of expression against the expression itself.

    Everything is measured on log1p-normalised expression, over the genes of the model that `adata`
    has. With expression :math:`x`, its reconstruction :math:`\hat{x}` and variances taken over cells, the
    explained variance of gene :math:`g` is
    :math:`1 - \operatorname{Var}(x_g - \hat{x}_g) / \operatorname{Var}(x_g)`;
    `explained_variance_weighted` is its mean weighted by :math:`\operatorname{Var}(x_g)`,
    `explained_variance_uniform` its plain mean over the genes that vary. `mse` is the mean squared error
    over all entries, zeros included.

    `mse_of_mean` is the error of a profile that is the same for all cells: the mean of each gene. A model
    with ``loss="nb"`` or ``"zinb"`` predicts the log1p of expected normalised counts, which lies above
    the expected log1p (Jensen's inequality), however good the model is. Its `mse` has this gap in it, and
    so has its `mse_of_mean`: it is that of the log1p of the mean of normalised counts. Errors of such
    a model are to be compared with its `mse_of_mean`, not with errors of a model with ``loss="mse"``;
    explained variances, to which a constant makes no difference, suffer less.

    With `mask_rate` the cells are reconstructed a second time, from a copy in which each entry is
    set to zero with this probability, and `mse_masked` and `mse_unmasked` are the errors on the
    entries that were and were not hidden. Counts are hidden before they are normalised, so that the
    model is given a cell with fewer counts. The first says what the model has learned of how genes
    go together; an autoencoder that only copies its input does well on the second.

    Cells are read in batches, and no more than one is dense at a time.

    Parameters
    ----------
    adata
        Cells, with the kind of values the model was trained on; best some it was not trained on. Only
        `adata.uns` is changed.
    model
        Model with ``get_reconstruction``.
    indices
        Rows, a boolean mask or cell names; all by default.
    mask_rate
        Share of the entries to hide; by default none, and ``mse_masked`` and ``mse_unmasked`` are
        NaN.
    min_overlap
        Share of the model's genes that `adata` must have.
    batch_size
        Cells to read at a time; changes memory, not which entries are hidden.
    rng
        Seed or generator of what is hidden.
    key_added
        Entry of `adata.uns` for the result.

    Returns
    -------
    pandas.DataFrame
        One row with ``model``, ``n_cells``, ``n_genes``, ``explained_variance_weighted``,
        ``explained_variance_uniform``, ``mse``, ``mse_of_mean`` (what the mean of each gene over these
        cells would have, on the scale of what the model predicts), ``mse_masked`` and
        ``mse_unmasked``. The same is in ``adata.uns[key_added]``, with the parameters.

    Raises
    ------
    GeneMismatchError
        If too few genes of the model are in `adata`.
    TypeError
        If `model` has no ``get_reconstruction``.
    ValueError
        If the values are not of the kind the model was trained on, the model predicts detection
        (``loss="bce"``), or a parameter is out of range.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
    >>> model = scssl.model.MaskedAutoencoder(adata)
    >>> model.train(max_epochs=5, progress=False)
    >>> scores = scssl.tl.reconstruction_metrics(adata, model, mask_rate=0.3)
    >>> bool(scores.loc[0, "mse_masked"] < scores.loc[0, "mse_of_mean"])
    True
    """
    import pandas as pd

    check_adata(adata)
    if not hasattr(model, "get_reconstruction"):
        raise TypeError(
            "`model` must be a scssl model that reconstructs expression, such as MaskedAutoencoder, "
            f"found {type(model).__name__}."
        )
    loss = getattr(model, "loss", None)
    if loss == "bce":
        raise ValueError(
            'A model with loss="bce" predicts detection, not expression. Take one whose loss is "mse", "nb" or '
            '"zinb".'
        )
    check_number("mask_rate", mask_rate, "(0, 1)", none=True)
    batch_size = check_whole("batch_size", batch_size)
    check_destination(adata, key_added)
    seed = as_seed(rng)
    alignment = model.genes.align(adata.var_names, min_overlap=min_overlap)
    rows = np.arange(adata.n_obs) if indices is None else get_rows(adata, indices, "`indices`")

    sums = _Sums(alignment.n_matched, log_of_mean=loss in ("nb", "zinb"))
    hidden_error, n_hidden, visible_error, n_visible = 0.0, 0, 0.0, 0
    generator = derive_generator(seed, "hidden entries")
    for part, csr in _chunks(adata, model, rows, batch_size):
        truth = _expression(csr, model, alignment)
        sums.add(truth, _predict(model, adata, part, csr, min_overlap)[:, alignment.present])
        if mask_rate is None:
            continue
        # In the order of `adata`'s own columns: what is hidden does not depend on the model.
        hidden = generator.random((len(part), len(alignment.columns)), dtype=np.float32) < mask_rate
        left = _hide(csr, hidden)
        seen = np.flatnonzero(_measured_sums(left, alignment) > 0)
        if not len(seen):
            continue
        again = _predict(model, adata, part[seen], left[seen], min_overlap)[:, alignment.present]
        error = np.square(again - truth[seen], dtype=np.float64)
        mask = _in_model_order(hidden[seen], alignment)
        hidden_error += float(error[mask].sum())
        n_hidden += int(mask.sum())
        visible_error += float(error[~mask].sum())
        n_visible += int((~mask).sum())
    if not sums.n:
        raise ValueError("No cell has a value in any gene of the model to reconstruct.")
    if sums.n < len(rows):
        left = f"{len(rows) - sums.n:,} of {len(rows):,} cells"
        warn(f"{left} have no value in any gene of the model and are left out.")
    row = {
        "model": type(model).__name__,
        "n_cells": sums.n,
        "n_genes": alignment.n_matched,
        **sums.scores(),
        "mse_masked": hidden_error / n_hidden if n_hidden else np.nan,
        "mse_unmasked": visible_error / n_visible if n_visible else np.nan,
    }
    params = {"mask_rate": 0.0 if mask_rate is None else float(mask_rate), "seed": seed}
    adata.uns[key_added] = {**row, "params": params}
    return pd.DataFrame([row])


class _Sums:
    """Sums over cells that variances and errors are made of, gene by gene."""

    def __init__(self, n_genes: int, *, log_of_mean: bool = False) -> None:
        self.n = 0
        # Sums of normalised counts, where the mean profile is to be the log of their mean.
        self.counts = np.zeros(n_genes) if log_of_mean else None
        # Moments about the first batch's means: what is subtracted in the end stays small.
        self.shift: np.ndarray | None = None
        self.truth = np.zeros((2, n_genes))
        self.error = np.zeros((2, n_genes))

    def add(self, truth: np.ndarray, found: np.ndarray) -> None:
        if self.shift is None:
            self.shift = truth.mean(axis=0, dtype=np.float64)
        if self.counts is not None:
            self.counts += np.expm1(truth).sum(axis=0, dtype=np.float64)
        self.n += len(truth)
        for values, total in ((truth - self.shift, self.truth), (truth - found, self.error)):
            total[0] += values.sum(axis=0, dtype=np.float64)
            total[1] += np.square(values, dtype=np.float64).sum(axis=0)

    def scores(self) -> dict[str, float]:
        truth, error = (
            np.maximum(total[1] / self.n - (total[0] / self.n) ** 2, 0)
            for total in (self.truth, self.error)
        )
        # A gene that is the same in all cells has no variance to explain.
        varies = truth > 1e-12
        weighted = uniform = np.nan
        if varies.any():
            weighted = 1 - error[varies].sum() / truth[varies].sum()
            uniform = float((1 - error[varies] / truth[varies]).mean())
        of_mean = truth
        if self.counts is not None and self.shift is not None:
            mean = self.shift + self.truth[0] / self.n
            of_mean = truth + (mean - np.log1p(self.counts / self.n)) ** 2
        return {
            "explained_variance_weighted": float(weighted),
            "explained_variance_uniform": float(uniform),
            "mse": float(self.error[1].sum() / (self.n * len(error))),
            "mse_of_mean": float(of_mean.mean()),
        }


def _chunks(
    adata: AnnData, model: Any, rows: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
    """Rows, and their values as stored, of the cells that have any in a gene of the model."""
    from scssl.data import open_rows

    source = open_rows(get_matrix(adata, model.setup.layer)[0])
    alignment = model.genes.align(adata.var_names, min_overlap=0)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        csr = source.read(part)
        filled = _measured_sums(csr, alignment) > 0
        if filled.any():
            yield part[filled], csr[filled]


def _measured_sums(csr: sparse.csr_matrix, alignment: Any) -> np.ndarray:
    """Sum of each cell over the genes of the model."""
    return np.asarray(csr @ (alignment.columns >= 0).astype(np.float32)).ravel()


def _expression(csr: sparse.csr_matrix, model: Any, alignment: Any) -> np.ndarray:
    """Log-normalised expression over the genes found, in the order of the model."""
    from scssl.data import normalize_rows

    setup = model.setup
    aligned = csr.copy() if alignment.is_identity else alignment.apply(csr)
    normalize_rows(aligned, input_kind=setup.input_kind, target_sum=setup.target_sum)
    return aligned.toarray()[:, alignment.present]


def _in_model_order(values: np.ndarray, alignment: Any) -> np.ndarray:
    """Columns of `adata` that the model knows, in the order of the model."""
    known = np.flatnonzero(alignment.columns >= 0)
    return values[:, known[np.argsort(alignment.columns[known])]]


def _hide(csr: sparse.csr_matrix, hidden: np.ndarray) -> sparse.csr_matrix:
    left = csr.copy()
    rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    left.data[hidden[rows, csr.indices]] = 0
    left.eliminate_zeros()
    return left


def _predict(
    model: Any, adata: AnnData, rows: np.ndarray, csr: sparse.csr_matrix, min_overlap: float
) -> np.ndarray:
    """Reconstruction of some cells of `adata` from other values than it has."""
    import pandas as pd
    from anndata import AnnData

    layer = model.setup.layer
    values: dict[str, Any] = {"X": csr} if layer is None else {"layers": {layer: csr}}
    light = AnnData(obs=adata.obs.iloc[rows], var=pd.DataFrame(index=adata.var_names), **values)
    found: np.ndarray = model.get_reconstruction(light, min_overlap=min_overlap)
    return found
