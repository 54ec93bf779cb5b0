"""Train and ask a judge: which thing, in which paint, each part of a small picture shows, and on what ground."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from cutaway import data
from cutaway.data.prompts import DRAWABLE
from cutaway.errors import InputError
from cutaway.zoo import training
from cutaway.zoo.contrastive import jittered
from cutaway.zoo.training import Judged, Step

SIDE, CELL = 64, 4  # pixels of a picture, and of a cell that is judged
NOTHING, PLAIN = "nothing", "unpainted"
THINGS, PAINTS, GROUNDS = (*DRAWABLE, NOTHING), (*data.TINTS, PLAIN), tuple(data.COLOURS)
GROUPS = {"thing": THINGS, "paint": PAINTS, "ground": GROUNDS}
SPLIT = [len(group) for group in GROUPS.values()]
LABELS = tuple(f"{kind}: {name}" for kind, names in GROUPS.items() for name in names)
CLEAREST = 12  # cells by which a thing is judged to be there: half of what the smallest covers
UNSAID = -100


@dataclass(frozen=True)
class Recipe(training.Plan):
    """How to train: `steps` batches of `batch` pictures, jittered; a share `soft` of them blurred."""

    steps: int = 1600
    batch: int = 48
    rate: float = 3e-3
    warmup: int = 100
    jitter: float = 0.15
    soft: float = 0.4


class Shown(NamedTuple):
    """Pictures, and what each cell shows; `UNSAID` where no one thing covers most of it."""

    pictures: UInt8[Tensor, "n 3 height width"]
    thing: Int[Tensor, "n row column"]
    paint: Int[Tensor, "n row column"]
    ground: Int[Tensor, "n"]


def shown(scenes: Sequence[data.Scene]) -> Shown:
    """Scenes as pictures, and the truth about their cells."""
    across = SIDE // CELL
    thing = torch.full((len(scenes), across, across), UNSAID)
    paint = torch.full_like(thing, UNSAID)
    for which, scene in enumerate(scenes):
        share, first = avg_pool2d(torch.from_numpy(data.coverage(scene)[:-1]), CELL).max(0)
        names = [len(DRAWABLE), *(DRAWABLE.index(one.concept) for one in scene.things)]
        paints = [UNSAID, *(PAINTS.index(one.tint or PLAIN) for one in scene.things)]
        clear = share > 0.5
        thing[which][clear] = torch.tensor(names)[first[clear]]
        paint[which][clear] = torch.tensor(paints)[first[clear]]
    ground = torch.tensor([GROUNDS.index(scene.background.colours[0]) for scene in scenes])
    return Shown(data.tensor(scenes), thing, paint, ground)


def train(
    model: Any, draw: Callable[[int], Shown], recipe: Recipe, folder: Path, device: str = "cpu"
) -> Iterator[Step]:
    """Train in place, from where `folder` left off; see `training.train`."""
    model.to(device)
    return training.train(model, draw, lambda drawn, step: _judged(model, drawn, recipe, step), recipe, folder)


def _judged(model: Any, drawn: Shown, recipe: Recipe, step: int) -> Judged:
    """Cross-entropy of things, paints and grounds in each cell; how many cells were told their thing."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    pixels = jittered(drawn.pictures.to(model.device).float() / 127.5 - 1, recipe.jitter, generator)
    blurred = torch.rand(len(pixels), generator=generator) < recipe.soft / 2
    coarse = torch.rand(len(pixels), generator=generator) < recipe.soft / 2
    pixels[blurred] = avg_pool2d(pixels[blurred], 3, 1, 1)
    pixels[coarse] = interpolate(avg_pool2d(pixels[coarse], 2), scale_factor=2, mode="bilinear")
    logits = logits_of(model, pixels)
    truth = [part.to(model.device) for part in drawn[1:]]
    ground = truth[2][:, None, None].expand(-1, *truth[0].shape[1:])
    seen = truth[0] != UNSAID
    things = seen & (truth[0] < len(DRAWABLE))
    by_cell = cross_entropy(logits[0], truth[0], ignore_index=UNSAID, reduction="none")
    losses = (  # cells of things and cells of nothing count the same, though these are many
        by_cell[things].mean(), by_cell[seen & ~things].mean(),
        cross_entropy(logits[1], truth[1], ignore_index=UNSAID), cross_entropy(logits[2], ground),
    )  # fmt: skip
    told = (logits[0].argmax(1) == truth[0])[things].float().mean().item()
    return Judged(torch.stack(losses).sum(), told)


def logits_of(model: Any, pixels: Float[Tensor, "n 3 height width"]) -> tuple[Tensor, ...]:
    """Logits of things, paints and grounds for each cell, each (n, class, row, column)."""
    return avg_pool2d(model(pixel_values=pixels).logits, CELL).split(SPLIT, dim=1)


@dataclass(frozen=True)
class Seen:
    """What a judge sees in n pictures: probabilities by cell, 16 × 16 cells a picture; of the ground one a picture."""

    thing: Float[Tensor, "n thing row column"]
    paint: Float[Tensor, "n paint row column"]
    ground: Float[Tensor, "n ground"]

    def there(self, concept: str) -> Float[Tensor, " n"]:
        """The probability that the thing is there: its mean over the `CLEAREST` cells that show it best."""
        return self.thing[:, DRAWABLE.index(concept)].flatten(1).topk(CLEAREST, dim=1).values.mean(1)

    def holds(self, claim: data.Claim) -> Float[Tensor, " n"]:
        """The probability of what is claimed: that a thing is there, in its paint if it has one, or of a background.

        Of a painted thing, thing times paint, the mean over the `CLEAREST` cells that show the thing best.
        """
        if isinstance(claim, data.On) and claim.kind == "plain":
            return self.ground[:, GROUNDS.index(claim.colours[0])]
        if not isinstance(claim, data.Has) or claim.noun.concept not in DRAWABLE:
            raise InputError(
                f"a judge gives no probability of '{claim}'", expected="a thing that is there, or a plain background",
                do="`Seen.scenes` says what is there: put the claim to these",
            )  # fmt: skip
        if claim.noun.tint is None:
            return self.there(claim.noun.concept)
        cells = self.thing[:, DRAWABLE.index(claim.noun.concept)].flatten(1).topk(CLEAREST, dim=1)
        paint = self.paint[:, PAINTS.index(claim.noun.tint)].flatten(1).gather(1, cells.indices)
        return (cells.values * paint).mean(1)

    def scenes(self) -> list[data.Scene]:
        """Each picture as a scene: everything that is there at 0.5 or more, where its cells lie, in their paint."""
        return [self._scene(which) for which in range(len(self.thing))]

    def mask(self, which: int, concept: str) -> Float[Tensor, "row column"]:
        """The cells of a picture that show the thing, as 0 and 1."""
        return (self.thing[which].argmax(0) == DRAWABLE.index(concept)).float()

    def _scene(self, which: int) -> data.Scene:
        found = self.thing[which, :-1].flatten(1).topk(CLEAREST, dim=1).values.mean(1)
        things = []
        for index in found.argsort(descending=True).tolist():
            cells = self.mask(which, DRAWABLE[index])
            if found[index] < 0.5 or not cells.any():
                break
            rows, columns = cells.nonzero(as_tuple=True)
            side = float(max(rows.max() - rows.min(), columns.max() - columns.min()) + 1) / len(cells)
            tint = PAINTS[int((self.paint[which] * cells).sum((1, 2)).argmax())]
            place = [(float(along.float().mean()) + 0.5) / len(cells) for along in (columns, rows)]
            things.append(
                data.Thing(DRAWABLE[index], "noto", (place[0], place[1]), side, tint=None if tint == PLAIN else tint)
            )
        ground = data.Background("plain", (GROUNDS[int(self.ground[which].argmax())],))
        return data.Scene((SIDE, SIDE), ground, tuple(things))


def look(model: Any, pixels: Float[Tensor, "n 3 height width"]) -> Seen:
    """What a judge sees in pictures in [-1, 1], differentiably."""
    thing, paint, ground = logits_of(model, pixels.to(model.device, model.dtype))
    return Seen(thing.softmax(1), paint.softmax(1), ground.mean((2, 3)).softmax(1))
