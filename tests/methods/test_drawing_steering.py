"""Steering of drawings: by step, where the prompt is seen, by hand; and the bench of alpha on whole drawings."""

import pytest
import torch

import cutaway
from cutaway.errors import MethodError
from cutaway.methods import drawing_steering, steering, steering_vector
from cutaway.model.edits import Add
from cutaway.model.targets import distance, outcome
from cutaway.questions.judged import number_of


def test_a_denoiser_is_steered_by_step_where_it_sees_the_prompt():
    """h-space by hand: the difference of means of each step, put in at that step, in the row of the prompt."""
    model = cutaway.load("tiny:sd", dtype="float64")
    without, having = (
        model.inputs(prompt=[f"a {one} dog", f"a {one} cat"], seed=0, steps=2) for one in ("red", "blue")
    )
    for name in ("denoiser.8.resid_post", "denoiser.6.res.out"):
        states = [model.run(one, record=name)[name][:, 1].double() for one in (having, without)]
        over = (1, 2) if "resid" in name else (1, 3, 4)
        hand = states[0].mean(over) - states[1].mean(over)
        vector = steering_vector(model, having, without, sites=name, progress=False)
        assert (vector.tensors[name].flatten(1) - hand).abs().max() < 1e-12
        shape = (-1,) if "resid" in name else (-1, 1, 1)
        by_hand = [Add(name, hand[at].view(shape), 2.0, step=[at], guidance="cond") for at in range(2)]
        drawn = [model.run(without, edits=edits, output="pt").outputs.images
                 for edits in (vector.edits(2.0), by_hand, vector.edits(0.0), ())]  # fmt: skip
        assert (drawn[0] - drawn[1]).abs().max() < 1e-12 and torch.equal(drawn[2], drawn[3])
        assert (drawn[0] - drawn[3]).abs().max() > 1e-6
        assert vector.length[name] == pytest.approx(float(hand.norm(dim=1).mean()))
    assert [edit.step for edit in vector.edits(step=[1])] == [[1]]
    with pytest.raises(MethodError, match="channels are not its last axis"):
        vector.edits(how="bend")


def test_drawings_of_classes_have_a_number_too():
    """No words tell them apart: it is how far one is drawn from the other."""
    model = cutaway.load("tiny:dit")
    one, other = (model.inputs(label=at, steps=1) for at in (3, 5))
    aim = number_of(model, one, other)
    assert [float(aim(model.run(given, output="pt"))) > 0 for given in (one, other)] == [False, True]


def test_the_bench_draws_with_a_direction_beside_random_ones():
    model = cutaway.load("tiny:sd", dtype="float64")
    without, having = (model.inputs(prompt=f"a {one} dog", seed=0, steps=2) for one in ("red", "blue"))
    aim = distance(outcome(model.run(having, output="pt")))
    site = "denoiser.8.resid_post"
    found = steering(model, without, having, aim, sites=site, alphas=(1.0,), ways=("add",), draws=2, progress=False)
    vector = steering_vector(model, having, without, sites=site, progress=False)
    hand = aim(model.run(without, edits=vector.edits(1.0), output="pt"))
    assert float(found["value"].sel(alpha=1.0).squeeze()) == pytest.approx(float(hand), rel=1e-9)
    assert found["random_value"].notnull().all() and float(found["share"].sel(alpha=0.0).squeeze()) == 0


@pytest.mark.checks("drawing_steering", "truth")
@pytest.mark.checks("drawing_steering", "baseline")
def test_a_drawing_is_steered_to_another_prompt_as_by_hand_beside_random_directions(sd):
    """The number is how far it still is from the other drawing; where nothing reads the site, nobody gets there."""
    both = [sd.inputs(prompt=f"a {one} dog", seed=0, steps=2) for one in ("red", "blue")]
    site = "denoiser.8.resid_post"
    found = drawing_steering(sd, *both, sites=site, alphas=(1.0,), progress=False).data.squeeze()
    goal = sd.run(both[1], output="pt").outputs.images
    vector = steering_vector(sd, both[1], both[0], sites=site, progress=False)
    hand = distance(goal)(sd.run(both[0], edits=vector.edits(1.0), output="pt"))
    assert float(found["value"].sel(alpha=1.0)) == pytest.approx(float(hand), rel=1e-9)
    assert float(found["share"].sel(alpha=0.0)) == 0 and float(found["there"]) == 0 < float(found["here"])
    assert float(found["random_share_low"].sel(alpha=1.0)) < float(found["share"].sel(alpha=1.0))
    evenly = drawing_steering(sd, *both, alphas=(1.0,), draws=1, progress=False)
    assert evenly["layer"].values.tolist() == [1, 8, 14]
    with pytest.raises(MethodError, match="differ in more than their prompts"):
        drawing_steering(sd, both[0], sd.inputs(prompt="a blue dog", seed=1, steps=2), progress=False)


@pytest.mark.checks("drawing_steering", "floor")
def test_before_training_no_direction_draws_what_is_asked_for():
    model = cutaway.load("zoo:emoji-sd@untrained")
    both = [model.inputs(prompt=f"a fox on a {one} background", seed=0, steps=4) for one in ("green", "blue")]
    found = drawing_steering(model, *both, sites="denoiser.7.resid_post", alphas=(1.0,), draws=1, progress=False)
    assert abs(float(found["value"].sel(alpha=1.0).squeeze() - found["here"])) < 0.05
    assert found.provenance.options["unit"] == "probability"
