"""Every model can be published and comes back bit for bit."""

from __future__ import annotations

import re

import numpy as np
import pytest

import scssl
from scssl._errors import BundleError, ScsslWarning

from .conftest import TRAIN

REPO = "lab/cells"


def test_round_trip(hub, trained, adata):
    url = trained.push_to_hub(REPO, card={"license": "cc-by-4.0", "species": "human"})
    repo = hub.repos[REPO]
    assert url == f"{hub.url}/{REPO}/commit/{repo.branches['main']}"
    assert set(repo.files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "genes.json",
        "model.safetensors",
    }
    assert not repo.private
    loaded = type(trained).from_pretrained(REPO)
    assert type(loaded) is type(trained)
    z = trained.get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(adata), z)
    assert repr(loaded) == repr(trained)


def test_any_class_of_the_registry_is_found(hub, trained, adata):
    trained.push_to_hub(REPO)
    loaded = scssl.model.SSLModel.from_pretrained(REPO, adata=adata)
    assert type(loaded) is type(trained)
    assert loaded.adata is adata
    z = trained.get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)


def test_revisions(hub, trained, adata):
    first = trained.get_latent_representation()
    trained.push_to_hub(REPO)
    trained.train(**TRAIN)
    trained.push_to_hub(REPO)
    newest = trained.get_latent_representation()
    assert not np.array_equal(first, newest)
    Model = type(trained)
    assert len(hub.repos[REPO].commits) == 3
    _, earlier, later = hub.repos[REPO].commits
    for revision, z in ((None, newest), (earlier, first), (later, newest), ("main", newest)):
        loaded = Model.from_pretrained(REPO, revision=revision)
        np.testing.assert_array_equal(loaded.get_latent_representation(adata), z)


def test_branch(hub, trained):
    trained.push_to_hub(REPO, revision="mouse/v2", commit_message="On mouse cells")
    repo = hub.repos[REPO]
    assert set(repo.at("mouse/v2")[1]) > {"config.json"}
    assert set(repo.files) == {".gitattributes"}
    assert repo.messages[-1] == "On mouse cells"
    assert repr(type(trained).from_pretrained(REPO, revision="mouse/v2")) == repr(trained)
    with pytest.raises(FileNotFoundError, match=r"(?s)config\.json.*It is not a model of scssl"):
        type(trained).from_pretrained(REPO)


def test_a_folder_goes_first(hub, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.save(REPO)
    Model = type(trained)
    assert repr(Model.from_pretrained(REPO)) == repr(trained)
    assert repr(Model.from_pretrained(tmp_path / REPO)) == repr(trained)
    assert hub.requests == []
    with pytest.raises(ValueError, match="lab/cells is a folder: leave `revision` out"):
        Model.from_pretrained(REPO, revision="main")


def test_neither_folder_nor_repository(hub, model_class):
    with pytest.raises(
        FileNotFoundError,
        match=r"no folder lab/cells, .* lab/cells/config.json failed: .*Repository Not",
    ):
        model_class.from_pretrained(REPO)
    with pytest.raises(BundleError, match="There is no folder cells"):
        model_class.from_pretrained("cells")


def test_another_class_is_refused(hub, trained):
    trained.push_to_hub(REPO)
    other = type("OtherModel", (scssl.model.SSLModel,), {"_train_defaults": None})
    name = type(trained).__name__
    expected = f'{REPO} holds a {name}, not a OtherModel.*{name}.from_pretrained\\("{REPO}"\\)'
    with pytest.raises(BundleError, match=expected):
        other.from_pretrained(REPO)


def test_a_class_is_never_imported(hub, trained, tmp_path):
    """A name in a file is looked up in the registry, whatever could be imported by it."""
    from scssl.hub import push_bundle, read_bundle, write_bundle

    trained.save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    config = {**bundle.config, "class": "os.system"}
    write_bundle(tmp_path / "evil", tensors=bundle.tensors, config=config, genes=bundle.genes)
    push_bundle(tmp_path / "evil", REPO, card="x")
    with pytest.raises(BundleError, match=r"There is no model 'os.system'; there are"):
        scssl.model.SSLModel.from_pretrained(REPO)


def test_untrained_is_refused(hub, build, adata):
    with pytest.raises(ValueError, match="is not trained.*Train it first"):
        build(adata).push_to_hub(REPO)
    assert hub.requests == []


def test_no_temporary_folder_is_left(hub, trained, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    trained.push_to_hub(REPO)
    type(trained).from_pretrained(REPO)
    hub.replace(REPO, genes_json=b"{}")
    with pytest.raises(BundleError, match="^lab/cells/genes.json is not the file that was saved"):
        type(trained).from_pretrained(REPO)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_card(hub, trained):
    text = trained.make_card(REPO, {"species": ["human", "mouse"], "limits": "Only blood."})
    trained.push_to_hub(REPO, card={"species": ["human", "mouse"], "limits": "Only blood."})
    assert hub.repos[REPO].files["README.md"].decode() == text
    about = hub.repos[REPO].card["scssl"]
    assert about["model"] == type(trained).__name__
    assert about["n_cells"] == 150
    assert about["n_genes"] == 60
    assert about["species"] == "human, mouse"
    assert f'scssl.model.{type(trained).__name__}.from_pretrained("{REPO}")' in text
    for fact in ("`cell_type`", "`GENE0`", "| 150 |", "trained", "- Only blood."):
        assert fact in text
    weights = sum(p.numel() for p in trained.module.parameters())
    assert f"| parameters | {weights:,} |" in text


def test_a_card_of_the_user_is_taken_as_it_is(hub, trained, tmp_path):
    own = "---\nlibrary_name: scssl\n---\n\n# Mine\n"
    trained.push_to_hub(REPO, card=own)
    assert hub.repos[REPO].files["README.md"].decode() == own
    (tmp_path / "card.md").write_text("# No metadata\n")
    with pytest.warns(ScsslWarning, match="list_models will not find the model"):
        trained.push_to_hub(REPO, card=tmp_path / "card.md")
    assert hub.repos[REPO].files["README.md"].decode() == "# No metadata\n"


def test_what_the_card_says_to_type_runs(hub, trained, adata, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata.write_h5ad("cells.h5ad")
    trained.push_to_hub(REPO)
    text = hub.repos[REPO].files["README.md"].decode()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    names = {}
    exec(code, names)
    z = trained.get_latent_representation()
    np.testing.assert_array_equal(names["adata"].obsm["X_ssl"], z)
    command = re.search(r"Embedding in a shell: `scssl (.*?)`", text)[1]
    from scssl.cli import main

    assert main(command.split()) == 0
    import anndata

    np.testing.assert_array_equal(anndata.read_h5ad("embedded.h5ad").obsm["X_ssl"], z)


def test_embed_takes_the_name(hub, trained, adata):
    trained.push_to_hub(REPO)
    scssl.tl.embed(adata, REPO)
    np.testing.assert_array_equal(adata.obsm["X_ssl"], trained.get_latent_representation())
    assert adata.uns["X_ssl"]["model"] == type(trained).__name__
