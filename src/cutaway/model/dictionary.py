"""What a dictionary is to a model: activations of a place written as few features out of many, and read back.

Trained ones live among the methods (`sparse_autoencoders`); here is what the sites of features ask of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import StoreError, near
from cutaway.model.tokens import KINDS
from cutaway.zoo import parted


@dataclass(frozen=True)
class At:
    """What is known of the rows that are encoded, for dictionaries that tell positions apart; None: not known.

    `kind`: places in `cutaway.model.tokens.KINDS`; `step`: the denoising step, of `steps`.
    """

    kind: Int[Tensor, "*rows"] | None = None
    step: Int[Tensor, "*rows"] | None = None
    steps: int = 1

    @classmethod
    def all(cls, kind: str, shape: tuple[int, ...] = ()) -> At:
        """Positions that are all of one kind."""
        return cls(torch.full(shape, KINDS.index(kind)))


NOWHERE = At()


# What opens the folder of a dictionary: by name and when it is asked for, since methods lie above models.
PIECE = 1024  # features that are decoded at once
OPENS = "cutaway.methods.sparse_autoencoders.opening"


@runtime_checkable
class Dictionary(Protocol):
    """Features of a place: y = decode(encode(x)) stands for x, or for what a layer makes of x (a transcoder).

    `site` is where it reads and `target` what it stands for: the same for an autoencoder. `asks` names what it must
    know of a position ("kind", "step"); `encode` is given that in `at`, with an entry for each row. It takes any dtype
    and device and computes in its own.
    """

    @property
    def site(self) -> str:
        """Where x is read."""

    @property
    def target(self) -> str:
        """What `decode` stands for."""

    @property
    def d_in(self) -> int:
        """How many numbers a row of x has."""

    @property
    def d_out(self) -> int:
        """How many numbers a row of y has."""

    @property
    def width(self) -> int:
        """How many features there are."""

    @property
    def asks(self) -> tuple[str, ...]:
        """What it must know of a position."""

    def check(self, model: Any, *sites: Any) -> None:
        """Raise unless it belongs to this model."""

    def encode(self, x: Float[Tensor, "*rows d_in"], at: At = NOWHERE) -> Float[Tensor, "*rows width"]:
        """The features of activations; those that are off are 0."""

    def decode(
        self, features: Float[Tensor, "*rows width"], x: Float[Tensor, "*rows d_in"], at: At = NOWHERE
    ) -> Float[Tensor, "*rows d_out"]:
        """What the features stand for, in units of the target; `x` for those that also have a linear path from it."""


class Untold:
    """What dictionaries that were not trained share: they stand for their own site, ask nothing, and fit any model."""

    site: str
    mean: Float[Tensor, "d"]

    @property
    def target(self) -> str:
        """The site itself."""
        return self.site

    @property
    def d_in(self) -> int:
        """The length of a row."""
        return len(self.mean)

    @property
    def d_out(self) -> int:
        """The length of a row."""
        return len(self.mean)

    def check(self, model: Any, *sites: Any) -> None:
        """It belongs to any model."""

    @property
    def asks(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True, eq=False)
class Neurons(Untold):
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
    def width(self) -> int:
        """Twice as many as there are neurons."""
        return 2 * len(self.mean)

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


def largest(features: Float[Tensor, "*rows width"], k: int | None) -> Float[Tensor, "*rows width"]:
    """The k largest features of each row, the others 0."""
    if k is None or k >= features.shape[-1]:
        return features
    values, places = features.topk(k, dim=-1)
    return torch.zeros_like(features).scatter(-1, places, values)


@torch.no_grad()
def decoder_rows(
    dictionary: Dictionary, at: At | None = None, like: Tensor | None = None
) -> Float[Tensor, "width d_out"]:
    """What one more of each feature adds to y: decode of it alone less decode of none, at an x of zeros.

    That is the decoder's matrix where decoding is linear. `at`: what the row is; else, of a dictionary that tells kinds
    of positions apart, a kind at which the feature may be on. `like` gives dtype and device.
    """
    like, found = torch.zeros(0) if like is None else like, []
    kinds = ("image", "text") if "kind" in dictionary.asks else ("image",)
    for first in range(0, dictionary.width, PIECE):
        count = min(PIECE, dictionary.width - first)
        ones, x = like.new_zeros(count, dictionary.width), like.new_zeros(count, dictionary.d_in)
        nothing = torch.zeros_like(ones)
        ones[torch.arange(count), first + torch.arange(count)] = 1.0
        rows = like.new_zeros(count, dictionary.d_out)
        step = torch.zeros(count, dtype=torch.long)
        for one in (at,) if at is not None else [At(At.all(kind, (count,)).kind, step) for kind in kinds]:
            moved = (dictionary.decode(ones, x, one) - dictionary.decode(nothing, x, one)).to(rows)
            rows = torch.where(rows.norm(dim=1, keepdim=True) > 0, rows, moved)
        found.append(rows)
    return torch.cat(found)


def several(given: str | Path | Dictionary | Sequence[str | Path | Dictionary]) -> tuple[str | Path | Dictionary, ...]:
    """One or several, as several."""
    return (given,) if isinstance(given, str | Path | Dictionary) else tuple(given)


def by_name(given: Sequence[str | Path | Dictionary]) -> dict[str, str | Path | Dictionary]:
    """Dictionaries by the word that stands in their sites: of `WORD=DIR` the word, of others their place.

    >>> by_name(["zoo:emoji-clip-sae", "wide=runs/sae"])
    {'0': 'zoo:emoji-clip-sae', 'wide': 'runs/sae'}
    """
    found: dict[str, str | Path | Dictionary] = {}
    for at, one in enumerate(given):
        word, equals, folder = one.partition("=") if isinstance(one, str) else ("", "", "")
        named = equals and word.isidentifier() and word not in ("self", "check") and not Path(str(one)).exists()
        name: str = word if named else str(at)
        if name in found:
            raise StoreError(
                f"two dictionaries are called '{name}'", expected="a name of its own for each", exists=str(one),
                do="name them apart: wide=DIR, narrow=DIR",
            )  # fmt: skip
        found[name] = folder if named else one
    return found


def opened(given: str | Path | Dictionary) -> Dictionary:
    """A dictionary by its folder, or by its name in the zoo; one that is open as it is."""
    if not isinstance(given, str | Path):
        if not callable(getattr(given, "encode", None)):
            raise StoreError(
                f"{type(given).__name__} is no dictionary", expected="an open dictionary, its folder or its name",
                do="give each by itself, several one behind the other",
            )  # fmt: skip
        return given
    kind, wanted = parted(str(given))
    folder = Path(given)
    if kind:
        from cutaway.zoo.dictionaries import SHIPPED, folder_of

        if kind != "zoo" or wanted not in SHIPPED:
            raise StoreError(
                f"no dictionary '{given}' comes with the package", expected="a folder, or a name of the zoo",
                exists=near(str(given), [f"zoo:{one}" for one in SHIPPED]), do="name one of these",
            )  # fmt: skip
        folder = folder_of(wanted)
    found: Dictionary = import_module(OPENS).opened(folder)
    return found
