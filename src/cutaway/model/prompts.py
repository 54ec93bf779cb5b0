"""Prompts of pipelines that draw: the call of the pipeline, and what lies at each position of its towers."""

from __future__ import annotations

import inspect
import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from cutaway.errors import InputError
from cutaway.model.calls import Pipeline
from cutaway.model.geometry import text_map
from cutaway.model.inputs import Inputs, as_list
from cutaway.model.seats import Tower
from cutaway.model.table import Joint
from cutaway.model.texts import a_text, check_length
from cutaway.model.tokens import TokenMap


def prepare_prompt(
    pipeline: Any, towers: dict[str, Tower], *, prompt: Any, negative: Any, seed: Any, steps: Any, guidance: Any,
    size: Any,
) -> Inputs:  # fmt: skip
    """The call of a pipeline and the token maps of its prompt and of its latent picture; a prompt may be empty."""
    prompts, against = ([a_text(one) for one in as_list(some)] for some in (prompt, negative))
    if not prompts:
        raise InputError("nothing to draw", expected="`prompt=`", do="see `help(model.inputs)`")
    if len(against) not in (0, 1, len(prompts)):
        raise InputError(f"{len(prompts)} prompts and {len(against)} negative ones", expected="one, or one a prompt")
    _check_numbers(seed, steps, guidance)
    if "denoiser" not in towers:
        raise InputError(
            f"nothing is known of the denoiser of {type(pipeline).__name__}", expected="one with a row in the tables",
            exists=f"the towers {', '.join(towers) or 'none'}",
            do="hold edits with `model.edited(…)` while you call the pipeline; docs/adding-a-model.md adds the row",
        )  # fmt: skip
    denoiser = towers["denoiser"].module
    factor = int(pipeline.vae_scale_factor)
    config: Any = denoiser.config
    joint = towers["denoiser"].row.joint
    patch = (joint.patch if joint else 0) or int(getattr(config, "patch_size", None) or 1)
    unit = factor * patch if joint else math.lcm(factor, 8)
    side = getattr(pipeline, "default_sample_size", None) or config.sample_size if size is None else 0
    size = (int(side) * factor, int(side) * factor) if size is None else size
    pair = isinstance(size, list | tuple) and len(size) == 2 and all(map(_whole, size))
    if not pair or any(side < unit or side % unit for side in size):
        raise InputError(f"a picture of size {size}", expected=f"(height, width) in pixels, both multiples of {unit}")
    height, width = size
    call: dict[str, Any] = {
        "prompt": prompts, "num_inference_steps": steps, "guidance_scale": guidance, "height": height, "width": width,
        "seed": seed,
    }  # fmt: skip
    if against:
        call["negative_prompt"] = against * (len(prompts) if len(against) == 1 else 1)
    grid = (height // factor // patch, width // factor // patch)
    longest = _longest_prompt(pipeline, towers)
    if longest:
        call["max_sequence_length"] = longest
    maps = prompt_maps(pipeline, towers, prompts, longest)
    maps["denoiser"] = TokenMap.patches(len(prompts), *grid)
    if joint:
        _join(maps, joint, _own_length(pipeline) if joint.gap and getattr(pipeline, joint.gap) is None else 0)
    return Inputs(call, maps, (), Pipeline(), grid)


def _whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _check_numbers(seed: Any, steps: Any, guidance: Any) -> None:
    if not _whole(steps) or steps < 1:
        raise InputError(f"{steps!r} denoising steps", expected="a whole number, at least one")
    if not _whole(seed):
        raise InputError(f"`seed=` cannot be {seed!r}", expected="a whole number")
    if not isinstance(guidance, Real) or not math.isfinite(guidance):
        raise InputError(f"`guidance=` cannot be {guidance!r}", expected="a number; 1 draws without guidance")


def _encoders(pipeline: Any, towers: dict[str, Tower]) -> dict[str, Any]:
    """The tokenizer of each prompt encoder that has one, by the name of its tower."""
    names = [name for name in towers if name.split("_")[0] == "text"]
    found = {
        name: getattr(pipeline, f"tokenizer_{n}" if n > 1 else "tokenizer", None) for n, name in enumerate(names, 1)
    }
    return {name: tokenizer for name, tokenizer in found.items() if tokenizer is not None}


def _longest_prompt(pipeline: Any, towers: dict[str, Tower]) -> int | None:
    """How many positions a prompt has where the encoder does not say (T5): the pipeline's own default, or what the
    tokenizer allows.
    """
    own = _own_length(pipeline)
    endless = [int(t.model_max_length) for name, t in _encoders(pipeline, towers).items() if towers[name].row.endless]
    return min(own, *endless) if own and endless else None


def _own_length(pipeline: Any) -> int:
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


def _join(maps: dict[str, TokenMap], joint: Joint, empty: int) -> None:
    """The streams of a joint-attention transformer, each alone and as they lie behind one another."""
    picture, encoders = maps["denoiser"], [name for name in maps if name.split("_")[0] == "text"]
    read = [maps[encoders[at]] for at in joint.encoders if at < len(encoders)]
    text = _side_by_side([*read, TokenMap.blank(picture.batch, empty, "pad")])
    maps["denoiser.image"], maps["denoiser.text"] = picture, text
    maps["denoiser.joint"] = _side_by_side([text, picture] if joint.first == "text" else [picture, text])


def _side_by_side(maps: list[TokenMap]) -> TokenMap:
    return TokenMap(**{name: np.concatenate([getattr(m, name) for m in maps], 1) for name in vars(maps[0])})
