"""A world: a model with a planted circuit, the circuit as data, and inputs that methods find it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from cutaway.errors import InputError
from cutaway.methods import Circuit
from cutaway.model.graph import Graph
from cutaway.model.inputs import Inputs
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.model.targets import Target
from cutaway.questions.question import Question
from cutaway.zoo.planted import Edge, Plant, Values, rows_of, size

ROUNDS = 50


class Pairs(NamedTuple):
    """Clean inputs, their counterfactuals row by row, and how much rather the answer is the clean one's."""

    clean: Inputs
    other: Inputs
    target: Target


class Side(NamedTuple):
    """How a world is shown by one tower: pairs of values as inputs with a target, and one pair as a question."""

    pairs: Callable[[Model, Values, Values], Pairs]
    question: Callable[[Model, Values, Values], Question]
    differ: tuple[str, ...]  # the values that a counterpart may differ in


@dataclass(frozen=True)
class World:
    """A model of the zoo with a planted circuit, and the truth about it."""

    plant: Plant
    sides: Mapping[str, Side] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the world, which is that of its plant."""
        return self.plant.name

    @property
    def model(self) -> str:
        """The name by which `cutaway.load` opens its model."""
        return f"zoo:{self.name}"

    @property
    def floor(self) -> str:
        """The same model before training, which has no circuit."""
        return f"{self.model}@untrained"

    @property
    def circuit(self) -> Circuit:
        """The true edges, and so the true nodes: what sends along them.

        >>> from cutaway.bench.worlds import world
        >>> print(next(iter(world("planted-text").circuit.edges)))
        text.embed → text.0.attn[1].v
        """
        return Circuit(self.model, dict.fromkeys(self.plant.edges, 1.0))

    @property
    def alignment(self) -> Mapping[str, str]:
        """The node that carries each variable of the causal model."""
        return self.plant.alignment

    def open(self) -> Model:
        """Its model."""
        return load(self.model)

    def possible(self, model: Model | None = None) -> Circuit:
        """Every edge there could be: what a method has to choose from."""
        graph = Graph.of(model or self.open())
        return Circuit(self.model, dict.fromkeys((Edge(*edge) for edge in graph.named(graph.edges)), 1.0))

    def shown(self, tower: str = "") -> Circuit:
        """The true edges along which the two inputs of a pair may differ: what a method can find with pairs of a side.

        >>> from cutaway.bench.worlds import world
        >>> draws = world("planted-mmdit")  # both inputs of its pairs have the same noise
        >>> len(draws.circuit.edges), len(draws.shown().edges)
        (6, 5)
        """
        apart = set(self._side(tower).differ)
        found: list[Edge] = []
        for one in self.plant.variables:
            heard = [edge for name, edge in one.reads.items() if one.of.get(name, name) in apart]
            apart |= {one.name} if heard else set()
            found += heard
        return Circuit(self.model, dict.fromkeys(found, 1.0))

    def alike(self, tower: str = "") -> tuple[str, ...]:
        """The nodes at which nothing enters that may differ in a pair: what they send says nothing of it."""
        apart = {self.plant.given[name] for name in self._side(tower).differ}
        return tuple(dict.fromkeys(node for node in self.plant.given.values() if node not in apart))

    def pairs(
        self, n: int, seed: int = 0, *, differ: Sequence[str] = (), tower: str = "", model: Model | None = None
    ) -> Pairs:
        """Inputs and counterfactuals with another answer, of no training, in the values of `differ` (none: in all).

        `tower`: which one sees the two, where a world has several sides (CLIP: vision, text). `model`: the model if it
        is open, or its floor.

        >>> from cutaway.bench.worlds import world
        >>> world("planted-text").pairs(2, differ=["way"]).clean
        Inputs(forward; input_ids: (2, 7) int64, attention_mask: (2, 7) int64; text: 2 x 7 positions)
        """
        side = self._side(tower)
        return side.pairs(model or self.open(), *self.values(n, seed, differ=differ, tower=tower))

    def question(
        self, seed: int = 0, *, differ: Sequence[str] = (), tower: str = "", model: Model | None = None
    ) -> Question:
        """One such pair as a question with its counterpart, as every method and `explain` take it."""
        side = self._side(tower)
        return side.question(model or self.open(), *self.values(1, seed, differ=differ, tower=tower))

    def values(
        self, n: int, seed: int = 0, *, differ: Sequence[str] = (), tower: str = ""
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """What such pairs are made of: values of the causal model that are answered differently."""
        side = self._side(tower)
        odd = [name for name in differ if name not in side.differ]
        if odd:
            raise InputError(
                f"nothing in '{self.name}' is called '{odd[0]}'", expected="values that inputs are made of",
                exists=", ".join(side.differ), do="name some of these in `differ=`, or leave it out",
            )  # fmt: skip
        changed = tuple(differ) or side.differ
        kept: list[tuple[Values, Values]] = []
        for round_ in range(ROUNDS):
            at = FRESH + seed * ROUNDS * 2 + round_ * 2
            one, new = self.plant.draw(at, 2 * n), self.plant.draw(at + 1, 2 * n)
            other = {name: new[name] if name in changed else value for name, value in one.items()}
            rows = self.plant.apart(self.plant.solve(one), self.plant.solve(other)).nonzero().flatten()
            kept.append((rows_of(one, rows), rows_of(other, rows)))
            if sum(size(clean) for clean, _ in kept) >= n:
                break
        both = ({name: torch.cat([pair[i][name] for pair in kept])[:n] for name in kept[0][i]} for i in (0, 1))
        return next(both), next(both)

    def _side(self, tower: str) -> Side:
        if tower and tower not in self.sides:
            raise InputError(
                f"'{self.name}' is not shown by '{tower}'", expected="a tower that sees what differs",
                exists=", ".join(self.sides), do="name one of these",
            )  # fmt: skip
        return self.sides[tower] if tower else next(iter(self.sides.values()))


FRESH = 2**41  # seeds of pairs: of no training, and of no measure of the plant
