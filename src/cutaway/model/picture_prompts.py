"""Prompts of pictures and texts for models that write: which picture belongs to which text, and where it stands."""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.chat import in_chat, template, turn
from cutaway.model.modality import Asked
from cutaway.model.table import Family
from cutaway.model.texts import TEXTS, check_length, joined, once, text_limit
from cutaway.model.tools import Tools

Pictures = list[list[Image]]
_WANTED = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "image_grid_thw", "mm_token_type_ids")


def picture_prompts(asked: Asked) -> dict[str, Tensor]:
    """Ids and pixels of one prompt a text. Each is prepared alone, so that none depends on the others in its batch.

    There is a list of pictures for each text, or plain pictures: the marks in the texts say where they belong; without
    marks each text has one, or a single text has them all.
    """
    module, family, tools, texts = asked.module, asked.family, asked.tools, asked.given["text"]
    tokenizer = asked.need(TEXTS)
    number = module.config.image_token_id
    mark = "" if number is None else str(tokenizer.convert_ids_to_tokens(number))
    if family.image_tokens == "query":  # their places are in front, whatever the text says
        texts, mark = [text.replace(mark, "").strip() if mark else text for text in texts], ""
    paired = _paired(asked.given["image"], texts, mark)
    if family.image_tokens == "query" and any(len(some) != 1 for some in paired):
        raise InputError(f"{type(module).__name__} takes one picture a text", exists=f"{max(map(len, paired))} for one")
    rows = [_row(module, family, tools, mark, some, text) for some, text in zip(paired, texts, strict=True)]
    made = joined(module, tokenizer, rows)
    check_length(made["input_ids"], text_limit(asked.towers.get("text")), texts)
    return made


def _paired(pictures: list[Any], texts: list[str], mark: str) -> Pictures:
    """The pictures of each text."""
    places = [text.count(mark) if mark else 0 for text in texts]
    nested = any(isinstance(one, list) for one in pictures)
    if nested and all(isinstance(one, list) for one in pictures) and len(pictures) == len(texts):
        paired = pictures
    elif not nested and len(texts) == 1:
        paired = [pictures]
    elif not nested and all(places) and sum(places) == len(pictures):
        left = iter(pictures)
        paired = [[next(left) for _ in range(n)] for n in places]
    elif not nested and len(pictures) == len(texts) and max(places) < 2:
        paired = [[one] for one in pictures]
    else:
        raise InputError(
            f"{len(pictures)} pictures and {len(texts)} texts do not pair up",
            expected="one picture a text, all pictures with one text, or a list of pictures a text: "
            "`image=[[a, b], [c]], text=[first, second]`",
            do=f"or mark their places in the texts with '{mark}'" if mark else "",
        )
    for text, some, n in zip(texts, paired, places, strict=True):
        if n not in (0, len(some)):
            raise InputError(
                f"'{text[:40]}' marks {n} places for {len(some)} pictures", expected=f"a '{mark}' for each, or none",
                do="without marks the pictures stand in front of the text",
            )  # fmt: skip
    return paired


def _row(module: Any, family: Family, tools: Tools, mark: str, pictures: list[Image], text: str) -> dict[str, Tensor]:
    """The tensors of one prompt, as the model's own processor makes them."""
    whole = tools.whole
    if not pictures:
        text = in_chat(tools, text)
    elif not (mark and mark in text):
        if template(tools) is not None:
            text = turn(tools, text, len(pictures))
        elif family.image_tokens in ("grid", "anyres") and family.marks:
            text = mark * len(pictures) + "\n" + text
        elif family.image_tokens == "thw":
            ends = (module.config.vision_start_token_id, module.config.vision_end_token_id)
            text = mark.join(tools.tokenizer.convert_ids_to_tokens(ends)) * len(pictures) + text
    if not pictures:
        ids = tools.tokenizer([text], return_tensors="pt")
        return once(tools.tokenizer, {name: ids[name] for name in _WANTED if name in ids}, text)
    if whole is None:
        return once(tools.tokenizer, _expanded(module, family, tools, mark, pictures, text), text)
    given = pictures if family.image_tokens == "query" else [pictures]
    made = dict(whole(images=given, text=[text], return_tensors="pt"))
    return once(tools.tokenizer, {name: made[name] for name in (*_WANTED, *family.beside) if name in made}, text)


def _expanded(
    module: Any, family: Family, tools: Tools, mark: str, pictures: list[Image], text: str
) -> dict[str, Tensor]:
    """Qwen-VL without its processor class, which demands torchvision: a mark becomes a token a patch group."""
    made = dict(tools.need("images", module)(images=pictures, return_tensors="pt"))
    merge = module.config.vision_config.spatial_merge_size
    counts = iter((made["image_grid_thw"].prod(-1) // merge**2).tolist())
    pieces = text.split(mark)
    full = pieces[0] + "".join(mark * next(counts) + piece for piece in pieces[1:])
    ids = dict(tools.tokenizer([full], return_tensors="pt"))
    ids.pop("token_type_ids", None)
    return made | ids | around_pictures(module, family, ids["input_ids"])


def around_pictures(module: Any, family: Family, ids: Tensor) -> dict[str, Tensor]:
    """What a model wants to know of ids it did not get from its processor: which of them are pictures (Qwen-VL)."""
    if family.image_tokens != "thw":
        return {}
    return {"mm_token_type_ids": (ids == module.config.image_token_id).to(torch.long)}
