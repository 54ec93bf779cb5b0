"""Captions, questions and counterfactual pairs, checked against geometry that is worked out here a second time."""

import re
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings

from cutaway import data
from emoji_scenes import SCENES, many

SIDE = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
OTHER = data.Background("gradient", ("red", "brown"))
SIDES = "to the left or to the right of|to the left of|to the right of|above or below|above|below"
WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def lies(one: data.Thing, side: str, other: data.Thing) -> bool:
    axis, sign = SIDE[side]
    return sign * (one.place[axis] - other.place[axis]) >= 0.15


def ninth(thing: data.Thing) -> str:
    row = ["top", "", "bottom"][min(int(thing.place[1] * 3), 2)]
    column = ["left", "", "right"][min(int(thing.place[0] * 3), 2)]
    return f"{row} {column}".strip() or "middle"


def called(name: str, scene: data.Scene) -> list[int]:
    return [i for i, thing in enumerate(scene.things) if thing.concept == name]


def the(text: str) -> str:
    """The concept that `the dog` or `mount fuji` names."""
    return text if text in {c.name for c in data.concepts()} else text.removeprefix("the ")


@settings(max_examples=80, deadline=None)
@given(SCENES)
def test_captions_are_true(text: str) -> None:
    scene = data.Scene.from_json(text)
    made = data.captions(scene)
    assert made
    assert len({caption.style for caption in made}) == len(made)
    for caption in made:
        assert caption.true_of(scene), caption
        assert data.caption(scene, style=caption.style) == caption
    assert data.caption(scene, 3) in made


def test_captions_speak_of_everything_they_claim() -> None:
    for scene in many():
        for caption in data.captions(scene):
            for claim in caption.claims:
                noun = getattr(claim, "noun", None) or getattr(claim, "first", None)
                if noun:
                    kind = data.concept(noun.concept)
                    assert kind.name in caption.text or kind.many in caption.text, caption
            if caption.style == "places":
                assert all(ninth(thing) in caption.text for thing in scene.things)
            if caption.style == "ground":
                assert all(colour in caption.text for colour in scene.background.colours)


def test_captions_become_false_when_the_scene_changes() -> None:
    """Every claim of every phrasing can fail: on the scene without its things, on another ground, unwritten."""
    for scene in many():
        bare = replace(
            scene,
            things=(data.Thing("hamsa", "noto", (0.02, 0.99), 0.1),) * 7,
            label=None,
            background=data.Background() if scene.background.kind == "gradient" else OTHER,
        )
        for caption in data.captions(scene):
            assert not any(claim.holds(bare) for claim in caption.claims), caption


def test_answers_follow_from_geometry() -> None:
    seen = set()
    for scene in [*many(), *(data.counterfactual(scene, "label").b for scene in many()[::5])]:
        for asked in data.questions(scene, seed=2):
            seen.add(asked.kind)
            assert answer(asked, scene) == asked.answer, (asked, scene)
            assert all(index < len(scene.things) for index in asked.things)
    assert seen == set(data.QUESTIONS)


def answer(asked: data.Question, scene: data.Scene) -> str:
    text, things = asked.question, scene.things
    involved = [things[i] for i in asked.things]
    match asked.kind:
        case "presence":
            named = [c for c in data.concepts() if c.one.replace("some ", "any ") in (text[9:-1], text[10:-1])]
            assert len(named) == 1, text
            hits = called(named[0].name, scene)
            assert tuple(hits) == asked.things
            if not hits:  # no word for anything in sight could mean it
                assert not any(named[0].is_kin(thing.concept) for thing in things)
            return "yes" if hits else "no"
        case "what" | "where":
            named = re.sub(r"(What is (in|on|at) the|Where (is|are)) ", "", text).rstrip("?")
            key, value = (ninth, lambda thing: thing.concept) if asked.kind == "what" else (lambda t: t.concept, ninth)
            (found,) = (value(thing) for thing in things if key(thing) in (named, the(named)))
            return found
        case "relation" | "side":
            parts = re.fullmatch(rf"(?:Is|Are) (.*?) ({SIDES}) (.*)\?", text)
            assert parts, text
            one, other = (things[called(the(parts[i]), scene)[0]] for i in (1, 3))
            if asked.kind == "relation":
                side = parts[2].removeprefix("to the ").removesuffix(" of")
                return "yes" if lies(one, side, other) else "no"
            sides = ("left", "right") if "left" in parts[2] else ("above", "below")
            return next(side for side in sides if lies(one, side, other))
        case "count":
            if text == "How many things are there?":
                return next(word for word, number in WORDS.items() if number == len(things))
            name = next(c.name for c in data.concepts() if f"How many {c.many} are there?" == text)
            return next(word for word, number in WORDS.items() if number == len(called(name, scene)))
        case "background":
            ground = scene.background
            if text.startswith("What colour"):
                assert ground.kind == "plain"
                return ground.colours[0]
            return ["striped", "checked", "dotted"][ground.seed % 3] if "dotted" in text else ground.kind
        case "colour":
            thing = involved[0]
            assert len(called(thing.concept, scene)) == 1
            return thing.tint or data.concept(thing.concept).shades[thing.artist][0][0]
        case "same":
            one, other = things
            key = "concept" if "kind" in text else "tint" if "colour" in text else "artist"
            return "yes" if getattr(one, key) == getattr(other, key) else "no"
        case _:
            return scene.label.text if scene.label and text.startswith("What") else "yes" if scene.label else "no"


@settings(max_examples=60, deadline=None)
@given(SCENES)
def test_relations_are_complete_and_opposite(text: str) -> None:
    scene = data.Scene.from_json(text)
    for one, other in permutations(scene.things, 2):
        assert set(data.relations(one, other)) == {side for side in SIDE if lies(one, side, other)}


def test_no_question_is_asked_that_has_two_answers() -> None:
    spot = {"place": (0.1, 0.1), "size": 0.2}
    crowded = data.Scene(
        things=(data.Thing("dog", **spot), data.Thing("pizza", **spot), data.Thing("dog", place=(0.9, 0.1)))
    )
    assert [q.question for q in data.questions(crowded, kinds=("what",))] == ["What is in the top right?"]
    assert {q.question for q in data.questions(crowded, kinds=("relation", "side", "colour"))} <= {
        "What colour is the pizza?"
    }


def test_presence_and_relation_have_as_many_yes_as_no() -> None:
    for scene in many():
        asked = data.questions(scene, kinds=("presence", "relation"))
        assert sum(q.answer == "yes" for q in asked) * 2 == len(asked)


@pytest.mark.parametrize("factor", data.FACTORS)
def test_a_pair_differs_in_one_factor_and_nowhere_else(factor: str) -> None:
    for pair in data.pairs(factor, 25, "test", 1):
        a, b = pair.a, pair.b
        assert pair.factor == factor
        assert data.split_of(a) == "test"
        assert pair.caption_a.true_of(a) and pair.caption_b.true_of(b)
        assert not pair.caption_a.true_of(b) and not pair.caption_b.true_of(a)
        assert pair.caption_a.text != pair.caption_b.text
        assert DIFFERS[factor](pair), pair
        different = (data.pixels(a) != data.pixels(b)).any(2)
        assert different.any()
        assert not (different & ~allowed(pair)).any()


def allowed(pair: data.Pair) -> np.ndarray:
    """Where the two pictures may differ."""
    if pair.factor == "background":
        return data.coverage(pair.a)[0] > 0
    if pair.factor == "label":
        return data.label_mask(pair.b)
    masks = [data.masks(scene) for scene in (pair.a, pair.b)]
    rows = [mask[i] for mask in masks for i in pair.things if i < len(mask)]
    if pair.factor == "remove":
        return masks[0][pair.things[0]]
    return np.any(rows, axis=0)


def _only(pair: data.Pair, field: str) -> bool:
    """The scenes differ in one field of one thing."""
    (i,) = pair.things
    undone = replace(pair.b.things[i], **{field: getattr(pair.a.things[i], field)})
    again = replace(pair.b, things=(*pair.b.things[:i], undone, *pair.b.things[i + 1 :]))
    return again == pair.a and pair.b != pair.a


def _exchanged(pair: data.Pair, field: str) -> bool:
    i, j = pair.things
    (one, other), (new, newer) = ([scene.things[k] for k in (i, j)] for scene in (pair.a, pair.b))
    swapped = replace(one, **{field: getattr(other, field)}), replace(other, **{field: getattr(one, field)})
    return swapped == (new, newer) and getattr(one, field) != getattr(other, field)


DIFFERS = {
    "category": lambda p: _only(p, "concept"),
    "place": lambda p: _only(p, "place") and ninth(p.a.things[p.things[0]]) != ninth(p.b.things[p.things[0]]),
    "artist": lambda p: _only(p, "artist"),
    "background": lambda p: p.a.things == p.b.things and p.a.background != p.b.background and p.things == (),
    "add": lambda p: p.b.things[:-1] == p.a.things and p.b.things[-1].concept in {t.concept for t in p.a.things},
    "remove": lambda p: p.a.things[: p.things[0]] + p.a.things[p.things[0] + 1 :] == p.b.things,
    "binding place": lambda p: _exchanged(p, "place"),
    "binding colour": lambda p: _exchanged(p, "tint"),
    "label": lambda p: (
        replace(p.b, label=None) == p.a and p.b.label.text not in {kin for t in p.a.things for kin in _kin(t.concept)}
    ),
}


def _kin(name: str) -> set[str]:
    return {name, *data.concept(name).kin}


def test_binding_captions_have_the_same_words() -> None:
    """Only the order tells them apart, so that a bag of words cannot."""
    for factor in ("binding place", "binding colour"):
        for pair in data.pairs(factor, 20):
            bags = [re.sub(r"\b(a|an|some|the)\b", "", c.text).split() for c in (pair.caption_a, pair.caption_b)]
            assert sorted(bags[0]) == sorted(bags[1])


def test_a_pair_from_the_users_own_scene() -> None:
    things = (data.Thing("dog", place=(0.25, 0.5), size=0.4), data.Thing("pizza", place=(0.75, 0.5), size=0.4))
    pair = data.counterfactual(data.Scene(things=things), "binding place", seed=4)
    assert {pair.caption_a.text, pair.caption_b.text} in (
        {"a dog to the left of a pizza", "a pizza to the left of a dog"},
        {"a dog to the right of a pizza", "a pizza to the right of a dog"},
    )
    assert data.counterfactual(data.Scene(things=things), "binding place", seed=4) == pair


@pytest.mark.parametrize(
    ("name", "tint", "one", "the_one", "single", "two"),
    [
        ("dog", None, "a dog", "the dog", "one dog", "two dogs"),
        ("owl", "red", "a red owl", "the red owl", "one red owl", "two red owls"),
        ("grapes", None, "some grapes", "the grapes", "one set of grapes", "two sets of grapes"),
        ("bread", "blue", "some blue bread", "the blue bread", "one blue piece of bread", "two blue pieces of bread"),
        ("mount fuji", None, "mount fuji", "mount fuji", "one mount fuji", "two mount fujis"),
        ("glass of milk", None, "a glass of milk", "the glass of milk", "one glass of milk", "two glasses of milk"),
        ("hourglass", None, "an hourglass", "the hourglass", "one hourglass", "two hourglasses"),
        ("unicorn", None, "a unicorn", "the unicorn", "one unicorn", "two unicorns"),
    ],
)
def test_english(name: str, tint: str | None, one: str, the_one: str, single: str, two: str) -> None:
    noun = data.Noun(name, tint)
    assert (noun.one, noun.the, noun.number(1), noun.number(2)) == (one, the_one, single, two)
