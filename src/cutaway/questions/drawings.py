"""Many drawings whose prompts are known, and what each was asked for and shows, as labels for probes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy import ndarray

from cutaway.data import Background, concept
from cutaway.data.captions import on_ground
from cutaway.data.prompts import DRAWABLE
from cutaway.data.scene import COLOURS, Scene
from cutaway.errors import InputError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.questions.judged import seen_in

ASKED, FOUND = ("thing", "background"), ("drawn", "place", "x", "y", "where")
DRAWN_LABELS = (*ASKED, *FOUND)
BATCH = 16  # prompts that are drawn together
THINGS, GROUNDS = 8, 6  # so many are crossed


@dataclass(frozen=True)
class found:  # noqa: N801
    """What the judge finds in each drawing of a run, as a label: one a picture, or a map of it.

    `drawn`: the thing that it sees most clearly, "nothing" where it is sure of none; that thing's `place` (a ninth of
    the canvas, "" for none) and its centre `x`, `y` in fractions of the canvas (NaN for none); `where`: the cells of
    16 × 16 in which it sees any thing, true or false. Pictures are 64 × 64, and it knows 64 things.

    >>> found("where").what
    'where'
    """

    what: str

    def __post_init__(self) -> None:
        if self.what not in FOUND:
            raise InputError(
                f"a judge finds no '{self.what}'", expected="what it can say of a drawing", exists=", ".join(FOUND),
                do="choose one of these; what was asked for is an array of your own",
            )  # fmt: skip

    def __call__(self, run: Run) -> ndarray:
        """The label of each picture, in order."""
        seen = seen_in(run)
        if self.what == "where":
            return np.asarray((seen.thing.argmax(1) < len(DRAWABLE)).cpu())
        return np.array([self._of(scene) for scene in seen.scenes()])

    def _of(self, scene: Scene) -> str | float:
        if not scene.things:
            return {"drawn": "nothing", "place": ""}.get(self.what, float("nan"))
        first = scene.things[0]
        named: dict[str, str | float] = {
            "drawn": first.concept, "place": first.place_name, "x": first.place[0], "y": first.place[1],
        }  # fmt: skip
        return named[self.what]


def crossed(
    many: int, *, seed: int = 0, things: int = THINGS, grounds: int = GROUNDS
) -> tuple[list[str], dict[str, ndarray]]:
    """Prompts of things on backgrounds, each thing with each background, in an order by chance; and what they ask for.

    Each prompt is there once before any is there again. The `seed` chooses things, backgrounds and the order.

    >>> texts, labels = crossed(3)
    >>> texts[0], str(labels["thing"][0]), str(labels["background"][0])
    ('a penguin on a red background', 'penguin', 'red')
    """
    draw = random.Random(f"crossed/{seed}")
    both = list(product(draw.sample(DRAWABLE, things), draw.sample([*COLOURS], grounds)))
    draw.shuffle(both)
    chosen = [both[at % len(both)] for at in range(many)]
    texts = [f"{concept(thing).one} {on_ground(Background('plain', (colour,)))}" for thing, colour in chosen]
    return texts, {name: np.array([one[at] for one in chosen]) for at, name in enumerate(ASKED)}


def drawings(
    model: Model, texts: Sequence[str], *, seed: int = 0, batch: int = BATCH, **more: Any
) -> list[Inputs]:  # fmt: skip
    """Whole drawings of prompts, `batch` at a time, each from noise of its own; more goes to `model.inputs`.

    >>> import cutaway
    >>> made = drawings(cutaway.load("tiny:sd"), ["a dog", "a cat", "a fox"], batch=2, steps=2)
    >>> [one.drawn for one in made]
    [('a dog', 'a cat'), ('a fox',)]
    """
    starts = range(0, len(texts), batch)
    return [
        model.inputs(prompt=list(texts[start : start + batch]), seed=seed * 10_000 + start, **more) for start in starts
    ]


def drawn_crowd(
    model: Model, labels: Sequence[str], many: int, seed: int = 0
) -> tuple[list[Inputs], dict[str, Any]]:  # fmt: skip
    """Drawings of `crossed` prompts as the rows of a question, with labels of these names."""
    unknown = [label for label in labels if label not in DRAWN_LABELS]
    if unknown:
        raise InputError(
            f"drawings have no label '{unknown[0]}'", expected="what a prompt asks for, or a judge finds",
            exists=", ".join(DRAWN_LABELS), do="choose one of these for --label",
        )  # fmt: skip
    texts, asked = crossed(many, seed=seed)
    return drawings(model, texts, seed=seed), {one: asked[one] if one in asked else found(one) for one in labels}
