"""A dictionary by hand for the tests: ReLU features, with a shift by kind of position and by step where it asks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.model.dictionary import NOWHERE, At
from cutaway.model.tokens import KINDS
from world import noise


@dataclass(frozen=True, eq=False)
class Toy:
    """f = relu(x W + b + shift[kind] + step), y = f V + c; `skip`: + x S."""

    site: str
    target: str
    d_in: int
    d_out: int
    width: int = 12
    asks: tuple[str, ...] = ()
    skip: bool = False
    dtype: torch.dtype = torch.float64
    of: str = ""

    def part(self, seed: int, *shape: int) -> Tensor:
        return (noise(*shape, seed=seed) / shape[0] ** 0.5).to(self.dtype)

    def check(self, model, *sites) -> None:
        if self.of and model.name != self.of:
            raise StoreError(f"this is a dictionary of {self.of}, not of {model.name}")

    def encode(self, x: Tensor, at: At = NOWHERE) -> Tensor:
        found = x.to(self.dtype) @ self.part(1, self.d_in, self.width) + 0.1
        if "kind" in self.asks:
            assert at.kind is not None and at.kind.shape == x.shape[:-1]
            found = found + self.part(4, len(KINDS), self.width)[at.kind]
        if "step" in self.asks:
            assert at.step is not None and at.step.shape == x.shape[:-1]
            found = found + 0.3 * at.step[..., None] / at.steps
        return found.relu()

    def decode(self, features: Tensor, x: Tensor, at: At = NOWHERE) -> Tensor:
        made = features.to(self.dtype) @ self.part(2, self.width, self.d_out)
        return made + x.to(self.dtype) @ self.part(3, self.d_in, self.d_out) if self.skip else made


def toy(model, site: str, target: str = "", **options) -> Toy:
    """A toy of one site, or from one to another."""
    here, there = model.sites.one(site), model.sites.one(target or site)
    return Toy(str(here), str(there), here.sizes[here.axes[-1]], there.sizes[there.axes[-1]], **options)
