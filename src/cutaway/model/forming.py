"""The picture that a denoiser has in mind at each step: what a drawing would become if it ended there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.engine import Opened
from cutaway.model.inputs import Inputs
from cutaway.model.session import Reading
from cutaway.model.sites import Site


def clean_latent(
    scheduler: Any, step: int, latent: Float[Tensor, "*latent"], said: Float[Tensor, "*latent"]
) -> Float[Tensor, "*latent"]:
    """Latents without their noise, from those that a denoiser saw at a step and what it said of them.

    x₀ = x - σ v for flow matching; (x - √(1 - ᾱ) ε) / √ᾱ, or √ᾱ x - √(1 - ᾱ) v, or what it said, by the kind of its
    predictions; x is what the denoiser is given, which schedulers in σ have divided by √(1 + σ²) = 1 / √ᾱ.

    Raises InputError for a scheduler of which neither is known, or that asks twice a step.
    """
    kind = getattr(scheduler.config, "prediction_type", "")
    if getattr(scheduler, "order", 1) != 1:
        raise InputError(
            f"{type(scheduler).__name__} asks its denoiser more than once a step", expected="a scheduler of one call",
            do="draw with one of first order",
        )  # fmt: skip
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return latent - float(scheduler.sigmas[step]) * said
    if kind not in ("epsilon", "v_prediction", "sample") or not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"it is not known what {type(scheduler).__name__} makes of what a denoiser says",
            expected="flow matching, or predictions of epsilon, sample or v_prediction",
        )  # fmt: skip
    if kind == "sample":
        return said
    if hasattr(scheduler, "sigmas"):
        alpha = 1 / (1 + float(scheduler.sigmas[step]) ** 2)
    else:
        alpha = float(scheduler.alphas_cumprod[round(float(scheduler.timesteps[step]))])
    if kind == "v_prediction":
        return alpha**0.5 * latent - (1 - alpha) ** 0.5 * said
    return (latent - (1 - alpha) ** 0.5 * said) / alpha**0.5


def guided(said: Float[Tensor, "guidance *rest"], names: Sequence[str], scale: float) -> Float[Tensor, "*rest"]:
    """What a denoiser says with its prompt and without as one: u + scale (c - u)."""
    rows = dict(zip(names, said, strict=True))
    if "uncond" not in rows:
        return rows["cond"]
    return rows["uncond"] + scale * (rows["cond"] - rows["uncond"])


@torch.no_grad()
def pictured(model: Opened, inputs: Inputs, latents: Float[Tensor, "n *latent"]) -> UInt8[np.ndarray, "n y x channel"]:
    """Latents as the pipeline decodes them at the end of a drawing."""
    pipeline: Any = model.engine.pipeline
    vae = pipeline.vae
    if latents.dim() == 3:
        height, width = inputs.tensors["height"], inputs.tensors["width"]
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    latents = latents.to(vae.device, vae.dtype)
    latents = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0)
    with model.engine.taken():
        made = vae.decode(latents).sample
    return (pipeline.image_processor.postprocess(made, output_type="np") * 255).round().astype(np.uint8)


def decoded(model: Opened, latents: Float[Tensor, "n *latent"]) -> Float[Tensor, "n channel y x"]:
    """Latents as pictures in [0, 1], before they are cut to that range, with a gradient back to the latents.

    Raises InputError for a pipeline without an autoencoder, or whose latents are packed.
    """
    pipeline: Any = model.engine.pipeline
    vae = getattr(pipeline, "vae", None)
    if vae is None or latents.dim() != 4:
        raise InputError(
            f"latents of shape {tuple(latents.shape)} are not decoded here", expected="those of an autoencoder",
            do="open a pipeline such as Stable Diffusion",
        )  # fmt: skip
    given = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    with model.engine.taken():
        return vae.decode(given + (getattr(vae.config, "shift_factor", None) or 0)).sample / 2 + 0.5


class Forming:
    """What the first picture of a drawing would become if it ended at each of its steps, gathered as it is drawn."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.steps: dict[int, dict[str, tuple[tuple[str, ...], Tensor]]] = {}

    @staticmethod
    def sites(model: Opened) -> list[Site]:
        """What it is made of: what the denoiser sees, and what it says."""
        names = ("denoiser.latent", "denoiser.out")
        here = model.engine.sites
        return [here.one(name) for name in names] if all(name in here for name in names) else []

    def add(self, reading: Reading) -> None:
        """One reading of one of these sites."""
        value = reading.value[:, :1].detach().cpu().clone()
        self.steps.setdefault(reading.step, {})[reading.site.part] = (reading.guidance, value)

    def pictures(self, model: Opened) -> UInt8[np.ndarray, "step y x channel"] | None:
        """One a step; None where this pipeline or its scheduler does not say how, or draws from something else."""
        pipeline: Any = model.engine.pipeline
        if pipeline is None or not self.steps or not hasattr(pipeline, "vae"):
            return None
        scale = float(self.inputs.tensors.get("guidance_scale", 1.0))
        late = "strength" in self.inputs.tensors  # a drawing that begins with a picture runs the last times of the list
        before = len(pipeline.scheduler.timesteps) - len(self.steps) if late else 0
        made = []
        for step in sorted(self.steps):
            (names, seen), (_, said) = self.steps[step]["latent"], self.steps[step]["out"]
            if "cond" not in names or set(names) - {"cond", "uncond"} or seen.shape[2:] != said.shape[2:]:
                return None
            try:
                latent = seen[names.index("cond")]
                made.append(clean_latent(pipeline.scheduler, before + step, latent, guided(said, names, scale)))
            except InputError:
                return None
        return pictured(model, self.inputs, torch.cat(made))
