"""Scenes as data: round trip, and what is refused."""

import json

import pytest
from hypothesis import given, settings

from cutaway import data
from cutaway.data.splits import check_split
from cutaway.errors import CutawayError, InputError
from emoji_scenes import SCENES


@settings(max_examples=80, deadline=None)
@given(SCENES)
def test_json_round_trip(text: str) -> None:
    scene = data.Scene.from_json(text)
    assert data.Scene.from_json(scene.to_json()) == scene
    given_values, written = json.loads(text), json.loads(scene.to_json())
    assert all(written[field] == given_values[field] for field in ("canvas", "things", "label", "seed"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: data.Thing("dogg"), ["dogg", "dog"]),
        (lambda: data.Thing("zebra", "emojione"), ["emojione draws no zebra", "noto, fluent, twemoji"]),
        (lambda: data.Thing("dog", "picasso"), ["picasso", "noto"]),
        (lambda: data.Thing("dog", place=(1.2, 0.5)), ["off the canvas"]),
        (lambda: data.Thing("dog", size=0.0), ["size 0.0"]),
        (lambda: data.Thing("dog", tint="bleu"), ["bleu", "blue"]),
        (lambda: data.Background("gradient", ("red",)), ["2 different"]),
        (lambda: data.Background("plain", ("redd",)), ["redd", "red"]),
        (lambda: data.Background("texture", ("red", "red")), ["2 different"]),
        (lambda: data.Background("plain", ("red",), -1), ["seed"]),
        (lambda: data.Label("α"), ["letters", "α"]),
        (lambda: data.Label(""), ["1 to 48"]),
        (lambda: data.Scene((4, 64)), ["8 to 4096"]),
        (lambda: data.Scene.from_json("{"), ["not JSON"]),
        (lambda: data.Scene.from_json('{"canvass": [8, 8]}'), ["canvass", "canvas"]),
        (lambda: data.Scene.from_json('{"canvas": [8]}'), ["[x, y]"]),
        (lambda: data.Scene.from_json('{"label": 3}'), ["an object"]),
        (lambda: check_split("tran"), ["tran", "train"]),
        (lambda: data.concepts(group="food"), ["food", "food-drink"]),
        (lambda: data.World(sizes=(2.0,)), ["at most 0.9"]),
        (lambda: data.World(things=(3, 1)), ["the least first"]),
        (lambda: next(data.scenes("pairs", 1, world=data.World(things=(1, 1)))), ["no scene", "pairs"]),
        (lambda: next(data.scenes("artist", 1, world=data.World(artists=("noto",)))), ["emojione"]),
        (lambda: data.caption(data.Scene(), style="relation"), ["does not fit"]),
        (lambda: data.caption(data.Scene(), style="ralation"), ["relation"]),
        (lambda: data.counterfactual(data.Scene(), "colour"), ["binding colour"]),
        (lambda: data.counterfactual(data.Scene(), "place"), ["room for it", "0 things"]),
        (lambda: data.questions(data.Scene(), kinds=("whence",)), ["whence", "presence"]),
        (lambda: data.sheet([]), ["nothing to show"]),
    ],
)
def test_refusals_say_what_to_do(make, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert isinstance(caught.value, CutawayError)
    said = str(caught.value).lower()
    assert all(word.lower() in said for word in words), said


def test_places_are_ninths() -> None:
    for row, y in enumerate((0.0, 0.5, 1.0)):
        for column, x in enumerate((0.0, 0.5, 1.0)):
            assert data.Thing("dog", place=(x, y)).place_name == data.PLACES[3 * row + column]
