"""What a trained dictionary is held against: given directions, and random ones (neurons: `model.dictionary`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.dictionary import NOWHERE, At, Untold, largest


@dataclass(frozen=True, eq=False)
class Directions(Untold):
    """Given unit directions as a dictionary: features are dot products from a mean on, the k largest of each row.

    f = largest_k(max(D (x - m), 0)), y = m + gain D' f: what a dictionary is before anything was learned about which
    feature explains what. Units of f: those of x.
    """

    site: str
    directions: Float[Tensor, "feature d"]
    mean: Float[Tensor, "d"]
    k: int | None = None
    gain: float = 1.0

    @property
    def width(self) -> int:
        """As many as directions."""
        return len(self.directions)

    def encode(self, x: Float[Tensor, "*rows d"], at: At = NOWHERE) -> Float[Tensor, "*rows feature"]:
        """How far each row lies along each direction, where that is above 0 and among the k largest."""
        return largest(((x - self.mean.to(x)) @ self.directions.to(x).T).relu(), self.k)

    def decode(
        self, features: Float[Tensor, "*rows feature"], x: Float[Tensor, "*rows d"], at: At = NOWHERE
    ) -> Float[Tensor, "*rows d"]:
        """The mean and the sum of the directions, each as long as its feature times the gain."""
        return self.mean.to(features) + self.gain * features @ self.directions.to(features)


class RandomDictionary(Directions):
    """Directions drawn by chance as a dictionary; see `random_dictionary`, which draws them."""


def random_dictionary(
    site: str, width: int, mean: Float[Tensor, "d"], covariance: Float[Tensor, "d d"] | None = None, *,
    k: int | None = None, seed: int = 0,
) -> RandomDictionary:  # fmt: skip
    """A dictionary of random directions, drawn with the covariance of the data where that is given.

    d_j = g_j / |g_j|, g_j ~ N(0, C), C the covariance or 1. The one number that is fitted is `gain`, the length that
    makes y nearest to x on draws of N(m, C): sum <x - m, r> / sum <r, r> with r = D' f. Directions drawn evenly (C = 1)
    hold next to nothing of data that lie in few directions, and anything looks large beside them.

    Source: that no measure of a dictionary is shown without a random one, arXiv 2606.24716. What it can NOT tell: how
    good random features with a fitted decoder would be; these have none.

    >>> made = random_dictionary("vision.1.resid_post", 64, torch.zeros(8), k=4)
    >>> made.width, int((made.encode(torch.randn(100, 8)) > 0).sum(1).max()) <= 4
    (64, True)
    """
    if width < 1 or (k is not None and k < 1):
        raise MethodError(f"a dictionary of {width} features, {k} on", expected="one at least", do="give more")
    dice = torch.Generator().manual_seed(seed)
    spread = torch.eye(len(mean), dtype=torch.float64) if covariance is None else covariance.double().cpu()
    sizes, axes = torch.linalg.eigh(spread)
    root = axes * sizes.clamp_min(0).sqrt()

    def drawn(rows: int) -> Tensor:
        return torch.randn(rows, len(mean), generator=dice, dtype=torch.float64) @ root.T

    directions = torch.nn.functional.normalize(drawn(width), dim=-1).to(mean)
    plain, moved = RandomDictionary(site, directions, torch.zeros_like(mean), k), drawn(1024).to(mean)
    made = plain.encode(moved) @ directions
    size = float((made * made).sum())
    return RandomDictionary(site, directions, mean, k, float((moved * made).sum()) / size if size else 1.0)
