"""Texts as token ids: one row a text, padded so that each row is read as it would be read alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cutaway.errors import InputError
from cutaway.model.inputs import as_list
from cutaway.model.modality import Asked, Modality
from cutaway.model.seats import Tower
from cutaway.model.towers import READ_THEIR_PADDING

Rows = Sequence[dict[str, Tensor]]
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids")


def a_text(source: Any) -> str:
    """The text, which may be empty; anything else is an error."""
    if not isinstance(source, str):
        raise InputError(f"a text cannot be of type {type(source).__name__}", expected="a string or a list of strings")
    return source


def _made(asked: Asked) -> dict[str, Any]:
    """Token ids of texts for the encoder or else the first tower that takes ids."""
    module, towers, texts, tokenizer = asked.module, asked.towers, asked.given["text"], asked.need(TEXTS)
    tower = towers.get("encoder") or next((tower for tower in towers.values() if tower.tokens == "ids"), None)
    limit = text_limit(tower)
    if type(module).__name__ in READ_THEIR_PADDING:
        options = {"padding": "max_length", "max_length": limit, "padding_side": "right"}
        made = dict(tokenizer(texts, return_tensors="pt", truncation=False, **options))
        made.pop("attention_mask", None)
    else:
        rows = tokenizer(texts, truncation=False)
        rows.pop("token_type_ids", None) if tower is not None and tower.causal else None
        each = [{name: torch.tensor([rows[name][i]]).long() for name in rows} for i in range(len(texts))]
        made = joined(module, tokenizer, [once(tokenizer, *pair) for pair in zip(each, texts, strict=True)])
    check_length(made["input_ids"], limit, texts)
    if getattr(module.config, "is_encoder_decoder", False):
        made["decoder_input_ids"] = torch.full((len(texts), 1), module.config.decoder_start_token_id)
    return made


def _read(text: Any) -> list[str]:
    return [a_text(one) for one in as_list(text)]


TEXTS = Modality("text", called="text", tool="tokenizer", tokens=("ids",), read=_read, make=_made)


def text_limit(tower: Tower | None) -> int | None:
    """How many positions a text tower has, where its config says so."""
    config = getattr(tower.module, "config", None) if tower else None
    for name in ("max_position_embeddings", "n_positions", "max_target_positions"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return None


def check_length(ids: Tensor, limit: int | None, texts: list[str]) -> None:
    """Raise when a text has more tokens than its tower has positions."""
    if limit is not None and ids.shape[1] > limit:
        longest = max(texts, key=len)
        raise InputError(
            f"'{longest[:40]}{'…' if len(longest) > 40 else ''}' is {ids.shape[1]} tokens long",
            expected=f"at most {limit} tokens, the length of the text tower",
            do="shorten it; cutaway never truncates silently",
        )


def joined(module: Any, tokenizer: Any, rows: Rows) -> dict[str, Tensor]:
    """Prompts of one row each as one batch: what lies along the prompt is padded, pictures lie behind one another.

    A model that writes is padded on the side its tokenizer names, any other at the end, so that its first token has the
    first position. Any token serves as padding: it lies under the mask.
    """
    lengths = {row["input_ids"].shape[1] for row in rows}
    if 0 in lengths:
        raise InputError(
            "an empty text has no token here",
            expected="at least one token: this tokenizer adds none by itself",
            do=f"write its start by hand: `text={tokenizer.bos_token or tokenizer.eos_token or 'a'!r}`",
        )
    if len(lengths) > 1 and _takes(module, "attention_mask"):
        rows = [{"attention_mask": torch.ones_like(row["input_ids"])} | row for row in rows]
    fill = next((n for n in (tokenizer.pad_token_id, tokenizer.eos_token_id) if n is not None), 0)
    side = tokenizer.padding_side if writes(module) else "right"
    made = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if name in PER_TOKEN:
            parts = [row.get(name, torch.zeros_like(row["input_ids"]))[0] for row in rows]
            value = fill if name == "input_ids" else 0
            made[name] = pad_sequence(parts, batch_first=True, padding_value=value, padding_side=side)
        else:
            made[name] = torch.cat(_even([row[name] for row in rows if name in row]))
    return placed(module, made)


def once(tokenizer: Any, row: dict[str, Tensor], text: str) -> dict[str, Tensor]:
    """A start or end that stands in the text and that the tokenizer adds as well, once."""
    ids = row["input_ids"][0]
    keep = torch.ones_like(ids, dtype=torch.bool)
    names = ("bos_token", "cls_token", "eos_token", "sep_token")
    tokens: set[str] = {getattr(tokenizer, name, None) or "" for name in names} - {""}
    for token in tokens:
        if token not in text:
            continue
        same = ids == tokenizer.convert_tokens_to_ids(token)
        if text.count(token) < same.sum():
            keep[(same[1:] & same[:-1]).nonzero().flatten()[:1]] = False
    return {name: value[:, keep] if name in PER_TOKEN else value for name, value in row.items()}


def _even(parts: list[Tensor]) -> list[Tensor]:
    """Pictures cut into different numbers of crops, filled up with blank ones, as the library's own processor does."""
    if len({part.shape[1:] for part in parts}) == 1:
        return parts
    most = max(part.shape[1] for part in parts)
    return [torch.cat([p, p.new_zeros(len(p), most - p.shape[1], *p.shape[2:])], 1) for p in parts]


def writes(module: Any) -> bool:
    """Whether a model goes on from its prompt with a decoder alone."""
    can = getattr(module, "can_generate", None)
    return can is not None and bool(can()) and not getattr(module.config, "is_encoder_decoder", False)


def _takes(module: Any, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def placed(module: Any, made: dict[str, Any]) -> dict[str, Any]:
    """With positions counted from each row's first token where padding lies in front, as the library's `generate` has.

    Models with positions in several parts (Qwen-VL) find them in the mask by themselves.
    """
    mask = made.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool(mask[:, 0].all()) or not writes(module):
        return made
    if not _takes(module, "position_ids") or _takes(module, "image_grid_thw"):
        return made
    return made | {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


# --- prepared ids -----------------------------------------------------------------------------------------------------


def padding(
    ids: Int[Tensor, "batch token"], pad: int | None, bos: int | None, eos: int | None
) -> Bool[Tensor, "batch token"]:
    """Which ids are padding: those at both ends of a row, less the end (or start) itself where it is the same token."""
    same = ids == pad if pad is not None else torch.zeros_like(ids, dtype=torch.bool)
    behind, before = (same.flip(1).long().cumprod(1).flip(1).bool(), same.long().cumprod(1).bool())
    whole = behind.all(1, keepdim=True)
    first, last = behind.long().cumsum(1) == 1, before.sum(1, keepdim=True) == before.long().cumsum(1)
    behind = behind & ~(first & (whole | (pad == eos)))
    before = before & ~whole & ~(last & (pad == bos))
    return before | behind


def completed(module: Any, tokenizer: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Prepared tensors with what a row needs to be read as if alone: a mask for the padding at the ends of its ids, and
    positions that do not count the padding in front, for models whose positions are not rotary. Else as they are.
    """
    ids = tensors.get("input_ids")
    if ids is not None and "attention_mask" not in tensors and _takes(module, "attention_mask"):
        hidden = _hidden(module, tokenizer, ids)
        tensors = tensors | {"attention_mask": (~hidden).long()} if bool(hidden.any()) else tensors
    config: Any = getattr(module, "config", None)
    spoken = config.get_text_config() if hasattr(config, "get_text_config") else config
    rotary = getattr(spoken, "rope_parameters", None) is not None
    return tensors if rotary or "position_ids" in tensors else placed(module, tensors)


def _hidden(module: Any, tokenizer: Any, ids: Int[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
    """Which prepared ids are padding; an error where nothing tells padding from a start."""
    config = getattr(module, "generation_config", None) or getattr(module, "config", None)
    pad, bos, eos = (
        next((n for n in (getattr(t, f"{kind}_token_id", None) for t in (tokenizer, config)) if n is not None), None)
        for kind in ("pad", "bos", "eos")
    )
    eos = eos[0] if isinstance(eos, list) else eos
    pad = eos if pad is None else pad
    leading = (ids == pad).long().cumprod(1).sum(1).tolist() if pad is not None and pad == bos else []
    if len(set(leading)) > 1:
        raise InputError(
            f"`input_ids=` begins with {leading} of token {pad}, which is both the start and the padding here",
            expected="`attention_mask=` beside it", do="what `model.generate` wrote has it as `mask`",
        )  # fmt: skip
    return padding(ids, pad, bos, eos)
