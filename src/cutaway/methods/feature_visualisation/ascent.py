"""Pictures into a model with a gradient back to them, and the ascent: many of them at once, each for its own number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.data import Scene, render
from cutaway.errors import MethodError
from cutaway.methods.feature_visualisation.aims import activation
from cutaway.methods.feature_visualisation.paint import Dice, Free, Paint, Pictures, shaken
from cutaway.model.inputs import CHANNELS, Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import numbers

PIXELS = "pixel_values"
Aim = Callable[[Run], Tensor]


@dataclass(frozen=True, eq=False)
class Eye:
    """A model that is shown pictures in [0, 1] in the place of that of `inputs`, with a way back for gradients."""

    model: Model
    inputs: Inputs

    def __post_init__(self) -> None:
        if self.inputs.whole is None:
            raise MethodError(
                "no picture can be made for these inputs", expected="inputs with one whole picture",
                exists=", ".join(self.inputs.tensors), do="`model.inputs(image=…)`, with a text where the model asks",
            )  # fmt: skip

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the pixels."""
        height, width = self.inputs.tensors[PIXELS].shape[-2:]
        return int(height), int(width)

    def scale(self) -> tuple[Tensor, Tensor]:
        """What the processor takes from a picture in [0, 1], and what it divides by."""
        tool, like = self.model.engine.tools.images, self.inputs.tensors[PIXELS]
        mean, spread = (getattr(tool, name, None) or [0.5] * CHANNELS for name in ("image_mean", "image_std"))
        if not getattr(tool, "do_normalize", True):
            mean, spread = [0.0] * CHANNELS, [1.0] * CHANNELS
        most = 255 * getattr(tool, "rescale_factor", 1 / 255) if getattr(tool, "do_rescale", True) else 255
        return tuple(torch.tensor(one).to(like)[:, None, None] / most for one in (mean, spread))  # type: ignore[return-value]

    def seen(self, pictures: Iterable[Any]) -> Pictures:
        """Pictures of any kind in [0, 1], as the processor cuts them."""
        images = [render(one) if isinstance(one, Scene) else one for one in pictures]
        if not images:
            raise MethodError("no pictures to compare with", expected="two at least", do="give some (`pictures=`)")
        tool = self.model.engine.tools.need("images", self.model.module)
        made = torch.as_tensor(tool(images=images, return_tensors="pt")[PIXELS])
        mean, spread = (one.float().cpu() for one in self.scale())
        return (made.float() * spread + mean).clamp(0, 1)

    def run(self, pictures: Pictures, record: Sequence[str] = (), *, grad: bool = False, stop: bool = False) -> Run:
        """One run of so many rows, each with its picture and with the same text."""
        mean, spread = self.scale()
        given = self.inputs if len(pictures) == 1 else Inputs.stack([self.inputs] * len(pictures))
        pixels = (pictures.to(mean) - mean) / spread
        shown = replace(given, tensors={**given.tensors, PIXELS: pixels})
        return self.model.run(shown, record=list(record), grad=grad, stop=stop and bool(record))

    def numbers(self, pictures: Pictures, aim: Aim, *, batch: int = 32) -> Float[Tensor, "n unit"]:
        """The number of each picture; of an `activation` those of all of its units."""
        found = []
        for part in pictures.split(batch):
            if isinstance(aim, activation):
                found.append(aim.table(self.run(part, [aim.reads_at], stop=True)).detach().float().cpu())
            else:
                found.append(numbers(aim, self.run(part)).detach().float().cpu()[:, None])
        return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class Climb:
    """How pictures are made: so many steps of Adam, what the pictures are moved by, and looks at each a step."""

    steps: int = 128
    rate: float = 0.05
    jitter: float = 4.0
    zoom: float = 0.1
    noise: float = 0.05
    looks: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.looks) < 1 or min(self.rate, self.jitter, self.zoom, self.noise) < 0 or self.zoom >= 1:
            raise MethodError(
                f"no pictures are made by {self}", expected="steps and looks from 1, nothing below 0, zoom below 1"
            )


@dataclass(frozen=True, eq=False)
class Reached:
    """The pictures at the end, the number of each at every step, and how much each pixel was asked to move in all."""

    pictures: Pictures
    path: Float[Tensor, "step row"]
    mask: Float[Tensor, "row y x"]


def climb(
    eye: Eye, aim: Aim, paint: Paint, free: Free, how: Climb, dice: Dice, *, record: Sequence[str] = (),
    stop: bool = False, steps: Iterable[int] | None = None,
) -> Reached:  # fmt: skip
    """Adam on the free numbers, up the sum of the aims: rows do not see each other, so each goes its own way.

    `mask` is what MACO shows a picture through: the sum over steps of |d aim / d x|, the mean over colours.
    """
    opt, path = torch.optim.Adam(free, lr=how.rate), []
    mask: Tensor | None = None
    for _ in range(how.steps) if steps is None else steps:
        made = paint(free)
        views = made.repeat_interleave(how.looks, 0)
        views = shaken(views, dice, jitter=how.jitter, zoom=how.zoom, noise=how.noise)
        run = eye.run(views, record, grad=True, stop=stop)
        values = numbers(aim, run).unflatten(0, (-1, how.looks)).mean(1)
        if not values.requires_grad:
            raise MethodError(
                "what is to become large does not depend on the picture", expected="a number with a gradient to pixels",
                do="name a site or a target that the picture reaches",
            )  # fmt: skip
        slopes = torch.autograd.grad(-values.sum(), (*free, made), allow_unused=True, materialize_grads=True)
        for one, slope in zip(free, slopes, strict=False):
            one.grad = slope
        opt.step()
        moved = slopes[-1].detach().abs().mean(1)
        mask = moved if mask is None else mask + moved
        path.append(values.detach().float().cpu())
    assert mask is not None
    with torch.no_grad():
        return Reached(paint(free).detach(), torch.stack(path), mask)
