"""One training of a retrained world: from the same start, through the same batches, without the items left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.bench.retrained.family import Family, Ready, learnt, rows_of
from cutaway.model.model import Model


def train(
    family: Family,
    ready: Ready,
    kept: Bool[Tensor, "item"],
    seed: int,
    start: Model,
    saw: Callable[[int, Model], None] = lambda step, model: None,
) -> Model:
    """Train `start` in place on the items kept; the same for the same (kept, seed).

    Batches are drawn from all items, and what is not kept is left out of them: an item that is kept is seen at the same
    steps, with the same noise, in every training. `saw` is told every step done.
    """
    recipe, module = family.recipe, family.learning(start)
    weights = list(learnt(module).values())
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0, fused=True)
    draws = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for step in range(recipe.steps):
        while len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(kept), generator=draws)])
        rows, order = order[: recipe.batch], order[recipe.batch :]
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(step)
        dice = torch.Generator().manual_seed(seed * 1_000_003 + step)
        here = {**rows_of(ready, rows[kept[rows]]), "slot": kept[rows].nonzero().flatten()}
        family.losses(start, here, dice).mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        saw(step + 1, start)
    return start
