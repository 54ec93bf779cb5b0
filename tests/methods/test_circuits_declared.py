"""Circuits as declared methods: beside chance and untrained models, why some questions have none, and their view."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import cutaway
from cutaway import data, questions
from cutaway.bench.worlds import world
from cutaway.methods import Circuit, attribution_patching, edge_attribution, faithfulness, path_patching
from cutaway.methods.causal_tracing import circuits_declared as declared
from cutaway.methods.causal_tracing.circuit_views import layered, show, tell
from cutaway.methods.method import Entry
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.model.targets import logit_diff
from cutaway.questions.drawn import apart
from cutaway.views.graphs import DRAWN
from cutaway.zoo import tiny
from world import opened

TRAINED, FLOOR = "zoo:emoji-clip", "zoo:emoji-clip@untrained"
BEST = 0.05  # of all edges
SAID = {"title": "A circuit", "seen": "Its best edges.", "limits": "Whether others would do."}
WRITERS = ["vision.4.attn[2]", "vision.5.attn[3]"]  # heads of the trained model that write towards the end


@cache
def pair(name: str, start: int = 0, stop: int = 4):
    """Pairs of backgrounds, and the number that tells them apart."""
    model = cutaway.load(name)
    return model, *apart(model, list(data.pairs("background", stop))[start:])


@cache
def scored(name: str, start: int = 0, stop: int = 4):
    return edge_attribution(*pair(name, start, stop), how="eap", progress=False)


@cache
def alone(name: str):
    return faithfulness(*pair(name), order=scored(name), shares=(BEST,), draws=1, progress=False)


def best(found) -> Circuit:
    table = found.ranked()
    table = table.head(round(BEST * len(table)))
    return Circuit.of("", zip(table["sender"], table["receiver"], strict=True))


def largest(found, name: str) -> float:
    return float(abs(found[name]).max())


# --- beside chance and before training --------------------------------------------------------------------------------


@pytest.mark.checks("edge_attribution", "baseline")
def test_other_pairs_have_the_same_best_edges_more_often_than_chance():
    one, other = (best(scored(TRAINED, *some)) for some in ((0, 2), (2, 4)))
    every = scored(TRAINED).ranked()
    some = every.sample(len(one.edges), random_state=0)
    chance = Circuit.of("", zip(some["sender"], some["receiver"], strict=True))
    assert one.overlap(other) > 0.2 and one.overlap(chance) < 0.1


@pytest.mark.checks("edge_attribution", "floor")
def test_no_edge_of_an_untrained_model_carries_much():
    """In the unit of the target: the pairs themselves move it by 0.4 after training and by 0.002 before."""
    assert largest(scored(TRAINED), "score") > 20 * largest(scored(FLOOR), "score")


@pytest.mark.checks("faithfulness", "baseline")
def test_the_best_edges_carry_what_as_many_by_chance_do_not():
    found = alone(TRAINED)
    assert float(found["faithfulness"][0]) > 0.4 and float(abs(found["random"]).max()) < 0.05


@pytest.mark.checks("faithfulness", "floor")
def test_before_training_nobody_knows_what_few_edges_carry():
    """The interval over pairs holds 0 and 1, where that of the trained model holds neither."""
    after, before = (alone(name).data.isel(share=0) for name in (TRAINED, FLOOR))
    assert 0 < float(after["low"]) < float(after["high"]) < 1
    assert float(before["low"]) < 0 and float(before["high"]) - float(before["low"]) > 1


@pytest.mark.checks("path_patching", "baseline", "floor")
def test_paths_weigh_more_than_to_a_stranger_and_than_before_training():
    after, before = (
        path_patching(*pair(name, 0, 3), senders=WRITERS, receivers="vision.end", progress=False)
        for name in (TRAINED, FLOOR)
    )
    top = after.summary().head(2)
    assert (top["mean"] > top["random"]).all() and (top["low"] > 0).all()
    assert largest(after, "mean") > 10 * largest(before, "mean")


@pytest.mark.checks("attribution_patching", "baseline", "floor")
def test_places_weigh_more_than_to_a_stranger_and_than_before_training():
    after, before = (attribution_patching(*pair(name), progress=False) for name in (TRAINED, FLOOR))
    top = after.summary().head(3)
    assert (top["mean"] > top["random"]).all() and (top["low"] > 0).all()
    assert largest(after, "mean") > 10 * largest(before, "mean")


# --- which questions have a graph -------------------------------------------------------------------------------------


def texts(name: str, one: str = "a red dog", other: str = "a red cat"):
    return questions.ask(cutaway.load(f"tiny:{name}"), None, one, "dog", "cat", other, raw=True)


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (lambda: texts("llama"), ""),
        (lambda: texts("llama", other="a cat"), " positions"),
        (lambda: texts("opt-postnorm"), "norm their sums"),
        (lambda: questions.draw(cutaway.load("tiny:sd"), "a dog", steps=2, counterpart="a cat"), "needs towers whose"),
    ],
)
def test_a_question_without_a_graph_is_told_why_before_anything_runs(question, why):
    asked = question()
    asked.model.run = None  # nothing may run
    asked.__dict__["value"], asked.counterpart.__dict__["value"] = 1.0, 0.0
    for name in ("edge_attribution", "faithfulness", "path_patching"):
        told = method(name).why_not(asked)
        assert (why in told) if why else told == ""


def test_what_lies_behind_one_another_is_only_scored_and_what_is_alike_is_not():
    packed = questions.ask(cutaway.load("tiny:qwen2.5-vl"), tiny.picture(), "what", "dog", "cat", tiny.picture(3))
    assert not method("edge_attribution").why_not(packed)
    assert "behind one another" in method("path_patching").why_not(packed)
    alike = texts("llama", other="a red dog")
    assert "nearly the same number" in method("attribution_patching").why_not(alike)


def test_a_page_leaves_out_a_graph_of_too_many_receivers(monkeypatch):
    monkeypatch.setattr(declared, "MANY", 20)
    assert "28 receivers" in method("faithfulness").why_not(texts("llama"))
    assert method("faithfulness").cost(texts("llama"), {"draws": 1}) == "20 circuits"


# --- on a page --------------------------------------------------------------------------------------------------------


def test_a_page_shows_the_graph_and_says_that_order_and_curve_are_of_one_pair():
    clip = questions.match(cutaway.load("tiny:clip"), tiny.picture(), ["a dog", "a cat"], tiny.picture(3))
    few = Entry(name="circuit", options={"draws": 1, "shares": (0.02, 0.1, 1.0)})
    page = applied(clip, [replace(method("faithfulness"), reported=(few,))])
    (view,) = show(page)
    assert {node.tower for node in view.nodes} == {"vision"} and "Nothing in the text tower differs" in view.seen
    assert "flatters" in view.seen and "one pair" in view.limits
    assert len(view.links) <= DRAWN < view.total == 524 and view.sizes[-1] == view.total
    sizes = [abs(link.score) for link in view.links]
    assert sizes == sorted(sizes, reverse=True) and [link.rank for link in view.links] == [*range(len(sizes))]
    (said,) = tell(page)
    assert said.startswith(f"The best {view.sizes[view.shown]} of 524 edges alone keep ")
    assert "faithfulness(" in view.code and "print(" in view.code


def test_a_page_of_a_planted_circuit_marks_it_and_before_training_there_is_none():
    few = Entry(name="circuit", options={"draws": 0, "shares": (0.01, 1.0)})
    planted, untrained = (
        next(
            show(
                applied(world("planted-text").question(model=model), [replace(method("faithfulness"), reported=(few,))])
            )
        )
        for model in (None, cutaway.load("zoo:planted-text@untrained"))
    )
    marked = [link.rank for link in planted.links if link.true]
    assert len(marked) == 6 and marked[:3] == [0, 1, 2]
    assert "Of these 3, 3 are among the 6 edges that were planted in this model" in planted.seen
    assert {link.true for link in untrained.links} == {None} and "planted" not in untrained.seen


def test_parts_stand_by_layer_and_heads_that_share_keys_have_them_apart():
    model = opened("llama")
    sides = ["a red dog"], ["a red cat"], logit_diff("dog", "cat")
    found = faithfulness(model, *sides, shares=(0.05, 1.0), draws=0, progress=False)
    known = Circuit.of("tiny:llama", [("text.0.attn[2]", "text.1.attn[1].v"), ("text.2.mlp", "text.end")])
    view = layered(found, true=known, **SAID)
    assert view.chance is None and view.low is None and sum(bool(link.true) for link in view.links) == 2
    one = next(link for link in view.links if view.nodes[link.start].name == "text.0.attn[2]" and link.true)
    assert (view.nodes[one.end].name, one.role) == ("text.1.attn[1].kv", "values")
    levels = {node.name: node.level for node in view.nodes}
    order = ["text.embed", "text.0.attn[0].kv", "text.0.attn[3]", "text.0.mlp", "text.1.attn[1].kv", "text.end"]
    assert [levels[name] for name in order] == [0, 1, 2, 3, 4, 10]
    assert all(levels[view.nodes[link.start].name] < levels[view.nodes[link.end].name] for link in view.links)


def test_a_graph_through_two_towers_has_one_connector_between_them():
    llava = questions.ask(cutaway.load("tiny:llava"), tiny.picture(), "what", "dog", "cat", tiny.picture(3))
    found = method("faithfulness").apply(llava, shares=(0.1,), draws=0).result
    view = layered(found, **SAID)
    assert list(dict.fromkeys(node.tower for node in view.nodes)) == ["vision", "connector", "text"]
    middle = next(at for at, node in enumerate(view.nodes) if node.name == "connector")
    assert {middle} <= {link.start for link in view.links} & {link.end for link in view.links}
    assert np.isclose(view.carried[0], found["faithfulness"][0])
