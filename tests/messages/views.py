"""Views, and graphs that they draw other cells from."""

from __future__ import annotations

import warnings

import numpy as np

import scssl

from . import case
from ._data import cells, folder, mdata, set_up, small

CHAPTER = "Views of cells"
_SIMCLR = "scssl.model.SimCLR(adata, hidden_dims=(8,), n_latent=4, augmentation={})"
_TRAIN = f"{_SIMCLR}.train(max_epochs=1, progress=False)"


@case(CHAPTER, "There is no graph of neighbours")
def no_graph():
    adata = cells(120)
    scssl.pp.cross_batch_neighbors(adata, "batch", method="mnn")
    adata = set_up("SimCLR", adata, batch_key="batch")
    names = {"adata": adata, "mix": scssl.augment.NeighborMix("other")}
    return names, _TRAIN.format("[mix]")


@case(CHAPTER, "A graph across batches is made for the model")
def graph_is_made():
    names = {"adata": set_up("SimCLR", cells(120), batch_key="batch")}
    return names, _TRAIN.format('"integration"')


@case(CHAPTER, "There are no mutual neighbours")
def no_mutual_graph():
    adata = set_up("SimCLR", cells(120))
    names = {"adata": adata, "mix": scssl.augment.MutualNeighborMix()}
    return names, "scssl.pl.augmentations(adata, [mix], show=False)"


@case(CHAPTER, "Mutual neighbours and those within are one graph")
def one_graph_for_two():
    return {}, 'scssl.augment.MutualNeighborMix(mutual="mnn", within="mnn")'


@case(CHAPTER, "A graph is of other cells")
def graph_of_other_cells():
    adata = cells(120)
    scssl.pp.cross_batch_neighbors(adata, "batch", key_added="mine")
    adata.obs_names = adata.obs_names[::-1]
    names = {"adata": adata, "mix": scssl.augment.NeighborMix("mine")}
    return names, "scssl.pl.augmentations(adata, [mix], show=False)"


@case(CHAPTER, "Views need counts")
def views_need_counts():
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(1e4 * adata.X / adata.X.sum(axis=1, keepdims=True))
    names = {"adata": set_up("SimCLR", adata), "thin": scssl.augment.BinomialThinning()}
    return names, _SIMCLR.format("[thin]")


@case(CHAPTER, "Views need batches")
def views_need_batches():
    cross = scssl.augment.CrossOver(within="batch")
    return {"adata": set_up("SimCLR"), "cross": cross}, _SIMCLR.format("[cross]")


@case(CHAPTER, "Negatives of the own batch need batches")
def negatives_need_batches():
    code = 'scssl.model.SimCLR(adata, hidden_dims=(8,), n_latent=4, negatives="own_batch")'
    return {"adata": set_up("SimCLR")}, code


@case(CHAPTER, "Views are given by modality, and there is one")
def views_by_modality():
    return {"adata": set_up("SimCLR")}, _SIMCLR.format('{"rna": "mask", "protein": "mask"}')


@case(CHAPTER, "Views of proteins are for RNA only")
def views_of_proteins():
    code = (
        "scssl.model.SimCLR(mdata, hidden_dims=(8,), n_latent=4, "
        'augmentation={"rna": "mask", "protein": "binomial_thinning"})'
    )
    return {"mdata": set_up("SimCLR", mdata())}, code


@case(CHAPTER, "Batches stay apart", ways="all")
def batches_stay_apart():
    names = {"adata": set_up("SimCLR", cells(120), batch_key="batch")}
    return names, _SIMCLR.format('"default"')


@case(CHAPTER, "Views change nothing")
def views_change_nothing():
    adata = set_up("SimCLR")
    made = small("SimCLR", adata, augmentation=[scssl.augment.Mask(0.5, p=0.0)])
    return {"model": made}, "model.train(max_epochs=1, progress=False)"


class _Mine(scssl.augment.Mask):
    """Views of a user."""


def _with_own_views():
    made = small("SimCLR", set_up("SimCLR"), augmentation=_Mine(0.5))
    made.train(max_epochs=1, progress=False)
    return {"model": made, "place": f"{folder()}/model"}


@case(CHAPTER, "Views of one's own are not saved")
def own_views():
    return _with_own_views(), "model.save(place)"


@case(CHAPTER, "A model was saved without its views")
def saved_without_views():
    names = _with_own_views()
    with warnings.catch_warnings(action="ignore"):
        names["model"].save(names["place"])
    loaded = scssl.model.SimCLR.load(names["place"], set_up("SimCLR"))
    return {"model": loaded}, "model.train(max_epochs=1, progress=False)"
