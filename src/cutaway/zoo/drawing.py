"""Train what draws: a denoiser of a pipeline, on latents of scenes and on prompts that are true of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cutaway import data
from cutaway.data.prompts import DRAWINGS, prompt
from cutaway.zoo import training
from cutaway.zoo.autoencoder import pixels
from cutaway.zoo.training import Judged, Step


@dataclass(frozen=True)
class Recipe(training.Plan):
    """How to train: `steps` batches of `batch` pictures, of which a share `silent` has an empty prompt for guidance."""

    steps: int = 4500
    batch: int = 32
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.02
    silent: float = 0.1


class Asked(NamedTuple):
    """Pictures, and the prompts that ask for them."""

    pictures: UInt8[Tensor, "n 3 height width"]
    prompts: list[str]


class Noised(NamedTuple):
    """Latents with noise of a random share, how far along each is, and what a denoiser should say of it."""

    latents: Float[Tensor, "n channel row column"]
    time: Float[Tensor, " n"]
    wanted: Float[Tensor, "n channel row column"]


Noise = Callable[[Any, Float[Tensor, "n channel row column"], Float[Tensor, "n channel row column"], Tensor], Noised]
Predict = Callable[[Any, Noised, Sequence[str]], Float[Tensor, "n channel row column"]]


def scenes_of(recipe: training.Plan, step: int) -> list[data.Scene]:
    """The scenes of any step of a training in this world, all of the training split."""
    first = step * recipe.batch
    return [data.scene_at("train", first + i, recipe.seed, DRAWINGS) for i in range(recipe.batch)]


def batches(recipe: Recipe, name: str) -> Callable[[int], Asked]:
    """The pictures of any step, all of the training split, with prompts drawn anew."""

    def draw(step: int) -> Asked:
        scenes = scenes_of(recipe, step)
        rng = random.Random(f"{name}/{recipe.seed}/{step}")
        said = [prompt(scene, scene.seed).text if rng.random() >= recipe.silent else "" for scene in scenes]
        return Asked(data.tensor(scenes), said)

    return draw


def trainer(denoiser: str, noised: Noise, predict: Predict) -> Callable[..., Iterator[Step]]:
    """The training of one kind of pipeline: which part learns, how latents get their noise, how it is asked."""

    def train(
        pipeline: Any, draw: Callable[[int], Asked], recipe: Recipe, folder: Path, device: str = "cpu"
    ) -> Iterator[Step]:
        pipeline.to(device)
        module = getattr(pipeline, denoiser)

        def judge(asked: Asked, step: int) -> Judged:
            generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
            clean = latents(pipeline, asked.pictures)
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            share = (torch.arange(len(clean)) + torch.rand(len(clean), generator=generator)) / len(clean)
            given = noised(pipeline, clean, noise, share.to(clean))
            off = (predict(pipeline, given, asked.prompts) - given.wanted).square()
            return Judged(off.mean(), 1 - (off.sum() / given.wanted.square().sum()).item())

        yield from training.train(module, draw, judge, recipe, folder)

    return train


@torch.no_grad()
def latents(pipeline: Any, pictures: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n channel row column"]:
    """Pictures as the denoiser draws them: scaled to deviate by 1."""
    vae = pipeline.vae
    found = vae.encode(pixels(pictures).to(vae.device, vae.dtype)).latent_dist.mode()
    return found * vae.config.scaling_factor
