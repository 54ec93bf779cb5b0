"""What a clean input is compared with: a word exchanged for another, Gaussian noise on embeddings or on pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.patched import Corruption
from cutaway.methods.causal_tracing.spans import Span, names, span, tokens_of
from cutaway.methods.cross_attention.spoken import Word, phrase, words
from cutaway.model.edits import Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.tokens import TokenMap
from cutaway.model.words import BLANKS

TRIES, LETTERS = 200, 3  # words that are drawn from; what is shorter (a, is, the) is not exchanged unasked


# --- words ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swap(Corruption):
    """Symmetric token replacement: a word of each row becomes another of as many tokens.

    `words` are the old and the new one, one pair for all rows or one a row. What is not said is drawn with `seed`: the
    new word from those of `pool`, and the old one from the words of the row that the pool has too.
    """

    model: Model | None = None
    tower: str = "text"
    words: tuple[tuple[str, str], ...] = ()
    pool: tuple[str, ...] = ()
    seed: int = 0

    def inputs(self, given: Inputs, start: int, draw: int) -> Inputs:
        """The same inputs with the word exchanged, in the tensors and in what is known of the positions."""
        known, ids = tokens_of(given, self.tower), given.tensors.get("input_ids")
        if not isinstance(ids, Tensor) or tuple(ids.shape) != known.kind.shape:
            raise MethodError(
                "these inputs have no words to exchange", expected="`input_ids`, a token for each position",
                exists=", ".join(given.tensors), do="give a counterfactual, or corrupt by noise",
            )  # fmt: skip
        new, told = ids.clone(), known.text.copy()
        for row in range(known.batch):
            for places, pieces in self._exchanged(known, ids, row, start):
                new[row, places] = torch.tensor(pieces, dtype=ids.dtype, device=ids.device)
                told[row, places] = self._tool.convert_ids_to_tokens(pieces)
        maps = {**given.tokens, self.tower: replace(known, text=told)}
        return replace(given, tensors={**given.tensors, "input_ids": new}, tokens=maps)

    @property
    def _tool(self) -> Any:
        tokenizer = None if self.model is None else self.model.tokenizer
        if tokenizer is None:
            raise MethodError("a word is exchanged by its tokens", expected="a tokenizer", do="load with `processor=`")
        return tokenizer

    def _exchanged(
        self, known: TokenMap, ids: Tensor, row: int, start: int
    ) -> Iterator[tuple[list[int], list[int]]]:  # fmt: skip
        """The positions of the old word, each time that it is said, and the tokens that come there."""
        said = words(known, row)
        old, new = self._pair(said, ids[row], row, start)
        if not old:  # a row that keeps its words
            return
        length = len(old.split())
        at = phrase([word.text for word in said], old)
        for first in at[::length]:
            places = [place for word in said[first : first + length] for place in word.positions]
            yield places, self._tokens(old, new, ids[row, places].tolist())

    def _pair(self, said: list[Word], ids: Tensor, row: int, start: int) -> tuple[str, str]:
        """The old and the new word of a row: as given, or drawn."""
        if len(self.words) > 1 and start + row >= len(self.words):
            raise MethodError(
                f"{len(self.words)} pairs of words for {start + row + 1} rows or more",
                expected="one for all, or one a row", do="write \"dog=cat\" for each row",
            )  # fmt: skip
        old, new = self.words[(start + row) % len(self.words)] if self.words else ("", "")
        if (old and new) or (self.words and not (old or new)):
            return old, new
        draw = np.random.default_rng([self.seed, start + row])
        pool = list(dict.fromkeys(word for text in self.pool for word in text.lower().split()))
        mine = [word for word in said if word.text.lower() == old.lower() or (
            not old and len(word.text) > LETTERS and word.text.lower() in pool)]  # fmt: skip
        for at in draw.permutation(len(mine)):
            places = list(mine[at].positions)
            for other in draw.permutation(len(pool))[:TRIES]:
                if pool[other] != mine[at].text.lower() and self._fits(
                    mine[at].text, pool[other], ids[places].tolist()
                ):
                    return mine[at].text, pool[other]
        raise MethodError(
            f"nothing to exchange in row {start + row}" + (f": '{old}' has no other word of its length" if old else ""),
            expected="a word of the text and another of as many tokens", exists=", ".join(word.text for word in said),
            do='name both: swap="dog=cat"; `pool` are texts to draw words from',
        )  # fmt: skip

    def _fits(self, old: str, new: str, ids: list[int]) -> bool:
        tokens = self._spelled(old, new, ids)
        return len(tokens) == len(ids) and tokens != ids and self._tool.unk_token_id not in tokens

    def _tokens(self, old: str, new: str, ids: list[int]) -> list[int]:
        """The tokens of the new word; MethodError where they are not as many, or it is not known."""
        tokens = self._spelled(old, new, ids)
        if len(tokens) != len(ids) or self._tool.unk_token_id in tokens:
            pieces = self._tool.convert_ids_to_tokens(tokens)
            raise MethodError(
                f"'{old}' is {len(ids)} token{'s' * (len(ids) > 1)} and '{new}' is {pieces}",
                expected="as many known tokens, so that each position keeps its place", exists=f"{ids}",
                do="choose another word, or give a counterfactual",
            )  # fmt: skip
        return tokens

    def _spelled(self, old: str, new: str, ids: list[int]) -> list[int]:
        """The new word with its blank before it where the old one has it."""
        forms = [self._tool.encode(f"{blank}{old}", add_special_tokens=False) == ids for blank in (" ", "")]
        piece = str(self._tool.convert_ids_to_tokens(ids[:1])[0])
        blank = " " if forms[0] or (not forms[1] and piece.startswith(BLANKS)) else ""
        return [int(one) for one in self._tool.encode(f"{blank}{new}", add_special_tokens=False)]


def pairs_of(swap: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Words and what they become, as they are written; "=" keeps a row as it is.

    >>> pairs_of("dog=cat"), pairs_of(["red fox = car", "dog"])
    ((('dog', 'cat'),), (('red fox', 'car'), ('dog', '')))
    """
    some = [swap] if isinstance(swap, str) else list(swap)
    split = [one.partition("=") for one in some if one.strip()]
    return tuple((old.strip(), new.strip()) for old, _, new in split)


# --- noise ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise(Corruption):
    """Gaussian noise on what enters the first block at some positions: the known-bad baseline.

    x + sigma s e, e normal and s the standard deviation of that row's embeddings at these positions. A row and a draw
    have their noise whatever else is in the batch.
    """

    site: str = "text.0.resid_pre"
    where: Span = "words"
    sigma: float = 3.0
    seed: int = 0

    def edits(self, model: Model, given: Inputs, start: int, draw: int) -> list[Edit]:
        """The noise of one draw, as an edit of the embeddings."""
        mask = span(given, self.site.split(".")[0], self.where)
        clean = model.run(given, record=self.site, stop=True)[self.site]
        if clean.dim() != 3 or clean.shape[:2] != mask.shape:
            raise MethodError(
                f"'{self.site}' holds {tuple(clean.shape)}, not a row and position of the inputs at a time",
                expected="a tower with a batch axis", do="noise on the pixels: where='pixels'",
            )  # fmt: skip
        made = clean.detach().cpu().to(torch.promote_types(clean.dtype, torch.float32), copy=True)
        for row, chosen in enumerate(mask):
            here = made[row, chosen]
            made[row, chosen] += self.sigma * here.std(correction=0) * _drawn(here, self.seed, draw, start + row)
        return [Patch(self.site, {self.site: made}, token=mask)]


@dataclass(frozen=True)
class Pixels(Corruption):
    """Gaussian noise on the pixels of every picture, in its standard deviations: the same known-bad baseline."""

    sigma: float = 3.0
    seed: int = 0

    def inputs(self, given: Inputs, start: int, draw: int) -> Inputs:
        """The inputs with noisy pictures."""
        pixels = given.tensors.get("pixel_values")
        if not isinstance(pixels, Tensor):
            raise MethodError("there are no pixels to put noise on", expected="a picture", do="name words: `where`")
        noisy = [
            one + (self.sigma * one.float().std(correction=0).cpu() * _drawn(one, self.seed, draw, start + row)).to(one)
            for row, one in enumerate(pixels)
        ]
        return replace(given, tensors={**given.tensors, "pixel_values": torch.stack(noisy)})


def _drawn(like: Tensor, seed: int, draw: int, row: int) -> Float[Tensor, "..."]:
    noise = np.random.default_rng([seed, draw, row]).standard_normal(tuple(like.shape))
    return torch.from_numpy(noise).to(torch.promote_types(like.dtype, torch.float32))


def noise(model: Model, given: Inputs, tower: str, where: Span, sigma: float, draws: int, seed: int) -> Corruption:
    """The corruption by noise that these options mean; "" puts it on the picture, else on the words."""
    if sigma < 0 or draws < 1:
        raise MethodError(
            f"noise of {sigma} standard deviations, drawn {draws} times", expected="0 or more, once or more",
            do="the defaults are 3 and 5",
        )  # fmt: skip
    if isinstance(where, str) and where == "pixels":
        return Pixels(draws, sigma, seed)
    there = names(tokens_of(given, tower))
    usual = "picture" if "picture" in there else "question" if "question" in there else "words"
    site = str(model.sites[f"{tower}.*.resid_pre"][0])  # behind the place where pictures come among the words
    chosen = usual if isinstance(where, str) and not where else where
    span(given, tower, chosen)
    return Noise(draws, site, chosen, sigma, seed)
