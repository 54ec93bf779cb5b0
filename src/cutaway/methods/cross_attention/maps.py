"""From a pattern of attention to maps of words: which positions are patches, which are words, how maps are laid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.spoken import Word, words
from cutaway.model.drawing import against
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.tokens import TokenMap


class Sides(NamedTuple):
    """Of a pattern: which queries are patches, in reading order, the shape of their grid, and what keys are.

    `whole`: all queries are patches.
    """

    own: Bool[Tensor, "query"]
    shape: tuple[int, int]
    said: TokenMap
    whole: bool = False


def looking(model: Model) -> list[Site]:
    """Where patches attend to words: cross-attention, or where there is none, the joint attention."""
    every = [site for site in model.sites if site.tower == "denoiser" and not site.dead]
    for part in ("cross.pattern", "attn.pattern"):
        found = [site for site in every if site.part == part]
        if found:
            return found
    raise MethodError(
        f"'{model.name}' has no denoiser that attends to words", expected="a pipeline that draws prompts",
        exists=f"a model of kind {model.family.kind}", do="see `cutaway methods` for what fits it",
    )  # fmt: skip


def read_by(model: Model, inputs: Inputs, guidance: str) -> Inputs:
    """The inputs with the words that a row of the guidance reads: the prompt's, or those that it is held against."""
    if guidance not in ("uncond", "image") or model.engine.pipeline is None:
        return inputs
    other = against(model.engine.pipeline, dict(model.towers), inputs)
    if not all((other.tokens["text"].kind == "text").any(1)):
        raise MethodError(
            f"the guidance row '{guidance}' reads no words: what the prompt is held against is empty",
            expected="a row that reads words", exists="cond, which reads the prompt",
            do="draw with `negative=`, or look at `cond`",
        )  # fmt: skip
    return other


def sides(inputs: Inputs, site: Site, pattern: Float[Tensor, "picture head query key"]) -> Sides:
    """What the axes of a pattern are; MethodError where that is not known."""
    patches = inputs.map_for(site, "query", pattern.shape[-2])
    said = inputs.map_for(site, "key", pattern.shape[-1])
    if not ((patches.row >= 0).any() and (said.kind == "text").any()):
        raise MethodError(
            f"it is not known which positions of '{site}' are patches and which are words",
            expected="a prompt with words, and a picture grid", do="make the inputs with `model.inputs(prompt=…)`",
        )  # fmt: skip
    own = torch.from_numpy(patches.row[0] >= 0)
    shape = int(patches.row.max()) + 1, int(patches.col.max()) + 1
    return Sides(own.to(pattern.device), shape, said, bool(own.all()))


def rows_of(said: TokenMap, pictures: int) -> list[list[Word]]:
    """The words of the prompt of each picture, those of one prompt next to one another."""
    return [words(said, row) for row in range(said.batch) for _ in range(pictures // said.batch)]


def folded(
    pattern: Float[Tensor, "picture head query key"], seen: Sides, weights: Float[Tensor, "picture word key"]
) -> Float[Tensor, "picture word head row col"]:
    """How much each patch attends to each word, whose keys the weights add up; differentiable."""
    return as_maps(to_words(pattern, seen, weights.mT), seen)


def to_words(
    pattern: Float[Tensor, "picture head query key"], seen: Sides, weights: Float[Tensor, "picture key word"]
) -> Float[Tensor, "picture head patch word"]:
    """The same, patches in their order."""
    own = pattern if seen.whole else pattern[:, :, seen.own]
    return own @ weights[:, None]


def as_maps(
    shares: Float[Tensor, "picture head patch word"], seen: Sides
) -> Float[Tensor, "picture word head row col"]:
    """What patches give to words, laid on their grid."""
    return shares.permute(0, 3, 1, 2).unflatten(-1, seen.shape)


def up(maps: Float[Tensor, "picture word head row col"], grid: tuple[int, int]) -> Tensor:
    """The same on a finer grid."""
    if tuple(maps.shape[-2:]) == tuple(grid):
        return maps
    return interpolate(maps.flatten(0, 1), tuple(grid), mode="bilinear").unflatten(0, maps.shape[:2])
