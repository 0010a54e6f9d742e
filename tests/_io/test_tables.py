"""One way of reading tables of names, for all that take them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pandas as pd
import pytest

from scssl._io._tables import file_digest, read_table, read_text_table, texts
from scssl.published._gene_table import GeneOrder, read_gene_table

IDS = ["ENSG00000000003", "ENSG00000000005", "ENSG00000000419"]
SYMBOLS = ["TSPAN6", "NA", ""]
ROWS = [("feature_id", "feature_name"), *zip(IDS, SYMBOLS, strict=True)]


def lines(separator: str, *, quote: str = "", end: str = "\n") -> str:
    return "".join(separator.join(f"{quote}{v}{quote}" for v in row) + end for row in ROWS)


FORMS = {
    "commas": lines(",").encode(),
    "tabs": lines("\t").encode(),
    "quoted, commas": lines(",", quote='"').encode(),
    "quoted, tabs, as R writes them": lines("\t", quote='"').encode(),
    "Windows": lines("\t", end="\r\n").encode(),
    "byte order mark": b"\xef\xbb\xbf" + lines(",").encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compressed", [False, True])
def test_both_readers_find_the_same(tmp_path: Path, form: str, *, compressed: bool):
    path = tmp_path / ("table.tsv.gz" if compressed else "table.tsv")
    path.write_bytes(gzip.compress(FORMS[form]) if compressed else FORMS[form])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    frame = read_text_table(path)
    assert list(frame.columns) == ["feature_id", "feature_name"]
    assert [texts(frame[name]) for name in frame] == [IDS, SYMBOLS]
    assert file_digest(path) == digest
    read = read_table(path, argument="table", how_to_get="")
    assert (read.frame["feature_name"].tolist(), read.sha256) == (SYMBOLS, digest)
    if not compressed:
        found = read_gene_table(path, order=GeneOrder(3, tuple(IDS), tuple(IDS)))
        assert found.ids == tuple(IDS)
        assert found.symbols == tuple(SYMBOLS)
        assert found.sha256 == digest


def test_a_quotation_mark_in_a_name_with_tabs_stays(tmp_path: Path):
    path = tmp_path / "table.tsv"
    path.write_text('symbol\tname\nA\tthe 5" end\nB\tother\n')
    assert texts(read_text_table(path)["name"]) == ['the 5" end', "other"]


def test_an_empty_file_has_no_columns(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("")
    assert read_text_table(path).shape == (0, 0)


def test_texts_of_what_is_missing():
    assert texts(pd.Series([" a ", None, float("nan"), '"b"', 3])) == ["a", "", "", "b", "3"]
