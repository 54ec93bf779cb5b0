"""What units do to one number: gradient x activation, and the number itself with each of them weaker or stronger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.edits import Scale
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site

FACTORS = (0.0, 0.5, 2.0, 4.0)
NEAREST = 4  # times as many units as are drawn stand nearest by their mean activation


@dataclass(frozen=True, eq=False)
class Effects:
    """How a number changes when units are multiplied by factors, and when units that are as active are.

    `change` (unit, factor), `matched` (unit, control, factor) for the `controls` (unit, control), in the number's own
    units.
    """

    change: Float[ndarray, "unit factor"]
    matched: Float[ndarray, "unit control factor"]
    controls: Int[ndarray, "unit control"]


def attribution(
    model: Model, inputs: Inputs, target: Callable[[Run], Tensor], site: Site
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """Gradient x activation of every unit, and the mean size of its activation, over all rows and positions.

    g_k = sum_positions a_k d y / d a_k: what taking the unit to zero takes from the number, to first order.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> site = model.sites.one("text.1.mlp.post")
    >>> made, size = attribution(model, model.inputs(text="a dog"), cutaway.targets.logit("cat"), site)
    >>> made.shape == size.shape == (64,)
    True
    """
    found = model.gradients(inputs, target, [site])
    axis = -3 if "height" in site.axes else -1
    given, there = (one.movedim(axis, -1) for one in (found.attribution(site), found.activations[str(site)]))
    flat, size = given.reshape(-1, given.shape[-1]), there.reshape(-1, there.shape[-1]).abs()
    return flat.double().sum(0).cpu(), size.double().mean(0).cpu()


def effects(
    model: Model, inputs: Inputs, target: Callable[[Run], Tensor], site: Site, units: Sequence[int],
    size: Float[Tensor, "all"], *, factors: Sequence[float] = FACTORS, controls: int = 4, seed: int = 0,
) -> Effects:  # fmt: skip
    """Ablate and amplify units, and others of the same site that are about as active on these inputs.

    The activation of unit k at all positions times each factor (0 takes it away); the number less that of the plain
    run, the mean over rows. Controls are drawn from the units whose mean size is nearest to that of unit k.

    >>> import cutaway
    >>> model, inputs = cutaway.load("tiny:llama"), cutaway.load("tiny:llama").inputs(text="a dog")
    >>> site, target = model.sites.one("text.1.mlp.post"), cutaway.targets.logit("cat")
    >>> _, size = attribution(model, inputs, target, site)
    >>> effects(model, inputs, target, site, [1, 2], size, controls=3).matched.shape
    (2, 3, 4)
    """
    if len(size) - len(units) < controls or controls < 1:
        raise MethodError(
            f"{controls} controls for {len(units)} of {len(size)} units", expected="as many others at least, and one",
            do="ask for fewer units or controls",
        )  # fmt: skip
    drawn = matched(size, units, controls, seed)
    every = sorted({*map(int, units), *map(int, drawn.ravel())})
    cells = [Scale(site, float(factor), unit=one) for one in every for factor in factors]
    swept = model.sweep(inputs, cells, target, progress=False)
    change = swept.change.mean("row").values.reshape(len(every), len(factors))
    at = {one: place for place, one in enumerate(every)}
    own = np.stack([change[at[int(one)]] for one in units])
    others = np.stack([np.stack([change[at[int(one)]] for one in row]) for row in drawn])
    return Effects(own, others, drawn)


def matched(
    size: Float[Tensor, "all"], units: Sequence[int], controls: int, seed: int = 0
) -> Int[ndarray, "unit control"]:
    """For each unit others that are about as active, by chance among the nearest, none of them one of the units."""
    dice, sizes = np.random.default_rng(seed), size.numpy()
    free = np.setdiff1d(np.arange(len(sizes)), np.array(units, int))
    made = []
    for one in units:
        near = free[np.argsort(np.abs(sizes[free] - sizes[int(one)]), kind="stable")[: NEAREST * controls]]
        made.append(dice.choice(near, controls, replace=False))
    return np.stack(made)
