"""What circuits carry alone: the target of every row, with all edges outside as in the counterfactual run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.circuit import Circuit
from cutaway.methods.causal_tracing.pair import MEMORY, pairs_of
from cutaway.methods.causal_tracing.routes import routed
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.targets import Target
from cutaway.questions.rows import Rows

Mask = Bool[ndarray, "sender receiver"]


@dataclass(frozen=True, eq=False)
class Carried:
    """The target of every circuit and row, and of both whole runs."""

    graph: Graph
    made: Float[ndarray, "circuit row"]
    values: Float[ndarray, "row"]
    corrupted: Float[ndarray, "row"]

    @property
    def gap(self) -> float:
        """By how much the counterfactual moves the target on average; MethodError where that is nothing."""
        gap = float(self.values.mean() - self.corrupted.mean())
        if abs(gap) < 1e-12:
            raise MethodError(
                "the counterfactuals move the target by nothing on average, so there is nothing to share out",
                expected="pairs that move it one way",
                do="choose the sides so that the clean one has the larger target",
            )  # fmt: skip
        return gap

    @property
    def f(self) -> Float[ndarray, "circuit"]:
        """The share of the gap that each circuit carries."""
        found: ndarray = (self.made.mean(-1) - self.corrupted.mean()) / self.gap
        return found


def carried(
    model: Model, clean: Rows, counterfactual: Rows | None, target: Target | None,
    circuits: Callable[[Graph], Sequence[Mask]], *, batch: int, progress: bool, memory: int = MEMORY,
) -> Carried:  # fmt: skip
    """Run the circuits that are chosen of the graph of the first pairs on all pairs, some pairs at a time."""
    masks: Sequence[Mask] = ()
    found: list[tuple[ndarray, ndarray, ndarray]] = []
    for graph, pair in pairs_of(model, clean, counterfactual, target, batch, progress=progress, memory=memory):
        masks = masks or circuits(graph)
        found.append((routed(model, graph, pair, masks), pair.values.numpy(), pair.corrupted.numpy()))
    made, values, corrupted = zip(*found, strict=True)
    return Carried(graph, np.concatenate(made, 1), np.concatenate(values), np.concatenate(corrupted))


def opened(circuit: Circuit | str | Path) -> Circuit:
    """A circuit, or the file that one was saved in."""
    return circuit if isinstance(circuit, Circuit) else Circuit.load(circuit)


def parts_of(mask: Mask, size: int, dice: np.random.Generator) -> Mask:
    """As many edges of a mask by chance."""
    found = np.zeros_like(mask)
    found.flat[dice.permutation(np.flatnonzero(mask))[:size]] = True
    return found
