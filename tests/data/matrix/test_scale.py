"""What was done to counts is told from the values, and compared with what a model was trained with."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pytest
from scipy import sparse

from scssl._errors import ScsslWarning
from scssl.data import check_scale, resolve_input, scan_matrix
from scssl.data.matrix._scale import LOGARITHM, recognise

from ...messages import told_in

COUNTS = np.random.default_rng(0).negative_binomial(0.4, 0.08, (120, 90)).astype(np.float64)
COUNTS[:, 0] += 1
SHARES = COUNTS / COUNTS.sum(axis=1, keepdims=True)
VOLUMES = COUNTS / np.random.default_rng(1).uniform(0.3, 3, (120, 1))
MADE = {
    "ln": np.log1p(1e4 * SHARES),
    "ln of shares": np.log1p(SHARES),
    "log2": np.log2(1 + 1e4 * SHARES),
    "log10": np.log10(1 + 1e4 * SHARES),
    "sqrt": np.sqrt(1e4 * SHARES),
    "twice": np.log1p(np.log1p(1e4 * SHARES)),
    "linear": SHARES,
    "linear by volume": VOLUMES,
}


def scale_of(X):
    return scan_matrix(sparse.csr_matrix(X.astype(np.float32))).scale


@pytest.mark.parametrize("genes", [slice(None), slice(20, 70)])
@pytest.mark.parametrize("how", MADE)
def test_the_form_is_told_also_where_genes_were_left_out(how, genes):
    found = scale_of(MADE[how][:, genes])
    assert (found.form, found.certain, found.scaled) == (how.split(" ")[0], True, True)
    whole = genes == slice(None) and how != "linear by volume"
    total = 1.0 if how in ("ln of shares", "linear") else 1e4
    assert found.target_sum == (pytest.approx(total, rel=1e-4) if whole else None)
    assert found.level == pytest.approx(
        np.median(np.expm1(MADE["ln"][:, genes]).sum(1)), rel=1e-2
    ) or (total == 1 or "volume" in how)


@pytest.mark.parametrize(
    ("X", "form", "scaled"),
    [
        (np.log1p(COUNTS), "ln", False),
        (np.log2(1 + COUNTS), "log2", False),
        (COUNTS + 0.01 * (COUNTS > 0) * np.random.default_rng(2).random(COUNTS.shape), "near counts", True),
        (COUNTS, "counts", True),
        (COUNTS > 0, "binary", True),
        (np.random.default_rng(3).gamma(1.0, 1.0, COUNTS.shape), "unknown", True),
        # Some are too large to be logarithms of logarithms.
        (np.random.default_rng(3).gamma(1.0, 1.0, (200, 900)), "unknown", True),
        # Numbers rounded to one digit are multiples of it, and tell nothing.
        (np.random.default_rng(3).gamma(1.0, 1.0, COUNTS.shape).round(1), "unknown", True),
        # Per million of lengths: no whole numbers, equal sums.
        (np.log1p(1e6 * (w := COUNTS * np.linspace(0.2, 3, 90)) / w.sum(1, keepdims=True)), "ln", True),
    ],
)  # fmt: skip
def test_what_else_is_told(X, form, scaled):
    found = scale_of(X)
    assert (found.form, found.scaled, found.certain) == (form, scaled, True)


@pytest.mark.parametrize("empty", [[], [0], [3, 4, 119]])
def test_the_level_is_of_all_cells_in_the_genes_that_are_used(empty):
    X = MADE["ln"].astype(np.float32)
    X[empty] = 0
    used = np.random.default_rng(4).random(X.shape[1]) < 0.3
    expected = np.median(np.expm1(X.astype(np.float64))[:, used].sum(axis=1))
    found = recognise(sparse.csr_matrix(X), used)
    assert (found.form, found.target_sum) == ("ln", 1e4)
    assert found.level == pytest.approx(expected, rel=1e-5)


def test_few_values_tell_nothing():
    assert not recognise(sparse.csr_matrix(MADE["ln"][:2, :6].astype(np.float32))).certain


@pytest.mark.parametrize("how", ["sqrt", "twice", "linear", "linear by volume"])
@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
def test_what_is_no_logarithm_is_refused(how, form):
    sc = pytest.importorskip("scanpy")
    adata = anndata.AnnData(form(MADE[how].astype(np.float32)))
    with pytest.raises(ValueError, match=r"adata\.X looks") as refused:
        resolve_input(scan_matrix(adata.X))
    exec(told_in(str(refused.value))[0], scope := {"adata": adata, "np": np, "sc": sc})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_input(scan_matrix(scope["adata"].X)).scale.form == "ln"


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (MADE["log2"], "logarithms of base 2 of normalised values that sum to 10000 in each cell"),
        (np.log1p(COUNTS), "natural logarithms of raw counts"),
        (np.random.default_rng(3).gamma(1.0, 1.0, COUNTS.shape), "could not be confirmed"),
    ],
)
def test_what_may_be_other_is_warned_of(X, message):
    stats = scan_matrix(X)
    with pytest.warns(ScsslWarning, match=message):
        assert resolve_input(stats).kind == "lognorm"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_input(stats, "lognorm").kind == "lognorm"


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
@pytest.mark.parametrize(
    "X",
    [
        MADE["log2"],
        MADE["log10"],
        MADE["sqrt"],
        MADE["ln of shares"],
        np.log1p(1e6 * SHARES),
        np.log1p(COUNTS),
        np.log2(1 + 1e6 * SHARES),
    ],
)
def test_what_a_model_was_not_trained_with_is_made_the_same(X, form):
    sc = pytest.importorskip("scanpy")
    expected = scale_of(MADE["ln"])
    adata = anndata.AnnData(form(X.astype(np.float32)))
    found = scan_matrix(adata.X).scale
    with pytest.raises(ValueError, match="was trained with natural logarithms") as refused:
        check_scale(found, expected, adata.X)
    exec(told_in(str(refused.value))[0], scope := {"adata": adata, "np": np, "sc": sc})
    X = scope["adata"].X
    np.testing.assert_allclose(X.toarray() if sparse.issparse(X) else X, MADE["ln"], atol=2e-3)
    check_scale(scan_matrix(X).scale, expected, X)


def test_other_levels_in_the_same_genes_are_warned_of():
    cut = MADE["ln"][:, 20:70], np.log1p(1e6 * SHARES)[:, 20:70]
    expected, found = map(scale_of, cut)
    with pytest.warns(ScsslWarning, match="were both normalised to the same sum"):
        check_scale(found, expected, cut[1])
    with pytest.raises(ValueError, match="up to"):
        check_scale(found, scale_of(MADE["ln"]), cut[1])
    unknown = scale_of(np.random.default_rng(3).gamma(1.0, 1.0, COUNTS.shape))
    with pytest.warns(ScsslWarning, match="could not be confirmed"):
        check_scale(unknown, LOGARITHM, cut[1])
    with pytest.warns(ScsslWarning, match="holds only 0 and 1"):
        check_scale(scale_of(COUNTS > 0), scale_of(COUNTS), COUNTS > 0)
