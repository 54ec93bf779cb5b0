"""Steering of drawings: by step, where the prompt is seen, by hand; and the bench of alpha on whole drawings."""

import pytest
import torch

import cutaway
from cutaway.errors import MethodError
from cutaway.methods import steering, steering_vector
from cutaway.model.edits import Add
from cutaway.model.targets import distance, outcome


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
