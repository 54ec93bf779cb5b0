"""Attention to words: equal to a computation by hand, whatever is kept apart, for one attention or a joint one."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import cutaway
from cutaway import questions
from cutaway.data.prompts import prompt
from cutaway.errors import InputError, MethodError, SiteError
from cutaway.methods import cross_attention, hide_words
from cutaway.methods.cross_attention.cross_attention import AXES, Adding
from cutaway.methods.cross_attention.spoken import words
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.methods.truth import fit
from cutaway.model.edits import Knockout
from cutaway.model.tokens import TokenMap
from cutaway.zoo import tiny
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.evaluate_drawn import scenes_of
from cutaway.zoo.judging import look
from cutaway.zoo.trained import trained

PROMPTS = ["a red dog", "a dog on a cat"]


@pytest.mark.checks("cross_attention", "truth")
def test_it_equals_a_computation_by_hand(sd):
    inputs = sd.inputs(prompt=PROMPTS, seed=3, steps=2)
    made = cross_attention(sd, inputs, apart=AXES, progress=False)
    hand = {}
    for site in [s for s in sd.sites if s.tower == "denoiser" and s.part == "cross.pattern"]:
        hand[site] = sd.run(
            inputs, record=f"{site.tower}.{site.layer}.cross.q {site.tower}.{site.layer}.cross.k".split()
        )
    for at, (site, run) in enumerate(hand.items()):
        q, k = run[f"denoiser.{site.layer}.cross.q"][:, 1], run[f"denoiser.{site.layer}.cross.k"][:, 1]
        scores = torch.einsum("sbqhd,sbkhd->sbhqk", q, k) / q.shape[-1] ** 0.5
        pattern = scores.softmax(-1)
        side = round(pattern.shape[-2] ** 0.5)
        for row, said in enumerate(PROMPTS):
            for place in range(len(said.split())):
                maps = pattern[:, row, :, :, place + 1].unflatten(-1, (side, side))
                fine = interpolate(maps, (16, 16), mode="bilinear") if side < 16 else maps
                got = made["attention"].isel(picture=row, place=place, layer=at).transpose("step", "head", ...).values
                assert np.abs(got - fine.numpy()).max() < 1e-6


def test_what_is_not_kept_apart_is_averaged(sd):
    inputs = sd.inputs(prompt=PROMPTS, seed=3, steps=2)
    whole = cross_attention(sd, inputs, apart=AXES, progress=False)
    for apart in ((), ("layer",), ("step", "head")):
        some = cross_attention(sd, inputs, apart=apart, progress=False)
        mean = whole["attention"].mean([axis for axis in AXES if axis not in apart])
        assert np.nanmax(np.abs((some["attention"] - mean).values)) < 1e-6
        aside = whole["elsewhere"].mean([axis for axis in AXES if axis not in apart])
        assert np.abs((some["elsewhere"] - aside).values).max() < 1e-6
    given = whole["attention"].sum("place").mean(("row", "col")).mean(AXES)
    assert np.allclose(given + whole["elsewhere"].mean(AXES), 1, atol=0.02)  # coarse grids are interpolated


def test_each_row_has_its_own_words_whatever_stands_beside_it(sd):
    both = cross_attention(sd, sd.inputs(prompt=PROMPTS, seed=3, steps=2), progress=False)
    assert both.words(0) == ["a", "red", "dog"] and both.words(1)[:2] == ["a", "dog"]
    assert np.isfinite(both.heat("dog", 1).values).all()
    said_twice = both.heat("a", 1).values
    places = [at for at, word in enumerate(both.words(1)) if word == "a"]
    summed = both["attention"].isel(picture=1, place=places).sum("place").mean(("step", "layer")).values
    assert len(places) == 2 and np.allclose(said_twice, summed)
    with pytest.raises(MethodError, match="'horse' is not a word"):
        both.heat("horse")


def test_the_row_that_guidance_is_against_has_the_words_of_the_negative_prompt(sd):
    """They are named as the same words are where they are the prompt, and get what these get there."""
    inputs = sd.inputs(prompt="a red dog", negative="a cat on a dog", seed=0, steps=1, guidance=3.0)
    found = cross_attention(sd, inputs, guidance="uncond", progress=False)
    turned = sd.inputs(prompt="a cat on a dog", negative="a red dog", seed=0, steps=1, guidance=3.0)
    other = cross_attention(sd, turned, progress=False)
    assert found.words() == ["a", "cat", "on", "a", "dog"] == other.words()
    assert np.allclose(found["attention"], other["attention"], atol=1e-9)
    with pytest.raises(MethodError, match="'uncond' reads no words"):
        cross_attention(sd, sd.inputs(prompt="a dog", steps=1, guidance=3.0), guidance="uncond", progress=False)


@pytest.mark.parametrize("name", ["tiny:sdxl", "tiny:sd3"])
def test_other_denoisers(name):
    model = cutaway.load(name)
    made = cross_attention(model, model.inputs(prompt="a dog", seed=0, steps=2), progress=False)
    assert made.words()[:2] == ["a", "dog"]
    site = next(s for s in model.sites if s.tower == "denoiser" and s.part.endswith(("cross.pattern", "attn.pattern"))
                and ("cross" in s.part or name == "tiny:sd3"))  # fmt: skip
    run = model.run(model.inputs(prompt="a dog", seed=0, steps=2), record=site)
    tokens = run.inputs.map_for(site, "key", run[site].shape[-1])
    at = int(tokens.where(text="dog")[0].nonzero()[0])
    grid = run.inputs.map_for(site, "query", run[site].shape[-2])
    own = torch.from_numpy(grid.row[0] >= 0)
    hand = run[site][:, 1, 0, :, own, at].mean(1)
    got = made["attention"].isel(picture=0, place=1, layer=0).values.reshape(2, -1)
    assert np.abs(got - hand.numpy()).max() < 1e-6


def test_memory_does_not_grow_with_steps(sd):
    """Nothing is kept of a call once it is added up: no more tensors are alive at the last call than at the second."""
    alive = []
    add = Adding.add

    def counted(self, reading):
        add(self, reading)
        alive.append(sum(one.numel() for there in self.total.values() for one in there.values()))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Adding, "add", counted)
        cross_attention(sd, sd.inputs(prompt="a dog", seed=0, steps=3), apart=("layer",), progress=False)
    assert len(alive) % 3 == 0 and alive[len(alive) // 3 - 1] == alive[-1] > 0
    sizes = {
        steps: cross_attention(sd, sd.inputs(prompt="a dog", seed=0, steps=steps), apart=("layer",), progress=False)
        for steps in (1, 3)
    }
    assert sizes[1]["attention"].size == sizes[3]["attention"].size
    held = []
    sd.run(sd.inputs(prompt="a dog", seed=0, steps=3), record="denoiser.*.cross.pattern", into=held.append)
    assert [one.step for one in held[:: len(held) // 3]] == [0, 1, 2]
    assert {one.guidance for one in held} == {("uncond", "cond")}


def test_a_cut_word_gets_nothing(sd):
    inputs = sd.inputs(prompt="a red dog", seed=0, steps=2)
    with sd.edited(hide_words(sd, inputs, "dog")):
        cut = cross_attention(sd, inputs, progress=False)
    assert float(cut.heat("dog").max()) < 1e-6 < float(cut.heat("red").max())
    both = sd.inputs(prompt=PROMPTS, seed=0, steps=2)
    with sd.edited(hide_words(sd, both, ["red dog", "on"])):
        cut = cross_attention(sd, both, progress=False)
    assert max(float(cut.heat(word, row).max()) for word, row in (("red", 0), ("dog", 0), ("on", 1))) < 1e-6
    assert float(cut.heat("dog", 1).max()) > 1e-6
    with pytest.raises(MethodError, match="'horse' is not a word"):
        hide_words(sd, both, "horse")
    with pytest.raises(MethodError, match="no denoiser"):
        hide_words(cutaway.load("tiny:clip"), both, "dog")


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_word_cut_from_joint_attention_gets_nothing_and_sees_on(name):
    model = cutaway.load(f"tiny:{name}", dtype="float64")
    inputs = model.inputs(prompt=PROMPTS, seed=0, steps=1, guidance=1.0, size=(32, 32))
    plain = cross_attention(model, inputs, progress=False)
    edits = hide_words(model, inputs, ["red dog", "cat"])
    with model.edited(edits):
        cut = cross_attention(model, inputs, progress=False)
        pattern = model.run(inputs, record="denoiser.0.attn.pattern")["denoiser.0.attn.pattern"]
    assert max(float(cut.heat(word, row).max()) for word, row in (("red", 0), ("dog", 0), ("cat", 1))) < 1e-12
    assert float(plain.heat("dog", 0).max()) > 1e-4 < float(cut.heat("dog", 1).max())
    joint = inputs.tokens["denoiser.joint"]
    hidden = edits[0].key.value if hasattr(edits[0].key, "value") else edits[0].key
    seeing = pattern.flatten(0, -5)[0, 0, :, torch.as_tensor(hidden)[0]][..., torch.from_numpy(joint.row[0] >= 0)]
    assert (seeing.sum(-1) > 0.01).all()  # the words still look at patches


@pytest.mark.checks("cross_attention", "baseline")
def test_even_attention_is_told(sd):
    made = cross_attention(sd, sd.inputs(prompt="a dog", seed=0, steps=1), progress=False)
    assert float(made["even"]) == pytest.approx(1 / 16)
    with sd.edited([Knockout("denoiser.*.cross")]):  # all cut alike: spread evenly
        flat = cross_attention(sd, sd.inputs(prompt="a dog", seed=0, steps=1), progress=False)
    assert np.allclose(flat.heat("dog"), 1 / 16, atol=1e-6)


@pytest.mark.checks("cross_attention", "floor")
def test_maps_lie_on_what_was_drawn_and_before_training_do_not():
    """Of eight drawings, held against what the judge sees on them; the floor is held against the same drawings."""
    if not trained("emoji-sd").here:
        pytest.skip("the weights of zoo:emoji-sd are not in this checkout")
    scenes = list(islice(scenes_of("test", 1), 8))
    fixed = {
        "prompt": [prompt(one, one.seed, ground=True).text for one in scenes],
        "seed": 0,
        "steps": 5,
        "guidance": 3,
    }
    fits: dict[str, list[float]] = {"trained": [], "shuffled": [], "untrained": []}
    model, floor = (cutaway.load(name) for name in ("zoo:emoji-sd", "zoo:emoji-sd@untrained"))
    made, below = (cross_attention(one, one.inputs(**fixed), progress=False) for one in (model, floor))
    drawn = torch.from_numpy(made["drawn"].values).movedim(-1, 1).float() / 127.5 - 1
    with torch.no_grad():
        seen = look(judge(), drawn)
    for at, scene in enumerate(scenes):
        name = scene.things[0].concept
        truth = seen.mask(at, name).numpy().astype(bool)
        if truth.any():
            found = fit(made.heat(name, at).values, truth)
            fits["trained"].append(float(found.iou))
            fits["shuffled"].append(float(found.iou_shuffled))
            fits["untrained"].append(float(fit(below.heat(name, at).values, truth).iou))
    means = {name: float(np.mean(values)) for name, values in fits.items()}
    assert len(fits["trained"]) >= 5 and means["trained"] > 0.5 > 2 * max(means["shuffled"], means["untrained"]), means


def test_words_of_pieces():
    tokens = TokenMap.blank(1, 5)
    tokens.text[0] = np.array(["▁a", "▁ele", "phant", "▁on", "ly"], object)
    assert [word.text for word in words(tokens, 0)] == ["a", "elephant", "only"]


def test_what_cannot_be_asked_says_so(sd):
    clip = cutaway.load("tiny:clip")
    with pytest.raises(MethodError, match="no denoiser that attends to words"):
        cross_attention(clip, clip.inputs(text=["a dog"]), progress=False)
    with pytest.raises(MethodError, match="'layers' cannot be kept apart"):
        cross_attention(sd, sd.inputs(prompt="a dog", steps=1), apart=("layers",))
    inputs = sd.inputs(prompt="a dog", negative="a cat", steps=1, guidance=1)
    for error, apart in ((MethodError, ("step",)), (SiteError, ())):
        with pytest.raises(error, match="guidance row 'uncond'"):
            cross_attention(sd, inputs, guidance="uncond", apart=apart, progress=False)


def test_it_answers_a_question_and_shows_itself():
    question = questions.asked("tiny:sd", prompt="a red dog", step=1)
    made = method("cross-attention").apply(question)
    assert made.result["step"].size == question.inputs.call.steps
    assert "cross_attention(question.model, question.drawing)" in made.code()
    assert "a prompt to draw" in method("cross_attention").why_not(questions.asked("tiny:clip", image=tiny.picture()))


def test_a_page_begins_with_the_word_that_is_named_or_with_the_one_that_is_gathered_most(sd):
    declared = method("cross_attention")
    told = {}
    for word in ("", "Dog", "red", "a"):
        page = applied(questions.draw(sd, "a red dog", steps=1, word=word), [declared])
        opening, findings = declared.lead(page)
        first, *rest = declared.show(page)
        told[word] = opening.lead.texts[0], findings[0]
        assert {view.shown for view in (first, *rest)} == {first.texts.index(told[word][0])}
        assert opening.verdict == findings[0] and len(set(findings)) == len(findings)
    most = told[""][0]
    for word in ("dog", "red", "a"):
        shown, said = told[word if word != "dog" else "Dog"]
        assert shown == word and ("looked for most in one place" in said) == (word == most) and f"“{word}”" in said
    with pytest.raises(InputError, match=r"'cat' is not a word of the prompt.*a, red, dog"):
        questions.draw(sd, "a red dog", steps=1, word="cat")
    with pytest.raises(InputError, match="--word says nothing"):
        questions.asked("tiny:llava", text="what", word="what")
