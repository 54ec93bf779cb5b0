"""Numbers at the positions of a run: laid out by prompt and token, folded on pictures, tokens spelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray
from jaxtyping import Int
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.logit_lens.heard import Heard
from cutaway.methods.result import Result
from cutaway.model.inputs import Inputs
from cutaway.model.tokens import TokenMap

AXES = ("prompt", "layer", "token")
KNOWN = {"token_kind": "kind", "token_text": "text", "image": "image", "tile": "tile", "row": "row", "col": "col"}


@dataclass(frozen=True, eq=False, repr=False)
class Positions(Result):
    """Variables over (prompt, token) and more, with what is known of each position.

    Positions are those of each row, padding left out; a shorter row has nothing behind its end: "", NaN, and -1 for
    whole numbers.
    """

    def on_grid(
        self, name: str = "entropy", prompt: int = 0, image: int | None = None, tile: int | None = None
    ) -> xarray.DataArray:
        """A variable at the positions of one picture, folded on its grid: (…, row, col).

        The first picture of the prompt, and the first crop of it, unless their numbers are given.
        """
        values, places = self[name], self.places(prompt, image, tile)
        if "token" not in values.dims or not places.size:
            raise MethodError(
                f"'{name}' has no picture to lie on in prompt {prompt}",
                expected="a variable over tokens, of a prompt with a picture whose positions lie on a grid",
                exists=", ".join(map(str, values.dims)), do="print `result['token_kind']` to see what there is",
            )  # fmt: skip
        if "prompt" in values.dims:
            values = values.isel(prompt=prompt)
        kept = values.transpose("token", ...).values
        folded = kept[places]
        folded[places < 0] = nothing(kept)
        others = [dim for dim in values.dims if dim not in ("prompt", "token")]
        made = xarray.DataArray(folded, dims=("row", "col", *others), coords={d: self[d] for d in others}, name=name)
        return made.transpose(*others, "row", "col")

    def places(self, prompt: int = 0, image: int | None = None, tile: int | None = None) -> Int[ndarray, "row col"]:
        """The positions of one picture on its grid, -1 where there is none; of no size without a picture."""
        known = {word: self[word].isel(prompt=prompt).values for word in ("image", "tile", "row", "col")}
        here = known["row"] >= 0
        for word, wanted in (("image", image), ("tile", tile)):
            here &= known[word] == (known[word][here].min(initial=10**9) if wanted is None else wanted)
        rows, cols = known["row"][here], known["col"][here]
        made = np.full((rows.max(initial=-1) + 1, cols.max(initial=-1) + 1), -1)
        made[rows, cols] = np.flatnonzero(here)
        return made

    @property
    def lengths(self) -> list[int]:
        """How many positions each prompt has."""
        return [int(count) for count in (self["token_kind"] != "").sum("token")]


class Spelling:
    """Tokens as texts; each is decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.known = tokenizer, {-1: ""}

    def __call__(self, token: int) -> str:
        """The text of a token; "" for -1, which stands where there is none."""
        if token not in self.known:
            said = f"token {token}" if self.tokenizer is None else str(self.tokenizer.decode([token]))
            self.known[token] = said.replace("\0", "\\0")  # no file of labelled arrays holds it
        return self.known[token]


def laid(heard: Heard, values: ndarray) -> ndarray:
    """(layer, position, …) as (prompt, layer, token, …), each row's own positions from 0 on."""
    own = heard.own.numpy()
    rows, _ = own.nonzero()
    numbers = (own.cumsum(1) - 1)[own]
    values = np.moveaxis(values, 0, 1)
    made = np.full((len(own), own.sum(1).max(), *values.shape[1:]), nothing(values), values.dtype)
    made[rows, numbers] = values
    return np.moveaxis(made, 1, 2)


def nothing(values: ndarray) -> Any:
    """What stands where there is no position: "" for texts, -1 for whole numbers, else NaN."""
    return {"U": "", "O": "", "i": -1}.get(values.dtype.kind, np.nan)


def known(heard: Heard, inputs: Inputs, tower: str) -> dict[str, Any]:
    """What is known of each position: its kind and text, and the place in its picture."""
    there = inputs.tokens.get(tower) or TokenMap.blank(*heard.own.shape)
    made = {}
    for name, field in KNOWN.items():
        column = getattr(there, field)[heard.own.numpy()]
        column = column.astype(str) if column.dtype.kind == "O" else column
        made[name] = ("prompt", "token"), laid(heard, column[None])[:, 0]
    return made


def plain(word: Any) -> str:
    """A token as it is shown: without the blanks around it, and never as nothing."""
    return str(word).strip() or repr(str(word))
