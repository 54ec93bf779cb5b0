"""Relevance of rows in one batch: padded, packed, of several sizes, or without a picture, each is as if alone."""

import numpy as np
import pytest

import cutaway
from cutaway import targets
from cutaway.methods import relevance, token_relevance
from cutaway.zoo import tiny
from world import opened

SAME = {"rtol": 0, "atol": 1e-8}
FEW = {"points": 2, "draws": 2, "orders": 1, "parts": 2}


def both(model, pictures, texts, method, target):
    """Of rows together, and of each alone, the picture and the words."""
    whole = relevance(model, model.inputs(image=pictures, text=texts), target, method=method, **FEW)
    for row, text in enumerate(texts):
        image = None if pictures is None else pictures[row]
        alone = relevance(model, model.inputs(image=image, text=text), target, method=method, **FEW)
        yield whole.data.isel(target=row), alone.data.isel(target=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", ["smooth_gradient", "shapley"])
def test_what_is_drawn_by_chance_is_the_same_in_a_padded_batch(side, method):
    model = cutaway.load("tiny:llama", dtype="float64")
    model.tokenizer.padding_side = side
    for got, alone in both(model, None, ["a dog is", "the red dog here is big"], method, targets.logit("red")):
        np.testing.assert_allclose(got["word"].values[: alone.sizes["place"]], alone["word"].values, **SAME)


@pytest.mark.parametrize("method", ["smooth_gradient", "grad_cam", "shapley"])
def test_pictures_in_one_packed_row_do_not_share_their_relevance(method):
    model = cutaway.load("tiny:qwen2-vl", dtype="float64")
    large = tiny.picture().resize((64, 96))
    for got, alone in both(model, [tiny.picture(), large], ["what is", "a dog"], method, targets.logit("red")):
        shape = alone["picture"].shape
        np.testing.assert_allclose(got["picture"].values[:, : shape[1], : shape[2]], alone["picture"].values, **SAME)
        if method == "shapley":
            assert abs(float(got["gap"])) < 1e-6


def test_a_row_without_a_picture_has_no_activation_map():
    model = opened("llava")
    inputs = model.inputs(image=[[], [tiny.picture()]], text=["what is this", "a dog"], answer=["red", "blue dog"])
    found = token_relevance(model, inputs, method="tam")
    assert np.isnan(found["picture"].values[0]).all()
    assert np.isfinite(found["picture"].values[1:]).all()


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_a_row_beside_one_without_a_picture_is_as_alone(method):
    model = cutaway.load("tiny:llava", dtype="float64")
    pictures, texts = [[], [tiny.picture()]], ["a red dog is here", "a red dog"]
    whole = relevance(model, model.inputs(image=pictures, text=texts), targets.logit("cat"), method=method, points=2)
    alone = relevance(
        model, model.inputs(image=tiny.picture(), text=texts[1]), targets.logit("cat"), method=method, points=2
    )
    np.testing.assert_allclose(whole["picture"].values[1], alone["picture"].values[0], **SAME)
    np.testing.assert_allclose(whole["word"].values[1][:3], alone["word"].values[0][:3], **SAME)
    assert np.isnan(whole["picture"].values[0]).all()


def test_tokens_do_not_depend_on_how_many_are_made_at_once():
    model = opened("llava")
    inputs = model.inputs(image=tiny.picture(), text="what is this", answer="a red dog")
    one, all_ = (token_relevance(model, inputs, method="smooth_gradient", draws=2, batch=n)["picture"] for n in (1, 8))
    np.testing.assert_allclose(one.values, all_.values, rtol=1e-4)
