"""Reducers: what is left of many rows that are seen once, in memory that does not grow with their number.

Each is fed with `add`, joined with one that saw other rows by `merge`, and read by `value`, as often as you like. Any
split of the rows into batches, and any order of merging, gives what all rows at once would give. Sums are taken in
float64, whatever the rows are in, on the device of the first batch (on the CPU where it has no float64).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from cutaway.errors import InputError

T = TypeVar("T")


class Mean:
    """The mean over rows, each with its weight: m = sum_i w_i x_i / sum_i w_i. In the units of the rows.

    A weight may also be one for each row and position: then each position has a mean over the rows that count there,
    and NaN where none does. What has no weight may hold anything. Weighted mean and merge after Chan, Golub and LeVeque
    1983 (The American Statistician 37): no large sum is ever taken from another.

    >>> mean = Mean()
    >>> for batch in torch.arange(10.0).split(3):
    ...     _ = mean.add(batch)
    >>> mean.value
    tensor(4.5000, dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._mean: Tensor | None = None
        self._weight: Tensor | None = None  # as many axes as the mean, of size 1 where one weight holds for all

    def add(
        self, rows: Real[Tensor, "item *shape"],
        weight: Real[Tensor, "item *some"] | Bool[Tensor, "item *some"] | None = None,
    ) -> Mean:  # fmt: skip
        """Take in rows; `weight`: one number a row, or a row and position (the first axes of `rows`)."""
        taken = _exact(rows, self._mean)
        counted = torch.ones(len(taken), dtype=taken.dtype) if weight is None else weight
        if counted.shape != taken.shape[: counted.dim()] or bool((counted < 0).any()):
            raise InputError(
                f"weights of shape {tuple(counted.shape)}" + (", some below 0" if bool((counted < 0).any()) else ""),
                expected=f"numbers from 0 on, along the first axes of rows of shape {tuple(taken.shape)}",
                do="give one weight a row, or a mask of rows and positions",
            )  # fmt: skip
        share = counted.to(taken).reshape(*counted.shape, *[1] * (taken.dim() - counted.dim()))
        taken = taken.masked_fill(share == 0, 0.0)
        total = share.sum(0)
        self._join((taken * share).sum(0) / total.where(total > 0, 1.0), total)
        return self

    def merge(self, other: Mean) -> Mean:
        """Take in what another one has seen."""
        if other._mean is not None and other._weight is not None:
            self._join(_exact(other._mean, self._mean), _exact(other._weight, self._mean))
        return self

    @property
    def value(self) -> Float[Tensor, "*shape"]:
        """The mean of all rows so far."""
        mean, weight = _seen(self._mean), _seen(self._weight)
        return mean.masked_fill(weight == 0, torch.nan)

    def _join(self, mean: Tensor, weight: Tensor) -> None:
        if self._mean is None or self._weight is None:
            self._mean, self._weight = mean, weight
            return
        _same_shape(mean.shape, self._mean.shape)
        total = self._weight + weight
        self._mean = self._mean + (mean - self._mean) * (weight / total.where(total > 0, 1.0))
        self._weight = total


@dataclass(frozen=True, eq=False)
class Moments:
    """How rows lie: their number, their mean, and `scatter` S = sum_i (x_i - m)(x_i - m)'."""

    count: int
    mean: Float[Tensor, "*lead d"]
    scatter: Float[Tensor, "*lead d d"]

    @property
    def gram(self) -> Float[Tensor, "*lead d d"]:
        """X'X = S + n m m', of the rows as they are."""
        return self.scatter + self.count * self.mean[..., :, None] * self.mean[..., None, :]

    @property
    def covariance(self) -> Float[Tensor, "*lead d d"]:
        """S / (n - 1), in squared units of the rows."""
        return self.scatter / max(self.count - 1, 1)


class Gram:
    """Mean and Gram matrix of rows: all that a linear account of them needs (variance along v: v'S v / n).

    Rows may have axes in front of the last one, such as layer and head: each place then has a matrix of its own. The
    matrix is that of the rows less their mean, and two are merged as S_a + S_b + (m_a - m_b)(m_a - m_b)' n_a n_b / n
    (Chan, Golub and LeVeque 1983), so that a large mean costs no digits.

    >>> rows = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 1.0]])
    >>> found = Gram().add(rows[:1]).merge(Gram().add(rows[1:])).value
    >>> found.count, found.covariance.tolist()
    (3, [[4.0, 1.0], [1.0, 1.0]])
    """

    def __init__(self) -> None:
        self._moments: Moments | None = None

    def add(self, rows: Real[Tensor, "item *lead d"]) -> Gram:
        """Take in rows."""
        if len(rows):
            taken = _exact(rows, self._like)
            mean = taken.mean(0)
            moved = (taken - mean).movedim(0, -2)  # *lead, item, d
            self._join(Moments(len(taken), mean, moved.mT @ moved))
        return self

    def merge(self, other: Gram) -> Gram:
        """Take in what another one has seen."""
        if other._moments is not None:
            seen = other._moments
            self._join(Moments(seen.count, _exact(seen.mean, self._like), _exact(seen.scatter, self._like)))
        return self

    @property
    def value(self) -> Moments:
        """Number, mean and scatter of all rows so far."""
        return _seen(self._moments)

    @property
    def _like(self) -> Tensor | None:
        return None if self._moments is None else self._moments.mean

    def _join(self, new: Moments) -> None:
        old = self._moments
        if old is None:
            self._moments = new
            return
        _same_shape(new.mean.shape, old.mean.shape)
        count, apart = old.count + new.count, new.mean - old.mean
        between = apart[..., :, None] * apart[..., None, :] * (old.count * new.count / count)
        mean = old.mean + apart * (new.count / count)
        self._moments = Moments(count, mean, old.scatter + new.scatter + between)


@dataclass(frozen=True, eq=False)
class Top:
    """The largest values of each unit, largest first, and the numbers of the items that have them."""

    values: Float[Tensor, "k *units"]
    items: Int[Tensor, "k *units"]


class TopK:
    """For each unit, the k largest values and which items have them; of equal values the item with the lower number.

    Items are numbered in the order they come, or from `first` on. An item that comes twice is an error, so that work
    which is taken up again, or done in several places, counts nothing doubled. NaN is an error: it has no rank.

    >>> top = TopK(2).add(torch.tensor([0.5, 2.0])).add(torch.tensor([2.0, 1.0])).value
    >>> top.values.tolist(), top.items.tolist()
    ([2.0, 2.0], [1, 2])
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise InputError(f"the {k} largest values", expected="one at least", do="give `k` from 1 on")
        self.k = k
        self._spans: list[tuple[int, int]] = []  # of the items seen: first, one behind the last
        self._top: Top | None = None

    def add(self, rows: Real[Tensor, "item *units"], *, first: int | None = None) -> TopK:
        """Take in rows; `first`: the number of the first of them, unless they go on where the last ones ended."""
        taken = _ranked(_exact(rows, self._like))
        start = first if first is not None else max((stop for _, stop in self._spans), default=0)
        self._claim([(start, start + len(taken))])
        numbers = torch.arange(start, start + len(taken), device=taken.device)
        self._join(Top(taken, numbers.reshape(-1, *[1] * (taken.dim() - 1)).expand(taken.shape)))
        return self

    def merge(self, other: TopK) -> TopK:
        """Take in what another one has seen, of other items."""
        if other._top is not None:
            self._claim(other._spans)
            values = _exact(other._top.values, self._like)
            self._join(Top(values, other._top.items.to(values.device)))
        return self

    @property
    def value(self) -> Top:
        """The largest values so far; fewer than k where fewer items came."""
        return _seen(self._top)

    @property
    def _like(self) -> Tensor | None:
        return None if self._top is None else self._top.values

    def _claim(self, spans: Iterable[tuple[int, int]]) -> None:
        """Note items as seen, neighbouring stretches as one."""
        joined: list[tuple[int, int]] = []
        for start, stop in sorted(span for span in (*self._spans, *spans) if span[0] < span[1]):
            if joined and start < joined[-1][1]:
                raise InputError(
                    f"item {start} came before", expected="each item once",
                    exists=", ".join(f"items {a} to {b - 1}" for a, b in self._spans),
                    do="say with `add(rows, first=…)` which number a batch begins with",
                )  # fmt: skip
            begin = joined.pop()[0] if joined and start == joined[-1][1] else start
            joined.append((begin, stop))
        self._spans = joined

    def _join(self, new: Top) -> None:
        if self._top is not None:
            _same_shape(new.values.shape[1:], self._top.values.shape[1:])
            new = Top(torch.cat([self._top.values, new.values]), torch.cat([self._top.items, new.items]))
        by_number = new.items.argsort(0)
        values, order = new.values.gather(0, by_number).sort(dim=0, descending=True, stable=True)
        self._top = Top(values[: self.k].clone(), new.items.gather(0, by_number).gather(0, order[: self.k]))


@dataclass(frozen=True, eq=False)
class Counts:
    """How many values of each unit lie in each bin, below the first edge and above the last."""

    edges: Float[Tensor, "edge"]
    inside: Int[Tensor, "bin *units"]
    below: Int[Tensor, "*units"]
    above: Int[Tensor, "*units"]


class Histogram:
    """Counts between fixed edges, for each unit: bin b holds e_b <= x < e_(b+1), the last one its upper edge as well.

    What lies outside is counted there. NaN is an error: it lies nowhere.

    >>> Histogram([0, 1, 2]).add(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 9.0])).value.inside
    tensor([2, 2])
    """

    def __init__(self, edges: Iterable[float] | Float[Tensor, "edge"]) -> None:
        self.edges = torch.tensor([float(edge) for edge in edges], dtype=torch.float64)
        if len(self.edges) < 2 or not bool((self.edges.diff() > 0).all()):
            raise InputError(
                f"{len(self.edges)} edges that do not rise", expected="two at least, each above the one before",
                exists=", ".join(f"{edge:g}" for edge in self.edges[:5].tolist()) or "nothing",
                do="for instance `torch.linspace(-3, 3, 61)`",
            )  # fmt: skip
        self._counts: Tensor | None = None  # below, bins, above

    def add(self, rows: Real[Tensor, "item *units"]) -> Histogram:
        """Take in rows."""
        taken = _ranked(_exact(rows, self._counts))
        edges = self.edges.to(taken.device)
        place = torch.bucketize(taken, edges, right=True) - (taken == edges[-1]).long()
        counts = torch.zeros(len(edges) + 1, *taken.shape[1:], dtype=torch.long, device=taken.device)
        self._join(counts.scatter_add_(0, place, torch.ones_like(place)))
        return self

    def merge(self, other: Histogram) -> Histogram:
        """Take in what another one has counted, between the same edges."""
        if not torch.equal(self.edges, other.edges):
            raise InputError(
                "these histograms have other edges", expected=f"{len(self.edges)} from {self.edges[0]:g} on",
                exists=f"{len(other.edges)} from {other.edges[0]:g} on", do="count both between the same edges",
            )  # fmt: skip
        if other._counts is not None:
            self._join(other._counts)
        return self

    @property
    def value(self) -> Counts:
        """The counts so far."""
        counts = _seen(self._counts)
        return Counts(self.edges, counts[1:-1], counts[0], counts[-1])

    def _join(self, new: Tensor) -> None:
        if self._counts is not None:
            _same_shape(new.shape[1:], self._counts.shape[1:])
        self._counts = new.clone() if self._counts is None else self._counts + new.to(self._counts.device)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _exact(rows: Tensor, like: Tensor | None) -> Tensor:
    """In float64, without a graph, on the device of what was seen before."""
    device = rows.device if like is None else like.device
    return rows.detach().to("cpu" if device.type == "mps" else device).double()


def _seen(value: T | None) -> T:
    if value is None:
        raise InputError(
            "nothing was added, so there is nothing to read", expected="one row at least",
            do="check that the stream of rows is not empty, or was not gone through before",
        )  # fmt: skip
    return value


def _same_shape(new: tuple[int, ...], old: tuple[int, ...]) -> None:
    if new != old:
        raise InputError(
            f"rows of shape {tuple(new)} came after rows of shape {tuple(old)}", expected="rows of one shape",
            do="bring them to one shape first, for instance texts to one length, or take one position of each",
        )  # fmt: skip


def _ranked(values: Tensor) -> Tensor:
    if bool(values.isnan().any()):
        raise InputError(
            f"{int(values.isnan().sum())} of {values.numel()} values are no numbers (NaN)", expected="numbers",
            do="leave these rows out, or look where they come from: `model.run` on one of them",
        )  # fmt: skip
    return values
