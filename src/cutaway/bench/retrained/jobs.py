"""What is trained of a world: everything that its numbers rest on, each with what it keeps and its seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.bench.retrained.items import Planted

SUBSETS, SHARE, ALONE, TWICE = 64, 0.5, 16, 32  # the last: of the subsets, with another seed too
SEED, AGAIN = 0, 1  # of the trainings, and of those that say how far a seed matters
ENOUGH = 50  # of the subsets, before anything else is done
_HALVED = 7_919  # of the subsets: the seed of no training, whose batches would be halves of the same order
MARKS = (0.25, 0.5, 0.75)  # of the training of all items: where weights are kept on the way


@dataclass(frozen=True, eq=False)
class Job:
    """One training: `kind` is what for, `index` which of its kind."""

    kind: str
    index: int
    kept: Bool[Tensor, "item"]
    seed: int

    @property
    def name(self) -> str:
        """A name that no other has."""
        return f"{self.kind}-{self.index:03d}"


def halves(items: int) -> Bool[Tensor, "subset item"]:
    """The subsets: random halves, every item as likely as any other."""
    dice = torch.Generator().manual_seed(_HALVED)
    orders = torch.stack([torch.randperm(items, generator=dice) for _ in range(SUBSETS)])
    return orders.argsort(1) < round(SHARE * items)


def alone(planted: Planted) -> tuple[int, ...]:
    """The items that are left out alone: some of each kind of flaw, the rest without any."""
    truth, draw = planted.truth, random.Random("alone")
    copied = [group[0] for group in truth.duplicates]
    flawed = {*truth.wrong, *truth.cued, *(index for group in truth.duplicates for index in group)}
    plain = [index for index in range(len(planted.items)) if index not in flawed]
    wrong, cued = list(truth.wrong), sorted(set(truth.cued) - set(truth.wrong))
    each = ALONE // 4
    return tuple(index for some in (plain, wrong, cued, copied) for index in sorted(draw.sample(some, each)))


def jobs(planted: Planted) -> Iterator[Job]:
    """Everything, what is needed most first, so that a run that is stopped leaves something of each kind."""
    every = torch.ones(len(planted.items), dtype=torch.bool)

    def without(items: tuple[int, ...]) -> Tensor:
        return every.index_fill(0, torch.tensor(items), False)

    subsets = [Job("subset", index, kept, SEED) for index, kept in enumerate(halves(len(every)))]
    twice = [Job("again", one.index, one.kept, AGAIN) for one in subsets[:TWICE]]
    yield Job("full", 0, every, SEED)
    yield from subsets[:ENOUGH]
    yield Job("full", 1, every, AGAIN)
    yield Job("flaw", 0, without(planted.truth.wrong), SEED)
    yield Job("flaw", 1, without(planted.truth.cued), SEED)
    yield from twice[: TWICE // 2]
    yield from (Job("alone", index, without((item,)), SEED) for index, item in enumerate(alone(planted)))
    yield from subsets[ENOUGH:]
    yield from twice[TWICE // 2 :]
