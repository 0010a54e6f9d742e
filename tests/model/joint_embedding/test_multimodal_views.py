"""Views of cells with several modalities that have another cell in the place of a cell."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pytest
import torch
from scipy import sparse

from scssl.augment import Augmentation, Mask, MutualNeighborMix, RandomApply

from ..conftest import TRAIN
from .test_multimodal import FUSIONS, make, make_mdata


class Same(Augmentation):
    """Leaves the cells as they are."""

    def transform(self, x, applied, rng, context):
        return x


def with_pairs(mdata):
    """Mutual graph in which each cell with RNA has one anchor, and a graph within batches.

    The batches are made up so that anchors are in the other one: cells with even number and with odd.
    """
    rna = mdata["rna"]
    n = rna.n_obs
    rna.obs["batch"] = np.where(np.arange(n) % 2, "odd", "even")
    anchor = (np.arange(n) + 51) % n
    within = (np.arange(n) + 2) % n
    for name, ends in (("mnn", anchor), ("mnn_within", within)):
        rna.obsp[name] = sparse.csr_matrix((np.ones(n), (np.arange(n), ends)), shape=(n, n))
    return mdata, anchor


def make_mixed(mutual, mosaic, fusion="concat", protein=None, atac=False):
    mdata, anchor = with_pairs(make_mdata(mosaic=mosaic, atac=atac))
    views = {"rna": mutual, "protein": protein or Same()}
    if atac:
        views["atac"] = Same()
    model = make("VICReg", mdata, augmentation=views, fusion=fusion)
    return model, mdata, anchor


def both_views(model, n_cells=150):
    data = model._training_data()
    batch = next(iter(data.loader(np.arange(n_cells), n_cells)))
    seen = []
    module = model.module
    views = module.split.views

    def spy(*args, **kwargs):
        seen.append(views(*args, **kwargs))
        return seen[-1]

    module.split.views = spy
    module.loss(batch)
    return seen[0]


def values_of(view, name, n_cells=150):
    """Dense values of a modality, NaN where a cell lacks it."""
    part = view.parts[name]
    x = part.x.to_dense() if hasattr(part.x, "to_dense") else part.x
    found = torch.full((n_cells, x.shape[1]), torch.nan)
    found[part.cells] = x
    return found.numpy()


@pytest.mark.parametrize("applied", [1, 0.5, 0.8 * 0.9])
@pytest.mark.parametrize("mosaic", [False, True])
def test_anchor_stands_in_with_all_modalities(mosaic, applied):
    # alpha close to 1: the RNA of a view is that of the cell or of the anchor, with hardly any other.
    if applied in (1, 0.5):
        views = MutualNeighborMix(alpha=0.999, p=applied)
    else:
        views = [RandomApply(MutualNeighborMix(alpha=0.999, p=0.8), 0.9), Mask(0.1)]
    model, mdata, anchor = make_mixed(views, mosaic, atac=True)
    one, two = both_views(model)
    # Values as the model reads them, NaN where a cell lacks the modality.
    rna, protein, atac = (
        model.get_modality(mdata, kind).to_numpy() for kind in ("rna", "protein", "atac")
    )
    ends = np.arange(150)
    ends[: len(anchor)] = anchor
    has_rna = ~np.isnan(rna[:, 0])
    # Which cell the RNA of view 1 is of: what was drawn, seen in the result.
    seen = np.nan_to_num(values_of(two, "rna"))
    shown = seen > 0
    from_own = np.abs(np.where(shown, seen - np.nan_to_num(rna), 0)).sum(1)
    from_anchor = np.abs(np.where(shown, seen - np.nan_to_num(rna)[ends], 0)).sum(1)
    replaced = has_rna & (from_anchor < from_own)
    tolerance = 0 if applied == 1 else 0.15
    assert abs(replaced[has_rna].mean() - applied) <= tolerance
    source = np.where(replaced, ends, np.arange(150))
    np.testing.assert_allclose(values_of(two, "protein"), protein[source], rtol=1e-6)
    np.testing.assert_allclose(values_of(two, "atac"), atac[source], rtol=1e-6)
    # The other view is of the cell itself.
    np.testing.assert_allclose(values_of(one, "protein"), protein, rtol=1e-6)
    np.testing.assert_allclose(values_of(one, "atac"), atac, rtol=1e-6)
    if mosaic:
        lacking = np.isnan(protein[:, 0])
        # Anchors that lack proteins, and anchors of cells that lack them: both are there.
        assert (lacking[source] & ~lacking).any()
        assert (~lacking[source] & lacking).any()


def test_proteins_of_the_anchor_get_their_views_too():
    model, mdata, anchor = make_mixed(MutualNeighborMix(p=1.0), False, protein=Mask(0.5, p=1.0))
    one, two = both_views(model)
    protein = model.get_modality(mdata, "protein").to_numpy()
    for view, source in ((one, np.arange(150)), (two, anchor)):
        found = values_of(view, "protein")
        hidden = found == 0
        assert 0.4 < hidden[protein[source] > 0].mean() < 0.6
        np.testing.assert_allclose(found, np.where(hidden, 0, protein[source]), rtol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_training_with_anchors(fusion):
    mdata, _ = with_pairs(make_mdata())
    model = make("MoCo", mdata, augmentation="integration", fusion=fusion)
    model.train(**TRAIN)
    assert np.isfinite(model.get_latent_representation()).all()


def test_unknown_modalities_of_partners_are_refused():
    model, *_ = make_mixed(MutualNeighborMix(p=1.0), False)
    batch = next(iter(model._training_data().loader(np.arange(150), 150)))
    batch = {key: value for key, value in batch.items() if "@" not in key}
    with pytest.raises(ValueError, match="Unknown modalities of the partners"):
        model.module.loss(batch)


def test_batch_cannot_be_told_from_the_proteins():
    """Where proteins say the batch and nothing else, a view of the anchor has its batch."""
    mdata, _ = with_pairs(make_mdata(mosaic=False))
    batch = mdata["rna"].obs["batch"].to_numpy()
    counts = np.full(mdata["prot"].shape, 5.0, dtype=np.float32)
    counts[batch == "odd", 0] = 100
    protein = anndata.AnnData(counts, obs=mdata["prot"].obs)
    mdata = mudata.MuData({"rna": mdata["rna"], "prot": protein})
    model = make("VICReg", mdata, augmentation={"rna": MutualNeighborMix(p=1.0), "protein": Same()})
    one, two = both_views(model)
    first, second = (values_of(view, "protein")[:, 0] for view in (one, two))
    assert len(np.unique(first)) == 2
    assert (first != second).all()
