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


def decoder_rows(dictionary: Dictionary) -> Float[Tensor, "width d_out"]:
    """What one more of each feature adds to y: decode of it alone less decode of none, at a row that is zero.

    Of a dictionary that tells kinds of positions apart at one where the feature may be on.
    """
    found = []
    for first in range(0, dictionary.width, PIECE):
        count = min(PIECE, dictionary.width - first)
        ones = torch.zeros(count + 1, dictionary.width)
        ones[torch.arange(count), first + torch.arange(count)] = 1.0
        x = torch.zeros(count + 1, dictionary.d_in)
        rows = torch.zeros(count, dictionary.d_out)
        for kind in ("image", "text") if "kind" in dictionary.asks else ("image",):
            at = At(At.all(kind, (count + 1,)).kind, torch.zeros(count + 1, dtype=torch.long))
            made = dictionary.decode(ones, x, at)
            moved = (made[:-1] - made[-1:]).to(rows)
            rows = torch.where(rows.norm(dim=1, keepdim=True) > 0, rows, moved)
        found.append(rows)
    return torch.cat(found)


def several(given: str | Path | Dictionary | Sequence[str | Path | Dictionary]) -> tuple[str | Path | Dictionary, ...]:
    """One or several, as several."""
    return (given,) if isinstance(given, str | Path | Dictionary) else tuple(given)


def opened(given: str | Path | Dictionary) -> Dictionary:
    """A dictionary by its folder, or by its name in the zoo; one that is open as it is."""
    if not isinstance(given, str | Path):
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
