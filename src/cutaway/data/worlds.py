"""Scenes without end, the same ones for the same seed on every machine."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cutaway.data.captions import Caption, caption
from cutaway.data.concepts import ARTISTS, SEEN_ARTISTS, UNSEEN_ARTIST, Concept, concept, concepts
from cutaway.data.ground import SEEDS
from cutaway.data.scene import COLOURS, KINDS, PLACES, TINTS, Background, Kind, Scene, Thing
from cutaway.data.splits import Split, check_split, in_test_fold, unseen_pair, unseen_place
from cutaway.errors import InputError

EMOJIWORLD = "emojiworld"  # the word that stands for its scenes or its phrases where a folder or a file may
_TRIES = 4000  # far more than a world with room needs: three are usual
_FEWEST = {"pairs": 2, "places": 1}  # things in a scene of these splits
_VISIBLE = 0.35  # share of a drawing from which one of its colours decides what it can stand on
_CLASHES = {"black": ("brown",), "blue": ("black", "purple"), "purple": ("black", "blue"), "brown": ("black",)}
_INSIDE = 0.01  # of the canvas: centres keep this far from the lines between the ninths
_HUES = frozenset((*COLOURS, *TINTS, "gold", "silver", "bronze"))


@dataclass(frozen=True)
class World:
    """What scenes are drawn from. The defaults give one or two things, well apart, wholly on the canvas.

    `things` are the least and the most a scene holds, `sizes` those a lone thing may have (fractions of the shorter
    side); `crowd` is the largest size of a thing in company. `repeat` is the chance that a thing repeats the concept
    before it (artist and tint too), `tinted` that a scene's things are painted, each in another colour. `overlap` is
    how much of two things' boxes may share a side: 0 keeps them apart. `contrast` keeps things off
    backgrounds of their own colour and the like. `names` limits the concepts, `artists` who draws: by default those
    of the split.
    """

    canvas: tuple[int, int] = (64, 64)
    things: tuple[int, int] = (1, 2)
    sizes: tuple[float, ...] = (0.36, 0.44, 0.52, 0.6, 0.72)
    crowd: float = 0.44
    rotations: tuple[float, ...] = (0.0, 0.0, -15.0, 15.0)
    kinds: tuple[Kind, ...] = KINDS
    colours: tuple[str, ...] = tuple(COLOURS)
    repeat: float = 0.1
    tinted: float = 0.15
    overlap: float = 0.0
    contrast: bool = True
    names: tuple[str, ...] | None = None
    artists: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        least, most = self.things
        if not 0 <= least <= most <= len(PLACES) or not self.sizes or not self.rotations or not self.kinds:
            raise InputError(
                f"a world of {least} to {most} things, {len(self.sizes)} sizes, {len(self.rotations)} rotations and "
                f"{len(self.kinds)} kinds of background",
                expected=f"0 to {len(PLACES)} things, the least first, and at least one of each of the others",
                do="give the ones that are missing",
            )
        if not all(0 < size <= 0.9 for size in (*self.sizes, self.crowd)):
            raise InputError(
                f"a world of sizes {self.sizes}, in company at most {self.crowd}",
                expected="more than 0 and at most 0.9, so that things stay on the canvas",
                do="choose smaller ones",
            )
        for name in self.names or ():
            concept(name)


DEFAULT = World()


@dataclass(frozen=True)
class Item:
    """A scene with a caption: what a model is trained on."""

    scene: Scene
    caption: Caption


def scenes(split: Split = "train", n: int = 1000, seed: int = 0, world: World = DEFAULT) -> Iterator[Scene]:
    """The first n scenes of a split for this seed."""
    check_split(split)
    return (scene_at(split, index, seed, world) for index in range(n))


def items(split: Split = "train", n: int = 1000, seed: int = 0, world: World = DEFAULT) -> Iterator[Item]:
    """The first n scenes of a split for this seed, each with a caption in a phrasing drawn by the scene's seed."""
    return (Item(scene, caption(scene, scene.seed)) for scene in scenes(split, n, seed, world))


def scene_at(split: Split, index: int, seed: int = 0, world: World = DEFAULT) -> Scene:
    """Scene number `index` of a split, on its own: nothing before it needs to be drawn."""
    draw = random.Random(f"{split}/{seed}/{index}")
    number = draw.getrandbits(31)
    for _ in range(_TRIES):
        scene = _drawn(split, draw, number, world)
        if scene is not None and (split not in ("train", "test") or in_test_fold(scene) == (split == "test")):
            return scene
    raise InputError(
        f"no scene of the split {split!r} was found in this world",
        expected="concepts, sizes and numbers of things that leave room for one",
        exists=f"{len(_pool(split, world))} concepts, {world.things[0]} to {world.things[1]} things",
        do="allow more concepts, smaller things, or fewer",
    )


def _drawn(split: Split, draw: random.Random, number: int, world: World) -> Scene | None:
    """One try at a scene; None when the draw does not fit the split or the canvas."""
    pool = _pool(split, world)
    least, most = world.things
    least = max(least, _FEWEST.get(split, 0))
    if least > most:
        return None
    count = draw.randint(least, most)
    kinds = _kinds(split, draw, count, world, pool)
    if kinds is None:
        return None
    artists = _artists(split, world)
    tints: list[str | None] = [None] * count
    if draw.random() < world.tinted and not any(_HUES & set(kind.name.split(" ")) for kind in kinds):
        tints = list(draw.sample(list(TINTS), count)) if count <= len(TINTS) else tints
    things: list[Thing] = []
    for position, kind in enumerate(kinds):
        before = things[-1] if things and kind.name == things[-1].concept else None
        artist = before.artist if before else draw.choice([one for one in artists if one in kind.shades])
        tint = before.tint if before else tints[position]
        size = draw.choice(world.sizes)
        if count > 1:
            size = min(size, world.crowd, 1.1 / count**0.5 - 0.2)
        rotation = draw.choice(world.rotations)
        new = split == "places" and position == 0
        place = _place(kind.name, size, rotation, things, world, draw, new=new)
        if place is None:
            return None
        things.append(Thing(kind.name, artist, place, size, rotation, tint))
    return Scene(world.canvas, _background(draw, things, world), tuple(things), None, number)


def _kinds(
    split: Split, draw: random.Random, count: int, world: World, pool: tuple[Concept, ...]
) -> list[Concept] | None:
    """The concepts of a scene: every pair of them seen in training, or for `pairs` at least one pair unseen."""
    kinds: list[Concept] = []
    for _ in range(count):
        if kinds and (draw.random() < world.repeat or len(pool) == 1):
            kinds.append(kinds[-1])
            continue
        kinds.append(draw.choice(pool))
        if split == "pairs" and len(kinds) == 2:
            for _ in range(400):
                if unseen_pair(kinds[0].name, kinds[1].name):
                    break
                kinds[1] = draw.choice(pool)
    names = [kind.name for kind in kinds]
    new = any(unseen_pair(one, other) for i, one in enumerate(names) for other in names[:i])
    return kinds if new == (split == "pairs") else None


def _place(
    name: str, size: float, rotation: float, things: list[Thing], world: World, draw: random.Random, *, new: bool
) -> tuple[float, float] | None:
    """A centre that keeps the thing on the canvas, off the others, and in a ninth that the split allows."""
    unseen = unseen_place(name)
    width, height = world.canvas
    reach = reach_of(size, rotation) * min(width, height)
    ranges = _nine(round(reach / width, 4), round(reach / height, 4))
    allowed = [span for place, span in ranges if (place == unseen) == new]
    for _ in range(12):
        if not allowed:
            return None
        left, right, top, bottom = draw.choice(allowed)
        x, y = round(draw.uniform(left, right), 3), round(draw.uniform(top, bottom), 3)
        if all(_apart(x, y, size, other, world) for other in things):
            return x, y
    return None


def reach_of(size: float, rotation: float) -> float:
    """How far a thing reaches from its centre; a turned square reaches further, but its corners are mostly empty."""
    turn = math.radians(rotation)
    return size / 2 * (1 + 0.7 * (abs(math.cos(turn)) + abs(math.sin(turn)) - 1))


def _apart(x: float, y: float, size: float, other: Thing, world: World) -> bool:
    width, height = world.canvas
    need = (size + other.size) / 2 * min(width, height) * (1 - world.overlap)
    return max(abs(x - other.place[0]) * width, abs(y - other.place[1]) * height) >= need


@lru_cache(maxsize=1024)
def _nine(across: float, along: float) -> tuple[tuple[str, tuple[float, float, float, float]], ...]:
    """For each ninth in which something that reaches so far from its centre fits: where its centre may be."""
    spans = []
    for index, place in enumerate(PLACES):
        row, column = divmod(index, 3)
        left, right = max(column / 3 + _INSIDE, across), min((column + 1) / 3 - _INSIDE, 1 - across)
        top, bottom = max(row / 3 + _INSIDE, along), min((row + 1) / 3 - _INSIDE, 1 - along)
        if left <= right and top <= bottom:
            spans.append((place, (left, right, top, bottom)))
    return tuple(spans)


@lru_cache(maxsize=8192)
def _clashing(name: str, artist: str, tint: str | None) -> frozenset[str]:
    shades = concept(name).shades[artist]
    own = {tint} if tint else {word for word, share in shades if share >= _VISIBLE} | {word for word, _ in shades[:1]}
    return frozenset(own | {dark for word in own for dark in _CLASHES.get(word, ())})


def clashing(thing: Thing) -> frozenset[str]:
    """The background colours on which the thing would be hard to see."""
    return _clashing(thing.concept, thing.artist, thing.tint)


def _background(draw: random.Random, things: list[Thing], world: World) -> Background:
    avoid = {colour for thing in things for colour in clashing(thing)} if world.contrast else set()
    fit = [colour for colour in world.colours if colour not in avoid] or list(world.colours)
    kind = draw.choice(world.kinds)
    if kind == "plain" or len(fit) < 2:
        return Background("plain", (draw.choice(fit),))
    return Background(kind, tuple(draw.sample(fit, 2)), draw.randrange(SEEDS))


@lru_cache(maxsize=64)
def _pool(split: Split, world: World) -> tuple[Concept, ...]:
    """The concepts that the world names and somebody may draw."""
    every = concepts() if world.names is None else tuple(concept(name) for name in world.names)
    return tuple(kind for kind in every if any(artist in kind.shades for artist in _artists(split, world)))


@lru_cache(maxsize=64)
def _artists(split: Split, world: World) -> tuple[str, ...]:
    allowed = (UNSEEN_ARTIST,) if split == "artist" else SEEN_ARTISTS
    wanted = ARTISTS if world.artists is None else world.artists
    found = tuple(artist for artist in allowed if artist in wanted)
    if not found:
        raise InputError(
            f"the split {split!r} has none of the artists {', '.join(wanted)}",
            expected="an artist of the split",
            exists=", ".join(allowed),
            do="leave `artists` out, or choose one of these",
        )
    return found
