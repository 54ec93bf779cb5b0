"""Concepts beside a prompt: their stream is the text's own when they are the prompt, and the picture never changes."""

from itertools import islice

import numpy as np
import pytest
import torch

import cutaway
from cutaway import questions
from cutaway.data.prompts import prompt
from cutaway.errors import InputError, MethodError, SiteError
from cutaway.methods import concept_attention
from cutaway.methods.cross_attention.concept_attention import Kept, scores_at, two_streams
from cutaway.methods.result import load
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.methods.truth import fit, on_patches
from cutaway.model.asides import Aside, aside
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.evaluate_drawn import scenes_of
from cutaway.zoo.judging import look
from cutaway.zoo.trained import trained

PROMPTS = ["a red dog", "a dog on a cat"]
CONCEPTS = ["dog", "red cat", "grass"]


@pytest.fixture(scope="module", params=["sd3", "flux"])
def model(request):
    return cutaway.load(f"tiny:{request.param}", dtype="float64")


def drawing(model, **more):
    return model.inputs(**{"prompt": PROMPTS, "seed": 3, "steps": 2, "size": (16, 24), **more})


@pytest.mark.checks("concept_attention", "truth")
@pytest.mark.parametrize("pictures", [1, 2])
def test_given_the_prompt_for_concepts_it_is_the_stream_of_the_text(model, pictures):
    """Every position of each row's own text, against the products of what the drawing recorded."""
    inputs, layers = drawing(model, pictures=pictures), two_streams(model)
    kept = Kept(layers, None)
    model.run(inputs, record=kept.sites, into=kept.add, guidance="cond")
    text = model.run(inputs, record=[f"denoiser.{layer}.text.attn.z" for layer in layers])
    states = model.inputs(prompt=PROMPTS, seed=3, steps=2, size=(16, 24), step=1, guidance=1.0, pictures=pictures)
    given = states.tensors["encoder_hidden_states"]
    whole = Aside(tuple(map(str, range(given.shape[1]))), given, tuple(range(given.shape[1])))
    scores = scores_at(model, inputs, whole, 1, kept.found[1], layers)
    for at, layer in enumerate(layers):
        own = kept.found[1][f"denoiser.{layer}.image.attn.z"].flatten(-2)
        said = text[f"denoiser.{layer}.text.attn.z"]
        here = said[1, list(text.guidance[f"denoiser.{layer}.text.attn.z"]).index("cond")].flatten(-2)
        assert torch.allclose(scores[:, :, at], torch.einsum("bpd,bcd->bcp", own, here), rtol=1e-12, atol=1e-12)


@pytest.mark.checks("concept_attention", "truth")
def test_a_concept_is_computed_as_by_hand(model):
    """The first block from the modules of the library alone: one text of concepts, patches and concepts attended to."""
    inputs = drawing(model)
    found = concept_attention(model, inputs, CONCEPTS, layers=[0], steps=[1], progress=False)
    step, told = drawing(model, step=1), aside(model, inputs, CONCEPTS)
    denoiser, seen = model.module.transformer, {}
    block = denoiser.transformer_blocks[0]
    hook = block.register_forward_pre_hook(lambda module, args, given: seen.update(given), with_kwargs=True)
    inside = block.attn.to_out[0], block.attn.to_add_out
    hooks = [one.register_forward_pre_hook(lambda module, args, at=at: seen.update({at: args[0]}))
             for at, one in enumerate(inside)]  # fmt: skip
    with torch.no_grad():
        denoiser(**step.tensors)
        given, patches = dict(seen), seen[0]
        given["encoder_hidden_states"] = denoiser.context_embedder(told.states.expand(2, -1, -1))
        rotary = given.get("image_rotary_emb")
        if rotary is not None:
            words, count = len(told.states), step.tensors["encoder_hidden_states"].shape[1]
            nowhere = [torch.cat([one[:1].expand(words, -1), one[count:]]) for one in rotary]
            given["image_rotary_emb"] = tuple(nowhere)
        hook.remove()
        block(**{name: value for name, value in given.items() if isinstance(name, str)})
    for one in hooks:
        one.remove()
    concepts = torch.stack([seen[1][:, [at for at, owner in enumerate(told.owner) if owner == which]].mean(1)
                            for which in range(len(CONCEPTS))], 1)  # fmt: skip
    scores = torch.einsum("bpd,bcd->bcp", patches, concepts)
    got = found["score"].values[:, :, 0, 0].reshape(scores.shape)
    assert abs(got - scores.detach().numpy()).max() < 1e-12
    assert (
        abs(found["share"].values[:, :, 0, 0].reshape(scores.shape) - scores.softmax(1).detach().numpy()).max() < 1e-12
    )


def test_the_picture_is_what_it_is_without(model):
    inputs = drawing(model)
    plain = inputs.call(model.module, inputs.tensors, output="pil", quiet=True).images
    found = concept_attention(model, inputs, CONCEPTS, progress=False)
    assert np.array_equal(np.stack([np.asarray(one) for one in plain]), found["drawn"].values)
    assert np.allclose(found["share"].sum("concept"), 1)
    other = concept_attention(model, inputs, [*CONCEPTS[::-1]], progress=False)
    assert np.allclose(other.heat("red cat", 1), found.heat("red cat", 1), atol=1e-12)


def test_rows_and_words_of_the_prompt():
    model = cutaway.load("tiny:sd3", dtype="float64")
    found = concept_attention(model, drawing(model), steps=1, progress=False)
    assert [str(one) for one in found["concept"].values] == ["a", "red", "dog", "on", "cat"]
    assert found["step"].values.tolist() == [0]
    assert len(concept_attention(model, drawing(model), "dog, red cat", steps=1, progress=False)["concept"]) == 2


def test_what_cannot_be_asked_says_so():
    sd, sd3 = cutaway.load("tiny:sd"), cutaway.load("tiny:sd3")
    with pytest.raises(MethodError, match="no stream of words beside"):
        concept_attention(sd, sd.inputs(prompt="a dog", steps=1), CONCEPTS, progress=False)
    inputs = sd3.inputs(prompt="a dog", steps=1)
    for asked, why in (
        ({"concepts": "dog"}, "two at least"),
        ({"layers": [1]}, "not both streams"),
        ({"guidance": "image"}, "no guidance row 'image' ran"),
    ):
        with pytest.raises((MethodError, SiteError), match=f"(?i){why}"):
            concept_attention(sd3, inputs, **{"concepts": CONCEPTS, **asked}, progress=False)
    with pytest.raises(InputError, match="whole drawing"):
        concept_attention(sd3, sd3.inputs(prompt="a dog", steps=1, step=0), CONCEPTS, progress=False)
    with pytest.raises(MethodError, match="no concept of this result"):
        concept_attention(sd3, inputs, CONCEPTS, progress=False).heat("horse")
    assert "no stream of words" in method("concept_attention").why_not(
        questions.asked("tiny:sd", prompt="a red dog", step=1)
    )


@pytest.fixture(scope="module")
def fits():
    """How well maps fit what the judge sees, of the thing, of things that are not there, before training."""
    if not trained("emoji-mmdit").here:
        pytest.skip("the weights of zoo:emoji-mmdit are not in this checkout")
    scenes = list(islice(scenes_of("test", 1), 5))
    names = [one.things[0].concept for one in scenes]
    fixed = {"prompt": [prompt(one, one.seed, way="things", ground=True).text for one in scenes], "seed": 0,
             "steps": 6, "guidance": 3.0, "length": 0}  # fmt: skip
    model, floor = (cutaway.load(name) for name in ("zoo:emoji-mmdit", "zoo:emoji-mmdit@untrained"))
    concepts = [*dict.fromkeys([*names, "background"])]
    made, below = (concept_attention(one, one.inputs(**fixed), concepts, steps=3, progress=False)
                   for one in (model, floor))  # fmt: skip
    drawn = torch.from_numpy(made["drawn"].values).movedim(-1, 1).float() / 127.5 - 1
    with torch.no_grad():
        seen = look(judge(), drawn)
    rows: dict[str, list[float]] = {}
    for at, name in enumerate(names):
        truth = on_patches(seen.mask(at, name).numpy() > 0, 8, 8) >= 0.5
        if truth.any():
            other = next(one for one in names if one != name)
            for of, result, concept in (("own", made, name), ("another", made, other), ("untrained", below, name)):
                found = fit(result.heat(concept, at).values, truth)
                rows.setdefault(of, []).append(float(found.iou))
            rows.setdefault("shuffled", []).append(float(fit(made.heat(name, at).values, truth).iou_shuffled))
    return {name: float(np.mean(values)) for name, values in rows.items()}


@pytest.mark.checks("concept_attention", "baseline")
def test_the_concept_that_is_there_fits_better_than_others(fits):
    assert fits["own"] > 0.4 > 2 * fits["shuffled"] and fits["own"] > 2 * fits["another"], fits


@pytest.mark.checks("concept_attention", "floor")
def test_before_training_it_fits_nothing(fits):
    assert fits["own"] > 2 * fits["untrained"], fits


def test_it_keeps_draws_and_answers_a_question(tmp_path):
    question = questions.asked("tiny:sd3", prompt="a red dog", step=1)
    page = applied(question, [method("concept_attention")])
    overlay, lens = method("concept_attention").show(page)
    assert overlay.texts == ("a", "red", "dog") and lens.layers == ("0",) and "if all 3 words" in overlay.seen
    made = page.made("concept_attention")
    assert np.array_equal(load(made.save(tmp_path / "made.nc"))["share"].values, made["share"].values)
    assert made.plot().get_title().startswith("share") and len(made.summary()) == 3
    assert "concept_attention(question.model, question.drawing" in page.applied["concept_attention"].code()
