"""Train a CLIP from scratch on pictures and captions, told apart within each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cutaway.zoo import training
from cutaway.zoo.training import Judged, Step


@dataclass(frozen=True)
class Recipe(training.Plan):
    """How to train: `steps` batches of `batch` pairs.

    All but the last `whole` share of the steps see only a share `keep` of the patches (Li et al. 2022, 2212.00794).
    A share `contrast` of each batch are counterfactual pairs: pictures and captions that differ in one factor.
    """

    keep: float = 0.5
    whole: float = 0.15
    contrast: float = 0.4
    jitter: float = 0.15

    def keep_at(self, step: int) -> float:
        """The share of patches that this step sees."""
        return self.keep if step < self.steps * (1 - self.whole) else 1.0


class Pairs(NamedTuple):
    """Pictures and, row for row, the words that belong to them."""

    pictures: UInt8[Tensor, "batch 3 height width"]
    input_ids: Int[Tensor, "batch token"]
    attention_mask: Int[Tensor, "batch token"]


def train(
    model: Any, draw: Callable[[int], Pairs], recipe: Recipe, folder: Path, device: str = "cpu"
) -> Iterator[Step]:
    """Train in place, from where `folder` left off; see `training.train`."""
    model.to(device)

    def judge(pairs: Pairs, step: int) -> Judged:
        logits = _logits(model, Pairs(*(part.to(device) for part in pairs)), recipe, step)
        own = torch.arange(len(logits), device=logits.device)
        return Judged(contrastive_loss(logits), (logits.argmax(1) == own).float().mean().item())

    return training.train(model, draw, judge, recipe, folder, lambda: model.logit_scale.clamp_(max=math.log(100)))


def contrastive_loss(logits: Float[Tensor, "pair pair"]) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of the pairs on the diagonal, (CE(rows) + CE(columns)) / 2. Radford et al. 2021."""
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def _logits(model: Any, pairs: Pairs, recipe: Recipe, step: int) -> Float[Tensor, "image text"]:
    """Scaled cosines of jittered pictures, with some patches left out, and their texts."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    pixels = jittered(pairs.pictures.float() / 127.5 - 1, recipe.jitter, generator)
    vision = model.vision_model
    hidden = dropped(vision.embeddings(pixels), recipe.keep_at(step), generator)
    hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(hidden)).last_hidden_state
    images = model.visual_projection(vision.post_layernorm(hidden[:, 0]))
    texts = model.get_text_features(input_ids=pairs.input_ids, attention_mask=pairs.attention_mask).pooler_output
    return model.logit_scale.exp() * normalize(images, dim=-1) @ normalize(texts, dim=-1).T


def jittered(
    pixels: Float[Tensor, "batch 3 height width"], strength: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Each picture with its own contrast, brightness and grain."""
    gain, shift = (2 * torch.rand(2, len(pixels), 1, 1, 1, generator=generator) - 1).to(pixels.device) * strength
    grain = torch.randn(pixels.shape, generator=generator).to(pixels.device)
    return (1 + gain) * pixels + shift + 0.2 * strength * grain


def dropped(
    hidden: Float[Tensor, "batch token width"], keep: float, generator: torch.Generator
) -> Float[Tensor, "batch kept width"]:
    """The class token and, for each picture, a random share `keep` of the patches."""
    if keep >= 1:
        return hidden
    batch, tokens, width = hidden.shape
    order = torch.rand(batch, tokens - 1, generator=generator).argsort(1)[:, : round(keep * (tokens - 1))] + 1
    kept = torch.cat([torch.zeros(batch, 1, dtype=order.dtype), order], 1).to(hidden.device)
    return hidden.gather(1, kept[..., None].expand(-1, -1, width))
