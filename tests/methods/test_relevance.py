"""Relevance against plain torch, exact identities, chance and the floor, for models that match, answer and draw."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.activations import NewGELUActivation

import cutaway
from cutaway import targets
from cutaway.data import masks, scenes
from cutaway.data.worlds import World
from cutaway.errors import InputError, MethodError
from cutaway.methods import drawn_by_prompt, relevance, token_relevance
from cutaway.methods.relevance.leaves import seen
from cutaway.methods.relevance.measures import by_chance, covered, located
from cutaway.methods.relevance.removal import drawn_without, occlusion, players, removed, shapley
from cutaway.methods.relevance.tokens import activation_map, filtered
from cutaway.model.edits import Ablate, Patch
from cutaway.model.given import given_gradients
from cutaway.model.rules import relevance_rules
from cutaway.questions import ask, match
from cutaway.zoo import tiny

SAME = {"rtol": 0, "atol": 1e-9}
LONE = World(things=(1, 1))


@pytest.fixture(scope="module")
def clip():
    return cutaway.load("tiny:clip", dtype="float64")


@pytest.fixture(scope="module")
def llava():
    return cutaway.load("tiny:llava", dtype="float64")


@pytest.fixture(scope="module")
def llama():
    return cutaway.load("tiny:llama", dtype="float64")


@pytest.fixture(scope="module")
def drawing(sd):
    return sd.inputs(prompt=["a red dog", "a cat on a mat"], step=1, steps=3, seed=3)


@pytest.fixture(scope="module")
def paired(clip):
    return clip.inputs(image=[tiny.picture(), tiny.picture(seed=1)], text=["a red dog", "a cat on a mat"])


# --- slopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.checks("relevance", "truth")
def test_gradient_times_input_is_that_of_the_pixels(clip, paired):
    """A patch's <x - b, dm/dx> at the embedding is the sum over its pixels of pixel x gradient, by plain torch."""
    found = relevance(clip, paired, targets.similarity(), method="gradient_input")
    pixels = paired.tensors["pixel_values"].clone().requires_grad_()
    out = clip.module(**{**paired.tensors, "pixel_values": pixels})
    cosine = F.cosine_similarity(out.image_embeds, out.text_embeds)
    (slope,) = torch.autograd.grad(cosine.sum(), pixels)
    size = clip.module.config.vision_config.patch_size
    hand = (pixels * slope).detach().sum(1).unfold(1, size, size).unfold(2, size, size).sum((-1, -2))
    assert np.allclose(found["picture"].values[:, 0], hand.numpy(), **SAME)
    assert np.allclose(found["value"], cosine.detach(), **SAME)
    values, slopes = given_gradients(clip, paired, targets.similarity(), ["pixel_values"])
    assert torch.allclose(slopes["pixel_values"], slope, **SAME) and torch.allclose(values, cosine, **SAME)
    with pytest.raises(InputError, match="no slope along 'input_ids'"):
        given_gradients(clip, paired, targets.similarity(), ["input_ids"])


def test_on_a_linear_model_it_adds_up_without_a_path(llama):
    inputs, aim = llama.inputs(text="a red dog"), targets.logit("cat")
    scale = llama.run(inputs, record="text.norm.scale")["text.norm.scale"]
    linear = [Ablate("text.*.attn.out"), Ablate("text.*.mlp.out"), Patch("text.norm.scale", scale)]
    with llama.edited(linear):
        found = relevance(llama, inputs, aim, method="gradient_input")
        there = seen(llama, inputs)
        moved, edits = there.moved({"words": there.leaves[0].start})
        start = aim(llama.run(moved, edits=edits))
    assert np.allclose(found["word"].sum(), found["value"] - start.detach().numpy(), rtol=0, atol=1e-6)  # single norms
    assert not found["word"].values[0, :2].any()


@pytest.mark.parametrize("name", ["clip", "llava", "sd"])
def test_integrated_gradients_add_up_and_say_what_they_miss(name, request):
    """At a denoiser the way begins at latents of zero, where norms change all at once: it needs many points."""
    model = request.getfixturevalue(name)
    aim = {"clip": targets.similarity(), "llava": targets.logit_diff("dog", "cat"), "sd": None}[name]
    pictured = {} if name == "sd" else {"image": tiny.picture(), "text": "a red dog"}
    inputs = model.inputs(**pictured) if pictured else request.getfixturevalue("drawing")
    found = relevance(model, inputs, aim, method="integrated_gradients", points=6 if name == "sd" else 24)
    parts = found["picture"].sum(("image", "row", "col")) + found["word"].sum("place")
    assert np.allclose(found["value"] - found["start"] - parts, found["gap"], **SAME)
    if name != "sd":
        assert float(abs(found["gap"]).max()) < 2e-3 * float(abs(found["value"] - found["start"]).max()) + 1e-6
        coarse = relevance(model, inputs, aim, method="integrated_gradients", points=1)
        assert float(abs(coarse["gap"]).sum()) > float(abs(found["gap"]).sum())


def test_smooth_gradient_without_noise_is_the_gradient(clip, paired):
    from cutaway.methods.relevance.slopes import gradient, smooth_gradient

    there = seen(clip, paired, targets.similarity())
    plain, still = gradient(there, targets.similarity()), smooth_gradient(there, targets.similarity(), draws=2, noise=0)
    assert all(torch.allclose(plain[side], still[side], **SAME) for side in plain)
    one, two = (relevance(clip, paired, targets.similarity(), method="smooth_gradient", seed=s)["word"] for s in (0, 1))
    assert (one.values != two.values).any() and (one.fillna(0) >= 0).all()


def test_grad_cam_by_hand(clip, paired):
    site = "vision.1.resid_pre"
    found = relevance(clip, paired, targets.similarity(), method="grad_cam", site=site)
    run = clip.run(paired, record=site, grad=True)
    (slope,) = torch.autograd.grad(targets.similarity()(run).sum(), run[site])
    hand = (slope.mean(1, keepdim=True) * run[site]).sum(-1).relu().detach()[:, 1:].unflatten(1, (4, 4))
    assert np.allclose(found["picture"][:, 0], hand, **SAME) and "word" not in found.data
    with pytest.raises(MethodError, match="no places of a picture"):
        relevance(clip, paired, targets.similarity(), method="grad_cam", site="vision.joint")


# --- rules ------------------------------------------------------------------------------------------------------------


def test_a_gelu_by_tanh_and_a_cap_by_tanh_are_x_times_a_constant():
    x = torch.linspace(-4, 4, 33, dtype=torch.float64, requires_grad=True)
    for bend in (NewGELUActivation(), lambda value: 3 * torch.tanh(value / 3)):
        with relevance_rules(cutaway.load("tiny:gpt2")):
            made = bend(x)
            (slope,) = torch.autograd.grad(made.sum(), x)
        kept = x.detach().abs() > 1e-6
        assert torch.allclose(slope[kept], (made / x).detach()[kept], rtol=1e-12) and torch.equal(made, bend(x))


def test_with_patterns_held_relevance_adds_up_to_the_logit(llama):
    inputs, aim = llama.inputs(text=["a red dog", "a cat on a mat"]), targets.logit("cat")
    with relevance_rules(llama, patterns=False):
        found = llama.gradients(inputs, aim, "text.embed")
    assert torch.allclose(found.attribution("text.embed").sum((1, 2)), found.values, rtol=0, atol=1e-6)
    plain = llama.gradients(inputs, aim, "text.embed")
    assert torch.allclose(plain.values, found.values, **SAME)  # the run is what it was
    assert (plain.attribution("text.embed").sum((1, 2)) - plain.values).abs().max() > 1e-3
    assert all(one.requires_grad for one in llama.module.parameters())


def test_each_rule_by_hand(llama):
    dice = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 4, generator=dice, dtype=torch.float64).requires_grad_() for _ in range(2))
    weight = torch.randn(4, generator=dice, dtype=torch.float64)
    with relevance_rules(llama):
        made = {
            "product": (x * y).sum(), "gelu": F.gelu(x).sum(), "norm": (F.layer_norm(x, (4,)) * weight).sum(),
            "share": (F.normalize(x, dim=-1) * weight).sum(), "silu": F.silu(x).sum(),
        }  # fmt: skip
    found = {name: (torch.autograd.grad(one, x)[0] * x).detach() for name, one in made.items()}
    assert torch.allclose(found["product"], (x * y / 2).detach(), **SAME)
    assert torch.allclose(found["gelu"], F.gelu(x).detach(), **SAME)
    assert torch.allclose(found["silu"], F.silu(x).detach(), **SAME)
    assert torch.allclose(found["norm"].sum(), made["norm"].detach(), **SAME)  # no bias: conserved
    assert torch.allclose(found["share"], (F.normalize(x, dim=-1) * weight).detach(), **SAME)


def test_attention_gets_half_by_values_and_half_by_patterns(llama):
    dice = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 5, 4, generator=dice, dtype=torch.float64).requires_grad_() for _ in range(3))
    with relevance_rules(llama):
        made = F.scaled_dot_product_attention(q, k, v).sum()
    parts = torch.autograd.grad(made, (q, k, v))
    plain = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).sum(), (q, k, v))
    for share, ours, theirs in zip((4, 4, 2), parts, plain, strict=True):
        assert torch.allclose(ours * share, theirs, **SAME)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["chefer", "rollout"])
def test_products_of_attention_by_hand(clip, paired, method):
    found = relevance(clip, paired, targets.similarity(), method=method)
    names = [f"vision.{layer}.attn.pattern" for layer in range(3)]
    slopes = clip.gradients(paired, targets.similarity(), names)
    size = slopes[names[0]].shape[-1]
    for row in range(2):
        product = torch.eye(size, dtype=torch.float64)
        for name in names:
            pattern, slope = slopes.activations[name][row], slopes[name][row]
            if method == "chefer":
                product = product + (pattern * slope).clamp(min=0).mean(0) @ product
            else:
                product = (pattern.mean(0) + torch.eye(size)) / 2 @ product
        assert np.allclose(found.map(row), product[0, 1:].unflatten(0, (4, 4)).numpy(), **SAME)


def test_in_a_drawing_words_have_maps_and_a_unet_no_rollout(sd, drawing):
    found = relevance(sd, drawing, method="chefer")
    assert np.allclose(found["maps"].sum(("row", "col")), found["word"], **SAME, equal_nan=False) or np.allclose(
        found["maps"].sum(("row", "col")).where(found["word"].notnull()), found["word"], **SAME, equal_nan=True
    )
    assert found.heat("dog").shape == found.map().shape
    with pytest.raises(MethodError, match="cannot be rolled out"):
        relevance(sd, drawing, method="rollout")
    joint = cutaway.load("tiny:sd3", dtype="float64")
    rolled = relevance(joint, joint.inputs(prompt="a red dog", step=1, steps=3), method="rollout")
    assert 0 < float(rolled["word"].sum()) < 1 and rolled["maps"].sizes["place"] == len(rolled.words())


# --- removal ----------------------------------------------------------------------------------------------------------


def test_occlusion_is_a_run_with_the_patch_painted_over(clip, paired):
    found = relevance(clip, paired, targets.similarity(), method="occlusion")
    size = clip.module.config.vision_config.patch_size
    pixels = paired.tensors["pixel_values"].clone()
    pixels[:, :, :size, size : 2 * size] = 0
    gone = targets.similarity()(clip.run(replace(paired, tensors={**paired.tensors, "pixel_values": pixels})))
    assert np.allclose(found["picture"][:, 0, 0, 1], found["value"] - gone.detach().numpy(), rtol=0, atol=1e-8)
    unknown = paired.tensors["input_ids"].clone()
    unknown[0, 2] = clip.tokenizer.unk_token_id
    gone = targets.similarity()(clip.run(replace(paired, tensors={**paired.tensors, "input_ids": unknown})))
    assert np.allclose(found["word"][0, 1], found["value"][0] - gone[0].detach().numpy(), rtol=0, atol=1e-8)
    assert found.words(1)[:4] == ["a", "cat", "on", "a"] and len(found.words(0)) == 3


def test_what_places_lose_without_a_word_is_what_the_number_loses(sd, drawing):
    aim, there = drawn_by_prompt(sd, drawing), seen(sd, drawing)
    some = [one for one in players(there, 2) if one.side == "words"]
    clean = aim(sd.run(drawing)).numpy()
    each = drawn_without(there, aim, some).sum((2, 3))
    assert np.allclose(each, occlusion(there, aim, some, clean), **SAME) and np.allclose(clean, 1)
    assert each.abs().max() > 1e-3
    empty = {**drawing.tensors, "encoder_hidden_states": there.leaf("words").start}
    assert np.allclose(aim(sd.run(replace(drawing, tensors=empty))), 0, **SAME)


def test_shapley_values_are_exact_and_add_up(llama):
    inputs, aim = llama.inputs(text=["a red dog left", "a cat on mat"]), targets.logit_diff("dog", "cat")
    there = seen(llama, inputs)
    some = players(there, 2)
    clean = aim(llama.run(inputs)).detach().numpy()
    made = shapley(there, aim, some, clean, orders=0)
    hand = np.zeros_like(made.worth)
    for order in permutations(range(4)):
        gone = removed(there, aim, [[some[one] for one in order[at:]] for at in range(5)])
        for at, player in enumerate(order):
            hand[player] += (gone[at + 1] - gone[at]) / 24
    assert np.allclose(made.worth, hand, **SAME)
    assert np.allclose(made.worth.sum(0), clean - made.start, **SAME)
    drawn = relevance(llama, inputs, aim, method="shapley", orders=3)
    assert float(abs(drawn["gap"]).max()) < 1e-9 and float(drawn["error"].max()) > 0
    assert np.abs(drawn["word"].values - made.worth.T).max() < np.abs(made.worth).max()


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient_input", "attn_lrp", "chefer", "occlusion"])
def test_rows_are_as_if_alone(llava, method):
    """Padding, two pictures in a row, and none."""
    aim = targets.logit_diff("dog", "cat")
    pictures = [[tiny.picture(), tiny.picture(seed=1)], [tiny.picture(seed=2)]]
    texts = ["<image> a red dog <image> left", "<image> a cat"]
    both = relevance(llava, llava.inputs(image=pictures, text=texts), aim, method=method)
    assert both["picture"].sizes["image"] == 2 and np.isnan(both["picture"][1, 1]).all()
    for row in range(2):
        alone = relevance(llava, llava.inputs(image=[pictures[row]], text=[texts[row]]), aim, method=method)
        count = len(alone.words())
        assert both.words(row) == alone.words()
        assert np.allclose(both["word"][row, :count], alone["word"][0], rtol=0, atol=1e-6)
        assert np.allclose(both["picture"][row, : len(pictures[row])], alone["picture"][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_word(llama, side):
    aim = targets.logit("cat")
    llama.tokenizer.padding_side = side
    both = relevance(llama, llama.inputs(text=["a red dog on the left", "a cat"]), aim, method="integrated_gradients")
    alone = relevance(llama, llama.inputs(text="a cat"), aim, method="integrated_gradients")
    assert both.words(1) == alone.words() == ["a", "cat"]
    assert np.allclose(both["word"][1, :2], alone["word"][0], rtol=0, atol=1e-6)


def test_each_text_has_relevance_of_its_own(clip, paired):
    found = relevance(clip, paired, targets.margin(0, 1), method="attn_lrp")
    assert found["of"].values.tolist() == [[0] * 3 + [1] * 5] * 2
    one = clip.inputs(image=tiny.picture(seed=1), text=["a red dog", "a cat on a mat"])
    alone = relevance(clip, one, targets.margin(0, 1), method="attn_lrp")
    assert np.allclose(found["word"][1], alone["word"][0], **SAME)
    assert np.allclose(found["picture"][1], alone["picture"][0], **SAME)


def test_half_precision_and_what_is_refused():
    model = cutaway.load("tiny:llava", dtype="bfloat16")
    inputs = model.inputs(image=tiny.picture(), text="a red dog")
    for method in ("attn_lrp", "chefer", "occlusion"):
        found = relevance(model, inputs, targets.logit("cat"), method=method)
        assert np.isfinite(found["picture"]).all() and np.isfinite(found["word"]).all() and found["picture"].any()
    with pytest.raises(MethodError, match="which number"):
        relevance(model, inputs)


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.checks("token_relevance", "truth")
@pytest.mark.parametrize("method", ["attn_lrp", "chefer", "occlusion", "tam"])
def test_no_token_depends_on_a_word_behind_it(llava, method):
    """And each has the numbers that its own prefix alone gives."""
    inputs = llava.inputs(image=[[tiny.picture()], [tiny.picture(seed=1)]], text=["what is this", "a"],
                          answer=["a red dog", "cat"])  # fmt: skip
    found = token_relevance(llava, inputs, method=method, batch=4)
    assert found["token"].values.tolist() == ["a", "red", "dog", "cat"]
    assert found["row"].values.tolist() == [0, 0, 0, 1] and found["number"].values.tolist() == [0, 1, 2, 0]
    for at in range(3):
        assert not found["word"].values[at, 3 + at : len(found.words(at))].any()
    if method != "tam":  # at random weights no word reads as another, nor a patch
        assert all(found["word"].values[at, : 3 + at].any() and found["picture"].values[at].any() for at in range(3))
        first = llava.inputs(image=tiny.picture(), text="what is this", answer="a red")
        alone = token_relevance(llava, first, method=method)
        assert np.allclose(found["picture"][1], alone["picture"][1], rtol=0, atol=1e-6)


def test_token_activation_maps_by_hand():
    """A map less what an earlier word lights as well, by least squares; the same map twice leaves nothing."""
    logits = torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    picture = torch.tensor([True, True, True, False])
    ids = torch.tensor([9, 9, 9, 1])
    own, said = activation_map(logits, ids, 0, picture, [3])
    assert torch.allclose(own, torch.zeros(3, dtype=torch.float64)) and said.tolist() == [3.0]
    logits[2, 0] = 5
    own, _ = activation_map(logits, ids, 0, picture, [3])
    assert torch.allclose(own, torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64))
    lone = torch.zeros(4, 4, dtype=torch.float64)
    lone[1, 1] = 1
    assert float(filtered(lone)[1, 1]) < 0.2 and float(filtered(torch.ones(3, 3))[1, 1]) == 1


@pytest.mark.checks("token_relevance", "baseline", "floor")
def test_a_thing_that_is_named_is_pointed_at():
    """Of a description written out, the token that names the thing: beside shuffled patches, and before training."""
    hits = {}
    for name in ("zoo:emoji-llava", "zoo:emoji-llava@untrained"):
        model, made = cutaway.load(name), []
        for scene in scenes("test", 4, world=LONE):
            asked = ask(model, scene, "Describe the picture.")
            thing = scene.things[0].concept
            inputs = model.inputs(image=asked.pictures[0], text=asked.text, answer=f"a {thing}")
            found = token_relevance(model, inputs, method="chefer").map(target=1).values
            truth = covered(masks(scene)[0], found)
            made.append((located(found, truth).mass, by_chance(found, truth).mass))
        hits[name] = np.mean(made, 0)
    (trained, chance), (before, _) = hits.values()
    assert trained > 1.5 * chance and trained > before, hits


# --- chance and the floor ---------------------------------------------------------------------------------------------


@pytest.mark.checks("relevance", "baseline", "floor")
@pytest.mark.parametrize("method", ["attn_lrp", "chefer"])
def test_the_thing_of_a_caption_has_more_than_by_chance_and_than_before_training(method):
    mass = {}
    for name in ("zoo:emoji-clip", "zoo:emoji-clip@untrained"):
        model, made = cutaway.load(name), []
        for scene in scenes("test", 8, world=LONE):
            asked = match(model, scene)
            heat = relevance(model, asked.inputs, asked.target, method=method).map().values
            truth = covered(masks(scene)[0], heat)
            made.append((located(heat, truth).mass, by_chance(heat, truth).mass))
        mass[name] = np.mean(made, 0)
    (trained, chance), (before, _) = mass.values()
    assert trained > 1.3 * chance and trained > before, mass
