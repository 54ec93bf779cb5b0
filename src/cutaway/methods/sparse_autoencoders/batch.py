"""A batch on its way through a step of training: what all parts of it are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.methods.sparse_autoencoders.reading import Rows, Tensors
from cutaway.methods.sparse_autoencoders.shape import Shape

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Price:
    """What a feature costs at this step, and the weight of the loss of dead features."""

    feature: float = 0.0
    dead: float = 0.0


@dataclass(frozen=True, eq=False)
class Batch:
    """Weights, rows, the target, u and what features cost; `lengths` are those of the decoder rows.

    `n`: how many rows the whole batch has, of which these may be some: losses are means over all.
    """

    w: Tensors
    shape: Shape
    rows: Rows
    y: Float[Tensor, "n d"]
    price: Price
    decoder: Float[Tensor, "m d"]
    lengths: Float[Tensor, "m"]
    u: Float[Tensor, "n m"] = field(repr=False)
    n: int


def norms(decoder: Float[Tensor, "m d"], parts: tuple[int, ...]) -> Float[Tensor, "m"]:
    """|d_j|, or Σ_l |d_j^l| of a crosscoder."""
    return torch.stack([part.norm(dim=1) for part in decoder.split(list(parts), 1)]).sum(0)
