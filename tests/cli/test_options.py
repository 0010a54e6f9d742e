"""Options say what the signature and the docstring say, and read text as the annotation has it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from scssl.cli._options import (
    Option,
    documented,
    each_once,
    first_sentence,
    options_of,
    write_configuration,
)

if TYPE_CHECKING:
    from somewhere import Unknown

MAPPING = {"per": "batch", "rate": 0.5, "on": True}


@pytest.mark.parametrize(
    ("annotation", "given", "value"),
    [
        (int, "3", 3),
        (float, "3", 3.0),
        (float | None, "none", None),
        (float | None, "null", None),
        (int | Literal["auto"] | None, "all", None),
        (str | None, "all", "all"),
        (Literal["auto", "off"], "off", "off"),
        (Literal["none", "encoder"] | int, "none", "none"),
        (Literal["none", "encoder"] | int, "2", 2),
        (Annotated[float, "(0, inf)"] | None, "1e-3", 1e-3),
        (str | Path | None, "a folder", "a folder"),
        (bool | None, "false", False),
        (Sequence[int], "64", [64]),
        (Sequence[int], ["64", "32"], [64, 32]),
        (Sequence[int] | None, [], []),
        (Sequence[str] | None, "none", None),
        (int | list[int] | str, "2", 2),
        (int | list[int] | str, ["0", "1"], [0, 1]),
        (int | list[int] | str, "auto", "auto"),
        (Mapping[str, Any] | None, ["per=batch", "rate=0.5", "on=true"], MAPPING),
        (Mapping[str, Any] | None, {"per": "batch", "rate": "0.5", "on": "true"}, MAPPING),
        (str | Sequence[Any] | Mapping[str, Any] | None, "mask", "mask"),
        (str | Sequence[Any] | Mapping[str, Any] | None, ["mask", "swap"], ["mask", "swap"]),
    ],
)
def test_text_becomes_what_the_annotation_says(annotation, given, value):
    found = Option("x", annotation, None, "").read(given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "given", "message"),
    [
        (int, "many", "must be a whole number, found many"),
        (int, "1.5", "must be a whole number, found 1.5"),
        (float | None, "x", "must be a number or none, found x"),
        (Literal["mse", "nb", "bce"], "l1", "must be mse, nb or bce, found l1"),
        (Sequence[int], ["1", "x"], "must be one or several numbers, found 1 x"),
        (Mapping[str, Any], "batch", "must be NAME=VALUE, found batch"),
        (int, ["1", "2"], "must be a whole number, found 1 2"),
    ],
)
def test_text_that_is_something_else(annotation, given, message):
    with pytest.raises(ValueError) as error:
        Option("x", annotation, None, "").read(given)
    assert str(error.value) == message


class Base:
    def __init__(self, *, width: int = 3, depth: Sequence[int] = (1, 2)) -> None:
        """Nothing."""

    def fit(self, rate: float | None = None, *, unknown: Unknown | str = "x") -> None:
        """Fit.

        Parameters
        ----------
        rate, unknown
            Of the fit.
        """


class Heir(Base):
    """Something.

    Parameters
    ----------
    loss
        ``"a"``: one; see :class:`~scssl.model.SimCLR`. ``"b"``: the other, as in :cite:p:`Chen2020`. The rest.
    width
        Of it. It is wide.
    """

    def __init__(self, *, loss: Literal["a", "b"] = "a", **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def fit(self, rate: float | None = None, **kwargs: Any) -> None:
        """Fit.

        Parameters
        ----------
        rate
            As in the base.
        **kwargs
            Handed on.
        """


for one in (Base, Heir):
    one.__module__ = "scssl.made_up"


def test_arguments_that_are_handed_on_are_options_too():
    assert list(options_of(Heir, "__init__")) == ["loss", "width", "depth"]
    assert list(options_of(Heir, "__init__", handed_on=False)) == ["loss"]
    fit = options_of(Heir, "fit", skip=["unknown"])
    assert list(fit) == ["rate"]
    assert fit["rate"].text == "Of the fit.", "what only refers to the base is said by it"
    assert options_of(Base, "fit")["unknown"].read("y") == "y"


def test_a_signature_that_was_made_is_complete():
    class Made(Base):
        def __init__(self, **kwargs: Any) -> None:
            pass

    Made.__module__ = "scssl.made_up"
    assert list(options_of(Made, "__init__")) == ["width", "depth"]
    Made.__init__.__signature__ = inspect.signature(Heir.__init__)
    assert list(options_of(Made, "__init__")) == ["loss"]


def test_help_is_short_and_plain():
    loss = options_of(Heir, "__init__")["loss"]
    assert loss.help == "a: one; see SimCLR. b: the other, as in Chen 2020 (default: a)"
    assert loss.metavar == "a|b"
    assert options_of(Heir, "__init__")["width"].help == "Of it. It is wide (default: 3)"
    assert options_of(Heir, "__init__")["depth"].help == " (default: 1 2)"
    assert first_sentence("Contrast views :cite:p:`Chen2020`. And more.") == (
        "Contrast views (Chen 2020)"
    )
    assert documented("A.\n\nParameters\n----------\nx, y\n    Two.\n\nReturns\n-------\nz") == {
        "x": "Two.",
        "y": "Two.",
    }


def test_an_option_is_written_once():
    options = options_of(Heir, "__init__")
    groups = each_once({"": options, "again": options})
    assert groups["again"] == {}
    text = write_configuration({"width": 5}, groups)
    assert text == "# loss: a\nwidth: 5\n# depth: [1, 2]\n\n# again\n"
