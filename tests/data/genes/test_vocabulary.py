from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.data import GeneVocabulary
from scssl.data.matrix import _rows as _rows

from ...messages import told_in

SYMBOLS = ["CD3D", "MS4A1", "LYZ", "GNLY", "NKG7", "PPBP"]
ENSEMBL = [f"ENSG{i:011d}" for i in range(6)]


def test_names_are_kept_in_order_and_cannot_be_changed():
    given_names = np.array(SYMBOLS, dtype=object)
    genes = GeneVocabulary(given_names, species="human")
    given_names[0] = "changed"
    assert genes.names.tolist() == SYMBOLS
    assert (len(genes), genes.species) == (6, "human")
    with pytest.raises(ValueError, match="read-only"):
        genes.names[0] = "changed"


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Index, pd.Series, pd.CategoricalIndex])
def test_kinds_of_names(kind):
    assert GeneVocabulary(kind(SYMBOLS)) == GeneVocabulary(SYMBOLS)


def test_equality_and_hash():
    genes = GeneVocabulary(SYMBOLS)
    assert genes == GeneVocabulary(SYMBOLS)
    assert hash(genes) == hash(GeneVocabulary(SYMBOLS))
    assert genes != GeneVocabulary(SYMBOLS[::-1])
    assert genes != GeneVocabulary(SYMBOLS, species="human")
    assert genes != SYMBOLS
    # Joined without a separator these would be the same.
    assert GeneVocabulary(["ab", "c"]).hash != GeneVocabulary(["a", "bc"]).hash
    # Stored in model folders: it must never change.
    assert genes.hash == "bd571b14c9032b4b677f40641a42d1e97548ecb452d9a644f3cf690d6bf1808b"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (SYMBOLS, "symbol"),
        (ENSEMBL, "ensembl"),
        ([f"{name}.7" for name in ENSEMBL], "ensembl"),
        (["ENSMUSG00000000001", "ENSDARG00000000002"], "ensembl"),
        (["FBgn0000008", "WBGene00000001"], "ensembl"),
        (["gene_00000", "gene_00001", "CD3D"], "unknown"),
        (["0", "1", "2"], "unknown"),
        (["Gene1", "Gene2"], "unknown"),
    ],
)
def test_id_type(names, expected):
    assert GeneVocabulary(names).id_type == expected


def test_repr():
    assert repr(GeneVocabulary(SYMBOLS)) == "GeneVocabulary(6 genes, symbol: CD3D, MS4A1, LYZ, …)"
    named = GeneVocabulary(ENSEMBL[:1], species="human")
    assert repr(named) == "GeneVocabulary(1 genes, ensembl, human: ENSG00000000000)"


@given(
    names=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=20, unique=True),
    species=st.none() | st.text(),
)
def test_dictionary_round_trip(names, species):
    genes = GeneVocabulary(names, species=species)
    read = GeneVocabulary.from_dict(json.loads(json.dumps(genes.to_dict())))
    assert read == genes
    assert read.names.tolist() == names


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"names": SYMBOLS[::-1]},
            ValueError,
            "6 gene names do not have the hash stored with them",
        ),
        ({"names": "CD3D"}, TypeError, "`names` of a gene vocabulary must be a list, found str"),
        ({"names": [1, 2]}, TypeError, "must be strings, found int 1"),
        ({"names": ["A", "A"]}, GeneMismatchError, "not unique"),
        ({"hash": 5}, TypeError, "`hash` and `species` of a gene vocabulary must be strings"),
        ({"species": 5}, TypeError, "`hash` and `species` of a gene vocabulary must be strings"),
    ],
)
def test_refuses_dictionaries(change, error, message):
    with pytest.raises(error, match=message):
        GeneVocabulary.from_dict({**GeneVocabulary(SYMBOLS).to_dict(), **change})


def test_refuses_what_is_no_dictionary():
    with pytest.raises(TypeError, match="must be a mapping, found list"):
        GeneVocabulary.from_dict([])
    with pytest.raises(ValueError, match="no entry 'names' and 'hash'"):
        GeneVocabulary.from_dict({})


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], GeneMismatchError, "empty: there are no genes"),
        (["A", ""], GeneMismatchError, r"missing or empty name at position 1 \(''\)"),
        (["A", "  "], GeneMismatchError, "position 1"),
        (["A", np.nan], GeneMismatchError, r"position 1 \(nan\).*Drop such genes"),
        ([None, "A"], GeneMismatchError, r"position 0 \(None\)"),
        ([1, 2], TypeError, r"found int 1 at position 0: `adata.var_names = .*astype\(str\)`"),
        ("CD3D", TypeError, "sequence of strings, found the single string 'CD3D'"),
        (["A", "B", "A", "C", "B"], GeneMismatchError, r"2 occur more than once \('A', 'B'\).*var_names_make_unique\(\).*'NAME-1'"),
    ],
)  # fmt: skip
def test_refuses_names(names, error, message):
    with pytest.raises(error, match=message):
        GeneVocabulary(names)
    with pytest.raises(error, match=message):
        GeneVocabulary(SYMBOLS).align(names)


@given(data=st.data())
def test_alignment_equals_lookup_by_name(data):
    """Against the plainest statement of what alignment is: a look-up of every gene by its name."""
    names = [f"G{i}" for i in range(12)]
    model = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    query = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    dense = np.random.default_rng(len(query)).poisson(0.6, (9, len(query))).astype(np.float32)
    alignment = GeneVocabulary(model).align(query, min_overlap=0)

    expected = np.zeros((9, len(model)), dtype=np.float32)
    for column, name in enumerate(model):
        if name in query:
            expected[:, column] = dense[:, query.index(name)]
    aligned = alignment.apply(sparse.csr_matrix(dense))
    np.testing.assert_array_equal(aligned.toarray(), expected)
    canonical = sparse.csr_matrix(expected)
    np.testing.assert_array_equal(aligned.indptr, canonical.indptr)
    np.testing.assert_array_equal(aligned.indices, canonical.indices)
    np.testing.assert_array_equal(aligned.data, canonical.data)

    assert alignment.matched.tolist() == [name for name in model if name in query]
    assert alignment.missing.tolist() == [name for name in model if name not in query]
    assert alignment.extra.tolist() == [name for name in query if name not in model]
    assert alignment.n_matched == len(alignment.matched)
    assert alignment.n_missing == len(alignment.missing)
    assert alignment.n_extra == len(alignment.extra)
    assert alignment.overlap == len(alignment.matched) / len(model)
    assert alignment.is_identity == (model == query)
    assert alignment.present.tolist() == [name in query for name in model]
    assert alignment.columns.dtype == np.int64
    assert alignment.columns.tolist() == [
        model.index(name) if name in model else -1 for name in query
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cache_values", [1, 7, 2**15])
def test_apply_in_pieces(dtype, cache_values, monkeypatch):
    monkeypatch.setattr(_rows, "_CACHE_VALUES", cache_values)
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, (30, 40)).astype(dtype)
    dense[[0, 4, 29]] = 0
    query = np.array([f"G{i}" for i in range(40)])
    model = rng.permutation(query)[:25]
    aligned = GeneVocabulary(model).align(query).apply(sparse.csr_matrix(dense))
    assert aligned.dtype == dtype
    order = {name: i for i, name in enumerate(query)}
    np.testing.assert_array_equal(aligned.toarray(), dense[:, [order[name] for name in model]])
    assert sparse.csr_matrix((aligned.data, aligned.indices, aligned.indptr)).has_sorted_indices


def test_apply_leaves_the_rows_alone():
    csr = sparse.csr_matrix(np.arange(6, dtype=np.float32).reshape(1, 6))
    before = csr.copy()
    alignment = GeneVocabulary(SYMBOLS[::-1]).align(SYMBOLS)
    alignment.apply(csr).data[:] = 0
    assert (csr != before).nnz == 0
    with pytest.raises(ValueError, match="rows have 5 genes, the alignment 6"):
        alignment.apply(csr[:, :5])


def test_report():
    alignment = GeneVocabulary(SYMBOLS).align(["LYZ", "CD3D", "MS4A1", "XIST"])
    report = (
        "3 of 6 genes of the model found (50.0 %); 3 missing, taken as zero ('GNLY', 'NKG7', 'PPBP'); "
        "1 extra, not used ('XIST')."
    )
    assert alignment.report() == report
    assert repr(alignment) == f"GeneAlignment({report})"
    whole = GeneVocabulary(SYMBOLS).align(SYMBOLS)
    assert whole.report() == "6 of 6 genes of the model found (100.0 %)."


@pytest.mark.parametrize("min_overlap", [-0.1, 1.1, float("nan"), True])
def test_refuses_min_overlap(min_overlap):
    with pytest.raises(ValueError, match=r"`min_overlap` must be a number in \[0, 1\], found"):
        GeneVocabulary(SYMBOLS).align(SYMBOLS, min_overlap=min_overlap)


def test_too_few_genes():
    genes = GeneVocabulary(SYMBOLS)
    with pytest.raises(GeneMismatchError) as caught:
        genes.align(["CD3D", "XIST", "TSIX"])
    message = str(caught.value)
    assert "Only 1 of the 6 genes of the model (16.7%) are in the data" in message
    assert "min_overlap=0.5 asks for 50%" in message
    assert "genes of the model not found: 'MS4A1', 'LYZ', 'GNLY', 'NKG7', 'PPBP'" in message
    assert "genes of the data not used:   'XIST', 'TSIX'" in message
    assert genes.align(["CD3D", "XIST"], min_overlap=0.1).n_matched == 1


@pytest.mark.parametrize(
    ("model", "query", "hints"),
    [
        (SYMBOLS, ENSEMBL, ["model knows gene symbols, the data has Ensembl ids", "make that column the names of the genes"]),
        (ENSEMBL, SYMBOLS, ["model knows Ensembl ids, the data has gene symbols", "match_genes(adata, model, synonyms=TABLE)"]),
        (ENSEMBL, ["gene_1", "gene_2"], ["the data has placeholders"]),
        (ENSEMBL, [f"{n}.5" for n in ENSEMBL], ["version suffixes", r'.str.replace(r"\.\d+(_PAR_Y)?$", "", regex=True)']),
        ([f"{n}.2" for n in ENSEMBL], [f"{n}.5" for n in ENSEMBL], ["model carry other version", "model.genes.names"]),
        ([f"{n}.2" for n in ENSEMBL], ENSEMBL, ["model carry other version"]),
        (SYMBOLS, [n.lower() for n in SYMBOLS], ["differ in case", "from_species='mouse', to_species='human'", "var_names.str.upper()"]),
        (["Cd3d", "Lyz"], ["CD3D", "LYZ"], ["differ in case", "from_species='human'", "var_names.str.capitalize()"]),
        (SYMBOLS, [f" {n}" for n in SYMBOLS], ["white space", "var_names.str.strip()"]),
        (ENSEMBL, ["ENSMUSG00000000001"], ["begin with ENSG in the model and ENSMUSG in the data", "orthologues"]),
        (SYMBOLS, ["XIST"], ["same species and annotation."]),
        (SYMBOLS, ["XIST", "CD3D"], ["If they are: `min_overlap=0.166`."]),
    ],
)  # fmt: skip
def test_hints(model, query, hints):
    with pytest.raises(GeneMismatchError) as caught:
        GeneVocabulary(model).align(query)
    for hint in hints:
        assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("model", "query"),
    [
        (ENSEMBL, [f"{n}.5" for n in ENSEMBL]),
        ([f"{n}.2" for n in ENSEMBL], [f"{n}.5" for n in ENSEMBL]),
        (SYMBOLS, [n.lower() for n in SYMBOLS]),
        (["Cd3d", "Lyz"], ["CD3D", "LYZ"]),
        (SYMBOLS, [f" {n}" for n in SYMBOLS]),
        (SYMBOLS, [f"GRCh38_{n}" for n in SYMBOLS]),
        (SYMBOLS, [f"{n}-1" for n in SYMBOLS]),
        (ENSEMBL, [f"{n}.3_NAME{i}" for i, n in enumerate(ENSEMBL)]),
        (SYMBOLS, [f"ENSG0000000000{i}_{n}" for i, n in enumerate(SYMBOLS)]),
        (ENSEMBL, [f"{n}.5_PAR_Y" for n in ENSEMBL]),
        (ENSEMBL, [*(f"{n}.5" for n in ENSEMBL), f"{ENSEMBL[0]}.5_PAR_Y"]),
    ],
)
@pytest.mark.parametrize("share", [0, 0.5])
def test_the_line_to_type_works(model, query, share):
    """What the message says to type is typed, and mends it, where some genes are found already too."""
    anndata = pytest.importorskip("anndata")
    genes = GeneVocabulary(model)
    n_found = int(share * len(model))
    query = [*model[:n_found], *query[n_found:]]
    adata = anndata.AnnData(np.zeros((2, len(query))), var=pd.DataFrame(index=query))
    if n_found and len(model) - n_found > 1:
        with pytest.warns(
            ScsslWarning, match="Genes that are not found are taken as zero"
        ) as caught:
            genes.align(adata.var_names, min_overlap=0, var=adata.var)
        message = str(caught[0].message)
    else:
        with pytest.raises(GeneMismatchError) as refused:
            genes.align(adata.var_names, min_overlap=0.6)
        message = str(refused.value)
    scope = {"adata": adata, "model": type("Model", (), {"genes": genes})}
    # The last: where names differ in case, the first is for another species.
    exec(told_in(message)[-1], scope)
    assert genes.align(adata.var_names, var=adata.var).overlap == 1


@pytest.mark.parametrize("share", [0, 0.5])
def test_the_column_with_the_names_is_told(share):
    anndata = pytest.importorskip("anndata")
    genes, n_found = GeneVocabulary(SYMBOLS), int(share * len(SYMBOLS))
    var = pd.DataFrame(
        {"n": range(len(SYMBOLS)), "gene_name": SYMBOLS}, index=ENSEMBL[: len(SYMBOLS)]
    )
    var.index = [*SYMBOLS[:n_found], *var.index[n_found:]]
    adata = anndata.AnnData(np.zeros((2, len(var))), var=var)
    caught = pytest.warns(ScsslWarning) if n_found else pytest.raises(GeneMismatchError)
    with caught as told:
        genes.align(adata.var_names, var=adata.var)
    message = str(told[0].message if n_found else told.value)
    assert 'the names that match are in adata.var["gene_name"]' in message
    exec(told_in(message)[0], {"adata": adata})
    assert genes.align(adata.var_names, var=adata.var).overlap == 1


@pytest.mark.parametrize("change", [str.lower, "GRCh38_{}".format, "{}-1".format, "{}.2".format])
@pytest.mark.parametrize("step", [40, 50, 60])
def test_a_fiftieth_of_many_names_is_enough(change, step):
    """They are tried on some of the names, and counted in all; fewer are not worth a warning."""
    names = [f"NAME{i}X" for i in range(20_000)]
    query = [change(name) if i % step == 1 else name for i, name in enumerate(names)]
    var = pd.DataFrame({"text": ["x"] * len(names)}, index=query)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = GeneVocabulary(names).align(query, var=var)
    if step == 60:
        assert not caught
    else:
        assert f"{found.n_matched:,} of the 20,000 genes" in str(caught[0].message)
        assert "20,000 would be" in str(caught[0].message)
