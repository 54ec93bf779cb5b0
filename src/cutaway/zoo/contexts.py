"""What conversations are about: one picture, its words, several pictures, tasks told by examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from cutaway import data
from cutaway.data import description, sentences
from cutaway.data.captions import at_place, on_ground
from cutaway.data.claims import Noun, number_word
from cutaway.errors import InputError
from cutaway.zoo.conversations import Conversation, Turn
from cutaway.zoo.vocabulary import ids

WORLD = data.World(things=(1, 3))
EACH = 3  # questions of one kind in a row of tokens, at most
ROOM = 128  # tokens of a row for questions and answers
CROWDED = 0.75  # of the scenes hold two or three things where it is about places
# How many questions of each kind come first in a row, and the room for it: where everything is asked, mostly of places,
# and where nothing but places is.
MOSTLY, MOSTLY_ROOM = {"list": 1, "what": 2, "where": 2, "side": 2, "relation": 2}, 176
ONLY, ONLY_ROOM = {"list": 1, "where": 3, "side": 3, "relation": 3, "what": 2}, 150
TOLD = ("caption", "list")  # answers that tell several things, in an order of their own
Places = Literal["", "mostly", "only"]
LABELLED = 0.2  # share of pictures with a word written on them
TASKS = ("thing", "kind", "background", "count", "place")
_ONE_KIND = data.World(things=(1, 1), kinds=("plain",), tinted=0.0)
# The kind of a thing, by how the name of its Unicode subgroup begins; any other is an object.
SORTS = {
    "animal": "animal", "plant": "plant", "food": "food", "drink": "drink", "transport": "vehicle", "place": "place",
    "hotel": "place", "sky": "weather", "clothing": "clothing", "sport": "sport", "game": "game", "music": "music",
    "sound": "music",
}  # fmt: skip
# How many conversations of each kind of context a batch has, as shares of its nominal size.
SHARES = {"picture": 0.5, "words": 0.15, "several": 0.05, "examples": 0.1, "examples in words": 0.3}
SINGLE = {"picture": 0.7, "words": 0.2, "examples in words": 0.1}  # before there are several pictures in one
AGAIN = {"picture": 0.6, "words": 0.25, "several": 0.05, "examples": 0.15, "examples in words": 0.05}  # the second half
PLACES = {"picture": 0.7, "words": 0.4}  # where nothing but places is asked
APART = 8  # one concept in so many is never in an example or its question in training


def conversation(draw: random.Random, kind: str, split: data.Split = "train", places: Places = "") -> Conversation:
    """One conversation of that kind of context, about scenes of the split: `mostly` or `only` of where things are."""
    if kind in ("picture", "words"):
        about = about_picture if kind == "picture" else about_words
        crowded = places and draw.random() < CROWDED
        return about(draw, some_scene(draw, split, replace(WORLD, things=(2, 3)) if crowded else WORLD), places)
    if kind == "several":
        number = draw.choice((2, 2, 2, 3))
        return about_several(draw, [some_scene(draw, split) for _ in range(number)], 96 if number == 2 else 48)
    task, examples = draw.choice(TASKS), draw.choice((2, 3, 3, 4))
    return by_example(
        task, examples, lambda: task_scene(draw, task, split, lambda name: not kept_apart(name)),
        words=kind == "examples in words",
    )  # fmt: skip


def some_scene(draw: random.Random, split: data.Split, world: data.World = WORLD) -> data.Scene:
    """A scene of the split, now and then with a word on it."""
    scene = data.scene_at(split, draw.getrandbits(40), 0, world)
    if draw.random() < LABELLED:
        scene = data.counterfactual(scene, "label", draw.getrandbits(32)).b
    return scene


@lru_cache(maxsize=1024)
def kept_apart(name: str) -> bool:
    """Whether a concept is never part of a task by example in training."""
    return random.Random(f"apart/{name}").random() < 1 / APART


def about_picture(draw: random.Random, scene: data.Scene, places: Places = "") -> Conversation:
    """One picture and as many questions as fit; one time in four they follow each other."""
    turns = _chosen(draw, asked(draw, scene), places)
    return Conversation(turns, (scene,), apart=places == "only" or draw.random() < 0.75)


def about_words(draw: random.Random, scene: data.Scene, places: Places = "") -> Conversation:
    """The same with a full description in place of the picture."""
    turns = _chosen(draw, [turn for turn in asked(draw, scene) if turn.kind != "caption"], places)
    words = description(scene, draw.getrandbits(32)).text
    return Conversation(turns, (), words, apart=places == "only" or draw.random() < 0.75)


def about_several(draw: random.Random, scenes: Sequence[data.Scene], room: int = 96) -> Conversation:
    """Several pictures: which of them, and questions about one of them."""
    turns = list(which(draw, scenes))
    for number, scene in enumerate(scenes, 1):
        own = [turn for turn in asked(draw, scene) if turn.kind != "caption"]
        turns += [of_picture(number, turn) for turn in own]
    return Conversation(_fitting(draw, turns, room, {}), tuple(scenes), apart=True)


def of_picture(number: int, turn: Turn) -> Turn:
    """The same question about one of several pictures."""
    return replace(turn, question=f"In picture {number}, {turn.question[0].lower()}{turn.question[1:]}")


def asked(draw: random.Random, scene: data.Scene) -> list[Turn]:
    """Every question about one picture, and that for a caption."""
    turns = [
        Turn(one.kind, one.question, one.answer)
        for one in data.questions(scene, draw.getrandbits(32))
        if one.kind != "written" or scene.label or draw.random() < 0.3
    ]
    turns += [Turn("caption", "What does the picture show?", sentences(scene).text)]
    if len({thing.concept for thing in scene.things}) == len(scene.things):
        told = [f"{thing.concept} {thing.place_name}" for thing in draw.sample(scene.things, len(scene.things))]
        turns.append(Turn("list", "What is where?", ", ".join(told)))
    for name in dict.fromkeys(thing.concept for thing in scene.things):
        turns.append(Turn("kind", f"What kind of thing {_is(name)} {Noun(name).the}?", sort_of(name)))
        near = neighbour(scene, name, draw)
        if near:
            turns.append(Turn("presence", presence(near), "no"))
            turns.append(Turn("presence", presence(name), "yes"))
    return turns


def which(draw: random.Random, scenes: Sequence[data.Scene]) -> Iterator[Turn]:
    """Questions that only one of the pictures answers."""
    for number, scene in enumerate(scenes, 1):
        others = [other for other in scenes if other is not scene]
        name = draw.choice(scene.things).concept
        if not any(data.concept(name).is_kin(thing.concept) for other in others for thing in other.things):
            yield Turn("which thing", f"Which picture has {_any(name)}?", str(number))
        ground = scene.background
        if ground.kind == "plain" and all(ground.colours[0] not in other.background.colours for other in others):
            yield Turn("which background", f"Which picture has a {ground.colours[0]} background?", str(number))
        total = len(scene.things)
        if all(len(other.things) != total for other in others):
            things = f"{number_word(total)} thing{'s' * (total != 1)}"
            yield Turn("which count", f"Which picture has {things}?", str(number))


def by_example(task: str, examples: int, scene: Callable[[], data.Scene], *, words: bool = False) -> Conversation:
    """Some scenes with the answer to one and the same unsaid question, and a last one; the first answer is given."""
    turns = []
    for number in range(examples + 1):
        shown = scene()
        said, scenes = (brief(shown), ()) if words else ("", (shown,))
        turns.append(Turn(f"task {task}", said, answer_to(task, shown), scenes, learnt=number > 0))
    return Conversation(tuple(turns))


def task_scene(draw: random.Random, task: str, split: data.Split, fit: Callable[[str], bool]) -> data.Scene:
    """A scene of one kind of thing on a plain background: one thing where the task asks for its place, else up to 3."""
    while True:
        scene = data.scene_at(split, draw.getrandbits(40), 0, _ONE_KIND)
        if not fit(scene.things[0].concept):
            continue
        for _ in range(0 if task == "place" else draw.choice((0, 0, 1, 2))):
            scene = _one_more(scene, draw)
        if data.split_of(scene) == split:
            return scene


def _one_more(scene: data.Scene, draw: random.Random) -> data.Scene:
    size = min(scene.things[0].size, 0.36)
    small = replace(scene, things=tuple(replace(thing, size=size) for thing in scene.things))
    try:
        return data.counterfactual(small, "add", draw.getrandbits(32)).b
    except InputError:
        return scene


def answer_to(task: str, scene: data.Scene) -> str:
    """What the task says of a scene of one kind of thing."""
    thing = scene.things[0]
    return {
        "thing": thing.concept,
        "kind": sort_of(thing.concept),
        "background": scene.background.colours[0],
        "count": number_word(len(scene.things)),
        "place": thing.place_name,
    }[task]


def brief(scene: data.Scene) -> str:
    """A scene of one kind of thing in one phrase."""
    which_one, number = Noun(scene.things[0].concept), len(scene.things)
    if number > 1:
        return f"{which_one.number(number)} {on_ground(scene.background)}"
    return f"{which_one.one} {at_place(scene.things[0].place_name)} {on_ground(scene.background)}"


def one_of_each(draw: random.Random, turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """One question of each kind, captions and lists left out; what word is written is a kind of its own."""
    kinds: dict[str, list[Turn]] = {}
    for turn in turns:
        if turn.kind not in TOLD:
            kind = "word" if turn.kind == "written" and turn.answer not in ("yes", "no") else turn.kind
            kinds.setdefault(kind, []).append(replace(turn, kind=kind))
    return tuple(draw.choice(found) for found in kinds.values())


def sort_of(name: str) -> str:
    """The kind of a thing in a word, one of `SORTS`, or `object`."""
    return SORTS.get(data.concept(name).subgroup.split("-")[0], "object")


def presence(name: str) -> str:
    """The question whether it is there."""
    return f"{_is(name).capitalize()} there {_any(name)}?"


def neighbour(scene: data.Scene, name: str, draw: random.Random) -> str | None:
    """An absent concept of the same Unicode subgroup, or None where everything there is kin to something shown."""
    shown = {thing.concept for thing in scene.things} | ({scene.label.text} if scene.label else set())
    like = [
        other.name
        for other in data.concepts()
        if other.subgroup == data.concept(name).subgroup and not any(other.is_kin(one) for one in shown)
    ]
    return draw.choice(like) if like else None


def _is(name: str) -> str:
    return "are" if data.concept(name).plural else "is"


def _any(name: str) -> str:
    one = Noun(name).one
    return one.replace("some ", "any ", 1) if one.startswith("some ") else one


def _chosen(draw: random.Random, turns: Iterable[Turn], places: Places) -> tuple[Turn, ...]:
    """Questions for one row: of everything, mostly of places, or of nothing else."""
    if places == "only":
        return _fitting(draw, [turn for turn in turns if turn.kind in ONLY], ONLY_ROOM, ONLY)
    return _fitting(draw, turns, MOSTLY_ROOM if places else ROOM, MOSTLY if places else {})


def _fitting(draw: random.Random, turns: Iterable[Turn], room: int, first: Mapping[str, int]) -> tuple[Turn, ...]:
    """Shuffled, as many as fit, at least one: a caption if there is one, then so many of the kinds that come first.

    Of all others at most `EACH` of a kind.
    """
    every = list(turns)
    order = draw.sample(every, len(every))
    ahead = [turn for turn in order if turn.kind == "caption"]
    for kind, most in first.items():
        ahead += [turn for turn in order if turn.kind == kind][:most]
    rest = [turn for turn in order if all(turn is not other for other in ahead)]
    kept: list[Turn] = []
    for number, turn in enumerate([*ahead, *rest]):
        need = len(ids(turn.question)) + len(ids(turn.answer)) + 3
        free = number < len(ahead) or sum(turn.kind == other.kind for other in kept) < EACH
        if not kept or (need <= room and free):
            kept.append(turn)
            room -= need
    return tuple(draw.sample(kept, len(kept)))
