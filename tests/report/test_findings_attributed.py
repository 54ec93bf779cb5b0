"""The page on attribution says what its numbers say."""

import re

import numpy as np
import pytest
import xarray

from cutaway.atlas.pages import number_at
from cutaway.errors import InputError
from cutaway.report.findings import write_findings
from cutaway.report.findings_attributed import foretold, page, sentences
from cutaway.report.findings_made import SCENE, WAYS, ranked, words
from cutaway.report.findings_page import About
from cutaway.report.findings_pixels import two_things
from cutaway.report.findings_traced import BEFORE, CHANCE, LIKENESS, kinds

METHODS = [CHANCE, LIKENESS, "dot", "LoGra", BEFORE]


def data():
    """Two sets of a world in which each set has another best method."""
    lds = np.broadcast_to(np.array([[0.0, 0.1, 0.3, 0.4, 0.2], [0.01, 0.11, 0.5, 0.41, 0.21]])[..., None], (2, 5, 3))
    one = (("set", "way"), np.full((2, 5), 0.5))
    return xarray.Dataset(
        {"lds": (("set", "way", "query"), lds), "wrong": one, "copies": one, "cue": one,
         "ceiling": (("set", "query"), np.full((2, 3), 0.7))},
        {"way": METHODS, "query": range(3), "kind": ("query", ["held", "copied", "misled"])},
    )  # fmt: skip


def pixels(share):
    """Two methods over three scenes, of which the first lies on the thing."""
    values = np.broadcast_to(np.array([[share, 0.2], [share, 0.21]])[..., None], (2, 2, 3))
    kept = dict.fromkeys(("share", "overlap", "points", "gone"), (("set", "way", "scene"), values))
    return xarray.Dataset({**kept, "area": (("set", "scene"), np.full((2, 3), 0.2))}, {"way": ["chefer", "rollout"]})


def pictures(rank):
    values = np.full((2, 4, 5), 0.7)
    values[:, 3] = 0.4
    return xarray.Dataset(
        {"value": (("set", "way", "thing"), values), "rank": (("set", "way", "thing"), np.full((2, 4, 5), rank))},
        {"way": [*WAYS, SCENE]},
    )


def found():
    both = {"pixels_clip": pixels(0.8), "pixels_llava": pixels(0.3), "pictures": pictures(3)}
    floors = {"pixels_clip_floor": pixels(0.2), "pixels_llava_floor": pixels(0.2), "pictures_floor": pictures(30)}
    return {**{f"data_{name}": data() for name in ("clip", "llava", "sd")}, **both, **floors}


def test_the_page_says_what_was_measured():
    said = sentences(found())
    assert "(LDS) of 0.40 / 0.50 (LoGra in one half of the trainings, dot in the other)" in said[0]
    assert "of 2 methods that look at the trained model" in said[0] and "before training 0.20 / 0.21" in said[0]
    assert "zoo:emoji-clip `chefer` put" in said[3] and "zoo:emoji-llava none put" in said[3]
    assert "0.70 to 0.70 where the best of 64 scenes has 0.40 / 0.40" in said[4]
    assert "pixel 3 / 3 (before training 30 / 30)" in said[4]
    text = page(found(), About("zoo:emoji-clip", 96, 0, "page.md", {"a": 60.0}), {"data": "img/data.png"})
    assert number_at(text, "A model that draws > method=LoGra > LDS") == "0.40 / 0.41"  # as the atlas takes them
    assert number_at(text, "zoo:emoji-llava > method=by chance > relevance on it") == "0.20 / 0.20"
    assert number_at(text, "Which picture > made by=maco > rank") == "30 / 30"
    row = next(line for line in text.splitlines() if line.startswith("| LoGra |"))
    assert re.search(r"\| 0\.40 / 0\.41 \| 0\.40 / 0\.41 \|", row)
    assert len(foretold(found()).axes) == 3


def test_scenes_things_and_queries_are_what_they_are_said_to_be():
    assert all(len({thing.concept for thing in one.things}) == 2 for one in two_things(4, 0))
    assert len({*words(8, 0)}) == 8 and words(8, 0) != words(8, 1)
    from cutaway.bench.retrained import world

    told = kinds(world("clip"))
    assert "" not in told and {*told} == {"held", "copied", "misled"}


def test_a_judge_ranks_a_drawn_thing_first():
    from cutaway.data import render, scenes
    from cutaway.data.prompts import DRAWINGS

    some = [one for one in scenes("test", 60, 0, DRAWINGS) if len(one.things) == 1][:6]
    ranks, probability = ranked(
        np.stack([np.asarray(render(one)) for one in some]), [one.things[0].concept for one in some]
    )
    assert np.median(ranks) == 1 and np.median(probability) > 0.5


def test_it_begins_at_a_model_that_matches(tmp_path):
    with pytest.raises(InputError, match="a model that matches"):
        write_findings("zoo:emoji-llava", tmp_path / "page.md", 48, about="attribution")
    with pytest.raises(InputError, match=r"o page of findings is about 'graphs'.*circuits, features, attribution"):
        write_findings("zoo:emoji-clip", tmp_path / "page.md", 48, about="graphs")
