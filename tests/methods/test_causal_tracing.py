"""Causal tracing: what is corrupted is what was said, and places put back bring back exactly what they must."""

from functools import cache

import numpy as np
import pytest
import torch

import cutaway
from cutaway import targets
from cutaway.data import pairs
from cutaway.errors import MethodError
from cutaway.methods import activation_patching, causal_tracing
from cutaway.methods.causal_tracing import Traced
from cutaway.methods.causal_tracing.corruption import Noise, Pixels, Swap, pairs_of
from cutaway.methods.causal_tracing.patched import Places
from cutaway.methods.causal_tracing.spans import span
from cutaway.methods.causal_tracing.windows import windows
from cutaway.methods.result import load
from cutaway.methods.shown import applied
from cutaway.methods.table import METHODS
from cutaway.model.edits import Patch
from cutaway.model.tokens import Where
from cutaway.questions import ask, asked, match
from cutaway.zoo import tiny
from cutaway.zoo.trained import trained
from world import fresh, opened

CAT = targets.logit("cat")
SAID, OTHER = ["a red dog on the left", "a big car on the road"], ["a red cat on the left", "a big bird on the road"]
llava = pytest.mark.skipif(not trained("emoji-llava").here, reason="zoo:emoji-llava is not in this checkout")


def told(name="llama", text=SAID, **more):
    return opened(name).inputs(text=text, **more)


def traced(name="llama", text=SAID, other=None, target=CAT, model=None, **options):
    model = model or opened(name)
    clean = told(name, text) if not hasattr(text, "tensors") else text
    counterfactual = told(name, other) if isinstance(other, str | list) else other
    return causal_tracing(
        model, clean, counterfactual, target, **{"least": 0.0, "progress": False, "draws": 2, "over": (), **options}
    )


# --- corruptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])  # with blanks in front, and without
def test_a_swapped_word_is_the_text_with_that_word(name):
    """Each row its own word; the numbers are those of the pair written out."""
    swapped = traced(name, corruption="swap", swap=["dog=cat", "car=bird"])
    written = traced(name, other=OTHER)
    for one in ("mean", "corrupted", "random"):
        assert np.allclose(swapped[one], written[one], atol=1e-12), one
    inputs = Swap(1, opened(name), "text", pairs_of(["dog=cat", "car=bird"])).inputs(told(name), 0, 0)
    assert torch.equal(inputs.tensors["input_ids"], told(name, OTHER).tensors["input_ids"])
    assert (inputs.tokens["text"].text == told(name, OTHER).tokens["text"].text).all()


def test_a_word_is_swapped_each_time_it_is_said_and_in_no_other_place():
    inputs = told(text="a dog on a dog on the road")
    made = Swap(1, opened("llama"), "text", (("dog", "cat"),)).inputs(inputs, 0, 0).tensors["input_ids"]
    assert torch.equal(made, told(text="a cat on a cat on the road").tensors["input_ids"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_words_of_padded_rows_are_found(side):
    model, tool = opened("llama"), opened("llama").tokenizer
    before, tool.padding_side = tool.padding_side, side
    try:
        made = Swap(1, model, "text", pairs_of(["dog=cat", "car=bird"])).inputs(
            told(text=["dog", "a big car on the road"]), 0, 0
        )
        assert torch.equal(made.tensors["input_ids"], told(text=["cat", "a big bird on the road"]).tensors["input_ids"])
        found = traced(
            text=["a red dog", "a big car on the road"], corruption="swap", swap=["dog=cat", "car=bird"], at="last",
        )  # fmt: skip
    finally:
        tool.padding_side = before
    alone = [
        traced(text=text, corruption="swap", swap=swap, at="last")["recovery"].values[0]
        for text, swap in (("a red dog", "dog=cat"), ("a big car on the road", "car=bird"))
    ]
    assert np.allclose(found["recovery"], alone, atol=1e-5)  # the norms of Llama are taken in float32


def test_a_word_that_is_not_said_is_drawn_by_seed_from_the_pool():
    pool = ("a dog", "a bird on the road", "cat", "left")
    made = [Swap(1, opened("llama"), "text", (), pool, seed).inputs(told(), 0, 0) for seed in range(8)]
    ids = {tuple(one.tensors["input_ids"].flatten().tolist()) for one in made}
    assert len(ids) > 1
    for one in made:
        changed = (one.tensors["input_ids"] != told().tensors["input_ids"]).sum(1)
        assert changed.tolist() == [1, 1]
    again = Swap(1, opened("llama"), "text", (), pool, 3).inputs(told(), 0, 0)
    assert torch.equal(again.tensors["input_ids"], made[3].tensors["input_ids"])


def test_noise_is_as_large_as_it_says_at_its_positions_alone_and_the_same_in_any_batch():
    model, inputs = opened("llama"), told()
    (edit,) = Noise(1, "text.0.resid_pre", "question", 3.0, 5).edits(model, inputs, 0, 1)
    clean = model.run(inputs, record="text.0.resid_pre")["text.0.resid_pre"]
    gap = edit.source["text.0.resid_pre"] - clean
    mask = span(inputs, "text", "question")
    assert (gap[~mask] == 0).all() and (gap[mask] != 0).all()
    scale = torch.stack([clean[row, one].std(correction=0) for row, one in enumerate(mask)])
    assert torch.allclose(gap[mask].view(2, -1).std(1) / scale, torch.full((2,), 3.0).double(), rtol=0.2)
    (lone,) = Noise(1, "text.0.resid_pre", "question", 3.0, 5).edits(model, told(text=SAID[1]), 1, 1)
    assert torch.allclose(lone.source["text.0.resid_pre"][0], edit.source["text.0.resid_pre"][1])
    (more,) = Noise(1, "text.0.resid_pre", "question", 3.0, 5).edits(model, inputs, 0, 2)
    assert not torch.equal(more.source["text.0.resid_pre"], edit.source["text.0.resid_pre"])


def test_no_noise_is_no_corruption():
    model, picture = opened("clip"), tiny.picture()
    inputs = model.inputs(image=picture, text=["a dog", "a cat"])
    (edit,) = Noise(1, "vision.0.resid_pre", "picture", 0.0, 0).edits(model, inputs, 0, 0)
    aim = targets.margin(0, 1)
    assert torch.equal(aim(model.run(inputs, edits=edit)), aim(model.run(inputs)))
    assert torch.equal(Pixels(1, 0.0).inputs(inputs, 0, 0).tensors["pixel_values"], inputs.tensors["pixel_values"])
    with pytest.raises(MethodError, match="target does not move"):
        causal_tracing(model, inputs, target=aim, corruption="noise", sigma=0, progress=False)


def test_noise_on_pixels_is_a_pair_of_pictures():
    model = opened("clip")
    inputs, aim = model.inputs(image=tiny.picture(), text=["a dog", "a cat"]), targets.margin(0, 1)
    found = causal_tracing(
        model,
        inputs,
        target=aim,
        corruption="noise",
        where="pixels",
        draws=1,
        over=(),
        least=0.0,
        progress=False,
    )
    other = Pixels(1, 3.0, 0).inputs(inputs, 0, 0)
    plain = activation_patching(model, inputs, other, aim, over=(), least=0.0, progress=False)
    assert np.allclose(found["mean"], plain["mean"])
    assert "known-bad" in found.note() and "known-bad" in found.plot().get_title()


def test_means_over_draws_are_taken_before_shares():
    one, two = (traced(corruption="noise", draws=n) for n in (1, 2))
    model, inputs = opened("llama"), told()
    drawn = []
    for draw in range(2):
        edits = Noise(2, "text.0.resid_pre", "question", 3.0, 0).edits(model, inputs, 0, draw)
        drawn.append(CAT(model.run(inputs, edits=edits)))
    assert np.allclose(one["corrupted"], drawn[0]) and np.allclose(two["corrupted"], (drawn[0] + drawn[1]) / 2)


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.checks("causal_tracing", "truth")
@pytest.mark.parametrize("options", [
    {"corruption": "swap", "swap": ["dog=cat", "car=bird"]}, {"corruption": "noise", "where": "question"},
    {"other": OTHER},
])  # fmt: skip
def test_everything_put_back_is_all_of_the_answer(options):
    """Whole layers of the residual stream, and all that attention adds at a last position which is the same in both."""
    assert abs(traced(what="residual", over=(), **options)["recovery"] - 1).max() < 1e-6
    assert abs(traced(what="attention", at="last", wide=3, **options)["recovery"] - 1).max() < 1e-6
    assert abs(traced(what="residual", over=(), mode="noise", **options)["recovery"]).max() < 1e-6


def test_a_window_is_its_layers_at_once_at_both_ends():
    model, inputs, other = opened("llama"), told(), told(text=OTHER)
    found = traced(other=OTHER, what="mlp", wide=2, at="last")
    assert [str(one) for one in found["layer"].values] == ["0-1", "1-2"]
    clean = model.run(inputs, record="text.*.mlp.out")
    for name, layers in (("0-1", (0, 1)), ("1-2", (1, 2))):
        edits = [Patch(f"text.{layer}.mlp.out", clean, token=-1) for layer in layers]
        moved = (CAT(model.run(other, edits=edits)) - CAT(model.run(other))).numpy()
        gap = (CAT(model.run(inputs)) - CAT(model.run(other))).numpy()
        assert np.allclose(found["recovery"].sel(layer=name), moved / gap, rtol=1e-6)


def test_windows_of_one_layer_are_activation_patching():
    clean, other = told(), told(text=OTHER)
    plain = activation_patching(opened("llama"), clean, other, CAT, least=0.0, progress=False)
    assert np.array_equal(traced(other=OTHER, over="token")["recovery"], plain["recovery"])
    wide = activation_patching(opened("llama"), clean, other, CAT, wide=3, over=(), sites="text.*.attn.out", at=-1,
                               least=0.0, progress=False)  # fmt: skip
    assert [str(one) for one in wide["layer"].values] == ["0-2"] and abs(wide["mean"] - 1).max() < 1e-6
    with pytest.raises(MethodError, match=r"o window of 4 layers.*1 to 3.*0, 1, 2"):
        activation_patching(opened("llama"), clean, other, CAT, wide=4, progress=False)
    some = opened("llama").sites.select(["text.*.attn.out", "text.*.mlp.out"])
    assert Places.of(some, 2).coords["site"][1:3] == ["text.1-2.attn.out", "text.0-1.mlp.out"]
    assert windows([1, 3, 5], 3) == {"1-5": [1, 3, 5]}


def test_kinds_stand_side_by_side():
    both = traced(other=OTHER, what=("attention", "mlp"), over="token")
    assert both["recovery"].dims == ("pair", "what", "layer", "token") and isinstance(both, Traced)
    for what in ("attention", "mlp"):
        alone = traced(other=OTHER, what=what, over="token")
        assert np.array_equal(both["mean"].sel(what=what), alone["mean"])
        assert np.array_equal(both["clean"], alone["clean"])
    assert both.plot().figure and traced(other=OTHER, what=("attention", "mlp")).plot().figure


def test_all_neurons_at_once_are_the_mlps_and_a_planted_one_is_chosen():
    """A unit that alone writes the other word's direction is the first of all."""
    model = fresh("llama")
    block = model.towers["text"].blocks[1]
    with torch.no_grad():
        block.mlp.down_proj.weight[:, 7] = 40 * model.module.lm_head.weight[model.tokenizer.encode("cat")[-1]]
    found = causal_tracing(model, told(), told(text=OTHER), CAT, what="neuron", neurons=5, least=0.0, progress=False)
    assert found["neuron"].values[0] == "1.7" and found["recovery"].dims == ("pair", "neuron")
    assert int(found["unit"].values[0]) == 7 and abs(found["mean"].values[0]) > abs(found["mean"].values[1:]).max()
    with pytest.raises(MethodError, match="10000 neurons"):
        traced(other=OTHER, what="neuron", neurons=10000)


@pytest.mark.parametrize(("part", "over"), [("head", "head"), ("residual", ())])
def test_grouped_queries_and_half_precision(part, over):
    half = cutaway.load("tiny:llama", dtype="bfloat16")
    inputs = half.inputs(text=SAID)
    for how in ({"corruption": "swap", "swap": ["dog=cat", "car=bird"]}, {"corruption": "noise"}):
        same = {"what": part, "over": over, "least": 0.0, "draws": 1, "progress": False}
        found = causal_tracing(half, inputs, target=CAT, **same, **how)
        assert found["recovery"].notnull().all()
        full = traced(**same, **how)
        assert np.allclose(found["corrupted"], full["corrupted"], atol=0.05)
    assert full["recovery"].sizes.get("head", 4) == 4


def test_a_target_of_several_tokens_is_traced():
    """Peers take one token; here it is the log-probability of all of the answer."""
    model = opened("llama")
    clean, other = (model.inputs(text=text, answer="on the left") for text in ("a red dog", "a red cat"))
    found = causal_tracing(model, clean, other, targets.answer(), over=(), progress=False)
    assert abs(found["mean"] - 1).max() < 1e-6


@pytest.mark.checks("causal_tracing", "baseline")
def test_a_stranger_does_not_bring_the_answer():
    found = traced(other=OTHER, over=(), at="last")
    assert float(found["mean"].isel(layer=-1)) == pytest.approx(1, abs=1e-6)
    assert abs(float(found["random"].isel(layer=-1)) - 1) > 1e-3
    assert "no unrelated row" in traced(text=SAID[0], other=OTHER[0], over=()).note()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"corruption": "swap", "swap": "dog=cat"}, r"'dog' is not a word of the prompt.*Available: a, big"),
        ({"corruption": "swap", "swap": ["dog=unheardofword", "car=bird"]}, r"'dog' is 1 token and.*Choose another"),
        ({"corruption": "swap", "swap": ["dog=red cat", "car=bird"]}, r"'dog' is 1 token and '.*as many known tokens"),
        ({"corruption": "swap"}, r"othing to exchange in row 0.*Available: a, red, dog"),
        ({"corruption": "noise", "where": "picture"}, r"ow 0 has no position for 'picture'.*Available: question"),
        ({"corruption": "noise", "where": Where("image")}, r"ow 0 has no position for Where"),
        ({"corruption": "noise", "where": "pixels"}, "no pixels"),
        ({"corruption": "noise", "sigma": -1}, "0 or more, once or more"),
        ({"what": "soul", "other": OTHER}, "annot trace 'soul'"),
        ({"what": ("head", "mlp"), "other": OTHER}, "several of residual"),
        ({"what": "mlp", "wide": 4, "other": OTHER}, "o window of 4 layers"),
        ({"what": "mlp", "wide": 0, "other": OTHER}, "o window of 0 layers"),
        ({"at": "last", "over": "token", "other": OTHER}, "both choose positions"),
        ({"at": "elephant", "other": OTHER}, "'elephant' is not a word"),
        ({}, "o counterpart"),
        ({"other": ["a red dog", "a big bird on the road"]}, r"positions"),
        ({"other": SAID}, "target does not move"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(MethodError, match=said):
        traced(**options)


# --- trained and untrained --------------------------------------------------------------------------------------------


@cache
def question():
    pair = next(iter(pairs("category", 1)))
    return ask(cutaway.load("zoo:emoji-llava"), pair)


@llava
@pytest.mark.checks("causal_tracing", "floor")
def test_the_trained_model_has_a_gap_to_bring_back_and_before_training_there_is_none():
    asked_of = question()
    found = causal_tracing(
        asked_of.model, asked_of.inputs, asked_of.counterpart.inputs, asked_of.target, at="last", progress=False
    )
    held = found["mean"].values
    assert held[-1] == pytest.approx(1, abs=1e-4) and held[0] < 0.5  # the last position comes to know it
    before = cutaway.load("zoo:emoji-llava@untrained")
    blank = causal_tracing(
        before, before.inputs(image=asked_of.pictures[0], text=asked_of.text),
        before.inputs(image=asked_of.counterpart.pictures[0], text=asked_of.text), asked_of.target, at="last",
        progress=False,
    )  # fmt: skip
    gap, floor = (float(abs(one["clean"] - one["corrupted"]).mean()) for one in (found, blank))
    assert gap > 20 * floor


@llava
def test_it_answers_a_question_and_shows_itself(tmp_path):
    (declared,) = (one for one in METHODS if one.name == "causal_tracing")
    page = applied(question(), [declared])
    (view,) = declared.show(page)
    assert view.unit.startswith("share") and "MLPs" in view.seen and view.to_json()
    assert [line.label for line in view.lines] == ["what attention adds", "what MLPs add"]
    assert "question.counterpart.inputs, question.target" in view.code
    assert "in layers" in next(iter(declared.tell(page)))
    made = page.made("tracing_windows")
    assert isinstance(load(made.save(tmp_path / "traced.nc")), Traced)
    swapped = declared.apply(question(), corruption="swap", swap="left=right", at="last")
    assert "corruption='swap'" in swapped.code() and swapped.result["mean"].notnull().all()


def test_words_of_a_model_that_matches_are_traced_in_its_text():
    model = opened("clip")
    asked_of = match(model, tiny.picture(), ["a red dog", "a big cat"])
    found = causal_tracing(model, asked_of.inputs, target=asked_of.target, corruption="swap", swap=["dog=bird", "="],
                           least=0.0, progress=False)  # fmt: skip
    assert found.provenance.sites[0] == "text.0.resid_post"
    assert float(found["mean"].isel(layer=-1).sum()) == pytest.approx(1, abs=1e-6)
    one = asked("tiny:clip", image=tiny.picture(), text=["a red dog", "a big cat"], counterfactual=tiny.picture(3))
    assert causal_tracing(one.model, one.inputs, one.counterpart.inputs, one.target, over=(), least=0.0,
                          progress=False).provenance.sites[0] == "vision.0.resid_post"  # fmt: skip
