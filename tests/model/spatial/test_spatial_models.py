"""STAGATE and GraphST against dense implementations of their own, and what neighbours must not do."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn import functional

import scssl
from scssl.data.keys import LINKS, TARGET
from scssl.model.spatial._network import _shuffled

from ..conftest import TRAIN, arguments_of, make_counts

NAMES = ["STAGATE", "GraphST"]


def build(name, adata, *, setup=None, **options):
    model_class = getattr(scssl.model, name)
    model_class.setup_anndata(adata, **(setup or {}))
    return model_class(adata, **arguments_of(model_class, **options))


def trained(*args, **kwargs):
    model = build(*args, **kwargs)
    model.train(**TRAIN)
    return model


def sections(n_cells=120):
    adata = make_counts(n_cells)
    adata.obs["section"] = np.repeat(["a", "b"], [n_cells // 3, n_cells - n_cells // 3])
    return adata


def dense_graph(places, sections, k):
    """Both ways, with the cell itself, by sorting all distances."""
    away = cdist(places, places)
    np.fill_diagonal(away, np.inf)
    away[sections[:, None] != sections[None]] = np.inf
    nearest = np.argsort(away, axis=1)[:, :k]
    graph = np.zeros(away.shape)
    np.put_along_axis(graph, nearest, 1, axis=1)
    graph = np.maximum(graph, graph.T)
    np.fill_diagonal(graph, 1)
    return torch.from_numpy(graph)


def lognorm(adata):
    x = adata.X.toarray().astype(np.float64)
    sums = x.sum(1, keepdims=True)
    return torch.from_numpy(np.log1p(np.median(sums) * x / sums))


def dense_stagate(weights, x, graph, rows, target, order):
    first, second = weights["gene_encoder.weight"], weights["encoder.weight"]
    h = x @ first
    scores = (h @ weights["encoder.of_cell"])[:, None] + (h @ weights["encoder.of_other"])[None]
    attention = torch.softmax(scores.sigmoid().masked_fill(graph == 0, -torch.inf), dim=1)
    z = functional.elu(attention @ h) @ second
    decoded = functional.elu(attention @ (z @ second.T)) @ first.T
    return z, functional.mse_loss(decoded[target], x[target])


def dense_graphst(weights, x, graph, rows, target, order):
    degree = graph.sum(1)
    convolve = graph / torch.outer(degree, degree).sqrt()
    mean = graph / degree[:, None]
    other = torch.zeros_like(x)
    other[rows] = x[rows][order]
    z = convolve @ x @ weights["gene_encoder.weight"]
    wrong = convolve @ other @ weights["gene_encoder.weight"]
    decoded = convolve @ z @ weights["gene_decoder.weight"].T
    loss = 10 * functional.mse_loss(decoded[target], x[target])
    bilinear = nn.Bilinear(z.shape[1], z.shape[1], 1).double()
    ones, zeros = torch.ones(len(target), 1).double(), torch.zeros(len(target), 1).double()
    for own, false in ((z.relu(), wrong.relu()), (wrong.relu(), z.relu())):
        around = torch.sigmoid(functional.normalize(mean @ own, dim=1))
        logits = [
            torch.func.functional_call(
                bilinear,
                {
                    k.removeprefix("discriminator."): v
                    for k, v in weights.items()
                    if k.startswith("discriminator.")
                },
                (one[target], around[target]),
            )
            for one in (own, false)
        ]
        loss = loss + functional.binary_cross_entropy_with_logits(
            torch.cat(logits), torch.cat([ones, zeros])
        )
    return z, loss


@pytest.mark.parametrize("batch_size", [1000, 25], ids=["whole", "pieces"])
@pytest.mark.parametrize(
    ("name", "dense"), [("STAGATE", dense_stagate), ("GraphST", dense_graphst)]
)
def test_a_step_is_that_of_dense_matrices(name, dense, batch_size):
    """Loss, gradients and embeddings; of a piece of the tissue as if all of it were there."""
    adata = sections()
    # One section, so that the order in which cells are shuffled is that of the generator.
    model = build(name, adata, n_neighbors=4)
    learnt = np.arange(0, adata.n_obs, 3)
    plan = model._training_data().loader(learnt, batch_size, role="training")
    graph = dense_graph(adata.obsm["spatial"], np.zeros(adata.n_obs), 4)
    n_learnt = 0
    for batch in plan:
        model.module.zero_grad()
        found = model.module.loss(batch)
        found.loss.backward()
        weights = {
            k: v.detach().double().requires_grad_() for k, v in model.module.named_parameters()
        }
        rows = batch["indices"]
        target = rows[batch[TARGET].squeeze(1).bool()]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        z, expected = dense(weights, lognorm(adata), graph, rows, target, order)
        expected.backward()
        torch.testing.assert_close(found.loss.double(), expected, rtol=1e-5, atol=1e-5)
        for key, value in model.module.named_parameters():
            if value.requires_grad:
                torch.testing.assert_close(
                    value.grad.double(), weights[key].grad, rtol=1e-4, atol=1e-5
                )
        assert found.n_obs_minibatch == len(target)
        n_learnt += len(target)
    assert n_learnt == len(learnt)
    model.is_trained_ = True
    np.testing.assert_allclose(model.get_latent_representation(), z.detach(), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_cells_in_another_order(name):
    adata = sections()
    model = trained(name, adata, setup={"sample_key": "section"})
    z = model.get_latent_representation()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    moved = adata[order].copy()
    np.testing.assert_allclose(model.get_latent_representation(moved), z[order], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_sections_do_not_see_each_other(name):
    adata = sections()
    model = trained(name, adata, setup={"sample_key": "section"})
    z, of_a = model.get_latent_representation(), (adata.obs["section"] == "a").to_numpy()
    alone = adata[of_a].copy()
    np.testing.assert_allclose(model.get_latent_representation(alone), z[of_a], atol=1e-6)
    changed, order = adata.copy(), np.arange(adata.n_obs)
    order[~of_a] = order[~of_a][::-1]
    changed.X = adata.X[order]
    moved = model.get_latent_representation(changed)
    np.testing.assert_array_equal(moved[of_a], z[of_a])
    assert np.abs(moved[~of_a] - z[~of_a]).max() > 1e-3
    # Together all cells are near each other.
    together = trained(name, adata)
    assert not np.allclose(together.get_latent_representation(alone), z[of_a], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_depends_on_its_neighbours_alone(name):
    adata = make_counts(60)
    model = trained(name, adata)
    z = model.get_latent_representation()
    graph = dense_graph(adata.obsm["spatial"], np.zeros(60), model._options.n_neighbors)
    changed, order = adata.copy(), np.arange(60)
    order[7] = 8
    changed.X = adata.X[order]
    moved = np.abs(model.get_latent_representation(changed) - z).max(axis=1) > 1e-6
    np.testing.assert_array_equal(moved, graph[7] > 0)


def test_a_graph_that_is_there_is_used(caplog):
    adata = make_counts(80)
    scssl.pp.spatial_neighbors(adata, n_neighbors=6)
    by_place = make_counts(80)
    with caplog.at_level("INFO", logger="scssl"):
        model = build("STAGATE", adata)
    assert "STAGATE: 7 neighbours of a cell (median); 0 cells have none" in caplog.text
    assert model.setup.connectivity_key == "spatial_connectivities"
    other = build("STAGATE", by_place)
    assert other.setup.connectivity_key is None
    for one in (model, other):
        one.train(**TRAIN)
    np.testing.assert_array_equal(
        model.get_latent_representation(), other.get_latent_representation()
    )
    with pytest.raises(KeyError, match=r"`scssl.pp.spatial_neighbors\(adata\)`"):
        model.get_latent_representation(by_place)
    scssl.pp.spatial_neighbors(adata, n_neighbors=2)
    with pytest.raises(ValueError, match=r"has changed since setup_anndata \(neighbours"):
        model.train(**TRAIN)


def test_a_radius():
    adata = make_counts(80)
    model = build("GraphST", adata, radius=0.2)
    context = model._read(None).context
    expected = cdist(adata.obsm["spatial"], adata.obsm["spatial"]) <= 0.2
    np.testing.assert_array_equal(context.graph.toarray() > 0, expected)
    with pytest.raises(ValueError, match=r"No cell has another within radius=1e-06.*`radius="):
        build("GraphST", adata, radius=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_embedding_in_place_of_genes(name, tmp_path):
    adata = make_counts(80)
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(80, 12))
    bare = anndata.AnnData(obs=adata.obs, obsm=adata.obsm)
    found = []
    for data in (adata, bare):
        model = trained(name, data, setup={"use_rep": "X_pca"})
        assert "12 dimensions" in repr(model)
        found.append(model.get_latent_representation())
    np.testing.assert_array_equal(*found)
    model.save(tmp_path / "model")
    loaded = scssl.model.SSLModel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(bare), found[0])
    bare.obsm["X_pca"] = bare.obsm["X_pca"][:, :5]
    with pytest.raises(ValueError, match=r'obsm\["X_pca"\] has 5 dimensions.*trained with 12'):
        loaded.get_latent_representation(bare)
    with pytest.raises(ValueError, match="no other model can start from it"):
        type(model).from_ssl_model(model, adata)
    with pytest.raises(ValueError, match="or a layer, found layer='counts'"):
        type(model).setup_anndata(adata, "counts", use_rep="X_pca")
    with pytest.raises(KeyError, match="adata.obsm has no 'X_umap'"):
        type(model).setup_anndata(adata, use_rep="X_umap")


def test_cells_without_a_place_see_themselves():
    adata = make_counts(60)
    adata.obsm["spatial"][:5] = np.nan
    model = trained("STAGATE", adata)
    z = model.get_latent_representation()
    alone = model.get_latent_representation(adata[[3, 40, 41]].copy())
    np.testing.assert_allclose(alone[0], z[3], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_places_are_needed(name):
    adata = make_counts(60)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match=r'no adata.obsm\["spatial"\]'):
        build(name, adata)
    with pytest.raises(ValueError, match='Say where cells are: `spatial_key="spatial"`'):
        build(name, adata, setup={"spatial_key": None})


@pytest.mark.parametrize("name", NAMES)
def test_from_a_model_on_other_genes(name):
    model = trained(name, make_counts(80))
    adata = make_counts(80, n_genes=70)
    new = type(model).from_ssl_model(model, adata, min_overlap=0.5)
    weight = new.module.gene_encoder.weight
    assert torch.equal(weight[:60], model.module.gene_encoder.weight)
    assert not weight[60:].any()
    new.train(**TRAIN)
    assert weight[60:].any()
    with pytest.raises(ValueError, match="are others. Leave 'n_latent' out"):
        type(model).from_ssl_model(model, adata, n_latent=5)


def test_cells_are_shuffled_within_sections():
    code = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2])
    seen = set()
    for seed in range(20):
        order = _shuffled(code, torch.Generator().manual_seed(seed))
        assert sorted(order.tolist()) == list(range(8))
        assert torch.equal(code[order], code)
        seen.add(tuple(order.tolist()))
    assert len(seen) > 10


def test_pieces_of_a_tissue_have_all_that_their_cells_see(monkeypatch):
    """Embeddings do not depend on how a tissue is cut, up to rounding."""
    adata = make_counts(120)
    model = trained("GraphST", adata)
    z = model.get_latent_representation()
    monkeypatch.setattr("scssl.model.spatial._options._TILE", 30)
    data = model._read(None)
    batches = list(data.loader(np.arange(120), 1))
    assert len(batches) == 4
    assert all(batch[LINKS].shape[1] == 2 for batch in batches)
    np.testing.assert_allclose(model.get_latent_representation(), z, atol=1e-6)
