"""How well a concept describes a unit: the five similarities that pass two sanity checks, and these checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import xarray
from jaxtyping import Bool, Float
from numpy import ndarray

from cutaway.errors import MethodError

SOURCE = "Oikarinen, Yan, Weng 2025, arXiv 2506.05774"
Similarity = Callable[[ndarray, ndarray], ndarray]  # (item, unit) and (item, concept) give (unit, concept)


def pearson(units: Float[ndarray, "item unit"], concepts: Bool[ndarray, "item concept"]) -> Float[ndarray, "k c"]:
    """The correlation of activations with the concept's presence, from -1 to 1."""
    return cosine(units - units.mean(0), concepts - concepts.mean(0))


def cosine(
    units: Float[ndarray, "item unit"], concepts: Bool[ndarray, "item concept"] | Float[ndarray, "item concept"]
) -> Float[ndarray, "k c"]:
    """The cosine of the two vectors as they are."""
    one, other = (x / np.maximum(np.linalg.norm(x, axis=0), 1e-30) for x in (units, np.asarray(concepts, float)))
    return np.asarray(one.T @ other)


def auprc(units: Float[ndarray, "item unit"], concepts: Bool[ndarray, "item concept"]) -> Float[ndarray, "k c"]:
    """The area under precision over recall as the threshold falls (average precision); of equal values the mean."""
    made = np.zeros((units.shape[1], concepts.shape[1]))
    total = np.maximum(concepts.sum(0), 1)
    for at, values in enumerate(units.T):
        order = np.argsort(-values, kind="stable")
        ends = np.flatnonzero(np.diff(values[order], append=-np.inf))  # equal values come together
        found = concepts[order].cumsum(0)[ends]
        gained = np.diff(found, axis=0, prepend=0)
        made[at] = (gained * found / (ends + 1)[:, None]).sum(0) / total
    return made


def f1(
    units: Float[ndarray, "item unit"], concepts: Bool[ndarray, "item concept"], share: float = 0.05
) -> Float[ndarray, "k c"]:
    """2 |M and C| / (|M| + |C|), with M the items on which the unit is strongest, this share of all."""
    both, marked = _marked(units, concepts, share)
    return 2 * both / np.maximum(marked[:, None] + concepts.sum(0), 1)


def iou(
    units: Float[ndarray, "item unit"], concepts: Bool[ndarray, "item concept"], share: float = 0.05
) -> Float[ndarray, "k c"]:
    """|M and C| / |M or C|, with M as for `f1`."""
    both, marked = _marked(units, concepts, share)
    return both / np.maximum(marked[:, None] + concepts.sum(0) - both, 1)


SIMILARITIES: Mapping[str, Similarity] = {
    "pearson": pearson, "cosine": cosine, "auprc": auprc, "f1": f1, "iou": iou,
}  # fmt: skip


def similarities(
    units: Float[ndarray, "item unit"], concepts: Bool[ndarray, "item concept"], *, share: float = 0.05
) -> xarray.Dataset:
    """All five between every unit's activations over probe items and every concept's presence: (unit, concept).

    Only these of nineteen pass both checks below; recall, AUC and scores on top and random items do not. Source:
    Oikarinen, Yan and Weng 2025, arXiv 2506.05774; they choose the `share` of marked items for each measure by
    validation. What they can NOT tell: that the concept causes the activation, or what other words fit as well.

    >>> made = similarities(np.array([[3.0], [2.0], [0.0], [0.0]]), np.array([[1], [1], [0], [0]], bool), share=0.5)
    >>> {name: round(made[name].item(), 2) for name in made}
    {'pearson': 0.96, 'cosine': 0.98, 'auprc': 1.0, 'f1': 1.0, 'iou': 1.0}
    """
    if len(units) != len(concepts) or not 0 < share < 1:
        raise MethodError(
            f"{len(units)} items of units, {len(concepts)} of concepts, share {share}",
            expected="the same items, and a share between 0 and 1", do="take both from the same pictures",
        )  # fmt: skip
    values = np.asarray(units, float)
    made = {name: one(values, concepts) for name, one in SIMILARITIES.items() if name not in ("f1", "iou")}
    made |= {"f1": f1(values, concepts, share), "iou": iou(values, concepts, share)}
    return xarray.Dataset({name: (("unit", "concept"), one) for name, one in made.items()})


def missing_labels(measure: Similarity, concepts: Bool[ndarray, "item concept"], seed: int = 0) -> float:
    """The first check: the share of concepts whose score falls when half of the items that show them are not labelled.

    The unit is the concept itself, so a measure that sees what is missing falls for all.
    """
    return _falls(measure, concepts, concepts & ~_half(concepts, seed))


def extra_labels(measure: Similarity, concepts: Bool[ndarray, "item concept"], seed: int = 0) -> float:
    """The second check: the share of concepts whose score falls when as many items more are labelled by chance."""
    dice = np.random.default_rng(seed)
    more = concepts.copy()
    for column in more.T:
        free = np.flatnonzero(~column)
        column[dice.choice(free, min(len(free), int(column.sum())), replace=False)] = True
    return _falls(measure, concepts, more)


def _falls(measure: Similarity, concepts: ndarray, other: ndarray, least: float = 1e-3) -> float:
    units = concepts.astype(float)
    plain, changed = (np.diagonal(measure(units, labels)) for labels in (concepts, other))
    return float((plain - changed > least).mean())


def _half(concepts: ndarray, seed: int) -> Bool[ndarray, "item concept"]:
    """Half of the items that show each concept."""
    dice, made = np.random.default_rng(seed), np.zeros_like(concepts)
    for at, column in enumerate(concepts.T):
        here = np.flatnonzero(column)
        made[dice.choice(here, len(here) // 2, replace=False), at] = True
    return made


def _marked(units: ndarray, concepts: ndarray, share: float) -> tuple[ndarray, ndarray]:
    """How many marked items show each concept, and how many are marked of each unit."""
    threshold = np.quantile(units, 1 - share, axis=0)
    above = units > threshold
    marks = np.where(above.any(0), above, units >= threshold).astype(float)
    return marks.T @ concepts.astype(float), marks.sum(0)
