"""What maps are worth: by hand on small maps, against things really gone, together, under random weights, and twins."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import targets
from cutaway.data import masks, render, scenes
from cutaway.data.worlds import World
from cutaway.errors import MethodError
from cutaway.methods import relevance
from cutaway.methods.relevance.leaves import seen
from cutaway.methods.relevance.measures import (
    alike,
    by_chance,
    covered,
    depths,
    located,
    randomised,
    really_gone,
    synergy,
    without,
)
from cutaway.methods.relevance.twins import apart, twins
from cutaway.model.edits import Patch
from cutaway.model.shift import weights
from cutaway.questions import match
from cutaway.zoo import tiny

PAIR = World(things=(2, 2), repeat=0.0, tinted=0.0)


@pytest.fixture(scope="module")
def clip():
    return cutaway.load("zoo:emoji-clip")


def test_scores_of_a_map_by_hand():
    heat = np.array([[4.0, 3.0], [-2.0, 1.0]])
    truth = np.array([[False, True], [False, False]])
    made = located(heat, truth)
    assert (made.iou, made.best, made.hit, made.mass) == (0.5, 0.5, 0.0, 3 / 8)
    flat = located(np.ones((2, 2)), truth)
    assert (flat.iou, flat.best, flat.hit, flat.mass) == (0.0, 0.0, 0.25, 0.25)
    assert located(truth.astype(float), truth) == located(5 * truth.astype(float), truth)
    chance = by_chance(heat, truth, draws=400)
    assert chance.hit == pytest.approx(0.25, abs=0.07) and chance.mass == pytest.approx(0.25, abs=0.07)
    with pytest.raises(MethodError, match="cannot be held against"):
        located(heat, np.zeros((2, 2), bool))
    assert alike(heat, np.exp(heat)) == 1 and alike(heat, -heat) == -1 and alike(heat, np.ones((2, 2))) == 0


def test_a_thing_smaller_than_a_patch_covers_one():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True
    assert covered(mask, np.zeros((2, 2))).tolist() == [[True, False], [False, False]]
    assert not covered(np.zeros((8, 8), bool), np.zeros((2, 2))).any()


def test_a_thing_that_is_gone_leaves_what_was_behind_it(clip):
    scene = next(iter(scenes("test", 1, world=PAIR)))
    alone = without(scene, [0])
    assert alone.things == scene.things[1:]
    asked = match(clip, render(scene), [f"a {scene.things[0].concept}"])
    truth = masks(scene)[0]
    heat = covered(truth, np.zeros((8, 8))).astype(float)
    right, wrong = really_gone(asked, scene, heat), really_gone(asked, scene, -heat)
    gone = match(clip, render(alone), [f"a {scene.things[0].concept}"])
    assert right.effect[0] == pytest.approx(asked.value - gone.value, abs=1e-5)
    assert right.effect[0] > right.effect[1] and right.density[0] > right.density[1]
    half = (right.effect[0] - right.effect[1]) / 6  # of two orders of two things; the middle of three pictures differs
    assert right.deletion == pytest.approx(-half, abs=1e-5) and right.insertion == pytest.approx(half, abs=1e-5)
    assert (wrong.deletion, wrong.insertion) == pytest.approx((half, -half), abs=1e-5)
    assert (right.lowest, right.highest) == pytest.approx((right.deletion, right.insertion), abs=1e-9)


def test_synergy_is_four_runs():
    model = cutaway.load("tiny:clip", dtype="float64")
    inputs, aim = model.inputs(image=tiny.picture(), text="a red dog"), targets.similarity()
    found = relevance(model, inputs, aim, method="occlusion")
    made = synergy(model, inputs, aim, found, share=0.25, draws=2)
    there = seen(model, inputs, aim)
    picture, words = (there.leaf(side) for side in ("picture", "words"))
    best = torch.from_numpy(np.argsort(-found.map().values.ravel(), kind="stable")[:4]) + 1
    word = 1 + int(found["word"].values[0].argmax())
    gone = {"picture": picture.own.clone(), "words": words.own.clone()}
    gone["picture"][0, best] = False
    gone["words"][0, word] = False

    def number(seen_, said):
        kept = (gone["picture"] if seen_ else picture.own, gone["words"] if said else words.own)
        edits = [Patch(leaf.name, leaf.start, token=mask) for leaf, mask in zip((picture, words), kept, strict=True)]
        return float(aim(model.run(inputs, edits=edits)))

    hand = number(1, 1) - number(1, 0) - number(0, 1) + number(0, 0)
    assert made.dividend == pytest.approx(hand, abs=1e-8)
    assert made.whole == pytest.approx(float(found["value"][0]) - number(0, 0), abs=1e-8) and made.random != hand


def test_maps_of_shuffled_weights_are_others_and_the_weights_come_back(clip):
    assert depths(["a.3.x", "a.0.x", "a.embed", "b.norm"]) == {
        "a.3.x": 0.875,
        "a.0.x": 0.125,
        "a.embed": 0,
        "b.norm": 1,
    }
    scene = next(iter(scenes("test", 1, world=PAIR)))
    asked = match(clip, scene)
    before = {name: one.clone() for name, one in weights(clip.engine).items()}
    plain = relevance(clip, asked.inputs, asked.target, method="attn_lrp").map().values
    with randomised(clip, seed=1):
        other = relevance(clip, asked.inputs, asked.target, method="attn_lrp").map().values
    with randomised(clip, 2.0, 3.0):
        same = relevance(clip, asked.inputs, asked.target, method="attn_lrp").map().values
    assert abs(alike(plain, other)) < 0.5 and alike(plain, same) == 1
    assert all(torch.equal(one, before[name]) for name, one in weights(clip.engine).items())


def test_a_faithful_method_tells_twins_apart(clip):
    """One read-out goes by the thing and its twin by a written cue; attention alone has one map for both."""
    found = twins(clip, few=6)
    inputs = clip.inputs(image=[render(one) for one in found.scenes])
    assert min(found.right) > 0.9
    both = {}
    for method in ("attn_lrp", "chefer", "rollout"):
        maps = [
            [made.map(at).values for at in range(len(found.scenes))]
            for made in (
                relevance(clip, inputs, found.target(which, len(found.scenes)), method=method)
                for which in ("thing", "cue")
            )
        ]
        both[method] = apart(found, *maps).both
    assert both["attn_lrp"] > 0.6 and both["chefer"] > 0.8 and both["rollout"] == 0, both
    dice = np.random.default_rng(0)
    chance = [apart(found, *map(list, dice.random((2, len(found.scenes), 8, 8)))).both for _ in range(20)]
    assert np.mean(chance) < 0.5
    with pytest.raises(MethodError, match="read-outs are right in"):
        twins(cutaway.load("zoo:emoji-clip@untrained"), names=("fox", "tulip"), many=12, few=2)
