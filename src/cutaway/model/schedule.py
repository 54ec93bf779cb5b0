"""Which denoising step a call of a denoiser belongs to, and what the guidance rows of its batch are called."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType, SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.model.table import Drawing
from cutaway.model.towers import PIPELINES, TOWERS

UNNAMED = ""  # a guidance row of a call that nothing says the meaning of


class Schedule:
    """Counts the steps of a pipeline by the scheduler's own timesteps.

    A call at the timestep after the last one begins the next step; at the same timestep it belongs to the same step
    (guidance that is computed apart); at any other it begins a loop anew, as a new list of timesteps does. A timestep
    that is not in the list counts as the next one. Where a timestep stands in the list twice (Heun, PNDM) each is
    a step, and the scheduler's count says which of them this is.
    """

    def __init__(self, pipeline: Any, rows: int | None = None) -> None:
        self.pipeline, self.rows = pipeline, rows
        self.calls = 0  # of the denoiser within this step
        self._times: Any = None
        self._first = self._at = self._last = 0
        self._names: dict[int, tuple[str, ...]] = {}  # of the call that runs, by its batch

    @property
    def step(self) -> int:
        """The step of the latest call, from 0."""
        return self._at - self._first

    @property
    def steps(self) -> int:
        """How many steps the loop has."""
        return max(1, self._last - self._first) if self._times is not None else 1

    def time(self, step: int) -> Tensor:
        """The timestep of a step of this loop."""
        return torch.as_tensor(self._times[self._first + step])

    def tick(self, time: Any) -> None:
        """A call of the denoiser at this timestep begins."""
        self._names.clear()
        times, before = self.pipeline.scheduler.timesteps, self._at
        here = _found(times, time, self.pipeline.scheduler)
        following = self._at + 1
        if times is not self._times:
            self._begin(times, here)
        elif following < len(times) and (bool(here[following]) or not here.any()):
            twice = bool(here[self._at]) and _counted(self.pipeline.scheduler) == self._at
            self._at = self._at if twice else following
        elif not here[self._at]:
            self._begin(times, here)
        again = times is self._times and self._at == before and self.calls > 0
        self.calls = self.calls + 1 if again else 1

    def _begin(self, times: Any, here: Bool[Tensor, "step"]) -> None:
        """The first call of a loop: of several places with its timestep the one that the loop begins at."""
        self._times, self.calls = times, 0
        own = getattr(self.pipeline, "num_timesteps", None) if _running(self.pipeline) else None
        count = own if isinstance(own, int) and 0 < own <= len(times) else None
        places = here.nonzero().flatten().tolist() or [0]
        known = [_counted(self.pipeline.scheduler), None if count is None else len(times) - count]
        self._first = self._at = next((place for place in known if place is not None and place in places), places[0])
        self._last = len(times) if count is None else min(len(times), self._first + count)

    def names(self, batch: int) -> tuple[str, ...]:
        """The guidance rows of a call with this batch, in order; unnamed where the pipeline does not say."""
        if batch not in self._names:
            self._names[batch] = self._named(batch)
        return self._names[batch]

    def _named(self, batch: int) -> tuple[str, ...]:
        frame = _running(self.pipeline)
        if frame is None:  # a loop of the user's own: the flags are those of an earlier call, or of none
            return (UNNAMED,)
        known = _rows(self.pipeline, frame)
        if batch % (len(known) * (self.rows or 1)):  # a call of another kind beside those of the loop
            return (UNNAMED,) * max(1, batch // self.rows if self.rows and batch % self.rows == 0 else 1)
        if self.calls > 1 and known == ("cond",):  # the same timestep once more: what the guidance is against
            return ("uncond",) if self.calls == 2 and _apart(self.pipeline) else (UNNAMED,)
        return known


@dataclass(frozen=True)
class OneStep:
    """A single evaluation of a denoiser, at one step of so many, on the prompts alone."""

    step: int
    steps: int

    def tick(self, time: Any) -> None:
        """There is nothing to count."""

    def names(self, batch: int) -> tuple[str, ...]:
        """The row of the prompt."""
        return ("cond",)


def steps_in(pipeline: Any, call: Mapping[str, Any]) -> int:
    """How many steps a drawing has: the scheduler's list, less what a pipeline leaves out that begins with a picture.

    That is more than `num_inference_steps` where a scheduler calls twice (Heun), less where a drawing begins midway.
    """
    scheduler = copy.deepcopy(pipeline.scheduler)
    own = {name: call[name] for name in ("timesteps", "sigmas") if call.get(name) is not None}  # a list of the user's
    count = len(next(iter(own.values()))) if own else int(call["num_inference_steps"])
    shifted = {"mu": 1.0} if getattr(scheduler.config, "use_dynamic_shifting", False) else {}
    scheduler.set_timesteps(**(own or {"num_inference_steps": count}), **shifted)
    if "strength" not in call:
        return len(scheduler.timesteps)
    left: Any = type(pipeline).get_timesteps(SimpleNamespace(scheduler=scheduler), count, call["strength"], "cpu")[0]
    return len(left)


def _counted(scheduler: Any) -> int | None:
    """The place in its list that a scheduler itself is at, where it counts and has been told."""
    for name in ("step_index", "begin_index"):
        if isinstance(place := getattr(scheduler, name, None), int):
            return place
    return None


def _running(pipeline: Any) -> FrameType | None:
    """The pipeline's own call, where that is what called its denoiser."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is pipeline:
            return frame
        frame = frame.f_back
    return None


def _apart(pipeline: Any) -> bool:
    """Whether the denoiser is called a second time at a timestep for what the guidance is against."""
    rows = (TOWERS.get(type(part).__name__) for part in pipeline.components.values())
    return any(row.apart for row in rows if row is not None)


def _rows(pipeline: Any, frame: FrameType) -> tuple[str, ...]:
    """What a pipeline puts into one batch, by its own flags of this moment."""
    row = PIPELINES.get(type(pipeline).__name__, Drawing())
    if row.scale:
        guided = frame.f_locals[row.scale] > 1
    else:
        guided = bool(getattr(pipeline, "do_classifier_free_guidance", False))
    names = row.guided if guided else ("cond",)
    return (*names, "perturbed") if getattr(pipeline, "do_perturbed_attention_guidance", False) else names


def _found(times: Any, time: Any, scheduler: Any) -> Bool[Tensor, "step"]:
    """Where a timestep stands in the list, in the precision it is given in; Flux gives it as a share of the whole."""
    if time is None:
        return torch.zeros(len(times), dtype=torch.bool)
    now = torch.as_tensor(time).detach().flatten()[:1].cpu()
    listed = torch.as_tensor(times).detach().cpu().to(now.dtype)
    whole = int(getattr(scheduler.config, "num_train_timesteps", 1000))
    return (listed == now) | ((listed / whole).to(now.dtype) == now if now.is_floating_point() else listed == now)
