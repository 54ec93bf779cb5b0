"""Views as data: what they refuse, and that JSON keeps every number."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutaway.errors import CutawayError, InputError
from cutaway.methods.table import METHODS
from cutaway.report import page
from cutaway.views import kinds as views
from cutaway.views.boards import Board, Papers, Square
from cutaway.views.graphs import Layered, Link
from cutaway.views.known import KINDS, from_json
from cutaway.views.picture import Picture
from cutaway.views.words import number
from report import examples

EVERY = {
    view.title: view for view in [*examples.every(), *examples.nothing(), examples.words(), examples.seeing_heads()]
}
each_view = pytest.mark.parametrize("title", EVERY)


def test_kinds_of_view_are_named_by_what_they_are_and_name_no_method() -> None:
    """Neither a kind nor what it holds nor the page that draws it has the name of a method or of its result."""
    plain = {
        "lens",
        "text",
        "texts",
        "head",
        "heads",
        "words",
        "word",
        "logit",
        "picture",
        "attention",
        "latent",
        "unit",
        "units",
        "token",
        "caption",
    }
    named = {word for one in METHODS for word in one.name.split("_")} | {"patching", "steered", "span", "spans"}
    kinds = [*KINDS, *(field.name for kind in KINDS.values() for field in fields(kind))]
    drawn = [
        name
        for path in (Path(page.__file__).parent / "assets").glob("*.js")
        for name in re.findall(r"(?:DRAW|TABLES)\.(\w+)", path.read_text())
    ]
    said = {word.lower() for name in (*kinds, *drawn) for word in re.findall(r"[A-Z]?[a-z]+", name)}
    assert not said & (named - plain) and set(drawn) <= set(KINDS)


@each_view
def test_json_comes_back_as_the_same_view(title: str) -> None:
    view = EVERY[title]
    again = from_json(view.to_json())
    assert type(again) is type(view)
    assert again == view
    assert hash(again) == hash(view)


@each_view
def test_json_has_no_nan_word(title: str) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(EVERY[title].to_json(), parse_constant=refuse)


def test_arrays_keep_their_numbers() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    view = views.Overlay(**examples.said("x"), picture=examples.picture(), texts=("a", "b"), values=values, unit="u")
    again = from_json(view.to_json())
    assert isinstance(again, views.Overlay)
    np.testing.assert_array_equal(again.values, values)
    assert again.values.dtype == np.float32


def test_a_view_keeps_its_own_copy() -> None:
    values = np.zeros((1, 2, 2), np.float32)
    view = views.Overlay(**examples.said("x"), picture=examples.picture(), texts=("a",), values=values, unit="u")
    values[:] = 1
    assert view.values.sum() == 0
    with pytest.raises(ValueError, match="read-only"):
        view.values[0, 0, 0] = 1


def wrong() -> dict[str, tuple[type, dict[str, object]]]:
    """Views that cannot be: a name, the class, and what to change in the good example."""
    overlay, lens, patching = (vars(view) for view in (examples.overlay(), examples.lens(), examples.patching()))
    head = examples.heads().heads[0]
    line = views.Line("a", np.zeros(3))
    return {
        "one text too few": (views.Overlay, overlay | {"texts": ("a", "b")}),
        "an axis too few": (views.Overlay, overlay | {"values": np.zeros((3, 4))}),
        "infinite": (views.Overlay, overlay | {"values": np.full((3, 2, 2), np.inf)}),
        "layers": (views.Lens, lens | {"layers": ("0",)}),
        "pooled": (views.Lens, lens | {"pooled": np.zeros((4, 3))}),
        "interval": (views.Matrix, patching | {"low": np.zeros((3, 5))}),
        "grid": (views.Matrix, patching | {"grid": (4, 4)}),
        "same head twice": (views.HeadTable, vars(examples.heads()) | {"heads": (head, head)}),
        "words": (views.WordGrid, vars(examples.grid()) | {"words": ("dog",)}),
        "patches": (views.WordGrid, vars(examples.grid()) | {"picture": None}),
        "line": (views.Curve, vars(examples.curve()) | {"lines": (line,)}),
        "row": (views.Table, vars(examples.table()) | {"cells": (("dog",),)}),
        "links": (Layered, vars(examples.network()) | {"links": (Link(0, 99, 1.0, 0),)}),
        "ranks": (Layered, vars(examples.network()) | {"links": (Link(0, 1, 1.0, 0), Link(0, 2, 1.0, 0))}),
        "sizes": (Layered, vars(examples.network()) | {"sizes": (0, 2, 2, 10)}),
        "carried": (Layered, vars(examples.network()) | {"carried": np.zeros(3)}),
        "squares": (Board, vars(examples.board()) | {"squares": (Square(5, 0, "full"),)}),
        "states": (Board, vars(examples.board()) | {"states": (("bare", "it is not"),)}),
        "groups": (Board, vars(examples.board()) | {"groups": ("first",)}),
        "papers": (Papers, vars(examples.papers()) | {"cited": ("gone",)}),
        "rows of papers": (Papers, vars(examples.papers()) | {"rows": ("lens",)}),
        "no title": (views.Table, vars(examples.table()) | {"title": " "}),
        "no limits": (views.Table, vars(examples.table()) | {"limits": ""}),
    }


@pytest.mark.parametrize("name", wrong())
def test_a_wrong_view_says_what_is_wrong(name: str) -> None:
    kind, given = wrong()[name]
    with pytest.raises(InputError) as caught:
        kind(**given)
    error = caught.value
    assert isinstance(error, CutawayError)
    assert error.failed and error.expected and error.do


def test_what_is_no_view() -> None:
    with pytest.raises(InputError, match="not a view"):
        from_json('{"$type": "Overlai"}')
    with pytest.raises(InputError, match="not a view"):
        from_json('{"a": 1}')
    with pytest.raises(InputError, match="data:"):
        Picture("https://example.org/a.png", 1, 1, "")
    with pytest.raises(InputError, match="uint8"):
        Picture.of(np.zeros((3, 8, 8), np.uint8), "channels first")


def test_pictures_are_small_and_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1200, 900, 3)).astype(np.uint8)
    photo = Picture.of(noise, "noise")
    assert (photo.width, photo.height) == (576, 768)
    assert photo.uri.startswith("data:image/jpeg;base64,")
    assert len(photo.uri) < 600_000
    drawing = Picture.of(Image.new("RGBA", (64, 32), "red"), "red")
    assert (drawing.width, drawing.height, drawing.uri[:15]) == (64, 32, "data:image/png;")


def test_views_load_nothing_heavy() -> None:
    code = "import sys, cutaway.report.page; print([n for n in ('torch', 'PIL', 'xarray', 'rich') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "size", "said"),
    [
        (0.51234, None, "0.512"), (0, None, "0.000"), (-1e-9, 20, "0.0"), (-1.5, None, "-1.500"),
        (0.0007, None, "0.001"), (0.000412, 1, "4.12e-4"), (3.14159, 40, "3.1"), (1234.5, None, "1234"),
        (2.5e7, None, "2.50e7"),
    ],
)  # fmt: skip
def test_numbers_are_written_in_one_format(value, size, said):
    """Three decimals, fewer for large ones; none reads as zero that is not, unless far larger ones stand beside it."""
    assert number(value, size) == said
