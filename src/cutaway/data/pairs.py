"""Counterfactual pairs: two scenes that differ in exactly one factor, and the two captions that tell them apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cutaway.data.captions import SIDES, Caption, at_place, ground_claim, listed, noun, on_ground
from cutaway.data.claims import OPPOSITE, At, Beside, Claim, Count, DrawnBy, Has, Noun, Written, relations
from cutaway.data.concepts import SEEN_ARTISTS, concept
from cutaway.data.questions import absent
from cutaway.data.scene import COLOURS, PATTERNS, Label, Scene, Thing, place_name
from cutaway.data.splits import Split
from cutaway.data.worlds import DEFAULT, World, clashing, reach_of, scene_at
from cutaway.errors import InputError, near

_TRIES = 200
_MOVE = 0.2  # of the canvas: less than this is no other place, though it may cross a line between ninths
_Told = tuple[str, tuple[Claim, ...]]


@dataclass(frozen=True)
class Pair:
    """Scene `a`, its counterpart `b`, a caption true of `a` only and one true of `b` only.

    `things` are the indices of the things that differ (in `b` for `add`, else in `a`); empty when it is the
    background or the label. Outside what is seen of these in `a` or `b`, the two pictures are equal.
    """

    factor: str
    a: Scene
    b: Scene
    caption_a: Caption
    caption_b: Caption
    things: tuple[int, ...] = ()


def counterfactual(scene: Scene, factor: str, seed: int = 0) -> Pair:
    """The scene and a counterpart that differs in that factor alone; `seed` draws what it becomes.

    Factors: `category` (another thing in its place), `place` (moved to another ninth), `artist` (drawn by another),
    `background`, `add` and `remove` (one more or fewer of a kind), `binding place` (two things exchange places),
    `binding colour` (two painted things exchange colours), `label` (a misleading word is written on the picture).
    """
    if factor not in FACTORS:
        raise InputError(f"no factor is called {factor!r}", expected="one of FACTORS", exists=near(factor, FACTORS))
    draw = random.Random(f"{factor}/{seed}")
    made = FACTORS[factor](scene, draw)
    if made is None:
        raise InputError(
            f"this scene has no counterpart by {factor!r}",
            expected=NEEDS[factor],
            exists=f"{len(scene.things)} things and {'a' if scene.label else 'no'} label",
            do=f"pairs({factor!r}, n) draws scenes that have one",
        )
    return made


def pairs(factor: str, n: int = 1000, split: Split = "test", seed: int = 0, world: World = DEFAULT) -> Iterator[Pair]:
    """N counterfactual pairs; `a` is of the split, `b` may be of another.

    A factor sets what it needs in the world: things in number, one size for things that exchange places, painted
    things for `binding colour`.
    """
    if factor not in FACTORS:
        raise InputError(f"no factor is called {factor!r}", expected="one of FACTORS", exists=near(factor, FACTORS))
    fitted = _fitted(factor, world)
    return (_pair(factor, split, f"{seed}/{index}", fitted) for index in range(n))


def _pair(factor: str, split: Split, key: str, world: World) -> Pair:
    draw = random.Random(f"{factor}/{key}")
    for _ in range(_TRIES):
        scene = scene_at(split, draw.getrandbits(40), 0, world)
        made = FACTORS[factor](scene, draw)
        if made is not None:
            return made
    raise InputError(f"no pair by {factor!r} was found in this world", expected=NEEDS[factor], do="widen the world")


def _fitted(factor: str, world: World) -> World:
    least, most = world.things
    if factor.startswith("binding"):
        tinted = 1.0 if factor == "binding colour" else 0.0
        return replace(world, things=(2, 2), sizes=(world.crowd,), repeat=0.0, tinted=tinted, rotations=(0.0,))
    if factor == "remove":
        return replace(world, things=(max(least, 2), max(most, 2)), repeat=1.0)
    if factor == "add":
        return replace(world, things=(max(least, 1), max(most, 1)), sizes=(min(world.crowd, 0.4),))
    return replace(world, things=(max(least, 1), max(most, 1)))


def _told(factor: str, a: Scene, b: Scene, told_a: _Told, told_b: _Told, things: tuple[int, ...] = ()) -> Pair | None:
    """The pair, if each caption is true of its scene and false of the other."""
    caption_a, caption_b = (Caption(text, claims, factor) for text, claims in (told_a, told_b))
    right = caption_a.true_of(a) and caption_b.true_of(b) and not caption_a.true_of(b) and not caption_b.true_of(a)
    return Pair(factor, a, b, caption_a, caption_b, things) if right else None


def _with(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _contents(scene: Scene) -> _Told:
    return listed([noun(thing).one for thing in scene.things]), tuple(Has(noun(thing)) for thing in scene.things)


def _category(scene: Scene, draw: random.Random) -> Pair | None:
    if not scene.things or len({thing.concept for thing in scene.things}) < len(scene.things):
        return None
    index = draw.randrange(len(scene.things))
    old = scene.things[index]
    new = next((name for _ in range(_TRIES) if old.artist in concept(name := absent(scene, draw)).shades), old.concept)
    changed = _with(scene, index, replace(old, concept=new))
    return _told("category", scene, changed, _contents(scene), _contents(changed), (index,))


def _place(scene: Scene, draw: random.Random) -> Pair | None:
    if not scene.things:
        return None
    index = draw.randrange(len(scene.things))
    thing = scene.things[index]
    others = (*scene.things[:index], *scene.things[index + 1 :])
    spot = free_place(scene, thing, others, draw, avoid=thing.place_name)
    if spot is None or max(abs(spot[axis] - thing.place[axis]) for axis in (0, 1)) < _MOVE:
        return None
    changed = _with(scene, index, replace(thing, place=spot))
    which = noun(thing)
    told_a, told_b = (
        (f"{which.one} {at_place(place)}", (At(which, place),)) for place in (thing.place_name, place_name(spot))
    )
    return _told("place", scene, changed, told_a, told_b, (index,))


def _artist(scene: Scene, draw: random.Random) -> Pair | None:
    if not scene.things:
        return None
    index = draw.randrange(len(scene.things))
    thing = scene.things[index]
    artist = draw.choice([one for one in SEEN_ARTISTS if one != thing.artist])
    changed = _with(scene, index, replace(thing, artist=artist))
    which = noun(thing)
    told_a, told_b = ((f"{which.one} in the {name} style", (DrawnBy(which, name),)) for name in (thing.artist, artist))
    return _told("artist", scene, changed, told_a, told_b, (index,))


def _background(scene: Scene, draw: random.Random) -> Pair | None:
    """Another background of the same kind: other colours, or now and then another pattern in the same colours."""
    old = scene.background
    avoid = {*old.colours, *(colour for thing in scene.things for colour in clashing(thing))}
    fit = [colour for colour in COLOURS if colour not in avoid]
    new = replace(old, colours=tuple(draw.sample(fit, len(old.colours)))) if len(fit) >= len(old.colours) else old
    if old.kind == "texture" and draw.random() < 0.3:
        new = replace(old, seed=old.seed + draw.randrange(1, len(PATTERNS)))
    changed = replace(scene, background=new)
    words, claims = _contents(scene)
    told_a, told_b = ((f"{words} {on_ground(one)}", (*claims, ground_claim(one))) for one in (old, new))
    return _told("background", scene, changed, told_a, told_b)


def _add(scene: Scene, draw: random.Random) -> Pair | None:
    if not scene.things:
        return None
    thing = draw.choice(scene.things)
    spot = free_place(scene, thing, scene.things, draw)
    if spot is None:
        return None
    changed = replace(scene, things=(*scene.things, replace(thing, place=spot)))
    told_a, told_b = (_counted(noun(thing), one) for one in (scene, changed))
    return _told("add", scene, changed, told_a, told_b, (len(scene.things),))


def _remove(scene: Scene, draw: random.Random) -> Pair | None:
    several = [i for i, thing in enumerate(scene.things) if _number(noun(thing), scene) > 1]
    if not several:
        return None
    index = draw.choice(several)
    which = noun(scene.things[index])
    changed = replace(scene, things=(*scene.things[:index], *scene.things[index + 1 :]))
    return _told("remove", scene, changed, _counted(which, scene), _counted(which, changed), (index,))


def _number(which: Noun, scene: Scene) -> int:
    return sum(map(which.names, scene.things))


def _counted(which: Noun, scene: Scene) -> _Told:
    number = _number(which, scene)
    return which.number(number), (Count(which, number),)


def _binding_place(scene: Scene, draw: random.Random) -> Pair | None:
    """Two things exchange places: `a dog to the left of a car` becomes `a car to the left of a dog`."""
    if len(scene.things) != 2:
        return None
    one, other = scene.things
    sides = relations(one, other)
    if not sides or concept(one.concept).is_kin(other.concept):
        return None
    changed = replace(scene, things=(replace(one, place=other.place), replace(other, place=one.place)))
    if not all(_inside(thing, scene.canvas) for thing in changed.things):
        return None
    side, (first, second) = draw.choice(sides), (noun(one), noun(other))
    if draw.random() < 0.5:
        side, first, second = OPPOSITE[side], second, first
    told_a, told_b = (
        (f"{x.one} {SIDES[side]} {y.one}", (Beside(x, side, y),)) for x, y in ((first, second), (second, first))
    )
    return _told("binding place", scene, changed, told_a, told_b, (0, 1))


def _binding_colour(scene: Scene, draw: random.Random) -> Pair | None:
    """Two painted things exchange colours: `a red dog and a blue car` becomes `a blue dog and a red car`."""
    painted = [i for i, thing in enumerate(scene.things) if thing.tint]
    choices = [(i, j) for i in painted for j in painted if i < j]
    if not choices:
        return None
    i, j = draw.choice(choices)
    one, other = scene.things[i], scene.things[j]
    if one.tint == other.tint or concept(one.concept).is_kin(other.concept):
        return None
    changed = _with(_with(scene, i, replace(one, tint=other.tint)), j, replace(other, tint=one.tint))
    return _told("binding colour", scene, changed, _contents(scene), _contents(changed), (i, j))


def _label(scene: Scene, draw: random.Random) -> Pair | None:
    """A word for something that is not there, written at the edge where it hides the least."""
    if scene.label is not None or not scene.things:
        return None
    word = absent(scene, draw)
    middle = sum(thing.place[1] for thing in scene.things) / len(scene.things)
    changed = replace(scene, label=Label(word, "top" if middle > 0.5 else "bottom"))
    words, claims = _contents(scene)
    told_a = f"{words} with nothing written on it", (*claims, Written(None))
    told_b = f'{words} with the word "{word}" written on it', (*claims, Written(word))
    return _told("label", scene, changed, told_a, told_b)


def free_place(
    scene: Scene, thing: Thing, others: tuple[Thing, ...], draw: random.Random, avoid: str | None = None
) -> tuple[float, float] | None:
    """A centre where this thing lies wholly on the canvas, off the others and not in the ninth to avoid."""
    width, height = scene.canvas
    short = min(width, height)
    reach = reach_of(thing.size, thing.rotation) * short
    if 2 * reach > short:
        return None
    for _ in range(_TRIES // 4):
        x = round(draw.uniform(reach / width, 1 - reach / width), 3)
        y = round(draw.uniform(reach / height, 1 - reach / height), 3)
        gaps = (
            max(abs(x - o.place[0]) * width, abs(y - o.place[1]) * height) - (thing.size + o.size) / 2 * short
            for o in others
        )
        if place_name((x, y)) != avoid and all(gap >= 0 for gap in gaps):
            return x, y
    return None


def _inside(thing: Thing, canvas: tuple[int, int]) -> bool:
    width, height = canvas
    reach = reach_of(thing.size, thing.rotation) * min(width, height)
    x, y = thing.place[0] * width, thing.place[1] * height
    return reach <= x <= width - reach and reach <= y <= height - reach


FACTORS: dict[str, Callable[[Scene, random.Random], Pair | None]] = {
    "category": _category,
    "place": _place,
    "artist": _artist,
    "background": _background,
    "add": _add,
    "remove": _remove,
    "binding place": _binding_place,
    "binding colour": _binding_colour,
    "label": _label,
}
# What a scene needs for a counterpart by each factor.
NEEDS = {
    "category": "at least one thing, no two of one kind",
    "place": "a thing, and room for it in another ninth",
    "artist": "at least one thing",
    "background": "enough colours that nothing in the scene has",
    "add": "a thing, and room for another of its size",
    "remove": "two things of one kind",
    "binding place": "two things of different kinds, one clearly beside the other",
    "binding colour": "two things of different kinds in different tints",
    "label": "a thing, and nothing written yet",
}
