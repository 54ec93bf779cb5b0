"""`zoo:emoji-mmdit`: a Stable Diffusion 3, of joint attention alone, that draws scenes of EmojiWorld."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.zoo import drawing, emoji_clip, emoji_vae
from cutaway.zoo.drawing import Noised
from cutaway.zoo.evaluate_drawn import drawer


@dataclass(frozen=True)
class Recipe(drawing.Recipe):
    """How to train: as all that draws, at a higher rate."""

    rate: float = 3e-3


def untrained(seed: int = 0) -> Any:
    """Before training: a `StableDiffusion3Pipeline` that reads with `zoo:emoji-clip`, its transformer drawn by `seed`.

    The pipeline wants two CLIPs: the same one stands in both places. There is no T5.
    """
    import diffusers

    vae = diffusers.AutoencoderKL.from_pretrained(emoji_vae.SPEC.found(), dtype=torch.float32, shift_factor=0.0)
    one, two = _words(), _words()
    width = one.config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=emoji_vae.LATENT, patch_size=2, in_channels=emoji_vae.CHANNELS, out_channels=emoji_vae.CHANNELS,
            num_layers=8, num_attention_heads=4, attention_head_dim=32, caption_projection_dim=128,
            joint_attention_dim=2 * width, pooled_projection_dim=2 * one.config.projection_dim,
            pos_embed_max_size=emoji_vae.LATENT // 2, qk_norm="rms_norm",
        )  # fmt: skip
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer.eval(), diffusers.FlowMatchEulerDiscreteScheduler(), vae.eval(), one, emoji_clip.tokenizer(), two,
        emoji_clip.tokenizer(), None, None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _words() -> Any:
    """The text model of `zoo:emoji-clip` with its projection."""
    from transformers import CLIPModel, CLIPTextModelWithProjection

    clip = CLIPModel.from_pretrained(emoji_clip.SPEC.found(), dtype=torch.float32)
    words = CLIPTextModelWithProjection(clip.config.text_config)
    words.text_model.load_state_dict(clip.text_model.state_dict())
    words.text_projection.load_state_dict(clip.text_projection.state_dict())
    return words.eval()


def noised(pipeline: Any, clean: Tensor, noise: Tensor, share: Float[Tensor, " n"]) -> Noised:
    """Latents on the line from a picture to noise, (1 - t) x + t ε, and the way along it, ε - x. Liu 2209.03003."""
    along = share[:, None, None, None]
    time = share * pipeline.scheduler.config.num_train_timesteps
    return Noised(clean.lerp(noise, along), time, noise - clean)


def predict(pipeline: Any, given: Noised, prompts: Sequence[str]) -> Tensor:
    """What the transformer says of them when it is asked for these prompts.

    As many empty positions stand in the place of T5 as chance has it, none in two of three steps and up to the 256 of
    the pipeline's default, so that a user can draw with any number of them.
    """
    chance = int(torch.randint(-18, 9, ()))
    empty = 2**chance if chance >= 0 else 0
    with torch.no_grad():
        words, _, pooled, _ = pipeline.encode_prompt(
            list(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=empty
        )
    return pipeline.transformer(
        hidden_states=given.latents, timestep=given.time, encoder_hidden_states=words, pooled_projections=pooled
    ).sample


SPEC = drawer(
    "emoji-mmdit", "a small Stable Diffusion 3 that draws such scenes", "transformer", untrained, noised, predict,
    Recipe, Path(__file__).with_suffix(".md"),
)  # fmt: skip
