"""Whether a planted circuit holds: what its model says under exchanges, beside what the causal model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas

from cutaway.bench.worlds.world import World
from cutaway.model.model import Model
from cutaway.zoo.evaluate_planted import Held, Trials
from cutaway.zoo.planted import Plant

ENOUGH = 0.99


@dataclass(frozen=True)
class Planting:
    """Every exchange that was tried: `inside` what carries a variable, `outside` what carries none.

    `moved`: how far scores move, root mean square, as a share of what another input as a whole does to them.
    """

    behaviour: Held
    variables: dict[str, Held]
    edges: tuple[Held, ...]
    nodes_outside: tuple[Held, ...]
    all_outside: Held
    edges_outside: tuple[Held, ...]
    receivers_outside: tuple[Held, ...]

    @property
    def holds(self) -> bool:
        """Whether all of it is right in 99 % of rows at least, and was tried."""
        every = (self.behaviour, *self.variables.values(), *self.edges, *self.nodes_outside, self.all_outside)
        return all(
            one.rows > 0 and one.share >= ENOUGH for one in (*every, *self.edges_outside, *self.receivers_outside)
        )

    def table(self) -> pandas.DataFrame:
        """The measures, of what is outside the worst and what moves most."""
        rows = [_line("behaviour", (self.behaviour,)), _line("variables", tuple(self.variables.values()))]
        rows += [_line("edges", self.edges), _line("nodes outside, one at a time", self.nodes_outside)]
        rows += [_line("nodes outside, all at once", (self.all_outside,))]
        rows += [_line("edges outside, one at a time", self.edges_outside)]
        rows += [_line("edges outside, all of a receiver", self.receivers_outside)]
        return pandas.DataFrame(rows)


def planted(
    world: World, model: Model | None = None, *, n: int = 400, each: int = 24, seed: int = 0, plant: Plant | None = None
) -> Planting:
    """Exchange every node and every edge of a world's model, one at a time and together, on rows of no training.

    Interchange accuracy IIA = mean[model(base ← source) = causal model(base ← source)] (Geiger et al. 2021,
    2106.02997); of what carries a variable only rows count whose answer changes by it, so it is not flattered by those
    that stay. Outside of the circuit the answer has to stay (Gupta et al. 2024, 2407.14494, who do not try edges).
    `n` rows for each variable and true edge, `each` for each node and edge outside. `plant`: another circuit than the
    world's, to see it fail. It can not tell whether a circuit of other units, such as directions inside a head, would
    hold too.

    >>> from cutaway.bench.worlds import planted, world
    >>> planted(world("planted-text"), n=64, each=1).holds
    True
    """
    plant = plant or world.plant
    trials = Trials(model or world.open(), plant, n, each=each, seed=seed)
    *single, every = trials.outside_nodes()
    return Planting(
        trials.behaviour(),
        {name: trials.node(node) for name, node in plant.alignment.items()},
        tuple(trials.edge(*edge) for edge in plant.edges),
        tuple(single), every, tuple(trials.outside_edges()), tuple(trials.outside_of_each()),
    )  # fmt: skip


def _line(what: str, found: tuple[Held, ...]) -> dict[str, Any]:
    worst, most = min(found, key=lambda one: one.share), max(found, key=lambda one: one.moved)
    return {
        "exchanged": what, "of": len(found), "rows each": worst.rows, "worst % right": 100 * worst.share,
        "worst": worst.what, "most moved": most.moved, "by": most.what,
    }  # fmt: skip
