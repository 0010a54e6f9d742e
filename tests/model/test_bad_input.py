"""What a user can get wrong, and what the message says."""

from __future__ import annotations

import re

import anndata
import numpy as np
import pytest
from scipy import sparse

import scssl
from scssl._errors import GeneMismatchError, ScsslWarning

from ..messages import told_in
from .conftest import TRAIN, arguments_of, make_counts

MODEL = scssl.model.MaskedAutoencoder


def setup(adata, **kwargs):
    MODEL.setup_anndata(adata, **kwargs)
    return MODEL(adata, **arguments_of(MODEL))


def log1p(adata, target_sum=1e4):
    adata = adata.copy()
    x = adata.X
    x.data = (
        x.data * np.repeat(target_sum / np.asarray(x.sum(1)).ravel(), np.diff(x.indptr))
    ).astype("f4")
    np.log1p(x.data, out=x.data)
    return adata


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")]
)
def test_not_finite(adata, value, what):
    adata.X.data[7] = value
    gene = adata.var_names[adata.X.indices[7]]
    with pytest.raises(ValueError, match=rf"adata\.X has 1 values that are {what}.*{gene}"):
        setup(adata)


def test_negative(adata):
    adata.X.data[7] = -1
    with pytest.raises(ValueError, match=r"1 negative values; the first is -1 in cell 'cell0'"):
        setup(adata)


def test_fractions_as_counts(adata):
    adata.X.data[7] = 0.5
    with pytest.raises(ValueError, match=r'input="counts" was given'):
        setup(adata, input="counts")


def test_lognorm_as_counts_names_where_counts_are(adata):
    normalised = log1p(adata)
    normalised.layers["raw counts"] = adata.X.copy()
    with pytest.raises(ValueError, match=r'Counts were found in.*layer="raw counts"'):
        setup(normalised, input="counts")
    del normalised.layers["raw counts"]
    normalised.raw = adata
    with pytest.raises(ValueError, match=r"adata = adata\.raw\.to_adata\(\)"):
        setup(normalised, input="counts")


def test_counts_as_lognorm(adata):
    with pytest.raises(ValueError, match=r'Pass `input="counts"`'):
        setup(adata, input="lognorm")


def test_auto_says_what_and_why(adata, caplog):
    with caplog.at_level("INFO", logger="scssl"):
        assert setup(adata).setup.input_kind == "counts"
        assert setup(log1p(adata)).setup.input_kind == "lognorm"
    assert re.search("whole numbers.*counts, normalised when read", caplog.text)
    assert "log-normalised, used as it is" in caplog.text


@pytest.mark.parametrize("target_sum", [1e4, 200.0])
def test_counts_and_lognorm_give_the_same_embedding(adata, target_sum):
    a, b = setup(adata, target_sum=target_sum), setup(log1p(adata, target_sum))
    for model in (a, b):
        model.train(**TRAIN)
    np.testing.assert_allclose(
        a.get_latent_representation(), b.get_latent_representation(), rtol=1e-3, atol=1e-4
    )


def test_unknown_input(adata):
    with pytest.raises(ValueError, match="must be 'auto', 'counts' or 'lognorm', found 'raw'"):
        setup(adata, input="raw")


def test_empty_cells_are_kept_and_flagged(adata):
    adata = adata.copy()
    adata.X = sparse.vstack([adata.X, sparse.csr_matrix((0, 60))]).tocsr()
    lil = adata.X.tolil()
    lil[4] = 0
    lil[9] = 0
    adata.X = lil.tocsr()
    with pytest.warns(ScsslWarning, match=r"2 of 150 cells have no value.*cell4.*sum\(axis=1\)"):
        model = setup(adata)
    with pytest.warns(ScsslWarning, match="2 of 150 cells"):
        model.train(**TRAIN)
    with pytest.warns(ScsslWarning, match="2 of 150 cells"):
        z = model.get_latent_representation()
    assert len(z) == 150
    assert np.isfinite(z).all()
    np.testing.assert_array_equal(z[4], z[9])


def test_no_genes_and_no_cells(adata):
    with pytest.raises(ValueError, match=r"no genes \(shape 150 × 0\)"):
        MODEL.setup_anndata(adata[:, :0].copy())
    with pytest.raises(ValueError, match=r"no cells \(shape 0 × 60\)"):
        MODEL.setup_anndata(adata[:0].copy())


def test_all_zero(adata):
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    with pytest.raises(ValueError, match="all zero"):
        setup(adata)


def test_fewer_cells_than_a_batch():
    few = make_counts(n_cells=12)
    model = setup(few)
    model.train(max_epochs=2, batch_size=128, progress=False)
    assert model.get_latent_representation().shape == (12, 8 + 5)
    assert model.training_["batch_size"] == 11


def test_too_few_cells():
    model = setup(make_counts(n_cells=2))
    with pytest.raises(ValueError, match="at least 3 cells, `adata` has 2"):
        model.train(progress=False)


def test_missing_layer_and_columns(adata):
    adata.layers["spliced"] = adata.X
    with pytest.raises(KeyError, match="no layer 'counts'.*there are: 'spliced'"):
        setup(adata, layer="counts")
    for argument in ("batch_key", "labels_key"):
        with pytest.raises(KeyError, match="adata.obs has no 'donor'; it has 'cell_type'"):
            setup(adata, **{argument: "donor"})
    with pytest.raises(KeyError, match="adata.obs has no 'n'"):
        setup(adata, continuous_covariate_keys=["n"])


def test_no_matrix(adata):
    empty = anndata.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X})
    with pytest.raises(ValueError, match=r"adata\.X is None.*'counts'"):
        setup(empty)
    setup(empty, layer="counts").train(**TRAIN)


def test_views_must_be_copied(adata):
    with pytest.raises(ValueError, match=r"is a view.*adata = adata\.copy\(\)"):
        MODEL.setup_anndata(adata[:100])


def test_duplicated_cell_names(adata):
    adata.obs_names = ["a"] * 2 + list(adata.obs_names[2:])
    with pytest.warns(ScsslWarning, match=r"1 cell names occur more than once.*'a'"):
        model = setup(adata)
    model.train(**TRAIN)
    with pytest.raises(
        ValueError, match="names are not unique. Pass row numbers.*`adata.obs_names_make"
    ):
        model.get_latent_representation(indices=["a"])


def test_duplicated_gene_names(adata):
    adata.var_names = ["GENE0"] * 2 + list(adata.var_names[2:])
    with pytest.raises(
        GeneMismatchError, match=r"GENE0.*var_names_make_unique|var_names_make_unique"
    ):
        setup(adata)


def test_not_an_anndata():
    with pytest.raises(TypeError, match="must be an AnnData, found ndarray"):
        MODEL.setup_anndata(np.ones((3, 3)))


def test_missing_values_in_batch(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.loc["cell3", "batch"] = None
    with pytest.raises(ValueError, match=r"1 missing values, the first for cell 'cell3'"):
        setup(adata, batch_key="batch")


def test_missing_labels_are_allowed(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc["cell3", "cell_type"] = None
    setup(adata, labels_key="cell_type").train(**TRAIN)


def test_continuous_column_as_batch(adata):
    with pytest.raises(ValueError, match="holds fractions.*continuous_covariate_keys"):
        setup(adata, batch_key="age")


def test_words_as_continuous(adata):
    with pytest.raises(ValueError, match="not finite numbers.*categorical_covariate_keys"):
        setup(adata, continuous_covariate_keys=["batch"])


def test_unused_categories_do_not_count(adata):
    adata.obs["batch"] = adata.obs["batch"].astype("category").cat.add_categories(["c", "d"])
    assert setup(adata, batch_key="batch").setup.categories["batch"] == ["a", "b"]


def test_unknown_category_at_query(adata):
    adata.obs["lane"] = np.arange(adata.n_obs) % 2 + 1
    model = setup(
        adata,
        batch_key="batch",
        categorical_covariate_keys=["lane"],
        continuous_covariate_keys=["age"],
    )
    model.train(**TRAIN)
    query = adata.copy()
    np.testing.assert_array_equal(model.get_reconstruction(query), model.get_reconstruction())
    for column, value in (("batch", "c"), ("batch", ""), ("lane", 0)):
        other = query.copy()
        other.obs[column] = other.obs[column].astype(object)
        other.obs.loc["cell5", column] = value
        with pytest.raises(
            ValueError, match=rf'adata.obs\["{column}"\] has 1 categories.*{value!r}'
        ):
            model.get_reconstruction(other)
        # The encoder does not use it.
        model.get_latent_representation(other)
    del query.obs["batch"]
    model.get_latent_representation(query)
    with pytest.raises(KeyError, match="adata.obs has no 'batch'"):
        model.get_reconstruction(query)


def test_integer_category_that_was_never_there(adata):
    adata.obs["batch"] = np.arange(adata.n_obs) % 2 + 1
    model = setup(adata, batch_key="batch")
    model.train(**TRAIN)
    adata = adata.copy()
    adata.obs["batch"] = 0
    with pytest.raises(ValueError, match="'0'"):
        model.get_reconstruction(adata)


def test_query_of_the_other_kind(adata):
    model = setup(adata)
    model.train(**TRAIN)
    with pytest.raises(ValueError, match="looks log-normalised"):
        model.get_latent_representation(log1p(adata))
    broken = adata.copy()
    broken.X.data[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.get_latent_representation(broken)


@pytest.mark.parametrize("layer", [None, "mine"])
def test_query_of_the_other_kind_says_what_to_type(adata, layer):
    """The model is as it is: what helps is to change the query."""
    pytest.importorskip("scanpy")
    if layer is not None:
        adata.layers[layer] = adata.X
    model = setup(adata, layer=layer)
    model.train(**TRAIN)
    expected = model.get_latent_representation()
    query = log1p(adata)
    query.layers["raw counts"] = adata.X.copy()
    if layer is not None:
        query.layers[layer] = query.X
    with pytest.raises(ValueError, match="the model was set up with raw counts") as refused:
        model.get_latent_representation(query)
    assert "input=" not in str(refused.value)
    assert "layer=" not in str(refused.value)
    exec(told_in(str(refused.value))[0], {"adata": query})
    np.testing.assert_array_equal(model.get_latent_representation(query), expected)
    del query.layers["raw counts"]
    query = log1p(adata)
    if layer is not None:
        query.layers[layer] = query.X
    with pytest.raises(ValueError, match=r"Put the counts .* into adata\.(X|layers)"):
        model.get_latent_representation(query)

    logs = log1p(adata)
    if layer is not None:
        logs.layers[layer] = logs.X
    model = setup(logs, layer=layer)
    model.train(**TRAIN)
    expected = model.get_latent_representation()
    query = adata.copy()
    with pytest.raises(ValueError, match="was set up with log-normalised values") as refused:
        model.get_latent_representation(query)
    assert "input=" not in str(refused.value)
    import scanpy as sc

    exec(told_in(str(refused.value))[0], {"sc": sc, "np": np, "adata": query})
    np.testing.assert_allclose(model.get_latent_representation(query), expected, atol=1e-5)


def test_a_copy_that_is_set_up_leaves_the_original_alone(adata):
    MODEL.setup_anndata(adata)
    first = MODEL(adata, n_latent=4)
    copies = [adata.copy(), adata[:100].copy()]
    for copy in copies:
        MODEL.setup_anndata(copy)
    assert len({one.uns["_scvi_uuid"] for one in (adata, *copies)}) == 3
    for one in (adata, *copies):
        assert MODEL(one, n_latent=4).adata is one
    first.train(**TRAIN)
    MODEL.setup_anndata(adata)
    assert MODEL(adata, n_latent=4).adata is adata
    # The copy of one class, set up for another.
    other = adata.copy()
    scssl.model.SimCLR.setup_anndata(other)
    assert scssl.model.SimCLR(other, n_latent=4).adata is other
    assert MODEL(adata, n_latent=4).adata is adata
    with pytest.raises(ValueError, match="a copy of data that were set up"):
        MODEL(adata.copy())


def test_data_changed_since_setup(adata):
    model = setup(adata)
    adata.X = log1p(adata).X
    with pytest.raises(ValueError, match="looks log-normalised"):
        model.train(**TRAIN)
    adata = make_counts()
    model = setup(adata)
    adata.X.data *= 2
    with pytest.raises(ValueError, match=r"changed since setup_anndata \(largest value"):
        model.train(**TRAIN)
    adata = make_counts()
    model = setup(adata)
    adata._inplace_subset_obs(np.arange(100))
    with pytest.raises(ValueError, match=r"cells: 150 then, 100 now"):
        model.train(**TRAIN)
    adata = make_counts()
    model = setup(adata)
    adata.var_names = adata.var_names[::-1]
    with pytest.raises(ValueError, match="gene names"):
        model.train(**TRAIN)


def test_not_set_up(adata):
    with pytest.raises(ValueError, match="setup_anndata"):
        MODEL(adata)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hidden_dims": ()}, "`hidden_dims` must be the width of at least one layer"),
        ({"n_latent": 0}, "`n_latent` must be a whole number of at least 1"),
        ({"dropout": 1.0}, r"`dropout` must be a number in \[0, 1\)"),
        ({"activation": "tanhh"}, "`activation` must be "),
        ({"masking": "gp"}, "`masking` must be "),
        ({"mask_rate": 0}, "`mask_rate` must be a number"),
        ({"mask_signal": "token"}, "`mask_signal` must be"),
        ({"loss": "mae"}, "`loss` must be 'mse', 'nb', 'zinb' or 'bce', found 'mae'"),
    ],
)
def test_bad_arguments(adata, kwargs, message):
    MODEL.setup_anndata(adata)
    with pytest.raises(ValueError, match=message):
        MODEL(adata, **kwargs)


def test_query_made_otherwise_than_what_a_model_was_trained_with(build, adata):
    """Every model keeps what was recognised, also in its folder, and compares all that it reads."""
    logs = log1p(adata)
    model = build(logs, setup={"labels_key": "cell_type"})
    assert model.setup.scale["form"] == "ln"
    assert model.setup.scale["target_sum"] == 1e4
    assert type(model.setup).from_dict(model.setup.to_dict()) == model.setup
    model._read(logs)
    for change in (lambda x: x / np.log(2), lambda x: np.log1p(np.expm1(x) * 100), np.log1p):
        query = logs.copy()
        query.X.data = change(query.X.data).astype(np.float32)
        with pytest.raises(ValueError, match=r"adata\.X = |sc\.pp\.") as refused:
            model._read(query)
        exec(told_in(str(refused.value))[0], {"np": np, "adata": query})
        np.testing.assert_allclose(query.X.toarray(), logs.X.toarray(), atol=1e-4)
        model._read(query)
    ones = logs.copy()
    ones.X.data[:] = 1
    with pytest.raises(ValueError, match="holds only 0 and 1"):
        model._read(ones)


@pytest.mark.parametrize("name", scssl.model.list_models())
def test_arguments_that_a_model_does_not_have(name):
    """Nothing has to be set up: names are looked at first."""
    cls = scssl.model.get_model_class(name)
    with pytest.raises(TypeError, match=f"{name} has no argument 'rgn'. Did you mean `rng=3`"):
        cls(None, rgn=3)
    bare = object.__new__(cls)
    with pytest.raises(
        TypeError, match=rf"{name}.train\(\) has no argument 'epochs'.*`max_epochs=3`"
    ):
        bare.train(epochs=3)
    with pytest.raises(
        TypeError, match=r"setup_anndata\(\) has no argument 'label_key'.*`labels_key="
    ):
        cls.setup_anndata(None, label_key="type")
    with pytest.raises(TypeError, match=r"no argument 'min_overlp'.*`min_overlap=0.1`"):
        cls.from_ssl_model(None, None, min_overlp=0.1)
    if not cls._learns_embeddings:
        with pytest.raises(TypeError, match="no argument 'hidden_dim'.*hidden_dims="):
            cls(None, hidden_dim=(8,))


@pytest.mark.parametrize("name", scssl.model.list_models())
def test_what_scvi_tools_has_and_does_not_work_is_not_offered(name):
    cls = scssl.model.get_model_class(name)
    gone = {"get_normalized_expression", "differential_abundance", "setup_annbatch"}
    assert not gone & {*dir(cls), *dir(object.__new__(cls))}
    assert "train" in dir(cls)
    for one in gone:
        assert not hasattr(cls, one)
        with pytest.raises(AttributeError, match=f"{name} has no {one}. [A-Z]"):
            getattr(object.__new__(cls), one)


@pytest.mark.parametrize(
    "given",
    [
        {"devices": []},
        {"devices": "2x"},
        {"devices": [0, 1], "accelerator": "cpu"},
        {"accelerator": 3},
        {"callbacks": [1]},
        {"early_stopping": "yes"},
        {"compile": "yes"},
        {"progress": 2},
        {"batch_size": "big"},
        {"train_size": "0.5"},
        {"checkpoint_dir": 3},
    ],
    ids=str,
)
def test_arguments_of_training_are_checked_before_anything_is_read(given):
    (argument, value), *_ = given.items()
    bare = object.__new__(MODEL)
    with pytest.raises((ValueError, TypeError), match=f"`{argument}`.*found "):
        bare.train(**given)


def test_a_view_of_a_file_is_not_trained_on_for_nothing(adata, tmp_path):
    model = setup(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model.attach(anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")[:100])
    with pytest.raises(ValueError, match="view of a file"):
        model.train(**TRAIN)
