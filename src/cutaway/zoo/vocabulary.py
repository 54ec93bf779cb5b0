"""The words of `zoo:emoji-llava`: one id for each word, and one for each name of a thing, however many words it has."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from cutaway import data
from cutaway.data.claims import number_word
from cutaway.data.scene import KINDS, PATTERNS

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<|user|>", "<|assistant|>")
PAD, BEGIN, END, UNKNOWN, PICTURE, ASK, ANSWER = range(len(SPECIALS))
_SAID = """
a an the some any is are was were do does have has there to of or on in at and by it with no yes zero not
left right above below top bottom middle what where which how many kind thing things same two colour drawn artist
anything written picture show background plain gradient texture striped checked dotted from style word nothing
animal plant food drink vehicle place weather clothing sport game music object . , : ? " -
"""
_MARKS = r"\w+|[^\w\s]"


@cache
def vocabulary() -> dict[str, int]:
    """Special tokens first, then names, places and words in alphabetical order."""
    said = {*_SAID.split(), *(str(digit) for digit in range(10)), *(number_word(count) for count in range(13))}
    said |= {*data.COLOURS, *data.TINTS, *data.ARTISTS, *KINDS, *PATTERNS, *data.PLACES}
    for concept in data.concepts():
        said |= {concept.name, *_split(concept.one.replace(concept.name, " ")), *_split(concept.many)}
    return {word: index for index, word in enumerate((*SPECIALS, *sorted(said)))}


@lru_cache(maxsize=1 << 16)
def ids(text: str) -> list[int]:
    """The ids of a text without special tokens, the same ones that `tokenizer` gives."""
    table, named, words = vocabulary(), _named(), _split(text)
    found, at = [], 0
    while at < len(words):
        length = next((n for n in named.get(words[at], ()) if _joined(words[at : at + n]) in table), 1)
        found.append(table.get(_joined(words[at : at + length]), UNKNOWN))
        at += length
    return found


def tokenizer() -> Any:
    """A lower-case tokenizer over `vocabulary()`; it adds nothing of its own, the chat template does."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    several = sorted((word for word in vocabulary() if len(_split(word)) > 1 and word not in SPECIALS), key=len)[::-1]
    pattern = "|".join([rf"\b(?:{'|'.join(map(re.escape, several))})\b", _MARKS])
    backend = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=512, extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _split(text: str) -> list[str]:
    return re.findall(_MARKS, text.lower())


@lru_cache(maxsize=1 << 14)
def _join(words: tuple[str, ...]) -> str:
    return _names().get(words, words[0] if len(words) == 1 else "")


def _joined(words: list[str]) -> str:
    return _join(tuple(words))


@cache
def _names() -> dict[tuple[str, ...], str]:
    """Names of several words, by their words."""
    return {parts: word for word in vocabulary() if word not in SPECIALS and len(parts := tuple(_split(word))) > 1}


@cache
def _named() -> dict[str, tuple[int, ...]]:
    """By first word, the numbers of words that a name may have, the most first."""
    lengths: dict[str, set[int]] = {}
    for parts in _names():
        lengths.setdefault(parts[0], set()).add(len(parts))
    return {word: tuple(sorted(found, reverse=True)) for word, found in lengths.items()}
