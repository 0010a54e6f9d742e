"""The card of a model says what is known, what is not, and nothing that is not so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

from scssl.hub._card import CardFacts, has_tag, make_card

FACTS = CardFacts(
    model="MaskedAutoencoder",
    description="It embeds.",
    summary="20-8-4 encoder",
    example=["scssl.tl.embed(adata, model)"],
    n_parameters=12345,
    n_latent=4,
    n_genes=1234,
    gene_ids="ensembl",
    gene_examples=["ENSG1", "ENSG2", "ENSG3"],
    species=None,
    input="counts",
    target_sum=10_000.0,
    where="adata.X",
    training={
        "n_cells": 5678,
        "epochs": 12,
        "best_epoch": 9,
        "best_loss": 0.123456,
        "lr": 1e-3,
        "stopped_by": "max_epochs",
        "gradient_clip": None,
    },
    versions={"scssl": "1.2.3"},
)
REPO = "lab/blood"


def split(text):
    """Metadata, and the sections by title."""
    metadata, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    parts = re.split(r"^## (.+)\n", body, flags=re.MULTILINE)
    return ModelCard(f"---\n{metadata}\n---\n").data.to_dict(), dict(
        zip(parts[1::2], parts[2::2], strict=True)
    )


def table(section):
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    rows = [[cell.strip().replace("\\|", "|") for cell in line] for line in cells]
    assert len({len(row) for row in rows}) == 1
    assert set(rows[1]) == {"---"}
    return rows[:1] + rows[2:]


def test_sections():
    metadata, sections = split(make_card(FACTS, REPO))
    assert list(sections) == [
        "Use",
        "Training data",
        "Model and training",
        "Evaluation",
        "Limits",
        "Licence",
    ]
    assert metadata == {
        "library_name": "scssl",
        "tags": [
            "scssl",
            "single-cell",
            "self-supervised-learning",
            "biology",
            "masked-autoencoder",
        ],
        "scssl": {
            "model": "MaskedAutoencoder",
            "version": "1.2.3",
            "n_cells": 5678,
            "n_genes": 1234,
            "gene_ids": "ensembl",
            "input": "counts",
            "n_latent": 4,
        },
    }
    data = dict(table(sections["Training data"]))
    assert data["cells"] == "5,678"
    assert data["genes"] == "1,234 (Ensembl ids)"
    assert data["species"] == "not given"
    assert data["values"] == "raw counts"
    training = dict(table(sections["Model and training"]))
    assert training["parameters"] == "12,345"
    assert training["epochs"] == "12, best 9"
    assert training["best loss"] == "0.1235"
    assert training["stopped by"] == "max_epochs"
    assert training["versions"] == "scssl 1.2.3"
    assert "gradient clip" not in training
    assert "None was given" in sections["Evaluation"]
    assert "None was given" in sections["Licence"]
    assert "`ENSG1`, `ENSG2`, `ENSG3`" in sections["Use"]
    assert "scales each cell to 10,000" in sections["Use"]
    assert "scssl embed cells.h5ad --model lab/blood --out" in sections["Use"]


def test_fields():
    card = {
        "description": "All of *blood*.",
        "species": "Homo sapiens",
        "data": "From [there](https://example.org).",
        "license": "cc-by-4.0",
        "limits": ["No tumours.", "No children."],
    }
    text = make_card(FACTS, REPO, card)
    metadata, sections = split(text)
    assert metadata["license"] == "cc-by-4.0"
    assert "homo-sapiens" in metadata["tags"]
    assert metadata["scssl"]["species"] == "Homo sapiens"
    assert "# blood\n\nAll of *blood*.\n" in text
    assert "It embeds." not in text
    assert sections["Training data"].strip().startswith("From [there](https://example.org).")
    assert dict(table(sections["Training data"]))["species"] == "Homo sapiens"
    assert sections["Limits"].strip().startswith("- No tumours.\n- No children.\n- ")
    assert "`cc-by-4.0`" in sections["Licence"]


def test_what_is_not_known_is_not_claimed():
    facts = replace(FACTS, training={}, versions={}, source="lab/old, old.ckpt")
    metadata, sections = split(make_card(facts, REPO))
    assert "n_cells" not in metadata["scssl"]
    assert dict(table(sections["Training data"]))["cells"] == "not recorded"
    training = dict(table(sections["Model and training"]))
    assert training["weights taken from"] == "lab/old, old.ckpt"
    assert not {"epochs", "best loss", "versions"} & set(training)


def test_species_of_the_genes_and_of_the_card():
    facts = replace(FACTS, species="human")
    assert "human" in split(make_card(facts, REPO))[0]["tags"]
    metadata, _ = split(make_card(facts, REPO, {"species": ["mouse", "rat"]}))
    assert metadata["tags"][-2:] == ["mouse", "rat"]
    assert "human" not in metadata["tags"]


def test_what_the_model_needs():
    facts = replace(
        FACTS,
        input="lognorm",
        where='adata.layers["norm"]',
        columns=["donor"],
        trained_with={"batch column": ["donor"], "labels column": ["type"]},
    )
    _, sections = split(make_card(facts, REPO))
    assert '`adata.layers["norm"]`: values that are already scaled' in sections["Use"]
    assert "needs the columns `donor` of `adata.obs`" in sections["Use"]
    assert dict(table(sections["Training data"]))["labels column"] == "`type`"
    assert "not raw counts" not in sections["Limits"]


def test_names_are_no_markdown():
    """A name is shown as it is, not as a link, a picture or a heading."""
    evil = "A`](http://evil.example) <img src=x>\n# B``"
    facts = replace(
        FACTS,
        gene_examples=[evil, "GENE_2"],
        where=f'adata.layers["{evil}"]',
        columns=[evil],
        trained_with={"labels column": ["a|b", evil]},
        summary="[x](y) *z* a_b",
        source=evil,
    )
    metadata, sections = split(make_card(facts, REPO))
    one_line = " ".join(evil.split())
    assert f"(Ensembl ids: ``` {one_line} ```, `GENE_2`, …)" in sections["Use"]
    assert f'It reads ``` adata.layers["{one_line}"] ```: raw counts' in sections["Use"]
    assert f"needs the columns ``` {one_line} ``` of" in sections["Use"]
    data = dict(table(sections["Training data"]))
    assert data["labels column"] == f"`a|b`, ``` {one_line} ```"
    training = dict(table(sections["Model and training"]))
    assert training["architecture"] == r"\[x\](y) \*z\* a_b"
    assert training["weights taken from"] == r"A\`\](http://evil.example) \<img src=x\> # B\`\`"
    assert metadata["scssl"]["model"] == "MaskedAutoencoder"


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        (
            {"macro-F1": 0.91234567, "cells": 700},
            [["metric", "value"], ["macro-F1", "0.9123"], ["cells", "700"]],
        ),
        (
            {"PCA": {"f1": 0.5, "n": 3}, "ours": {"f1": 0.75, "n": 3}},
            [["", "f1", "n"], ["PCA", "0.5", "3"], ["ours", "0.75", "3"]],
        ),
        (
            pd.DataFrame({"f1": [np.float32(0.5)], "note": ["a|b"]}),
            [["f1", "note"], ["0.5", "a|b"]],
        ),
        (
            pd.DataFrame({"f1": [0.123456]}, index=pd.Index(["pbmc"], name="data")),
            [["data", "f1"], ["pbmc", "0.1235"]],
        ),
        (pd.DataFrame({"n": [2, 3]}, index=[5, 6]), [["", "n"], ["5", "2"], ["6", "3"]]),
    ],
)
def test_evaluation(evaluation, expected):
    _, sections = split(make_card(FACTS, REPO, {"evaluation": evaluation}))
    assert table(sections["Evaluation"]) == expected


def test_evaluation_by_the_package():
    """The frame of tl.knn_score goes in as it is."""
    from anndata import AnnData

    import scssl

    labels = np.repeat(["a", "b"], 20)
    names = [f"cell{i}" for i in range(40)]
    adata = AnnData(np.zeros((40, 1)), obs=pd.DataFrame({"type": labels}, index=names))
    adata.obsm["X_ssl"] = (labels == "a")[:, None] + np.random.default_rng(0).normal(
        0, 0.1, (40, 2)
    )
    score = scssl.tl.knn_score(adata, "type", n_permutations=2)
    _, sections = split(make_card(FACTS, REPO, {"evaluation": score}))
    head, row = table(sections["Evaluation"])
    assert row[head.index("macro_f1")] == f"{score['macro_f1'].iloc[0]:.4g}"


@pytest.mark.parametrize(
    ("card", "error", "message"),
    [
        ({"licence": "mit"}, ValueError, "no field 'licence'; there are description, species,"),
        ({"license": 3}, TypeError, "field 'license' of `card` must be a text, found int"),
        ({"limits": [1]}, TypeError, "field 'limits' of `card` must be a text or a list"),
        ({"species": {"a": 1}}, TypeError, "field 'species' of `card` must be a text or a list"),
        (["x"], TypeError, "`card` must be a text, a path or a dict of description"),
        ({"evaluation": [1]}, TypeError, "must be a DataFrame or a dict, found list"),
        ({"evaluation": {"a": 1, "b": {"c": 1}}}, TypeError, "not a mixture"),
        ({"evaluation": {}}, ValueError, "evaluation is empty"),
        ("README.md", ValueError, r'card=pathlib.Path\("README.md"\)'),
    ],
)
def test_bad_cards(card, error, message):
    with pytest.raises(error, match=message):
        make_card(FACTS, REPO, card)


def test_text_and_path(tmp_path):
    assert make_card(FACTS, REPO, "# Mine µ\n") == "# Mine µ\n"
    Path(tmp_path / "card.md").write_text("# Mine µ\n", encoding="utf-8")
    assert make_card(FACTS, REPO, tmp_path / "card.md") == "# Mine µ\n"


def test_names_that_yaml_could_take_for_something_else():
    facts = replace(FACTS, species="yes: [no] # µ\n'\"", gene_ids="unknown")
    metadata, _ = split(make_card(facts, REPO, {"license": "no"}))
    assert metadata["scssl"]["species"] == "yes: [no] # µ\n'\""
    assert metadata["license"] == "no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# No metadata", False),
        ("---\ntags: [scssl]\n---\n", True),
        ("---\nlibrary_name: scssl\n---\n", True),
        ("---\nlibrary_name: other\ntags: [nlp]\n---\n", False),
        ("---\ntags: null\n---\n", False),
    ],
)
def test_tag(text, expected):
    assert has_tag(text) is expected


@pytest.mark.parametrize("text", ["---\n- a list\n---\n", "---\na: [b\n---\n", "---\ntext\n---\n"])
def test_metadata_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="metadata of the card, .*, are not a mapping in YAML"):
        has_tag(text)
