"""What each position of a tower is: its kind, its picture, its place in the patch grid, its time, its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from cutaway.errors import InputError, near

TokenKind = Literal["bos", "eos", "text", "image", "audio", "frame", "query", "cls", "register", "newline", "pad"]
KINDS: tuple[str, ...] = ("", *get_args(TokenKind))  # as numbers, in stores and dictionaries: places in this list
_NUMBERS = ("image", "tile", "row", "col", "time")


@dataclass(frozen=True)
class TokenMap:
    """One row an input, one column a position. A number that does not apply is -1, a text that does not is ''.

    `image` counts the pictures of the whole input, `tile` the crops a picture is cut into (LLaVA-Next), `row` and `col`
    are in patches of this tower, `time` is in seconds (audio) or frames (video).
    """

    kind: ndarray
    image: ndarray
    tile: ndarray
    row: ndarray
    col: ndarray
    time: ndarray
    text: ndarray

    @classmethod
    def blank(cls, batch: int, tokens: int, kind: TokenKind = "text") -> TokenMap:
        """A map of one kind with no further knowledge."""
        numbers = {name: np.full((batch, tokens), -1) for name in _NUMBERS if name != "time"}
        time = np.full((batch, tokens), -1.0)
        return cls(
            np.full((batch, tokens), kind, object), **numbers, time=time, text=np.full((batch, tokens), "", object)
        )

    @classmethod
    def patches(cls, batch: int, height: int, width: int, prefix: Sequence[str] = ()) -> TokenMap:
        """One picture a row: the prefix positions, then its patches in reading order."""
        made = cls.blank(batch, len(prefix) + height * width, "image")
        made.kind[:, : len(prefix)] = list(prefix)
        made.image[:, len(prefix) :] = np.arange(batch)[:, None]
        made.row[:, len(prefix) :] = np.repeat(np.arange(height), width)
        made.col[:, len(prefix) :] = np.tile(np.arange(width), height)
        return made

    def __len__(self) -> int:
        return int(self.kind.shape[1])

    @property
    def batch(self) -> int:
        """Number of rows."""
        return int(self.kind.shape[0])

    def where(self, kind: str | None = None, **coordinates: Any) -> Bool[Tensor, "batch token"]:
        """The positions of a kind and of given coordinates (`row=3`, `col=range(2, 5)`, `image=0`, `text="dog"`)."""
        chosen = np.ones(self.kind.shape, bool) if kind is None else self.kind == kind
        for name, wanted in coordinates.items():
            if name not in (*_NUMBERS, "text"):
                raise InputError(f"token maps have no coordinate '{name}'", exists=", ".join((*_NUMBERS, "text")))
            values = [wanted] if isinstance(wanted, int | float | str) else list(wanted)
            chosen &= np.isin(getattr(self, name), values) if name != "text" else _spelled(self.text, values)
        if not chosen.any():
            kinds = sorted({str(word) for word in self.kind.ravel()})
            raise InputError(
                f"no position is {Where.of(kind, **coordinates)}",
                exists=f"positions of kind {', '.join(kinds)}" + self._texts(coordinates),
                do="print the token map (`inputs.tokens[tower]`) to see what each position is",
            )
        return torch.from_numpy(chosen)

    def grid(
        self, values: Float[Tensor, "batch token"], image: int = 0, tile: int | None = None
    ) -> Float[Tensor, "row col"]:
        """Fold one value a position back onto the patch grid of a picture (NaN where the grid has no position)."""
        here = (self.image == image) & (self.row >= 0)
        here &= self.tile == (tile if tile is not None else self.tile[here].min() if here.any() else 0)
        if not here.any():
            raise InputError(
                f"picture {image} has no patches here",
                exists=f"pictures up to {int(self.image.max())}",
                do="check `image=`",
            )
        rows, cols = self.row[here], self.col[here]
        folded = torch.full((int(rows.max()) + 1, int(cols.max()) + 1), torch.nan, dtype=values.dtype)
        folded[rows, cols] = values.detach().cpu()[torch.from_numpy(here)]
        return folded

    def at(self, batch: int, span: slice | ndarray, other: TokenMap) -> None:
        """Copy the knowledge of another one-row map onto a span of one row (used while maps are built)."""
        for item in fields(self):
            if item.name != "text":
                getattr(self, item.name)[batch, span] = getattr(other, item.name)[0]

    def __repr__(self) -> str:
        lines = [f"TokenMap({self.batch} x {len(self)})"]
        for b in range(self.batch):
            runs: list[list[Any]] = []
            for t in range(len(self)):
                word = self.text[b, t] if self.kind[b, t] not in ("image", "pad") else ""
                if runs and runs[-1][0] == self.kind[b, t] and not word:
                    runs[-1][2] = t
                else:
                    runs.append([self.kind[b, t], t, t, word])
            said = " ".join(f"{a}{'' if a == z else f'-{z}'}:{k}{f'={w!r}' if w else ''}" for k, a, z, w in runs)
            lines.append(f"  {b}: {said}")
        return "\n".join(lines)

    def _texts(self, coordinates: dict[str, Any]) -> str:
        if "text" not in coordinates:
            return ""
        words = [str(word) for word in dict.fromkeys(self.text.ravel()) if word]
        return "; texts " + near(str(coordinates["text"]), words)


def _spelled(texts: ndarray, wanted: list[Any]) -> ndarray:
    """Compare decoded text without the blanks and marks a tokenizer leaves around a word."""
    clean = {str(word).strip().lower() for word in wanted}
    return np.vectorize(lambda word: str(word).replace("</w>", "").strip(" Ġ▁").lower() in clean, otypes=[bool])(texts)


@dataclass(frozen=True)
class Where:
    """A selection by meaning, resolved on the token map of whichever tower it is used on; prints as one line.

    `Where("image", row=3)` is picklable and can be an edit's `token=`, `query=` or `key=`.

    >>> tokens = TokenMap.patches(1, 2, 3, prefix=["cls"])
    >>> Where("image", row=1).resolve(tokens).nonzero()[:, 1].tolist()
    [4, 5, 6]
    """

    kind: str | None = None
    coordinates: tuple[tuple[str, Any], ...] = field(default=())

    def __init__(self, kind: str | None = None, **coordinates: Any) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "coordinates", tuple(sorted(coordinates.items())))

    @classmethod
    def of(cls, kind: str | None, **coordinates: Any) -> Where:
        """The same, from a kind that may be None."""
        return cls(kind, **coordinates)

    def resolve(self, tokens: TokenMap) -> Bool[Tensor, "batch token"]:
        """The positions on one tower."""
        return tokens.where(self.kind, **dict(self.coordinates))

    def __repr__(self) -> str:
        words = [repr(self.kind)] if self.kind else []
        return f"Where({', '.join(words + [f'{k}={v!r}' for k, v in self.coordinates])})"


Positions = int | slice | range | Sequence[int] | Int[Tensor, "n"] | Bool[Tensor, "..."] | Where
