"""The real client of the hub against a server on loopback: what is fetched, checked and refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch

import scssl
from scssl._errors import BundleError
from scssl._io._files import MAX_JSON_BYTES
from scssl._io._trees import json_sha256
from scssl.hub import fetch_bundle, fetch_file, list_models, push_bundle, read_bundle, write_bundle

from .server import READER, WRITER

REPO = "lab/cells"
CARD = "---\nlibrary_name: scssl\ntags: [scssl]\n---\n\n# Cells\n"
FILES = ["config.json", "genes.json", "model.safetensors"]


def write(path, value=1.0, **config):
    tensors = {"weight": torch.full((4, 3), value)}
    config = {"class": "MaskedAutoencoder", "trained": True, **config}
    write_bundle(path, tensors=tensors, config=config, genes={"names": ["A", "B"]})
    return path


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "model")


@pytest.fixture
def pushed(hub, folder):
    push_bundle(folder, REPO, card=CARD)
    hub.requests.clear()
    return hub


@pytest.fixture
def no_waiting(monkeypatch):
    """The client tries again after seconds; the tests do not wait for it."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def signed(document):
    document = {k: v for k, v in document.items() if k != "config_sha256"}
    return json.dumps({**document, "config_sha256": json_sha256(document)}).encode()


def edit_config(hub, **changes):
    document = json.loads(hub.repos[REPO].files["config.json"])
    hub.replace(REPO, config_json=signed(document | changes))


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# --- pushing and fetching a model -----------------------------------------------------------------


def test_round_trip(hub, folder, tmp_path):
    url = push_bundle(folder, REPO, card=CARD, commit_message="Blood cells")
    repo = hub.repos[REPO]
    commit = repo.branches["main"]
    assert url == f"{hub.url}/{REPO}/commit/{commit}"
    assert repo.messages == ["first", "Blood cells"]
    assert repo.files["README.md"].decode() == CARD
    assert len(hub.asked("PUT", "/storage/")) == 1
    assert fetch_bundle(REPO, tmp_path / "copy") == commit
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == FILES
    for name in FILES:
        content = (folder / name).read_bytes()
        assert repo.files[name] == content
        assert (tmp_path / "copy" / name).read_bytes() == content
        assert not (tmp_path / "copy" / name).is_symlink()
    assert read_bundle(tmp_path / "copy").tensors["weight"].sum() == 12


def test_only_what_is_known_is_fetched_config_first(pushed, tmp_path):
    pushed.repos[REPO].commit(
        "main", {**pushed.repos[REPO].files, "model.py": b"1", "pytorch_model.bin": b"2"}
    )
    fetch_bundle(REPO, tmp_path / "copy")
    fetched = [r.rsplit("/", 1)[1] for r in pushed.asked("GET", "/resolve/")]
    # The large file itself comes from the storage.
    assert fetched == ["config.json", "genes.json"]
    assert len(pushed.asked("GET", "/storage/")) == 1
    assert not [r for r in pushed.requests if "model.py" in r or "pytorch_model" in r]


def test_what_has_been_fetched_is_not_fetched_again(pushed, tmp_path):
    fetch_bundle(REPO, tmp_path / "one")
    pushed.requests.clear()
    fetch_bundle(REPO, tmp_path / "two")
    assert pushed.asked("GET") == []
    # The commit is in the cache: only what is newest has to be asked.
    assert set(pushed.requests) == {f"HEAD /{REPO}/resolve/main/config.json"}


def test_revisions(pushed, tmp_path):
    earlier = pushed.repos[REPO].branches["main"]
    push_bundle(write(tmp_path / "model2", 2.0), REPO, card=CARD)
    push_bundle(write(tmp_path / "model3", 3.0), REPO, card=CARD, revision="dev/x")
    assert pushed.asked("POST", "/branch/") == [f"POST /api/models/{REPO}/branch/dev/x"]
    for revision, value in ((None, 2), ("main", 2), (earlier, 1), ("dev/x", 3)):
        path = tmp_path / str(value) / str(revision)
        fetch_bundle(REPO, path, revision=revision)
        assert read_bundle(path).tensors["weight"][0, 0] == value
    message = rf"config.json at 'v9' failed: .*Revision.*{pushed.url}/lab/cells/commits/main"
    with pytest.raises(FileNotFoundError, match=message):
        fetch_bundle(REPO, tmp_path / "none", revision="v9")


def test_all_files_are_of_one_commit(pushed, tmp_path):
    """A push between two requests does not mix two models."""

    def push():
        write(tmp_path / "new", 2.0)
        content = {name: (tmp_path / "new" / name).read_bytes() for name in FILES}
        pushed.repos[REPO].commit("main", {**pushed.repos[REPO].files, **content})

    earlier = pushed.repos[REPO].branches["main"]
    pushed.afterwards[f"GET /{REPO}/resolve/main/config.json"] = push
    assert fetch_bundle(REPO, tmp_path / "copy") == earlier
    assert pushed.repos[REPO].branches["main"] != earlier
    assert read_bundle(tmp_path / "copy").tensors["weight"][0, 0] == 1


def test_existing_folders(pushed, folder, tmp_path):
    write(tmp_path / "other", 5.0)
    with pytest.raises(ValueError, match=r"other is not empty.*overwrite=True"):
        fetch_bundle(REPO, tmp_path / "other")
    fetch_bundle(REPO, tmp_path / "other", overwrite=True)
    assert read_bundle(tmp_path / "other").tensors["weight"][0, 0] == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").write_text("years")
    with pytest.raises(ValueError, match="holds files and no scssl model"):
        fetch_bundle(REPO, tmp_path / "thesis", overwrite=True)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["text.txt"]


def test_bars_are_shown_where_settings_want_them(pushed, tmp_path, capfd):
    with scssl.settings.override(progress=False):
        fetch_bundle(REPO, tmp_path / "quiet")
        push_bundle(write(tmp_path / "new", 2.0), REPO, card=CARD)
    assert "%|" not in capfd.readouterr().err
    # The client shows none of a download where there is no terminal.
    push_bundle(write(tmp_path / "newer", 3.0), REPO, card=CARD)
    assert "%|" in capfd.readouterr().err


# --- pushing is refused ---------------------------------------------------------------------------


def test_untrained(hub, tmp_path):
    with pytest.raises(ValueError, match=r"is not trained. Train it and save it again"):
        push_bundle(write(tmp_path / "model", trained=False), REPO, card=CARD)
    assert hub.requests == []


def test_damaged_folder(hub, folder):
    (folder / "genes.json").write_text("{}")
    with pytest.raises(BundleError, match="genes.json is truncated"):
        push_bundle(folder, REPO, card=CARD)
    assert hub.requests == []


@pytest.mark.parametrize("token", [None, READER])
def test_without_the_right_to_write(hub, folder, monkeypatch, token):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        PermissionError, match=r"Writing to lab/cells failed: .*40[13].*`hf auth login`"
    ):
        push_bundle(folder, REPO, card=CARD, token=token)
    assert hub.repos == {}
    push_bundle(folder, REPO, card=CARD, token=WRITER)
    with pytest.raises(PermissionError, match="must have the right to write"):
        push_bundle(folder, REPO, card=CARD, token=READER)
    assert len(hub.repos[REPO].commits) == 2


def test_model_of_another_program(hub, folder):
    hub.add(REPO, {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"})
    with pytest.raises(ValueError, match="holds a model of another program"):
        push_bundle(folder, REPO, card=CARD)
    assert hub.repos[REPO].files["model.safetensors"] == b"x"


def test_privacy(hub, folder):
    push_bundle(folder, "lab/secret", card=CARD, private=True)
    assert hub.repos["lab/secret"].private
    hub.add("lab/open")
    with pytest.raises(ValueError, match=r"lab/open is public already.*private=True\)"):
        push_bundle(folder, "lab/open", card=CARD, private=True)
    assert set(hub.repos["lab/open"].files) == {".gitattributes"}
    push_bundle(folder, "lab/secret", card=CARD)
    assert hub.repos["lab/secret"].private


def test_card_that_the_hub_refuses(hub, folder):
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        push_bundle(folder, REPO, card="---\nlicense: [a: b\n---\n")
    assert set(hub.repos[REPO].files) == {".gitattributes"}


@pytest.mark.parametrize("part", ["/preupload/", ".git/info/lfs", "/storage/", "/commit/"])
def test_a_push_that_fails_changes_nothing(hub, folder, no_waiting, part):
    hub.failures["PUT" if part == "/storage/" else "POST", part] = 500
    with pytest.raises(ConnectionError, match="failed"):
        push_bundle(folder, REPO, card=CARD)
    assert set(hub.repos[REPO].files) == {".gitattributes"}
    hub.failures.clear()
    push_bundle(folder, REPO, card=CARD)
    assert set(hub.repos[REPO].files) > set(FILES)


@pytest.mark.parametrize(
    "repo_id", ["cells", "a/b/c", "../x", "lab/..", "/lab/cells", "lab/a--b", "", None, "l b/c"]
)
def test_names_that_cannot_be(hub, folder, tmp_path, repo_id):
    for call in (
        lambda: push_bundle(folder, repo_id, card=CARD),
        lambda: fetch_bundle(repo_id, tmp_path / "copy"),
        lambda: fetch_file(repo_id, "config.json"),
    ):
        with pytest.raises(ValueError, match='is named "owner/name", found'):
            call()
    assert hub.requests == []


# --- what is fetched is not trusted ---------------------------------------------------------------


@pytest.mark.parametrize(
    "filename",
    [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "..",
        "",
        "a\\..\\b",
        "C:/x",
        "a\0b",
        None,
        "..\\x",
    ],
)
def test_paths_outside(pushed, filename):
    with pytest.raises(ValueError, match="must be a path inside the repository, found"):
        fetch_file(REPO, filename)
    assert pushed.requests == []


@pytest.mark.parametrize("revision", ["../../x", "/etc", "", "a/../..", "a\\b", 3])
def test_revisions_that_cannot_be(pushed, tmp_path, revision):
    with pytest.raises(ValueError, match="`revision` must be a branch, tag or commit"):
        fetch_file(REPO, "config.json", revision=revision)
    with pytest.raises(ValueError, match="`revision` must be a branch, tag or commit"):
        fetch_bundle(REPO, tmp_path / "copy", revision=revision)
    assert pushed.requests == []


def test_path_outside_in_the_config(pushed, tmp_path):
    files = json.loads(pushed.repos[REPO].files["config.json"])["files"]
    files["../../evil.json"] = files.pop("genes.json")
    edit_config(pushed, files=files)
    message = "^lab/cells/config.json is malformed: it does not list"
    with pytest.raises(BundleError, match=message):
        fetch_bundle(REPO, tmp_path / "copy")
    assert {p.name for p in tmp_path.iterdir()} == {"model", "hf_cache"}
    assert not list(tmp_path.rglob("*evil*"))
    assert not [r for r in pushed.requests if "evil" in r]


@pytest.mark.parametrize("entry", [None, {}, {"size": "1", "sha256": "x"}, {"size": True}])
def test_config_without_sizes(pushed, tmp_path, entry):
    files = json.loads(pushed.repos[REPO].files["config.json"])["files"]
    edit_config(pushed, files={**files, "genes.json": entry})
    with pytest.raises(BundleError, match="lab/cells/config.json is malformed: it has no size of"):
        fetch_bundle(REPO, tmp_path / "copy")


def altered(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("name", ["genes.json", "model.safetensors"])
def test_wrong_hash(pushed, tmp_path, name):
    repo = pushed.repos[REPO]
    repo.commit("main", {**repo.files, name: altered(repo.files[name])})
    with pytest.raises(BundleError, match=f"^lab/cells/{name} was altered after it was saved"):
        fetch_bundle(REPO, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_damaged_cache(pushed, tmp_path):
    fetch_bundle(REPO, tmp_path / "one")
    (blob,) = [p for p in (tmp_path / "hf_cache").rglob("blobs/*") if len(p.name) == 64]
    blob.write_bytes(altered(blob.read_bytes()))
    with pytest.raises(BundleError, match=r"safetensors was altered .* delete it: /") as caught:
        fetch_bundle(REPO, tmp_path / "two")
    shutil.rmtree(str(caught.value).split("delete it: ")[1])
    fetch_bundle(REPO, tmp_path / "two")


def test_config_that_was_edited(pushed, tmp_path):
    text = pushed.repos[REPO].files["config.json"].replace(b"MaskedAuto", b"Masked_Auto")
    pushed.replace(REPO, config_json=text)
    with pytest.raises(BundleError, match=r"^lab/cells/config.json was altered"):
        fetch_bundle(REPO, tmp_path / "copy")


@pytest.mark.parametrize("name", FILES)
def test_missing_file(pushed, tmp_path, name):
    repo = pushed.repos[REPO]
    repo.commit("main", {n: c for n, c in repo.files.items() if n != name})
    expected = rf"lab/cells/{name}.* failed: .*Entry Not.* Its files: {pushed.url}/lab/cells/tree/"
    if name == "config.json":
        expected = r"lab/cells/config.json failed: .* not a model of scssl.*list_models\(\)"
    with pytest.raises(FileNotFoundError, match=expected):
        fetch_bundle(REPO, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["config.json", "genes.json"])
def test_huge_json(pushed, tmp_path, name):
    """It is refused by what the hub says of it, before a byte of it comes."""
    size = MAX_JSON_BYTES + 1
    pushed.sizes[name] = size
    files = json.loads(pushed.repos[REPO].files["config.json"])["files"]
    edit_config(pushed, files={**files, "genes.json": {**files["genes.json"], "size": size}})
    message = f"lab/cells/{name} has {size:,} bytes; more than 67,108,864 are not fetched"
    with pytest.raises(BundleError, match=message):
        fetch_bundle(REPO, tmp_path / "copy")
    assert not [r for r in pushed.asked("GET") if name in r]


def test_file_of_another_size(pushed, tmp_path):
    pushed.repos[REPO].commit("main", {**pushed.repos[REPO].files, "model.safetensors": b"1234"})
    with pytest.raises(BundleError, match=r"model.safetensors is not the file .* it has 4 bytes"):
        fetch_bundle(REPO, tmp_path / "copy")
    assert pushed.asked("GET", "/storage/") == []


def test_unknown_size(pushed, tmp_path):
    pushed.sizes["config.json"] = None
    # The first versions of the client refuse it themselves.
    with pytest.raises((BundleError, ConnectionError), match=r"does not say how large|Length"):
        fetch_bundle(REPO, tmp_path / "copy")
    assert pushed.asked("GET") == []


def test_false_size(pushed, tmp_path):
    pushed.sizes["config.json"] = 10
    with pytest.raises(OSError, match="should be of size 10"):
        fetch_bundle(REPO, tmp_path / "copy")


def test_newer_format(pushed, tmp_path):
    edit_config(pushed, format_version=99)
    message = "^lab/cells has format version 99; .* reads up to 1. Upgrade it: .pip install"
    with pytest.raises(BundleError, match=message):
        fetch_bundle(REPO, tmp_path / "copy")
    assert not [r for r in pushed.requests if "safetensors" in r or "genes" in r]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b'{"model_type": "bert"}', "^lab/cells was not saved by scssl: the format .* is None"),
        (b"{", "^lab/cells/config.json is truncated or malformed"),
        (b"[" * 100_000, "^lab/cells/config.json is truncated or malformed"),
        (b"[1]", "^lab/cells/config.json is malformed"),
    ],
)
def test_model_of_another_program_is_not_fetched(hub, tmp_path, config, message):
    hub.add(REPO, {"config.json": config, "model.safetensors": b"x", "genes.json": b"{}"})
    with pytest.raises(BundleError, match=message):
        fetch_bundle(REPO, tmp_path / "copy")
    assert not [r for r in hub.requests if "safetensors" in r or "genes" in r]


# --- who may read ---------------------------------------------------------------------------------


def test_private(hub, folder, tmp_path, monkeypatch):
    push_bundle(folder, REPO, card=CARD, private=True)
    monkeypatch.delenv("HF_TOKEN")
    message = (
        r'lab/cells/config.json failed: .* Repository Not Found.* private .*list_models\(author="lab"\)'
        ".*hf auth login"
    )
    with pytest.raises(FileNotFoundError, match=message):
        fetch_bundle(REPO, tmp_path / "copy")
    fetch_bundle(REPO, tmp_path / "copy", token=READER)
    # The token is not sent to the storage, which is another host; the server would refuse it.
    assert len(hub.asked("GET", "/storage/")) == 1


@pytest.mark.parametrize("token", [READER, False])
def test_no_such_repository(hub, token):
    with pytest.raises(FileNotFoundError, match="lab/none/config.json failed: .* Repository Not"):
        fetch_file("lab/none", "config.json", token=token)


def test_gated(hub, folder, monkeypatch):
    push_bundle(folder, REPO, card=CARD)
    hub.repos[REPO].gated = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        PermissionError, match=rf"gated repo.* Ask for access on {hub.url}/lab/cells"
    ):
        fetch_file(REPO, "config.json")


def test_token_that_is_no_longer_valid(pushed):
    with pytest.raises(
        PermissionError, match=r"Reading lab/cells/config.json failed: .*401.* Log in"
    ):
        fetch_file(REPO, "config.json", token="hf_old")


# --- single files ---------------------------------------------------------------------------------


def test_fetch_file(hub):
    data = os.urandom(2000)
    hub.add(REPO, {"Pretrained Models/Random.ckpt": data, "var.csv": b"a,b\n"})
    path = fetch_file(REPO, "Pretrained Models/Random.ckpt")
    assert path.read_bytes() == data
    assert path.name == "Random.ckpt"
    assert fetch_file(REPO, "var.csv").read_bytes() == b"a,b\n"
    hub.requests.clear()
    assert fetch_file(REPO, "Pretrained Models/Random.ckpt") == path
    assert hub.asked("GET") == []


def test_expected_hash(hub):
    hub.add(REPO, {"a.ckpt": b"first"})
    digest = hashlib.sha256(b"first").hexdigest()
    path = fetch_file(REPO, "a.ckpt", expected_sha256=digest.upper())
    other = "0" * 64
    message = (
        f"a.ckpt of lab/cells is another file .* {digest}, not {other}.*delete {path.resolve()}"
    )
    with pytest.raises(BundleError, match=message):
        fetch_file(REPO, "a.ckpt", expected_sha256=other)
    with pytest.raises(ValueError, match="must have 64 hexadecimal digits, found 'abc'"):
        fetch_file(REPO, "a.ckpt", expected_sha256="abc")


def test_a_damaged_file_is_fetched_again_as_the_message_says(hub):
    hub.add(REPO, {"a.ckpt": b"first"})
    digest = hashlib.sha256(b"first").hexdigest()
    path = fetch_file(REPO, "a.ckpt")
    path.resolve().write_bytes(b"fiXst")
    with pytest.raises(BundleError, match="delete ") as caught:
        fetch_file(REPO, "a.ckpt", expected_sha256=digest)
    os.unlink(str(caught.value).split("delete ")[1])
    assert fetch_file(REPO, "a.ckpt", expected_sha256=digest).read_bytes() == b"first"


def test_a_changed_file_is_fetched_anew(hub):
    repo = hub.add(REPO, {"a.txt": b"first"})
    earlier = repo.branches["main"]
    assert fetch_file(REPO, "a.txt").read_bytes() == b"first"
    repo.commit("main", {"a.txt": b"second"})
    assert fetch_file(REPO, "a.txt").read_bytes() == b"second"
    assert fetch_file(REPO, "a.txt", revision=earlier).read_bytes() == b"first"


# --- without a network ----------------------------------------------------------------------------


def test_offline(pushed, folder, tmp_path, monkeypatch):
    fetch_bundle(REPO, tmp_path / "one")
    pushed.requests.clear()
    offline(monkeypatch)
    commit = fetch_bundle(REPO, tmp_path / "two")
    assert commit == pushed.repos[REPO].branches["main"]
    assert read_bundle(tmp_path / "two").config == read_bundle(folder).config
    fetch_bundle(REPO, tmp_path / "three", revision=commit)
    message = (
        r"lab/other/config.json is not in the cache \(.*hub\), and HF_HUB_OFFLINE is set.*hf down"
    )
    with pytest.raises(ConnectionError, match=message):
        fetch_bundle("lab/other", tmp_path / "four")
    with pytest.raises(ConnectionError, match="lab/cells/README.md at 'v2' is not in the cache"):
        fetch_file(REPO, "README.md", revision="v2")
    with pytest.raises(
        ConnectionError, match="list of models failed: .*unset the `HF_HUB_OFFLINE`"
    ):
        list_models()
    with pytest.raises(ConnectionError, match="Writing to lab/cells failed: .*HF_HUB_OFFLINE"):
        push_bundle(folder, REPO, card=CARD)
    assert pushed.requests == []


def test_no_network(pushed, folder, tmp_path, monkeypatch, no_waiting):
    fetch_bundle(REPO, tmp_path / "one")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    fetch_bundle(REPO, tmp_path / "two")
    message = r"lab/other/config.json is not in the cache .*127.0.0.1:9: .*Check the network"
    with pytest.raises(ConnectionError, match=message):
        fetch_bundle("lab/other", tmp_path / "three")
    for call in (list_models, lambda: push_bundle(folder, REPO, card=CARD)):
        with pytest.raises(ConnectionError, match="failed: .*refused. Check the network to http"):
            call()


def test_the_hub_is_down(pushed, tmp_path, no_waiting):
    pushed.failures["HEAD", "/resolve/"] = 503
    with pytest.raises(ConnectionError, match="cannot be fetched from .*503"):
        fetch_bundle(REPO, tmp_path / "copy")
    pushed.failures["GET", "/api/models"] = 500
    with pytest.raises(ConnectionError, match="failed: .*500.* Try again later"):
        list_models()


# --- an endpoint that is hostile, or no hub ---------------------------------------------------------


@pytest.mark.parametrize("header", ["ETag", "X_Linked_Etag", "X_Repo_Commit"])
@pytest.mark.parametrize("name", ['"../../../../outside"', "W/../../../../outside", "/outside"])
def test_names_that_lead_out_of_the_cache(pushed, tmp_path, header, name):
    pushed.spoils["HEAD "] = lambda content, headers: headers.update({header: name}) or content
    before = {*tmp_path.rglob("*")}
    with pytest.raises(BundleError, match="which is no name in the cache: nothing was written"):
        fetch_file(REPO, "config.json")
    assert not [path for path in {*tmp_path.rglob("*")} - before if "outside" in path.name]


def half(content, headers):
    return content[: len(content) // 2]


def page(content, headers):
    return b"<html>It works!</html>"


def of_another_kind(content, headers):
    return b"[3]"


@pytest.mark.parametrize("spoil", [half, page, of_another_kind])
@pytest.mark.parametrize(
    ("part", "ask"),
    [
        ("GET /api/models", lambda folder: list_models()),
        ("GET /lab/cells/resolve", lambda folder: fetch_bundle(REPO, folder.parent / "new")),
        ("GET /storage", lambda folder: fetch_bundle(REPO, folder.parent / "new")),
        ("POST /api/repos", lambda folder: push_bundle(folder, REPO, card=CARD)),
        ("POST /api/models/lab/cells/commit", lambda f: push_bundle(f, REPO, card=CARD)),
    ],
)
def test_answers_that_are_cut_off(pushed, folder, no_waiting, part, ask, spoil):
    pushed.spoils[part] = spoil
    with pytest.raises(ConnectionError, match="failed: .* Try again, or check HF_ENDPOINT"):
        ask(folder)


def test_a_full_disk_is_no_failure_of_the_hub(pushed, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(OSError, match="No space left") as found:
        fetch_file(REPO, "config.json")
    assert not isinstance(found.value, ConnectionError)


# --- the list of models ---------------------------------------------------------------------------


def card(**about):
    return {"README.md": f"---\n{json.dumps({'tags': ['scssl'], **about})}\n---\n".encode()}


def test_list_models(hub):
    about = {"model": "MaskedAutoencoder", "n_cells": 700, "n_genes": 765, "species": "human"}
    hub.add("lab/blood", card(license="mit", scssl=about), downloads=5)
    hub.add("lab/lung", card(), downloads=9)
    hub.add("other/blood", card(scssl=about), downloads=7)
    hub.add("lab/bert", {"README.md": b"---\ntags: [nlp]\n---\n"}, downloads=1000)
    hub.add("lab/secret", card(), private=True)
    found = list_models()
    assert found["repo_id"].tolist() == ["lab/lung", "other/blood", "lab/blood", "lab/secret"]
    row = found.set_index("repo_id").loc["lab/blood"]
    assert row[["model", "species", "n_cells", "n_genes", "license", "downloads"]].tolist() == [
        "MaskedAutoencoder",
        "human",
        700,
        765,
        "mit",
        5,
    ]
    assert row["last_modified"] == pd.Timestamp("2026-01-02 03:04:05", tz="UTC")
    assert found["private"].tolist() == [False, False, False, True]
    assert found["n_cells"].isna().tolist() == [True, False, False, True]
    assert list_models("lab")["repo_id"].tolist() == ["lab/lung", "lab/blood", "lab/secret"]
    assert list_models(search="blood")["repo_id"].tolist() == ["other/blood", "lab/blood"]
    assert list_models(limit=3)["repo_id"].tolist() == ["lab/lung", "other/blood", "lab/blood"]
    assert len(list_models(limit=None)) == 4
    assert "lab/secret" not in list_models(token=False)["repo_id"].tolist()
    empty = list_models("nobody")
    assert len(empty) == 0
    assert empty.columns.tolist() == found.columns.tolist()
    with pytest.raises(ValueError, match="`limit` must be a whole number of at least 1 or None"):
        list_models(limit=0)


@pytest.mark.parametrize(
    "about",
    ["text", ["list"], {"n_cells": "many", "model": ["x"], "n_genes": True, "species": {"a": 1}}],
)
def test_cards_of_strangers(hub, about):
    hub.add("lab/odd", card(scssl=about, license=["a"]))
    row = list_models().iloc[0]
    assert row["repo_id"] == "lab/odd"
    assert row[["model", "species", "n_cells", "n_genes", "license"]].isna().all()


@pytest.mark.parametrize(
    "more",
    [
        {"scssl": {"n_cells": 10**30}},
        {"scssl": {"n_genes": -(2**63) - 1}},
        {"self": 1},
        {"ignore_metadata_errors": True},
    ],
)
def test_one_odd_card_does_not_cost_the_list(hub, more):
    hub.add("lab/odd", card(**more))
    hub.add("lab/sound", card(scssl={"n_cells": 3}, license="mit"))
    found = list_models().set_index("repo_id")
    assert found.loc["lab/odd", ["n_cells", "n_genes", "license"]].isna().all()
    assert found.loc["lab/sound", ["n_cells", "license"]].tolist() == [3, "mit"]


# --- as users run it: a process with environment variables -----------------------------------------


@pytest.mark.slow
def test_in_a_process_of_its_own(pushed, tmp_path):
    def run(*repo_ids, **environment):
        lines = [f"print(scssl.hub.fetch_file({repo_id!r}, 'config.json'))" for repo_id in repo_ids]
        return subprocess.run(
            [sys.executable, "-c", "\n".join(["import scssl", *lines])],
            env={
                **os.environ,
                "HF_ENDPOINT": pushed.url,
                "HF_HOME": str(tmp_path / "home"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = run(REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "home"))
    pushed.requests.clear()
    offline = run(REPO, "lab/other", HF_HUB_OFFLINE="1")
    assert offline.stdout == done.stdout
    assert "ConnectionError: lab/other/config.json is not in the cache" in offline.stderr
    assert pushed.requests == []
