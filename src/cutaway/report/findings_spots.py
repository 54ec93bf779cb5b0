"""What can be read off the states of a prompt, by position and layer: at the picture, at the names, at the end."""

from __future__ import annotations

import numpy as np
import xarray
from jaxtyping import Int
from numpy import ndarray

from cutaway.data import concept
from cutaway.methods.linear_probing import linear_probing
from cutaway.model.model import Model
from cutaway.report.findings_asked import TOWER, Posed, sided
from cutaway.report.findings_scenes import TOLD

SPOTS = ("patch", "first name", "second name", "last")
READ = ("group", "answer")
SEEDS = (0, 1, 2)
FEWEST = 96


def spots(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """Questions which of left and right: what a linear probe reads of them, by position and layer.

    The positions: the picture token that the thing named first covers most, its name in the question, that of the
    second, and the last. Read: the `group` of the thing named first (animals, food, …), whose control labels are one
    for each concept, and the `answer`, whose control labels are one a question. `mean` with `low` and `high`,
    `control`, `majority` (spot, label, layer): see `linear_probing`. `by_place`: how often the side on which the first
    thing lies in the picture as a whole is the answer, which its patch tells by where it is.
    """
    asked = sided(model, max(FEWEST, 3 * n // 2), seed + 100)
    firsts = [_first(asked, row) for row in range(len(asked.scenes))]
    named = [scene.things[at] for scene, at in zip(asked.scenes, firsts, strict=True)]
    given = {
        "group": np.array([concept(thing.concept).group for thing in named]),
        "answer": np.array([one.answer for one in asked.questions]),
    }
    types = {"group": np.array([thing.concept for thing in named])}
    rows = []
    for spot in SPOTS:
        told(f"probing, {spot}")
        made = linear_probing(
            model, asked.inputs, given, tower=TOWER, pool=places(asked, spot, firsts).tolist(), types=types,
            seeds=SEEDS, progress=False,
        )  # fmt: skip
        data = made.data[["mean", "low", "high"]].assign(
            {name: made[name].mean("seed") for name in ("control", "majority")}
        )
        rows.append(data.swap_dims(site="layer").drop_vars(["site", "metric"]))
    sides = np.array(["left" if thing.place[0] < 0.5 else "right" for thing in named])
    found = xarray.concat(rows, "spot").assign_coords(spot=list(SPOTS))
    return found.assign(questions=len(named), by_place=float((sides == given["answer"]).mean()))


def places(asked: Posed, spot: str, firsts: list[int]) -> Int[ndarray, "row"]:
    """The position of a spot in each row, counted along the row's own."""
    own = asked.inputs.tokens[TOWER].kind != "pad"
    if spot == "last":
        return np.asarray(own.sum(1) - 1)
    if spot == "patch":
        at = np.array([asked.covered(row, first).argmax() for row, first in enumerate(firsts)])
    else:
        nth = int(spot == "second name")
        at = np.array([np.flatnonzero(row)[nth] for row in asked.named.numpy()])
    return np.asarray(own.cumsum(1)[np.arange(len(at)), at] - 1)


def _first(asked: Posed, row: int) -> int:
    """Which thing of the scene the question names first."""
    words, at = asked.inputs.tokens[TOWER].text[row], int(np.flatnonzero(asked.named[row].numpy())[0])
    return next(i for i, thing in enumerate(asked.scenes[row].things) if thing.concept == str(words[at]))
