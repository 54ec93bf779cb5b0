"""What relevance is worth: against true masks, things really taken away, what parts do together, and random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL.Image import Image
from torch import Tensor

from cutaway.data import Scene, masks, render
from cutaway.errors import MethodError
from cutaway.methods.relevance.leaves import Seen, seen
from cutaway.methods.relevance.relevance import Relevance
from cutaway.methods.relevance.removal import Player, removed
from cutaway.methods.truth import on_patches
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.shift import shifted, weights
from cutaway.model.targets import numbers
from cutaway.questions.question import Question

Map = Float[ndarray, "row col"]
MANY = 6  # things of a scene of which every selection is drawn


# --- against a mask ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Located:
    """How a map fits a true part: `iou` above its mean, `best` above any of its values, `hit`, `mass`; all 0 to 1."""

    iou: float
    best: float
    hit: float
    mass: float


def located(heat: Map, truth: Bool[ndarray, "row col"]) -> Located:
    """How the patches that a map has most of fit those that show a thing.

    `iou` = |M ∩ T| / |M ∪ T| for M the patches above the mean of the map; `best` the largest of all thresholds; `hit` 1
    where the greatest lies in T (pointing game, Zhang et al. 2016, arXiv 1608.00507); `mass` the share of what is above
    zero that lies in T (relevance mass, Arras et al. 2022, 2003.07258). A map that is the same everywhere marks nothing
    and points anywhere. MethodError for a truth without a patch and for a map with holes.

    >>> located(np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([[True, False], [False, False]]))
    Located(iou=1.0, best=1.0, hit=1.0, mass=0.75)
    """
    if not truth.any() or heat.shape != truth.shape or np.isnan(heat).any():
        raise MethodError(
            f"a map of {heat.shape} cannot be held against a part of {int(truth.sum())} patches of {truth.shape}",
            expected="one shape, a number at every patch, and a part that covers one",
            do="lay the mask on the map's patches (`on_patches`)",
        )  # fmt: skip
    flat, true = heat.ravel().astype(float), truth.ravel()
    order = np.argsort(-flat, kind="stable")
    inside = true[order].cumsum()
    ends = np.flatnonzero(np.append(np.diff(flat[order]) != 0, True))[:-1]  # equal values go together
    every = inside[ends] / (np.arange(1, len(flat) + 1)[ends] + true.sum() - inside[ends])
    marked = flat > flat.mean()
    top = flat == flat.max()
    above = flat.clip(min=0)
    iou = (marked & true).sum() / (marked | true).sum()
    mass = above[true].sum() / above.sum() if above.sum() > 0 else true.mean()
    return Located(float(iou), float(every.max(initial=0.0)), float((top & true).sum() / top.sum()), float(mass))


def by_chance(heat: Map, truth: Bool[ndarray, "row col"], *, draws: int = 16, seed: int = 0) -> Located:
    """The mean of the same for the map with its patches shuffled."""
    dice = np.random.default_rng(seed)
    found = [located(dice.permutation(heat.ravel()).reshape(heat.shape), truth) for _ in range(draws)]
    return Located(*(float(np.mean([getattr(one, name) for one in found])) for name in ("iou", "best", "hit", "mass")))


def covered(mask: Bool[ndarray, "height width"], like: Map) -> Bool[ndarray, "row col"]:
    """The patches of a map that a mask covers by a quarter at least; of a thing smaller than that the most covered."""
    share = on_patches(mask, *like.shape)
    return share >= min(0.25, float(share.max())) if share.max() > 0 else share > 0


def alike(one: Map, other: Map) -> float:
    """Spearman's rank correlation of two maps; 0 where one of them is the same everywhere.

    >>> alike(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[2.0, 4.0], [6.0, 9.0]]))
    1.0
    """
    from scipy.stats import rankdata

    ranks = [rankdata(each.ravel()) for each in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 12)


# --- things that are really gone --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Gone:
    """Of each thing of a scene: the relevance on it a patch (`density`), what the number loses without it (`effect`).

    `deletion`, `insertion`: the mean of the number while things go, or come into the empty scene, in the order of their
    relevance, less the same over all orders; `lowest` and `highest`, what the best orders for that come to.
    """

    density: Float[ndarray, "thing"]
    effect: Float[ndarray, "thing"]
    deletion: float
    insertion: float
    lowest: float
    highest: float


def without(scene: Scene, gone: Sequence[int]) -> Scene:
    """The same scene with some things not in it: what lay behind them is seen."""
    return replace(scene, things=tuple(one for at, one in enumerate(scene.things) if at not in gone))


def really_gone(question: Question, scene: Scene, heat: Map) -> Gone:
    """Whether things with more relevance are those whose absence changes the number more, drawn again without them.

    Of a question about the scene's picture. Units: those of the target. The renderer takes a thing away as if it had
    never been there, so no picture is off what the model was trained on; what it hid is seen.

    What it can NOT tell: anything of the parts of one thing, or of the background.
    """
    count = len(scene.things)
    if count > MANY:
        raise MethodError(
            f"a scene of {count} things has {2**count} pictures", expected=f"{MANY} at most",
            do="take scenes of fewer things",
        )  # fmt: skip
    density = np.array([heat[covered(mask, heat)].mean() if mask.any() else 0.0 for mask in masks(scene)])
    sets = [frozenset(one) for size in range(count + 1) for one in combinations(range(count), size)]
    known = dict(zip(sets, values(question, [render(without(scene, sorted(one))) for one in sets]), strict=True))
    whole = known[frozenset()]

    def path(order: Sequence[int]) -> float:
        return float(np.mean([known[frozenset(order[:at])] for at in range(count + 1)]))

    first = [int(one) for one in np.argsort(-density, kind="stable")]
    ways = [path(one) for one in permutations(range(count))]
    usual = float(np.mean(ways))
    return Gone(
        density, np.array([whole - known[frozenset([one])] for one in range(count)]), path(first) - usual,
        path(first[::-1]) - usual, min(ways) - usual, max(ways) - usual,
    )  # fmt: skip


def values(question: Question, pictures: Sequence[Image]) -> list[float]:
    """The number of a question with other pictures in the place of its own."""
    if question.target is None or question.kind not in ("match", "ask"):
        raise MethodError("no picture can be put into this question", expected="a match or something asked")
    if question.kind == "match":
        inputs = question.model.inputs(image=list(pictures), text=list(question.words))
    else:
        inputs = question.model.inputs(image=[[one] for one in pictures], text=[question.text] * len(pictures))
    return [float(one) for one in numbers(question.target, question.model.run(inputs)).detach()]


# --- what parts do together -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Synergy:
    """The Harsanyi dividend of what relevance calls most important in picture and words, beside parts by chance.

    `dividend` = v(V, T) - v(V) - v(T) + v(nothing); `random` the mean of the same for parts drawn by chance, as many;
    `whole` = v(all) - v(nothing), what there is to explain.
    """

    dividend: float
    random: float
    whole: float


def synergy(
    model: Model, inputs: Inputs, target: Callable[[Run], Tensor], found: Relevance, *, share: float = 0.25,
    draws: int = 8, seed: int = 0,
) -> Synergy:  # fmt: skip
    """F_syn: how much the picked patches V and words T do together that neither does alone, of one row of inputs.

    V is the `share` of patches with most relevance, T the same of words, one at least; v(S) is the number with all else
    put back to nothing (as `occlusion` does). Units: those of the target. Source: "Measuring Cross-Modal Synergy" 2026,
    arXiv 2605.22168. MethodError where relevance says nothing of a picture or of words.

    What it can NOT tell: whether the parts are where the thing is; and parts that only matter by themselves count 0.
    """
    at = seen(model, inputs, target)
    if (
        "picture" not in found.data
        or "word" not in found.data
        or at.leaf("picture") is None
        or at.leaf("words") is None
    ):
        raise MethodError(
            "there is nothing to do together", expected="relevance of patches and of words",
            do="take another method than `grad_cam`, on inputs with a picture and words",
        )  # fmt: skip
    sides = [_patches(at), _spoken(at)]
    heat = _scaled(found.map().values, at).ravel()
    scores = [heat, found["word"].values[0][: len(sides[1])]]
    counts = [max(1, round(share * len(one))) for one in sides]
    dice = np.random.default_rng(seed)
    picks = [[np.argsort(-one, kind="stable")[:count] for one, count in zip(scores, counts, strict=True)]]
    picks += [
        [dice.permutation(len(one))[:count] for one, count in zip(sides, counts, strict=True)] for _ in range(draws)
    ]
    every = [*sides[0], *sides[1]]
    gone: list[list[Player]] = [every, []]
    for seen_, said in picks:
        kept = [[sides[0][int(one)] for one in seen_], [sides[1][int(one)] for one in said]]
        for some in (kept[0] + kept[1], kept[0], kept[1]):
            here = {id(one) for one in some}
            gone.append([one for one in every if id(one) not in here])
    nothing, whole, *rest = (float(one[0]) for one in removed(at, target, gone))
    made = [both - left - right + nothing for both, left, right in zip(*[iter(rest)] * 3, strict=True)]
    return Synergy(made[0], float(np.mean(made[1:])) if draws else float("nan"), whole - nothing)


def _patches(at: Seen) -> list[Player]:
    from cutaway.methods.relevance.removal import players

    return [one for one in players(at, 1) if one.side == "picture"]


def _spoken(at: Seen) -> list[Player]:
    from cutaway.methods.relevance.removal import players

    return [one for one in players(at, 1) if one.side == "words"]


def _scaled(heat: Map, at: Seen) -> Map:
    """A map on the patches of the leaf."""
    leaf = at.leaf("picture")
    assert leaf is not None
    rows, cols = int(leaf.tokens.row.max()) + 1, int(leaf.tokens.col.max()) + 1
    if heat.shape == (rows, cols):
        return heat
    if rows % heat.shape[0] or cols % heat.shape[1]:
        raise MethodError(f"a map of {heat.shape} does not lie on {rows} × {cols} patches", expected="a whole number")
    return heat.repeat(rows // heat.shape[0], 0).repeat(cols // heat.shape[1], 1)


# --- random weights ---------------------------------------------------------------------------------------------------


@contextmanager
def randomised(model: Model, begin: float = 0.0, end: float = 1.0, *, seed: int = 0) -> Iterator[None]:
    """The model with the numbers of its weights shuffled, tensor by tensor, for the length of a block.

    Only those whose depth (0 embeddings, 1 behind the last layer) lies from `begin` to `end`: `(0.5, 1)` cascades from
    the top down to the middle, `(0.5, 0.6)` is one part by itself. A map that stays as it is explains nothing of the
    weights (Adebayo et al. 2018, arXiv 1810.03292).
    """
    dice = torch.Generator().manual_seed(seed)
    own = weights(model.engine)
    change = {}
    for name, depth in depths(own).items():
        if begin <= depth <= end:
            flat = own[name].detach().flatten()
            change[name] = (flat[torch.randperm(len(flat), generator=dice).to(flat.device)] - flat).view_as(own[name])
    with shifted(model.engine, change):
        yield


def depths(names: Sequence[str] | dict[str, Tensor]) -> dict[str, float]:
    """How deep each weight lies within its tower, from its name: its layer's number over how many there are.

    >>> depths(["v.embeddings.w", "v.layers.0.w", "v.layers.1.w", "v.norm.w"])
    {'v.embeddings.w': 0.0, 'v.layers.0.w': 0.25, 'v.layers.1.w': 0.75, 'v.norm.w': 1.0}
    """
    found = {name: re.search(r"^(.*?)\.(\d+)\.", name) for name in names}
    counts: dict[str, int] = {}
    for one in found.values():
        if one:
            counts[one[1]] = max(counts.get(one[1], 0), int(one[2]) + 1)
    made = {}
    for name, one in found.items():
        made[name] = (int(one[2]) + 0.5) / counts[one[1]] if one else 0.0 if "embed" in name else 1.0
    return made
