"""What probes are made of: pooled states of many sites, splits, control labels, fits and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.tokens import KINDS, Where
from cutaway.model.weights import readout
from cutaway.questions.rows import Rows, ended, reads_words, recorded

Pool = Literal["pooled", "mean", "picture", "question", "last"]
SPANS = {"picture": "image", "question": "question", "last": "end"}  # of a prompt


@dataclass(frozen=True)
class Pooling:
    """Which positions of a tower stand for an item: the one it is read at, or the mean of a span of its positions.

    `places`: one position a row, counted along the row's own, in place of all that.
    """

    tower: str
    at: str
    places: tuple[int, ...] | None = None

    @classmethod
    def of(cls, model: Model, tower: str, pool: str | Sequence[int]) -> Pooling:
        """By a name of `Pool`, or one position a row; `pooled` needs a tower that is read at one position."""
        if not isinstance(pool, str):
            return cls(tower, "places", tuple(int(one) for one in pool))
        if pool not in get_args(Pool):
            raise MethodError(
                f"cannot pool by '{pool}'", expected="one of some ways to make one vector of many positions",
                exists="pooled (class, end or last token), mean (patches or words), picture, question and last "
                "(of a prompt)", do='`pool="pooled"` (`--pool pooled`)',
            )  # fmt: skip
        if pool in SPANS:
            return cls(tower, SPANS[pool])
        if pool == "mean":
            return cls(tower, "text" if reads_words(model, tower) else "image")
        end = readout(model, tower)
        if model.towers[tower].causal and end.space.endswith(".logits"):
            return cls(tower, "end")  # a decoder says its next word there
        at = ended(model, tower).at
        if at == "pool":
            raise MethodError(
                f"the '{tower}' tower of {model.name} is read at no one position: an attention head pools all",
                expected='`pool="mean"`: the mean over patches', do='pass pool="mean" (`--pool mean`)',
            )  # fmt: skip
        return cls(tower, "eos" if at == "highest" else at)  # the end token has the highest id

    @property
    def selector(self) -> Any:
        """The positions as an edit's `token=`."""
        if self.at in ("question", "places"):
            raise MethodError(
                "these positions differ from row to row", expected="positions that an edit can be told once",
                exists="pooled, mean, picture, last", do="choose one of these, or write the edits yourself",
            )  # fmt: skip
        return -1 if self.at in ("last", "end") else Where(self.at)

    def mask(self, inputs: Inputs, start: int = 0) -> Bool[Tensor, "batch token"]:
        """The positions of a batch; `start` is the number of its first row among all."""
        tokens = inputs.tokens[self.tower]
        if self.at == "last":
            return torch.arange(len(tokens)).eq(len(tokens) - 1).expand(tokens.batch, -1)
        if self.at not in ("end", "question", "places"):
            return tokens.where(self.at)
        own = torch.from_numpy(tokens.kind != "pad")
        number = own.cumsum(1)  # from 1, along the row's own
        if self.places is None:
            end = own & number.eq(number[:, -1:])
            return end if self.at == "end" else tokens.where("text") & ~end
        given = torch.tensor(self.places[start : start + tokens.batch])
        if len(given) < tokens.batch or (given >= number[:, -1]).any() or (given < 0).any():
            raise MethodError(
                f"{len(self.places)} positions do not fit row {start} and those behind it",
                expected="one position a row, from 0 to the row's length, not counting padding",
                do="give as many positions as rows, or a span by its name",
            )  # fmt: skip
        return own & number.eq(given[:, None] + 1)

    def __call__(
        self, state: Float[Tensor, "batch *axes"], site: Site, inputs: Inputs, start: int = 0
    ) -> Float[Tensor, "batch unit"]:
        """One vector an item; heads lie behind one another, a site without a token axis is taken as it is."""
        if {"query", "key"} & set(site.axes):
            raise MethodError(
                f"'{site}' holds pairs of positions", expected="a site with one vector a token",
                exists=", ".join(site.axes), do=f"take '{site.tower}.*.resid_post', or `attn.z` for heads",
            )  # fmt: skip
        if "token" in site.axes:
            mask = self.mask(inputs, start).to(state.device)
            weight = (mask / mask.sum(1, keepdim=True)).to(state.dtype)
            state = torch.einsum("bt...,bt->b...", state, weight)
        return state.flatten(1)


def states(
    model: Model, rows: Rows, sites: Sequence[Site], pooling: Pooling, *, edits: Any = (), batch: int = 32,
    progress: bool = True,
) -> dict[str, Float[ndarray, "item unit"]]:  # fmt: skip
    """The pooled state of every item at every site, in float64; of a store without a run."""
    parts = list(state_batches(model, rows, sites, pooling, edits=edits, batch=batch, progress=progress))
    return {str(site): np.concatenate([part[str(site)] for part in parts]) for site in sites}


def state_batches(
    model: Model, rows: Rows, sites: Sequence[Site], pooling: Pooling, *, edits: Any = (), batch: int = 32,
    progress: bool = True,
) -> Iterator[dict[str, Float[ndarray, "item unit"]]]:  # fmt: skip
    """The same for one batch after the other."""
    start = 0
    kind = pooling.at if pooling.at in KINDS else ""
    for run in recorded(model, rows, pooling.tower, sites, edits=edits, kind=kind, batch=batch, progress=progress):
        yield {str(site): pooling(run[site], site, run.inputs, start).cpu().double().numpy() for site in sites}
        start += run.inputs.tokens[pooling.tower].batch


def is_number(labels: ndarray) -> bool:
    """Whether labels are numbers to regress on (floats) rather than classes."""
    return bool(np.issubdtype(labels.dtype, np.floating))


def checked(labels: Any, items: int, name: str) -> ndarray:
    """Labels as an array, one an item, with at least two values."""
    given = np.asarray(labels)
    if given.shape != (items,) or len(np.unique(given)) < 2:
        raise MethodError(
            f"'{name}' has shape {given.shape} and {len(np.unique(given))} values",
            expected=f"one label for each of {items} items, and two values at least",
            do="give a list of labels as long as that of the rows",
        )
    return given


def split(labels: ndarray, test: float, seed: int) -> tuple[Int[ndarray, "train"], Int[ndarray, "test"]]:
    """Numbers of training and test items; classes keep their shares where each has enough items."""
    from sklearn.model_selection import train_test_split

    _, counts = np.unique(labels, return_counts=True)
    even = not is_number(labels) and counts.min() >= 2 and len(counts) <= test * len(labels)
    train, held = train_test_split(
        np.arange(len(labels)), test_size=test, random_state=seed, stratify=labels if even else None
    )
    return train, held


def shuffled_by_type(labels: ndarray, types: ndarray, seed: int) -> ndarray:
    """Control labels: each type gets one label, permuted among the types, so that only the type predicts it.

    A type's label is its most frequent one (its mean for numbers). Hewitt and Liang 2019, arXiv 1909.03368.
    """
    _, where = np.unique(types, return_inverse=True)
    members = [labels[where == number] for number in range(where.max() + 1)]
    if is_number(labels):
        own = np.array([found.mean() for found in members])
    else:
        own = np.array([max(sorted(set(found)), key=list(found).count) for found in members])
    return np.random.default_rng(seed).permutation(own)[where]


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted linear read-out W (x - centre) / spread + b of states: of classes, or without any of a number.

    Of two classes one row of W speaks for the second.
    """

    weight: Float[ndarray, "k unit"]
    bias: Float[ndarray, "k"]
    centre: Float[ndarray, "unit"]
    spread: Float[ndarray, "unit"]
    classes: Shaped[ndarray, "c"] | None = None

    def values(self, x: Float[ndarray, "item unit"]) -> Float[ndarray, "item k"]:
        """What is read: log odds (up to a shift of all classes), or the number."""
        return ((x - self.centre) / self.spread) @ self.weight.T + self.bias

    def predict(self, x: Float[ndarray, "item unit"]) -> Shaped[ndarray, "item"]:
        """The class of each item, or its number."""
        found = self.values(x)
        if self.classes is None:
            return found[:, 0]
        return self.classes[found.argmax(1) if len(self.weight) > 1 else (found[:, 0] > 0).astype(int)]

    def score(self, x: Float[ndarray, "item unit"], y: ndarray) -> float:
        """Accuracy for classes, R^2 for numbers."""
        from sklearn.metrics import r2_score

        found = self.predict(x)
        return float(r2_score(y, found) if self.classes is None else np.mean(found == y))

    def directions(self) -> Float[ndarray, "k unit"]:
        """An orthonormal basis of what the read-out looks at, in the units of the states."""
        weights = self.weight / self.spread
        weights = weights - weights.mean(0) if len(weights) > 1 else weights  # a shift of all classes changes nothing
        _, sizes, basis = np.linalg.svd(weights, full_matrices=False)
        return basis[sizes > sizes.max() * 1e-8]


def fit(x: Float[ndarray, "item unit"], y: ndarray, penalty: float) -> Probe:
    """Logistic regression for classes, ridge for numbers; `penalty` is the weight of |w|^2 / 2 beside summed losses."""
    from sklearn.linear_model import LogisticRegression, Ridge

    centre, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 1e-12 * (spread.max() or 1.0), spread, 1.0)
    if not is_number(y) and len(np.unique(y)) == 1:
        raise MethodError(
            f"all {len(y)} items that a probe is fitted on are of one class, '{y[0]}'", expected="two classes or more",
            do="give more items, `types` in which classes mix, or a smaller `test`",
        )  # fmt: skip
    solver = Ridge(alpha=penalty) if is_number(y) else LogisticRegression(C=1 / penalty, max_iter=3000)
    solver.fit((x - centre) / spread, y)
    weight, bias = np.atleast_2d(solver.coef_), np.atleast_1d(solver.intercept_)
    return Probe(weight, bias, centre, spread, None if is_number(y) else solver.classes_)


def chance(train: ndarray, test: ndarray) -> float:
    """What always saying the most frequent class (or the mean) of the training items scores."""
    if is_number(train):
        total = float(((test - test.mean()) ** 2).sum())
        return 1 - float(((test - train.mean()) ** 2).sum()) / total if total else 0.0
    values, counts = np.unique(train, return_counts=True)
    return float((test == values[counts.argmax()]).mean())
