"""Imputation against formulas written out, and scores that are those of genes held out."""

from __future__ import annotations

import logging
import sys
import warnings

import anndata
import numpy as np
import pytest
from scipy import sparse, stats

import scssl
from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.tl import _imputers
from scssl.tl._impute import _Pair
from scssl.tl._imputers import METHODS, Options

IMPUTE = scssl.tl.impute
GENES = [f"GENE{i}" for i in range(40)]
QUICK = {"method": "pca_knn", "n_neighbors": 8, "n_folds": 3}


def cells(n, seed):
    """Counts of genes that go up and down together, in 3 dimensions."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(9).normal(size=(3, 40))
    rate = np.exp(1.0 + rng.normal(size=(n, 3)) @ loadings * 0.7) * rng.uniform(0.5, 2, (n, 1))
    adata = anndata.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.var_names = GENES
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n)]
    return adata


@pytest.fixture(scope="module")
def reference():
    return cells(150, 1)


@pytest.fixture(scope="module")
def query():
    # Another order, and a gene that the reference does not have.
    adata = cells(60, 2)[:, [*range(25, -1, -1)]].copy()
    adata.var_names = [*adata.var_names[:-1], "OWN"]
    adata.obs["type"] = "a"
    adata.obsm["spatial"] = np.zeros((60, 2))
    return adata


def logged(values, shared, scale):
    return np.log1p(values / shared.sum(1, keepdims=True) * scale)


def task_of(query, reference, wanted=None, **options):
    chosen = Options(
        **({"n_neighbors": 8, "model": None, "max_epochs": None, "progress": False} | options)
    )
    rest = {"layer": None, "target_sum": None, "min_overlap": 0.5, "seed": 0, "options": chosen}
    pair = _Pair.of(query, reference, wanted, **rest)
    return pair.task(np.arange(pair.n_shared), np.arange(pair.n_shared, len(pair.genes)))


def test_measured_and_imputed_on_one_scale(query, reference):
    before = query.copy(), reference.copy()
    found = IMPUTE(query, reference, ["GENE30", "GENE39"], **QUICK)
    assert found.var_names.tolist() == [*query.var_names, "GENE30", "GENE39"]
    assert found.var["imputed"].tolist() == [False] * 26 + [True] * 2
    assert found.obs.equals(query.obs)
    assert set(found.obsm) == {"spatial"}
    shared = query[:, query.var_names != "OWN"].X.toarray()
    scale = np.median(shared.sum(1))
    assert found.uns["imputed"]["params"]["target_sum"] == scale
    np.testing.assert_allclose(
        found.X[:, :26].toarray(), logged(query.X.toarray(), shared, scale), rtol=1e-5
    )
    # As the mean over the nearest of the reference, in the same units.
    task = task_of(query, reference, ["GENE30", "GENE39"])
    known = reference[:, query.var_names[:-1]].X.toarray()
    answers = logged(reference[:, ["GENE30", "GENE39"]].X.toarray(), known, scale)
    np.testing.assert_allclose(task.answers.toarray(), answers, rtol=1e-5)
    imputed = found.X[:, 26:].toarray()
    assert (imputed >= answers.min(0)).all()
    assert (imputed <= answers.max(0)).all()
    for now, then in zip((query, reference), before, strict=True):
        np.testing.assert_array_equal(now.X.toarray(), then.X.toarray())
        assert not now.uns


def test_scores_are_of_genes_held_out(query, reference):
    """Computed again, fold by fold, from nothing but what is documented."""
    found = IMPUTE(query, reference, **QUICK)
    assert found.n_vars == 26 + 15
    assert found.var["imputed"].tolist() == [False] * 26 + [True] * 15
    written = found.uns["imputed"]
    per_gene = written["per_gene"].set_index("gene")
    assert sorted(per_gene.index) == sorted(query.var_names[:-1])
    for fold, part in per_gene.groupby("fold"):
        genes = list(part.index)
        kept = [name for name in query.var_names[:-1] if name not in genes]
        one = IMPUTE(query[:, [*kept, "OWN"]].copy(), reference, genes, **QUICK)
        truth = logged(
            query[:, genes].X.toarray(),
            query[:, kept].X.toarray(),
            one.uns["imputed"]["params"]["target_sum"],
        )
        imputed = one[:, genes].X.toarray()
        for j, gene in enumerate(genes):
            assert per_gene.loc[gene, "pearson"] == pytest.approx(
                stats.pearsonr(truth[:, j], imputed[:, j]).statistic, abs=1e-5
            ), (fold, gene)
        np.testing.assert_allclose(
            part["rmse"], np.sqrt(np.square(truth - imputed).mean(0)), rtol=1e-4
        )
    assert written["scores"]["pearson"][0] == pytest.approx(per_gene["pearson"].mean())
    assert per_gene["pearson"].mean() > 0.5
    assert found.var["imputed_pearson"].notna().sum() == 25


def test_measured_genes_are_replaced_only_when_asked(query, reference):
    with pytest.raises(ValueError, match="1 of `genes` were measured.*'GENE3'.*`keep_measured=Fa"):
        IMPUTE(query, reference, ["GENE3", "GENE30"], **QUICK)
    found = IMPUTE(query, reference, ["GENE3", "GENE30"], keep_measured=False, **QUICK)
    assert found.var_names[found.var["imputed"]].tolist() == ["GENE3", "GENE30"]
    kept = IMPUTE(query, reference, ["GENE30"], **QUICK)
    others = [name for name in kept.var_names if name != "GENE3"]
    np.testing.assert_array_equal(found[:, others].X.toarray(), kept[:, others].X.toarray())
    pair = found[:, "GENE3"].X.toarray().ravel(), kept[:, "GENE3"].X.toarray().ravel()
    assert np.corrcoef(*pair)[0, 1] == pytest.approx(
        kept.var.loc["GENE3", "imputed_pearson"], abs=0.1
    )
    with pytest.raises(ValueError, match="nothing to impute.*`keep_measured=False`"):
        IMPUTE(query, reference[:, query.var_names[:-1]].copy(), **QUICK)


def independent_spage(known, new, answers, k):
    """SpaGE cell by cell, after Abdelaal et al. 2020."""
    standard = [(one - one.mean(0)) / one.std(0) for one in (known, new)]
    n = min(50, known.shape[1] - 1, len(known) - 1, len(new) - 1)
    parts = []
    for one in standard:
        _, vectors = np.linalg.eigh(np.cov(one.T))
        parts.append(vectors[:, ::-1][:, :n].T)
    left, similarity, _ = np.linalg.svd(parts[0] @ parts[1].T)
    vectors = (left.T @ parts[0])[: (similarity > 0.3).sum()]
    here, there = (one @ vectors.T for one in standard)
    out = []
    for cell in there:
        distance = np.array([1 - a @ cell / np.linalg.norm(a) / np.linalg.norm(cell) for a in here])
        near = np.argsort(distance)[:k]
        near = near[distance[near] < 1]
        weight = 1 - distance[near] / distance[near].sum()
        out.append(weight / (len(near) - 1) @ answers[near])
    return np.array(out)


def test_spage_against_an_independent_one(query, reference):
    task = task_of(query, reference)
    known, new = (one.toarray().astype(np.float64) for one in task.both)
    expected = independent_spage(known, new, task.answers.toarray(), 8)
    np.testing.assert_allclose(METHODS["spage"](task).toarray(), expected, rtol=2e-3, atol=2e-3)


def test_logarithms_are_taken_back(query, reference):
    """However either side was normalised before, the result is the same."""
    expected = IMPUTE(query, reference, ["GENE30"], **QUICK)
    pair = []
    for adata, total in ((query, 1e4), (reference, 1e3)):
        made = adata.copy()
        sums = adata.X.sum(1)
        made.layers["logs"] = sparse.csr_matrix(np.log1p(made.X.toarray() / sums * total))
        made.X = None
        pair.append(made)
    scale = expected.uns["imputed"]["params"]["target_sum"]
    found = IMPUTE(*pair, ["GENE30"], layer="logs", target_sum=scale, **QUICK)
    np.testing.assert_allclose(found.X.toarray(), expected.X.toarray(), rtol=1e-4, atol=1e-4)


def test_a_method_that_is_no_better_is_told(query, reference, caplog, monkeypatch):
    nothing = lambda task: sparse.csr_matrix((task.new.shape[0], len(task.genes)))
    monkeypatch.setitem(METHODS, "spage", nothing)
    with pytest.warns(ScsslWarning, match=r"no better by method='spage'.*`method=\"pca_knn\"`"):
        found = IMPUTE(query, reference, ["GENE30"], **{**QUICK, "method": "spage"})
    scores = found.uns["imputed"]["scores"].set_index("method")
    # What is the same in all cells is no better than chance, and not left out of the mean.
    assert scores.loc["spage", "pearson"] == 0
    with caplog.at_level(logging.INFO, logger="scssl"), warnings.catch_warnings():
        warnings.simplefilter("error")
        IMPUTE(query, reference, ["GENE30"], **QUICK)
    assert "Correlation of held-out genes, in 3 folds: 0." in caplog.text


def test_curve(query, reference):
    curve = scssl.tl.impute_curve(
        query,
        reference,
        methods=["pca_knn", "spage"],
        dropped=[0, 0.5, 0.8],
        n_repeats=2,
        n_neighbors=8,
    )
    assert curve.shape == (12, 7)
    assert curve["n_genes"].tolist() == [20, 20, 10, 10, 4, 4] * 2
    means = curve.groupby("dropped")["pearson"].mean()
    assert means[0] > means[0.8]
    assert curve.loc[0, "pearson"] != curve.loc[6, "pearson"], "other genes in each repeat"
    with pytest.raises(GeneMismatchError, match="0.95 dropped leaves 1 of 20 genes"):
        scssl.tl.impute_curve(query, reference, methods=["pca_knn"], dropped=[0.95])


def test_cells_without_the_shared_genes_are_not_told_of_as_of_another_object(query, reference):
    empty = query.copy()
    empty.X = sparse.csr_matrix(query.X.toarray() * (np.arange(60) > 1)[:, None])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*have no value in adata.X", ScsslWarning)
        IMPUTE(empty, reference, ["GENE30"], method="ssl_knn", max_epochs=1, n_folds=2)


def test_bad_input(query, reference, monkeypatch):
    with pytest.raises(KeyError, match=r"1 of `genes` are not in `reference`: 'X'.*`genes=\['G"):
        IMPUTE(query, reference, ["GENE30", "X"], **QUICK)
    with pytest.raises(TypeError, match=r"`genes=\['GENE30'\]`"):
        IMPUTE(query, reference, "GENE30", **QUICK)
    with pytest.raises(GeneMismatchError, match="share 2 genes"):
        IMPUTE(query[:, :2].copy(), reference, **QUICK)
    few = (
        r"Only 3 of the 26 genes of `query` \(11.5%\) are in `reference`(.|\n)*`min_overlap=0.115`"
    )
    with pytest.raises(GeneMismatchError, match=few):
        IMPUTE(query, reference[:, [1, 2, 3, 30]].copy(), **QUICK)
    with pytest.raises(ValueError, match="n_neighbors=500 is more than the 150 cells"):
        IMPUTE(query, reference, **{**QUICK, "n_neighbors": 500})
    with pytest.raises(ValueError, match="`model=None`"):
        IMPUTE(query, reference, model="folder", **QUICK)
    monkeypatch.setitem(sys.modules, "tangram", None)
    with pytest.raises(ImportError, match=r'tangram-sc is not installed: `pip install "scssl\[imp'):
        IMPUTE(query, reference, **{**QUICK, "method": "tangram"})
    logs = query.copy()
    logs.X = sparse.csr_matrix(np.log1p(query.X.toarray() / query.X.sum(1) * 1e4))
    with pytest.raises(ValueError, match='"gimvi" reads counts.*`method="ssl_knn"`'):
        IMPUTE(logs, reference, **{**QUICK, "method": "gimvi"})
    same = query.copy()
    same.X = sparse.csr_matrix(np.ones(query.shape, dtype=np.float32))
    other = reference.copy()
    other.X = sparse.csr_matrix(np.ones(reference.shape, dtype=np.float32))
    with pytest.raises(ValueError, match="All cells are the same"):
        IMPUTE(same, other, **QUICK)


def ridge_with_the_best_penalty(x, y, new, penalties):
    """Gene by gene, with matrices written out."""
    x, new = x - x.mean(0), new - x.mean(0)
    out = []
    for answer in y.T:
        tried = []
        for penalty in penalties:
            hat = x @ np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1])) @ x.T
            left = (answer - answer.mean()) - hat @ (answer - answer.mean())
            tried.append((left @ left / (len(x) - 1 - np.trace(hat)) ** 2, penalty))
        solved = np.linalg.solve(
            x.T @ x + min(tried)[1] * np.eye(x.shape[1]), x.T @ (answer - answer.mean())
        )
        out.append(new @ solved + answer.mean())
    return np.array(out).T


def test_ridge_regression_of_sparse_answers(query, reference):
    task = task_of(query, reference)
    rng = np.random.default_rng(0)
    known, new = (rng.normal(size=(n, 5)).astype(np.float32) for n in (150, 60))
    known[:, 0] = task.answers[:, 3].toarray().ravel()
    scale = ((known - known.mean(0)) ** 2).sum() / 5 / 150
    expected = ridge_with_the_best_penalty(
        known.astype(np.float64), task.answers.toarray(), new, np.logspace(-2, 5, 15) * scale
    )
    np.testing.assert_allclose(_imputers._ridge(task, known, new), expected, rtol=1e-3, atol=1e-3)


def test_in_the_embedding_of_a_model(query, reference):
    """By one that is trained here, the same for the same seed, and by one that is given."""
    options = {**QUICK, "method": "ssl_knn", "n_folds": 2, "max_epochs": 3}
    with warnings.catch_warnings():
        # So small a model need not be the better one.
        warnings.simplefilter("ignore", ScsslWarning)
        found, again = (IMPUTE(query, reference, ["GENE30"], rng=1, **options) for _ in range(2))
        np.testing.assert_array_equal(found.X.toarray(), again.X.toarray())
        assert found.uns["imputed"]["scores"]["pearson"][0] > 0.4
        adata = reference.copy()
        scssl.model.MaskedAutoencoder.setup_anndata(adata)
        model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
        model.train(max_epochs=2, progress=False)
        other = IMPUTE(query, reference, ["GENE30"], model=model, rng=1, **options)
    assert not np.array_equal(other.X.toarray(), found.X.toarray())


@pytest.mark.parametrize("method", ["cellplm", "gimvi", "tangram"])
def test_through_other_models(query, reference, method):
    if method == "tangram":
        pytest.importorskip("tangram")
    task = task_of(query, reference, ["GENE30", "GENE31"], max_epochs=2)
    found, again = (METHODS[method](task) for _ in range(2))
    assert found.shape == (60, 2)
    np.testing.assert_array_equal(found, again)
    assert (found >= 0).all()
    # In the scale of the measured genes.
    assert 0.2 < found.mean() / task.answers.mean() < 5
