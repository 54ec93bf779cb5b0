"""The words of prompts: which positions of a tower's text are one word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.tokens import TokenMap

_BEGINS, _ENDS = ("▁", "Ġ"), "</w>"  # marks of tokenizers at the first and behind the last piece of a word


class Word(NamedTuple):
    """A word of a row: its text, and its positions."""

    text: str
    positions: tuple[int, ...]


def words(tokens: TokenMap, row: int) -> list[Word]:
    """The words of one row in order, pieces of one word together.

    >>> import numpy as np
    >>> tokens = TokenMap.blank(1, 4)
    >>> tokens.text[0] = np.array(["a</w>", "ele", "phant</w>", ".</w>"], object)
    >>> [word.text for word in words(tokens, 0)], words(tokens, 0)[1].positions
    (['a', 'elephant', '.'], (1, 2))
    """
    here = [at for at in range(len(tokens)) if tokens.kind[row, at] == "text"]
    pieces = [str(tokens.text[row, at]) for at in here]
    ending, beginning = any(_ENDS in one for one in pieces), any(one.startswith(_BEGINS) for one in pieces)
    found: list[Word] = []
    for at, piece in zip(here, pieces, strict=True):
        before = str(tokens.text[row, found[-1].positions[-1]]) if found else ""
        apart = not found or found[-1].positions[-1] != at - 1
        new = not before.endswith(_ENDS) if ending else not piece.startswith(_BEGINS) if beginning else False
        clean = piece.replace(_ENDS, "").strip("".join(_BEGINS) + " ")
        if new and not apart:
            found[-1] = Word(found[-1].text + clean, (*found[-1].positions, at))
        else:
            found.append(Word(clean, (at,)))
    return found


def phrase(said: Sequence[str], text: str) -> list[int]:
    """The places of a word, or of several in a row, among the words of a prompt; of all times it is said.

    >>> phrase(["a", "cat", "face", "on", "a", "mat"], "cat face")
    [1, 2]
    """
    wanted = text.lower().split()
    starts = [at for at in range(len(said)) if [one.lower() for one in said[at : at + len(wanted)]] == wanted]
    if not starts or not wanted:
        raise MethodError(
            f"'{text}' is not a word of the prompt", expected="a word of it, or several in a row",
            exists=", ".join(said), do="name one of these",
        )  # fmt: skip
    return [at + step for at in starts for step in range(len(wanted))]


def positions_of(tokens: TokenMap, text: str) -> Bool[Tensor, "row position"]:
    """Where a word, or several in a row, are in each prompt."""
    mask = torch.zeros(tokens.kind.shape, dtype=torch.bool)
    for row in range(tokens.batch):
        spoken = words(tokens, row)
        for place in phrase([word.text for word in spoken], text):
            mask[row, list(spoken[place].positions)] = True
    return mask


def sums(rows: list[list[Word]], positions: int) -> Float[Tensor, "row word position"]:
    """What adds up the positions of each word; a row with fewer words than others has none behind its end."""
    made = torch.zeros(len(rows), max(map(len, rows)), positions)
    for row, spoken in enumerate(rows):
        for at, word in enumerate(spoken):
            made[row, at, list(word.positions)] = 1
    return made
