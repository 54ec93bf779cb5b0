"""Muon in float32: `torch.optim.Muon` orthogonalises in bfloat16, which many processors lack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised: W ← (1 - η λ) W - 0.2 η √max(rows, columns) NS(g + μ m), m ← μ m + g.

    For matrices, and for filters as matrices with a row for each channel that they give. The factor makes a step as
    large as one of AdamW, so rates carry over. Jordan et al. 2024 (Muon); the factor from Liu et al. 2025, 2502.16982.
    Matrices of one shape are orthogonalised together.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; there is no closure."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                held = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                held.mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad + group["momentum"] * held
                shapes.setdefault(ahead.flatten(1).shape, []).append((parameter, ahead.flatten(1)))
            for shape, members in shapes.items():
                turned = orthogonalised(torch.stack([ahead for _, ahead in members]))
                for (parameter, _), turn in zip(members, turned, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(turn.view_as(parameter), alpha=0.2 * group["lr"] * max(shape) ** 0.5)


def orthogonalised(matrices: Float[Tensor, "n row column"]) -> Float[Tensor, "n row column"]:
    """Each matrix with its singular values brought near 1 (to about 0.7 to 1.2), by five Newton-Schulz rounds."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
