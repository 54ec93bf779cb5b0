"""What was drawn, as a number: the probability of what was asked for in the eyes of a judge; prompts that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import data
from cutaway.data import Claim, Scene
from cutaway.data.prompts import Part, changed, prompt, told_apart
from cutaway.errors import InputError, TargetError
from cutaway.model.drawing import drawn_size
from cutaway.model.run import Run
from cutaway.model.targets import Target, denoising_error, distance, outcome
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.evaluate_drawn import scenes_of
from cutaway.zoo.judging import SIDE, Seen, look


@dataclass(frozen=True)
class judged(Target):  # noqa: N801
    """The probability, in the eyes of `zoo:emoji-judge`, of what was asked for in what a pipeline drew.

    `claim` is one for all rows or a list, one a row: that a thing is there (the mean over the 12 cells of 16 × 16 that
    show it best), that it is there in its paint, or that a plain background is this one. The pictures are 64 × 64.

    >>> from cutaway.data import Has, Noun
    >>> judged(Has(Noun("fox"))).unit
    'probability'
    """

    claim: Claim | Sequence[Claim]

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The probability of each row."""
        seen = seen_in(run)
        pictures = len(seen.ground)
        claims = [*self.claim] if isinstance(self.claim, Sequence) else [self.claim] * pictures
        if len(claims) != pictures:
            raise TargetError(f"{len(claims)} claims of {pictures} pictures", expected="one, or one a picture")
        return torch.stack([seen.holds(claim)[at] for at, claim in enumerate(claims)])

    @property
    def unit(self) -> str:
        """A probability."""
        return "probability"


def seen_in(run: Run) -> Seen:
    """What the judge sees in what a pipeline drew; TargetError where that is no picture of 64 × 64."""
    if getattr(run.outputs, "images", None) is None:
        raise TargetError(
            "there is no picture to judge", expected="a run of a whole pipeline", exists=type(run.outputs).__name__,
            do="`model.inputs(prompt=…)` without `step=`; for one step see `denoising_error`",
        )  # fmt: skip
    pictures = outcome(run)
    pixels = pictures if isinstance(run.outputs.images, Tensor) else pictures.movedim(-1, 1)
    if pixels.shape[1:] != (3, SIDE, SIDE):
        raise TargetError(
            f"the judge does not see pictures of {tuple(pixels.shape[1:])}", expected=f"(3, {SIDE}, {SIDE})",
            do="give a number of your own: `distance(run)`, say",
        )  # fmt: skip
    with torch.no_grad():
        return look(judge(), pixels.float() * 2 - 1)


def number_of(model: Any, drawing: Any, other: Any = None) -> Target:
    """The number of a whole drawing: what its prompt asks for and the other's does not, as the judge sees it.

    Where it is not known what that is, or the pictures are not those that the judge knows: how far the picture lies
    from that of this prompt (mean squared difference), which draws it once. Of one step it is the denoising error, or
    without a picture the same difference of what the denoiser gives.
    """
    if not drawing.call.loops:
        known = drawing.call.truth is not None
        return denoising_error() if known else distance(outcome(model.run(drawing)))
    told = other is not None and "prompt" in drawing.tensors
    said = zip(drawing.tensors["prompt"], other.tensors["prompt"], strict=True) if told else ()
    claims = [told_apart(*both) for both in said]
    if claims and None not in claims and drawn_size(drawing) == (SIDE, SIDE):
        return judged([claim for claim in claims if claim is not None for _ in range(drawing.copies)])
    return distance(outcome(model.run(drawing, output="pt")))


def prompts_apart(
    part: Part, many: int, *, seed: int = 0, things: int = 1, each: int = 1
) -> tuple[list[str], list[str], judged]:
    """Prompts of held-out scenes, the same with one word changed, and the number that tells what is drawn apart.

    `part` is what differs: the first `thing` (by names of one word), its `paint` or the `background`. All say "a … on a
    … background" and agree word for word at all other positions. Each is given `each` times: in one batch these rows
    have noise of their own, and the two sides that of each row.

    >>> own, other, target = prompts_apart("background", 2)
    >>> own[0], other[0]
    ('a duck on a yellow background', 'a duck on a white background')
    """
    found = list(islice(_pairs(part, seed, things), many))
    texts = [[prompt(one, way="things", ground=True).text for one in both] for both in found]
    claims = [told_apart(*both) for both in texts]
    own, other = ([both[side] for both in texts for _ in range(each)] for side in (0, 1))
    return own, other, judged([claim for claim in claims if claim is not None for _ in range(each)])


def _pairs(part: Part, seed: int, things: int) -> Iterator[tuple[Scene, Scene]]:
    """Held-out scenes and what becomes of them, those that can be changed."""
    if part not in ("thing", "background", "paint"):
        raise InputError(f"prompts cannot differ in their {part}", expected="thing, background or paint")
    for scene in scenes_of("test", things, seed):
        first = scene.things[0]
        if (part != "paint" or first.tint) and " " not in data.Noun(first.concept).the.removeprefix("the "):
            yield scene, changed(scene, part, seed)
