"""What a trained dictionary is held against: random directions, and the neurons themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.dictionary import NOWHERE, At, Dictionary


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons themselves as a dictionary of 2 d features: the positive and the negative half of each.

    f_i = max(x_i - m_i, 0), f_(d+i) = max(m_i - x_i, 0), y = m + f_(1…d) - f_(d+1…2d). With `k` only the k largest of
    each row stay, so that neurons are as sparse as what they are held against; without, y is x. Units: those of x.

    >>> neurons = Neurons("text.1.resid_post", torch.zeros(2))
    >>> neurons.encode(torch.tensor([3.0, -1.0])).tolist()
    [3.0, 0.0, 0.0, 1.0]
    """

    site: str
    mean: Float[Tensor, "d"]
    k: int | None = None

    @property
    def target(self) -> str:
        """The site itself."""
        return self.site

    @property
    def width(self) -> int:
        """Twice as many as there are neurons."""
        return 2 * len(self.mean)

    @property
    def asks(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def encode(self, x: Float[Tensor, "*rows d"], at: At = NOWHERE) -> Float[Tensor, "*rows width"]:
        """Both halves of each neuron, of which at most one is on."""
        moved = x - self.mean.to(x)
        return largest(torch.cat([moved, -moved], -1).relu(), self.k)

    def decode(
        self, features: Float[Tensor, "*rows width"], x: Float[Tensor, "*rows d"], at: At = NOWHERE
    ) -> Float[Tensor, "*rows d"]:
        """The state whose neurons these are."""
        up, down = features.chunk(2, -1)
        return self.mean.to(features) + up - down


@dataclass(frozen=True, eq=False)
class Directions:
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
    def target(self) -> str:
        """The site itself."""
        return self.site

    @property
    def width(self) -> int:
        """As many as directions."""
        return len(self.directions)

    @property
    def asks(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

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


def largest(features: Float[Tensor, "*rows width"], k: int | None) -> Float[Tensor, "*rows width"]:
    """The k largest features of each row, the others 0."""
    if k is None or k >= features.shape[-1]:
        return features
    values, places = features.topk(k, dim=-1)
    return torch.zeros_like(features).scatter(-1, places, values)


def directions_of(
    dictionary: Dictionary, d_in: int, at: At = NOWHERE, like: Tensor | None = None
) -> Float[Tensor, "width d_out"]:
    """What one unit of each feature adds to what a dictionary decodes: decode(e_j) - decode(0), at an x of zeros.

    That is the decoder's matrix where decoding is linear. `like` gives dtype and device.
    """
    like = torch.zeros(0) if like is None else like
    nothing, one = like.new_zeros(dictionary.width, d_in), torch.eye(dictionary.width).to(like)
    with torch.no_grad():
        return dictionary.decode(one, nothing, at) - dictionary.decode(torch.zeros_like(one), nothing, at)
