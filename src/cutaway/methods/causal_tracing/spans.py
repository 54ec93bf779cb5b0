"""Positions by what they are: the picture, the question, the last token, a word, a row of the picture; edges of two."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.errors import InputError, MethodError, near
from cutaway.methods.cross_attention.spoken import positions_of, words
from cutaway.model.inputs import Inputs
from cutaway.model.own import own_positions
from cutaway.model.sites import Site
from cutaway.model.tokens import Positions, TokenMap, Where

Span = Positions | str
_PLACE = re.compile(r"(row|column) (\d+)")
SEEN = ("image", "frame")


def _question(known: TokenMap, own: Bool[Tensor, "row token"]) -> Any:
    """Words but for the last position of each row, and for what a template puts in front of a picture."""
    text, seen = known.kind == "text", np.isin(known.kind, SEEN)
    behind = (np.cumsum(seen, 1) > 0) | ~seen.any(1, keepdims=True)
    return text & behind & ~_last(known, own)


def _last(known: TokenMap, own: Bool[Tensor, "row token"]) -> Any:
    """The last of the row's own positions."""
    kept = own.numpy()
    return kept & (np.cumsum(kept[:, ::-1], 1)[:, ::-1] == 1)


# What a span may be called, beside a word of the text, `row 3` and `column 2`.
NAMED: Mapping[str, Callable[[TokenMap, Bool[Tensor, "row token"]], Any]] = {
    "picture": lambda known, _: np.isin(known.kind, SEEN),
    "question": _question,
    "words": lambda known, _: known.kind == "text",
    "last": _last,
    "class": lambda known, _: known.kind == "cls",
    "end": lambda known, _: known.kind == "eos",
    "first": lambda known, own: own.numpy() & (np.cumsum(own.numpy(), 1) == 1),
    "all": lambda _, own: own.numpy(),
}


def own_of(inputs: Inputs, known: TokenMap, tower: str) -> Bool[Tensor, "row token"]:
    """Which positions of a tower are each row's own: all that the model's mask does not hide."""
    own = inputs.own(Site(tower, None, "embed"), "token")
    return torch.ones(known.kind.shape, dtype=torch.bool) if own is None else own


def span(inputs: Inputs, tower: str, chosen: Span) -> Bool[Tensor, "row token"]:
    """The positions of a span in every row of a tower; MethodError where a row has none.

    >>> import cutaway
    >>> inputs = cutaway.load("tiny:llama").inputs(text="a red dog")
    >>> [span(inputs, "text", name)[0].nonzero().flatten().tolist() for name in ("last", "red", "question", [0, -1])]
    [[3], [2], [1, 2], [0, 3]]
    """
    known = tokens_of(inputs, tower)
    own = own_of(inputs, known, tower)
    mask = _resolved(known, own, chosen) & own
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise MethodError(
            f"row {empty[0]} has no position for {chosen!r} in its '{tower}' tower", expected="a position in every row",
            exists=", ".join(names(known, empty[0])), do="name one of these, or positions by number or `Where(…)`",
        )  # fmt: skip
    return mask


def tokens_of(inputs: Inputs, tower: str) -> TokenMap:
    """What each position of a tower is; MethodError where that is not known."""
    if tower not in inputs.tokens:
        raise MethodError(
            f"nothing is known of the positions of '{tower}'", expected="a tower with a token map",
            exists=near(tower, inputs.tokens), do="name one of these: `tower=`",
        )  # fmt: skip
    return inputs.tokens[tower]


def names(known: TokenMap, row: int = 0) -> list[str]:
    """What spans of a row may be called: those of a name, then its words."""
    here = TokenMap(**{name: column[row : row + 1] for name, column in vars(known).items()})
    own = torch.from_numpy(here.kind != "pad")
    found = [name for name, mask in NAMED.items() if mask(here, own).any()]
    said = [word.text for word in words(here, 0)]
    return [*found, *dict.fromkeys(f"'{one}'" for one in said if one and one not in found)]


def _resolved(known: TokenMap, own: Bool[Tensor, "row token"], chosen: Span) -> Bool[Tensor, "row token"]:
    if isinstance(chosen, str) and chosen in NAMED:
        return torch.from_numpy(np.asarray(NAMED[chosen](known, own), bool))
    if isinstance(chosen, str) and (place := _PLACE.fullmatch(chosen)):
        grid = known.row if place[1] == "row" else known.col
        return torch.from_numpy(np.asarray(grid == int(place[2])))
    if isinstance(chosen, str):
        return positions_of(known, chosen)
    if isinstance(chosen, Where):
        try:
            return chosen.resolve(known)
        except InputError:
            return torch.zeros(own.shape, dtype=torch.bool)
    if isinstance(chosen, Tensor) and chosen.dtype == torch.bool and chosen.dim() == 2:
        if chosen.shape != own.shape:
            raise MethodError(
                f"a mask of shape {tuple(chosen.shape)}", expected=f"one over rows and positions, {tuple(own.shape)}"
            )
        return chosen.cpu()
    mask = torch.zeros(own.shape, dtype=torch.bool)
    for row, kept in enumerate(own):
        mask[row, own_positions(chosen, kept.nonzero().flatten(), "a span", "token", row)] = True
    return mask


def seen_by(inputs: Inputs, known: TokenMap, tower: str, causal: bool) -> Bool[Tensor, "row query key"]:
    """Which keys each query of a tower may look at: the row's own, and in a decoder none behind itself."""
    own = own_of(inputs, known, tower)
    whole = own[:, :, None] & own[:, None, :]
    return whole.tril() if causal else whole


def as_many(
    visible: Bool[Tensor, "row query key"], query: Bool[Tensor, "row query"], key: Bool[Tensor, "row key"],
    seed: Sequence[int],
) -> Bool[Tensor, "row key"]:  # fmt: skip
    """Keys drawn by chance, of those that the queries of a row see, with as many edges as the given keys have.

    To within one key: keys that only some of the queries see have fewer edges.
    """
    made = torch.zeros_like(key)
    for row in range(len(key)):
        counts = edges(visible[row : row + 1], query[row : row + 1]).squeeze(0)
        wanted = int(counts[key[row]].sum())
        open_to = counts.nonzero().flatten().numpy()
        order = np.random.default_rng([*seed, row]).permutation(open_to)
        total = np.cumsum(counts[order].numpy())
        made[row, order[: int(np.argmin(abs(total - wanted))) + 1]] = True
    return made


def edges(visible: Bool[Tensor, "row query key"], query: Bool[Tensor, "row query"]) -> Int[Tensor, "row key"]:
    """How many of the queries see each key."""
    return (visible & query[:, :, None]).sum(1)
