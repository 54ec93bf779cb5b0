"""Attention rollout: a product of matrices by hand, planted attention, chance, the floor, and what it refuses."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import MethodError, SiteError
from cutaway.methods import attention_rollout, cross_attention
from cutaway.methods.cross_attention.spoken import words
from cutaway.model.edits import Knockout, Set

PROMPTS = ["a red dog", "a cat on a dog"]
PATTERNS = "denoiser.*.attn.pattern"


@pytest.fixture(scope="module")
def joint():
    return cutaway.load("tiny:sd3", dtype="float64")


@pytest.fixture(scope="module")
def drawing(joint):
    return joint.inputs(prompt=PROMPTS, seed=3, steps=2)


@pytest.mark.checks("attention_rollout", "truth")
def test_it_equals_a_product_of_matrices(joint, drawing):
    found = attention_rollout(joint, drawing, progress=False)
    run, tokens = joint.run(drawing, record=PATTERNS), drawing.tokens["denoiser.joint"]
    for step in range(2):
        for row, said in enumerate(PROMPTS):
            product = np.eye(len(tokens))
            for layer, name in enumerate(run):
                pattern = run[name][step, run.guidance[name].index("cond"), row].mean(0).numpy()
                product = (pattern + np.eye(len(tokens))) / 2 @ product
                assert np.allclose(product.sum(1), 1)
                for place, word in enumerate(words(tokens, row)):
                    hand = product[tokens.row[row] >= 0][:, list(word.positions)].sum(1)
                    got = found["attention"].isel(step=step, layer=layer, picture=row, place=place).values.ravel()
                    assert np.abs(got - hand).max() < 1e-12
            assert found.words(row)[: len(said.split())] == said.split()
    whole = attention_rollout(joint, drawing, apart=(), progress=False)["attention"]
    assert np.allclose(whole, found["attention"].isel(layer=-1).mean("step"))


def test_a_word_that_reaches_patches_through_another_is_found_by_rollout_alone(joint):
    """Planted: patches look at one word alone in the last layer, and this one at another word in the layer before."""
    inputs = joint.inputs(prompt="a red dog", seed=3, steps=1, guidance=1.0)
    tokens = inputs.tokens["denoiser.joint"]
    (_, (red, *_), (dog, *_)) = (word.positions for word in words(tokens, 0)[:3])
    size, patch = len(tokens), torch.from_numpy(tokens.row[0] >= 0)
    stay, last = torch.eye(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    first = stay.clone()
    first[red], last[patch] = stay[dog], stay[red]
    with joint.edited([Set("denoiser.0.attn.pattern", first), Set("denoiser.1.attn.pattern", last)]):
        found, plain = (one(joint, inputs, progress=False) for one in (attention_rollout, cross_attention))
    for place, share in ((1, 0.25), (2, 0.25)):  # half of a patch is "red", and half of that was "dog" before
        got = found["attention"].isel(layer=-1, place=place, picture=0, step=0)
        assert np.allclose(got, share)
    assert float(plain["attention"].isel(place=2).max()) == 0


@pytest.mark.checks("attention_rollout", "baseline")
def test_even_attention_is_told(joint):
    inputs = joint.inputs(prompt="a red dog", seed=3, steps=1, guidance=1.0)
    with joint.edited(Knockout("denoiser.*.attn")):  # all cut alike: spread evenly
        found = attention_rollout(joint, inputs, progress=False)
    size = len(inputs.tokens["denoiser.joint"])
    assert float(found["even"]) == 1 / size
    word = found["attention"].isel(place=0, picture=0, step=0)
    assert np.allclose(word.isel(layer=0), 0.5 / size) and np.allclose(word.isel(layer=1), 0.75 / size)


@pytest.mark.checks("attention_rollout", "floor")
def test_before_training_maps_are_flat():
    spread = {}
    for name in ("zoo:emoji-mmdit", "zoo:emoji-mmdit@untrained"):
        model = cutaway.load(name)
        inputs = model.inputs(prompt="a fox on a green background", seed=0, steps=3, guidance=3.0, length=0)
        heat = attention_rollout(model, inputs, apart=(), progress=False).heat("fox").values
        spread[name] = float(heat.max() / heat.mean())
    assert spread["zoo:emoji-mmdit"] > 1.5 > spread["zoo:emoji-mmdit@untrained"], spread


def test_what_cannot_be_rolled_out_says_so(sd, joint, drawing):
    with pytest.raises(MethodError, match="same in all layers"):
        attention_rollout(sd, sd.inputs(prompt="a dog", steps=1), progress=False)
    with pytest.raises(MethodError, match="'head' cannot be kept apart"):
        attention_rollout(joint, drawing, apart=("head",), progress=False)
    with pytest.raises(SiteError, match="guidance row 'perturbed'"):
        attention_rollout(joint, drawing, guidance="perturbed", progress=False)
