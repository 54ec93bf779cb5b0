"""Inputs in which the answer stands behind the prompt already, so that its probability is read off one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cutaway.errors import InputError
from cutaway.model.engine import Engine
from cutaway.model.generate import begun
from cutaway.model.geometry import token_maps
from cutaway.model.inputs import Inputs, as_list
from cutaway.model.texts import PER_TOKEN, check_length, placed, text_limit, writes

Answer = str | Int[Tensor, "token"] | Int[Tensor, "row token"]
# What stands at the places of an answer in tensors along the prompt; 1 tells PaliGemma that these are written.
BEHIND = {"attention_mask": 1, "token_type_ids": 1}


def answered(engine: Engine, inputs: Inputs, answers: Answer | Sequence[Answer]) -> Inputs:
    """The inputs with an answer behind each prompt, one a row or one for all; padding is in front.

    `inputs.answers` is how many tokens each has. Raises InputError for a model that does not go on from its prompt.
    """
    module: Any = engine.module
    if not writes(module) or "input_ids" not in inputs.tensors:
        raise InputError(
            f"{type(module).__name__} does not go on from a prompt", expected="a decoder with `text=` and `answer=`",
            do="" if writes(module) else "for an encoder-decoder pass `decoder_input_ids=` and read `log_prob`",
        )  # fmt: skip
    inputs = begun(module, engine.towers, inputs)
    ids, given = inputs.tensors["input_ids"], one_by_one(answers)
    if len(given) not in (1, len(ids)):
        raise InputError(f"{len(given)} answers to {len(ids)} prompts", expected="one for all, or one a prompt")
    written = [_ids(engine, one).to(ids.device) for one in given] * (1 if len(given) == len(ids) else len(ids))
    mask = inputs.tensors.get("attention_mask", torch.ones_like(ids)).bool()
    tensors = {name: value for name, value in inputs.tensors.items() if name != "position_ids"}
    along = {"attention_mask": mask.to(ids), **{name: tensors[name] for name in PER_TOKEN if name in tensors}}
    for name, value in along.items():
        rows = [
            torch.cat([own[seen], behind if name == "input_ids" else torch.full_like(behind, BEHIND.get(name, 0))])
            for own, seen, behind in zip(value, mask, written, strict=True)
        ]
        filler = _pad(engine.tokenizer) if name == "input_ids" else 0
        tensors[name] = pad_sequence(rows, batch_first=True, padding_value=filler, padding_side="left")
    check_length(tensors["input_ids"], text_limit(engine.towers.get("text")), [""] * len(ids))
    tensors = placed(module, tensors)
    maps = token_maps(engine.towers, engine.family, module, tensors, engine.tokenizer, engine.tools.sounds)
    return replace(inputs, tensors=tensors, tokens=maps, answers=tuple(len(one) for one in written))


def one_by_one(answers: Any) -> list[Answer]:
    """The answers one by one; a table of tokens has one in each row."""
    given = list(answers) if isinstance(answers, Tensor) and answers.dim() == 2 else as_list(answers)
    odd = [one for one in given if not isinstance(one, str) and not (isinstance(one, Tensor) and _whole(one))]
    if odd:
        raise InputError(
            f"no answer in {odd[0]!r}", expected="words, or their tokens as a tensor of whole numbers, (token,)",
            do='`answer="a red dog"`, `answer=torch.tensor([16, 177, 123])`; one for all, or a list of one a prompt',
        )  # fmt: skip
    return given


def _whole(tokens: Tensor) -> bool:
    return tokens.dim() == 1 and not tokens.is_floating_point() and not tokens.is_complex()


def _ids(engine: Engine, answer: Answer) -> Int[Tensor, "token"]:
    """The tokens of an answer, with a blank before it as behind a prompt."""
    if isinstance(answer, Tensor):
        ids = answer.long()
    else:
        tokenizer = engine.tools.need("tokenizer", engine.module)
        ids = torch.tensor(tokenizer.encode(f" {answer.lstrip()}", add_special_tokens=False), dtype=torch.long)
    if not len(ids):
        raise InputError(f"the answer {answer!r} has no token", expected="a word at least")
    return ids


def _pad(tokenizer: Any) -> int:
    return int(getattr(tokenizer, "pad_token_id", None) or 0)
