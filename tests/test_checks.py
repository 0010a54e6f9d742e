from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import scssl
from scssl._checks import (
    check_choice,
    check_destination,
    check_number,
    check_whole,
    check_widths,
    either,
    some,
    table_of,
    writable,
)
from scssl._errors import MissingKeyError, warn


class TestNumber:
    @pytest.mark.parametrize(
        ("bounds", "inside", "outside"),
        [
            ("[0, 1)", [0, 0.5, np.float32(0.25)], [1, -0.1]),
            ("(0, 1]", [1, np.int64(1), 1e-9], [0, 1.1]),
            ("(0, inf)", [1e-300, 5], [0, -1, np.inf]),
            ("[0, inf]", [0, np.inf], [-1e-9]),
            ("(-inf, inf)", [-5, 0], [np.inf, -np.inf]),
        ],
    )
    def test_bounds(self, bounds, inside, outside):
        for value in inside:
            found = check_number("x", value, bounds)
            assert found == value
            assert type(found) is float
        for value in [*outside, np.nan, "0.5", True, None, [0.5]]:
            with pytest.raises(ValueError, match="`x` must be a .*number.*, found"):
                check_number("x", value, bounds)

    def test_message(self):
        with pytest.raises(ValueError, match=r"`lr` must be a positive number or None, found -1\."):
            check_number("lr", -1, "(0, inf)", none=True)
        assert check_number("lr", None, none=True) is None


def test_whole():
    assert [check_whole("n", value) for value in (1, 3.0, np.int8(4))] == [1, 3, 4]
    assert type(check_whole("n", 3.0)) is int
    for value in (0, 2.5, True, "3", None, np.nan, np.inf):
        with pytest.raises(ValueError, match="`n` must be a whole number of at least 1, found"):
            check_whole("n", value)
    with pytest.raises(ValueError, match="from 0 to 1,000 or None, found 1001"):
        check_whole("n", 1001, 0, 1000, none=True)


def test_widths():
    assert check_widths("d", np.array([3, 2])) == [3, 2]
    assert check_widths("d", (), empty=True) == []
    for value in (3, "3", (), (3, 0), (2.5,)):
        with pytest.raises(ValueError, match="`d"):
            check_widths("d", value)


def test_choice():
    assert check_choice("x", "a", ("a", None)) == "a"
    assert check_choice("x", None, ("a", None)) is None
    # What is equal and of another type is another value.
    for value in ("c", 1, True, ["a"], np.array(["a"])):
        with pytest.raises(ValueError, match=r"`x` must be 'a', 'b' or 0, found"):
            check_choice("x", value, ("a", "b", 0))


def test_names():
    assert some([1, "b"]) == "'1', 'b'"
    assert some("abcdef", 2) == "'a', 'b', ..."
    assert either(["a", "b", None]) == "'a', 'b' or None"
    assert either(["a"]) == "'a'"


def test_warnings_point_at_the_line_of_the_user():
    with pytest.warns(scssl.ScsslWarning, match="look here") as caught:
        warn("look here")
    assert caught[0].filename == __file__


def test_warnings_of_callbacks_point_at_the_line_that_trains():
    import lightning.pytorch as lightning
    import torch
    from lightning.pytorch.demos.boring_classes import BoringModel

    class Warns(lightning.Callback):
        def on_train_start(self, trainer, module):
            namespace = {"warn": warn}
            # Compiled as a file of the package, as the callbacks of it are.
            place = scssl.__file__.replace("__init__", "train/_callbacks")
            exec(compile("warn('in training')", place, "exec"), namespace)

    trainer = lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Warns()],
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(BoringModel(), torch.utils.data.DataLoader(torch.zeros(2, 32)))
    found = [one.filename for one in caught if one.category is scssl.ScsslWarning]
    assert found == [__file__]


@pytest.mark.parametrize(
    ("key", "new"), [("a/b", "a_b"), ("/a/", "a"), (".", "X_new"), ("/", "X_new")]
)
def test_keys_that_no_file_can_have(key, new):
    with pytest.raises(ValueError, match=f"Give another: `key_added='{new}'`"):
        check_destination(None, key)
    check_destination(None, new)


def test_names_of_columns_that_can_be_written():
    assert writable(["CD3/CD4", "CD8", 3]) == ["CD3|CD4", "CD8", "3"]
    assert len(set(writable(["a/b", "a|b", "a/b|"]))) == 3


def test_a_table_that_no_file_can_hold_says_how_to_keep_it(caplog):
    with caplog.at_level("INFO", logger="scssl"):
        table = table_of(np.zeros((1, 2)), ["cell"], ["CD4+/CD25 T Reg", "B"])
    assert list(table) == ["CD4+/CD25 T Reg", "B"]
    assert "'CD4+/CD25 T Reg' have a / in their name" in caplog.text
    caplog.clear()
    table_of(np.zeros((1, 1)), ["cell"], ["B"])
    assert not caplog.text


def test_a_missing_key_is_said_as_it_is_written():
    error = MissingKeyError('adata.obs has no \'x\'; it has "y".\nDid you mean `key="y"`?')
    assert str(error) == error.args[0]
    assert str(MissingKeyError()) == ""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (MissingKeyError, str(error))


def test_every_key_error_is_one_of_ours():
    for path in Path(scssl.__file__).parent.rglob("*.py"):
        assert "raise KeyError(" not in path.read_text(), path
