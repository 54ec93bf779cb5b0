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
    """How to train: `steps` batches of about `batch` conversations, in three parts; in each the rate falls at the end.

    In the first `naming` steps there is no decoder: tower and connector learn that each patch of `pictures` scenes
    points at the name of its thing. Up to step `single` no conversation has more than one picture. From step `again`
    on most scenes hold two or three things, what is asked first is where they are, and every batch has `named` scenes
    whose patches are named. From `places` to `rest` nothing but places is asked: what is where, told as a list, so that
    a place follows its name at once; then of single things; then of two. Over the last `cool` steps of each part, which
    `again` and `places` begin, the rate falls to a hundredth. Word vectors learn at `words` times the rate, the vision
    tower at `tower` times, three times that while patches are named.
    """

    steps: int = 7800
    batch: int = 20
    warmup: int = 25
    cool: int = 700
    words: float = 0.3
    tower: float = 0.1
    naming: int = 600
    single: int = 1000
    again: int = 3200
    places: int = 5800
    rest: int = 6750
    pictures: int = 64
    named: int = 24
    save_every: int = 25

    def rate_at(self, step: int) -> float:
        """Linear up to `rate` for names, for conversations and in each later part; level; down to a hundredth."""
        begin = max(start for start in (0, self.naming, self.again, self.places) if start <= step)
        end = min(one for one in (self.again, self.places, self.steps) if one > step)
        return self.rate * min((step - begin + 1) / self.warmup, 1.0, 0.01 + 0.99 * (end - step) / self.cool)

    def share_at(self, part: str, step: int) -> float:
        """Slower where something was known before; the tower is freer while patches are named."""
        if part == "tower":
            return self.tower * (3 if self.names_at(step) or step >= self.again else 1)
        return self.words if part == "words" else 1.0

    def names_at(self, step: int) -> bool:
        """Whether that step does nothing but teach names to patches."""
        return step < self.naming


class Named(NamedTuple):
    """Pictures, and for each patch the word of what it shows, `PAD` where that is no one thing."""

    pictures: UInt8[Tensor, "picture 3 height width"]
    words: Int[Tensor, "picture patch"]


def train(
    model: Any, draw: Callable[[int], list[Batch | Named]], recipe: Recipe, folder: Path, device: str = "cpu"
) -> Iterator[Step]:
    """Train in place, from where `folder` left off; see `training.train`."""
    model.to(device)

    return training.train(model, draw, lambda drawn, _: _judged(model, drawn), recipe, folder)


def _judged(model: Any, drawn: list[Batch | Named]) -> Judged:
    """The mean loss of a token that is to be learnt, and how many of them were the likeliest; naming adds its loss."""
    pointed = [_pointed(model, one) for one in drawn if isinstance(one, Named)]
    found = [scored(model, one) for one in drawn if isinstance(one, Batch)]
    if not found:
        return pointed[0]
    logits, truth = (torch.cat(parts) for parts in zip(*found, strict=True))
    loss = cross_entropy(logits, truth) + sum(one.loss for one in pointed)
    return Judged(loss, (logits.argmax(1) == truth).float().mean().item())


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
