"""Prompts of pipelines that draw: what lies at each position of their text encoders, and beside the picture."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from cutaway.errors import SiteError
from cutaway.model.engine import Opened
from cutaway.model.geometry import text_map
from cutaway.model.seats import Tower
from cutaway.model.table import Joint
from cutaway.model.texts import check_length
from cutaway.model.tokens import TokenMap


def _encoders(pipeline: Any, towers: dict[str, Tower]) -> dict[str, Any]:
    """The tokenizer of each prompt encoder that has one, by the name of its tower."""
    names = [name for name in towers if name.split("_")[0] == "text"]
    found = {
        name: getattr(pipeline, f"tokenizer_{n}" if n > 1 else "tokenizer", None) for n, name in enumerate(names, 1)
    }
    return {name: tokenizer for name, tokenizer in found.items() if tokenizer is not None}


def longest_prompt(pipeline: Any, towers: dict[str, Tower]) -> int | None:
    """How many positions a prompt has where the encoder does not say (T5): the pipeline's own default, or what the
    tokenizer allows.
    """
    own = own_length(pipeline)
    endless = [int(t.model_max_length) for name, t in _encoders(pipeline, towers).items() if towers[name].row.endless]
    return min(own, *endless) if own and endless else None


def own_length(pipeline: Any) -> int:
    """The pipeline's own default for the longest prompt; 0 where it has none."""
    own = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    return int(own.default) if own is not None else 0


def prompt_maps(
    pipeline: Any, towers: dict[str, Tower], prompts: list[str], longest: int | None
) -> dict[str, TokenMap]:
    """The token map of each text encoder, padded as the pipeline pads; too long a prompt is an error."""
    maps: dict[str, TokenMap] = {}
    for name, tokenizer in _encoders(pipeline, towers).items():
        limit = 77 if tokenizer.model_max_length > 10_000 else int(tokenizer.model_max_length)
        if towers[name].row.endless:
            limit = longest or limit
        made = tokenizer(prompts, padding="max_length", max_length=limit, truncation=False, return_tensors="pt")
        check_length(made["input_ids"], limit, prompts)
        maps[name] = text_map(made["input_ids"], made.get("attention_mask"), tokenizer, None)
    return maps


def join(maps: dict[str, TokenMap], joint: Joint, empty: int) -> None:
    """The streams of a joint-attention transformer, each alone and as they lie behind one another."""
    picture, encoders = maps["denoiser"], [name for name in maps if name.split("_")[0] == "text"]
    read = [maps[encoders[at]] for at in joint.encoders if at < len(encoders)]
    text = _side_by_side([*read, TokenMap.blank(picture.batch, empty, "pad")])
    maps["denoiser.image"], maps["denoiser.text"] = picture, text
    maps["denoiser.joint"] = _side_by_side([text, picture] if joint.first == "text" else [picture, text])


def _side_by_side(maps: list[TokenMap]) -> TokenMap:
    return TokenMap(**{name: np.concatenate([getattr(m, name) for m in maps], 1) for name in vars(maps[0])})


def layered_encoders(model: Opened) -> list[str]:
    """The text encoders of a pipeline, all of them with sites in their layers; SiteError where one has none (T5).

    What is changed in some of the encoders that say a prompt leaves it said by the others.
    """
    engine = model.engine
    towers = [name for name in engine.towers if name.split("_")[0] == "text"]
    blind = [name for name in towers if f"{name}.0.resid_pre" not in engine.sites]
    if blind or not towers:
        raise SiteError(
            f"nothing is known of the layers of '{blind[0] if blind else 'text'}'",
            expected="a pipeline whose text encoders are CLIPs", exists=", ".join(engine.towers),
        )  # fmt: skip
    return towers
