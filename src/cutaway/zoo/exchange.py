"""Exchanges in a network beside the same exchanges in its causal model: of nodes, of edges, of any rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.zoo.interchange import set_edges, set_nodes, written
from cutaway.zoo.planted import Edge, Plant, Swap, Values, Verdict, rows_of, size

Heard = Mapping[str, Bool[Tensor, "row receiver"]]


class Told(NamedTuple):
    """What the network says, beside all values that the causal model has; `still`: rows in which it exchanged none."""

    verdict: Verdict
    expected: Values
    still: Bool[Tensor, "row"]


@dataclass(frozen=True)
class Exchange:
    """A model and the plant that it is held against."""

    model: Model
    plant: Plant

    @cached_property
    def graph(self) -> Graph:
        """The nodes of the model, which are the senders of its graph, and its receivers."""
        return Graph.of(self.model)

    @cached_property
    def seen(self) -> Bool[Tensor, "point node"]:
        """Which nodes each point sees."""
        found = torch.zeros(len(self.graph.points), len(self.graph.senders), dtype=torch.bool)
        for index, point in enumerate(self.graph.points):
            found[index, list(point.seen)] = True
        return found

    @cached_property
    def planted(self) -> Bool[Tensor, "node"]:
        """Which nodes carry a variable."""
        return torch.tensor([node.name in self.plant.nodes for node in self.graph.senders])

    @cached_property
    def free(self) -> Bool[Tensor, "node"]:
        """Which nodes are inside: what enters the first block is the input itself."""
        return torch.tensor([not node.begins for node in self.graph.senders])

    def clean(self, values: Values, *, grad: bool = False) -> tuple[Run, Told]:
        """A run in which nothing is exchanged, with all that exchanges need."""
        run = self.model.run(self.plant.inputs(self.model, values), record=written(self.graph), grad=grad)
        solved = self.plant.solve(values)
        still = torch.ones(size(values), dtype=torch.bool)
        return run, Told(self.plant.judge(run, solved), solved, still)

    def nodes(
        self, clean: Run, solved: Values, chosen: Bool[Tensor, "row node"], source: Int[Tensor, " row"],
        other: Int[Tensor, " row"], *, grad: bool = False,
    ) -> Told:  # fmt: skip
        """The chosen nodes of each row as they are in its source row; those without a variable as in its other one."""
        planted, graph, there = self.planted, self.graph, rows_of(solved, source)
        edits = set_nodes(graph, clean, chosen, torch.where(planted[:, None], source, other))
        told = self.model.run(clean.inputs, edits=edits, grad=grad)
        swaps = {node.name: Swap(chosen[:, i], there) for i, node in enumerate(graph.senders) if planted[i]}
        expected = self.plant.solve(solved, swaps)
        return Told(self.plant.judge(told, expected), expected, ~(chosen & planted).any(1))

    def edges(
        self, clean: Run, solved: Values, chosen: Bool[Tensor, "row node"], source: Int[Tensor, " row"], heard: Heard,
        *, grad: bool = False,
    ) -> Told:  # fmt: skip
        """The receivers that each row names hear its chosen nodes as they are in its source row."""
        edits = set_edges(self.model, self.graph, clean, chosen, source, heard, grad=grad)
        told = self.model.run(clean.inputs, edits=edits, grad=grad)
        swaps = self.swaps(chosen, heard, rows_of(solved, source))
        expected = self.plant.solve(solved, edges=swaps)
        touched = torch.stack([swap.rows for swap in swaps.values()]).any(0)
        return Told(self.plant.judge(told, expected), expected, ~touched)

    def swaps(self, chosen: Bool[Tensor, "row node"], heard: Heard, there: Values) -> dict[Edge, Swap]:
        """What an exchange of edges is to the causal model."""
        found: dict[Edge, Swap] = {}
        for edge in self.plant.edges:
            point, which = self.graph.at[edge.receiver]
            told = heard.get(point.name)
            if told is not None:
                found[edge] = Swap(chosen[:, self.graph.number[edge.source]] & told[:, which], there)
        return found or {self.plant.edges[0]: Swap(torch.zeros(len(chosen), dtype=torch.bool), there)}
