"""Planted circuits as data: a causal model, whose variables and edges each have their place in a network.

A circuit is planted by strict interchange intervention training (`siit.py`): what the network says under an exchange of
states must be what the causal model says under the same exchange of variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.nn.functional import cross_entropy

from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run

Values = Mapping[str, Num[Tensor, "row ..."]]


class Edge(NamedTuple):
    """From what a node writes ("text.1.attn[3]") to what reads it ("text.2.attn[0].q")."""

    source: str
    receiver: str

    def __str__(self) -> str:
        return f"{self.source} → {self.receiver}"


@dataclass(frozen=True)
class Variable:
    """A variable of a causal model: where it lies, what it reads through which edges, how it follows from that.

    `reads` is by argument of `solve`; `of` says which variable an argument is where that has another name.
    """

    name: str
    node: str
    about: str
    reads: Mapping[str, Edge]
    solve: Callable[..., Num[Tensor, "row ..."]] = field(repr=False)
    of: Mapping[str, str] = field(default_factory=dict)

    def read(self, found: Values, edges: Mapping[Edge, Swap]) -> dict[str, Tensor]:
        """Its arguments, where some edges carry values of another run."""
        made = {}
        for name, edge in self.reads.items():
            which = self.of.get(name, name)
            made[name] = swapped(found[which], edges.get(edge), which)
        return made


class Swap(NamedTuple):
    """The rows in which something is exchanged, and the values of the other run, row by row."""

    rows: Bool[Tensor, "row"]
    values: Values


class Verdict(NamedTuple):
    """Of each row: the loss of what it should say, whether it says that, and all scores, to see what moved."""

    loss: Float[Tensor, "row"]
    right: Bool[Tensor, "row"]
    scores: Float[Tensor, "row score"]


@dataclass(frozen=True)
class Plant:
    """A circuit that is planted in a network, as a causal model.

    `answers`: how many there are. `draw` makes the values from which all follows, by seed and number; `given` says at
    which node each of them enters. `variables` come in their order. `inputs` shows values to a model, `judge` compares
    a run with values; `says` names the variables that can be heard. A node that carries no variable carries nothing
    that matters; an edge through which no variable is read, neither.
    """

    name: str
    about: str
    answers: int
    draw: Callable[[int, int], Values] = field(repr=False)
    given: Mapping[str, str]
    variables: tuple[Variable, ...]
    inputs: Callable[[Model, Values], Inputs] = field(repr=False)
    judge: Callable[[Run, Values], Verdict] = field(repr=False)
    says: tuple[str, ...] = ("answer",)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The true edges, in the order in which they are read."""
        return tuple(dict.fromkeys(edge for one in self.variables for edge in one.reads.values()))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The true nodes: what writes along a true edge."""
        return tuple(dict.fromkeys(edge.source for edge in self.edges))

    @property
    def alignment(self) -> Mapping[str, str]:
        """The node that carries each variable, inputs and what is read off at an end left out."""
        return {one.name: one.node for one in self.variables if not one.node.endswith(".end")}

    def solve(
        self, given: Values, nodes: Mapping[str, Swap] | None = None, edges: Mapping[Edge, Swap] | None = None
    ) -> dict[str, Tensor]:
        """All values, where some nodes, or some edges alone, carry those of another run.

        >>> from cutaway.zoo.planted_text import PLANT
        >>> said = PLANT.draw(0, 1)
        >>> PLANT.solve(said)["answer"].tolist() == said["colours"][0, PLANT.solve(said)["at"]].tolist()
        True
        """
        nodes, edges = nodes or {}, edges or {}
        found = dict(given)
        for one in self.variables:
            found[one.name] = swapped(one.solve(**one.read(found, edges)), nodes.get(one.node), one.name)
        return found

    def apart(self, one: Values, other: Values) -> Bool[Tensor, "row"]:
        """Where what is said differs, of values that were solved."""
        return torch.stack([(one[name] != other[name]).view(size(one), -1).any(1) for name in self.says]).any(0)


def swapped(value: Tensor, swap: Swap | None, name: str) -> Tensor:
    """The values of a variable, in some rows those of another run."""
    if swap is None:
        return value
    rows = swap.rows.view(-1, *(1,) * (value.dim() - 1))
    return torch.where(rows, swap.values[name], value)


def rows_of(values: Mapping[str, Any], rows: Int[Tensor, "n"]) -> dict[str, Any]:
    """The values of some rows, in that order."""
    return {name: value[rows] for name, value in values.items()}


def size(values: Mapping[str, Any]) -> int:
    """How many rows there are."""
    return len(next(iter(values.values())))


def next_word(run: Run, truth: Int[Tensor, "row"], words: Sequence[int]) -> Verdict:
    """Of a model that writes: its next word beside the true one of `words`; the scores are their logits, centred."""
    logits = run.logits[:, -1] if run.logits.dim() == 3 else run.logits
    among = torch.tensor(words, device=logits.device)
    wanted, scores = among[truth.to(among.device)], logits[:, among]
    loss = cross_entropy(logits, wanted, reduction="none")
    return Verdict(loss, logits.argmax(-1) == wanted, scores - scores.mean(-1, keepdim=True))


def renamed(plant: Plant, names: Mapping[str, str]) -> Plant:
    """The same causal model with other nodes or receivers: a circuit that is wrong, to see that it does not hold."""

    def moved(edge: Edge) -> Edge:
        node, _, part = edge.receiver.rpartition(".")
        receiver = f"{names[node]}.{part}" if node in names else names.get(edge.receiver, edge.receiver)
        return Edge(names.get(edge.source, edge.source), receiver)

    return replace(
        plant,
        variables=tuple(
            replace(one, node=names.get(one.node, one.node), reads={name: moved(of) for name, of in one.reads.items()})
            for one in plant.variables
        ),
    )
