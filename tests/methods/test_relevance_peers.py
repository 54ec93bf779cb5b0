"""Relevance beside captum, where it has the method: the same numbers on the same model."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import targets
from cutaway.methods import relevance
from cutaway.methods.relevance.leaves import seen
from cutaway.methods.relevance.removal import players, shapley
from cutaway.zoo import tiny

attr = pytest.importorskip("captum.attr")
AIM = targets.similarity()


@pytest.fixture(scope="module")
def model():
    return cutaway.load("tiny:clip", dtype="float64")


@pytest.fixture(scope="module")
def inputs(model):
    return model.inputs(image=tiny.picture(), text="a red dog")


@pytest.fixture(scope="module")
def forward(model, inputs):
    """The number as a function of pixels alone, any number of rows."""

    def number(pixels):
        out = model.module(**{**inputs.tensors, "pixel_values": pixels})
        return torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)

    return number


def patches(pixels):
    """Pixels added up over the patches of the tiny model."""
    size = pixels.shape[-1] // 4
    return pixels.detach().sum(1).unfold(1, size, size).unfold(2, size, size).sum((-1, -2))[0].numpy()


def test_gradient_times_input(model, inputs, forward):
    pixels = inputs.tensors["pixel_values"].clone().requires_grad_()
    theirs = attr.InputXGradient(forward).attribute(pixels)
    ours = relevance(model, inputs, AIM, method="gradient_input")
    assert np.allclose(ours.map(), patches(theirs), rtol=0, atol=1e-9)


def test_integrated_gradients_of_the_picture(model, inputs, forward):
    """Theirs moves the pixels, ours picture and words; with the words where they start the same at the same points."""
    there = seen(model, inputs, AIM)
    start = {"words": there.leaf("words").there}
    pixels = inputs.tensors["pixel_values"]
    theirs = attr.IntegratedGradients(forward).attribute(pixels, torch.zeros_like(pixels), n_steps=12,
                                                         method="gausslegendre")  # fmt: skip
    nodes, weights = np.polynomial.legendre.leggauss(12)
    leaf, total = there.leaf("picture"), 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        moved = leaf.start + float(node) * (leaf.there - leaf.start)
        total = total + float(weight) * there.slopes(AIM, {"picture": moved, **start})[1]["picture"]
    ours = leaf.summed((leaf.there - leaf.start) * total)[0, 1:].reshape(4, 4)
    assert np.allclose(ours, patches(theirs), rtol=0, atol=1e-8)


def test_occlusion(model, inputs, forward):
    pixels, size = inputs.tensors["pixel_values"], inputs.tensors["pixel_values"].shape[-1] // 4
    with torch.no_grad():
        theirs = attr.Occlusion(forward).attribute(pixels, (3, size, size), (3, size, size), baselines=0)
    ours = relevance(model, inputs, AIM, method="occlusion")
    assert np.allclose(ours.map(), theirs[0, 0, ::size, ::size].numpy(), rtol=0, atol=1e-7)


def test_shapley_values_of_four_squares(model, inputs, forward):
    pixels, half = inputs.tensors["pixel_values"], inputs.tensors["pixel_values"].shape[-1] // 2
    mask = torch.arange(4).view(2, 2).repeat_interleave(half, 0).repeat_interleave(half, 1)[None, None]
    with torch.no_grad():
        theirs = attr.ShapleyValues(forward).attribute(pixels, feature_mask=mask)
    there = seen(model, inputs, AIM)
    some = [one for one in players(there, 1, 2) if one.side == "picture"]
    ours = shapley(there, AIM, some, AIM(model.run(inputs)).detach().numpy(), orders=0)
    assert np.allclose(ours.worth[:, 0], theirs[0, 0, ::half, ::half].flatten().numpy(), rtol=0, atol=1e-7)


def test_grad_cam(model, inputs, forward):
    layer = model.module.vision_model.encoder.layers[1]
    theirs = attr.LayerActivation(forward, layer).attribute(inputs.tensors["pixel_values"])
    slope = attr.LayerGradientXActivation(forward, layer).attribute(inputs.tensors["pixel_values"])
    slope, theirs = (one[0] if isinstance(one, tuple) else one for one in (slope, theirs))
    hand = ((slope / theirs).mean(1, keepdim=True) * theirs).sum(-1).relu()[0, 1:].reshape(4, 4)
    ours = relevance(model, inputs, AIM, method="grad_cam", site="vision.1.resid_post")
    assert np.allclose(ours.map(), hand.detach(), rtol=0, atol=1e-9)
