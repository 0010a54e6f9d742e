"""Genes under the names of a reference: step by step, with a reason for each that is left."""

from __future__ import annotations

import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scssl
from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.data import GeneVocabulary

pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
ID = [f"ENSG{i:011d}" for i in range(4)]


def data(names):
    values = np.arange(3.0 * len(names), dtype=np.float32).reshape(3, -1)
    return ad.AnnData(values, var=pd.DataFrame(index=list(names)))


def match(names, reference, **kwargs):
    adata = data(names)
    assert scssl.pp.match_genes(adata, reference, **kwargs) is None
    genes = adata.uns["match_genes"]["genes"]
    assert genes["gene"].tolist() == list(names)
    return adata, genes


def test_one_step_after_the_other():
    reference = GeneVocabulary(
        ["CD3D", ID[0], "QARS1", "Lyz", "GNLY", ID[1]], aliases=["", "", "", "", "", "MS4A1"]
    )
    names = ["CD3D", f"{ID[0]}.7", "MS4A1", "QARS", "LYZ", "XIST"]
    adata, genes = match(names, reference, synonyms={"QARS": "QARS1"}, ignore_case=True)
    assert genes["matched"].tolist() == ["CD3D", ID[0], ID[1], "QARS1", "Lyz", ""]
    assert genes["how"].tolist() == ["exact", "version", "alias", "synonym", "case", ""]
    assert adata.var_names.tolist() == ["CD3D", ID[0], ID[1], "QARS1", "Lyz", "XIST"]
    assert adata.var["match_genes_original"].tolist() == names
    record = adata.uns["match_genes"]
    assert record["missing"].tolist() == ["GNLY"]
    assert record["counts"] == {
        "exact": 1, "version": 1, "alias": 1, "synonym": 1, "case": 1, "refused": 0, "not_found": 1,
    }  # fmt: skip
    np.testing.assert_array_equal(adata.X, data(names).X)
    # The model finds by name what the report says.
    assert reference.align(adata.var_names).n_matched == 5


def test_case_and_synonyms_only_when_asked_for():
    with pytest.warns(ScsslWarning, match="Only 1 of the 3 genes .*\n.*\n.*\n.*differ in case"):
        adata, genes = match(["Cd3d", "Lyz", "GNLY"], ["CD3D", "LYZ", "GNLY"])
    assert genes["how"].tolist() == ["", "", "exact"]
    assert adata.var_names.tolist() == ["Cd3d", "Lyz", "GNLY"]


def test_versions_on_either_side():
    _, genes = match([ID[0], f"{ID[1]}.2", f"{ID[2]}.3"], [f"{ID[0]}.9", ID[1], f"{ID[2]}.4"])
    assert genes["matched"].tolist() == [f"{ID[0]}.9", ID[1], f"{ID[2]}.4"]
    assert genes["how"].tolist() == ["version"] * 3


def test_what_fits_and_is_not_matched_has_a_reason():
    names = ["LYZ", "lyz", "gnly", "Gnly", f"{ID[0]}.1", "B", "DUP", "DUP", "dup", "AMBI"]
    synonyms = pd.DataFrame(
        {"symbol": ["B1", "B2", "C", "D"], "synonym": ["B", "B", "AMBI", "AMBI"]}
    )
    reference = ["LYZ", "GNLY", ID[0], f"{ID[0]}.2", "B1", "B2", "DUP"]
    with pytest.warns(ScsslWarning, match="Only 1 of the 10"):
        adata, genes = match(names, reference, synonyms=synonyms, ignore_case=True)
    assert genes["matched"].tolist() == ["LYZ"] + [""] * 9
    assert genes["note"].tolist() == [
        "",
        "fits LYZ, which is LYZ",
        "fits GNLY, as another gene of the data does",
        "fits GNLY, as another gene of the data does",
        "fits several genes of the reference",
        "synonym of several genes: B1, B2",
        "the data has this name more than once",
        "the data has this name more than once",
        "fits DUP, which is a name that the data has more than once",
        "synonym of several genes: C, D",
    ]
    assert adata.var_names.tolist() == names
    assert adata.uns["match_genes"]["counts"] == {
        "exact": 1, "version": 0, "synonym": 0, "case": 0, "refused": 7, "not_found": 2,
    }  # fmt: skip


@settings(deadline=None)
@given(
    names=st.lists(st.sampled_from(["A", "a", "B", "b", "C", "old", "OLD", "x"]), min_size=1, max_size=6),
    reference=st.lists(st.sampled_from(["A", "a", "B", "C", "c", "X", "old"]), min_size=1, unique=True),
    synonym=st.sampled_from(["A", "B", "C"]),
    ignore_case=st.booleans(),
)  # fmt: skip
def test_against_a_walk_through_the_rules(names, reference, synonym, ignore_case):
    """Gene by gene, with the sets that each rule speaks of."""
    steps = [lambda name: name, lambda name: synonym if name == "old" else name]
    if ignore_case:
        steps.append(str.lower)
    taken = {name for name in names if names.count(name) > 1 and name in reference}
    expected: dict[int, str] = {}
    closed = {i for i, name in enumerate(names) if names.count(name) > 1}
    for step in steps:
        fits = {
            i: [r for r in reference if step(r) == step(name)]
            for i, name in enumerate(names)
            if i not in expected and i not in closed
        }
        before = taken | set(expected.values())
        for i, found in fits.items():
            rivals = [j for j, other in fits.items() if other == found]
            if len(found) == 1 and found[0] not in before and len(rivals) == 1:
                expected[i] = found[0]
            elif found:
                closed.add(i)
    adata = data(names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScsslWarning)
        scssl.pp.match_genes(adata, reference, synonyms={"old": synonym}, ignore_case=ignore_case)
    genes = adata.uns["match_genes"]["genes"]
    assert genes["matched"].tolist() == [expected.get(i, "") for i in range(len(names))]
    assert adata.var_names.tolist() == [expected.get(i, name) for i, name in enumerate(names)]
    assert sum(adata.uns["match_genes"]["counts"].values()) == len(names)
    assert set(adata.uns["match_genes"]["missing"]) == set(reference) - set(expected.values())
    if len(set(names)) == len(names):
        assert adata.var_names.is_unique


SYNONYM_TABLES = {
    "HGNC": "hgnc_id\tsymbol\talias_symbol\tprev_symbol\nHGNC:1\tQARS1\t\"GLNRS|PRO2195\"\tQARS\nHGNC:2\tH1-0\tH10\t\"H1FV|H1F0\"\nHGNC:3\tNA\t\t\n",
    "HGNC custom": "HGNC ID\tApproved symbol\tPrevious symbols\tAlias symbols\n1\tQARS1\tQARS\tGLNRS, PRO2195\n2\tH1-0\tH1FV, H1F0\tH10\n",
    "MGI": "MGI Accession ID\tMarker Symbol\tMarker Synonyms (pipe-separated)\n1\tQARS1\tGLNRS|QARS\n2\tH1-0\tH1F0\n",
    "NCBI": "#tax_id\tGeneID\tSymbol\tLocusTag\tSynonyms\n9606\t1\tQARS1\t-\tGLNRS|QARS\n9606\t2\tH1-0\t-\tH1F0\n9606\t3\tX\t-\t-\n",
    "BioMart": "Gene name,Gene Synonym\nQARS1,GLNRS\nQARS1,QARS\nH1-0,H1F0\nH1-0,\n",
    "own": "symbol,synonym\nQARS1,QARS\nH1-0,H1F0\nQARS1,GLNRS\n",
}  # fmt: skip


@pytest.mark.parametrize("form", SYNONYM_TABLES)
def test_tables_of_synonyms(form, tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text(SYNONYM_TABLES[form])
    adata, genes = match(["QARS", "H1F0", "-", ""], ["H1-0", "QARS1"], synonyms=path)
    assert genes["matched"].tolist() == ["QARS1", "H1-0", "", ""]
    params = adata.uns["match_genes"]["params"]
    assert params["synonyms"] == "synonyms.txt"
    assert len(params["synonyms_sha256"]) == 64
    # A reference with old names is met by a data set with new ones, or with others.
    _, genes = match(["QARS1", "H1-0"], ["H1F0", "GLNRS"], synonyms=path)
    assert genes["matched"].tolist() == ["GLNRS", "H1F0"]
    _, genes = match(["QARS", "X1"], ["GLNRS", "X2"], synonyms=path)
    assert genes["matched"].tolist() == ["GLNRS", ""]


def test_a_symbol_is_no_synonym():
    # MLL2 has been a name of KMT2D and of KMT2B; "SEPT1" here is the symbol of a gene itself.
    synonyms = {"SEPT1": "SEPTIN1", "old": "SEPT1", "MLL2": "KMT2D"}
    _, genes = match(["SEPT1", "MLL2"], ["SEPTIN1", "KMT2D"], synonyms=synonyms)
    assert genes["matched"].tolist() == ["", "KMT2D"]


def test_kinds_of_reference(tmp_path):
    counts = np.random.default_rng(0).poisson(1.0, (30, 3)).astype(np.float32) + 1
    other = ad.AnnData(counts, var=pd.DataFrame(index=["CD3D", "LYZ", "MS4A1"]))
    scssl.model.MaskedAutoencoder.setup_anndata(other)
    model = scssl.model.MaskedAutoencoder(other, hidden_dims=[4], n_latent=2)
    for reference in (model, model.genes, other, list(other.var_names), other.var_names):
        adata, genes = match(["lyz", "CD3D"], reference, ignore_case=True)
        assert genes["matched"].tolist() == ["LYZ", "CD3D"]
        assert adata.uns["match_genes"]["params"]["reference_hash"] == model.genes.hash
    # The model does the rest by name: the result may be used at once.
    assert model.align(adata, min_overlap=0).n_matched == 2


def test_only_a_report():
    adata, genes = match(["lyz", "CD3D"], ["LYZ", "CD3D"], ignore_case=True, rename=False)
    assert genes["matched"].tolist() == ["LYZ", "CD3D"]
    assert adata.var_names.tolist() == ["lyz", "CD3D"]
    assert not len(adata.var.columns)


def test_copy_key_and_file(tmp_path, caplog):
    adata = data(["lyz", "CD3D"])
    with caplog.at_level(logging.INFO, logger="scssl"):
        result = scssl.pp.match_genes(
            adata, ["LYZ", "CD3D", "X"], ignore_case=True, copy=True, key_added="mine"
        )
    assert caplog.messages == ["2 of 3 genes of the reference are in the data (1 exact, 1 case)."]
    assert not len(adata.uns)
    assert adata.var_names.tolist() == ["lyz", "CD3D"]
    assert result.var_names.tolist() == ["LYZ", "CD3D"]
    result.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert read.uns["mine"]["genes"]["how"].tolist() == ["case", "exact"]
    assert read.uns["mine"]["missing"].tolist() == ["X"]
    assert read.var["mine_original"].tolist() == ["lyz", "CD3D"]
    with pytest.raises(ValueError, match="`adata` is a view"):
        scssl.pp.match_genes(adata[:2], ["LYZ"])


@pytest.mark.parametrize(
    ("reference", "arguments", "error", "message"),
    [
        (["LYZ", "LYZ"], {}, GeneMismatchError, "In `reference`: The gene names are not unique"),
        ("LYZ", {}, TypeError, "`reference` must be a model, .* found str"),
        (5, {}, TypeError, "found int"),
        ([1, 2], {}, TypeError, "In `reference`: The gene names must be strings, found int 1"),
        (["LYZ"], {"synonyms": "nowhere.tsv"}, FileNotFoundError, "no file nowhere.tsv.*hgnc_complete_set.txt.*MRK_List2.rpt"),
        (["LYZ"], {"synonyms": pd.DataFrame({"a": ["x"]})}, ValueError, r"`synonyms` \(DataFrame\) needs a column of symbols .* it has 'a'.*hgnc"),
        (["LYZ"], {"synonyms": 3}, TypeError, "`synonyms` must be a path or a DataFrame, found int"),
        (["LYZ"], {"key_added": ""}, TypeError, "`key_added` must be a string that is not empty"),
    ],
)  # fmt: skip
def test_refuses(reference, arguments, error, message):
    adata = data(["LYZ", "CD3D"])
    with pytest.raises(error, match=message):
        scssl.pp.match_genes(adata, reference, **arguments)
    assert not len(adata.uns)


def test_another_kind_of_names_is_said():
    with pytest.warns(
        ScsslWarning, match="`reference` knows gene symbols, `adata` has Ensembl ids"
    ):
        match(ID, ["CD3D", "LYZ", "MS4A1", "GNLY"])
