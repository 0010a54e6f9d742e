"""Cells seen through a panel are what they are when the panel is embedded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scssl.augment import GenePrograms, Hidden, PanelMask, masking, masking_from_config, remade
from scssl.nn import SparseRows


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return SparseRows.from_tensor(torch.ones(400, 200))


def shown(hidden, x):
    return hidden.visible.view(x.n_cells, x.n_genes)


def test_shares_of_random_panels_are_log_uniform(x):
    hidden = PanelMask(cells=1.0, smallest=0.02, largest=0.5).draw(x, seeded())
    share = shown(hidden, x).float().mean(1).numpy()
    expected = np.exp(np.random.default_rng(0).uniform(np.log(0.02), np.log(0.5), 100_000))
    for quantile in (0.25, 0.5, 0.75):
        assert np.quantile(share, quantile) == pytest.approx(
            np.quantile(expected, quantile), rel=0.25
        )
    assert hidden.panel.all()
    assert (hidden.hidden_share == 0).all(), "what is visible is no thinned copy"
    # Of zeros the loss takes the expectation.
    weight = hidden.zero_weight.mean(1).numpy()
    assert np.corrcoef(weight, 1 - share)[0, 1] > 0.95


def test_the_other_cells_are_hidden_at_random(x):
    hidden = PanelMask(rate=0.3, cells=0.4).draw(x, seeded())
    others = ~hidden.panel
    assert others.float().mean().item() == pytest.approx(0.6, abs=0.1)
    assert shown(hidden, x)[others].float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert hidden.hidden_share[others].unique().tolist() == [pytest.approx(0.3)]
    assert torch.equal(hidden.visible, hidden.loss_weight == 0)


def test_known_panels(x):
    panels = GenePrograms(["a", "b"], [[0, 1, 2], [50]], n_genes=200)
    hidden = PanelMask(panels, cells=1.0, smallest=0.3, largest=0.3).draw(x, seeded())
    seen = shown(hidden, x)
    given = seen.sum(1) <= 3
    assert given.float().mean().item() == pytest.approx(0.5, abs=0.1)
    sizes = seen[given].sum(1)
    assert set(sizes.tolist()) == {1, 3}
    assert seen[given][sizes == 1][:, 50].all()
    assert torch.equal(hidden.zero_weight[given], 1 - seen[given].float())


def test_indicator_agrees_with_the_mask(x):
    panels = GenePrograms(["a"], [[0, 1, 2]], n_genes=200)
    hidden = PanelMask(panels).draw(x, seeded(), indicator=True)
    assert torch.equal(hidden.indicator, ~shown(hidden, x))


def test_by_name_and_from_what_is_saved(x):
    panels = GenePrograms(["a"], [[0, 1, 2]], n_genes=200)
    for programs in (None, panels):
        mask = masking("panel", rate=0.4, programs=programs, cells=0.7)
        for again in (masking_from_config(mask.config()), remade(mask)):
            assert repr(again) == repr(mask)
            draws = [one.draw(x, seeded(3)).visible for one in (mask, again)]
            assert torch.equal(*draws)
    with pytest.raises(ValueError, match="`smallest` must be a number in"):
        PanelMask(smallest=0.6)


def test_as_a_panel_is_embedded():
    import scssl

    adata = scssl.datasets.pbmc68k_reduced()[:40, :50].copy()
    adata.X = np.random.default_rng(0).poisson(2.0, (40, 50)).astype(np.float32)
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(
        adata, hidden_dims=(16,), n_latent=4, masking="panel", mask_rate=0.2
    )
    model.train(max_epochs=1, progress=False)
    genes = np.arange(0, 50, 3)
    expected = model.get_latent_representation(adata[:, genes].copy(), min_overlap=0)
    assert "PanelMask(rate=0.2" in repr(model)
    batch = next(iter(model._read(None).loader(np.arange(40), 40)))
    rows = model.module._rows(batch)
    visible = torch.isin(rows.columns.long(), torch.from_numpy(genes))
    hidden = Hidden(
        visible, (~visible).float(), torch.tensor(0.0), 0.0, panel=torch.ones(40, dtype=torch.bool)
    )
    model.module.eval()
    with torch.inference_mode():
        found = model.module._encode_visible(rows, hidden, batch)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
