"""`zoo:emoji-sd`: a Stable Diffusion that draws scenes of EmojiWorld."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.zoo import emoji_clip, emoji_vae
from cutaway.zoo.drawing import Noised, Recipe
from cutaway.zoo.evaluate_drawn import drawer


def untrained(seed: int = 0) -> Any:
    """Before training: a `StableDiffusionPipeline` with the words of `zoo:emoji-clip`, and a UNet drawn by `seed`."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel

    vae = AutoencoderKL.from_pretrained(emoji_vae.SPEC.found(), dtype=torch.float32)
    clip = CLIPModel.from_pretrained(emoji_clip.SPEC.found(), dtype=torch.float32)
    words = CLIPTextModel(clip.config.text_config)
    words.load_state_dict(clip.text_model.state_dict())
    down = ("CrossAttnDownBlock2D",) * 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=emoji_vae.LATENT, block_out_channels=(48, 96, 96), layers_per_block=1, down_block_types=down,
            up_block_types=("CrossAttnUpBlock2D",) * 3, attention_head_dim=4, norm_num_groups=16,
            cross_attention_dim=words.config.hidden_size,
        )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True,
        steps_offset=1,
        timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae.eval(), words.eval(), emoji_clip.tokenizer(), unet.eval(), scheduler, None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noised(pipeline: Any, clean: Tensor, noise: Tensor, share: Float[Tensor, " n"]) -> Noised:
    """Latents at a time of the schedule, and the velocity there, √ᾱ ε - √(1 - ᾱ) x. Salimans and Ho, 2202.00512."""
    scheduler = pipeline.scheduler
    time = (share * scheduler.config.num_train_timesteps).long()
    return Noised(scheduler.add_noise(clean, noise, time), time, scheduler.get_velocity(clean, noise, time))


def predict(pipeline: Any, given: Noised, prompts: Sequence[str]) -> Tensor:
    """What the UNet says of them when it is asked for these prompts."""
    with torch.no_grad():
        words = pipeline.encode_prompt(list(prompts), pipeline.unet.device, 1, False)[0]
    return pipeline.unet(given.latents, given.time, words).sample


SPEC = drawer(
    "emoji-sd", "a small Stable Diffusion that draws such scenes", "unet", untrained, noised, predict, Recipe,
    Path(__file__).with_suffix(".md"),
)  # fmt: skip
