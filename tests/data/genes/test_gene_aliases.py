"""Genes are found by id, then by id without version, then by symbol, and never by guess."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scssl._errors import GeneMismatchError
from scssl.data import GeneVocabulary

IDS = [f"ENSG{i:011d}" for i in range(6)]
SYMBOLS = ["CD3D", "MS4A1", "LYZ", "DUP", "DUP", ""]


@pytest.fixture
def genes():
    return GeneVocabulary(IDS, aliases=SYMBOLS)


@pytest.mark.parametrize(
    ("query", "columns", "ambiguous"),
    [
        (IDS, [0, 1, 2, 3, 4, 5], []),
        (["LYZ", "CD3D"], [2, 0], []),
        ([f"{IDS[1]}.12", IDS[4]], [1, 4], []),
        (["LYZ", IDS[0], f"{IDS[1]}.3", "NEW"], [2, 0, 1, -1], []),
        # The id is there: the symbol of the same gene, or a version of it, is not used as well.
        ([IDS[0], "CD3D", f"{IDS[0]}.2"], [0, -1, -1], ["CD3D", f"{IDS[0]}.2"]),
        ([f"{IDS[0]}.2", "CD3D"], [0, -1], ["CD3D"]),
        # Two versions of one gene: neither is the right one.
        ([f"{IDS[0]}.1", f"{IDS[0]}.2", IDS[1]], [-1, -1, 1], [f"{IDS[0]}.1", f"{IDS[0]}.2"]),
        (["DUP", "LYZ"], [-1, 2], ["DUP"]),
        ([IDS[3], "DUP"], [3, -1], ["DUP"]),
        # Other species, other names: not guessed.
        (["Cd3d", "cd3d", "LYZ"], [-1, -1, 2], []),
        ([f"{IDS[0]}_PAR_Y", "LYZ.1", "LYZ"], [-1, -1, 2], []),
    ],
)
def test_order_of_the_names(query, columns, ambiguous, genes):
    found = genes.align(query, min_overlap=0)
    assert found.columns.tolist() == columns
    assert found.ambiguous.tolist() == ambiguous
    by_name = sum(name in IDS for name in query)
    assert found.n_by_alias == sum(column >= 0 for column in columns) - by_name
    assert found.extra.tolist() == [n for n, c in zip(query, columns, strict=True) if c < 0]


@given(data=st.data())
def test_against_a_look_up_by_hand(data):
    """The plainest statement of the rules, gene by gene."""
    n = data.draw(st.integers(2, 8))
    ids = [f"ENSG{i:011d}" for i in range(n)]
    symbols = data.draw(st.lists(st.sampled_from(["A", "B", "C", ""]), min_size=n, max_size=n))
    names = [*ids, *(f"{i}.{v}" for i in ids for v in (1, 2)), "A", "B", "C", "D"]
    query = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    found = GeneVocabulary(ids, aliases=symbols).align(query, min_overlap=0)

    taken = {ids.index(name) for name in query if name in ids}
    expected = {name: ids.index(name) for name in query if name in ids}
    bare = [name for name in query if "." in name]
    fits = {name: ids.index(name.split(".")[0]) for name in bare}
    for name, column in fits.items():
        rivals = [other for other, c in fits.items() if c == column]
        if column not in taken and len(rivals) == 1:
            expected[name] = column
    taken |= set(expected.values())
    for name in query:
        if name in ("A", "B", "C", "D") and symbols.count(name) == 1:
            column = symbols.index(name)
            if column not in taken:
                expected[name] = column
    assert found.columns.tolist() == [expected.get(name, -1) for name in query]
    used = found.columns[found.columns >= 0]
    assert len(set(used)) == len(used)
    assert set(found.ambiguous) <= set(found.extra)


def test_report(genes):
    found = genes.align(["LYZ", "CD3D", "DUP", "NEW"], min_overlap=0)
    assert found.report() == (
        "2 of 6 genes of the model found (33.3 %); 2 of these by symbol or without the version of the "
        f"id; 4 missing, taken as zero ('{IDS[1]}', '{IDS[3]}', '{IDS[4]}', '{IDS[5]}'); 2 extra, not used "
        "('DUP', 'NEW'); 1 of these fit no gene alone ('DUP')."
    )


def test_rows_follow_the_names(genes):
    from scipy import sparse

    rows = sparse.csr_matrix(np.array([[1.0, 2.0, 3.0, 4.0]], dtype=np.float32))
    found = genes.align(["LYZ", "DUP", f"{IDS[5]}.9", "CD3D"], min_overlap=0)
    assert found.apply(rows).toarray().tolist() == [[4, 0, 1, 0, 0, 3]]


def test_stored_with_the_names(genes):
    content = json.loads(json.dumps(genes.to_dict()))
    read = GeneVocabulary.from_dict(content)
    assert read.aliases.tolist() == SYMBOLS
    assert read == genes
    # The names alone say what the columns are.
    assert genes.hash == GeneVocabulary(IDS).hash
    assert GeneVocabulary(IDS).aliases is None
    assert "aliases" not in GeneVocabulary(IDS).to_dict()
    old = {key: value for key, value in content.items() if key != "aliases"}
    assert GeneVocabulary.from_dict(old).aliases is None
    with pytest.raises(TypeError, match="`aliases` of a gene vocabulary must be a list, found str"):
        GeneVocabulary.from_dict({**content, "aliases": "CD3D"})
    with pytest.raises(ValueError, match=r"one entry per name \(6\), found 5"):
        GeneVocabulary.from_dict({**content, "aliases": SYMBOLS[:5]})


def test_kinds_of_aliases():
    genes = GeneVocabulary(IDS[:3], aliases=np.array(["A", None, np.nan], dtype=object))
    assert genes.aliases.tolist() == ["A", "", ""]
    with pytest.raises(ValueError, match="read-only"):
        genes.aliases[0] = "B"
    with pytest.raises(TypeError, match="single string 'ABC'"):
        GeneVocabulary(IDS[:3], aliases="ABC")
    with pytest.raises(TypeError, match="`aliases` must be strings, found int 3"):
        GeneVocabulary(IDS[:3], aliases=["A", "B", 3])


def test_without_aliases_names_are_taken_as_they_are():
    found = GeneVocabulary(IDS).align([IDS[0], f"{IDS[1]}.2"], min_overlap=0)
    assert found.columns.tolist() == [0, -1]
    assert found.n_by_alias == 0
    assert not len(found.ambiguous)


def test_hints_compare_with_the_names_of_the_same_kind(genes):
    with pytest.raises(GeneMismatchError, match="differ in case, .*mouse Cd3d") as error:
        genes.align(["Cd3d", "Ms4a1", "Lyz"])
    assert "The model knows Ensembl ids" not in str(error.value)
    with pytest.raises(GeneMismatchError, match="ENSG in the model and ENSMUSG in the data"):
        genes.align([f"ENSMUSG{i:011d}" for i in range(6)])


def test_positions(genes):
    expected = {name: i for i, name in enumerate(IDS)} | {"CD3D": 0, "MS4A1": 1, "LYZ": 2}
    assert genes.positions == expected
    # A name goes before an alias.
    assert GeneVocabulary(["A", "B"], aliases=["B", "C"]).positions == {"A": 0, "B": 1, "C": 1}
    assert GeneVocabulary(["A"]).positions == {"A": 0}
