"""`zoo:emoji-vae`: between small pictures and the latents in which the package's denoisers draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from cutaway import data
from cutaway.data.prompts import DRAWINGS
from cutaway.zoo import emoji_judge
from cutaway.zoo.autoencoder import Recipe, pixels, train
from cutaway.zoo.drawing import scenes_of
from cutaway.zoo.evaluate import Row, row
from cutaway.zoo.judging import look
from cutaway.zoo.spec import Spec, Told

SIDE, LATENT, CHANNELS = 64, 16, 4
SPLITS: tuple[data.Split, ...] = ("test", "places", "pairs")
NEAR, BATCH = 0.04, 250


def untrained(seed: int = 0) -> Any:
    """Before training: a `diffusers.AutoencoderKL` of 0.65 million parameters, 4 × 16 × 16 latents a picture."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=(16, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=CHANNELS, norm_num_groups=8, sample_size=SIDE,
            mid_block_add_attention=False,
        ).eval()  # fmt: skip


def batches(recipe: Recipe) -> Callable[[int], UInt8[Tensor, "n 3 height width"]]:
    """The pictures of any step, all of the training split."""

    def draw(step: int) -> UInt8[Tensor, "n 3 height width"]:
        return data.tensor(scenes_of(recipe, step))

    return draw


@torch.inference_mode()
def evaluate(module: Any, n: int, told: Told) -> list[Row]:
    """How many pictures come back close to themselves, and what the judge sees in those that came back."""
    rows = []
    for split in SPLITS:
        told(split)
        scenes = list(data.scenes(split, n, 0, DRAWINGS))
        given = pixels(data.tensor(scenes)).to(module.device)
        back = torch.cat([_again(module, some) for some in given.split(BATCH)])
        rows.append(
            row("comes back within 4 % of the range", split, (back - given).abs().mean((1, 2, 3)) < 2 * NEAR, 0)
        )
        rows += emoji_judge.compared(split, scenes, look(emoji_judge.judge(), back).scenes())
    return rows


@torch.inference_mode()
def _lost(module: Any, shipped: Any) -> float:
    """The largest change of a channel of a pixel of 100 test scenes, in [0, 1]."""
    given = pixels(data.tensor(list(data.scenes("test", 100, 0, DRAWINGS))))
    return (_again(module, given) - _again(shipped, given)).abs().max().item() / 2


def _again(module: Any, given: Any) -> Any:
    return module.decode(module.encode(given.to(module.dtype)).latent_dist.mode()).sample.float()


SPEC = Spec(
    "emoji-vae", "turns small pictures into latents and back",
    start=untrained, processor=lambda: None, recipe=Recipe, batches=batches, train=train,
    measure=lambda module, _, n, told: evaluate(module, n, told), lost=_lost,
    template=Path(__file__).with_suffix(".md"), asked="nothing",
)  # fmt: skip
