"""Descriptions made of several concepts: AND, OR and NOT by beam search, judged on pictures kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.truth import auroc

SOURCE = "Bykov et al. 2023, arXiv 2311.13594 (INVERT); Mu, Andreas 2020, arXiv 2006.14032"
Score = Literal["auc", "iou"]


@dataclass(frozen=True, eq=False)
class Formula:
    """A formula in words, how many concepts it has, and its score on the items it was found on and on others.

    `single`: the held score of the best single concept, chosen on the same items as the formula; `null`: of the formula
    that is found when the unit's items are shuffled. `items`: for which of all items it holds.
    """

    text: str
    length: int
    fitted: float
    held: float
    single: float
    null: float
    items: Bool[ndarray, "item"]


@dataclass(frozen=True, eq=False)
class _Part:
    text: str
    length: int
    items: Bool[ndarray, "item"]
    score: float


def composition(
    values: Float[ndarray, "item"], concepts: Bool[ndarray, "item concept"], labels: Sequence[str], *,
    score: Score = "iou", length: int = 3, beam: int = 8, share: float = 0.05,
    held: float | Bool[ndarray, "item"] = 0.5, sizes: tuple[float, float] = (0.01, 0.5), seed: int = 0,
) -> Formula:  # fmt: skip
    """The formula of up to `length` concepts that fits a unit's activations over items best.

    Begins with concepts and their NOTs and joins the `beam` best with a further one by AND or OR. `auc`:
    P(a(shows) > a(does not)), as INVERT has it; `iou`: with the `share` of items on which the unit is strongest. Only
    formulas that hold for a share of items within `sizes` count (INVERT: not too few to be trusted, at most half). A
    longer formula fits what it was found on better, always: so it is found on some items and judged on the `held` ones,
    a share of them by chance or those marked.
    AUC alone fails the sanity checks of descriptions (`similarities`): see the IoU beside it.
    What it can NOT tell: which of several formulas with nearly the same score is meant.

    >>> shows = np.array([[1, 0], [1, 1], [0, 1], [0, 0]] * 16, bool)
    >>> found = composition((shows[:, 0] & ~shows[:, 1]) * 1.0, shows, ["red", "dog"], share=0.25, beam=4)
    >>> found.text, found.held
    ('NOT dog AND red', 1.0)
    """
    if len(values) != len(concepts) or concepts.shape[1] != len(labels) or length < 1 or beam < 1:
        raise MethodError(
            f"{len(values)} items, {len(concepts)} of concepts, {len(labels)} labels for {concepts.shape[1]}",
            expected="the same items, and a label for each concept", do="take both from the same pictures",
        )  # fmt: skip
    dice = np.random.default_rng(seed)
    order = dice.permutation(len(values))
    apart = order[: max(1, round(held * len(values)))] if isinstance(held, float) else np.flatnonzero(held)
    fit = np.setdiff1d(order, apart)
    found, first = _searched(values, concepts, labels, fit, score, length, beam, share, sizes)
    shuffled = values[dice.permutation(len(values))]
    chance, _ = _searched(shuffled, concepts, labels, fit, score, length, beam, share, sizes)
    judged, single, null = (
        _score(one, part.items, apart, score, share)
        for one, part in ((values, found), (values, first), (shuffled, chance))
    )
    return Formula(found.text, found.length, found.score, judged, single, null, found.items)


def _searched(
    values: ndarray, concepts: ndarray, labels: Sequence[str], fit: ndarray, score: Score, length: int, beam: int,
    share: float, sizes: tuple[float, float],
) -> tuple[_Part, _Part]:  # fmt: skip
    """The best formula on some items, and the best of one concept."""

    def judged(text: str, size: int, items: ndarray) -> _Part | None:
        low, high = sizes
        return (_Part(text, size, items, _score(values, items, fit, score, share))
                if low <= items[fit].mean() <= high else None)  # fmt: skip

    singles = [(name, column) for name, column in zip(labels, concepts.T, strict=True)]
    singles += [(f"NOT {name}", ~column) for name, column in singles]
    best = _best([judged(name, 1, items) for name, items in singles], beam)
    if not best:
        raise MethodError(
            f"no concept holds for {sizes[0]:.0%} to {sizes[1]:.0%} of the items", expected="one at least",
            do="give more items, or wider `sizes`",
        )  # fmt: skip
    kept, first = best, best[0]
    for _ in range(1, length):
        longer = [
            judged(
                f"{f'({one.text})' if one.length > 1 else one.text} {word} {name}",
                one.length + 1,
                join(one.items, items),
            )
            for one in kept
            for name, items in singles
            if name not in one.text
            for word, join in (("AND", np.logical_and), ("OR", np.logical_or))
        ]
        kept = _best([*longer, *kept], beam)
    return kept[0], first


def _best(parts: Sequence[_Part | None], beam: int) -> list[_Part]:
    """The best, of equal ones the shortest."""
    there = [one for one in parts if one is not None and not np.isnan(one.score)]
    return sorted(there, key=lambda one: (-round(one.score, 9), one.length))[:beam]


def _score(values: ndarray, items: ndarray, on: ndarray, score: Score, share: float) -> float:
    """How well items that a formula holds for are those with high values."""
    given, shows = values[on], items[on]
    if score == "auc":
        return float(auroc(given, shows, np.ones((1, len(given))))[0])
    threshold = np.quantile(given, 1 - share)
    marks = given > threshold if (given > threshold).any() else given >= threshold
    return float((marks & shows).sum() / max((marks | shows).sum(), 1))
