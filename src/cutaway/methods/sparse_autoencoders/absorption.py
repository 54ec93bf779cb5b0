"""Whether the feature of a kind of thing is off on some of its things, because a feature of those took it over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from cutaway.errors import MethodError
from cutaway.methods.linear_probing.probe_data import fit, split
from cutaway.model.dictionary import NOWHERE, At, Dictionary, decoder_rows

ALIGNED, SHARE = 0.025, 0.4  # cosine to the parent's direction, and share of what lies along it, of who took it over


@dataclass(frozen=True)
class Absorbed:
    """Of `rows` that show the parent: on how many its features are off (`missed`), and taken over (`absorbed`)."""

    rows: int
    missed: int
    absorbed: int

    @property
    def rate(self) -> float:
        """Absorbed rows / rows; NaN without rows."""
        return self.absorbed / self.rows if self.rows else float("nan")

    @property
    def missing(self) -> float:
        """Missed rows / rows; NaN without rows."""
        return self.missed / self.rows if self.rows else float("nan")

    def __add__(self, other: Absorbed) -> Absorbed:
        return Absorbed(self.rows + other.rows, self.missed + other.missed, self.absorbed + other.absorbed)


def absorbed(
    features: Float[Tensor, "row width"], directions: Float[Tensor, "width d"], parent: Float[Tensor, "d"],
    main: Int[Tensor, "k"], *, aligned: float = ALIGNED, share: float = SHARE,
) -> Absorbed:  # fmt: skip
    """On how many rows, which all show the parent, its own features are off and another one says it.

    Missed: none of the `main` features is on. Absorbed: missed, and the feature that adds most along the parent's
    direction w, argmax_j f_j <d_j, w>, points along it (cos > `aligned`) and adds at least `share` of all that is added
    along it, sum_j max(f_j <d_j, w>, 0). Units: rows.

    Source: Chanin et al. 2024, arXiv 2409.14507, who ablate features in the model to find who took over; the projection
    is that of SAEBench (arXiv 2503.09532), its thresholds too. What it can NOT tell: that it was the child's feature
    (compare rows with and without that child). A bad dictionary misses without absorbing: read `missing` beside it.

    >>> both = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # parent's, child's, another's
    >>> directions = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.7, 0.0], [0.0, 0.0, 1.0]])
    >>> absorbed(both, directions, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0]))
    Absorbed(rows=3, missed=2, absorbed=1)
    """
    along = directions @ normalize(parent.to(directions), dim=0)
    straight = along / directions.norm(dim=-1).clamp_min(torch.finfo(along.dtype).tiny)
    missed = (features[:, main] != 0).sum(1) == 0
    adds = (features[missed] * along).clamp_min(0)
    if not len(adds):
        return Absorbed(len(features), 0, 0)
    most, which = adds.max(1)
    total = adds.sum(1)
    taken = (straight[which] > aligned) & (most >= share * total) & (total > 0)
    return Absorbed(len(features), int(missed.sum()), int(taken.sum()))


def feature_absorption(
    dictionary: Dictionary, x: Float[Tensor, "item d"], parents: Any, children: Any, *, at: At = NOWHERE, k: int = 3,
    gain: float = 0.03, test: float = 0.5, least: int = 4, penalty: float = 1.0, seed: int = 0,
) -> Mapping[tuple[str, str], Absorbed]:  # fmt: skip
    """For each kind of thing and each of its things, on how many items the features of the kind are taken over.

    x is one state an item, `parents` the kind it shows (`scene_labels`: "group"), `children` the thing ("concept").
    On training items: w is the direction of a logistic probe of the kind; its `main` features are that whose mean is
    most above that of other kinds, and up to `k` as long as one more raises the F1 of a probe on them by more than
    `gain`. On held-out items: `absorbed`, child by child. Kinds of a single thing, and things with fewer than `least`
    held-out items, are left out. Units: items.

    Source: see `absorbed`; the choice of main features is Chanin et al.'s. Theirs is the first letter of a word, here
    the kind of a thing. What it can NOT tell: where every item has a child, nothing says how often a kind's feature is
    off for no reason; hold it against a random dictionary, whose features are off as often as it is sparse.
    """
    kinds, things = np.asarray(parents), np.asarray(children)
    if len(kinds) != len(x) or len(things) != len(x):
        raise MethodError(
            f"{len(x)} states, {len(kinds)} kinds and {len(things)} things", expected="one of each an item",
            do="label the items that the states are of",
        )  # fmt: skip
    with torch.no_grad():
        features = dictionary.encode(x, at)
    directions = decoder_rows(dictionary, at, like=x)
    train, held = split(things, test, seed)
    states, codes = x.detach().cpu().double().numpy(), features.detach().cpu().double().numpy()
    found = {}
    for kind in np.unique(kinds):
        inside = np.unique(things[kinds == kind])
        real = kinds[train] == kind
        if len(inside) < 2 or not 0 < real.sum() < len(real):
            continue
        probe = fit(states[train], real, penalty)
        w = torch.from_numpy(probe.weight[0] / probe.spread).to(x)
        main = torch.from_numpy(main_features(codes[train], real, k=k, gain=gain, penalty=penalty))
        for thing in inside:
            rows = held[(kinds[held] == kind) & (things[held] == thing)]
            if len(rows) >= least:
                found[str(kind), str(thing)] = absorbed(features[torch.from_numpy(rows)], directions, w, main)
    return found


def main_features(
    codes: Float[np.ndarray, "item width"], real: Bool[np.ndarray, "item"], *, k: int = 3, gain: float = 0.03,
    penalty: float = 1.0,
) -> Int[np.ndarray, "n"]:  # fmt: skip
    """The features that stand for a class: the first by difference of means, and more while F1 rises by `gain`."""
    from sklearn.metrics import f1_score

    more = codes[real].mean(0) - codes[~real].mean(0)  # what is on elsewhere tells the class too, but does not say it
    order, best = np.argsort(-more, kind="stable")[:k], -1.0
    for n in range(1, len(order) + 1):
        chosen = codes[:, order[:n]]
        score = float(f1_score(real, fit(chosen, real, penalty).predict(chosen)))
        if score <= best + gain:
            return order[: n - 1]
        best = score
    return order
