"""The next word of a run: a word as one token, the scores of the next token, the column of a word."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import TargetError, near
from cutaway.model.own import own_positions
from cutaway.model.run import Run
from cutaway.model.sites import Site

Word = str | int | Sequence[str | int]
BLANKS = ("Ġ", "▁", " ")  # how tokenizers mark that a token begins with a blank
_found: WeakKeyDictionary[Any, dict[tuple[str, int], int]] = WeakKeyDictionary()  # words looked up before


def token_id(run: Run, word: str | int) -> int:
    """The id of a word in the tokenizer of the model that was run: `token_of`."""
    return token_of(getattr(run.context, "tokenizer", None), word)


def tokens_of(tokenizer: Any, words: Sequence[Word]) -> Int[Tensor, "row word"]:
    """The ids of several words, each one for all rows or a list, one a row; a single row where all are for all."""
    each: list[list[str | int]] = [[word] if isinstance(word, str | int | Integral) else list(word) for word in words]
    rows = max(len(column) for column in each)
    if any(len(column) not in (1, rows) for column in each):
        found = " and ".join(str(len(column)) for column in each)
        raise TargetError(f"{found} words do not pair up", expected="one word, or one a row")
    columns = [column if len(column) == rows else column * rows for column in each]
    return torch.tensor([[token_of(tokenizer, word) for word in row] for row in zip(*columns, strict=True)])


def token_of(tokenizer: Any, word: str | int) -> int:
    """The id of a word that is exactly one token, with its blank before it where the tokenizer has tokens with blanks.

    Raises TargetError for a word of several tokens, and for one that is a single token only without its blank: that is
    another token ("dog" in "hotdog"), to be meant by its number.
    """
    if not isinstance(word, str):
        return number(word, None, "token")
    if tokenizer is None:
        raise TargetError(f"'{word}' needs a tokenizer", do="give the token id as a number, or load with `processor=`")
    found, key = _found.setdefault(tokenizer, {}), (word, len(tokenizer))  # its length tells whether tokens were added
    if key not in found:
        found[key] = _looked_up(tokenizer, word)
    return found[key]


def _looked_up(tokenizer: Any, word: str) -> int:
    spaced, bare = (tokenizer.encode(form, add_special_tokens=False) for form in (f" {word.lstrip()}", word))
    for ids in (spaced, bare):
        piece = str(tokenizer.convert_ids_to_tokens(ids)[0]) if len(ids) == 1 else ""
        if ids and len(ids) == 1 and ids[0] != tokenizer.unk_token_id and (ids is spaced or piece.startswith(BLANKS)):
            return int(ids[0])
    pieces = tokenizer.convert_ids_to_tokens(spaced)
    if len(bare) == 1 and bare[0] != tokenizer.unk_token_id:
        raise TargetError(
            f"'{word}' with the blank before it is not one token but {pieces}",
            expected="a word that is one token where it follows another",
            do=f"give the id {bare[0]} to mean the token '{tokenizer.convert_ids_to_tokens(bare)[0]}', without a blank",
        )
    words = [key for key in tokenizer.get_vocab() if key.isalpha()]
    raise TargetError(
        f"'{word}' is not one token but {pieces}", expected="a word of the vocabulary",
        exists=near(word, words), do="choose a word that is one token, or give a token id",
    )  # fmt: skip


def number(wanted: Any, count: int | None, what: str) -> int:
    """A number of a class, text, token or position, of so many where that is known; anything else is an error."""
    whole = isinstance(wanted, Integral) and not isinstance(wanted, bool)
    if not whole or (count is not None and not -count <= wanted < count):
        within = "" if count is None else f" from 0 to {count - 1}, or negative"
        raise TargetError(f"no {what} {wanted!r}", expected=f"a whole number{within}")
    return int(wanted)


def of_word(scores: Float[Tensor, "batch vocab"], run: Run, word: Word) -> Float[Tensor, "batch"]:
    """The column of a word, or of each row's own."""
    if isinstance(word, str | int | Integral):
        return scores[:, number(token_id(run, word), scores.shape[1], "token")]
    if len(word) != len(scores):
        raise TargetError(f"{len(word)} words for {len(scores)} rows", expected="one word, or one a row")
    each = [number(token_id(run, one), scores.shape[1], "token") for one in word]
    return scores[torch.arange(len(scores)), torch.tensor(each, device=scores.device)]


def next_scores(run: Run, position: int = -1) -> Float[Tensor, "batch vocab"]:
    """The logits of each row at one of its own positions; negative ones count from its own end."""
    logits, position = run.logits, number(position, None, "position")
    if logits.dim() != 3:
        raise TargetError(
            f"no next word in logits of shape {tuple(logits.shape)}", expected="(batch, token, vocab)",
            do="for a classifier use label(…), for a contrastive model similarity()",
        )  # fmt: skip
    own = run.inputs.own(Site("text", None, "logits"), "token") if run.inputs.tokens else None
    if own is None or len(own) != len(logits):
        if not -logits.shape[1] <= position < logits.shape[1]:
            within = f"0 to {logits.shape[1] - 1}, or negative"
            raise TargetError(f"position {position} is out of range", expected=within)
        return logits[:, position]
    each = [mask.nonzero().flatten() for mask in own]
    places = [own_positions(position, places, "this target", "position", row) for row, places in enumerate(each)]
    from_end = torch.stack(places) - own.shape[1]  # the run may have kept the logits of its last positions only
    if int(from_end.min()) < -logits.shape[1]:
        raise TargetError(f"position {position} is not among the logits of this run", exists=f"{logits.shape[1]} each")
    return logits[torch.arange(len(logits)), from_end.to(logits.device)]
