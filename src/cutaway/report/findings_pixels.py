"""Findings on pixels: where maps of relevance lie, on exact masks, of a CLIP and of a LLaVA, two sets of scenes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import xarray

from cutaway import questions
from cutaway.data import Scene, World, masks, render, scenes
from cutaway.methods import relevance
from cutaway.methods.relevance.measures import by_chance, covered, located, really_gone
from cutaway.methods.relevance.relevance import WAYS
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import Target, logit_diff, similarity

FEWEST, SHARE = 8, 40  # scenes: one in so many of a page's
PAIR = World(things=(2, 2), repeat=0.0, tinted=0.0)
FEW: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"points": 16}, "smooth_gradient": {"draws": 8}, "shapley": {"orders": 2},
}  # fmt: skip


def pixels(model: Model, n: int, seed: int, told: Callable[[str], None]) -> xarray.Dataset:
    """Of scenes of two things, of which the text names the first: where each method's map lies.

    `share`, `overlap`, `points` (way, scene) on the patches of the named thing; `gone` whether the thing with more
    relevance is the one whose absence, drawn again without it, changes the number more. `area` (scene): the share that
    a map by chance has.
    """
    some = two_things(max(FEWEST, n // SHARE), seed)
    inputs, target = asked(model, some)
    whole = [question(model, one) for one in some]
    found: dict[str, list[list[float]]] = {part: [] for part in ("share", "overlap", "points", "gone")}
    for way in WAYS:
        told(way)
        made = relevance(model, inputs, target, method=way, seed=seed, progress=False, **FEW.get(way, {}))
        heats = [made.map(at).values for at in range(len(some))]
        fits = [located(heat, covered(masks(one)[0], heat)) for heat, one in zip(heats, some, strict=True)]
        for part, name in (("share", "mass"), ("overlap", "iou"), ("points", "hit")):
            found[part].append([getattr(one, name) for one in fits])
        absent = [really_gone(one, scene, heat) for one, scene, heat in zip(whole, some, heats, strict=True)]
        found["gone"].append([float(int(one.density.argmax()) == int(np.abs(one.effect).argmax())) for one in absent])
    area = [by_chance(heat, covered(masks(one)[0], heat)).mass for heat, one in zip(heats, some, strict=True)]
    return xarray.Dataset(
        {**{part: (("way", "scene"), np.array(rows)) for part, rows in found.items()}, "area": ("scene", area)},
        {"way": list(WAYS), "scene": np.arange(len(some))},
    )


def two_things(many: int, seed: int, world: World = PAIR, things: int = 2) -> list[Scene]:
    """Scenes of two different things, or of as many."""
    drawn = scenes("test", 100 * many, seed, world)
    return list(islice((one for one in drawn if len({thing.concept for thing in one.things}) == things), many))


def asked(model: Model, some: list[Scene]) -> tuple[Inputs, Target]:
    """The similarity with the name of the first thing, or the answer to whether it is there."""
    names = [one.things[0].concept for one in some]
    if not model.family.image_tokens:
        return model.inputs(image=[render(one) for one in some], text=[f"a {name}" for name in names]), similarity()
    texts: Any = [f"Is there a {name}?" for name in names]
    return model.inputs(image=[[render(one)] for one in some], text=texts), logit_diff("yes", "no")


def question(model: Model, scene: Scene) -> questions.Question:
    """The same of one scene."""
    name = scene.things[0].concept
    if not model.family.image_tokens:
        return questions.match(model, render(scene), [f"a {name}"])
    return questions.ask(model, render(scene), f"Is there a {name}?", "yes", "no")
