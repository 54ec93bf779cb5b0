"""How good scores of training items are: beside retrained models, items left out, wrong items, known sources."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import rankdata

from cutaway.errors import MethodError
from cutaway.methods.truth import auroc


def lds(
    scores: Float[ndarray, "query item"], kept: Bool[ndarray, "subset item"], outcome: Float[ndarray, "subset query"]
) -> Float[ndarray, "query"]:
    """The linear data-modelling score of each query: how well sums of scores order models trained on subsets.

    lds_q = Spearman over subsets j of (outcome_jq, sum over items i kept in j of scores_qi). `outcome` must grow with
    what a positive score says: where a score says how much an item lowers the loss of a query, give minus the loss.
    Units: a correlation, from -1 to 1; nan where outcomes or sums are all alike. Raises MethodError where shapes do not
    pair up or there are fewer than three subsets.
    Source: Park et al. 2023 (TRAK, arXiv 2303.14186, section 2). Ties have the mean of their ranks.
    What it can NOT tell: whether one item is needed. It is about sums over many items, of models that differ by their
    seed as well: two trainings on one subset bound how high it can be.

    >>> kept = np.array([[True, True, False], [True, False, True], [False, True, True]])
    >>> lds(np.array([[3.0, 1.0, 0.0]]), kept, np.array([[4.0], [3.0], [1.0]]))
    array([1.])
    """
    fits = kept.shape == (len(outcome), scores.shape[1]) and outcome.shape[1] == len(scores)
    if not fits or len(kept) < 3:
        raise MethodError(
            f"scores {scores.shape}, subsets {kept.shape} and outcomes {outcome.shape} give no correlation",
            expected="(query, item), (subset, item) and (subset, query), of three subsets at least",
            do="give the outcome of every subset for every query",
        )  # fmt: skip
    return _spearman(kept.astype(np.float64) @ scores.T.astype(np.float64), outcome.astype(np.float64))


def loo_correlation(
    scores: Float[ndarray, "query item"], change: Float[ndarray, "query item"]
) -> Float[ndarray, "query"]:
    """Pearson's correlation of the scores of each query with what leaving each item out does to it.

    `change`_qi is the number of query q with item i less the number without it. Units: a correlation; nan where either
    is constant. Raises MethodError where the shapes differ.
    What it can NOT tell: about items that matter together, and scale: scores twice too large correlate as well.

    >>> loo_correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.2, 0.3]])).round(6)
    array([1.])
    """
    if scores.shape != change.shape:
        raise MethodError(
            f"scores {scores.shape} and changes {change.shape} do not pair up", expected="one change for each score",
            do="leave out every item once",
        )  # fmt: skip
    return _pearson(scores.T.astype(np.float64), change.T.astype(np.float64))


def mislabel_auc(scores: Float[ndarray, "item"], wrong: Bool[ndarray, "item"]) -> float:
    """How well a number of each item tells the items that are wrong from the others: the area under the ROC curve.

    AUC = P(score of a wrong item > score of a right one), ties half. `scores` must be larger where an item is
    suspected: its influence on itself, or how little it fits. Units: a share, 0.5 by chance. Raises MethodError where
    all or none of the items are wrong.
    Source: Koh and Liang 2017 (arXiv 1703.04730, section 5.4) order items by self-influence.
    What it can NOT tell: why an item stands out; rare and correct items do as well.

    >>> mislabel_auc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False]))
    1.0
    """
    if scores.shape != wrong.shape or wrong.all() or not wrong.any():
        raise MethodError(
            f"{len(scores)} scores and {len(wrong)} items, {int(wrong.sum())} of them wrong, give no AUC",
            expected="a number for each item, and some of both kinds", do="say which items are wrong",
        )  # fmt: skip
    return float(auroc(scores.astype(np.float64), wrong, np.ones((1, len(wrong))))[0])


def retrieval(
    scores: Float[ndarray, "query item"], truth: Sequence[Collection[int]], *, k: int = 10
) -> dict[str, float]:
    """How early the items that are known to be the source of each query come among all items.

    `recall`: the share of the sources that is among the first k, divided by what can be there (at most k);
    `reciprocal_rank`: 1 / rank of the first source. Means over the queries that have one. Both with what an order by
    chance gives (`chance_recall`, `chance_reciprocal_rank`). Ties count for the worst order.
    Raises MethodError where no query has a source, or sources are no items.
    What it can NOT tell: whether the model used the sources; that they were there and look alike is enough.

    >>> found = retrieval(np.array([[0.1, 0.9, 0.5]]), [{1}], k=1)
    >>> found["recall"], found["reciprocal_rank"], round(found["chance_recall"], 2)
    (1.0, 1.0, 0.33)
    """
    items = scores.shape[1]
    sources = [sorted(set(one)) for one in truth]
    odd = [item for one in sources for item in one if not 0 <= item < items]
    if len(sources) != len(scores) or odd or not any(sources) or k < 1:
        named = f", with {odd[:3]}" if odd else ""
        raise MethodError(
            f"{len(sources)} sets of sources for {len(scores)} queries over {items} items{named}",
            expected="a set of item numbers for each query, one of them not empty, and k from 1 on",
            do="give the items that each query was made from",
        )  # fmt: skip
    made: dict[str, list[float]] = {
        "recall": [],
        "reciprocal_rank": [],
        "chance_recall": [],
        "chance_reciprocal_rank": [],
    }
    for row, known in zip(scores, sources, strict=True):
        if not known:
            continue
        ranks = items + 1 - rankdata(row, method="min")[known]
        top = min(k, items)
        made["recall"].append(float((ranks <= top).sum()) / min(len(known), top))
        made["reciprocal_rank"].append(1 / float(ranks.min()))
        made["chance_recall"].append(top * len(known) / items / min(len(known), top))
        made["chance_reciprocal_rank"].append(_first(items, len(known)))
    return {name: float(np.mean(values)) for name, values in made.items()}


def _first(items: int, sources: int) -> float:
    """The mean of 1 / rank of the first of some items in an order by chance."""
    total, left = 0.0, 1.0  # left: none of them before this rank
    for rank in range(1, items - sources + 2):
        here = left * sources / (items - rank + 1)
        total, left = total + here / rank, left - here
    return total


def _spearman(one: Float[ndarray, "n query"], other: Float[ndarray, "n query"]) -> Float[ndarray, "query"]:
    return _pearson(rankdata(one, axis=0), rankdata(other, axis=0))


def _pearson(one: Float[ndarray, "n query"], other: Float[ndarray, "n query"]) -> Float[ndarray, "query"]:
    """The correlation of each column with its column; nan where one is constant."""
    one, other = one - one.mean(0), other - other.mean(0)
    lengths = np.sqrt((one**2).sum(0) * (other**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, (one * other).sum(0) / lengths, np.nan)
