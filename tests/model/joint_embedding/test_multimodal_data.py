"""How a MuData is checked and read."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl._errors import ScsslWarning
from scssl.augment import CrossOver, Mask

from ...messages import told_in
from ..conftest import TRAIN, make_counts
from .test_multimodal import SMALL, make, make_mdata, trained

# --- data -----------------------------------------------------------------------------------------


def test_user_data_stay_as_they_are():
    mdata = make_mdata(atac=True)
    before = mdata.copy()
    model = trained(mdata=mdata, setup={"labels_key": "cell_type"})
    model.get_latent_representation()
    assert set(mdata.uns) == {"_scvi_uuid", "_scvi_manager_uuid", "scssl_split"}
    pd.testing.assert_frame_equal(mdata.obs, before.obs)
    for name, mod in mdata.mod.items():
        old = before.mod[name]
        assert mod.X.dtype == old.X.dtype
        difference = mod.X != old.X
        assert not (difference.nnz if sparse.issparse(mod.X) else difference.any())
        pd.testing.assert_frame_equal(mod.obs, old.obs)
        assert not mod.uns
    split = mdata.uns["scssl_split"]
    assert sorted([*split["train"], *split["validation"]]) == list(range(150))


@pytest.mark.parametrize(
    "store", [sparse.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int32)]
)
def test_training_on_other_storage_gives_the_same_bits(store):
    def run(change):
        mdata = make_mdata()
        mods = {name: mod.copy() for name, mod in mdata.mod.items()}
        mods["rna"].X = change(mods["rna"].X)
        return trained(mdata=mudata.MuData(mods)).get_latent_representation()

    np.testing.assert_array_equal(run(lambda x: x), run(store))


def test_data_on_disk(tmp_path):
    mdata = make_mdata()
    z = trained(mdata=mdata).get_latent_representation()
    mdata.uns.clear()
    mdata.write_h5mu(tmp_path / "cells.h5mu")
    backed = mudata.read_h5mu(tmp_path / "cells.h5mu", backed="r")
    np.testing.assert_array_equal(trained(mdata=backed).get_latent_representation(), z)
    backed.file.close()


def test_load_with_data(tmp_path):
    model = trained("MoCo")
    model.save(tmp_path / "model", save_anndata=True)
    mdata = mudata.read_h5mu(tmp_path / "model" / "mdata.h5mu")
    loaded = scssl.model.MoCo.load(tmp_path / "model", mdata)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )
    loaded.train(**TRAIN)
    assert loaded.history["train_loss"].index.tolist() == [0, 1, 2, 3]


def test_changed_data_are_refused():
    mdata = make_mdata()
    model = make(mdata=mdata)
    mdata.mod["prot"] = mdata.mod["prot"][5:].copy()
    with pytest.raises(ValueError, match=r"has changed since.*modalities of the cells"):
        model.train(**TRAIN)


def test_labels_and_batches_of_modalities():
    mdata = make_mdata()
    # Only RNA has cell types; both have batches, of which neither has all.
    model = trained(
        mdata=mdata,
        setup={"labels_key": "cell_type", "batch_key": "batch"},
        augmentation={"rna": CrossOver(0.3, within="batch", p=1), "protein": Mask(0.3)},
    )
    assert model.setup.categories == {
        "batch": ["a", "b"],
        "cell_type": ["type 0", "type 1", "type 2"],
    }
    with pytest.raises(KeyError, match="no column 'donor' in mdata.obs or its modalities"):
        make(mdata=mdata, setup={"batch_key": "donor"})


def test_incomplete_batch_is_refused():
    mdata = make_mdata()
    del mdata["prot"].obs["batch"]
    with pytest.raises(ValueError, match=r"do not have it for 20 cells, .* 'cell130'"):
        make(mdata=mdata, setup={"batch_key": "batch"})


@pytest.mark.parametrize("kind", ["category", "int", "both"])
def test_batch_of_one_modality_is_completed_by_the_line_of_the_message(kind):
    mdata = make_mdata()
    if kind == "both":
        protein = mdata["prot"].obs["batch"].astype(object)
        protein[~protein.index.isin(mdata["rna"].obs_names)] = "c"
        protein.iloc[-1] = None
        mdata["prot"].obs["batch"] = protein
    else:
        del mdata["prot"].obs["batch"]
    if kind == "int":
        mdata["rna"].obs["batch"] = pd.factorize(mdata["rna"].obs["batch"])[0]
    with pytest.raises(ValueError, match=r'There is no mdata.obs\["batch"\]') as refused:
        make(mdata=mdata, setup={"batch_key": "batch"})
    exec(str(refused.value).split("`")[-2], {"mdata": mdata})
    model = trained(
        mdata=mdata,
        setup={"batch_key": "batch"},
        augmentation={"rna": CrossOver(0.3, within="batch", p=1), "protein": Mask(0.3)},
    )
    found = mdata.obs["batch"].astype(str).to_numpy()
    expected = mdata["rna"].obs["batch"].astype(str).to_list()
    expected += ["c"] * 19 + ["unknown"] if kind == "both" else ["unknown"] * 20
    np.testing.assert_array_equal(found, expected)
    assert model.setup.categories["batch"] == sorted(set(expected))
    assert np.isfinite(model.get_latent_representation()).all()


def test_modalities_that_contradict_each_other_are_refused():
    mdata = make_mdata()
    mdata["prot"].obs["batch"] = mdata["prot"].obs["batch"].astype(str) + "x"
    with pytest.raises(ValueError, match=r'110 cells have another obs\["batch"\].*"prot".*\'rna\''):
        make(mdata=mdata, setup={"batch_key": "batch"})
    # What the MuData itself says of its cells goes first.
    mdata.obs["batch"] = "one"
    assert make(mdata=mdata, setup={"batch_key": "batch"}).setup.categories["batch"] == ["one"]


# --- bad input ------------------------------------------------------------------------------------


def with_value(name, value):
    mdata = make_mdata(mosaic=False)
    x = mdata[name].X
    x = x.toarray() if sparse.issparse(x) else np.array(x)
    x[3, 2] = value
    mdata[name].X = x
    return mdata


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("rna", np.nan, r'mdata.mod\["rna"\].X has 1 values that are NaN.*gene .GENE2'),
        ("rna", -1.0, r'mdata.mod\["rna"\].X has 1 negative'),
        ("prot", np.nan, r"(?s)cell 'cell3', feature 'CD8'.*mdata.update\(\)"),
        ("prot", -2.0, r'are: `protein_normalization="none"`'),
        ("prot", 0.5, r"has fractions \(0.5 in cell 'cell3'"),
    ],
)
def test_bad_values(name, value, match):
    with pytest.raises(ValueError, match=match):
        make(mdata=with_value(name, value))


@pytest.mark.parametrize(
    ("setup", "error", "match"),
    [
        ({"protein": "adt"}, KeyError, "no modality 'adt'.*there are: 'rna', 'prot'"),
        ({"protein": "rna"}, ValueError, "'rna' was named twice"),
        ({"protein": None}, ValueError, "Needs two modalities, found 'rna'"),
        ({"rna_layer": "raw"}, KeyError, r'no layer .*raw.* in mdata.mod\["rna"\].layers'),
        ({"atac_layer": "raw"}, ValueError, "atac is not used"),
        ({"protein_normalization": "dsb"}, ValueError, "'clr', 'log1p' or 'none', found 'dsb'"),
        ({"input": "lognorm"}, ValueError, 'holds counts .*input="lognorm"'),
        ({"target_sum": 0}, ValueError, "target_sum"),
    ],
)
def test_bad_setup(setup, error, match):
    with pytest.raises(error, match=match):
        make(setup=setup)


def test_bad_objects():
    with pytest.raises(TypeError, match=r"must be a MuData, found AnnData.*setup_anndata"):
        scssl.model.SimCLR.setup_mudata(make_counts())
    with pytest.raises(ValueError, match="is a view"):
        scssl.model.SimCLR.setup_mudata(make_mdata()[:50])
    mdata = make_mdata(mosaic=False)
    mdata.mod["hto"] = anndata.AnnData(np.ones((1, 2), np.float32), obs=pd.DataFrame(index=["new"]))
    mdata.update()
    with pytest.raises(ValueError, match=r"1 cells .* in no modality .*'new'.*mdata = mdata\["):
        scssl.model.SimCLR.setup_mudata(mdata)


@pytest.mark.parametrize(
    ("change", "match"), [("log", "has fractions"), ("minus", "has 1 negative")]
)
@pytest.mark.parametrize("kept", [True, False])
def test_message_on_new_proteins_is_for_a_model_that_exists(change, match, kept):
    mdata = make_mdata()
    model = trained(mdata=mdata)
    query = mdata.copy()
    protein = query["prot"]
    counts = np.array(protein.X)
    if kept:
        protein.layers["raw"] = counts.copy()
    if change == "log":
        protein.X = np.log1p(counts)
    else:
        counts[3, 2] = -1
        protein.X = counts
    with pytest.raises(ValueError, match=match) as refused:
        model.get_latent_representation(query)
    said = str(refused.value)
    # Arguments of setup_mudata are none of those that embed.
    assert "protein_layer" not in said
    assert "protein_normalization" not in said
    if not kept:
        assert said.endswith('were made of into mdata.mod["prot"].X.')
        return
    exec(told_in(said)[0], {"mdata": query})
    np.testing.assert_array_equal(
        model.get_latent_representation(query), model.get_latent_representation()
    )
    del query["prot"].X
    with pytest.raises(ValueError, match=r'mdata.mod\["prot"\].X is None. Fill it'):
        model.get_latent_representation(query)


def test_query_of_the_wrong_kind():
    mdata = make_mdata()
    model = trained(mdata=mdata)
    query = mdata.copy()
    query["prot"].X = np.log1p(query["prot"].X)
    with pytest.raises(ValueError, match="has fractions"):
        model.get_latent_representation(query)
    query = mdata.copy()
    query["rna"].layers["raw"] = query["rna"].X.copy()
    query["rna"].X = np.log1p(query["rna"].X)
    with pytest.raises(ValueError, match="the model was set up with raw counts") as refused:
        model.get_latent_representation(query)
    assert "layer=" not in str(refused.value)
    exec(told_in(str(refused.value))[0], {"mdata": query})
    np.testing.assert_array_equal(
        model.get_latent_representation(query), model.get_latent_representation()
    )
    alone = query["rna"].copy()
    alone.X = alone.X.toarray() + 0.5
    with pytest.raises(ValueError, match=r"^adata.X has fractions|^adata.X looks"):
        model.get_latent_representation(alone)
    with pytest.raises(KeyError, match="none of the model's modalities"):
        model.get_latent_representation(mudata.MuData({"hto": mdata["prot"].copy()}))
    with pytest.raises(ValueError, match="'rna', 'protein'.; found 'atac'"):
        model.get_latent_representation(modality="atac")
    single = scssl.model.SimCLR
    single.setup_anndata(mdata["rna"])
    with pytest.raises(ValueError, match="fusion='add' is for several modalities"):
        single(mdata["rna"], fusion="add")
    alone = single(mdata["rna"], **SMALL)
    with pytest.raises(ValueError, match="set up with an AnnData"):
        alone.get_latent_representation(modality="rna")
    with pytest.raises(TypeError, match=r"`adata=mdata\['rna'\]`"):
        alone.get_latent_representation(mdata)


@pytest.mark.parametrize("fusion", ["concat", "mean"])
def test_subset_to_cells_without_a_modality(fusion):
    """`mudata` keeps a modality of which no cell is left."""
    mdata = make_mdata()
    model = trained(mdata=mdata, fusion=fusion)
    z, proteins = model.get_latent_representation(), model.get_modality()
    for rows, kept in ((slice(0, 20), "rna"), (slice(130, 150), "prot")):
        part = mdata[mdata.obs_names[rows]].copy()
        assert sorted(mod.n_obs for mod in part.mod.values()) == [0, 20]
        np.testing.assert_allclose(model.get_latent_representation(part), z[rows], atol=1e-6)
        pd.testing.assert_frame_equal(model.get_modality(part), proteins.iloc[rows])
        with pytest.raises(ValueError, match="has no cells"):
            scssl.model.SimCLR.setup_mudata(part)
        only = mudata.MuData({"rna": part["rna"].copy(), "prot": part["prot"].copy()})
        other = "protein" if kept == "rna" else "rna"
        with pytest.raises(ValueError, match=f"None of the cells has the modality '{other}'"):
            model.get_latent_representation(only, modality=other)
    with pytest.raises(ValueError, match="`mdata` has no cells"):
        model.get_latent_representation(mdata[mdata.obs_names[:0]].copy())


def test_query_whose_proteins_are_all_zero():
    mdata = make_mdata(mosaic=False)
    model = trained(mdata=mdata)
    mdata = mdata.copy()
    mdata["prot"].X = np.zeros_like(mdata["prot"].X)
    with pytest.raises(
        ValueError, match=r'is all zero. There is one modality then: set up mdata.mod\["rna"\]'
    ):
        scssl.model.SimCLR.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"is all zero\. Leave the modality out: ") as refused:
        model.get_latent_representation(mdata)
    (line,) = told_in(str(refused.value))
    assert line == 'del mdata.mod["prot"]; mdata.update()'
    exec(line, {"mdata": mdata})
    alone = model.get_latent_representation(mdata["rna"].copy())
    np.testing.assert_allclose(model.get_latent_representation(mdata), alone, atol=1e-6)


def test_cells_without_proteins_that_were_not_left_out():
    mdata = make_mdata(mosaic=False)
    x = np.array(mdata["prot"].X)
    x[:5] = 0
    mdata["prot"].X = x
    with pytest.warns(ScsslWarning, match=r"5 of 150 cells .*first is 'cell0'.*mdata.update"):
        make(mdata=mdata)
