"""Sweeps by several workers: each makes its own clean run and then the chunks of one plan that fall to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cutaway.jobs.crew import Crew, Workers, crew
from cutaway.model.cells import Cells
from cutaway.model.edits import Edit
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.plan import Plan
from cutaway.model.run import Run
from cutaway.model.sweep import Begun, Sweep, Values

Swept = Cells | Iterable[Edit | Sequence[Edit]]


@dataclass(frozen=True, eq=False)
class Sweeping:
    """The chunks of the plan of a sweep, by number. The plan follows from inputs, cells, target and memory."""

    inputs: Inputs
    cells: Cells
    target: Callable[[Run], Tensor]
    memory: int
    begun: list[Begun] = field(default_factory=list, init=False, repr=False)

    def do(self, model: Model, chunk: int) -> Float[np.ndarray, "cell row"]:
        """The target of every cell of a chunk; the clean run is made for the first one and kept."""
        with model.engine.taken():
            if not self.begun:
                self.begun.append(Begun(model.engine, self.inputs, self.cells, self.target, self.memory))
            return self.begun[0].values(chunk)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "begun": []}


class Spread(Model):
    """A model whose sweeps, and jobs by `crew_of`, are made by workers; all else is as before. Made by `spread`."""

    def __init__(self, model: Model, begin: Callable[[], Crew]) -> None:
        vars(self).update(vars(model))
        self.begin = begin

    def sweep(
        self, inputs: Inputs, cells: Swept, target: Callable[[Run], Tensor], *, memory: int = 2**30, **how: Any
    ) -> Sweep:
        """As `Model.sweep`, chunk by chunk by whoever is free, the costly ones first."""
        cells, some = Cells.of(cells), self.begin()

        def by(plan: Plan, todo: Sequence[int]) -> Iterator[Values]:
            order = sorted(todo, key=lambda number: -plan.chunks[number].flops)
            return some.run(Sweeping(inputs, cells, target, memory), order, progress=False)

        return super().sweep(inputs, cells, target, memory=memory, by=by if some.actors else None, **how)


def crew_of(model: Model) -> Crew:
    """The workers of a model that is spread, for work other than sweeps; of any other model this process."""
    return model.begin() if isinstance(model, Spread) else Crew(model)


@contextmanager
def spread(model: Model, workers: Workers) -> Iterator[Model]:
    """The model for the length of a block, in which workers make its sweeps: whatever method it is given to.

    They are started with the first sweep, as `jobs.run` says, and stay for all of them. What is run outside sweeps
    (a method's own clean runs) is run here.

    >>> import cutaway
    >>> from cutaway.methods import activation_patching
    >>> from cutaway.model.targets import logit_diff
    >>> with spread(cutaway.load("tiny:llama"), workers=0) as model:  # 4, or "ray://…"
    ...     found = activation_patching(model, ["a red dog"], ["a red cat"], logit_diff("dog", "cat"), progress=False)
    >>> found["mean"].shape
    (3, 4)
    """
    with ExitStack() as stack:
        yield Spread(model, cache(lambda: stack.enter_context(crew(model, workers))))


def sweep(
    model: Model,
    inputs: Inputs,
    cells: Swept,
    target: Callable[[Run], Tensor],
    *,
    workers: Workers = 0,
    progress: bool = True,
    memory: int = 2**30,
    resume: str | Path | None = None,
) -> Sweep:
    """`model.sweep` by several workers: the same plan, whose chunks go to whoever is free.

    Workers make the clean run themselves and the same batches as `model.sweep` would, so that the numbers are the same
    bit for bit where their processors and threads are alike. There is no more to share than the plan has chunks: a
    smaller `memory` makes more of them, and other batches, whose numbers may differ in the last digits. `resume` is
    one file, written here. Raises as `model.sweep` and `jobs.run` do.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> inputs, cells = model.inputs(text="a red dog"), model.grid(cutaway.Ablate("text.*.mlp.out"), token=[1, 2])
    >>> sweep(model, inputs, cells, cutaway.targets.logit("cat"), progress=False).values.shape
    (3, 2, 1)
    """
    with spread(model, workers) as many:
        return many.sweep(inputs, cells, target, progress=progress, memory=memory, resume=resume)
