"""Data sets drawn at random: embedded right, or refused with a message of ours.

Right is what the same model gives for the same values as a plain dense matrix in its own order of genes.
"""

from __future__ import annotations

import os
import traceback
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl._errors import ScsslWarning

from .conftest import SETUP, arguments_of, make_proteins

N_SETS = int(os.environ.get("SCSSL_FUZZ", 80))  # of each model; 13 models: more than 1,000
OURS = str(Path(scssl.__file__).parent)


def pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def draw_values(rng, n_cells, n_genes):
    """Cells by genes, most often something that is measured, now and then something broken."""
    kind = np.arange(n_cells) % 3
    rate = rng.gamma(0.6, 3.0, (3, n_genes))[kind] * rng.gamma(4, 0.25, (n_cells, 1))
    values = rng.poisson(rate).astype(np.float64)
    what = pick(rng, *["counts"] * 8, *["lognorm"] * 4, "fractions", "log2", "zeros", "one", "huge")
    if what in {"lognorm", "log2"}:
        total = np.maximum(values.sum(1, keepdims=True), 1)
        values = (np.log2 if what == "log2" else np.log)(1 + values / total * 1e4)
    elif what == "fractions":
        values *= rng.uniform(0.5, 1.5, values.shape)
    elif what == "zeros":
        values[:] = 0
    elif what == "one":
        values = np.minimum(values, 1)
    elif what == "huge":
        values *= pick(rng, 1e5, 1e30, 1e38)
    if rng.random() < 0.1:
        row, column = rng.integers(n_cells), rng.integers(n_genes)
        values[row, column] = pick(rng, np.nan, np.inf, -1.0, 0.5, 1e39)
    if rng.random() < 0.15:
        values[rng.integers(n_cells)] = 0
    return values


def draw_dtype(rng, values):
    names = ["float32"] * 6 + ["float64"] * 3
    if np.isfinite(values).all() and (values == np.rint(values)).all() and values.max() < 255:
        names += ["int64", "int32", "uint8", "uint16"]
        if values.min() >= 0 and values.max() <= 1:
            names.append("bool")
    with np.errstate(over="ignore"):
        return values.astype(pick(rng, *names))


def stored(rng, values):
    """The same values, stored in one of many ways."""
    how = pick(rng, "csr", "csr", "csc", "dense", "fortran", "small", "unsorted", "dask")
    if how in {"csr", "csc"}:
        return getattr(sparse, f"{how}_matrix")(values)
    if how == "fortran":
        return np.asfortranarray(values)
    if how == "dask":
        dask = pytest.importorskip("dask.array")
        return dask.from_array(values, chunks=(max(1, len(values) // 2), values.shape[1]))
    matrix = sparse.csr_matrix(values)
    if how == "small":
        matrix.indices = matrix.indices.astype(np.int16)
        matrix.indptr = matrix.indptr.astype(np.int16)
        return matrix
    if how == "unsorted":
        for i in range(matrix.shape[0]):
            own = slice(*matrix.indptr[i : i + 2])
            matrix.indices[own] = matrix.indices[own][::-1].copy()
            matrix.data[own] = matrix.data[own][::-1].copy()
        matrix.has_sorted_indices = False
        return matrix
    return values


def draw_column(rng, n):
    """A column of obs, sensible or not."""
    code = rng.integers(0, 3, n)
    columns = [
        np.array(["a", "b", "c"])[code],
        pd.Categorical.from_codes(code, ["x", "y", "z"]),
        code,
        code.astype(float),
        code.astype(bool),
        rng.normal(size=n) * 1e6,
        pd.array(code, dtype="Int64"),
        np.array([1, "1", True], dtype=object)[code],
        np.array(["a", None, "b"], dtype=object)[code],
        pd.Timestamp("2026-01-01") + pd.to_timedelta(code, "D"),
        np.full(n, "only"),
        np.where(code, 1.0, np.nan),
        np.arange(n).astype(str),
    ]
    return pick(rng, *columns)


def draw(rng):
    """An AnnData, and arguments to set it up with."""
    n_cells, n_genes = int(pick(rng, 1, 5, 30, 60, 60, 90)), int(pick(rng, 1, 10, 25, 40, 40))
    values = draw_dtype(rng, draw_values(rng, n_cells, n_genes))
    names = [pick(rng, f"GENE{i}", f"GENE{i}", f"ENSG{i:011d}") for i in range(n_genes)]
    if rng.random() < 0.05:
        names[-1] = pick(rng, names[0], "", "nan")
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    for name in ("first", "second", "third"):
        obs[name] = draw_column(rng, n_cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=names))
    setup = {}
    adata.X = stored(rng, values)
    if rng.random() < 0.2:
        adata.layers["mine"] = adata.X
        adata.X = np.full(adata.shape, -1, dtype=np.float32)
        setup["layer"] = "mine"
    if rng.random() < 0.3:
        setup["batch_key"] = "first"
    if rng.random() < 0.3:
        setup["labels_key"] = "second"
    if rng.random() < 0.1:
        setup["continuous_covariate_keys"] = ["third"]
    if rng.random() < 0.1:
        setup["categorical_covariate_keys"] = [pick(rng, "first", "second", "third")]
    if rng.random() < 0.1:
        setup["input"] = pick(rng, "counts", "lognorm")
    return adata, values, setup


def is_ours(error):
    """Whether it was raised by a line of scssl, with something to say."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(OURS) and len(str(error)) > 20


def close(found, expected):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-5)


def embedded(model_class, seed):
    """Draw a data set, train on it and embed it, in two ways; the refusal, if it was refused."""
    rng = np.random.default_rng([seed, len(model_class.__name__)])
    adata, values, setup = draw(rng)
    name = model_class.__name__
    if name == "ProteinPredictor":
        with_types = anndata.AnnData(obs=pd.DataFrame(index=adata.obs_names))
        with_types.obs["cell_type"] = pd.Categorical(np.arange(adata.n_obs) % 3, [0, 1, 2])
        adata.obsm["protein"] = make_proteins(with_types)
    adata.obsm["spatial"] = rng.random((adata.n_obs, 2))
    if "labels_key" in SETUP.get(name, {}):
        setup.setdefault("labels_key", "second")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ScsslWarning)
            model_class.setup_anndata(adata, **setup)
            model = model_class(adata, **arguments_of(model_class))
            model.train(max_epochs=1, batch_size=16, progress=False)
            z = model.get_latent_representation()
    except (ValueError, TypeError, KeyError) as error:
        if not is_ours(error):
            raise
        return str(error)
    assert np.isfinite(z).all()
    assert z.shape[0] == adata.n_obs
    # The slow path: a dense matrix of float32 in the model's own order.
    plain = adata.copy()
    dense = np.ascontiguousarray(values.astype(np.float32))
    if "layer" in setup:
        plain.layers["mine"] = dense
    else:
        plain.X = dense
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(z, model.get_latent_representation(plain))
        genes, cells = rng.permutation(adata.n_vars), rng.permutation(adata.n_obs)
        moved = plain[cells][:, genes].copy()
        if "layer" not in setup:
            moved.X = stored(rng, values[cells][:, genes])
        close(model.get_latent_representation(moved), z[cells])
    return None


@pytest.mark.slow
def test_right_or_refused(model_class):
    refused, wrong = {}, []
    for seed in range(N_SETS):
        try:
            refused[seed] = embedded(model_class, seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
            wrong.append(f"set {seed}: {''.join(traceback.format_exception(error)[-4:])}")
    assert not wrong, "\n".join(wrong)
    assert sum(one is None for one in refused.values()) > N_SETS // 10, refused
