"""Train a LLaVA to answer: next tokens of answers alone, many questions to one picture in one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cutaway.zoo import training
from cutaway.zoo.conversations import Batch
from cutaway.zoo.training import Judged, Step
from cutaway.zoo.vocabulary import PAD, PICTURE

SHARP = 20.0  # of the softmax over cosines by which patches are named


@dataclass(frozen=True)
class Recipe(training.Plan):
    """How to train: `steps` batches of about `batch` conversations; the rate falls over the last `cool` steps alone.

    In the first `naming` steps there is no decoder: tower and connector learn that each patch of `pictures` scenes
    points at the name of its thing. Up to step `single` no conversation has more than one picture. Word vectors learn
    at `words` times the rate, the vision tower at `tower` times, three times that while it learns names.
    """

    steps: int = 3200
    batch: int = 20
    warmup: int = 25
    cool: int = 700
    words: float = 0.3
    tower: float = 0.1
    naming: int = 600
    single: int = 1000
    pictures: int = 64
    save_every: int = 25

    def rate_at(self, step: int) -> float:
        """Linear up to `rate`, once for names and once for conversations, level, and down to a hundredth of it."""
        since = step if self.names_at(step) else step - self.naming
        return self.rate * min((since + 1) / self.warmup, 1.0, 0.01 + 0.99 * (self.steps - step) / self.cool)

    def share_at(self, part: str, step: int) -> float:
        """Slower where something was known before; the tower is freer while it learns names."""
        if part == "tower":
            return self.tower * (3 if self.names_at(step) else 1)
        return self.words if part == "words" else 1.0

    def names_at(self, step: int) -> bool:
        """Whether that step teaches names to patches."""
        return step < self.naming


class Named(NamedTuple):
    """Pictures, and for each patch the word of what it shows, `PAD` where that is no one thing."""

    pictures: UInt8[Tensor, "picture 3 height width"]
    words: Int[Tensor, "picture patch"]


def train(
    model: Any, draw: Callable[[int], list[Batch] | Named], recipe: Recipe, folder: Path, device: str = "cpu"
) -> Iterator[Step]:
    """Train in place, from where `folder` left off; see `training.train`."""
    model.to(device)

    def judge(drawn: list[Batch] | Named, step: int) -> Judged:
        return _pointed(model, drawn) if isinstance(drawn, Named) else _judged(model, drawn)

    return training.train(model, draw, judge, recipe, folder)


def _judged(model: Any, batches: list[Batch]) -> Judged:
    """The mean loss of a token that is to be learnt, and how many of them were the likeliest."""
    found = [scored(model, batch) for batch in batches]
    logits, truth = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Judged(cross_entropy(logits, truth), (logits.argmax(1) == truth).float().mean().item())


def _pointed(model: Any, named: Named) -> Judged:
    """The loss of naming each patch by the direction that it has for the decoder, among all words."""
    table = normalize(model.get_input_embeddings().weight.detach(), dim=1)
    shown = named.words != PAD
    found = normalize(patches(model, named.pictures)[shown.to(model.device)], dim=1) @ table.T * SHARP
    truth = named.words[shown].to(model.device)
    return Judged(cross_entropy(found, truth), (found.argmax(1) == truth).float().mean().item())


def scored(model: Any, batch: Batch) -> tuple[Float[Tensor, "answer vocabulary"], Int[Tensor, " answer"]]:
    """Logits for every token of the answers, and the tokens: in row order, `</s>` of each answer included."""
    hidden = states(model, batch)
    learnt = batch.learnt[:, 1:].to(hidden.device)
    return model.lm_head(hidden[:, :-1][learnt]), batch.input_ids[:, 1:].to(hidden.device)[learnt]


def states(model: Any, batch: Batch) -> Float[Tensor, "row token width"]:
    """The last hidden states of every token, each seeing what `Batch.visible` lets it see."""
    inner, device = model.model, model.device
    words = batch.input_ids.to(device)
    embeds = inner.language_model.embed_tokens(words)
    if len(batch.pictures):
        embeds = embeds.masked_scatter((words == PICTURE)[..., None], patches(model, batch.pictures))
    lowest = torch.finfo(embeds.dtype).min
    mask = torch.zeros(batch.visible().shape, dtype=embeds.dtype).masked_fill(~batch.visible(), lowest)
    return inner.language_model(
        inputs_embeds=embeds, attention_mask=mask[:, None].to(device), position_ids=batch.position.to(device),
        use_cache=False,
    ).last_hidden_state  # fmt: skip


def patches(model: Any, pictures: UInt8[Tensor, "picture 3 height width"]) -> Float[Tensor, "picture patch d_model"]:
    """What the decoder sees of pictures."""
    pixels = (pictures.to(model.device).float() / 127.5 - 1).to(model.dtype)
    config = model.config
    found = model.model.get_image_features(
        pixels, vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    )  # fmt: skip
    return torch.stack(list(found.pooler_output))
