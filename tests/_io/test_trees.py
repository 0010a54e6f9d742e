"""Nested values survive the way to disk exactly; anything that was changed on disk is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl._errors import BundleError
from scssl._io._files import MAX_JSON_BYTES
from scssl._io._trees import decode, encode, load_tree, save_tree

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from([np.float32(0.1), np.int64(-3), np.bool_(True), np.float64("inf")])
)
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text())
TREES = st.recursive(
    SCALARS,
    lambda child: (
        st.lists(child, max_size=4)
        | st.lists(child, max_size=4).map(tuple)
        | st.dictionaries(KEYS, child, max_size=4)
    ),
    max_leaves=15,
)


@pytest.fixture
def files(tmp_path):
    return tmp_path / "tensors.safetensors", tmp_path / "tree.json"


def same(a, b):
    """Equal in value, type and order, at every level."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(tree=TREES)
@settings(max_examples=200, deadline=None)
def test_plain_values_round_trip_through_json(tree):
    text = json.dumps(encode(tree), allow_nan=False)
    assert same(decode(json.loads(text)), tree)


@pytest.mark.parametrize(
    "key", ["$", "$tag", "a.b", "", "__metadata__", 0, -1, 1.5, None, (1, "a")]
)
def test_keys_round_trip(files, key):
    tree = {key: torch.arange(3), "other": {key: 1}}
    save_tree(tree, *files)
    loaded = load_tree(*files)
    assert list(loaded) == [key, "other"]
    assert loaded["other"] == {key: 1}
    assert torch.equal(loaded[key], torch.arange(3))


def test_nan_round_trips(files):
    save_tree([float("nan"), np.float32("nan")], *files)
    value, scalar = load_tree(*files)
    assert math.isnan(value)
    assert math.isnan(scalar)
    assert type(scalar) is np.float32


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.uint8,
        torch.bool,
    ],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_round_trip(files, dtype, shape):
    tensor = torch.ones(shape).to(dtype)
    save_tree({"x": tensor}, *files)
    loaded = load_tree(*files)["x"]
    assert loaded.dtype == dtype
    assert torch.equal(loaded, tensor)


@pytest.mark.parametrize("dtype", ["float32", "float16", ">f8", "uint16", "bool", "int64"])
def test_arrays_round_trip(files, dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)[:, ::-2]
    array.flags.writeable = False
    save_tree([array], *files)
    (loaded,) = load_tree(*files)
    assert loaded.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(loaded, array)


def test_views_and_parameters_are_saved_by_value(files):
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"all": base, "t": base.T, "row": base[1], "p": torch.nn.Parameter(base[:, 1])}
    save_tree(tree, *files)
    loaded = load_tree(*files)
    for name, tensor in tree.items():
        assert torch.equal(loaded[name], tensor.detach())
    loaded["all"][1, 0] = -1
    assert loaded["row"][0] == 4, "different tensors of one storage must come back separate"


def test_one_shared_tensor_stays_shared(files):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    save_tree({"encoder": weight, "decoder": [weight.data]}, *files)
    loaded = load_tree(*files)
    assert loaded["encoder"] is loaded["decoder"][0]
    assert not loaded["encoder"].requires_grad


def test_paths_that_look_alike_do_not_collide(files):
    tree = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), "a.b#2": torch.full((1,), 2.0)}
    save_tree(tree, *files)
    loaded = load_tree(*files)
    assert [float(x) for x in (loaded["a"]["b"], loaded["a.b"], loaded["a.b#2"])] == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (print, r"\['state'\]\[1\]: it is a builtins.builtin_function_or_method"),
        ({1, 2}, r"\['state'\]\[1\]: it is a builtins.set"),
        (torch.float32, r"it is a torch.dtype"),
        (np.array(["a"]), r"an array of dtype <U1 is neither numbers nor booleans"),
        (np.array([None]), r"an array of dtype object"),
        (torch.eye(2).to_sparse(), r"only dense tensors, found torch.sparse_coo"),
        (torch.ones(1, device="meta"), r"only dense tensors, found torch.strided on meta"),
        ({frozenset(): 1}, r"frozenset\(\) \(frozenset\) cannot be saved as a key"),
    ],
)
def test_what_is_not_data_is_refused_with_its_place(files, value, message):
    with pytest.raises(TypeError, match=message):
        save_tree({"state": [0, value]}, *files)
    assert not files[1].exists()


def test_a_value_that_contains_itself_is_refused(files):
    loop = {}
    loop["again"] = loop
    with pytest.raises(ValueError, match=r"\['again'\]\['again'\].*or contains itself"):
        save_tree(loop, *files)


@pytest.fixture
def saved(files):
    save_tree({"w": torch.ones(100), "epoch": 3}, *files)
    return files


def test_truncated_tensors_are_refused(saved):
    saved[0].write_bytes(saved[0].read_bytes()[:-7])
    with pytest.raises(BundleError, match=r"tensors.safetensors is truncated: it has \d+ bytes"):
        load_tree(*saved)


def test_altered_tensors_are_refused(saved):
    content = bytearray(saved[0].read_bytes())
    content[-1] ^= 1
    saved[0].write_bytes(content)
    with pytest.raises(BundleError, match=r"tensors.safetensors was altered after it was saved"):
        load_tree(*saved)


def test_truncated_json_is_refused(saved):
    saved[1].write_bytes(saved[1].read_bytes()[:-7])
    with pytest.raises(BundleError, match=r"tree.json is truncated or malformed"):
        load_tree(*saved)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tree": {"epoch": 4}}, "tree.json was altered after it was saved"),
        ({"format": "other"}, "was not written by scssl: its format is 'other'"),
        (
            {"format_version": 99},
            "has format version 99; this version of scssl reads up to 1.*pip install",
        ),
        ({"format_version": "1"}, "is malformed: its format_version is '1'"),
        ({"tensors": {"size": 3}}, "No size and sha256 are recorded for .*tensors.safetensors"),
    ],
)
def test_edited_json_is_refused(saved, changes, message):
    edit(saved[1], **changes)
    with pytest.raises(BundleError, match=message):
        load_tree(*saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds a JSON list, no object"),
        ('{"a": NaN}', "NaN is no number in JSON"),
        ("[" * 100_000, "truncated or malformed"),
        ("{" + " " * MAX_JSON_BYTES, "more than 67,108,864 are not read"),
    ],
    ids=["list", "nan", "deep", "huge"],
)
def test_hostile_json_is_refused(saved, text, message):
    saved[1].write_text(text)
    with pytest.raises(BundleError, match=message):
        load_tree(*saved)


@pytest.mark.parametrize(
    "value",
    [
        {"$": "call", "name": "os.system"},
        {"$": ["list"]},
        {"$": "float", "value": "1e9"},
        {"$": "scalar", "dtype": "O", "value": 1},
        {"$": "scalar", "dtype": "int8", "value": 1000},
        {"$": "tensor", "name": "absent"},
        {"$": "tuple"},
        {"$": "dict", "items": [[[1], 2]]},
        {"$": "dict", "items": [1]},
    ],
    ids=str,
)
def test_unknown_or_malformed_entries_are_refused(value):
    with pytest.raises(BundleError, match="saved data is malformed"):
        decode({"entry": value})


def test_links_are_not_followed(saved, tmp_path):
    target = saved[0].rename(tmp_path / "elsewhere")
    saved[0].symlink_to(target)
    with pytest.raises(BundleError, match=r"is a symbolic link.*cp -rL"):
        load_tree(*saved)
