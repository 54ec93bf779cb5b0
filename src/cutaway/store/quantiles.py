"""A reducer for quantiles: the values of each unit counted in bins as fine as the first bits of a float.

It needs no edges beforehand and one pass, in memory that grows with units and not with rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from cutaway.errors import InputError

_BITS = 6  # of the mantissa: bins are 1/64 of a value wide at most
_LEAST, _MOST = -24, 16  # powers of two between which values are told apart
_FIRST = (127 + _LEAST) << _BITS
_SPAN = (_MOST - _LEAST) << _BITS


@dataclass(frozen=True, eq=False)
class Tail:
    """For each unit a threshold, and the exact share of its values above it."""

    threshold: Float[Tensor, "*units"]
    share: Float[Tensor, "*units"]


class Quantiles:
    """For each unit, thresholds that a given share of all its values lies above.

    A value is counted by sign, exponent and the first six bits of its mantissa in float32, so that a threshold is a
    number at which two such bins meet: the least with no more than the asked share above it, at most 1/64 of itself
    above the exact quantile. The share above it is exact. Values nearer to zero than 2^-24 are one bin. Any split of
    the rows and any order of merging gives the same counts. The idea, bins by relative width, is that of DDSketch
    (Masson, Rim and Lee 2019, arXiv 1908.10693). NaN is an error.

    >>> tail = Quantiles().add(torch.arange(1, 101)).tail(0.05)
    >>> tail.threshold, tail.share
    (tensor(96.0000), tensor(0.0500))
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None  # bin, units

    def add(self, rows: Real[Tensor, "item *units"]) -> Quantiles:
        """Take in rows."""
        taken = rows.detach().float()
        if bool(taken.isnan().any()):
            raise InputError(
                f"{int(taken.isnan().sum())} of {taken.numel()} values are no numbers (NaN)", expected="numbers",
                do="leave these rows out, or look where they come from: `model.run` on one of them",
            )  # fmt: skip
        at = _bins(taken)
        counts = torch.zeros(2 * _SPAN + 1, *taken.shape[1:], dtype=torch.long, device=taken.device)
        self._join(counts.scatter_add_(0, at, torch.ones_like(at)))
        return self

    def merge(self, other: Quantiles) -> Quantiles:
        """Take in what another one has counted."""
        if other._counts is not None:
            self._join(other._counts)
        return self

    def tail(self, share: float) -> Tail:
        """The least thresholds with no more than this share of each unit's values above them."""
        if self._counts is None or not 0 < share < 1:
            raise InputError(
                "nothing was added" if self._counts is None else f"a share of {share}",
                expected="rows, and a share between 0 and 1", do="check the stream of rows, or give 0.005, say",
            )  # fmt: skip
        total = self._counts.sum(0)
        above = self._counts.flip(0).cumsum(0).flip(0)  # in this bin or a higher one
        above = torch.cat([above[1:], torch.zeros_like(above[:1])])  # in a higher one
        at = (above <= share * total).int().argmax(0)
        return Tail(_edges().to(at.device)[at], above.gather(0, at[None])[0] / total.clamp_min(1))

    def _join(self, new: Tensor) -> None:
        if self._counts is not None and new.shape != self._counts.shape:
            raise InputError(
                f"rows of shape {tuple(new.shape[1:])} came after rows of shape {tuple(self._counts.shape[1:])}",
                expected="rows of one shape", do="count each site by itself",
            )  # fmt: skip
        self._counts = new.clone() if self._counts is None else self._counts + new.to(self._counts.device)


def _bins(values: Float[Tensor, "item *units"]) -> Int[Tensor, "item *units"]:
    """The number of the bin of each value, from the lowest values to the highest."""
    size = (values.abs().view(torch.int32) >> (23 - _BITS)).long() - _FIRST
    size = size.clamp(0, _SPAN)
    return torch.where(values < 0, -size, size) + _SPAN


def _edges() -> Float[Tensor, "bin"]:
    """The largest number of each bin: a value is in a higher bin exactly if it is above it."""
    keys = torch.arange(_SPAN + 1) + _FIRST
    lows = (keys.int() << (23 - _BITS)).view(torch.float32)  # of the bins of positive values; the first holds zero
    below = torch.nextafter(lows[1:], torch.zeros(()))
    inf = torch.full((1,), torch.inf)
    negative = -lows[1:].flip(0)
    return torch.cat([negative, below[:1], below[1:], inf])
