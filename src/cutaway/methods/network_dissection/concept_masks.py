"""What scenes of EmojiWorld show, and where exactly: the share of each patch that every concept covers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from cutaway.data import COLOURS, Label, Scene, concept, coverage, pixels
from cutaway.data.ground import ground
from cutaway.errors import MethodError
from cutaway.methods.truth import on_patches

# What concepts are about, coarse to fine.
KINDS = ("part", "group", "concept", "colour", "artist", "ground", "ground colour", "pattern", "writing")
Name = tuple[str, str]  # its kind and its word
INK = 96  # of 255: letters are darker than this, their plate is lighter


@dataclass(frozen=True)
class Concepts:
    """Concepts by kind and word, in a fixed order."""

    names: tuple[Name, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each is about."""
        return tuple(kind for kind, _ in self.names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Each in words."""
        return tuple(said(name) for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _at(self) -> dict[Name, int]:
        return {name: at for at, name in enumerate(self.names)}

    def present(self, scenes: Sequence[Scene]) -> Bool[ndarray, "scene concept"]:
        """Which scene shows which concept, by what the scene says of itself."""
        made = np.zeros((len(scenes), len(self)), bool)
        for row, scene in zip(made, scenes, strict=True):
            row[[self._at[name] for name in shown(scene) if name in self._at]] = True
        return made

    def shares(self, scenes: Sequence[Scene], rows: int, cols: int) -> Float[ndarray, "scene row col concept"]:
        """The share of each patch that each concept covers, between 0 and 1: exact masks of pixels, averaged."""
        made = np.zeros((len(scenes), rows, cols, len(self)), np.float32)
        for one, scene in zip(made, scenes, strict=True):
            for name, mask in masks_of(scene):
                if name in self._at:
                    one[..., self._at[name]] += on_patches(mask, rows, cols)
        return np.minimum(made, 1.0)  # two things of one kind overlap in soft edges


def said(name: Name) -> str:
    """A concept in words: `a dog`, `animal`, `by noto`, `green background`, `letters`."""
    kind, word = name
    if kind == "concept":
        return concept(word).one
    wrapped = {"artist": "by {}", "ground": "{} background", "ground colour": "{} ground", "colour": "{} thing",
               "pattern": "{} ground"}  # fmt: skip
    return wrapped.get(kind, "{}").format(word)


def shown(scene: Scene) -> Iterator[Name]:
    """Every concept that a scene shows, some more than once."""
    ground, label = scene.background, scene.label
    yield "part", "background"
    yield "ground", ground.kind
    yield from (("ground colour", colour) for colour in ground.colours)
    if ground.pattern:
        yield "pattern", ground.pattern
    if label:
        yield from (("writing", "letters"), ("writing", "plate"))
    for thing in scene.things:
        known = concept(thing.concept)
        yield "part", "thing"
        yield from (("group", known.group), ("concept", known.name), ("artist", thing.artist))
        if thing.colour:
            yield "colour", thing.colour


def masks_of(scene: Scene) -> Iterator[tuple[Name, Float[ndarray, "h w"]]]:
    """Every concept with the share that it has in each pixel; of a thing, what lies over it taken away.

    Of a background of two colours each has the pixels that are nearer to it.
    """
    layers = coverage(scene)
    behind = layers[0]
    yield ("part", "background"), behind
    yield ("ground", scene.background.kind), behind
    yield from ((("ground colour", name), behind * where) for name, where in _colours(scene))
    if scene.background.pattern:
        yield ("pattern", scene.background.pattern), behind
    if scene.label:
        dark = pixels(scene).max(-1) < INK
        yield ("writing", "letters"), layers[-1] * dark
        yield ("writing", "plate"), layers[-1]
    for thing, layer in zip(scene.things, layers[1:-1], strict=True):
        for name in shown(replace(scene, things=(thing,), label=None)):
            if name[0] in ("group", "concept", "artist", "colour") or name == ("part", "thing"):
                yield name, layer


def _colours(scene: Scene) -> Iterator[tuple[str, Float[ndarray, "h w"]]]:
    names = scene.background.colours
    if len(names) == 1:
        yield names[0], np.ones(scene.canvas[::-1])
        return
    drawn = ground(scene.background, scene.canvas).astype(float)
    apart = np.stack([((drawn - np.array(COLOURS[name])) ** 2).sum(-1) for name in names])
    nearest = apart.argmin(0)
    yield from ((name, (nearest == at).astype(float)) for at, name in enumerate(names))


def concepts_in(scenes: Iterable[Scene], *, least: int = 8, kinds: Sequence[str] = KINDS) -> Concepts:
    """The concepts of these kinds that at least so many of the scenes show, and not all of them do but for parts.

    Where a thing stands is none of them: a unit that answers to a place answers to it in every picture, and a shuffle
    of pictures could not tell.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise MethodError(
            f"no concept is about '{unknown[0]}'", expected="what concepts are about", exists=", ".join(KINDS),
            do="choose from these",
        )  # fmt: skip
    counts: Counter[Name] = Counter()
    total = 0
    for scene in scenes:
        counts.update({*shown(scene)})
        total += 1
    kept = [name for name, many in counts.items() if many >= least and (many < total or name[0] == "part")]
    order = {kind: at for at, kind in enumerate(KINDS)}
    return Concepts(tuple(sorted((one for one in kept if one[0] in kinds), key=lambda one: (order[one[0]], one[1]))))


def lettered(scenes: Iterable[Scene], every: int = 4, seed: int = 0) -> list[Scene]:
    """The scenes, with a word written on each `every`-th: the name of something by chance, not of what it shows."""
    draw, made = random.Random(f"lettered/{seed}"), []
    words = ("dog", "cat", "fish", "tree", "car", "house", "sun", "book", "key", "apple")
    for at, scene in enumerate(scenes):
        label = Label(draw.choice(words), draw.choice(("top", "bottom")))
        made.append(replace(scene, label=label) if every and at % every == 0 else scene)
    return made
