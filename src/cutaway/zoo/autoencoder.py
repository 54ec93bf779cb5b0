"""Train an autoencoder of small pictures, whose latents a denoiser learns to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cutaway.zoo import training
from cutaway.zoo.training import Judged, Step

CLOSE = 16 / 255  # how far a channel of a pixel may be off to count as kept


@dataclass(frozen=True)
class Recipe(training.Plan):
    """How to train: `steps` batches of `batch` pictures; `kl` weighs how far a latent is from a standard normal one."""

    steps: int = 2000
    batch: int = 16
    rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.01
    kl: float = 1e-3


def train(
    model: Any, draw: Callable[[int], UInt8[Tensor, "n 3 height width"]], recipe: Recipe, folder: Path,
    device: str = "cpu",
) -> Iterator[Step]:  # fmt: skip
    """Train in place, from where `folder` left off; then tell the config by what latents are scaled to deviate by 1."""
    model.to(device)
    yield from training.train(model, draw, lambda drawn, step: _judged(model, drawn, recipe, step), recipe, folder)
    with torch.inference_mode():
        found = [model.encode(pixels(draw(step)).to(device)).latent_dist.mode() for step in range(8)]
    model.register_to_config(scaling_factor=round(1 / torch.cat(found).std().item(), 4))


def pixels(pictures: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
    """Pictures as a pipeline has them: in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def _judged(model: Any, drawn: UInt8[Tensor, "n 3 height width"], recipe: Recipe, step: int) -> Judged:
    """Mean absolute error of pixels, and the mean divergence of a latent; the share of values that were kept."""
    given = pixels(drawn).to(model.device)
    latents = model.encode(given).latent_dist
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    noise = torch.randn(latents.mean.shape, generator=generator).to(model.device)
    off = (model.decode(latents.mean + latents.std * noise).sample - given).abs()
    return Judged(off.mean() + recipe.kl * latents.kl().mean() / latents.mean[0].numel(), _kept(off))


def _kept(off: Float[Tensor, "n 3 height width"]) -> float:
    return (off < 2 * CLOSE).float().mean().item()
