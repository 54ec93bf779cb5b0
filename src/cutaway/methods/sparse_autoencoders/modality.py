"""Which features belong to pictures, which to texts, and which to both; and which of the two bridge them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import normalize

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.by_item import Pool, by_item
from cutaway.methods.sparse_autoencoders.seen import Rows
from cutaway.model.dictionary import Dictionary
from cutaway.store.stored import Store

SHARED, PICTURE, TEXT, NEITHER = "shared", "picture", "text", "neither"
WIDEST = 8192  # features of which all pairs are held


class Modality:
    """A reducer over pictures and their texts; see `modality`. Memory: a number for each pair of features."""

    def __init__(self) -> None:
        self._pairs = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, pictures: Float[Tensor, "pair width"], texts: Float[Tensor, "pair width"]) -> Modality:
        """Take in pairs: the features of each picture, and of its text."""
        if pictures.shape[1] > WIDEST:
            raise MethodError(
                f"{pictures.shape[1]} features have too many pairs", expected=f"at most {WIDEST}",
                do="give some of them: `features[:, chosen]`",
            )  # fmt: skip
        a, b = pictures.detach().double(), texts.detach().to(pictures.device).double()
        on = (a + b) > 0
        share = (a / (a + b).where(on, 1.0)).where(on, 0.0)
        return self._join(len(a), {"a": a.sum(0), "b": b.sum(0), "share": share.sum(0), "on": on.double().sum(0),
                                   "both": a.T @ b})  # fmt: skip

    def merge(self, other: Modality) -> Modality:
        """Take in what another one has seen, of other pairs."""
        return self._join(other._pairs, other._sums)

    @property
    def score(self) -> Float[Tensor, "width"]:
        """E_picture[z] / (E_picture[z] + E_text[z]); NaN of features that are never on."""
        a, b = self._seen("a"), self._seen("b")
        return a / (a + b)

    @property
    def dominance(self) -> Float[Tensor, "width"]:
        """The mean of z_picture / (z_picture + z_text) over pairs in which the feature is on; NaN where never."""
        return self._seen("share") / self._seen("on")

    def bridge(self, directions: Float[Tensor, "width d"]) -> Float[Tensor, "width width"]:
        """B_ij = E[z_i(picture) z_j(text)] cos(d_i, d_j); row i is a feature of the picture, column j of its text."""
        unit = normalize(directions.to(self._seen("both")), dim=-1)
        return self._seen("both") / self._pairs * (unit @ unit.T)

    def _join(self, pairs: int, sums: dict[str, Tensor]) -> Modality:
        self._pairs += pairs
        self._sums = {name: self._sums[name] + one if name in self._sums else one for name, one in sums.items()}
        return self

    def _seen(self, name: str) -> Tensor:
        if not self._sums:
            raise MethodError("no pair was seen", expected="one at least", do="check what the rows are read from")
        return self._sums[name]


def modality(
    dictionary: Dictionary, pictures: Rows, texts: Rows, *, pool: Pool = "max", batch: int = 4096, steps: int = 1
) -> Modality:
    """Whether features are of pictures, of texts, or of both, over pairs of a picture and its text.

    With z the features of an item (the largest or the mean over its rows): `score` E_P[z] / (E_P[z] + E_T[z]);
    `dominance` E[z_P / (z_P + z_T)] over pairs in which it is on; both from 0 (texts) to 1 (pictures). `bridge(D)`:
    B = E[z_P z_T'] * cos(D D'), which pairs of features are on together across a pair and point the same way. Item i of
    `pictures` belongs to item i of `texts`; of a store the rows of kind image, or text, are taken, so that a decoder's
    store stands for both. Units: shares; for B those of the features squared. MethodError where items do not pair up.

    Source: dominance: Yan et al. 2025, arXiv 2502.14888; score and bridge: Papadimitriou et al. 2025, arXiv 2504.11695.
    They take one vector an item; pooling is ours, and pairs in which a feature is off on both sides are left out.
    What it can NOT tell: what a feature means. Features of both scores lean to the side whose rows are longer or more:
    a maximum over 64 patches is larger than one over 4 words. A dictionary of random directions has features of all
    classes by that alone, so hold it against one.

    >>> from cutaway.methods.sparse_autoencoders.baselines import Directions
    >>> axes = Directions("vision.joint", torch.eye(3), torch.zeros(3))
    >>> found = modality(axes, torch.tensor([[2.0, 0.0, 1.0]] * 2), torch.tensor([[0.0, 1.0, 1.0]] * 2))
    >>> found.score.tolist(), modality_classes(found.score).tolist()
    ([1.0, 0.0, 0.5], ['picture', 'text', 'shared'])
    """
    found = Modality()
    sides = [
        by_item(dictionary, rows, pool=pool, batch=batch, steps=steps, **_where(rows, kind))
        for rows, kind in ((pictures, "image"), (texts, "text"))
    ]
    for a, b in _paired(*sides):
        found.add(a, b)
    return found


def modality_classes(scores: Float[Tensor, "width"], *, spread: bool = False) -> ndarray:
    """The class of each feature by its score: picture, text, shared, or neither where it has none.

    The nearest of 1, 0 and 1/2. With `spread` as Yan et al. have it: above the mean of all features by more than their
    standard deviation, below by more, or between; then some features are always of each class.
    """
    high, low = 0.75, 0.25
    known = scores[~scores.isnan()]
    if spread and len(known):
        mean, far = float(known.mean()), float(known.std(correction=0))
        high, low = mean + far, mean - far
    values = scores.cpu().numpy()
    return np.select([np.isnan(values), values > high, values < low], [NEITHER, PICTURE, TEXT], SHARED)


def _where(rows: Rows, kind: str) -> dict[str, Any]:
    return {"kind": kind} if isinstance(rows, Store) else {}


def _paired(
    left: Iterator[tuple[Tensor, Tensor]], right: Iterator[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features of the same items from two streams that are cut in different places."""
    held: list[tuple[Tensor, Tensor] | None] = [None, None]
    while True:
        for at, stream in enumerate((left, right)):
            held[at] = held[at] or next(stream, None)
        a, b = held
        if a is None or b is None:
            if a is not None or b is not None:
                raise MethodError("a picture has no text, or a text no picture", expected="one of each an item",
                                  do="give as many of one as of the other")  # fmt: skip
            return
        count = min(len(a[0]), len(b[0]))
        if not torch.equal(a[0][:count], b[0][:count]):
            raise MethodError("items of pictures and texts do not pair up", expected="the same numbers on both sides",
                              do="keep the items that have both")  # fmt: skip
        yield a[1][:count], b[1][:count]
        held = [(one[0][count:], one[1][count:]) if len(one[0]) > count else None for one in (a, b)]
