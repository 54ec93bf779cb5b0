"""Planted codes: rows made of known sparse features, with frequencies, trees, correlations, and two modalities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import normalize

from cutaway.errors import InputError, near
from cutaway.methods.sparse_autoencoders.modality import PICTURE, SHARED, TEXT
from cutaway.methods.sparse_autoencoders.seen import Seen
from cutaway.model.dictionary import NOWHERE, At
from cutaway.model.tokens import KINDS

CHUNK = 512  # items that are drawn from one seed, so that rows do not depend on how they are cut
SITE = "planted.codes"


@dataclass(frozen=True, eq=False)
class Coded:
    """Rows as a dictionary sees them, and the code that they are made of: 0 where a feature is off."""

    seen: Seen
    code: Float[Tensor, "row feature"]


@dataclass(frozen=True)
class Codes:
    """Rows x = D' c + noise of a code c that is known, without end, from a seed; nothing is stored.

    Of `features` directions in `d` dimensions (unit, pushed apart) `roots` begin a tree of `depth` levels with
    `branching` children each: a child is on only where its parent is, and one of several at most (some child in a share
    `children` of the parent's rows). Roots and features of no tree ("tops") are on in a share `often` r^-`exponent` of
    rows, r their rank, `rarely` at least, and together more than by chance: a Gaussian copula whose correlations are of
    `rank`, with a share `bound` of the variance. A feature that is on is N(1, 1/4) long, 0.2 at least; `noise` is the
    standard deviation of what is added to each dimension. With `modalities` each item is a picture and a text, a row
    each: a third of the tops with their trees are on in both alike, a third in pictures alone, a third in texts alone,
    and the two kinds of rows lie `gap` apart.

    Source: the ingredients are those of SynthSAEBench (arXiv 2602.14687: 16,384 features in 768 dimensions, frequencies
    0.4 to 5e-4 with exponent 0.5, 128 trees). Ours are small enough for a CPU; children are drawn given their parent,
    so that every frequency is known in closed form; the two modalities are ours.
    What they can NOT tell: how a dictionary does where features are no directions, or come in other numbers.

    >>> codes = planted_codes("small")
    >>> rows = next(codes.rows(512))
    >>> tuple(rows.seen.x.shape), tuple(rows.code.shape), codes.parents[:5].tolist()
    ((512, 64), (512, 256), [-1, 0, 0, 0, 1])
    """

    features: int = 256
    d: int = 64
    roots: int = 8
    branching: int = 3
    depth: int = 2
    often: float = 0.2
    rarely: float = 2e-3
    exponent: float = 0.5
    children: float = 0.7
    rank: int = 8
    bound: float = 0.3
    noise: float = 0.05
    modalities: bool = False
    gap: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.roots * self.tree > self.features or self.roots < 1 or self.d < 2 or not 0 <= self.bound < 1:
            raise InputError(
                f"{self.roots} trees of {self.tree} in {self.features} features of {self.d} dimensions, bound "
                f"{self.bound:g}", expected="one tree at least, room for all of them, and `bound` below 1",
                do="give more features, or smaller trees",
            )  # fmt: skip

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def tree(self) -> int:
        """Features of a tree."""
        return sum(self.branching**level for level in range(self.depth + 1))

    @cached_property
    def parents(self) -> Int[Tensor, "feature"]:
        """The parent of each feature, -1 of none; trees come first, each level by level."""
        parents = torch.full((self.features,), -1)
        for root in range(self.roots):
            for at in range(1, self.tree):
                parents[root * self.tree + at] = root * self.tree + (at - 1) // self.branching
        return parents

    @cached_property
    def tops(self) -> Int[Tensor, "top"]:
        """The features without a parent, from the most frequent on: roots at every second rank from the first."""
        roots = (torch.arange(self.roots) * self.tree).tolist()
        free = list(range(self.roots * self.tree, self.features))
        ranked = [one for at in range(self.roots) for one in (roots[at], *free[at : at + 1])]
        return torch.tensor(ranked + free[self.roots :])

    @cached_property
    def frequency(self) -> Float[Tensor, "feature"]:
        """The share of rows in which each is on, of the rows of its modalities."""
        ranks = torch.arange(1, len(self.tops) + 1, dtype=torch.float64)
        found = torch.zeros(self.features, dtype=torch.float64)
        found[self.tops] = (self.often * ranks**-self.exponent).clamp_min(self.rarely)
        for at in range(self.roots * self.tree):  # parents come before their children
            if self.parents[at] >= 0:
                found[at] = found[self.parents[at]] * self._shares[(at % self.tree - 1) % self.branching]
        return found

    @property
    def l0(self) -> float:
        """How many features are on in a row, as expected."""
        shared = torch.from_numpy(self.modality == SHARED)
        return float((self.frequency * torch.where(shared, 1.0, 0.5)).sum())

    @cached_property
    def modality(self) -> ndarray:
        """Which rows each feature is on in: shared, picture or text; all are shared where there is one kind of row."""
        found = np.full(self.features, SHARED, object)
        if self.modalities:
            found[self.tops.numpy()] = [(SHARED, PICTURE, TEXT)[at % 3] for at in range(len(self.tops))]
            for at in range(self.roots * self.tree):
                if self.parents[at] >= 0:
                    found[at] = found[int(self.parents[at])]
        return found

    @cached_property
    def directions(self) -> Float[Tensor, "feature d"]:
        """Where each feature lies, of length 1: drawn evenly, then pushed apart (100 steps down sum cos^4)."""
        d = normalize(torch.randn(self.features, self.d, generator=self._dice(0)), dim=-1)
        for _ in range(100):
            cosines = (d @ d.T).fill_diagonal_(0)
            d = normalize(d - (cosines**3) @ d, dim=-1)
        return d

    @property
    def superposition(self) -> float:
        """The largest |cos| of a feature with another, meaned over features."""
        return float((self.directions @ self.directions.T).fill_diagonal_(0).abs().amax(1).mean())

    @cached_property
    def shift(self) -> Float[Tensor, "kind d"]:
        """What is added to rows of each kind of `KINDS`: pictures and texts lie `gap` apart."""
        found = torch.zeros(len(KINDS), self.d)
        if self.modalities:
            apart = normalize(torch.randn(self.d, generator=self._dice(1)), dim=0) * self.gap / 2
            found[KINDS.index("image")], found[KINDS.index("text")] = apart, -apart
        return found

    # --- rows ---------------------------------------------------------------------------------------------------------

    def rows(self, items: int, *, first: int = 0) -> Iterator[Coded]:
        """The rows of items from number `first` on, some at a time; the same item is the same rows in any call."""
        for chunk in range(first // CHUNK, -(-(first + items) // CHUNK)):
            start, stop = max(first - chunk * CHUNK, 0), min(first + items - chunk * CHUNK, CHUNK)
            yield self._drawn(chunk, start, stop)

    def _drawn(self, chunk: int, start: int, stop: int) -> Coded:
        dice = self._dice(2, chunk)
        on, sides = self._on(dice), 2 if self.modalities else 1
        code = on.repeat_interleave(sides, 0).float()
        code *= (1 + 0.25 * torch.randn(code.shape, generator=dice)).clamp_min(0.2)
        kind = torch.zeros(len(code), dtype=torch.long)
        if self.modalities:
            kind[0::2], kind[1::2] = KINDS.index("image"), KINDS.index("text")
            code[0::2] *= torch.from_numpy(self.modality != TEXT)
            code[1::2] *= torch.from_numpy(self.modality != PICTURE)
        x = code @ self.directions + self.shift[kind] + self.noise * torch.randn(len(code), self.d, generator=dice)
        item = torch.arange(CHUNK).repeat_interleave(sides) + chunk * CHUNK
        part = slice(start * sides, stop * sides)
        at = At(kind[part]) if self.modalities else NOWHERE
        return Coded(Seen(x[part], x[part], at, item[part]), code[part])

    def _on(self, dice: torch.Generator) -> Tensor:
        """Which features are on in the items of a chunk."""
        on = torch.zeros(CHUNK, self.features, dtype=torch.bool)
        own = (1 - self.bound) ** 0.5 * torch.randn(CHUNK, len(self.tops), generator=dice)
        together = torch.randn(CHUNK, self.rank, generator=dice) @ self._factors.T
        limits = torch.special.ndtri(self.frequency[self.tops])
        on[:, self.tops] = own + together < limits
        chance = torch.rand(CHUNK, self.features, generator=dice)
        below = torch.cat([torch.zeros(1), self._shares.cumsum(0)]).float()
        for at in range(self.roots * self.tree):
            if (parent := int(self.parents[at])) >= 0:
                number = (at % self.tree - 1) % self.branching
                drawn = chance[:, parent]
                on[:, at] = on[:, parent] & (drawn >= below[number]) & (drawn < below[number + 1])
        return on

    @cached_property
    def _shares(self) -> Tensor:
        weights = torch.arange(1, self.branching + 1, dtype=torch.float64) ** -self.exponent
        return self.children * weights / weights.sum()

    @cached_property
    def _factors(self) -> Tensor:
        drawn = torch.randn(len(self.tops), self.rank, generator=self._dice(3))
        return normalize(drawn, dim=-1) * self.bound**0.5

    def _dice(self, *what: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, *what]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]) % 2**63)


PRESETS = {
    "small": Codes(),
    "large": Codes(features=1024, d=128, roots=24, branching=4, rank=16),
    "small-modalities": Codes(modalities=True),
    "large-modalities": Codes(features=1024, d=128, roots=24, branching=4, rank=16, modalities=True),
}


def planted_codes(name: str, **changed: object) -> Codes:
    """Codes by name (`PRESETS`), with some numbers changed.

    >>> planted_codes("small-modalities", seed=3).seed
    3
    """
    if name not in PRESETS:
        raise InputError(
            f"no codes are called '{name}'", expected="a preset", exists=near(name, PRESETS), do="name one"
        )
    return replace(PRESETS[name], **changed)  # type: ignore[arg-type]


# --- the truth as a dictionary ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrueDirections:
    """The true directions as a dictionary that must find the code itself: sparse coding by gradient steps.

    f <- max(f + s (D (x - D' f) - penalty), 0), `steps` times from 0 with momentum, s one over the largest eigenvalue
    of D D' (Beck and Teboulle 2009: FISTA); features below `least` are off. What one encoder step can not find, this
    can: a mark to come near, while the oracle of `code_scores` is told the code.
    """

    codes: Codes
    steps: int = 100
    penalty: float = 0.05
    least: float = 0.1

    site = target = SITE

    @property
    def width(self) -> int:
        """As many as there are."""
        return self.codes.features

    @property
    def d_in(self) -> int:
        """The length of a row."""
        return self.codes.d

    @property
    def d_out(self) -> int:
        """The length of a row."""
        return self.codes.d

    def check(self, model: Any, *sites: Any) -> None:
        """It belongs to no model."""

    @property
    def asks(self) -> tuple[str, ...]:
        """The kind of a row, where there are two."""
        return ("kind",) if self.codes.modalities else ()

    def encode(self, x: Float[Tensor, "*rows d"], at: At = NOWHERE) -> Float[Tensor, "*rows feature"]:
        """The code as it is found."""
        d = self.codes.directions.to(x)
        y, size = x - self._shift(at).to(x), 1 / float(torch.linalg.matrix_norm(d, 2)) ** 2
        found = ahead = x.new_zeros(*x.shape[:-1], self.width)
        for step in range(self.steps):
            before, found = found, (ahead + size * ((y - ahead @ d) @ d.T - self.penalty)).relu()
            ahead = found + step / (step + 3) * (found - before)
        return found.where(found > self.least, 0.0)

    def decode(
        self, features: Float[Tensor, "*rows feature"], x: Float[Tensor, "*rows d"], at: At = NOWHERE
    ) -> Float[Tensor, "*rows d"]:
        """The sum of the directions, and where rows of the kind lie."""
        return features @ self.codes.directions.to(features) + self._shift(at).to(features)

    def _shift(self, at: At) -> Tensor:
        return self.codes.shift[0] if at.kind is None else self.codes.shift[at.kind]
