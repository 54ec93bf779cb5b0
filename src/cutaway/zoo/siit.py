"""Strict interchange intervention training, of nodes and of edges.

Behaviour: the network says what the causal model says. Interchange: where nodes write what they write in another row,
it says what the causal model says with the variables of these nodes exchanged; nodes without a variable may be
exchanged at will. So for edges. Geiger et al. 2022 (IIT, 2112.00826); Gupta et al. 2024 (strict: 2407.14494), who
exchange nodes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.zoo import training
from cutaway.zoo.exchange import Exchange, Told
from cutaway.zoo.interchange import changes
from cutaway.zoo.planted import Plant, Values, size
from cutaway.zoo.training import Judged, Step


@dataclass(frozen=True)
class Recipe(training.Plan):
    """How to plant: `alone` steps of behaviour, then exchanges of nodes and of edges beside it, each with its weight.

    `still` weighs how far scores move where nothing that matters is exchanged (mean square). Nodes without a variable
    would fall silent, and be known by that: `busy` weighs by how much what they write differs less than `level` from
    row to row (root mean square).
    """

    steps: int = 2000
    batch: int = 128
    rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.1
    alone: int = 300
    nodes: float = 1.0
    edges: float = 1.0
    still: float = 0.2
    busy: float = 1.0
    level: float = 0.5
    save_every: int = 100


def batches(plant: Plant, recipe: Recipe) -> Callable[[int], Values]:
    """The values of any step."""
    return lambda step: plant.draw(recipe.seed * 1_000_003 + step, recipe.batch)


def train(
    module: Any, processor: Any, plant: Plant, draw: Callable[[int], Values], recipe: Recipe, folder: Path,
    device: str = "cpu", part: str = "",
) -> Iterator[Step]:  # fmt: skip
    """Train in place, of a pipeline one part, from where `folder` left off; see `training.train`."""
    module.to(device)
    lesson = Lesson(Model(module, processor, name=plant.name), plant, recipe)
    return training.train(getattr(module, part) if part else module, draw, lesson.judge, recipe, folder)


class Lesson:
    """One step: a batch, its rows exchanged with one another at random."""

    def __init__(self, model: Model, plant: Plant, recipe: Recipe) -> None:
        self.exchange, self.recipe = Exchange(model, plant), recipe

    def judge(self, values: Values, step: int) -> Judged:
        """The loss of a step; `hits` is the least of the shares that came out right."""
        recipe = self.recipe
        clean, plain = self.exchange.clean(values, grad=True)
        loss, hits = plain.verdict.loss.mean(), [plain.verdict.right]
        share = min(1.0, (step - recipe.alone) / max(recipe.alone, 1))
        if share > 0:
            for weight, exchanged in ((recipe.nodes, self.nodes), (recipe.edges, self.edges)):
                told = exchanged(clean, plain.expected)
                moved = (told.verdict.scores - plain.verdict.scores)[told.still].square().sum() / max(
                    1, int(told.still.sum()) * plain.verdict.scores.shape[1]
                )
                loss = loss + share * weight * (told.verdict.loss.mean() + recipe.still * moved)
                hits.append(told.verdict.right)
            loss = loss + share * recipe.busy * self.silent(clean, size(values))
        return Judged(loss, min(one.float().mean().item() for one in hits))

    def silent(self, clean: Run, rows: int) -> Float[Tensor, ""]:
        """By how much nodes without a variable write too much alike, mean square."""
        exchange = self.exchange
        idle = exchange.free & ~exchange.planted
        return (
            (self.recipe.level - changes(exchange.model, exchange.graph, clean, others(rows))[idle])
            .clamp(min=0)
            .square()
            .mean()
        )

    def nodes(self, clean: Run, solved: Values) -> Told:
        """Some nodes of each row, those with a variable from one row, the others from another."""
        rows, planted, free = size(solved), self.exchange.planted, self.exchange.free
        chosen = some(rows, planted & free) | some(rows, ~planted & free)
        return self.exchange.nodes(clean, solved, chosen, others(rows), others(rows), grad=True)

    def edges(self, clean: Run, solved: Values) -> Told:
        """Of each row, some edges that end at one point; in a quarter of the rows a true edge alone."""
        rows, graph, true = size(solved), self.exchange.graph, self.exchange.plant.edges
        at = torch.randint(len(graph.points), (rows,))
        single, which = torch.rand(rows) < 0.25, torch.randint(len(true), (rows,))
        chosen = some(rows, self.exchange.seen[at])
        heard = {
            point.name: some(rows, torch.ones(len(point.receivers), dtype=torch.bool)) & (at == index)[:, None]
            for index, point in enumerate(graph.points)
        }
        for told in (chosen, *heard.values()):
            told[single] = False
        for index, (source, receiver) in enumerate(true):
            here = (single & (which == index)).nonzero().flatten()
            point, place = graph.at[receiver]
            chosen[here, graph.number[source]] = True
            heard[point.name][here, place] = True
        return self.exchange.edges(clean, solved, chosen, others(rows), heard, grad=True)


def others(rows: int) -> Int[Tensor, " row"]:
    """For each row another one."""
    return (torch.arange(rows) + torch.randint(1, rows, ())) % rows


def some(rows: int, of: Bool[Tensor, "*row member"]) -> Bool[Tensor, "row member"]:
    """For each row none, one, half or all of the members, drawn each time."""
    of = of.expand(rows, -1)
    rank = torch.rand(of.shape).masked_fill(~of, 2.0).argsort(-1).argsort(-1)
    kind, count = torch.randint(4, (rows, 1)), of.sum(-1, keepdim=True)
    number = torch.where(kind == 3, count, torch.where(kind == 2, (count + 1) // 2, kind))
    return of & (rank < number)
