"""How well a dictionary reconstructs what it reads, and how sparsely: sums over rows that are seen once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.seen import Rows, kind_name, read, seen
from cutaway.model.dictionary import Dictionary
from cutaway.store.measures import Spread
from cutaway.store.reducers import Counts, Histogram

DECADES = tuple(-6 + 0.25 * at for at in range(25))  # edges of log10 of how often a feature is on


@dataclass(frozen=True)
class Measured:
    """What the sums over some rows say; see `quality`."""

    rows: int
    explained: float
    l0: float
    cosine: float
    shrinkage: float


@dataclass
class _Sums:
    spread: Spread = field(default_factory=Spread)
    error: float = 0.0
    on: float = 0.0
    cosine: float = 0.0
    shrinkage: float = 0.0

    def add(self, y: Tensor, made: Tensor, features: Tensor) -> None:
        lengths, others = y.norm(dim=1), made.norm(dim=1)
        some = lengths.clamp_min(torch.finfo(y.dtype).tiny)
        self.spread.add(y)
        self.error += float(((y - made) ** 2).sum())
        self.on += float((features != 0).sum())
        self.cosine += float(((y * made).sum(1) / some / others.clamp_min(torch.finfo(y.dtype).tiny)).sum())
        self.shrinkage += float((others / some).sum())

    def merge(self, other: _Sums) -> None:
        self.spread.merge(other.spread)
        for name in ("error", "on", "cosine", "shrinkage"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def value(self, around: float | None = None) -> Measured:
        rows, far = self.spread.rows, self.spread.around if around is None else around
        explained = 1 - self.error / far if far > 0 else float("nan")
        return Measured(rows, explained, self.on / rows, self.cosine / rows, self.shrinkage / rows)


class Quality:
    """A reducer of what `quality` measures: fed by `add`, joined by `merge`, read by `value`, `by_kind`, `density`."""

    def __init__(self) -> None:
        self._sums: dict[int, _Sums] = {}
        self._on: Tensor | None = None

    def add(
        self, y: Float[Tensor, "row d"], made: Float[Tensor, "row d"], features: Float[Tensor, "row width"],
        kind: Int[Tensor, "row"] | None = None,
    ) -> Quality:  # fmt: skip
        """Take in rows, what was decoded in their place, their features and kinds."""
        kinds = torch.zeros(len(y), dtype=torch.long) if kind is None else kind.cpu()
        y, made = y.detach().double(), made.detach().double()
        for one in kinds.unique().tolist():
            at = (kinds == one).to(y.device)
            self._sums.setdefault(one, _Sums()).add(y[at], made[at], features[at])
        self._count((features != 0).sum(0).cpu())
        return self

    def merge(self, other: Quality) -> Quality:
        """Take in what another one has seen."""
        for kind, sums in other._sums.items():
            self._sums.setdefault(kind, _Sums()).merge(sums)
        if other._on is not None:
            self._count(other._on)
        return self

    @property
    def value(self) -> Measured:
        """Of all rows; their variance is that around the mean of each kind."""
        whole = _Sums()
        for sums in self._seen().values():
            whole.merge(sums)
        return whole.value(sum(sums.spread.around for sums in self._sums.values()))

    @property
    def by_kind(self) -> dict[str, Measured]:
        """The same for each kind of position."""
        return {kind_name(kind): sums.value() for kind, sums in sorted(self._seen().items())}

    @property
    def density(self) -> Float[Tensor, "width"]:
        """The share of rows in which each feature is on."""
        rows = sum(sums.spread.rows for sums in self._seen().values())
        return (torch.zeros(0) if self._on is None else self._on).double() / rows

    @property
    def alive(self) -> float:
        """The share of features that are on in any row."""
        return float((self.density > 0).double().mean())

    @property
    def densities(self) -> Counts:
        """How many features are on how often, by log10 of the share of rows; those never on are `below`."""
        return Histogram(DECADES).add(self.density.log10()).value

    def _count(self, on: Tensor) -> None:
        self._on = on if self._on is None else self._on + on

    def _seen(self) -> dict[int, _Sums]:
        if not self._sums:
            raise MethodError("no row was seen", expected="one at least", do="check what the rows are read from")
        return self._sums


def quality(dictionary: Dictionary, rows: Rows, *, batch: int = 4096, steps: int = 1, **where: Any) -> Quality:
    """How much of its target a dictionary explains, and with how many features, by kind of position.

    explained = 1 - sum |y - y'|^2 / sum |y - m_kind|^2, y' what it decodes and m_kind the mean over the rows of that
    kind, so that nobody is paid for knowing a mean; L0 = features on in a row; alive = share of features on in any of
    these rows; shrinkage = mean |y'| / |y|; cosine = mean cos(y, y'); density = share of rows in which a feature is on.
    Sums in float64, in memory that does not grow with the rows. `where` chooses rows of a store. Units: shares and
    counts. MethodError without rows.

    Source: the list of Karvonen et al. 2025 (SAEBench, arXiv 2503.09532), whose explained variance takes one mean over
    all positions. What it can NOT tell: whether what is left out mattered to the model (`loss_recovered`), nor whether
    a feature means one thing. Cosine and shrinkage are near 1 wherever the mean is long. `alive` rises with the rows.

    >>> from cutaway.model.dictionary import Neurons
    >>> rows = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> found = quality(Neurons("text.1.resid_post", rows.mean(0)), rows)
    >>> round(found.value.explained, 6), found.value.l0, found.alive
    (1.0, 8.0, 1.0)
    """
    found = Quality()
    for part in seen(dictionary, rows, batch=batch, steps=steps, **where):
        features, made = read(dictionary, part)
        found.add(part.y, made, features, part.kind)
    return found
