"""Edges of attention that are cut: exactly those that were named, whatever the padding; planted ways are found."""

from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch

import cutaway
from cutaway import targets
from cutaway.data import questions as scene_questions
from cutaway.data import render, scenes
from cutaway.errors import MethodError
from cutaway.methods import attention_knockout
from cutaway.methods.causal_tracing import Flow
from cutaway.methods.causal_tracing.attention_knockout import usual_edges
from cutaway.methods.causal_tracing.spans import as_many, edges, seen_by, span
from cutaway.methods.result import load
from cutaway.methods.shown import applied
from cutaway.methods.table import METHODS
from cutaway.model.edits import Knockout, Set
from cutaway.model.tokens import Where
from cutaway.questions import ask, draw, match
from cutaway.zoo import tiny
from cutaway.zoo.trained import trained
from world import fresh, opened

CAT = targets.logit("cat")
SHORT, LONG = "a red dog", "a big car on the left road"
llava = pytest.mark.skipif(not trained("emoji-llava").here, reason="zoo:emoji-llava is not in this checkout")


def padded(name, side, texts=(SHORT, LONG)):
    tool = opened(name).tokenizer
    before, tool.padding_side = tool.padding_side, side
    try:
        return opened(name).inputs(text=list(texts))
    finally:
        tool.padding_side = before


def cut(name, inputs, *named, target=CAT, **options):
    return attention_knockout(opened(name), inputs, target, edges=named, **{"draws": 0, "progress": False, **options})


# --- what is cut ------------------------------------------------------------------------------------------------------


@pytest.mark.checks("attention_knockout", "truth")
@pytest.mark.parametrize("name", ["llama", "gpt2"])  # grouped queries, and a head of keys for each of queries
def test_all_edges_cut_are_attention_spread_evenly(name):
    """A position that loses every edge keeps the mean of its values: the pattern set to that by hand is the same."""
    model, inputs = opened(name), opened(name).inputs(text=LONG)
    found = cut(name, inputs, "all->last", wide=1)
    count = inputs.tensors["input_ids"].shape[1]
    for layer in range(3):
        even = Set(f"text.{layer}.attn.pattern", 1 / count, query=-1)
        assert found["value"].sel(layer=str(layer)).item() == pytest.approx(
            float(CAT(model.run(inputs, edits=even))), abs=1e-6
        )
    every = [Set(f"text.{layer}.attn.pattern", 1 / count, query=-1) for layer in range(3)]
    assert found["value"].sel(layer="all").item() == pytest.approx(float(CAT(model.run(inputs, edits=every))), abs=1e-6)
    assert found["cut"].values.tolist() == [[count]]


def test_all_but_its_own_edge_cut_leaves_a_position_its_own_value():
    """Four heads of queries read two of values."""
    model, inputs = opened("llama"), opened("llama").inputs(text=SHORT)
    found = cut("llama", inputs, "before->last", spans={"before": range(3)}, wide=1)
    run = model.run(inputs, record="text.1.attn.v")["text.1.attn.v"]
    own = run[0, -1].repeat_interleave(2, 0)
    by_hand = model.run(inputs, edits=Set("text.1.attn.z", own, token=-1))
    assert found["value"].sel(layer="1").item() == pytest.approx(float(CAT(by_hand)), abs=1e-6)


def test_windows_are_their_layers_cut_at_once_at_both_ends():
    model, inputs = opened("llama"), opened("llama").inputs(text=LONG)
    found = cut("llama", inputs, "question->last", wide=2)
    assert [str(one) for one in found["layer"].values] == ["0-1", "1-2", "all"]
    mask = span(inputs, "text", "question")
    for name, layers in (("0-1", (0, 1)), ("1-2", (1, 2)), ("all", (0, 1, 2))):
        edits = [Knockout(f"text.{layer}.attn", query=-1, key=mask) for layer in layers]
        moved = float(CAT(model.run(inputs, edits=edits)) - CAT(model.run(inputs)))
        assert found["change"].sel(layer=name).item() == pytest.approx(moved, abs=1e-9)


@pytest.mark.parametrize("name", ["llama", "gpt2"])  # rotary and learned places: a padded row keeps its own
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_cut_as_it_is_alone(name, side):
    inputs = padded(name, side)
    found = cut(name, inputs, "question->last", "last->last", "first->question", wide=2)
    for row, text in enumerate((SHORT, LONG)):
        alone = cut(name, opened(name).inputs(text=text), "question->last", "last->last", "first->question", wide=2)
        assert np.allclose(found["value"].isel(row=row), alone["value"].isel(row=0), atol=1e-5)
        assert found["cut"].values[:, row].tolist() == alone["cut"].values[:, 0].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_spans_are_of_each_row_and_never_padding(side):
    inputs = padded("llama", side, ("a red dog", "a dog on a dog"))
    own = inputs.tensors["attention_mask"].bool()
    assert torch.equal(span(inputs, "text", "all"), own)
    for name in ("last", "first", "question", "dog", "words", -1, [0, 1], Where("text")):
        assert not (span(inputs, "text", name) & ~own).any()
    assert span(inputs, "text", "dog").sum(1).tolist() == [1, 2]
    assert span(inputs, "text", "last").sum(1).tolist() == [1, 1]
    assert torch.equal(span(inputs, "text", "last"), span(inputs, "text", -1))
    assert torch.equal(span(inputs, "text", span(inputs, "text", "dog")), span(inputs, "text", "dog"))


def test_places_on_a_picture_are_spans():
    model = opened("llava")
    inputs = model.inputs(image=tiny.picture(), text="what is this ?")
    assert int(span(inputs, "text", "picture").sum()) == 16
    assert torch.equal(span(inputs, "text", "row 1"), inputs.tokens["text"].where("image", row=1))
    assert torch.equal(span(inputs, "text", "column 2"), inputs.tokens["text"].where("image", col=2))
    assert usual_edges(model, inputs) == ["picture->question", "picture->last", "question->last", "last->last"]
    found = attention_knockout(model, inputs, CAT, edges="row 1->last, what->last", draws=1, progress=False)
    assert [str(one) for one in found["edge"].values] == ["row 1->last", "what->last"]
    assert found["cut"].values.tolist() == [[4], [1]]


def test_half_precision_has_numbers_when_every_edge_is_cut():
    half = cutaway.load("tiny:llama", dtype="float16")
    inputs = half.inputs(text=[SHORT, LONG])
    found = attention_knockout(half, inputs, CAT, edges="all->last,all->all", draws=0, progress=False)
    full = cut("llama", opened("llama").inputs(text=[SHORT, LONG]), "all->last", "all->all")
    assert np.allclose(found["value"], full["value"], atol=0.02)


# --- chance -----------------------------------------------------------------------------------------------------------


@pytest.mark.checks("attention_knockout", "baseline")
@pytest.mark.parametrize("side", ["left", "right"])
def test_random_edges_are_as_many_and_among_those_that_are_seen(side):
    inputs = padded("llama", side)
    visible = seen_by(inputs, inputs.tokens["text"], "text", causal=True)
    query, key = span(inputs, "text", "last"), span(inputs, "text", [1])
    own = span(inputs, "text", "all")
    drawn = [as_many(visible, query, key, (seed,)) for seed in range(6)]
    for one in drawn:
        assert ((edges(visible, query) * one).sum(1) == (edges(visible, query) * key).sum(1)).all()
        assert not (one & ~own).any()
    assert len({tuple(one.flatten().tolist()) for one in drawn}) > 1
    wide = as_many(visible, own, key, (0,))
    gap = (edges(visible, own) * wide).sum(1) - (edges(visible, own) * key).sum(1)
    assert (abs(gap) <= own.sum(1)).all()  # to within one key


def test_the_planted_way_is_found_and_chance_does_less():
    """A CLIP whose class token reads the patches in layer 1 alone: no other layer's edge matters, and its own does."""
    model = fresh("clip")
    with torch.no_grad():
        for number, block in enumerate(model.towers["vision"].blocks):
            block.self_attn.out_proj.bias.zero_()
            block.self_attn.out_proj.weight.mul_(5 if number == 1 else 0)
    asked = match(model, tiny.picture(), ["a red dog", "a cat"])
    found = attention_knockout(model, asked.inputs, asked.target, wide=1, progress=False)
    change = abs(found["change"].sel(edge="picture->class"))
    assert float(change.sel(layer=["0", "2"]).max()) < 1e-12 < 1e-5 < float(change.sel(layer="1"))
    assert float(change.sel(layer="all")) == pytest.approx(float(change.sel(layer="1")))
    own = abs(found["change"].sel(edge="class->class"))
    assert float(own.sel(layer="1")) < float(change.sel(layer="1"))


def test_log_probabilities_change_by_shares_and_rows_have_an_interval():
    model, inputs = opened("llama"), opened("llama").inputs(text=["a red dog", "a big cat", "the old man"])
    found = attention_knockout(model, inputs, targets.log_prob("cat"), progress=False)
    ratio = np.exp(found["value"] - found["clean"]).mean("row") - 1
    assert np.allclose(found["relative"], ratio)
    assert (found["relative_low"] <= found["relative"]).all() and (found["relative"] <= found["relative_high"]).all()
    assert (found["low"] <= found["change"]).all() and "interval" not in found.note()
    assert found.plot().figure and len(found.summary()) == 4


# --- drawings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_words_are_hidden_from_patches_as_by_hand(name):
    """One evaluation of a denoiser, by cross-attention or joint attention."""
    model = opened(name)
    asked = draw(model, "a red dog", steps=2, step=1)
    found = attention_knockout(model, asked.inputs, asked.target, edges="red->picture", draws=1, progress=False)
    joint = asked.inputs.tokens.get("denoiser.joint")
    known, part = (asked.inputs.tokens["text"], "cross") if joint is None else (joint, "attn")
    patches = None if joint is None else torch.from_numpy(joint.row >= 0)
    by_hand = Knockout(f"denoiser.*.{part}", key=known.where(text="red"), query=patches)
    value = float(asked.target(model.run(asked.inputs, edits=by_hand)))
    assert found["value"].sel(layer="all").item() == pytest.approx(value, rel=1e-6)
    assert found["relative"].isnull().all()  # the distance to itself is 0
    with pytest.raises(MethodError, match=r"reads no words here|'elephant' is not a word"):
        attention_knockout(model, asked.inputs, asked.target, edges="red->elephant", progress=False)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"edges": "last"}, r"'last' is no edge.*'picture->last'"),
        ({"edges": "cat->last"}, r"'cat' is not a word.*Available: a, red, dog"),
        ({"edges": "picture->last"}, r"ow 0 has no position for 'picture'.*Available: question, words, last"),
        ({"edges": "last->red"}, r"othing to cut in 'last->red'.*urn it round: 'red->last'"),
        ({"wide": 0}, "o window of 0 layers"),
        ({"wide": 4}, "o window of 4 layers.*1 to 3"),
        ({"draws": -1}, "-1 sets of random"),
        ({"tower": "vision"}, "no attention in a tower 'vision'"),
        ({"spans": {"x": torch.ones(1, 2, dtype=torch.bool)}, "edges": "x->last"}, r"mask of shape \(1, 2\)"),
        ({"target": targets.logit("cat", 0), "edges": "red->last"}, "no cut moves the target"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    model = opened("llama")
    with pytest.raises(MethodError, match=f"(?i){said}"):
        attention_knockout(model, model.inputs(text=SHORT), **{"target": CAT, "progress": False, **options})


def test_a_model_without_attention_is_refused():
    model = opened("mamba")
    with pytest.raises(MethodError, match="has no attention"):
        attention_knockout(model, model.inputs(text=SHORT), CAT, progress=False)


# --- trained and untrained --------------------------------------------------------------------------------------------


@cache
def several(name):
    """Six pictures, each with a thing that is asked for: inputs, and the log-probability of each answer."""
    model = cutaway.load(name)
    every = ((scene, one) for scene in scenes("test", 60) for one in scene_questions(scene, 0, ("presence",))[:1])
    some = [(render(scene), one) for scene, one in islice(every, 6)]
    inputs = model.inputs(image=[[picture] for picture, _ in some], text=[one.question for _, one in some])
    return model, inputs, targets.log_prob([one.answer for _, one in some])


@llava
@pytest.mark.checks("attention_knockout", "floor")
def test_what_the_trained_model_reads_the_untrained_one_does_not():
    found, before = (
        attention_knockout(*several(name), edges="picture->question,picture->last,question->last", wide=6, draws=1,
                           progress=False)
        for name in ("zoo:emoji-llava", "zoo:emoji-llava@untrained")
    )  # fmt: skip
    change, floor = (abs(one["change"].sel(layer="all")).max() for one in (found, before))
    assert float(change) > 5 * float(floor)
    assert float(found["change"].sel(layer="all", edge="question->last")) < float(
        found["random"].sel(layer="all", edge="question->last")
    )


@llava
def test_it_answers_a_question_and_shows_itself(tmp_path):
    model, *_ = several("zoo:emoji-llava")
    asked = ask(model, next(iter(scenes("test", 1))))
    (declared,) = (one for one in METHODS if one.name == "attention_knockout")
    page = applied(asked, [declared])
    curve, table = declared.show(page)
    assert "picture->last" in curve.seen and curve.to_json() and table.to_json()
    assert len(table.cells) == 4 and sum(line.baseline for line in curve.lines) == 4
    assert "attention_knockout(question.model, question.inputs, question.target)" in curve.code
    assert "Cut in all layers at once" in next(iter(declared.tell(page)))
    assert isinstance(load(page.made("knockout").save(tmp_path / "flow.nc")), Flow)
