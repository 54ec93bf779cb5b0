"""Drawings as rows of a question: prompts that cross things and backgrounds, and what the judge finds as labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import cutaway
from cutaway import data
from cutaway.data.prompts import claims_of
from cutaway.errors import InputError
from cutaway.model.run import Run
from cutaway.questions import asked
from cutaway.questions.drawings import crossed, drawings, found


def test_each_thing_stands_on_each_background_once_before_any_does_again():
    texts, labels = crossed(60, seed=1)
    assert len(set(texts[:48])) == 48 and texts[48:] == texts[:12] and crossed(60, seed=1)[0] == texts
    assert crossed(60, seed=2)[0] != texts and {len(set(labels[name])) for name in labels} == {8, 6}
    for text, thing, colour in zip(texts, *labels.values(), strict=True):
        has, on = claims_of(text)
        assert (has.noun.concept, on.colours) == (thing, (colour,))


def test_what_the_judge_finds_is_what_is_there():
    """Of rendered scenes, whose truth is known, and of an empty one."""
    world = data.prompts.DRAWINGS
    scenes = [data.scene_at("test", at, 0, world) for at in range(6)]
    scenes = [one for one in scenes if len(one.things) == 1][:2]
    pictures = torch.from_numpy(np.stack([data.pixels(one) for one in scenes])).movedim(-1, 1).float() / 255
    empty = torch.full((1, 3, 64, 64), 0.5)
    shown = torch.cat([interpolate(pictures, (64, 64), mode="area"), empty])
    run = Run(SimpleNamespace(images=shown), cutaway.load("tiny:sd").inputs(prompt="a dog"))
    assert found("drawn")(run).tolist() == [*(one.things[0].concept for one in scenes), "nothing"]
    assert found("place")(run)[-1] == "" and np.isnan(found("x")(run)[-1])
    maps = found("where")(run)
    assert maps.shape == (3, 16, 16) and not maps[2].any()
    for at, one in enumerate(scenes):
        truth = data.masks(one)[0]
        side = len(truth) // 16
        share = truth[: side * 16, : side * 16].reshape(16, side, 16, side).mean((1, 3)) > 0.5
        assert (maps[at] & share).sum() / (maps[at] | share).sum() > 0.7
        assert abs(found("x")(run)[at] - one.things[0].place[0]) < 0.08
    with pytest.raises(InputError, match="finds no 'mood'"):
        found("mood")


def test_a_question_to_a_model_that_draws_has_drawings_and_their_labels():
    model = cutaway.load("tiny:sd")
    made = asked(model, labels=["thing", "where"], drawings=20, seed=3)
    assert sum(len(one.drawn) for one in made.rows) == 20 and made.looks == "denoiser"
    assert made.labels["thing"].tolist() == crossed(20, seed=3)[1]["thing"].tolist()
    assert made.labels["where"] == found("where")
    assert drawings(model, ["a dog"], seed=2)[0].tensors["seed"] == 20_000
    with pytest.raises(InputError, match="Drawings have no label 'artist'"):
        asked(model, labels=["artist"])
    with pytest.raises(InputError, match="Scenes have no label 'drawn'"):
        asked("tiny:clip", labels=["drawn"])
