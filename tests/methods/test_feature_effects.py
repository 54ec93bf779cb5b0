"""Which features an answer depends on: planted, beside chance, and before training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import cutaway
from cutaway import Scale, targets
from cutaway.data import render, scene_at
from cutaway.errors import MethodError
from cutaway.methods import feature_effects
from cutaway.model.targets import margin
from toys import toy
from world import gap, given, one_step, opened

FEATURES = "text.2.resid_post.features"


def planted():
    """A Llama whose logit of “cat” reads one direction alone, and a dictionary one feature of which writes it."""
    model = cutaway.load("tiny:llama", dtype="float64")
    made = toy(model, "text.2.resid_post", width=20)
    row = made.part(2, 20, 32)[7]
    cat = model.tokenizer("cat", add_special_tokens=False).input_ids[0]
    with torch.no_grad():
        others = made.part(2, 20, 32)[torch.arange(20) != 7]
        along = row - torch.linalg.lstsq(others.T, row[:, None]).solution[:, 0] @ others  # no other feature writes it
        model.module.lm_head.weight.zero_()
        model.module.lm_head.weight[cat] = along
    return model.with_dictionaries(made), targets.logit("cat")


@pytest.mark.checks("feature_effects", "truth")
def test_the_feature_that_was_planted_is_found():
    model, target = planted()
    inputs = model.inputs(text="a red dog on the left")
    found = feature_effects(model, inputs, target, top=5, draws=8, progress=False)
    effects = dict(zip(found["number"].values.tolist(), found["effect"].values, strict=True))
    assert int(found["number"].values[0]) == 7
    assert abs(effects[7]) > 20 * max(abs(one) for number, one in effects.items() if number != 7)


@pytest.mark.parametrize("name", ["llama", "llava", "clip"])
def test_it_is_what_the_edit_does_and_first_order_adds_up(name):
    site = {"clip": "vision.1.resid_post"}.get(name, "text.1.resid_post")
    model = opened(name).with_dictionaries(toy(opened(name), site))
    target = targets.similarity() if name == "clip" else targets.logit("cat")
    found = feature_effects(model, given(name), target, top=4, draws=3, progress=False)
    value = float(target(model.run(given(name))).sum())
    for number, effect in zip(found["number"].values, found["effect"].values, strict=True):
        without = model.run(given(name), edits=Scale(f"{site}.features", 0.0, unit=int(number)))
        assert abs(value - float(target(without).sum()) - effect) < 1e-5
    slopes = model.gradients(given(name), target, site)
    whole = float((slopes[site] * slopes.activations[site]).sum())
    assert abs(float(found["attribution"].sum()) + float(found["reconstruction"]) - whole) < 1e-5 * (1 + abs(whole))
    assert abs(float(found["value"]) - value) < 1e-9


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_place(side):
    """A batch counts each feature as its rows alone do, whatever stands behind or before the shorter ones."""
    model = opened("llama").with_dictionaries(toy(opened("llama"), "text.1.resid_post"))
    texts, before = ["a dog", "a photo of a big cat on the left"], model.tokenizer.padding_side
    model.tokenizer.padding_side = side
    try:
        inputs = [model.inputs(text=some) for some in (texts, *texts)]
    finally:
        model.tokenizer.padding_side = before
    options = {"top": 3, "draws": 2, "progress": False}
    both, *alone = (feature_effects(model, one, targets.logit("cat"), **options) for one in inputs)
    assert (both["on"].values == sum(one["on"].values for one in alone)).all()
    assert np.allclose(both["activation"].values, np.maximum(*(one["activation"].values for one in alone)), atol=1e-9)


def test_a_flat_target_takes_the_features_that_write_most():
    """The distance of an outcome from itself has no slope: no order is made of zeros."""
    model = opened("sd")
    made = toy(model, "denoiser.1.resid_post")
    model = model.with_dictionaries(made)
    inputs = one_step("sd")
    target = targets.distance(targets.outcome(model.run(inputs)).detach())
    found = feature_effects(model, inputs, target, top=3, draws=4, progress=False)
    run = model.run(inputs, record="denoiser.1.resid_post.features")
    size = run["denoiser.1.resid_post.features"].flatten(0, -2).sum(0) * made.part(2, 12, made.d_out).norm(dim=1)
    assert not found["attribution"].values.any() and "flat" in found.note()
    assert found["number"].values.tolist() == size.argsort(descending=True)[:3].tolist()
    assert (found["effect"].values < 0).all()


def test_few_features_have_no_others_to_be_held_against():
    model = opened("llama").with_dictionaries(toy(opened("llama"), "text.1.resid_post"))
    found = feature_effects(model, given("llama"), targets.logit("cat"), top=12, draws=4, progress=False)
    assert "nan" not in found.note() and "not known" in found.note() and "no other is on" in found.note()
    with pytest.raises(MethodError, match="0 features"):
        feature_effects(model, given("llama"), targets.logit("cat"), top=0)


@pytest.fixture(scope="module")
def clip():
    return cutaway.load("zoo:emoji-clip", dictionary="zoo:emoji-clip-sae")


def asked(model, at):
    scene = scene_at("test", at)
    words = [f"a {scene.things[0].concept}", "a cat"]
    return model.inputs(image=render(scene), text=words)


@pytest.mark.checks("feature_effects", "baseline")
def test_the_features_that_it_names_count_for_more_than_others(clip):
    own, others = [], []
    for at in range(4):
        found = feature_effects(clip, asked(clip, at), margin(0, 1), top=6, draws=6, progress=False)
        own.append(np.abs(found["effect"].values).mean())
        others.append(np.abs(found["random"].values).mean())
    assert np.mean(own) > 5 * np.mean(others)


@pytest.mark.checks("feature_effects", "floor")
def test_before_training_no_feature_counts(clip):
    untrained = cutaway.load("zoo:emoji-clip@untrained").with_dictionaries(*clip.dictionaries.values(), check=False)
    after, before = (
        np.mean([np.abs(feature_effects(model, asked(model, at), margin(0, 1), top=3, draws=1, progress=False)
                        ["effect"]).max() for at in range(3)])
        for model in (clip, untrained)
    )  # fmt: skip
    assert after > 3 * before


def test_what_it_refuses():
    model = opened("llama")
    with pytest.raises(MethodError, match="has no features"):
        feature_effects(model, given("llama"), targets.logit("cat"))
    silent = replace(toy(model, "text.1.resid_post"))
    with pytest.raises(MethodError, match="has no features at"):
        feature_effects(
            model.with_dictionaries(silent), given("llama"), targets.logit("cat"), site="text.1.mlp.out.features"
        )


def test_of_a_drawing_one_step():
    model = opened("sd").with_dictionaries(toy(opened("sd"), "denoiser.1.resid_post"))
    inputs = model.inputs(prompt="a red dog", steps=2, step=1, size=(32, 32))
    found = feature_effects(model, inputs, targets.distance(model.run(inputs)), top=3, draws=2, progress=False)
    assert found["effect"].shape == (3,) and gap(torch.tensor(float(found["value"])), torch.tensor(0.0)) < 1e-9
