"""What a retrained world is to its training: how its model begins, what of it learns, and what an item costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.data.worlds import Item
from cutaway.model.model import Model
from cutaway.questions.training import Items

Ready = Mapping[str, Tensor]  # what the learning part of a model is given of items, row by row


@dataclass(frozen=True)
class Recipe:
    """How a world trains: `steps` of AdamW without decay on `batch` of all items, those left out skipped.

    The rate grows over the first `warmup` steps, then falls linearly to a tenth.
    """

    steps: int
    batch: int
    rate: float
    warmup: int = 10

    def rate_at(self, step: int) -> float:
        """The rate of a step."""
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.rate * ((step + 1) / self.warmup if step < self.warmup else 1 - 0.9 * done)


class Family(ABC):
    """One architecture and its loss. The same for every subset: what differs is which items are kept."""

    name: ClassVar[str]
    recipe: ClassVar[Recipe]
    about: ClassVar[str]

    @abstractmethod
    def start(self, seed: int) -> Model:
        """The model before training, drawn by the seed; its frozen parts are those of a model of the package."""

    @abstractmethod
    def learning(self, model: Model) -> nn.Module:
        """The module whose parameters learn, those that ask for a gradient."""

    @abstractmethod
    def asked(self, items: Sequence[Item], among: Sequence[Item] = ()) -> Items:
        """Items as methods take them, each with its loss; `among` are the others that a pair is told from."""

    @abstractmethod
    def ready(self, model: Model, items: Sequence[Item]) -> Ready:
        """What the frozen parts make of items, once for all trainings, for `losses`."""

    @abstractmethod
    def losses(self, model: Model, ready: Ready, dice: torch.Generator) -> Float[Tensor, "item"]:
        """The loss of each item of a training batch; `dice` draws noise where there is noise."""

    @abstractmethod
    def known(self, model: Model, queries: Sequence[Item], reference: Sequence[Item]) -> Ready:
        """The same for `outcome`."""

    @abstractmethod
    def outcome(self, model: Model, known: Ready) -> Float[Tensor, "query"]:
        """How well the model does on each query; higher is better."""


def learnt(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by their names."""
    return {name: one for name, one in module.named_parameters() if one.requires_grad}


def rows_of(ready: Ready, rows: Tensor) -> Ready:
    """Some of the rows."""
    return {name: value[rows] for name, value in ready.items()}


def pictures(items: Sequence[Item], side: int) -> list[Any]:
    """Their scenes, drawn on a canvas of so many pixels a side."""
    from dataclasses import replace

    from cutaway.data import render

    return [render(replace(item.scene, canvas=(side, side))) for item in items]
