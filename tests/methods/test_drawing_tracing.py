"""Tracing of drawings: identities bit for bit, a planted place, chance, before training, and the number itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cutaway
from cutaway import data, questions
from cutaway.data import Has, Noun, On
from cutaway.data.prompts import DRAWINGS, changed, claims_of, prompt, told_apart
from cutaway.errors import InputError, MethodError, SiteError, TargetError
from cutaway.methods import drawing_tracing
from cutaway.methods.causal_tracing import declared
from cutaway.methods.causal_tracing.drawing_tracing import Tracing, shares
from cutaway.methods.causal_tracing.places import layers_of, places
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.model.edits import Patch
from cutaway.model.inputs import Inputs
from cutaway.model.run import Run
from cutaway.model.targets import denoising_error, distance, outcome
from cutaway.questions.judged import judged, number_of, prompts_apart
from cutaway.zoo import tiny
from cutaway.zoo.evaluate_drawn import scenes_of
from cutaway.zoo.trained import trained
from world import OTHER, OWN

WHATS = ("prompt", "attention", "head", "word")


@pytest.mark.checks("drawing_tracing", "truth")
@pytest.mark.parametrize("what", WHATS)
def test_every_place_together_is_the_clean_drawing_bit_for_bit(sd, what):
    both = [sd.inputs(prompt=some[0], seed=3, steps=2) for some in (OWN, OTHER)]
    chosen = places(sd, what, *both, windows=1, wide=1, groups=None)
    row = "embed" if what == "word" else "all"
    clean, corrupted = (sd.run(one, record=list(chosen.rows[row]), output="pt") for one in both)
    assert not torch.equal(clean.outputs.images, corrupted.outputs.images)
    for base, source in ((both[1], clean), (both[0], corrupted)):
        drawn = sd.run(base, edits=chosen.edits(row, "all", source.activations), output="pt")
        assert torch.equal(drawn.outputs.images, source.outputs.images)


@pytest.mark.checks("drawing_tracing", "truth")
@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_every_encoder_that_says_the_prompt_is_traced_together(name):
    pipeline, _ = tiny.build(name, dtype=torch.float64)
    if name == "sd3":
        whole = cutaway.load(pipeline)
        pair = [whole.inputs(prompt=one[0], steps=1) for one in (OWN, OTHER)]
        with pytest.raises(SiteError, match="layers of 'text_3'"):  # T5 would go on saying the other prompt
            drawing_tracing(whole, *pair, what="word")
        pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
    model = cutaway.load(pipeline)
    both = [model.inputs(prompt=some[0], seed=3, steps=2, size=(32, 32)) for some in (OWN, OTHER)]
    chosen = places(model, "word", *both, windows=1, wide=1, groups=None)
    clean = model.run(both[0], record=list(chosen.sites), output="pt")
    drawn = model.run(both[1], edits=chosen.edits("embed", "all", clean.activations), output="pt")
    assert torch.equal(drawn.outputs.images, clean.outputs.images)


@pytest.mark.checks("drawing_tracing", "truth")
def test_nothing_put_in_is_the_counterfactual(sd, both):
    """Its own states put in change nothing, nor do those of words that both prompts have."""
    clean = outcome(sd.run(both[0], output="pt"))
    found = drawing_tracing(sd, both[1], both[1], _Fixed(), what="prompt", windows=1, groups={}, random=False,
                            progress=False)  # fmt: skip
    assert float(found["mean"].max()) == 0
    word = drawing_tracing(sd, *both, distance(clean), what="word", groups={}, random=False, progress=False)
    embed = word["mean"].sel(layer="embed")
    assert float(embed.sel(position="the word")) == 1  # all that the two differ in
    assert [float(embed.sel(position=one)) for one in ("words behind", "end", "padding")] == [0, 0, 0]


class _Fixed(distance):
    """A number that tells two drawings of the same prompt apart: how often it has been read."""

    def __init__(self):
        object.__setattr__(self, "reference", [])

    def __call__(self, run):
        self.reference.append(run)
        second = len(self.reference) == 2  # the clean one is read first behind the cells
        return torch.ones(len(run.outputs.images)) * (1.0 if second else 0.0)


@pytest.mark.checks("drawing_tracing", "truth")
def test_it_is_what_a_patch_by_hand_gives(sd, both):
    clean = sd.run(both[0], record="denoiser.*.cross.k denoiser.*.cross.v".split(), output="pt")
    aim, layer = distance(clean), sd.sites["denoiser.*.cross.k"][0].layer
    found = drawing_tracing(sd, *both, aim, windows=2, groups={str(layer): [layer]}, random=False, progress=False)
    assert float(found["mean"].sel(layer="all", step="all")) == 1
    out = drawing_tracing(sd, *both, aim, windows=1, groups={}, mode="noise", random=False, progress=False)
    assert float(out["mean"].squeeze()) == 0
    edits = [Patch(f"denoiser.{layer}.cross.{part}", clean, guidance="cond", step=[1]) for part in "kv"]
    hand = aim(sd.run(both[1], edits=edits, output="pt")).numpy()
    assert np.array_equal(found["value"].sel(layer=str(layer), step="late").values, hand)
    gap = (found["clean"] - found["corrupted"]).values.sum()
    share = (hand - found["corrupted"].values).sum() / gap
    assert float(found["mean"].sel(layer=str(layer), step="late")) == pytest.approx(share)
    named = places(sd, "prompt", *both, windows={"second": [1]}, groups={"one": [layer]}, wide=1)
    assert [*named.rows] == ["one", "all"] and named.columns == {"second": {"step": [1]}, "all": {}}
    wide = places(sd, "prompt", *both, windows=1, groups=None, wide=2)
    assert all("-" in name and len(sites) == 4 for name, sites in [*wide.rows.items()][:-1])


@pytest.mark.checks("drawing_tracing", "baseline")
def test_an_unrelated_drawing_brings_nothing_back(sd):
    own, other = ["a red dog", "a cat on a mat", "a red dog"], ["a blue dog", "a fox on a mat", "a blue dog"]
    both = [sd.inputs(prompt=some, seed=3, steps=1) for some in (own, other)]
    found = drawing_tracing(sd, *both, windows=1, groups={}, progress=False)
    assert float(found["mean"].squeeze()) == 1 and float(found["random"].squeeze()) < 0.5
    assert found["prompt"].values.tolist() == [0, 1, 0]
    alone = drawing_tracing(sd, *(sd.inputs(prompt=some[0], seed=3, steps=1) for some in (own, other)), windows=1,
                            groups={}, progress=False)  # fmt: skip
    assert alone["random"].isnull().all() and "no unrelated drawing" in alone.note()


@pytest.mark.parametrize("what", ["prompt", "word"])
def test_pictures_of_a_pair_are_rows_and_strangers_come_from_another_pair(sd, what):
    own, other = ["a red dog", "a cat on a mat"], ["a blue dog", "a fox on a mat"]
    several = [sd.inputs(prompt=some, pictures=2, seed=3, steps=1) for some in (own, other)]
    groups = {"last": [1]} if what == "word" else {}
    found = drawing_tracing(sd, *several, what=what, windows=1, groups=groups, progress=False)
    assert found["prompt"].values.tolist() == [0, 0, 1, 1]
    whole = found["mean"].isel(layer=-1).sel({found.axis: "all"})
    assert float(whole) == 1 and float(found["random"].isel(layer=-1).sel({found.axis: "all"})) < 0.5


def test_intervals_are_over_pairs_of_prompts():
    clean, corrupted, same = np.ones(40), np.zeros(40), np.repeat([0, 1, 2, 3], 10)
    values = (same < 2).astype(float)[:, None]
    mean, low, high = shares(values, clean, corrupted, same)
    assert mean == 0.5 and low == 0 and high == 1  # four pairs, however many drawings
    each = shares(values, clean, corrupted, np.arange(40))
    assert each[1] > 0.3 and each[2] < 0.7


@pytest.mark.checks("drawing_tracing", "floor")
def test_what_was_trained_comes_back_and_before_training_there_is_nothing():
    if not trained("emoji-sd").here:
        pytest.skip("the weights of zoo:emoji-sd are not in this checkout")
    own, other, target = prompts_apart("background", 2)
    found = {}
    for name in ("zoo:emoji-sd", "zoo:emoji-sd@untrained"):
        model = cutaway.load(name)
        both = [model.inputs(prompt=some, seed=0, steps=2, guidance=3.0) for some in (own, other)]
        found[name] = drawing_tracing(model, *both, target, windows=1, groups={}, random=False, progress=False)
    made, floor = found.values()
    assert made.gap > 0.9 and float(made["value"].min()) > 0.9
    assert float(floor["clean"].max()) < 0.05 > float(floor["value"].max())  # what was asked for is not there


def test_the_denoising_error_is_a_cheap_target(sd):
    both = [sd.inputs(prompt=some, step=1, steps=3, image=[tiny.picture(1), tiny.picture(2)]) for some in (OWN, OTHER)]
    found = drawing_tracing(sd, *both, groups={}, random=False, progress=False)
    assert found.provenance.options["target"] == "denoising_error()"
    assert float(found["mean"].squeeze()) == 1 and "drawn" not in found.data
    with pytest.raises(MethodError, match="text encoder is not run here"):
        drawing_tracing(sd, *both, denoising_error(), what="word", progress=False)


def test_what_cannot_be_traced_says_so(sd, both):
    with pytest.raises(MethodError, match="differ in more than their prompts: seed"):
        drawing_tracing(sd, both[0], sd.inputs(prompt=OTHER, seed=4, steps=2))
    with pytest.raises(MethodError, match="what='words'"):
        drawing_tracing(sd, *both, what="words")
    with pytest.raises(MethodError, match="does not move"):
        drawing_tracing(sd, both[0], both[0], windows=1, groups={}, progress=False)
    with pytest.raises(MethodError, match="Layer 99 has no cross"):
        drawing_tracing(sd, *both, groups={"far": [99]})
    with pytest.raises(MethodError, match="No step 2"):
        drawing_tracing(sd, *both, windows={"late": [2]})
    with pytest.raises(MethodError, match="Pair 0 has 5 and 6 positions"):
        drawing_tracing(sd, *(sd.inputs(prompt=one, steps=2) for one in ("a red dog", "a big red dog")), what="word")
    with pytest.raises(MethodError, match="no cross"):
        drawing_tracing(cutaway.load("tiny:sd3"), *both)


def test_it_answers_a_question_shows_itself_and_can_be_kept(tmp_path):
    question = questions.draw(cutaway.load("tiny:sd"), "a red dog", steps=1, counterpart="a blue dog")
    declared = method("drawing-tracing")
    page = applied(question, [declared])
    views = list(declared.show(page))
    assert [len(one.row_axis.labels) for one in views] == [page.made(name)["layer"].size for name in page.applied]
    assert views[0].pictures[0] is not None and "drawing_tracing(" in views[0].code
    assert all(" brings back mo" in one for one in declared.tell(page))
    found = page.made("tracing_word")
    assert Tracing.load(found.save(tmp_path / "traced.nc"))["mean"].equals(found["mean"])
    found.plot()
    assert list(found.summary().columns)[:2] == ["layer", "position"]
    same = questions.draw(question.model, "a red dog", steps=1, counterpart="a red dog")
    assert "both prompts are the same" in declared.why_not(same)


# --- the number -------------------------------------------------------------------------------------------------------


def test_a_prompt_says_what_it_asks_for():
    for scene in [next(scenes_of("test", things, 3)) for things in (1, 2)]:
        made = prompt(scene, 1, way="things", ground=True)
        assert set(claims_of(made.text)) == set(made.claims)
    assert told_apart("a red fox", "a blue fox") == Has(Noun("fox", "red"))
    assert told_apart("a fox", "a fox on a blue background") is None and claims_of("hello") == ()


@pytest.mark.parametrize("part", ["thing", "background", "paint"])
def test_pairs_differ_in_one_word(part):
    own, other, target = prompts_apart(part, 6, seed=1, each=2)
    assert len(own) == len(other) == len(target.claim) == 12 and own[0] == own[1]
    for one, two, claim in zip(own, other, target.claim, strict=True):
        words, others = one.split(), two.split()
        assert len(words) == len(others) and sum(a != b for a, b in zip(words, others, strict=True)) == 1
        assert claim in claims_of(one) and claim not in claims_of(two)
        assert isinstance(claim, On) == (part == "background")
    plain = next(one for one in data.scenes("test", 20, 0, DRAWINGS) if one.things[0].tint is None)
    with pytest.raises(InputError, match="The paint of this scene"):
        changed(plain, "paint")


def _run(images):
    return Run(SimpleNamespace(images=images), Inputs({}))


def test_the_judge_tells_what_was_asked():
    if not trained("emoji-judge").here:
        pytest.skip("the weights of zoo:emoji-judge are not in this checkout")
    scenes = [one for one in data.scenes("test", 60, 0, DRAWINGS) if one.things[0].tint][:3]
    images = data.tensor(scenes).float() / 255
    run = _run(images)
    for part in ("thing", "paint", "background"):
        said = [
            [prompt(one, way="things", ground=True).text for one in (scene, changed(scene, part))] for scene in scenes
        ]
        right, wrong = (judged([told_apart(*both[::way]) for both in said])(run) for way in (1, -1))
        assert float(right.min()) > 0.5 > float(wrong.max()), (part, right, wrong)
    assert torch.equal(judged(told_apart(*said[0])).rows(0, 1)(run), judged([told_apart(*said[0])] * 3)(run))
    with pytest.raises(TargetError, match="does not see pictures of"):
        judged(Has(Noun("fox")))(_run(images[..., :32]))
    with pytest.raises(TargetError, match="no picture to judge"):
        judged(Has(Noun("fox")))(_run(None))
    with pytest.raises(InputError, match="gives no probability"):
        judged(Has(Noun("no such thing")))(run)


def test_the_number_of_a_drawing_follows_from_its_prompt(sd):
    known = [sd.inputs(prompt=f"a fox on a {one} background", steps=1, size=(64, 64)) for one in ("red", "blue")]
    assert number_of(sd, *known) == judged([On("plain", ("red",))])
    unknown = [sd.inputs(prompt=one, steps=1) for one in ("a dog", "a horse")]
    assert number_of(sd, *unknown).unit == "squared difference"


def test_a_page_traces_layers_in_groups_where_it_would_take_too_many_drawings(sd, monkeypatch):
    """And says beforehand how many it takes; none is left out of what the denoiser reads."""
    asked = questions.draw(sd, "a red dog", steps=1, counterpart="a blue dog")
    traced = method("drawing_tracing")
    assert traced.chosen(asked, {"what": "prompt"}) == {} == traced.chosen(asked, {"what": "word"})
    layers = layers_of(sd, "prompt")
    full = traced.cost(asked, {"what": "prompt", "windows": 1})
    assert full == f"about {len(layers) + 3} drawings of 1 steps"
    monkeypatch.setattr(declared, "HEAVY", 0)
    monkeypatch.setattr(declared, "FEW", {"prompt": 2, "word": 1})
    made = traced.apply(asked, what="prompt", windows=1, random=False)
    groups = made.options["groups"]
    assert [one for some in groups.values() for one in some] == layers and len(groups) == 2
    assert made.result["layer"].values.tolist() == [*groups, "all"] and "groups={" in made.call
    assert traced.cost(asked, {"what": "prompt", "windows": 1}) == "about 5 drawings of 1 steps"
    assert traced.chosen(asked, {"what": "word"})["groups"].keys() == {"0"}
    assert traced.chosen(asked, {"what": "prompt", "wide": 2}) == {} == traced.chosen(asked, {"what": "head"})
