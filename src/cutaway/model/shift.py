"""Weights moved for the length of a block, and given back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import EditError, near
from cutaway.model.engine import Engine

Weights = Mapping[str, Float[Tensor, "..."]]


def weights(engine: Engine) -> dict[str, Tensor]:
    """Every parameter of a model by its name, in front of it that of its part in a pipeline; tied ones once."""
    found: dict[str, Tensor] = {}
    for root, module in engine.roots.items():
        front = f"{root}." if engine.pipeline is not None else ""
        found |= {f"{front}{name}": value for name, value in module.named_parameters()}
    return found


@contextmanager
def shifted(engine: Engine, change: Weights, scale: float = 1.0) -> Iterator[Any]:
    """W <- W + scale * change for the weights that are named, while the block runs; then the old ones again.

    The sum is taken in the finer dtype of the two, and then rounded to that of the weight.

    Raises EditError for weights that the model has not, or has in another shape.
    """
    own = weights(engine)
    for name, value in change.items():
        if name not in own or own[name].shape != value.shape:
            raise EditError(
                f"no weight '{name}' of shape {tuple(value.shape)} to change", expected="weights of this model",
                exists=near(name, own), do="take the difference of two models of one architecture",
            )  # fmt: skip
    before = {name: own[name].detach().clone() for name in change}
    try:
        with torch.no_grad():
            for name, value in change.items():
                own[name].copy_(torch.add(own[name], value.to(own[name].device), alpha=scale))
        yield engine.module
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)
