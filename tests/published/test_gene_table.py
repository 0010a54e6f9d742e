"""A table of genes is taken only if it is the order of the checkpoints' inputs."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scssl._errors import BundleError, GeneMismatchError
from scssl.published._gene_table import SCTAB, GeneOrder, read_gene_table, read_symbols

IDS = [f"ENSG{(37 * i) % 101:011d}" for i in range(20)]
ORDER = GeneOrder(20, tuple(IDS[:2]), tuple(IDS[-2:]), name="test")
FIXTURE = Path(__file__).parents[3] / "shared/reference/sctab_gene_order_first1000.tsv"


@pytest.fixture
def frame():
    symbols = [f"S{i}" for i in range(20)]
    symbols[3] = "NA"
    return pd.DataFrame({"feature_id": IDS, "feature_name": symbols, "feature_length": 100})


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "frame", "index", "categorical"])
def test_kinds_of_tables(kind, frame, tmp_path):
    if kind in ("csv", "tsv", "txt"):
        table = tmp_path / f"var.{kind}"
        frame.to_csv(table, sep="," if kind == "csv" else "\t")
    elif kind == "index":
        table = frame.set_index("feature_id")
    elif kind == "categorical":
        table = frame.astype({"feature_name": "category"})
    else:
        table = frame
    found = read_gene_table(table, order=ORDER)
    assert found.ids == tuple(IDS)
    assert found.symbols == tuple(frame["feature_name"])
    assert (found.sha256 is None) == (kind not in ("csv", "tsv", "txt"))


@pytest.mark.parametrize("kind", ["csv", "frame", "index", "unnamed index"])
def test_symbols_of_some_genes(kind, frame, tmp_path):
    frame["feature_id"] += ".3"
    table = frame.iloc[::-1]
    if kind == "csv":
        table = tmp_path / "genes.csv"
        frame.to_csv(table)
    elif "index" in kind:
        table = table.set_index("feature_id").rename_axis("feature_id" if kind == "index" else None)
    found, where = read_symbols(table, [IDS[3], "ENSG99999999999", IDS[0]])
    assert found == ["NA", "", "S0"]
    assert where["n"] == 2
    assert where["source"] == ("genes.csv" if kind == "csv" else "DataFrame")
    assert (where["sha256"] is None) == (kind != "csv")


def test_tables_without_symbols(frame):
    with pytest.raises(GeneMismatchError, match="has no 'feature_name', but 'fea"):
        read_symbols(frame[["feature_id"]], IDS)
    with pytest.raises(GeneMismatchError, match="has no column 'feature_id' with Ensembl ids"):
        read_symbols(frame[["feature_name"]], IDS)
    with pytest.raises(
        GeneMismatchError, match="has none of the 1 genes, which are .*; its ids are like 'ENSG"
    ):
        read_symbols(frame, ["ENSMUSG00000000001"])


def test_parquet(frame, tmp_path):
    pytest.importorskip("pyarrow")
    frame.to_parquet(tmp_path / "var.parquet")
    found = read_gene_table(str(tmp_path / "var.parquet"), order=ORDER)
    assert (found.ids, found.source) == (tuple(IDS), "var.parquet")
    (tmp_path / "var.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BundleError, match=r"var\.parquet cannot be read as parquet"):
        read_gene_table(tmp_path / "var.parquet", order=ORDER)


def test_parquet_without_a_reader_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("pyarrow", "fastparquet"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "var.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        ImportError, match=r"`pip install 'scssl\[published\]'`. Or pass the same table as \.csv"
    ):
        read_gene_table(tmp_path / "var.parquet", order=ORDER)


def test_ids_alone():
    for ids in (IDS, np.array(IDS), pd.Index(IDS), pd.Series(IDS)):
        found = read_gene_table(ids, order=ORDER)
        assert found.ids == tuple(IDS)
        assert found.symbols is None


def test_missing_symbols_are_empty(frame):
    frame.loc[4, "feature_name"] = None
    assert read_gene_table(frame, order=ORDER).symbols[4] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.sort_values("feature_id"), "not in the order of test: row 1 is"),
        (lambda f: f.iloc[[1, 0, *range(2, 20)]], "not in the order of test: row 0 is"),
        (lambda f: f.iloc[[*range(18), 19, 18]], "not in the order of test: row 18 is"),
        (lambda f: f.assign(feature_id=[IDS[0]] * 20), "has 1 ids more than once"),
        (lambda f: f.assign(feature_id=[*IDS[:-1], None]), "has no id in row 19"),
        (lambda f: f.assign(feature_id=f.feature_id + ".3"), "with ids without version"),
        (lambda f: f.assign(feature_id=f.feature_name), "not in the order of test: row 0 is 'S0'"),
        (lambda f: f.drop(columns="feature_id"), "no column 'feature_id'.*'feature_name'"),
    ],
)
def test_wrong_tables(change, message, frame):
    with pytest.raises(GeneMismatchError, match=message):
        read_gene_table(change(frame), order=ORDER)


def test_the_first_ids_are_known_by_their_digest(frame):
    import hashlib

    digest = hashlib.sha256("\n".join(IDS[:10]).encode()).hexdigest()
    order = replace(ORDER, first_sha256=(10, digest))
    assert read_gene_table(frame, order=order).ids == tuple(IDS)
    swapped = frame.iloc[[*range(5), 6, 5, *range(7, 20)]]
    with pytest.raises(GeneMismatchError, match="the first 10 rows are not those expected"):
        read_gene_table(swapped, order=order)


def test_of_another_number_of_genes_no_order_is_known(frame):
    own = frame.iloc[:19].sort_values("feature_name", ascending=False)
    assert read_gene_table(own, order=ORDER).ids == tuple(own["feature_id"])
    with pytest.raises(GeneMismatchError, match="more than once"):
        read_gene_table([*own["feature_id"], IDS[0]][1:] + IDS[:1], order=ORDER)


def test_files_that_are_not_there_or_something_else(tmp_path):
    with pytest.raises(BundleError, match=r"no file .*var\.parquet with the table of genes"):
        read_gene_table(tmp_path / "var.parquet")
    (tmp_path / "genes.pkl").write_bytes(b"\x80\x02.")
    with pytest.raises(BundleError, match=r"genes\.pkl must be a \.parquet, \.csv or \.tsv file"):
        read_gene_table(tmp_path / "genes.pkl")


@pytest.mark.skipif(not FIXTURE.exists(), reason="the reference is not beside the checkout")
def test_the_published_order():
    ids = pd.read_csv(FIXTURE, sep="\t")["feature_id"].tolist()
    rest = [f"ENSG9{i:010d}" for i in range(19_331 - len(ids) - 5)]
    assert read_gene_table([*ids, *rest, *SCTAB.last]).ids[:1000] == tuple(ids)
    ids[500], ids[501] = ids[501], ids[500]
    with pytest.raises(GeneMismatchError, match="the first 1,000 rows are not those expected"):
        read_gene_table([*ids, *rest, *SCTAB.last])
