"""The drawing world: a Stable Diffusion whose UNet learns to draw small pictures of few things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.bench.retrained.family import Family, Ready, Recipe, pictures
from cutaway.bench.retrained.items import SIDE
from cutaway.data.worlds import Item
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.training import Drawings
from cutaway.zoo import emoji_clip, emoji_vae
from cutaway.zoo.emoji_sd import noised

CHANNELS, GROUPS, HEAD = (16, 32), 8, 8
STEPS = 8  # of the drawing at whose steps the denoiser is judged
JUDGED = (1, 3, 5, 7)  # these steps, with one noise each
BEHIND = SIDE * emoji_vae.LATENT // emoji_vae.SIDE  # a side of the latents


class Drawing(Family):
    """A `StableDiffusionPipeline`: autoencoder and words of the zoo, locked; the UNet learns."""

    name = "sd"
    about = "a Stable Diffusion with the locked autoencoder and words of the zoo, a UNet of two levels from scratch"
    recipe = Recipe(steps=60, batch=32, rate=8e-3)

    def start(self, seed: int) -> Model:
        """A pipeline whose UNet is drawn by the seed."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextModel

        clip = emoji_clip.SPEC.open()[0]
        words = CLIPTextModel(clip.config.text_config)
        words.load_state_dict(clip.text_model.state_dict())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(
                sample_size=BEHIND, block_out_channels=CHANNELS, layers_per_block=1, attention_head_dim=HEAD,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=GROUPS,
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=words.config.hidden_size,
            )  # fmt: skip
        scheduler = DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True,
            steps_offset=1, timestep_spacing="trailing", clip_sample=False,
        )  # fmt: skip
        pipeline = StableDiffusionPipeline(
            emoji_vae.SPEC.open()[0].eval(), words.eval(), emoji_clip.tokenizer(), unet.eval(), scheduler, None, None,
            requires_safety_checker=False,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        for locked in (pipeline.vae, pipeline.text_encoder):
            locked.requires_grad_(False)
        return load(pipeline)

    def learning(self, model: Model) -> nn.Module:
        """The UNet."""
        return _pipeline(model).unet

    def asked(self, items: Sequence[Item], among: Sequence[Item] = ()) -> Drawings:
        """Pictures with their captions as prompts, at the steps and with the noises that are judged."""
        said = [item.caption.text for item in items]
        return Drawings(pictures=pictures(items, SIDE), prompts=said, at=JUDGED, steps=STEPS)

    def ready(self, model: Model, items: Sequence[Item]) -> Ready:
        """Latents without noise, and what the locked encoder says of the captions."""
        pipeline = _pipeline(model)
        pixels = pipeline.image_processor.preprocess(pictures(items, SIDE), SIDE, SIDE)
        with torch.no_grad():
            clean = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
            said = pipeline.encode_prompt([item.caption.text for item in items], "cpu", 1, False)[0]
        return {"clean": clean, "said": said}

    def losses(self, model: Model, ready: Ready, dice: torch.Generator) -> Float[Tensor, "item"]:
        """Mean squared error of the velocity at a random time with random noise, drawn for the whole batch."""
        pipeline, clean, slot = _pipeline(model), ready["clean"], ready["slot"]
        batch = self.recipe.batch
        noise = torch.randn(batch, *clean.shape[1:], generator=dice)[slot]
        share = ((torch.arange(batch) + torch.rand(batch, generator=dice)) / batch)[slot]
        given = noised(pipeline, clean, noise, share)
        return _off(pipeline, given.latents, given.time, ready["said"], given.wanted)

    def known(self, model: Model, queries: Sequence[Item], reference: Sequence[Item]) -> Ready:
        """Every query at every step that is judged, all with one noise a step; no reference is needed."""
        ready, scheduler = self.ready(model, queries), _pipeline(model).scheduler
        clean, found = ready["clean"], list[dict[str, Tensor]]()
        scheduler.set_timesteps(STEPS)
        for draw, step in enumerate(JUDGED):
            noise = torch.randn(1, *clean.shape[1:], generator=torch.Generator().manual_seed(draw)).expand_as(clean)
            time = scheduler.timesteps[step].expand(len(clean))
            latents, truth = (made(clean, noise, time) for made in (scheduler.add_noise, scheduler.get_velocity))
            found.append({"latents": latents, "time": time, "said": ready["said"], "truth": truth})
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def outcome(self, model: Model, known: Ready) -> Float[Tensor, "query"]:
        """Minus the error of each query, the mean over the draws."""
        off = _off(_pipeline(model), known["latents"], known["time"], known["said"], known["truth"])
        return -off.unflatten(0, (len(JUDGED), -1)).mean(0)


def _pipeline(model: Model) -> Any:
    return model.engine.pipeline


def _off(pipeline: Any, latents: Tensor, time: Tensor, said: Tensor, truth: Tensor) -> Float[Tensor, "row"]:
    return (pipeline.unet(latents, time, said).sample - truth).flatten(1).square().mean(1)
