from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scssl.data import find_counts, resolve_input, scan_matrix

from ...messages import told_in


@pytest.fixture
def counts() -> np.ndarray:
    counts = np.random.default_rng(0).poisson(1.5, (80, 30)).astype(np.float32)
    counts[0, 0] = 240
    return counts


def normalised(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum(axis=1, keepdims=True) * 1e4


def log_normalised(counts: np.ndarray) -> np.ndarray:
    return np.log1p(normalised(counts))


def refusal(X, input="auto", **options) -> str:
    with pytest.raises(ValueError) as caught:
        resolve_input(scan_matrix(X), input, **options)
    return str(caught.value)


@pytest.mark.parametrize("input", ["auto", "counts"])
def test_counts(counts, input):
    decision = resolve_input(scan_matrix(sparse.csr_matrix(counts)), input)
    assert decision.kind == "counts"
    assert decision.reason == (
        "all values of adata.X are whole numbers from 0 to 240, median sum of a cell "
        f"{np.median(counts.sum(axis=1)):.0f}: counts, normalised when read"
    )


@pytest.mark.parametrize("input", ["auto", "lognorm"])
def test_log_normalised(counts, input):
    decision = resolve_input(scan_matrix(log_normalised(counts)), input, where="adata.raw.X")
    assert decision.kind == "lognorm"
    assert decision.reason.startswith("adata.raw.X has fractions and no value above 9.0")
    assert "normalised values that sum to 10000 in each cell" in decision.reason
    some_genes = resolve_input(scan_matrix(log_normalised(counts)[:, 3:]), input)
    assert some_genes.kind == "lognorm"
    assert "sum to" not in some_genes.reason


def test_zeros_and_ones(counts):
    stats = scan_matrix((counts > 0).astype(np.int8))
    assert resolve_input(stats).kind == "counts"
    assert resolve_input(stats, "lognorm").kind == "lognorm"


def test_equal_depth_counts_are_counts():
    assert resolve_input(scan_matrix(np.full((10, 5), 7))).kind == "counts"


def test_identical_log_normalised_cells_are_not_taken_for_unlogged():
    assert resolve_input(scan_matrix(np.full((10, 5), 0.7))).kind == "lognorm"


def test_counts_under_lognorm(counts):
    message = refusal(counts, "lognorm")
    assert message.startswith("adata.X holds counts (all values are whole numbers, up to 240)")
    assert 'Pass `input="counts"`' in message
    assert "sc.pp.log1p(adata)" in message


def test_log_normalised_under_counts(counts):
    hint = 'Counts were found in adata.layers["raw"]: pass layer="raw".'
    message = refusal(log_normalised(counts), "counts", raw_hint=hint)
    assert message.startswith("adata.X looks log-normalised (")
    assert 'but input="counts" was given. Pass `input="lognorm"`' in message
    assert message.endswith(hint)


@pytest.mark.parametrize("input", ["auto", "counts", "lognorm"])
def test_normalised_without_logarithm(counts, input):
    message = refusal(normalised(counts), input)
    assert message.startswith(
        "adata.X looks normalised but not log-transformed (all cells sum to 1"
    )
    assert "sc.pp.log1p(adata)" in message
    assert (f'input="{input}" was given' in message) == (input != "auto")
    # Fractions of the whole: small enough for logarithms, but they sum to one.
    assert "not log-transformed" in refusal(normalised(counts) / 1e4, input)


@pytest.mark.parametrize("input", ["auto", "counts", "lognorm"])
def test_fractional_counts(counts, input):
    message = refusal(counts + np.float32(0.25) * (counts > 5), input)
    assert message.startswith("adata.X looks neither counts (not all whole numbers) nor logarithms")
    assert "240.25 in cell row 0, gene column 0" in message
    for form in (sparse.csr_matrix, np.asarray):
        X = form(counts + np.float32(0.25) * (counts > 5))
        assert "`X = np.rint(X)`" in refusal(X, input, where="X")
        assert resolve_input(scan_matrix(np.rint(X)), "counts").kind == "counts"


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(counts, value, form):
    counts[[5, 9], [2, 0]] = value
    adata = ad.AnnData(form(counts))
    message = refusal(
        adata.X, obs_names=[f"AAC-{i}" for i in range(80)], var_names=[f"G{i}" for i in range(30)]
    )
    assert message.startswith("adata.X has 2 values that are NaN or infinite; the first is ")
    assert f"{value} in cell 'AAC-5', gene 'G2'" in message
    scope = {"adata": adata, "np": np}
    exec(told_in(message)[0], scope)
    assert resolve_input(scan_matrix(scope["adata"].X)).kind == "counts"
    assert scope["adata"].n_obs == 78


@pytest.mark.parametrize("input", ["auto", "counts", "lognorm"])
def test_negative(counts, input):
    message = refusal(log_normalised(counts) - 1, input, raw_hint="Counts were found elsewhere.")
    assert "negative values; the first is" in message
    assert "scaled or residual data" in message
    assert message.endswith("Counts were found elsewhere.")
    counts[4, 1] = -1
    assert "adata.X has 1 negative values; the first is -1 in cell row 4, gene column 1" in refusal(
        sparse.csc_matrix(counts), input
    )


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((0, 3)), r"adata.X has no cells \(shape 0 × 3\)"),
        (sparse.csr_matrix((3, 0)), r"adata.X has no genes \(shape 3 × 0\)"),
        (sparse.csr_matrix((3, 2)), "adata.X is all zero: none of its 3 cells has a value"),
        (np.full((2, 2), 1e39), "values up to 1e[+]39, too large for float32"),
    ],
)
def test_nothing_to_learn_from(X, message):
    with pytest.raises(ValueError, match=message):
        resolve_input(scan_matrix(X))


def test_unknown_input(counts):
    assert "`input` must be 'auto', 'counts' or 'lognorm', found 'raw'" in refusal(counts, "raw")


def test_empty_cells_are_no_reason_to_refuse(counts):
    counts[[2, 70]] = 0
    stats = scan_matrix(counts)
    assert resolve_input(stats).kind == "counts"
    assert stats.empty_cells.tolist() == [2, 70]


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_find_counts(counts, form):
    adata = ad.AnnData(form(counts))
    assert find_counts(adata) == ""
    adata.raw = adata.copy()
    adata.layers["logged"] = form(log_normalised(counts))
    adata.layers["scaled"] = log_normalised(counts) - 1
    adata.layers["text"] = np.full(counts.shape, "a")
    assert find_counts(adata, layer="logged") == (
        "Counts were found in adata.X: pass `layer=None`; in adata.raw: use `adata = adata.raw.to_adata()`."
    )
    adata.layers["counts"] = adata.X
    adata.X = adata.layers["logged"]
    assert find_counts(adata).startswith(
        'Counts were found in adata.layers["counts"]: pass `layer="counts"`; in adata.raw'
    )


def test_logarithms_are_found_where_they_would_do(counts):
    adata = ad.AnnData(log_normalised(counts) - 1)
    adata.raw = ad.AnnData(log_normalised(counts))
    adata.layers["missing"] = np.where(counts == counts.max(), np.nan, log_normalised(counts))
    adata.layers["shares"] = 1e4 * counts / counts.sum(axis=1, keepdims=True)
    assert find_counts(adata) == ""
    assert find_counts(adata, logarithms=True) == (
        "Log-normalised values were found in adata.raw: use `adata = adata.raw.to_adata()`."
    )
    adata.layers["counts"] = counts
    assert find_counts(adata, logarithms=True).startswith(
        'Counts were found in adata.layers["counts"]: pass `layer="counts"`. Log-normalised'
    )


def test_find_counts_without_x(counts):
    adata = ad.AnnData(obs=pd.DataFrame(index=list("ab")), layers={"counts": counts[:2]})
    assert 'pass `layer="counts"`' in find_counts(adata)
    assert find_counts(adata, layer="counts") == ""
