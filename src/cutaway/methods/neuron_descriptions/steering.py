"""What setting a unit does to the text that it writes, beside what setting other units does to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from cutaway.data import Scene, render
from cutaway.methods.network_dissection.unit_maps import Posed
from cutaway.methods.neuron_descriptions.worded import Words
from cutaway.model.edits import Set
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.tokens import Where
from cutaway.questions.rows import reads_words

POINTS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of a unit's largest activation
PICTURES = 8  # on which units are set
CHANCE = (0.025, 0.5, 0.975)


@dataclass(frozen=True, eq=False)
class Steered:
    """`own`: how much more of its text comes out; `chance`: of the texts of other units, at 2.5, 50 and 97.5 %."""

    own: Float[ndarray, "unit point"]
    chance: Float[ndarray, "quantile point"]


def steered(
    model: Model, site: Site, scenes: Sequence[Scene], posed: Posed, words: Words, units: Int[ndarray, "unit"],
    largest: Float[ndarray, "all"], text: Int[Tensor, "all"], seed: int,
) -> Steered:  # fmt: skip
    """Set each unit on every patch of some pictures to so many times its largest, and read all units' texts.

    effect = mean over pictures of (what the model says of the text under the edit - without it).
    """
    chosen = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(seed))[:PICTURES]
    inputs = _inputs(model, site, [render(scenes[int(at)]) for at in chosen], posed)
    wanted = text[torch.from_numpy(units.copy())]
    before = words.read(model.run(inputs, record=words.end.space))
    moved = np.zeros((len(units), len(POINTS), len(units)), np.float32)
    for row, number in enumerate(units):
        for column, times in enumerate(POINTS):
            edit = Set(site, float(times * largest[number]), unit=int(number), token=Where("image"))
            after = words.read(model.run(inputs, edits=edit, record=words.end.space))
            moved[row, column] = (after - before).mean(0)[wanted].cpu().numpy()
    same = wanted[:, None].numpy() == wanted[None, :].numpy()
    own = moved[np.arange(len(units)), :, np.arange(len(units))]
    others = moved.transpose(1, 0, 2)[:, ~same]
    chance = np.quantile(others, CHANCE, axis=1) if others.shape[1] else np.full((3, len(POINTS)), np.nan)
    return Steered(own, chance.astype(np.float32))


def _inputs(model: Model, site: Site, pictures: list[object], posed: Posed) -> Inputs:
    if reads_words(model, site.tower):
        return model.inputs(image=[[one] for one in pictures], text=[posed.text] * len(pictures))
    return model.inputs(image=pictures)
