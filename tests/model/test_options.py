"""Hyper-parameters that are declared once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from scssl.model.base import Count, Options, Rate, option, takes


def doubled(name, value):
    return [2 * one for one in value]


@dataclass
class Few(Options):
    width: int = option(8, 64)
    dropout: Rate = 0.0
    steps: Count = 5
    kind: Literal["a", "b"] = "a"
    head: Literal["auto", "c"] | None = option(None, "c", left_open="auto")
    twice: Annotated[Sequence[int], doubled] = ()
    rest: int = option(None)
    share: float | None = None
    preset: Literal["paper"] | None = None


class Model:
    @takes(Few)
    def __init__(self, adata: int = 0, *, rng: int = 0, **options: object) -> None:
        pass


def test_what_is_left_open_is_the_default_or_what_the_preset_has():
    assert Few.chosen({}) == Few(width=8, head=None)
    assert Few.chosen({"width": None, "head": "auto"}) == Few()
    published = Few.chosen({"preset": "paper"})
    assert (published.width, published.head, published.dropout) == (64, "c", 0.0)
    given = Few.chosen({"preset": "paper", "width": 8, "head": None})
    assert (given.width, given.head) == (8, None)
    # What is saved makes the same again.
    for one in (Few.chosen({}), published, given):
        assert Few.chosen(one.to_dict()) == one
    with pytest.raises(TypeError, match="argument 'depth'"):
        Few.chosen({"depth": 2})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 0, "`width` must be a whole number of at least 1, found 0"),
        ("width", 1.5, "`width` must be a whole number"),
        ("dropout", 1, r"`dropout` must be a number in \[0, 1\), found 1"),
        ("dropout", None, "`dropout` must be a number"),
        ("steps", -1, "`steps` must be a whole number of at least 0"),
        ("kind", "c", "`kind` must be 'a' or 'b', found 'c'"),
        ("head", "d", "`head` must be 'auto', 'c' or None, found 'd'"),
        ("preset", "papers", "`preset` must be 'paper' or None"),
    ],
)
def test_values_are_checked(name, value, message):
    with pytest.raises(ValueError, match=message):
        Few(**{name: value})


def test_values_are_kept_as_their_types():
    few = Few(width=4.0, dropout=0, twice=[1, 2])
    assert [type(one) for one in (few.width, few.dropout)] == [int, float]
    assert (few.twice, few.rest, few.share) == ([2, 4], None, None)


def test_a_constructor_lists_them():
    found = inspect.signature(Model).parameters
    assert list(found) == ["adata", *Few().to_dict(), "rng"]
    assert (found["width"].default, found["width"].annotation) == (None, int | None)
    assert (found["head"].default, found["steps"].default) == ("auto", 5)
    assert found["dropout"].annotation is float
    assert found["rest"].annotation == int | None
