"""Gene programmes and targets of transcription factors, matched to the genes of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scssl
from scssl._errors import ScsslWarning

GENES = ["CD3D", "Cd3e", "C1orf159", "GATA1", "SPI1", "LYZ", "ENSG00000187634", "MS4A1"]


@pytest.fixture
def adata():
    adata = AnnData(np.ones((3, len(GENES)), dtype=np.float32))
    adata.var_names = GENES
    adata.var["symbol"] = ["A", "B", "C", "D", "E", "F", "G", "G"]
    return adata


def found(adata, key="gene_programs"):
    members = adata.varm[key].toarray()
    return {
        name: set(np.asarray(adata.var_names)[members[:, i]])
        for i, name in enumerate(adata.uns[key]["names"])
    }


def test_names_match_without_case_and_version(adata):
    programs = {"T": ["cd3d", "CD3E", "CD4"], "other": ["C1ORF159", "ensg00000187634.12"]}
    scssl.pp.gene_programs(adata, programs, min_genes=2)
    assert found(adata) == {
        "T": {"CD3D", "Cd3e"},
        "other": {"C1orf159", "ENSG00000187634"},
    }
    record = adata.uns["gene_programs"]
    assert record["size"].tolist() == [3, 2]
    assert record["found"].tolist() == [2, 2]
    assert adata.varm["gene_programs"].dtype == bool


def test_limits(adata):
    programs = {"T": ["CD3D", "CD3E", "CD4", "CD8A"], "one": ["LYZ"], "none": ["X", "Y"]}
    scssl.pp.gene_programs(adata, programs, min_genes=1)
    assert list(adata.uns["gene_programs"]["names"]) == ["T", "one"]
    assert list(adata.uns["gene_programs"]["left_out"]) == ["none"]
    scssl.pp.gene_programs(adata, programs, min_genes=1, min_fraction=0.6, min_programs=1)
    assert list(adata.uns["gene_programs"]["names"]) == ["one"]


def test_all_forms_are_the_same(adata, tmp_path):
    programs = {"T": ["CD3D", "CD3E"], "M": ["LYZ", "SPI1"]}
    (tmp_path / "sets.gmt").write_text("T\tabout\tCD3D\tCD3E\t\nM\thttp://x\tLYZ\tSPI1\n\n")
    long = pd.DataFrame(
        [(name, gene) for name, genes in programs.items() for gene in genes],
        columns=["program", "gene"],
    )
    long.to_csv(tmp_path / "sets.csv", index=False)
    wide = pd.DataFrame(
        {
            name: [gene in genes for gene in ["CD3D", "CD3E", "LYZ", "SPI1"]]
            for name, genes in programs.items()
        },
        index=["CD3D", "CD3E", "LYZ", "SPI1"],
    )
    for form in (programs, tmp_path / "sets.gmt", str(tmp_path / "sets.csv"), long, wide):
        scssl.pp.gene_programs(adata, form, min_genes=2)
        assert found(adata) == {"T": {"CD3D", "Cd3e"}, "M": {"LYZ", "SPI1"}}


def test_column_of_names(adata):
    scssl.pp.gene_programs(adata, {"x": ["a", "g"]}, gene_names="symbol", min_genes=1)
    assert found(adata)["x"] == {"CD3D", "ENSG00000187634", "MS4A1"}
    with pytest.raises(KeyError, match="no 'symbols'; it has 'symbol'"):
        scssl.pp.gene_programs(adata, {"x": ["a"]}, gene_names="symbols")


def test_nothing_left_says_what_names_there_are(adata):
    with pytest.raises(
        ValueError, match=r"(?s)None of 1 gene programmes.*like 'CD3D'.*like 'ENSG0"
    ):
        scssl.pp.gene_programs(adata, {"x": ["ENSG00000000003"] * 9})


def test_bad_files(adata, tmp_path):
    (tmp_path / "a.gmt").write_text("T CD3D CD3E\n")
    with pytest.raises(ValueError, match="line 1, is not of a GMT file"):
        scssl.pp.gene_programs(adata, tmp_path / "a.gmt")
    (tmp_path / "b.gmt").write_text("T\tx\tCD3D\nT\tx\tLYZ\n")
    with pytest.raises(ValueError, match="'T' twice, again in line 2"):
        scssl.pp.gene_programs(adata, tmp_path / "b.gmt")
    with pytest.raises(FileNotFoundError, match=r"c\.gmt"):
        scssl.pp.gene_programs(adata, tmp_path / "c.gmt")
    with pytest.raises(ValueError, match="needs the columns 'program' and 'gene'"):
        scssl.pp.gene_programs(adata, pd.DataFrame({"set": ["a"], "genes": ["b"]}))
    with pytest.raises(TypeError, match="must be a list, found 'CD3D'"):
        scssl.pp.gene_programs(adata, {"a": "CD3D"})


def test_targets_of_factors(adata, tmp_path):
    (tmp_path / "tft.gmt").write_text(
        "SPI1_01\tx\tLYZ\tSPI1\nSPI1_Q4\tx\tMS4A1\nGATA1_02\tx\tCD3D\tX1\tX2\nETS1_B\tx\tCD3D\tLYZ\n"
    )
    strict = {"min_targets": 2, "min_fraction": 0.9}
    with pytest.raises(ValueError, match=r"Only 1 of 3 transcription .*enough: `min_programs=1`\."):
        scssl.pp.tf_targets(adata, tmp_path / "tft.gmt", **strict)
    scssl.pp.tf_targets(adata, tmp_path / "tft.gmt", min_programs=1, **strict)
    # ETS1 is not measured; two thirds of the targets of GATA1 are not; SPI1 is no target of itself.
    assert found(adata, "tf_targets") == {"SPI1": {"LYZ", "MS4A1"}}
    assert list(adata.uns["tf_targets"]["targets"]) == ["SPI1"]
    scssl.pp.tf_targets(adata, tmp_path / "tft.gmt", min_targets=1, min_fraction=0)
    assert set(found(adata, "tf_targets")) == {"SPI1", "GATA1"}
    (tmp_path / "tfs.txt").write_text("gata1\nETS1\n")
    every = {"min_targets": 1, "min_fraction": 0, "min_programs": 1}
    scssl.pp.tf_targets(adata, tmp_path / "tft.gmt", tfs=tmp_path / "tfs.txt", **every)
    assert set(found(adata, "tf_targets")) == {"GATA1"}
    table = pd.DataFrame({"tf": ["SPI1", "SPI1"], "gene": ["LYZ", "MS4A1"]})
    scssl.pp.tf_targets(adata, table, min_targets=2)
    assert found(adata, "tf_targets") == {"SPI1": {"LYZ", "MS4A1"}}
    with pytest.raises(ValueError, match="None of 1 transcription factors is left"):
        scssl.pp.tf_targets(adata, table, min_targets=3)


def test_names_of_factors_that_are_not_there(adata):
    targets = {"SPI1": ["LYZ", "MS4A1"]}
    with pytest.raises(ValueError, match=r"None of the 1 names in `tfs` \('XX'\).* has 'SPI1'"):
        scssl.pp.tf_targets(adata, targets, tfs=["XX"], min_targets=1)


def test_too_few_programmes(adata):
    alone = {str(i): [f"X{i}", "Y"] for i in range(39)} | {"T": ["CD3D", "LYZ"], "M": ["SPI1"]}
    few = (
        r"Only 2 of 41 gene programmes are left .*3 of their 81 genes .*enough: `min_programs=2`\."
    )
    with pytest.raises(ValueError, match=few):
        scssl.pp.gene_programs(adata, alone, min_genes=1)
    with pytest.warns(ScsslWarning, match=r"genes of gene programmes only 4 % are in the data"):
        scssl.pp.gene_programs(adata, alone, min_genes=1, min_programs=2)
    record = adata.uns["gene_programs"]
    assert record["fraction_used"] == 2 / 41
    assert record["fraction_found"] == 3 / 81
    assert record["fraction_covered"] == 3 / 8
    with pytest.raises(ValueError, match="`min_programs` must be a whole number of at least 1"):
        scssl.pp.gene_programs(adata, alone, min_programs=0)


def test_survives_a_file_and_a_subset_of_cells(adata, tmp_path):
    import anndata

    scssl.pp.gene_programs(adata, {"T": ["CD3D", "CD3E"]}, min_genes=1)
    adata[:2].copy().write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert found(again) == found(adata)


@pytest.mark.realdata
def test_hallmarks_of_pbmc(data_dir, data_file):
    import anndata

    adata = anndata.read_h5ad(data_file("pbmc3k.h5ad"))
    scssl.pp.gene_programs(adata, data_dir / "resources" / "msigdb_h.all.v7.0.symbols.gmt")
    record = adata.uns["gene_programs"]
    assert len(record["names"]) == 50
    assert record["found"].sum() > 0.6 * record["size"].sum()
