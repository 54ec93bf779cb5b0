"""What a model that draws is asked for: few things on a plain ground, in prompts that claim something of a scene."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Literal

from cutaway.data.captions import SIDES, Caption, at_place, ground_claim, listed, noun, on_ground
from cutaway.data.claims import At, Beside, Claim, Has, Noun, On, relations
from cutaway.data.concepts import concept
from cutaway.data.scene import COLOURS, TINTS, Background, Scene
from cutaway.data.worlds import World
from cutaway.errors import InputError

# Things that look unlike each other, and whose names are not colours.
DRAWABLE = (
    "dog face", "cat face", "fox", "panda", "pig face", "frog", "penguin", "owl", "tropical fish", "octopus", "crab",
    "butterfly", "snail", "turtle", "lady beetle", "elephant", "zebra", "unicorn", "duck", "dolphin", "rose",
    "sunflower", "tulip", "cactus", "mushroom", "evergreen tree", "maple leaf", "grapes", "watermelon", "lemon",
    "banana", "pineapple", "cherries", "strawberry", "carrot", "pizza", "hamburger", "doughnut", "ice cream", "house",
    "car", "bus", "bicycle", "sailboat", "airplane", "rocket", "umbrella", "snowman", "fire", "balloon", "soccer ball",
    "basketball", "trophy", "crown", "guitar", "key", "light bulb", "alarm clock", "scissors", "bell", "hammer",
    "ghost", "robot", "skull",
)  # fmt: skip

# One or two of these things by one artist, upright, on one colour; a quarter of the scenes are painted.
DRAWINGS = World(
    sizes=(0.5, 0.6), crowd=0.44, rotations=(0.0,), kinds=("plain",), repeat=0.0, tinted=0.25, names=DRAWABLE,
    artists=("noto",),
)  # fmt: skip
WAYS = ("things", "places", "relation")
_WEIGHTS = (0.4, 0.4, 0.2)
_GROUNDED = 0.7  # of the prompts name the background
Part = Literal["thing", "background", "paint"]
PARTS: tuple[Part, ...] = ("thing", "background", "paint")
_THING = re.compile(rf"\b(?:({'|'.join(TINTS)}) )?({'|'.join(sorted(DRAWABLE, key=len, reverse=True))})\b")
_GROUND = re.compile(rf"\bon an? ({'|'.join(COLOURS)}) background\b")


def prompt(scene: Scene, seed: int = 0, way: str | None = None, ground: bool | None = None) -> Caption:
    """A prompt that is true of the scene, with its claims.

    The things alone ("a dog and a red cat"), each with its place ("a dog in the top left"), or one beside the other
    ("a dog to the left of a cat"); with the background ("on a blue background") or without. What is left open, `seed`
    draws; two things that are neither clearly beside nor above each other are told by their places.

    >>> from cutaway import data
    >>> prompt(data.scene_at("train", 1, world=DRAWINGS), way="things", ground=True).text
    'a guitar on a purple background'
    """
    draw = random.Random(f"prompt/{seed}")
    drawn, grounded = draw.choices(WAYS, _WEIGHTS)[0], draw.random() < _GROUNDED
    way = drawn if way is None else way
    if way == "relation" and (len(scene.things) != 2 or not relations(*scene.things)):
        way = "places"
    words, claims = _told(scene, way)
    if grounded if ground is None else ground:
        words, claims = f"{words} {on_ground(scene.background)}", (*claims, ground_claim(scene.background))
    return Caption(words, claims, way)


def _told(scene: Scene, way: str) -> tuple[str, tuple[Claim, ...]]:
    nouns = [noun(thing) for thing in scene.things]
    there: tuple[Claim, ...] = tuple(Has(one) for one in nouns)
    if way == "things":
        return listed([one.one for one in nouns]), there
    if way == "relation":
        (first, second), side = nouns, relations(*scene.things)[0]
        return f"{first.one} {SIDES[side]} {second.one}", (*there, Beside(first, side, second))
    told = [f"{one.one} {at_place(thing.place_name)}" for one, thing in zip(nouns, scene.things, strict=True)]
    stand = tuple(At(one, thing.place_name) for one, thing in zip(nouns, scene.things, strict=True))
    return listed(told), (*there, *stand)


def claims_of(text: str) -> tuple[Claim, ...]:
    """What a prompt in the words of this module asks for: its things, in their paint, and its background.

    Places and sides are left out; () for a text that asks for nothing of these.

    >>> claims_of("a red fox and an owl on a green background")[1:]
    (Has(noun=Noun(concept='owl', tint=None)), On(kind='plain', colours=('green',), pattern=None))
    """
    things = [Has(Noun(name, tint or None)) for tint, name in _THING.findall(text)]
    return (*things, *(On("plain", (colour,)) for colour in _GROUND.findall(text)))


def told_apart(text: str, other: str) -> Claim | None:
    """The first that a prompt asks for and another does not; None where it is nothing of a thing or background.

    >>> told_apart("a fox on a green background", "a fox on a blue background")
    On(kind='plain', colours=('green',), pattern=None)
    """
    return next((claim for claim in claims_of(text) if claim not in claims_of(other)), None)


def changed(scene: Scene, part: Part, seed: int = 0) -> Scene:
    """The scene with its first thing, that thing's paint or the background replaced by another one that `seed` draws.

    The other word has the article and as many words as the one it replaces, so that prompts for the two, told the same
    way, have the same words at all other positions. InputError where there is no such word, or no paint.

    >>> from cutaway import data
    >>> scene = data.scene_at("train", 1, world=DRAWINGS)
    >>> [prompt(one, way="things", ground=True).text for one in (scene, changed(scene, "background"))]
    ['a guitar on a purple background', 'a guitar on a blue background']
    """
    first, draw = scene.things[0], random.Random(f"changed/{part}/{seed}/{scene.seed}")
    if part == "background":
        here = scene.background.colours[0]
        others = [name for name in COLOURS if name not in (here, first.tint) and _begins(name) == _begins(here)]
        return replace(scene, background=Background("plain", (draw.choice(others),)))
    if part == "paint" and first.tint:
        others = [name for name in TINTS if name not in (first.tint, *scene.background.colours)]
        others = [name for name in others if _begins(name) == _begins(first.tint)]
        return replace(scene, things=(replace(first, tint=draw.choice(others)), *scene.things[1:]))
    there = {thing.concept for thing in scene.things}
    others = [name for name in DRAWABLE if name not in there and _shape(name) == _shape(first.concept)]
    if part != "thing" or not others:
        raise InputError(
            f"the {part} of this scene cannot be another one",
            expected="a painted thing, or one whose name is like others",
            exists=prompt(scene, way="things").text, do="take another scene",
        )  # fmt: skip
    return replace(scene, things=(replace(first, concept=draw.choice(others)), *scene.things[1:]))


def _begins(word: str) -> bool:
    """Whether its article is `an`."""
    return word[0] in "aeiou"


def _shape(name: str) -> tuple[str, int]:
    """The article of a thing, and how many words its name has."""
    return concept(name).one.removesuffix(name), len(name.split())
