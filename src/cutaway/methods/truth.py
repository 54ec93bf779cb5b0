"""How well a map of a word, or a score of a mention, fits what is known to be there: IoU, pointing game, AUROC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from cutaway.errors import MethodError

COVERED = 0.5  # share of a patch from which a thing is what it shows


def on_patches(
    mask: Bool[ndarray, "height width"] | Float[ndarray, "height width"], rows: int, cols: int
) -> Float[ndarray, "rows cols"]:
    """The share of each patch that a mask covers, for a picture that is a whole number of patches high and wide.

    >>> on_patches(np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool), 1, 2)
    array([[0.75, 0.  ]])
    """
    height, width = mask.shape
    if height % rows or width % cols:
        raise MethodError(
            f"a mask of {height} × {width} pixels on {rows} × {cols} patches", expected="a whole number of pixels each",
            do="bring the mask to the size that the model sees",
        )  # fmt: skip
    return np.asarray(mask, float).reshape(rows, height // rows, cols, width // cols).mean((1, 3))


@dataclass(frozen=True)
class Fit:
    """How maps (…, row, col) fit one true part: `iou` and `hit`, and the mean of the same for shuffled patches."""

    iou: Float[ndarray, "*maps"]
    hit: Float[ndarray, "*maps"]
    iou_shuffled: Float[ndarray, "*maps"]
    hit_shuffled: Float[ndarray, "*maps"]


def fit(
    maps: Float[ndarray, "*maps row col"], truth: Bool[ndarray, "row col"], *, shuffles: int = 16, seed: int = 0
) -> Fit:  # fmt: skip
    """How maps of a word fit the patches that show it, beside the same maps with their patches shuffled.

    `iou` = |M ∩ T| / |M ∪ T|, with M the patches above the middle between the least and the greatest of the map (so it
    does not change with the scale of the map); `hit` is 1 where the greatest lies in T (the pointing game, Zhang et al.
    2016, arXiv 1608.00507). A map that is the same everywhere marks nothing: IoU 0, and it points anywhere (the share
    of T). What it can NOT tell: whether the thing is what the map is about, or what lies near it.

    >>> made = fit(np.array([[3.0, 0.0], [2.0, 0.0]]), np.array([[True, False], [False, False]]))
    >>> float(made.iou), float(made.hit), float(made.hit_shuffled)
    (0.5, 1.0, 0.25)
    """
    flat, true = maps.reshape(*maps.shape[:-2], -1), truth.ravel()
    if not true.any() or np.isnan(flat).any():
        raise MethodError(
            "nothing to hold a map against" if not true.any() else "a map with holes",
            expected="a part that covers a patch, and a number at every patch", do="leave such words out",
        )  # fmt: skip
    draw = np.random.default_rng(seed)
    marked = flat > (flat.min(-1, keepdims=True) + flat.max(-1, keepdims=True)) / 2
    chance = [_iou(marked, draw.permutation(true)) for _ in range(shuffles)]
    top = flat == flat.max(-1, keepdims=True)
    hit = np.asarray((top & true).sum(-1) / top.sum(-1))
    return Fit(_iou(marked, true), hit, np.asarray(np.mean(chance, 0)), np.full_like(hit, true.mean()))


def _iou(marked: Bool[ndarray, "*maps patch"], true: Bool[ndarray, "patch"]) -> Float[ndarray, "*maps"]:
    return np.asarray((marked & true).sum(-1) / (marked | true).sum(-1))


@dataclass(frozen=True)
class Detector:
    """The area under the ROC curve of some scores, with 95 % intervals; `gain` over the scores of `than`."""

    auroc: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    gain: dict[str, tuple[float, float, float]]


def detector(
    scores: Mapping[str, Float[ndarray, "mention"]], real: Bool[ndarray, "mention"], group: Int[ndarray, "mention"],
    *, than: str, draws: int = 1000, seed: int = 0,
) -> Detector:  # fmt: skip
    """How often a real mention has a higher score than one that is not, by score, with intervals.

    0.5 is chance. Groups (the pictures) are resampled, not mentions: those of one picture go together. `gain` is the
    AUROC less that of the scores `than`, on the same resamplings: (gain, low, high).

    >>> made = detector({"a": np.array([3.0, 2.0, 1.0, 0.0])}, np.array([1, 0, 1, 0], bool), np.arange(4), than="a")
    >>> made.auroc["a"], made.gain["a"]
    (0.75, (0.0, 0.0, 0.0))
    """
    if real.all() or not real.any():
        raise MethodError(
            f"all {len(real)} mentions are {'real' if real.all() else 'of what is not there'}",
            expected="some of each", do="take more pictures",
        )  # fmt: skip
    dice = np.random.default_rng(seed)
    _, group = np.unique(group, return_inverse=True)
    counts = dice.multinomial(group.max() + 1, np.full(group.max() + 1, 1 / (group.max() + 1)), draws)
    weights = counts[:, group].astype(float)
    drawn = {name: auroc(values, real, weights) for name, values in scores.items()}
    whole = {name: float(auroc(values, real, np.ones((1, len(real))))[0]) for name, values in scores.items()}
    bounds = {name: np.nanquantile(values, (0.025, 0.975)) for name, values in drawn.items()}
    gains = {}
    for name, values in drawn.items():
        low, high = np.nanquantile(values - drawn[than], (0.025, 0.975))
        gains[name] = (whole[name] - whole[than], float(low), float(high))
    return Detector(
        whole, {name: float(b[0]) for name, b in bounds.items()}, {name: float(b[1]) for name, b in bounds.items()},
        gains,
    )  # fmt: skip


def auroc(
    scores: Float[ndarray, "n"], real: Bool[ndarray, "n"], weights: Float[ndarray, "draw n"]
) -> Float[ndarray, "draw"]:
    """The weighted share of pairs of a real and a false one in which the real one is higher, ties by half.

    As `sklearn.metrics.roc_auc_score` has it, for all draws at once; NaN where a draw has none of either.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # equal scores go together
    true, false = (np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (real, ~real))
    below = false.cumsum(1) - false / 2
    pairs = true.sum(1) * false.sum(1)
    return np.where(pairs > 0, (true * below).sum(1) / np.maximum(pairs, 1), np.nan)
