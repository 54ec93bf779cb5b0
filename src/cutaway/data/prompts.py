"""What a model that draws is asked for: few things on a plain ground, in prompts that claim something of a scene."""

from __future__ import annotations

import random

from cutaway.data.captions import SIDES, Caption, at_place, ground_claim, listed, noun, on_ground
from cutaway.data.claims import At, Beside, Claim, Has, relations
from cutaway.data.scene import Scene
from cutaway.data.worlds import World

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
