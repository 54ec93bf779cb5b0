"""Layers whose queries, keys and values come from known projections: a short way, head by head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.model.model import Model
from cutaway.model.projections import Projections, projections
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.streams import Receiver, lead


@dataclass(frozen=True, eq=False)
class Projected:
    """A layer whose queries, keys and values come from known projections: a short way for slopes, head by head."""

    of: Projections
    read: Site
    time: int
    sites: tuple[str, ...]
    receivers: list[int]

    def part(self, receiver: Receiver) -> str:
        """Whether a receiver is queries, keys or values."""
        return receiver.site.part.rpartition(".")[2]

    def holds(self, run: Run) -> bool:
        """Whether the projections give in a run what their weights say, tried at a few positions."""
        entering = run[self.of.norm].flatten(0, -2)[:4]
        for part, out in self.of.outs.items():
            weight, bias, start = self.of.weights[part], self.of.biases[part], self.of.places[part]
            told = (entering @ weight.flatten(0, 1).T.to(entering) + bias.flatten().to(entering)).float()
            there = run[out].flatten(0, -2)[:4, start : start + told.shape[1]].float()
            if not torch.allclose(told, there, rtol=0.05, atol=max(0.01 * float(there.abs().max()), 1e-6)):
                return False
        return True

    def pulled(self, run: Run, slopes: Mapping[str, Tensor]) -> Float[Tensor, "receiver row token d_model"]:
        """Slopes at what is read, of slopes at what the projections give: by their weights, then through the norm."""
        parts = []
        for part, out in self.of.outs.items():
            weight, start = self.of.weights[part], self.of.places[part]
            slope = slopes[out][..., start : start + weight.shape[0] * weight.shape[1]]
            heads = slope.unflatten(-1, weight.shape[:2]).movedim(-2, 0)
            parts.append(torch.einsum("h...td,hdm->h...tm", heads, weight.to(heads)))
        found: Tensor = torch.autograd.grad(
            run[self.of.norm], run[self.read], torch.cat(parts), retain_graph=True, is_grads_batched=True
        )[0]
        return found.flatten(1, 1 + lead(self.read)) if lead(self.read) else found


def projected(model: Model, receivers: Sequence[Receiver]) -> Iterator[Projected]:
    """The layers of which the projections are known, each with its receivers in the order of these."""
    for read, time in dict.fromkeys(one.reads[0] for one in receivers if one.head is not None):
        found = None if model.towers[read.tower].packed else projections(model, read.tower, read.layer or 0)
        if found is None:
            continue
        sites = tuple(f"{read.tower}.{read.layer}.attn.{part}" for part in found.outs)
        ours = [i for name in sites for i, one in enumerate(receivers) if str(one.site) == name]
        yield Projected(found, read, time, sites, ours)
