"""Setting up, training, saving and going on."""

from __future__ import annotations

import warnings

import numpy as np
import torch

import scssl
from scssl.augment import RandomMask

from . import case
from ._data import cells, folder, hurried, mdata, model, set_up, small

CHAPTER = "Models"
_AGAIN = "scssl.model.{}(adata, hidden_dims=(8,), n_latent=4{})"


@case(CHAPTER, "Data are not set up")
def not_set_up():
    return {"adata": cells()}, _AGAIN.format("MaskedAutoencoder", "")


@case(CHAPTER, "Data are set up for another model")
def set_up_for_another():
    names = {"adata": set_up("SimCLR"), "backbone": model()._backbone()}
    return names, "scssl.model.CellTypeClassifier(adata, backbone=backbone)"


@case(CHAPTER, "A model is not trained")
def not_trained():
    adata = set_up("MaskedAutoencoder")
    names = {"adata": adata, "model": small("MaskedAutoencoder", adata)}
    return names, "model.get_latent_representation()"


@case(CHAPTER, "The model to start from is not trained")
def start_is_not_trained():
    adata = set_up("MaskedAutoencoder")
    names = {"adata": adata, "model": small("MaskedAutoencoder", adata)}
    return names, "scssl.model.SimCLR.from_ssl_model(model, adata)"


@case(CHAPTER, "An encoder has other layers than a model", ways="instead")
def encoder_with_other_layers():
    adata = set_up("CellPLM")
    made = small("CellPLM", adata)
    made.train(max_epochs=1, progress=False)
    names = {"adata": adata, "model": made}
    return names, "scssl.model.SimCLR.from_ssl_model(model, adata)"


@case(CHAPTER, "A model knows too few genes of the data")
def genes_unknown_to_the_model():
    adata = cells(n_genes=70)
    return {
        "adata": adata,
        "model": model(),
    }, "scssl.model.SimCLR.from_ssl_model(model, adata, min_overlap=0.6)"


@case(CHAPTER, "A loaded model has no data")
def loaded_without_data():
    place = f"{folder()}/model"
    model().save(place)
    names = {"adata": cells(), "model": scssl.model.MaskedAutoencoder.load(place)}
    return names, "model.get_latent_representation()"


@case(CHAPTER, "A loaded model has no data to save")
def no_data_to_save():
    place = f"{folder()}/model"
    model().save(place)
    names = {"model": scssl.model.MaskedAutoencoder.load(place), "place": folder() + "/model"}
    return names, "model.save(place, save_anndata=True)"


@case(CHAPTER, "A folder holds the checkpoint of another run")
def checkpoint_of_another_run():
    adata, place = set_up("MaskedAutoencoder"), folder()
    made = small("MaskedAutoencoder", adata)
    made.train(max_epochs=1, progress=False, checkpoint_dir=place)
    names = {"model": small("MaskedAutoencoder", adata), "place": place}
    return names, "model.train(max_epochs=1, progress=False, checkpoint_dir=place)"


@case(CHAPTER, "A folder holds the rounds of another run")
def rounds_of_another_run():
    adata, place = set_up("PseudoLabel"), folder()
    made = small("PseudoLabel", adata, n_rounds=1)
    made.train(max_epochs=1, progress=False, checkpoint_dir=place)
    names = {"model": small("PseudoLabel", adata, n_rounds=1), "place": place}
    return names, "model.train(max_epochs=1, progress=False, checkpoint_dir=place)"


@case(CHAPTER, "A model that predicts no genes is to predict some")
def model_without_outputs():
    adata = set_up("SimCLR")
    names = {"model": small("SimCLR", adata)}
    return names, "model.train(max_epochs=1, progress=False, n_output_genes=5)"


@case(CHAPTER, "Covariates are to be encoded, and none are set up")
def no_covariates():
    names = {"adata": set_up("MaskedAutoencoder", labels_key="type")}
    return names, _AGAIN.format("MaskedAutoencoder", ", encode_covariates=True")


class _Mine(RandomMask):
    """A mask of a user."""


def _with_own_mask():
    adata = set_up("MaskedAutoencoder")
    made = small("MaskedAutoencoder", adata, masking=_Mine(0.5))
    made.train(max_epochs=1, progress=False)
    return {"adata": adata, "model": made, "place": f"{folder()}/model"}


@case(CHAPTER, "A mask of one's own is not saved")
def own_mask():
    return _with_own_mask(), "model.save(place)"


@case(CHAPTER, "A model was saved without its mask")
def saved_without_mask():
    names = _with_own_mask()
    with warnings.catch_warnings(action="ignore"):
        names["model"].save(names["place"])
    loaded = scssl.model.MaskedAutoencoder.load(names["place"], names["adata"])
    return {**names, "model": loaded}, "model.train(max_epochs=1, progress=False)"


@case(CHAPTER, "A model starts from one whose mask is not known")
def start_without_mask():
    code = "scssl.model.MaskedAutoencoder.from_ssl_model(model, adata)"
    return _with_own_mask(), code


_GMT = "one\t\tGENE1\tGENE2\tGENE3\tGENE4\tGENE5\ntwo\t\tGENE6\tGENE7\tGENE8\tGENE9\tGENE10\n"


def _file(text: str) -> str:
    place = f"{folder()}/programmes.gmt"
    with open(place, "w") as file:
        file.write(text)
    return place


@case(CHAPTER, "There are no gene programmes")
def no_programmes():
    names = {"adata": set_up("MaskedAutoencoder"), "FILE": _file(_GMT)}
    return names, _AGAIN.format("MaskedAutoencoder", ', masking="gene_program"')


@case(CHAPTER, "Genes of a programme were taken out")
def programme_without_genes():
    adata = cells()
    scssl.pp.gene_programs(adata, _file(_GMT))
    adata = set_up("MaskedAutoencoder", adata[:, 6:].copy())
    more = "three\t\tGENE11\tGENE12\tGENE13\tGENE14\tGENE15\n"
    names = {"adata": adata, "FILE": _file(_GMT.replace(_GMT.split("\n")[0] + "\n", more))}
    return names, _AGAIN.format("MaskedAutoencoder", ', masking="gene_program"')


@case(CHAPTER, "Programmes and their names do not go together")
def programmes_and_names():
    adata = cells()
    scssl.pp.gene_programs(adata, _file(_GMT))
    adata.uns["gene_programs"]["names"] = ["one"]
    names = {"adata": set_up("MaskedAutoencoder", adata), "FILE": _file(_GMT)}
    return names, _AGAIN.format("MaskedAutoencoder", ', masking="gene_program"')


_TARGETS = "GENE1\t\t" + "\t".join(f"GENE{i}" for i in range(2, 13)) + "\n"
_TARGETS += "GENE13\t\t" + "\t".join(f"GENE{i}" for i in range(14, 25)) + "\n"


@case(CHAPTER, "Programmes name no transcription factors")
def programmes_without_factors():
    adata = cells()
    scssl.pp.gene_programs(adata, _file(_GMT))
    names = {"adata": set_up("MaskedAutoencoder", adata), "FILE": _file(_TARGETS)}
    more = ', masking="gp_to_tf", programs_key="gene_programs"'
    return names, _AGAIN.format("MaskedAutoencoder", more)


@case(CHAPTER, "A transcription factor was taken out")
def factor_taken_out():
    adata = cells()
    scssl.pp.tf_targets(adata, _file(_TARGETS))
    adata = set_up("MaskedAutoencoder", adata[:, adata.var_names != "GENE1"].copy())
    other = _TARGETS.replace("GENE1\t", "GENE25\t", 1)
    names = {"adata": adata, "FILE": _file(other)}
    return names, _AGAIN.format("MaskedAutoencoder", ', masking="gp_to_tf"')


@case(CHAPTER, "None of a model's gene programmes is in the data")
def programmes_of_other_genes():
    adata = cells()
    scssl.pp.gene_programs(adata, _file(_GMT))
    made = small("MaskedAutoencoder", set_up("MaskedAutoencoder", adata), masking="gene_program")
    made.train(max_epochs=1, progress=False)
    names = {"adata": cells()[:, 11:].copy(), "model": made}
    return names, "scssl.model.MaskedAutoencoder.from_ssl_model(model, adata)"


@case(CHAPTER, "A divergence is to be learnt without one")
def divergence_without_latent():
    code = 'scssl.model.CellPLM(adata, n_hidden=16, n_heads=2, objective="kl", latent="ae")'
    return {"adata": set_up("CellPLM")}, code


@case(CHAPTER, "A model imputes before it is trained")
def imputes_untrained():
    adata = set_up("CellPLM")
    return {"adata": adata, "model": small("CellPLM", adata)}, "model.get_imputed_expression(adata)"


_PLM = "scssl.model.CellPLM(adata, n_hidden=16, n_heads=2, n_layers=1, n_latent=4, {})"


@case(CHAPTER, "A model is to see places, and none are set up")
def no_coordinates():
    adata = cells()
    adata.obsm["spatial"] = np.random.default_rng(0).random((60, 2))
    names = {"adata": set_up("CellPLM", adata, labels_key="type")}
    return names, _PLM.format('position="sinusoidal"')


@case(CHAPTER, "A model is to learn labels, and none are set up")
def no_labels():
    return {"adata": set_up("CellPLM")}, _PLM.format('objective="cross_entropy"')


@case(CHAPTER, "Counts are scaled, and were not in what was published")
def scaled_as_not_published():
    names = {"adata": set_up("CellPLM", batch_key="batch", target_sum=1e4)}
    return names, _PLM.format('preset="cellplm"')


@case(CHAPTER, "Batches may be slices of tissue")
def batches_are_slices():
    adata = cells()
    adata.obsm["spatial"] = np.random.default_rng(0).random((60, 2))
    code = 'scssl.model.CellPLM.setup_anndata(adata, batch_key="batch", spatial_key="spatial")'
    return {"adata": adata}, code


@case(CHAPTER, "There are no coordinates of the name")
def other_coordinates():
    adata = cells()
    adata.obsm["X_spatial"] = np.random.default_rng(0).random((60, 2))
    return {"adata": adata}, 'scssl.model.CellPLM.setup_anndata(adata, spatial_key="spatial")'


@case(CHAPTER, "There is no column of samples")
def no_samples():
    code = 'scssl.model.CellPLM.setup_anndata(adata, sample_key="slice")'
    return {"adata": cells()}, code


@case(CHAPTER, "Clusters are asked for before training")
def no_clusters():
    made = small("PseudoLabel", set_up("PseudoLabel"), n_rounds=1)
    return {"model": made}, "len(model.clusters_)"


@case(CHAPTER, "Other cells have no column of data sets")
def no_column_of_data_sets():
    made = small("PseudoLabel", set_up("PseudoLabel", dataset_key="batch"), n_rounds=1)
    adata = cells(seed=1)
    del adata.obs["batch"]
    return {"adata": adata, "model": made}, "model.attach(adata); model.train(progress=False)"


@case(CHAPTER, "A package to cluster with is not installed")
def no_faiss():
    names = {"adata": set_up("PseudoLabel")}
    return names, _AGAIN.format("PseudoLabel", ', kmeans="faiss"')


@case(CHAPTER, "Data sets hold values of two kinds")
def values_of_two_kinds():
    one, two = cells(), cells(seed=1)
    for adata in (one, two):
        adata.layers["counts"] = adata.X.copy()
    two.X = np.log1p(two.X)
    names = {"datasets": scssl.data.Datasets({"one": one, "two": two})}
    return names, "scssl.model.PseudoLabel.setup_datasets(datasets)"


@case(CHAPTER, "Cells to leave out are given as a mask")
def mask_for_rows():
    names = {"rows": np.arange(60) % 2 == 0}
    return names, "scssl.data.SequentialPlan(rows, batch_size=8)"


@case(CHAPTER, "Labels of a loss are missing")
def labels_of_a_loss():
    labels = torch.tensor([0.0, 0, 1, 1, torch.nan, torch.nan])
    names = {"z": torch.randn(6, 4), "labels": labels}
    return names, "scssl.objective.supcon(z, labels)"


def _of_rna():
    made = small("SimCLR", set_up("SimCLR"))
    made.train(max_epochs=1, progress=False)
    return made


@case(CHAPTER, "A model of an AnnData is given a MuData")
def mudata_for_a_model():
    names = {"mdata": mdata(), "model": _of_rna()}
    return names, "model.get_latent_representation(adata=mdata)"


@case(CHAPTER, "Modalities are to be joined, and there is one")
def fusion_of_one():
    return {"adata": set_up("SimCLR")}, _AGAIN.format("SimCLR", ', fusion="clip"')


@case(CHAPTER, "Modalities share no cells")
def no_pairs():
    import mudata

    whole = mdata()
    parts = {"rna": whole["rna"][:30].copy(), "prot": whole["prot"][30:].copy()}
    data = set_up("SimCLR", mudata.MuData(parts))
    code = 'scssl.model.SimCLR(mdata, hidden_dims=(8,), n_latent=4, fusion="clip")'
    return {"mdata": data}, code


def _hurried_classifier(**arguments):
    adata = cells(seed=1)
    made = scssl.model.CellTypeClassifier.from_ssl_model(model(), adata, "type", **arguments)
    return {"adata": adata, "model": hurried(made)}


@case(CHAPTER, "A classifier is not trained")
def classifier_untrained():
    return _hurried_classifier(), "model.predict()"
