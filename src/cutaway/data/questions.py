"""Questions about a scene with the one right answer to each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from cutaway.data.captions import SIDES, at_place, groups, noun
from cutaway.data.claims import OPPOSITE, Beside, Has, Noun, number_word, relations
from cutaway.data.concepts import concept, concepts
from cutaway.data.scene import Scene, Thing
from cutaway.errors import InputError

QUESTIONS = ("presence", "what", "where", "relation", "side", "count", "background", "colour", "same", "written")


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the indices in `scene.things` of the things that decide it."""

    kind: str
    question: str
    answer: str
    things: tuple[int, ...] = ()


def questions(scene: Scene, seed: int = 0, kinds: tuple[str, ...] = QUESTIONS) -> tuple[Question, ...]:
    """Every question of these kinds that has one right answer. `seed` draws the absent concepts that are asked for.

    A question that the picture leaves open (is it left, when it is straight above) is not asked. `yes` and `no` are
    equally frequent for presence and relation.
    """
    unknown = [kind for kind in kinds if kind not in QUESTIONS]
    if unknown:
        raise InputError(
            f"no kind of question is called {unknown[0]!r}", expected="kinds of question", exists=", ".join(QUESTIONS)
        )
    draw = random.Random(seed)
    makers = {
        "presence": lambda: _presence(scene, draw),
        "what": lambda: _what(scene),
        "where": lambda: _where(scene),
        "relation": lambda: _relation(scene),
        "side": lambda: _side(scene),
        "count": lambda: _count(scene),
        "background": lambda: _background(scene),
        "colour": lambda: _colour(scene),
        "same": lambda: _same(scene),
        "written": lambda: _written(scene),
    }
    return tuple(question for kind in QUESTIONS if kind in kinds for question in makers[kind]())


def absent(scene: Scene, draw: random.Random) -> str:
    """A concept that no word for anything in the scene, or written on it, could name."""
    shown = {thing.concept for thing in scene.things} | ({scene.label.text} if scene.label else set())
    every = concepts()
    while True:
        found = draw.choice(every)
        if not any(found.is_kin(name) for name in shown):
            return found.name


def _presence(scene: Scene, draw: random.Random) -> Iterator[Question]:
    for name in dict.fromkeys(thing.concept for thing in scene.things):
        for asked in (name, absent(scene, draw)):
            which = Noun(asked)
            verb = "Are" if concept(asked).plural else "Is"
            involved = tuple(i for i, thing in enumerate(scene.things) if which.names(thing))
            asked_for = which.one.replace("some ", "any ", 1) if which.one.startswith("some ") else which.one
            yield Question("presence", f"{verb} there {asked_for}?", _yes(Has(which).holds(scene)), involved)


def _what(scene: Scene) -> Iterator[Question]:
    for index, thing in enumerate(scene.things):
        there = [other for other in scene.things if other.place_name == thing.place_name]
        if len(there) == 1:
            yield Question("what", f"What is {at_place(thing.place_name)}?", thing.concept, (index,))


def _unique(scene: Scene) -> list[tuple[int, Thing]]:
    """The things that `the dog` picks out, with their indices."""
    kinds = [thing.concept for thing in scene.things]
    return [(index, thing) for index, thing in enumerate(scene.things) if kinds.count(thing.concept) == 1]


def _where(scene: Scene) -> Iterator[Question]:
    for index, thing in _unique(scene):
        verb = "are" if concept(thing.concept).plural else "is"
        yield Question("where", f"Where {verb} {Noun(thing.concept).the}?", thing.place_name, (index,))


def _pairs(scene: Scene) -> Iterator[tuple[tuple[int, int], Thing, Thing, str]]:
    unique = _unique(scene)
    for at, (i, one) in enumerate(unique):
        for j, other in unique[at + 1 :]:
            for side in relations(one, other):
                yield (i, j), one, other, side


def _relation(scene: Scene) -> Iterator[Question]:
    for indices, one, other, side in _pairs(scene):
        verb = "Are" if concept(one.concept).plural else "Is"
        for asked in (side, OPPOSITE[side]):
            claim = Beside(Noun(one.concept), asked, Noun(other.concept))
            text = f"{verb} {claim.first.the} {SIDES[asked]} {claim.second.the}?"
            yield Question("relation", text, _yes(claim.holds(scene)), indices)


def _side(scene: Scene) -> Iterator[Question]:
    for indices, one, other, side in _pairs(scene):
        verb = "Are" if concept(one.concept).plural else "Is"
        choice = "to the left or to the right of" if side in ("left", "right") else "above or below"
        yield Question("side", f"{verb} {Noun(one.concept).the} {choice} {Noun(other.concept).the}?", side, indices)


def _count(scene: Scene) -> Iterator[Question]:
    every = tuple(range(len(scene.things)))
    yield Question("count", "How many things are there?", number_word(len(every)).replace("no", "zero"), every)
    for name in dict.fromkeys(thing.concept for thing in scene.things):
        which = Noun(name)
        involved = tuple(i for i, thing in enumerate(scene.things) if which.names(thing))
        yield Question("count", f"How many {concept(name).many} are there?", number_word(len(involved)), involved)


def _background(scene: Scene) -> Iterator[Question]:
    ground = scene.background
    yield Question("background", "Is the background plain, a gradient or a texture?", ground.kind)
    if ground.kind == "plain":
        yield Question("background", "What colour is the background?", ground.colours[0])
    if ground.pattern:
        yield Question("background", "Is the background striped, checked or dotted?", ground.pattern)


def _colour(scene: Scene) -> Iterator[Question]:
    for index, thing in _unique(scene):
        if thing.colour:
            verb = "are" if concept(thing.concept).plural else "is"
            yield Question("colour", f"What colour {verb} {Noun(thing.concept).the}?", thing.colour, (index,))


def _same(scene: Scene) -> Iterator[Question]:
    """Whether two things are of one kind, and where both were painted, whether in one colour."""
    if len(scene.things) != 2:
        return
    one, other = scene.things
    if one.concept == other.concept or not concept(one.concept).is_kin(other.concept):
        yield Question("same", "Are the two things of the same kind?", _yes(one.concept == other.concept), (0, 1))
    if one.tint and other.tint:
        yield Question("same", "Do the two things have the same colour?", _yes(one.tint == other.tint), (0, 1))
    if len(groups(scene)) == 1 and noun(one) == noun(other):
        yield Question("same", "Were the two drawn by the same artist?", _yes(one.artist == other.artist), (0, 1))


def _written(scene: Scene) -> Iterator[Question]:
    yield Question("written", "Is anything written on the picture?", _yes(scene.label is not None))
    if scene.label:
        yield Question("written", "What is written on the picture?", scene.label.text)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"
