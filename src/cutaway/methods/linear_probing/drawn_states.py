"""What a denoiser holds while it draws, as probes take it: means over patches, and single patches, by site and step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.sites import Site
from cutaway.model.steps import drawn_steps
from cutaway.questions.rows import Rows, check_rows, feed

Key = tuple[str, int]  # site and step
TOWER = "denoiser"


@dataclass(frozen=True)
class Drawn:
    """What is kept of many drawings: for each site and step a vector a picture, and one for each of some points of it.

    `mean` (picture, unit): over all patches. `spots` (picture, point, unit): the patch in which each of `points` lies
    (fractions of height and width), chosen by chance, the same for all sites and steps; empty where no label is a map.
    `prompts` one a picture; `labels` by name: one a picture, or a map of it (picture, row, column).
    """

    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    points: Float[ndarray, "picture point 2"]
    labels: Mapping[str, ndarray]
    mean: Mapping[Key, Float[ndarray, "picture unit"]]
    spots: Mapping[Key, Float[ndarray, "picture point unit"]]


def drawn_states(
    model: Model, rows: Rows, sites: Sequence[Site], given: Mapping[str, Any], *, steps: int | Sequence[int] = 5,
    guidance: str = "cond", points: int = 24, seed: int = 0, batch: int = 16, progress: bool = True,
) -> Drawn:  # fmt: skip
    """Draw, and keep of each call of the denoiser what probes take, the moment it is there.

    Memory grows with pictures, sites and chosen steps, by one vector each (and `points` of them where a label is a
    map), not with patches nor with the steps that are drawn. `given` are arrays, or functions of a run that give the
    labels of its pictures.
    """
    prompts: list[str] = []
    parts: dict[Any, list[Any]] = defaultdict(list)
    read = {name: one for name, one in given.items() if callable(one)}
    labels = {name: np.asarray(one) for name, one in given.items() if name not in read}
    spotted, chosen = bool(read) or _maps(labels), tuple[int, ...]()
    for inputs in _drawings(model, rows, batch, progress):
        count, before = len(inputs.drawn) * inputs.copies, chosen
        chosen = _chosen(model, inputs, steps, before)
        where = np.stack([np.random.default_rng((seed, len(prompts) + at)).random((points, 2)) for at in range(count)])
        taking = _Taking(inputs, chosen, torch.from_numpy(where), spotted)
        run = model.run(inputs, record=list(sites), into=taking.add, guidance=guidance, output="pt")
        prompts += _names(inputs, count, len(prompts))
        parts["points"].append(where)
        for name, one in read.items():
            parts["label", name].append(np.asarray(one(run)))
        spotted = _maps(labels) or _maps({name: parts["label", name][0] for name in read})
        for key, value in (*taking.mean.items(), *(taking.spots.items() if spotted else ())):
            parts[key].append(value)
    labels |= {name: np.concatenate(parts["label", name]) for name in read}
    mean, spots = ({key[1:]: torch.cat(some).double().numpy() for key, some in parts.items() if key[0] == what}
                   for what in ("mean", "spots"))  # fmt: skip
    return Drawn(chosen, tuple(prompts), np.concatenate(parts["points"]), labels, mean, spots)


def _maps(labels: Mapping[str, ndarray]) -> bool:
    """Whether any label is a map of each picture."""
    return any(one.ndim == 3 for one in labels.values())


def _drawings(model: Model, rows: Rows, batch: int, progress: bool) -> Iterator[Inputs]:
    """Whole drawings: ready ones as they are, prompts some at a time, each batch from noise of its own."""
    check_rows(model, rows, TOWER)
    ready: Any = rows if isinstance(rows, Inputs) else _made(model, rows, batch)
    for inputs in feed(model, ready, TOWER, what="drawing", progress=progress):
        if not inputs.call.loops or not inputs.drawn:
            raise MethodError(
                f"this is {inputs.call}, not a whole drawing", expected="prompts, or inputs of whole drawings",
                do="`model.inputs(prompt=…)` without `step=`",
            )  # fmt: skip
        yield inputs


def _made(model: Model, rows: Any, batch: int) -> Iterator[Inputs]:
    held: list[str] = []
    start = 0
    for row in rows:
        if isinstance(row, str):
            held.append(row)
        if held and (len(held) == batch or not isinstance(row, str)):
            yield model.inputs(prompt=held, seed=start)
            start, held = start + len(held), []
        if isinstance(row, Inputs):
            yield row
        elif not isinstance(row, str):
            raise MethodError(
                f"a {type(row).__name__} is nothing to draw", expected="prompts, or inputs of whole drawings",
                do="give texts, or `model.inputs(prompt=…)`",
            )  # fmt: skip
    if held:
        yield model.inputs(prompt=held, seed=start)


def _names(inputs: Inputs, count: int, start: int) -> list[str]:
    """What pictures were drawn from; those of noise alone have nothing in common with any of another batch."""
    if {"prompt", "class_labels"} & set(inputs.tensors):
        return inputs.named(count)["prompt"]
    return [f"picture {start + at}" for at in range(count)]


def _chosen(model: Model, inputs: Inputs, steps: int | Sequence[int], before: tuple[int, ...]) -> tuple[int, ...]:
    """The steps that are looked at: so many, evenly from the first to the last, or those that are named."""
    count = drawn_steps(model.module, inputs)
    evenly = np.linspace(0, count - 1, min(steps, count)).round() if isinstance(steps, int) else steps
    made = tuple(sorted({int(one) for one in evenly}))
    if not made or made[0] < 0 or made[-1] >= count or before not in ((), made):
        raise MethodError(
            f"no steps {steps} in a drawing of {count}" + (f", {before} in another" if before else ""),
            expected=f"steps of 0 to {count - 1}, the same in every drawing", do="make all with the same `steps=`",
        )  # fmt: skip
    return made


@dataclass
class _Taking:
    """What is taken of one batch of drawings, call by call."""

    inputs: Inputs
    steps: tuple[int, ...]
    points: Float[Tensor, "picture point 2"]
    spotted: bool
    mean: dict[tuple[str, str, int], Float[Tensor, "picture unit"]] = field(default_factory=dict)
    spots: dict[tuple[str, str, int], Float[Tensor, "picture point unit"]] = field(default_factory=dict)

    def add(self, reading: Reading) -> None:
        """One call at one site."""
        if reading.step not in self.steps:
            return
        states, (height, width) = _patches(reading.value[0], reading.site, self.inputs)
        key = str(reading.site), reading.step
        self.mean["mean", *key] = states.mean(1).float().cpu()
        if self.spotted:
            size = torch.tensor([height, width])
            rows, columns = (self.points * size).long().unbind(-1)
            at = (rows * width + columns).to(states.device)
            self.spots["spots", *key] = states[torch.arange(len(states))[:, None], at].float().cpu()


def _patches(
    value: Float[Tensor, "picture *axes"], site: Site, inputs: Inputs
) -> tuple[Float[Tensor, "picture patch unit"], tuple[int, int]]:
    """The patches of each picture in reading order, heads behind one another, and the grid they lie on."""
    axes = [axis for axis in site.axes if axis not in ("step", "guidance")]
    if "height" in axes:
        return value.movedim(1, -1).flatten(1, 2), (value.shape[-2], value.shape[-1])
    if {"query", "key"} & {*axes}:
        raise MethodError(
            f"'{site}' holds pairs of positions", expected="a site with one vector a patch", exists=", ".join(axes),
            do="take 'denoiser.*.resid_post'",
        )  # fmt: skip
    if "token" not in axes:
        return value.flatten(1)[:, None], (1, 1)
    known = inputs.map_for(site, "token", value.shape[1])
    own = torch.from_numpy(known.row[0] >= 0)
    if not own.any():
        raise MethodError(
            f"'{site}' holds no patches of the picture", expected="a site of the picture's stream",
            do="take 'denoiser.*.image.resid_post'",
        )  # fmt: skip
    return value[:, own.to(value.device)].flatten(2), (int(known.row.max()) + 1, int(known.col.max()) + 1)
