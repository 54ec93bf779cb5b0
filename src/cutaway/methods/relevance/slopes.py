"""Relevance from slopes: the gradient, times the input, along a path, over noise, by the rules of AttnLRP; Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.relevance.leaves import Leaf, Seen, Side
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.rules import relevance_rules
from cutaway.model.run import Run
from cutaway.model.sites import Site

Aim = Callable[[Run], Tensor]
Scores = dict[Side, Tensor]


class one_row:  # noqa: N801, it is a target
    """The number of one row alone: of a model that matches, whose rows share their texts."""

    def __init__(self, target: Aim, row: int) -> None:
        self.target, self.row = target, row

    def __call__(self, run: Run) -> Tensor:
        """That row."""
        return self.target(run)[self.row : self.row + 1]


def aims(seen: Seen, target: Aim, rows: int) -> list[Aim]:
    """What is differentiated: each row by itself where rows share something, else all at once."""
    return [one_row(target, row) for row in range(rows)] if seen.coupled and rows > 1 else [target]


def gradient(seen: Seen, target: Aim) -> Scores:
    """|d m / d x| of each position."""
    _, slopes = seen.slopes(target)
    return {leaf.side: leaf.summed(slopes[leaf.side].double().pow(2)).sqrt() for leaf in seen.leaves}


def gradient_input(seen: Seen, target: Aim) -> Scores:
    """<x - b, d m / d x> of each position."""
    _, slopes = seen.slopes(target)
    return _times(seen, slopes)


def attn_lrp(seen: Seen, target: Aim, *, patterns: bool = True) -> Scores:
    """The same with the rules of AttnLRP in the place of the true slopes."""
    with relevance_rules(seen.model, patterns=patterns):
        _, slopes = seen.slopes(target)
    return _times(seen, slopes)


def integrated_gradients(seen: Seen, target: Aim, *, points: int = 32) -> Scores:
    """<x - b, mean slope between b and x>, all leaves on one way, at Gauss-Legendre points."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    total = {leaf.side: _nothing(leaf) for leaf in seen.leaves}
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        _, slopes = seen.slopes(target, between(seen, float(node)))
        for side, slope in slopes.items():
            total[side] += float(weight) * slope
    return _times(seen, total)


def smooth_gradient(seen: Seen, target: Aim, *, draws: int = 16, noise: float = 0.15, seed: int = 0) -> Scores:
    """|mean slope over inputs with noise|, its spread `noise` of how far apart a row's own numbers lie.

    Each row has the same dice, so that it gets what it would get alone.
    """
    total = {leaf.side: _nothing(leaf) for leaf in seen.leaves}
    groups = {leaf.side: _groups(seen, leaf) for leaf in seen.leaves}
    dices = {side: [torch.Generator().manual_seed(seed) for _ in some] for side, some in groups.items()}
    for _ in range(draws):
        values = {
            leaf.side: leaf.there + _noise(leaf, noise, groups[leaf.side], dices[leaf.side]) for leaf in seen.leaves
        }
        for side, slope in seen.slopes(target, values)[1].items():
            total[side] += slope / draws
    return {leaf.side: leaf.summed(total[leaf.side].double().pow(2)).sqrt() for leaf in seen.leaves}


def between(seen: Seen, share: float) -> Mapping[Side, Tensor]:
    """What leaves hold on the way from nothing to what is there, at the positions that are patches or words."""
    return {
        leaf.side: torch.where(
            leaf.spread(leaf.own, leaf.there), leaf.start + share * (leaf.there - leaf.start), leaf.there
        )
        for leaf in seen.leaves
    }  # fmt: skip


def _nothing(leaf: Leaf) -> Tensor:
    """A sum to begin with, in single precision at least."""
    return torch.zeros_like(leaf.there, dtype=torch.promote_types(leaf.there.dtype, torch.float32))


def _groups(seen: Seen, leaf: Leaf) -> list[Bool[Tensor, "row position"]]:
    """The positions of a leaf that belong to one row of the inputs, for each of them."""
    text = seen.inputs.tokens.get("text")
    if leaf.side == "picture" and text is not None and not leaf.given and (text.image >= 0).any():
        images = [seen.pictures(row) for row in range(text.batch)]
        return [torch.from_numpy(np.isin(leaf.tokens.image, some)) & leaf.own for some in images]
    rows = torch.arange(len(leaf.own))
    return [(rows == row)[:, None] & leaf.own for row in range(len(leaf.own))]


def _noise(
    leaf: Leaf, noise: float, groups: list[Bool[Tensor, "row position"]], dices: list[torch.Generator]
) -> Tensor:
    """Noise at the leaf's own positions, each group by its own dice and of its own spread."""
    folded = leaf.there.dim() == 4
    there = leaf.there.flatten(2).mT if folded else leaf.there
    made = torch.zeros_like(there)
    for mask, dice in zip(groups, dices, strict=True):
        own = there[mask.to(there.device)]
        if len(own):
            drawn = torch.randn(own.shape, generator=dice).to(own)
            made[mask.to(made.device)] = drawn * noise * (own.max() - own.min())
    return made.mT.unflatten(2, leaf.there.shape[2:]) if folded else made


def _times(seen: Seen, slopes: Mapping[Side, Tensor]) -> Scores:
    return {
        leaf.side: leaf.summed((leaf.there.double() - leaf.start.double()) * slopes[leaf.side].double())
        for leaf in seen.leaves
    }


# --- Grad-CAM ---------------------------------------------------------------------------------------------------------


def grad_cam(seen: Seen, target: Aim, *, site: str = "") -> tuple[Site, Tensor]:
    """ReLU(sum_k a_k A_k), a_k the mean over places of d m / d A_k, at a site with rows and columns.

    (row, position) or, of a site with places of its own, (row, height, width); of the picture alone.
    """
    at = seen.model.sites.one(site or usual(seen.model, seen.inputs))
    found = seen.model.gradients(seen.inputs, target, [at])
    slope, there = found[at].double(), found.activations[str(at)].double()
    lead = [name for name in at.axes if name in ("step", "guidance")]
    if any(slope.shape[at.axes.index(name)] != 1 for name in lead):
        raise MethodError(f"'{at}' ran more than once", expected="one step and one row of guidance")
    slope, there = (one.reshape(one.shape[len(lead) :]) for one in (slope, there))
    places = tuple(range(2, there.dim())) if "channel" in at.axes else (1,)
    if there.dim() < 3 or "batch" not in at.axes:
        raise MethodError(
            f"'{at}' has no places of a picture", expected="a site with positions or with rows and columns",
            do="`vision.3.resid_post`, `text.2.resid_post` or `denoiser.5.res.out` have",
        )  # fmt: skip
    weight = slope.mean(places, keepdim=True)
    if at.tower == "vision" and places == (1,):  # a packed tower has all pictures in one row
        image = torch.from_numpy(seen.inputs.map_for(at, "token", slope.shape[1]).image).to(slope.device)
        if len(image[0].unique()) > 2 or (len(image[0].unique()) > 1 and not (image[0] < 0).any()):
            weight = _of_each(slope, image)
    return at, (weight * there).sum(1 if "channel" in at.axes else -1).relu().cpu()


def _of_each(
    slope: Float[Tensor, "row position unit"], image: Int[Tensor, "row position"]
) -> Float[Tensor, "row position unit"]:
    """At each position the mean over those of the same picture."""
    weight = torch.zeros_like(slope)
    for one in image.unique().tolist():
        mask = (image == one)[..., None]
        weight = torch.where(mask, (slope * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1), weight)
    return weight


def usual(model: Model, inputs: Inputs) -> str:
    """The last site of the picture that every place still reaches the number from: a state, or a block of a UNet."""
    live = [site for site in model.sites if not site.dead]
    for tower, part in (("vision", "resid_pre"), ("denoiser", "res.out"), ("denoiser", "resid_pre")):
        found = [str(site) for site in live if site.tower == tower and site.part == part and tower in inputs.tokens]
        found = [name for name in found if ".text." not in name]
        if found:
            return found[-1]
    raise MethodError(
        f"'{model.name}' has no site of a picture", expected="a tower that looks or draws", do="name one as `site=`"
    )
