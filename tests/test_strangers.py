"""Files of strangers: whatever is in them, they are read, or refused with a BundleError, and at no cost.

Each day other files are made up; a failure names the seed, which is the first parameter.
"""

from __future__ import annotations

import copy
import datetime
import json
import resource
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from scssl._errors import BundleError
from scssl._io._files import describe_bytes
from scssl._io._trees import json_sha256

# Not when the first file is read, which is timed.
from scssl.model import CellPLM, MaskedAutoencoder, SSLModel

SAVED = Path(__file__).parent / "model" / "saved"
TODAY = datetime.date.today().toordinal()
N_FILES = 150
VALUES = [
    *(None, True, False, 0, -1, 1, 3, 10**6, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, "", "1"),
    *("nb", "../../x", "\0", [], {}, [0], [[1]], [0, 2**63], [10**9], {"$": "tuple"}, {"a": 1}),
    *({"$": "float", "value": "nan"}, {"$": "dict", "items": [[[], 1]]}, [None] * 3),
]


def places(value, path=()):
    """Paths of all entries of a JSON value; of a long list, of some."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))[:3]
    for key, item in items:
        yield from places(item, (*path, key))


def altered(rng, document, *, keep=()):
    """A copy in which one to three entries are gone, or something else."""
    document = copy.deepcopy(document)
    for _ in range(rng.integers(1, 4)):
        there = [path for path in places(document) if path and path[0] not in keep]
        if not there:
            return document
        *path, last = there[rng.integers(len(there))]
        at = document
        for key in path:
            at = at[key]
        if rng.random() < 0.2:
            del at[last]
        else:
            at[last] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return document


@contextmanager
def cheap():
    """What is done in a moment and in little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    yield
    assert time.process_time() - start < 5
    # Of the process, in kilobytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10


def read_or_refused(read):
    """What is read, `None` if it is refused."""
    with cheap(), suppress(BundleError):
        return read()
    return None


def write(folder, document, genes):
    content = json.dumps(genes).encode()
    (folder / "genes.json").write_bytes(content)
    if isinstance(document.get("files"), dict) and "genes.json" in document["files"]:
        document["files"]["genes.json"] = describe_bytes(content)
    document.pop("config_sha256", None)
    document["config_sha256"] = json_sha256(document)
    (folder / "config.json").write_text(json.dumps(document))


def edited(tmp_path, name, change):
    """A saved model with another configuration, signed anew."""
    folder = Path(shutil.copytree(SAVED / name, tmp_path / "model"))
    document = json.loads((folder / "config.json").read_text())
    change(document)
    write(folder, document, json.loads((folder / "genes.json").read_text()))
    return folder


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mae", {"hidden_dims": [20_000, 20_000]}, "is numbers of shape .* where numbers of shape"),
        ("mae", {"hidden_dims": [1] * 10**5}, "more layers than there are tensors"),
        ("mae", {"hidden_dims": [0, 2**63]}, "hidden_dims"),
        ("mae", {"hidden_dims": ["32"]}, "hidden_dims"),
        ("SimCLR", {"n_latent": 10**9}, "where numbers of shape .*1000000000"),
        ("SimCLR", {"n_latent": 2**70}, "OverflowError|RuntimeError|TypeError"),
        ("CellPLM", {"n_layers": 10**9}, "more layers than there are tensors"),
        ("CellPLM", {"n_layers": 2}, "encoder.layers.1.* is nothing, where numbers of shape"),
        ("CellPLM", {"n_hidden": 40_000}, "where numbers of shape .*40000"),
    ],
)
def test_sizes_are_compared_before_anything_is_built(name, arguments, message, tmp_path):
    folder = edited(tmp_path, name, lambda document: document["arguments"].update(arguments))
    match = f"does not fit the model it says .*({message})"
    with cheap(), pytest.raises(BundleError, match=match):
        SSLModel.load(folder)


def of_setup(**changes):
    return lambda document: document["registry"]["scssl_setup"]["setup"].update(changes)


def of_batch(mapping):
    def change(document):
        fields = document["registry"]["field_registries"]
        fields["batch"]["state_registry"]["categorical_mapping"] = mapping

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_setup(target_sum={"a": 1}), "`target_sum` must be"),
        (of_setup(target_sum=-1), "`target_sum` must be"),
        (of_setup(input_kind="pca"), "`input_kind` must be"),
        (of_setup(categories={}), "KeyError: 'batch'"),
        (of_setup(batch_key=3), "KeyError: 3"),
        (of_batch("ab"), "the categories 'ab' are no list"),
        (of_batch([["a"], ["b"]]), "are no list"),
        (lambda document: document["training"].pop("best_epoch"), "KeyError: 'best_epoch'"),
        (lambda document: document.update(training=[1]), "does not fit"),
        (lambda document: document.pop("registry"), "KeyError: 'registry'"),
        (lambda document: document.update(history=[3]), "does not fit"),
        (lambda d: d["files"]["model.safetensors"].update(size="12432"), "No size and sha256"),
    ],
)
def test_whatever_is_wrong_is_a_bundle_error(change, message, tmp_path):
    with pytest.raises(BundleError, match=message):
        SSLModel.load(edited(tmp_path, "SimCLR", change))


def test_numbers_that_are_none(tmp_path):
    folder = edited(tmp_path, "SimCLR", lambda document: None)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"lr": 0.002', '"lr": 1e400'))
    with pytest.raises(BundleError, match="not readable JSON .1e400 is no number"):
        SSLModel.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [TODAY])
@pytest.mark.parametrize("name", ["mae", "SimCLR", "CellPLM"])
def test_folders(name, seed, tmp_path):
    rng = np.random.default_rng(seed)
    folder = Path(shutil.copytree(SAVED / name, tmp_path / "model"))
    document = json.loads((folder / "config.json").read_text())
    genes = json.loads((folder / "genes.json").read_text())
    document["history"] = {"train_loss": document["history"]["train_loss"]}
    n_read = 0
    for i in range(N_FILES):
        part = altered(rng, document, keep=("format", "format_version", "class", "files"))
        names = altered(rng, genes) if i % 5 == 0 else genes
        write(folder, altered(rng, document) if i % 10 == 1 else part, names)
        model = read_or_refused(lambda: SSLModel.load(folder))
        if model is not None:
            n_read += 1
            repr(model)
            model.make_card()
            SSLModel.load_registry(folder)
    assert n_read < N_FILES


def bits(rng, content):
    """The bytes of a file cut off, or some of them changed."""
    content = bytearray(content)
    if rng.random() < 0.3:
        return bytes(content[: rng.integers(len(content))])
    # What says what a file holds is at its ends.
    edge = min(2000, len(content))
    for _ in range(rng.integers(1, 8)):
        at = rng.integers(edge) if rng.random() < 0.5 else -1 - rng.integers(edge)
        content[at] = rng.integers(256)
    return bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [TODAY])
def test_headers_of_tensors(seed, tmp_path):
    rng = np.random.default_rng(seed)
    folder = Path(shutil.copytree(SAVED / "mae", tmp_path / "model"))
    document = json.loads((folder / "config.json").read_text())
    genes = json.loads((folder / "genes.json").read_text())
    whole = (folder / "model.safetensors").read_bytes()
    n_header = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + n_header])
    for i in range(N_FILES):
        if i % 2:
            content = bits(rng, whole)
        else:
            text = json.dumps(altered(rng, header)).encode()
            content = len(text).to_bytes(8, "little") + text + whole[8 + n_header :]
        (folder / "model.safetensors").write_bytes(content)
        document["files"]["model.safetensors"] = describe_bytes(content)
        write(folder, document, genes)
        read_or_refused(lambda: SSLModel.load(folder))


def altered_state(rng, state):
    """Tensors of which one is gone, one of another shape or kind, or one that is none."""
    whole, state, keys = state, dict(state), list(state)
    for _ in range(rng.integers(1, 3)):
        key = keys[rng.integers(len(keys))]
        tensor = whole[key]
        state.pop(key, None)
        changes = [
            *(
                tensor.flatten()[:1],
                tensor.unsqueeze(0),
                tensor.double(),
                tensor.long(),
                tensor * torch.nan,
            ),
            *(
                tensor.new_ones(()).expand(10**5, 10**5),
                tensor.new_empty(0),
                tensor.bool(),
                [tensor],
                3,
            ),
        ]
        if rng.random() < 0.8:
            name = key if rng.random() < 0.8 else key.rpartition(".")[0]
            state[name] = changes[rng.integers(len(changes))]
    return state


@pytest.mark.slow
@pytest.mark.parametrize("seed", [TODAY])
@pytest.mark.parametrize("latent", ["gmvae", "vae", "ae"])
def test_published_cellplm(latent, seed, tmp_path, cellplm):
    rng = np.random.default_rng(seed)
    config, state = cellplm.checkpoint(tmp_path, "own", latent, 12)
    content = (tmp_path / "own.best.ckpt").read_bytes()
    for i in range(N_FILES):
        odd = [altered(rng, config), config, config][i % 3]
        cellplm.write(tmp_path, "own", odd, altered_state(rng, state) if i % 3 == 1 else state)
        if i % 3 == 2:
            (tmp_path / "own.best.ckpt").write_bytes(bits(rng, content))
        read_or_refused(lambda: CellPLM.from_pretrained(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [TODAY])
@pytest.mark.parametrize("family", ["autoencoder", "byol", "barlow_twins", "classifier"])
def test_published_autoencoders(family, seed, tmp_path, published):
    rng = np.random.default_rng(seed)
    genes = [f"GENE{i}" for i in range(12)]
    path = tmp_path / "own.ckpt"
    state = published.checkpoint(path, family, len(genes))
    content = path.read_bytes()
    for i in range(N_FILES // 5):
        if i % 2:
            path.write_bytes(bits(rng, content))
        else:
            published.write(path, altered_state(rng, state))
        read_or_refused(lambda: MaskedAutoencoder.from_pretrained(path, genes=genes))
