"""Orthologs: what is mapped is one to one by the table, and everything else is said."""

from __future__ import annotations

import gzip
import logging
import warnings
from collections import Counter

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scssl
from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.data.genes import species_key

# Pairs by hand: three differ in more than case.
PAIRS = {
    "Qars": "QARS1",
    "Zfp518b": "ZNF518B",
    "H1f0": "H1-0",
    "Cd3d": "CD3D",
    "Ms4a1": "MS4A1",
}
MOUSE, HUMAN = list(PAIRS), list(PAIRS.values())
MOUSE_ID = [f"ENSMUSG{i:011d}" for i in range(5)]
HUMAN_ID = [f"ENSG{i:011d}" for i in range(5)]
TO_HUMAN = {"from_species": "mouse", "to_species": "human"}


def data(names, **kwargs):
    values = np.random.default_rng(0).poisson(1.0, (6, len(names))).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(values), var=pd.DataFrame(index=list(names)), **kwargs)


def columns_table():
    return pd.DataFrame({"mouse": MOUSE, "human": HUMAN})


def wide_table():
    """As in the data folder: three species, a nameless column on either side."""
    return pd.DataFrame(
        {
            "Unnamed: 0": range(5),
            # The lemur's names are nearly the human ones: what a wrong column would give.
            "mouse_lemur__gene_name": ["QARS1", "ZNF518B", "LOC105858624", "CD3D", "MS4A1"],
            "human__gene_name": HUMAN,
            "mouse__gene_name": MOUSE,
            "Unnamed: 4": [np.nan] * 5,
        }
    )


def mgi_table():
    rows = []
    for i, (mouse, human) in enumerate(PAIRS.items()):
        rows += [(i, "mouse, laboratory", 10090, mouse), (i, "human", 9606, human)]
    columns = ["DB Class Key", "Common Organism Name", "NCBI Taxon ID", "Symbol"]
    return pd.DataFrame(rows, columns=columns)


def biomart_table(*, attributes=False, of="mouse"):
    one, other = (MOUSE_ID, MOUSE), (HUMAN_ID, HUMAN)
    species, latin = ("Human", "hsapiens") if of == "mouse" else ("Mouse", "mmusculus")
    if of == "human":
        one, other = other, one
    columns = [
        "Gene stable ID", "Gene stable ID version", "Transcript stable ID", "Gene name",
        f"{species} gene stable ID", f"{species} gene name", f"{species} homology type",
        "Source of gene name",
    ]  # fmt: skip
    rows = [
        (i, f"{i}.3", f"transcript {k}", name, other_id, other_name, "ortholog_one2one", "MGI")
        for i, name, other_id, other_name in zip(*one, *other, strict=True)
        for k in range(2)
    ]
    if attributes:
        columns = [
            "ensembl_gene_id", "ensembl_gene_id_version", "ensembl_transcript_id",
            "external_gene_name", f"{latin}_homolog_ensembl_gene",
            f"{latin}_homolog_associated_gene_name", f"{latin}_homolog_orthology_type", "source",
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


FORMS = {
    "columns": columns_table,
    "wide": wide_table,
    "MGI": mgi_table,
    "BioMart": biomart_table,
    "BioMart of human": lambda: biomart_table(of="human"),
    "BioMart attributes": lambda: biomart_table(attributes=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", ["frame", "tsv", "csv", "gz"])
def test_all_forms_map_the_five_pairs(form, stored, tmp_path):
    table = FORMS[form]()
    if stored != "frame":
        path = tmp_path / f"table.{stored}"
        separator = "," if stored == "csv" else "\t"
        text = table.to_csv(sep=separator, index=False)
        path.write_bytes(gzip.compress(text.encode()) if stored == "gz" else text.encode())
        table = path
    adata = data([*MOUSE, "Gm123"])
    before = adata.X.toarray()
    assert scssl.pp.map_orthologs(adata, table, **TO_HUMAN) is None
    assert adata.var_names.tolist() == HUMAN
    assert adata.var["mouse_gene"].tolist() == MOUSE
    np.testing.assert_array_equal(adata.X.toarray(), before[:, :5])
    record = adata.uns["orthologs"]
    assert record["counts"]["mapped"] == 5
    assert record["counts"]["missing"] == 1
    assert record["genes"]["gene"].tolist() == [*MOUSE, "Gm123"]
    assert record["genes"]["ortholog"].tolist() == [*HUMAN, ""]
    assert record["params"]["table"] == ("DataFrame" if stored == "frame" else path.name)
    assert len(record["params"]["table_sha256"]) == (0 if stored == "frame" else 64)
    assert record["params"]["on"] == "symbol"

    back = data(HUMAN)
    scssl.pp.map_orthologs(back, table, from_species="human", to_species="mouse")
    assert back.var_names.tolist() == MOUSE


@pytest.mark.parametrize("form", ["BioMart", "BioMart of human", "BioMart attributes"])
def test_ensembl_ids_without_versions(form):
    adata = data([f"{MOUSE_ID[3]}.12", MOUSE_ID[0], "ENSMUSG00000099999"])
    scssl.pp.map_orthologs(adata, FORMS[form](), **TO_HUMAN)
    assert adata.var_names.tolist() == [HUMAN_ID[3], HUMAN_ID[0]]
    assert adata.var["mouse_gene"].tolist() == [f"{MOUSE_ID[3]}.12", MOUSE_ID[0]]
    assert adata.uns["orthologs"]["params"]["on"] == "ensembl"

    versions = data([f"{MOUSE_ID[3]}.1", f"{MOUSE_ID[3]}.2", MOUSE_ID[0]])
    scssl.pp.map_orthologs(versions, FORMS[form](), **TO_HUMAN)
    assert versions.var_names.tolist() == [HUMAN_ID[0]]
    assert versions.uns["orthologs"]["counts"]["ambiguous"] == 2


def test_a_species_is_told_by_its_whole_name():
    """The published code took the lemur's column for the mouse's, and nothing was mapped."""
    adata = data(MOUSE)
    table = wide_table().drop(columns="mouse__gene_name")
    with pytest.raises(GeneMismatchError, match="no genes of 'mouse'; its species are 'mouse_lemur', 'human'"):  # fmt: skip
        scssl.pp.map_orthologs(adata, table, **TO_HUMAN)
    lemur = data(["LOC105858624", "CD3D"])
    scssl.pp.map_orthologs(lemur, wide_table(), from_species="mouse lemur", to_species="human")
    assert lemur.var_names.tolist() == ["H1-0", "CD3D"]
    assert species_key("Mus musculus") == species_key("mouse, laboratory") == species_key("Mouse")
    assert species_key("mouse_lemur") == species_key("Mouse Lemur") != species_key("mouse")


def test_names_are_never_changed_to_upper_case():
    adata = data(["QARS", "CD3D", "Cd3d", "cd3d", "Qars"])
    scssl.pp.map_orthologs(adata, wide_table(), **TO_HUMAN)
    assert adata.var["mouse_gene"].tolist() == ["Cd3d", "Qars"]
    assert adata.uns["orthologs"]["genes"]["status"].tolist() == [
        "missing", "missing", "mapped", "missing", "mapped",
    ]  # fmt: skip


@settings(deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from([*"UVWXYZ", ""])), min_size=1
    ),
    names=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9),
)
def test_against_the_definition(pairs, names):
    """Status by status, from the sets of partners of each gene."""
    partners = {gene: {b for a, b in pairs if a == gene and b} for gene in "abcdefgh"}
    sources = {other: {a for a, b in pairs if b == other} for other in "UVWXYZ"}
    expected = []
    for name in names:
        if names.count(name) > 1:
            status = "ambiguous"
        elif name not in {a for a, _ in pairs}:
            status = "missing"
        elif not partners[name]:
            status = "no_ortholog"
        else:
            shared = any(len(sources[other]) > 1 for other in partners[name])
            status = {
                (False, False): "mapped",
                (True, False): "one_to_many",
                (False, True): "many_to_one",
                (True, True): "many_to_many",
            }[len(partners[name]) > 1, shared]
        expected.append(status)
    table = pd.DataFrame(pairs, columns=["mouse", "human"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
        adata = data([*names, "i"])
    full = pd.concat([table, pd.DataFrame({"mouse": ["i"], "human": ["I"]})])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScsslWarning)  # that few are mapped
        scssl.pp.map_orthologs(adata, full, **TO_HUMAN)
    record = adata.uns["orthologs"]
    assert record["genes"]["status"].tolist() == [*expected, "mapped"]
    assert record["counts"] == {
        status: [*expected, "mapped"].count(status) for status in record["counts"]
    }
    assert sum(record["counts"].values()) == len(names) + 1
    kept = [name for name, status in zip(names, expected, strict=True) if status == "mapped"]
    assert adata.var["mouse_gene"].tolist() == [*kept, "i"]
    assert adata.var_names.tolist() == [*(next(iter(partners[name])) for name in kept), "I"]


def test_what_the_table_says_of_a_pair():
    """A pair that is left of several is still not one to one, if there is a type."""
    table = biomart_table()
    kind = "Human homology type"
    table.loc[table["Gene name"] == "Cd3d", kind] = "ortholog_one2many"
    table.loc[table["Gene name"] == "Qars", kind] = "ortholog_many2many"
    adata = data(MOUSE)
    scssl.pp.map_orthologs(adata, table, **TO_HUMAN)
    genes = adata.uns["orthologs"]["genes"].set_index("gene")
    assert genes.loc["Cd3d", ["status", "note"]].tolist() == [
        "one_to_many",
        "ortholog_one2many by the table",
    ]
    assert genes.loc["Qars", "status"] == "many_to_many"
    assert adata.n_vars == 3


def test_genes_are_ids_where_there_are_ids():
    """Symbols are names of genes, and not always of one."""
    new = [
        # An alternative assembly of Cd3d, without ortholog: no matter.
        ("ENSMUSG00000000010", "", "", "Cd3d", "", "", "", ""),
        # Two genes that are called Dup.
        ("ENSMUSG00000000011", "", "", "Dup", "ENSG00000000011", "DUP1", "ortholog_one2one", ""),
        ("ENSMUSG00000000012", "", "", "Dup", "ENSG00000000012", "DUP2", "ortholog_one2one", ""),
        # Two human genes with the same name.
        ("ENSMUSG00000000013", "", "", "One", "ENSG00000000013", "SAME", "ortholog_one2one", ""),
        ("ENSMUSG00000000014", "", "", "Two", "ENSG00000000014", "SAME", "ortholog_one2one", ""),
        ("ENSMUSG00000000015", "", "", "Nameless", "ENSG00000000015", "", "ortholog_one2one", ""),
        # Two human genes for one, and two mouse genes for one.
        ("ENSMUSG00000000016", "", "", "Split", "ENSG00000000016", "SPLITA", "ortholog_one2many", ""),
        ("ENSMUSG00000000016", "", "", "Split", "ENSG00000000017", "SPLITB", "ortholog_one2many", ""),
        ("ENSMUSG00000000018", "", "", "Joina", "ENSG00000000018", "JOIN", "ortholog_one2many", ""),
        ("ENSMUSG00000000019", "", "", "Joinb", "ENSG00000000018", "JOIN", "ortholog_one2many", ""),
    ]  # fmt: skip
    table = biomart_table()
    table = pd.concat([table, pd.DataFrame(new, columns=table.columns)])
    names = ["Cd3d", "Dup", "One", "Two", "Nameless", "Split", "Joina", "Joinb", "Qars"]
    adata = data(names)
    scssl.pp.map_orthologs(adata, table, **TO_HUMAN, copy=False)
    genes = adata.uns["orthologs"]["genes"]
    assert genes["status"].tolist() == [
        "mapped", "ambiguous", "ambiguous", "ambiguous", "unnamed", "one_to_many", "many_to_one",
        "many_to_one", "mapped",
    ]  # fmt: skip
    notes = dict(zip(genes["gene"], genes["note"], strict=True))
    assert notes["Dup"] == (
        "several genes in the table: 'ENSMUSG00000000011', 'ENSMUSG00000000012'"
    )
    assert notes["Split"] == "human: 'SPLITA', 'SPLITB'"
    assert notes["Joina"] == "human: 'JOIN'; mouse: 'Joina', 'Joinb'"
    assert notes["Nameless"] == "ENSG00000000015 in the table"
    ids = data([f"ENSMUSG000000000{i}" for i in range(10, 20)])
    scssl.pp.map_orthologs(ids, table, **TO_HUMAN)
    assert ids.var_names.tolist() == [f"ENSG000000000{i}" for i in range(11, 16)]


def test_classes_of_mgi():
    table = mgi_table()
    more = [(9, "mouse, laboratory", "Split"), (9, "human", "SPLITA"), (9, "human", "SPLITB"),
            (8, "mouse, laboratory", "Alone"), (7, "human", "ALONE"), (6, "rat", "Qars")]  # fmt: skip
    table = pd.concat([table, pd.DataFrame(more, columns=table.columns[[0, 1, 3]])])
    adata = data([*MOUSE, "Split", "Alone"])
    scssl.pp.map_orthologs(adata, table, **TO_HUMAN)
    assert adata.uns["orthologs"]["genes"]["status"].tolist()[5:] == ["one_to_many", "no_ortholog"]
    assert adata.uns["orthologs"]["params"]["table_format"] == "MGI"
    assert adata.var_names.tolist() == HUMAN


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_all_that_belongs_to_genes_follows(form):
    adata = data(["Gm1", *MOUSE, "Gm2"])
    adata.X = form(adata.X.toarray())
    adata.layers["counts"] = form(np.arange(42, dtype=np.float32).reshape(6, 7))
    adata.obsm["X_pca"] = np.arange(12.0).reshape(6, 2)
    adata.varm["loadings"] = np.arange(14.0).reshape(7, 2)
    adata.varp["graph"] = sparse.csr_matrix(np.arange(49.0).reshape(7, 7))
    adata.obs["batch"] = pd.Categorical(["a", "b"] * 3)
    adata.var["mean"] = np.arange(7.0)
    adata.var_names.name = "mouse_gene"
    adata.raw = adata.copy()
    before = adata.copy()
    scssl.pp.map_orthologs(adata, columns_table(), **TO_HUMAN)
    kind = type(before.X)
    assert isinstance(adata.X, kind)
    assert isinstance(adata.layers["counts"], kind)
    dense = lambda X: X.toarray() if sparse.issparse(X) else X
    np.testing.assert_array_equal(dense(adata.X), dense(before.X)[:, 1:6])
    np.testing.assert_array_equal(
        dense(adata.layers["counts"]), dense(before.layers["counts"])[:, 1:6]
    )
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    np.testing.assert_array_equal(adata.varm["loadings"], before.varm["loadings"][1:6])
    np.testing.assert_array_equal(
        adata.varp["graph"].toarray(), before.varp["graph"].toarray()[1:6, 1:6]
    )
    assert adata.var["mean"].tolist() == [1, 2, 3, 4, 5]
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert adata.raw.var_names.tolist() == ["Gm1", *MOUSE, "Gm2"]
    assert adata.raw.shape == (6, 7)
    # An index may not have the name of another column.
    assert adata.var_names.name is None


def test_sparse_columns_are_not_made_dense(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("made dense")

    adata = data([*MOUSE, "Gm1"])
    for kind in (sparse.csr_matrix, sparse.csc_matrix):
        for method in ("toarray", "todense"):
            monkeypatch.setattr(kind, method, refuse)
    scssl.pp.map_orthologs(adata, columns_table(), **TO_HUMAN)
    assert adata.shape == (6, 5)


def test_genes_can_be_kept():
    names = ["Gm1", *MOUSE, "Gm2"]
    adata = data(names)
    before = adata.X.copy()
    scssl.pp.map_orthologs(adata, columns_table(), **TO_HUMAN, unmapped="keep")
    assert adata.var_names.tolist() == ["Gm1", *HUMAN, "Gm2"]
    assert adata.var["mouse_gene"].tolist() == names
    assert (adata.X != before).nnz == 0


def test_a_kept_name_is_given_to_no_other_gene():
    # B is kept and not in the table; a would become B, then z would become a.
    table = pd.DataFrame({"mouse": ["a", "z", "c"], "human": ["B", "a", "C"]})
    adata = data(["a", "B", "z", "c"])
    scssl.pp.map_orthologs(adata, table, **TO_HUMAN, unmapped="keep")
    assert adata.var_names.tolist() == ["a", "B", "z", "C"]
    genes = adata.uns["orthologs"]["genes"]
    assert genes["status"].tolist() == ["ambiguous", "missing", "ambiguous", "mapped"]
    assert genes["note"].tolist()[:3] == [
        "B is the name of a gene that is kept", "", "a is the name of a gene that is kept",
    ]  # fmt: skip
    dropped = data(["a", "B", "z", "c"])
    scssl.pp.map_orthologs(dropped, table, **TO_HUMAN)
    assert dropped.var_names.tolist() == ["B", "a", "C"]


def test_names_in_a_column():
    adata = data(MOUSE_ID + ["ENSMUSG1"])
    adata.var["symbol"] = pd.Categorical([*MOUSE, None])
    scssl.pp.map_orthologs(adata, mgi_table(), **TO_HUMAN, gene_names="symbol")
    assert adata.var_names.tolist() == HUMAN
    assert adata.var["mouse_gene"].tolist() == MOUSE_ID
    with pytest.raises(KeyError, match="adata.var has no 'name'; it has 'symbol', 'mouse_gene'"):
        scssl.pp.map_orthologs(adata, mgi_table(), **TO_HUMAN, gene_names="name")


def test_copy_and_backed(tmp_path):
    adata = data([*MOUSE, "Gm1"])
    result = scssl.pp.map_orthologs(adata, columns_table(), **TO_HUMAN, copy=True)
    assert adata.var_names.tolist() == [*MOUSE, "Gm1"]
    assert not len(adata.uns)
    assert result.var_names.tolist() == HUMAN

    view = adata[:3]
    with pytest.raises(ValueError, match="`adata` is a view.*copy=True"):
        scssl.pp.map_orthologs(view, columns_table(), **TO_HUMAN)
    assert scssl.pp.map_orthologs(view, columns_table(), **TO_HUMAN, copy=True).shape == (3, 5)

    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match="backed by a file.*copy=True"):
        scssl.pp.map_orthologs(backed, columns_table(), **TO_HUMAN)
    result = scssl.pp.map_orthologs(backed, columns_table(), **TO_HUMAN, copy=True)
    assert not result.isbacked
    np.testing.assert_array_equal(result.X.toarray(), adata.X.toarray()[:, :5])
    scssl.pp.map_orthologs(backed, columns_table(), **TO_HUMAN, unmapped="keep")
    assert backed.var_names.tolist() == [*HUMAN, "Gm1"]
    backed.file.close()


def test_two_species_share_a_vocabulary():
    mouse, human = data([*MOUSE, "Gm1"]), data([*HUMAN[::-1], "LINC1"])
    scssl.pp.map_orthologs(mouse, mgi_table(), **TO_HUMAN)
    shared = scssl.data.GeneVocabulary.intersection([human, mouse])
    assert shared.names.tolist() == HUMAN[::-1]


def test_what_was_done_is_logged(caplog):
    adata = data([*MOUSE, "Gm1"])
    adata.raw = adata.copy()
    with caplog.at_level(logging.INFO, logger="scssl"):
        scssl.pp.map_orthologs(adata, columns_table(), **TO_HUMAN)
    assert caplog.messages == [
        "5 of 6 genes of mouse mapped to human; the others were taken out (1 missing). "
        "adata.raw keeps the names of mouse."
    ]


@pytest.mark.parametrize(
    ("names", "table", "arguments", "error", "message"),
    [
        (MOUSE, "nowhere.rpt", {}, FileNotFoundError, "(?s)no file nowhere.rpt.*HOM_MouseHumanSequence.rpt.*biomart/martview.*biomart_annotations"),
        (MOUSE, {"Qars": "QARS1"}, {}, TypeError, "(?s)`table` must be a path or a DataFrame, found dict.*HOM_MouseHuman"),
        (MOUSE, pd.DataFrame(columns=["mouse", "human"]), {}, ValueError, r"(?s)`table` \(DataFrame\) has no rows.*HOM_MouseHuman"),
        (MOUSE, columns_table(), {"to_species": "rat"}, GeneMismatchError, "no genes of 'rat'; its species are 'mouse', 'human'"),
        (MOUSE, mgi_table(), {"to_species": "rat"}, GeneMismatchError, "no genes of 'rat'; its species are 'human', 'mouse, laboratory'"),
        (MOUSE, biomart_table(), {"from_species": "rat", "to_species": "zebrafish"}, GeneMismatchError, "no genes of 'rat'; its species are 'Human'"),
        (["Qars"], biomart_table(), {"from_species": "rat"}, GeneMismatchError, "has ids of mouse where those of rat are expected"),
        (["Qars"], biomart_table(), {"from_species": "axolotl"}, GeneMismatchError, "has ids of mouse where those of axolotl .*say `from_species='mouse'`"),
        (MOUSE, columns_table(), {"to_species": "Mus musculus"}, ValueError, "are both 'mouse'"),
        (MOUSE, columns_table(), {"to_species": ""}, TypeError, "`to_species` must be a string that is not empty"),
        (MOUSE, columns_table(), {"on": "entrez"}, ValueError, "`on` must be 'symbol', 'ensembl' or None, found 'entrez'"),
        (MOUSE, columns_table(), {"unmapped": "zero"}, ValueError, "`unmapped` must be 'drop' or 'keep', found 'zero'"),
        (MOUSE_ID, columns_table(), {}, GeneMismatchError, "looked up as Ensembl ids, but the table .* has gene symbols of both.*as `gene_names`"),
        (HUMAN_ID, biomart_table(), {}, GeneMismatchError, "Ensembl ids of human already, such as ENSG00000000000"),
        (HUMAN, columns_table(), {}, GeneMismatchError, "are those of human already: 5 of 5 names are of human in the table, 0 of mouse"),
        (["QARS", "ZFP518B", "H1F0"], columns_table(), {}, GeneMismatchError, "0 of the 3 genes.*\n.*\n.*\n.*Without regard to case 3 would be found"),
        (["X", "Y"], columns_table(), {}, GeneMismatchError, "0 of the 2 genes .* and 0 are in it at all"),
    ],
)  # fmt: skip
def test_refuses(names, table, arguments, error, message):
    adata = data(names)
    with pytest.raises(error, match=message):
        scssl.pp.map_orthologs(adata, table, **{**TO_HUMAN, **arguments})
    assert adata.var_names.tolist() == names
    assert not len(adata.uns)


def test_files_as_they_come(tmp_path):
    """A gene called NA, a byte order mark, quotation marks, and rows that end with a separator."""
    path = tmp_path / "mart_export.txt"
    rows = ["mouse\thuman\tcomment", 'NA\tNA1\t5" end\t', '"Quoted"\t QUOTED \t\t', "nan\tNAN1\t\t"]
    path.write_text("\n".join(rows), encoding="utf-8-sig")
    adata = data(["NA", "Quoted", "nan"])
    scssl.pp.map_orthologs(adata, str(path), **TO_HUMAN)
    assert adata.var_names.tolist() == ["NA1", "QUOTED", "NAN1"]
    path.write_text("")
    with pytest.raises(ValueError, match=r"`table` \(mart_export.txt\) has no rows"):
        scssl.pp.map_orthologs(adata, path, **TO_HUMAN)


def test_orthologs_of_a_third_species_are_none():
    table = biomart_table()
    table["Rat gene stable ID"] = [f"ENSRNOG{i:011d}" for i in range(len(table))]
    with pytest.raises(GeneMismatchError, match="orthologs of a third species"):
        scssl.pp.map_orthologs(data(["Qars"]), table, from_species="rat", to_species="human")


def test_few_orthologs_are_warned_of():
    adata = data([*MOUSE[:1], *(f"Gm{i}" for i in range(20))])
    with pytest.warns(ScsslWarning, match="1 of the 21 genes have a one-to-one ortholog"):
        scssl.pp.map_orthologs(adata, columns_table(), **TO_HUMAN)
    assert adata.var_names.tolist() == ["QARS1"]


@pytest.fixture
def real_table(data_file):
    return data_file("resources/orthologs_mouselemur_human_mouse_one2one.csv")


@pytest.mark.realdata
def test_real_table(real_table):
    """All pairs are mapped, and 867 of them would be lost to upper case."""
    rows = [line.split(",") for line in real_table.read_text().splitlines()[1:]]
    human, mouse = [row[2] for row in rows], [row[3] for row in rows]
    assert len(rows) == 15_514
    for names, others, species in ((mouse, human, ("mouse", "human")), (human, mouse, ("human", "mouse"))):  # fmt: skip
        adata = ad.AnnData(sparse.csr_matrix((2, len(names)), dtype=np.float32))
        adata.var_names = names
        scssl.pp.map_orthologs(adata, real_table, from_species=species[0], to_species=species[1])
        assert adata.uns["orthologs"]["counts"]["mapped"] == 15_514
        assert adata.var_names.tolist() == others
        old = adata.var[f"{species[0]}_gene"]
        assert (old.str.upper() != pd.Series(others, index=old.index).str.upper()).sum() == 867


@pytest.mark.realdata
def test_real_mouse_data(real_table, data_file):
    adata = ad.read_h5ad(data_file("mouse_pancreas_endocrinogenesis.h5ad"))
    before = adata.copy()
    human = {row[3]: row[2] for row in (line.split(",") for line in real_table.read_text().splitlines())}  # fmt: skip
    count = Counter(before.var_names)
    kept = [name for name in before.var_names if name in human and count[name] == 1]
    scssl.pp.map_orthologs(adata, real_table, **TO_HUMAN)
    assert adata.var["mouse_gene"].tolist() == kept
    assert adata.var_names.tolist() == [human[name] for name in kept]
    assert (adata.X != before[:, kept].X).nnz == 0
    assert len(kept) > 0.7 * before.n_vars


@pytest.mark.parametrize("table", [None, "HOM_MouseHumanSequence.rpt"])
def test_without_a_table_the_error_says_how_to_get_one(tmp_path, monkeypatch, table):
    """Which site, which file, and the lines to type; they do what they say once the file is there."""
    monkeypatch.chdir(tmp_path)
    adata = data(MOUSE)
    with pytest.raises((FileNotFoundError, TypeError)) as error:
        scssl.pp.map_orthologs(adata, *([] if table is None else [table]), **TO_HUMAN)
    message = str(error.value)
    url = "https://www.informatics.jax.org/downloads/reports/HOM_MouseHumanSequence.rpt"
    lines = [line.strip() for line in message.splitlines()]
    assert f"curl -O {url}" in lines
    assert "https://www.ensembl.org/biomart/martview" in message
    typed = [line.strip("`") for line in lines if line.startswith("`scssl.pp.map_orthologs(")]
    assert len(typed) == 3
    mgi_table().to_csv(tmp_path / "HOM_MouseHumanSequence.rpt", sep="\t", index=False)
    biomart_table().to_csv(tmp_path / "mart_export.txt", sep="\t", index=False)
    for line in typed:
        own = data(MOUSE)
        exec(line, {"scssl": scssl, "adata": own, "table": biomart_table()})
        assert own.uns["orthologs"]["counts"]["mapped"] > 0


@pytest.mark.parametrize(
    ("species", "names"),
    [
        (("mouse", "human"), ("mmusculus", "hsapiens")),
        (("Macaca mulatta", "rat"), ("mmulatta", "rnorvegicus")),
        (("axolotl", "human"), None),
    ],
)
def test_lines_to_type_are_of_these_species(species, names):
    with pytest.raises(TypeError, match="no `table` of orthologs") as error:
        scssl.pp.map_orthologs(data(MOUSE), from_species=species[0], to_species=species[1])
    message = str(error.value)
    assert f"from_species={species[0]!r}, to_species={species[1]!r}" in message
    assert ("HOM_MouseHuman" in message) == (species == ("mouse", "human"))
    if names is None:
        assert "biomart_annotations" not in message
    else:
        assert f'biomart_annotations gives for "{names[0]}"' in message
        assert f"{names[1]}_homolog_ensembl_gene" in message
