"""Union and intersection of the genes of several data sets."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.data import GeneVocabulary

NAMES = [f"{letter}{i}X" for letter in "ABC" for i in range(5)]
IDS = [f"ENSG{i:011d}" for i in range(5)]
lists = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), min_size=1, max_size=4)


@given(lists)
def test_union_against_a_walk_through_the_lists(datasets):
    seen = []
    for names in datasets:
        for name in names:
            if name not in seen:
                seen.append(name)
    assert GeneVocabulary.union(datasets).names.tolist() == seen


@given(lists)
def test_intersection_against_a_count(datasets):
    expected = [n for n in datasets[0] if sum(n in other for other in datasets) == len(datasets)]
    if expected:
        assert GeneVocabulary.intersection(datasets).names.tolist() == expected
    else:
        with pytest.raises(GeneMismatchError, match=f"No gene is in all {len(datasets)} lists"):
            GeneVocabulary.intersection(datasets)


def test_any_form_of_the_genes():
    adata = ad.AnnData(np.ones((2, 2), dtype=np.float32), var=pd.DataFrame(index=["LYZ", "CD3D"]))
    forms = [adata, GeneVocabulary(["MS4A1", "LYZ"]), pd.Index(["LYZ"]), np.array(["LYZ", "GNLY"])]
    expected = ["LYZ", "CD3D", "MS4A1", "GNLY"]
    assert GeneVocabulary.union(forms).names.tolist() == expected
    assert GeneVocabulary.union(iter(forms)).names.tolist() == expected
    assert GeneVocabulary.union(dict(zip("abcd", forms, strict=True))).names.tolist() == expected
    assert GeneVocabulary.intersection(forms).names.tolist() == ["LYZ"]
    assert GeneVocabulary.union([adata]) == GeneVocabulary(adata.var_names)


def test_union_aligns_every_data_set_and_says_what_was_measured():
    one, other = ["CD3D", "LYZ"], ["LYZ", "MS4A1"]
    genes = GeneVocabulary.union([one, other])
    assert genes.align(one).present.tolist() == [True, True, False]
    assert genes.align(other).present.tolist() == [False, True, True]


def test_species_is_that_of_all():
    human, unsaid = GeneVocabulary(["CD3D"], species="human"), GeneVocabulary(["LYZ"])
    assert GeneVocabulary.union([human, human]).species == "human"
    assert GeneVocabulary.union([human, unsaid]).species is None
    mouse = GeneVocabulary(["CD3D"], species="mouse")
    with pytest.raises(
        GeneMismatchError, match=r"found human in 'a', mouse in 'b'.*scssl.pp.map_orthologs"
    ):
        GeneVocabulary.intersection({"a": human, "u": unsaid, "b": mouse})


def test_aliases_are_kept_where_all_agree():
    one = GeneVocabulary(IDS[:3], aliases=["A", "B", ""])
    other = GeneVocabulary(IDS[1:4], aliases=["B2", "C", "D"])
    assert GeneVocabulary.union([one, other]).aliases.tolist() == ["A", "", "C", "D"]
    assert GeneVocabulary.intersection([one, other]).aliases.tolist() == ["", "C"]
    assert GeneVocabulary.union([one, IDS[3:4]]).aliases.tolist() == ["A", "B", "", ""]
    assert GeneVocabulary.union([IDS, IDS]).aliases is None


@pytest.mark.parametrize("how", ["union", "intersection"])
@pytest.mark.parametrize(
    ("datasets", "error", "message"),
    [
        ([["CD3D"], IDS], GeneMismatchError, r"names of one kind, found gene symbols in number 0, Ensembl ids in number 1\..*make that column the names of its genes"),
        ({"a": ["CD3D"], "b": ["gene_1"]}, GeneMismatchError, "gene symbols in 'a', placeholders in 'b'"),
        ([IDS, ["ENSMUSG00000000001"]], GeneMismatchError, "found ENSG in number 0, ENSMUSG in number 1.*map_orthologs"),
        ([["CD3D"], ["LYZ", "LYZ"]], GeneMismatchError, "In number 1 of `.*`: The gene names are not unique"),
        ([["CD3D"], [1]], TypeError, "In number 1 of .*must be strings, found int 1"),
        (["CD3D", "LYZ"], TypeError, "takes lists of genes, found the string 'CD3D' as number 0"),
        ("CD3D", TypeError, "takes several lists of genes, found one str"),
        (5, TypeError, "found one int"),
        (GeneVocabulary(["CD3D"]), TypeError, r"found one GeneVocabulary: GeneVocabulary\..*\(\[one, other\]\)"),
        (ad.AnnData(np.ones((1, 1), dtype=np.float32)), TypeError, "one AnnData"),
        ([], ValueError, "needs at least one list of genes, found none"),
    ],
)  # fmt: skip
def test_refuses(how, datasets, error, message):
    with pytest.raises(error, match=message):
        getattr(GeneVocabulary, how)(datasets)


@pytest.mark.parametrize("how", [GeneVocabulary.union, GeneVocabulary.intersection])
def test_versions_are_no_other_genes(how):
    versions = [[f"{IDS[0]}.1", IDS[1]], [f"{IDS[0]}.2", IDS[1]]]
    with pytest.raises(GeneMismatchError, match=r"1 Ensembl ids .* several versions \('ENSG0+\.1', 'ENSG0+\.2'\)") as caught:  # fmt: skip
        how(versions)
    adata = ad.AnnData(np.ones((1, 2), dtype=np.float32), var=pd.DataFrame(index=versions[1]))
    exec(str(caught.value).split("`")[1], {"adata": adata})
    assert adata.var_names.tolist() == IDS[:2]


def test_case_is_no_secret():
    human, mouse = ["CD3D", "LYZ", "H19"], ["Cd3d", "Lyz", "H19"]
    with pytest.warns(ScsslWarning, match="2 genes of 'm' differ only in case from genes of data"):
        found = GeneVocabulary.union({"h": human, "m": mouse})
    assert len(found) == 5
    with pytest.warns(ScsslWarning, match="2 genes of number 2 differ only in case"):
        assert GeneVocabulary.intersection([human, human, mouse]).names.tolist() == ["H19"]
    with pytest.raises(GeneMismatchError, match="share 0.*\n.*\n.*\n.*differ in case"):
        GeneVocabulary.intersection([human[:2], mouse[:2]])
    # Names that differ in case within one list are no other species.
    GeneVocabulary.union([["CD3D", "Cd3d", "LYZ"], ["CD3D", "Cd3d", "LYZ"]])
