"""How well a plant holds: what a model says, under exchanges of what carries a variable and of what does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.zoo.evaluate import Row, wilson
from cutaway.zoo.exchange import Exchange, Heard, Told
from cutaway.zoo.planted import Plant, Values, rows_of, size
from cutaway.zoo.spec import Told as Saying

BATCH = 512  # rows of a run


class Held(NamedTuple):
    """One exchange: of how many rows, how many came out as the causal model has it, how far scores moved.

    `moved`: root mean square of their change, as a share of what another input as a whole does to them.
    """

    what: str
    rows: int
    right: int
    moved: float

    @property
    def share(self) -> float:
        """The share of rows that came out right."""
        return self.right / max(1, self.rows)


class Trials:
    """A model and a plant, with `n` rows on which every exchange is tried; the source of a row is another of them.

    Nodes and edges that are tried one at a time have `each` rows of their own. Of exchanges that change a variable only
    rows count whose answer changes by that.
    """

    def __init__(self, model: Model, plant: Plant, n: int, *, each: int = 0, seed: int = 0) -> None:
        self.exchange = Exchange(model, plant)
        self.n, self.each, self.seed = n, each or max(16, n // 20), seed
        self.values = plant.draw(HELD_OUT + seed, n)
        self.graph = self.exchange.graph

    def behaviour(self) -> Held:
        """The share of plain inputs that are answered right."""
        return self._told("behaviour", ((told, told, None) for _, _, told in self._clean(self.values)), changed=False)

    def node(self, name: str) -> Held:
        """One node, everywhere, where the answer changes by it."""
        return self.nodes(name, [name])

    def nodes(self, what: str, names: Sequence[str], *, changed: bool = True) -> Held:
        """Several at once; `changed`: only rows whose answer is another one by that."""
        chosen = torch.zeros(len(self.graph.senders), dtype=torch.bool)
        chosen[[self.graph.number[name] for name in names]] = True
        every = self._nodes(self.values, chosen.expand(self.n, -1))
        return self._told(what, every, changed)

    def outside_nodes(self) -> list[Held]:
        """Each node without a variable, one at a time, in rows of their own; all of them at once last."""
        free = (self.exchange.free & ~self.exchange.planted).nonzero().flatten().tolist()
        names = [self.graph.senders[index].name for index in free]
        values = self._each(len(names))
        chosen = torch.zeros(size(values), len(self.graph.senders), dtype=torch.bool)
        for place, index in enumerate(free):
            chosen[place :: len(names), index] = True
        single = self._by_member(names, self._nodes(values, chosen))
        return [*single, self.nodes("all of them at once", names, changed=False)]

    def edge(self, source: str, receiver: str) -> Held:
        """One edge alone, where the answer changes by it."""
        point, which = self.graph.at[receiver]
        chosen = torch.zeros(self.n, len(self.graph.senders), dtype=torch.bool)
        chosen[:, self.graph.number[source]] = True
        heard = {point.name: self._hears(self.n, point.name, which)}
        return self._told(f"{source} → {receiver}", self._edges(self.values, chosen, heard), changed=True)

    def outside_edges(self) -> list[Held]:
        """Each edge that the circuit lacks, one at a time, in rows of their own."""
        every = [
            (self.graph.senders[index].name, one.name) for point in self.graph.points for one in point.receivers
            for index in point.seen
        ]  # fmt: skip
        names = [edge for edge in every if edge not in self.exchange.plant.edges]
        values = self._each(len(names))
        rows = size(values)
        chosen, heard = torch.zeros(rows, len(self.graph.senders), dtype=torch.bool), self._deaf(rows)
        for place, (source, receiver) in enumerate(names):
            point, which = self.graph.at[receiver]
            chosen[place :: len(names), self.graph.number[source]] = True
            heard[point.name][place :: len(names), which] = True
        return self._by_member([f"{a} → {b}" for a, b in names], self._edges(values, chosen, heard))

    def outside_of_each(self) -> list[Held]:
        """For each receiver all edges at once that the circuit lacks."""
        true = set(self.exchange.plant.edges)
        names = [(point, which, one) for point in self.graph.points for which, one in enumerate(point.receivers)]
        values = self._each(len(names))
        rows = size(values)
        chosen, heard = torch.zeros(rows, len(self.graph.senders), dtype=torch.bool), self._deaf(rows)
        for place, (point, which, one) in enumerate(names):
            heard[point.name][place :: len(names), which] = True
            seen = [index for index in point.seen if (self.graph.senders[index].name, one.name) not in true]
            for index in seen:
                chosen[place :: len(names), index] = True
        return self._by_member([one.name for _, _, one in names], self._edges(values, chosen, heard))

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _clean(self, values: Values) -> Iterator[tuple[Tensor, Run, Told]]:
        for rows in torch.arange(size(values)).chunk(-(-size(values) // BATCH)):
            yield rows, *self.exchange.clean(rows_of(values, rows))

    def _nodes(self, values: Values, chosen: Bool[Tensor, "row node"]) -> Iterator[tuple[Told, Told, Tensor]]:
        for rows, run, plain in self._clean(values):
            one, other = self._source(len(rows)), self._source(len(rows), 2)
            yield plain, self.exchange.nodes(run, plain.expected, chosen[rows], one, other), one

    def _edges(
        self, values: Values, chosen: Bool[Tensor, "row node"], heard: Heard
    ) -> Iterator[tuple[Told, Told, Tensor]]:
        for rows, run, plain in self._clean(values):
            one = self._source(len(rows))
            here = {name: told[rows] for name, told in heard.items()}
            yield plain, self.exchange.edges(run, plain.expected, chosen[rows], one, here), one

    def _source(self, rows: int, skip: int = 1) -> Int[Tensor, " row"]:
        """Another row of the batch for each, the same way about for all."""
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(self.seed))
        found = torch.empty_like(order)
        found[order] = order.roll(skip)
        return found

    def _each(self, members: int) -> Values:
        """Rows of their own for each member, which take turns."""
        return self.exchange.plant.draw(HELD_OUT + self.seed + 1, members * self.each)

    def _deaf(self, rows: int) -> dict[str, Bool[Tensor, "row receiver"]]:
        return {one.name: torch.zeros(rows, len(one.receivers), dtype=torch.bool) for one in self.graph.points}

    def _hears(self, rows: int, point: str, which: int) -> Bool[Tensor, "row receiver"]:
        found = self._deaf(rows)[point]
        found[:, which] = True
        return found

    def _told(self, what: str, every: Any, changed: bool) -> Held:
        total, right, moved, whole = 0, 0, 0.0, 0.0
        for plain, told, source in every:
            count = self.exchange.plant.apart(told.expected, plain.expected) if changed else torch.ones_like(told.still)
            total, right = total + int(count.sum()), right + int(told.verdict.right[count].sum())
            if source is not None:
                moved += _square(told.verdict.scores - plain.verdict.scores)
                whole += _square(plain.verdict.scores[source] - plain.verdict.scores)
        return Held(what, total, right, math.sqrt(moved / whole) if whole else 0.0)

    def _by_member(self, names: Sequence[str], every: Any) -> list[Held]:
        """Rows that stand in turn for each of the members, taken apart."""
        right, moved, whole = [], [], []
        for plain, told, source in every:
            right.append(told.verdict.right)
            moved.append((told.verdict.scores - plain.verdict.scores).square().sum(-1))
            whole.append((plain.verdict.scores[source] - plain.verdict.scores).square().sum(-1))
        here, far = (torch.cat(one).view(-1, len(names)) for one in (right, moved))
        of = torch.cat(whole).mean()
        return [
            Held(name, len(here), int(here[:, i].sum()), math.sqrt(float(far[:, i].mean() / of)))
            for i, name in enumerate(names)
        ]


HELD_OUT = 2**40  # seeds from here on are of no training


def _square(change: Float[Tensor, "row score"]) -> float:
    return float(change.square().sum())


def evaluate(plant: Plant, module: Any, processor: Any, n: int, told: Saying) -> list[Row]:
    """The rows of a card: behaviour, each variable, each true edge, and all that should not matter."""
    trials = Trials(Model(module, processor, name=plant.name), plant, n)
    told("behaviour")
    rows = [_row("says the right thing", "plain inputs", trials.behaviour(), plant)]
    for name, node in plant.alignment.items():
        told(f"variable {name}")
        rows.append(_row("interchange of a variable", f"{name}, at {node}", trials.node(node), plant))
    for edge in plant.edges:
        told(f"edge {edge}")
        rows.append(_row("interchange of an edge", str(edge), trials.edge(*edge), plant))
    told("nodes outside")
    *single, every = trials.outside_nodes()
    worst = min(single, key=lambda one: one.share)
    rows.append(_row("stays, a node outside exchanged", f"worst of {len(single)}: {worst.what}", worst, plant))
    rows.append(_row("stays, nodes outside exchanged", every.what, every, plant))
    told("edges outside")
    for what, found in (("an edge", trials.outside_edges()), ("a receiver's edges", trials.outside_of_each())):
        worst = min(found, key=lambda one: one.share)
        rows.append(_row(f"stays, {what} outside exchanged", f"worst of {len(found)}: {worst.what}", worst, plant))
    return rows


def _row(measure: str, of: str, held: Held, plant: Plant) -> Row:
    interval = wilson(held.share, held.rows) if held.rows else (0.0, 1.0)
    return Row(measure, of, held.rows, held.share, *interval, 1 / plant.answers)
