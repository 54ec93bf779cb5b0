"""Writing text under edits: the library's own `generate`, from a batch in which every prompt stands as if alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.errors import CutawayError, InputError
from cutaway.model.engine import Edits, Engine
from cutaway.model.inputs import Inputs
from cutaway.model.run import Generation
from cutaway.model.seats import Tower
from cutaway.model.texts import PER_TOKEN, padding, text_limit, writes
from cutaway.model.tokens import TokenMap

_COUNTS = {"max_new_tokens": 1, "max_length": 1, "num_beams": 1, "num_return_sequences": 1, "min_new_tokens": 0}
_STARTS = ("language", "task", "prompt_ids")


def generate(engine: Engine, inputs: Inputs, edits: Edits, options: Mapping[str, Any]) -> Generation:
    """What a model writes after the prompts of `inputs`, under edits, with the options of the library's `generate`."""
    module: Any = engine.module
    if not hasattr(module, "generate"):
        raise InputError(f"{type(module).__name__} writes no text", do="use `model.run`; pipelines draw with it")
    start = begun(module, engine.towers, inputs)
    _check_options(options, start)
    checked = [*(options.get("logits_processor") or ()), _checked]
    asked = {**options, "logits_processor": checked} if _padded(start) else options
    with torch.no_grad(), engine.edited(edits, start):
        try:
            outputs = module.generate(**start.tensors, **asked)
        except CutawayError:
            raise
        except (ValueError, TypeError, IndexError) as error:
            limit = text_limit(engine.towers.get("text"))
            raise InputError(
                f"`generate` of {type(module).__name__} did not take these inputs and options: {str(error)[:200]}",
                expected="the options of the library's own `generate`"
                + (f" within {limit} positions" if limit else ""),
                exists=", ".join(f"{name}={value!r}"[:60] for name, value in options.items()) or "no option",
                do="run `model.module.generate` with the same tensors to see where it stops",
            ) from error
    ids = outputs if isinstance(outputs, Tensor) else outputs["sequences"]
    skip = _prompt_length(engine, start, outputs, options)
    texts = (
        engine.tokenizer.batch_decode(ids[:, skip:], skip_special_tokens=True) if engine.tokenizer is not None else ()
    )
    return Generation(ids, tuple(texts), start, _mask(module, start, ids, skip, options), outputs)


def begun(module: Any, towers: Mapping[str, Tower], inputs: Inputs) -> Inputs:
    """The inputs as a text is written on from: nothing that nobody asked for, padding in front of each row."""
    tensors = {name: value for name, value in inputs.tensors.items() if name not in inputs.unasked}
    inputs = replace(inputs, tensors=tensors)
    if not writes(module):
        hidden = tensors.get("decoder_attention_mask")
        if hidden is not None and not bool(hidden.all()):
            raise InputError(
                "these beginnings of the decoder have different lengths", expected="one length in a batch",
                do="write them one by one",
            )  # fmt: skip
        return inputs
    mask = tensors.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool(mask[:, -1].all()):
        return inputs
    return _moved(inputs, towers, mask.flip(1).long().cumsum(1).eq(0).sum(1))


def _moved(inputs: Inputs, towers: Mapping[str, Tower], pads: Int[Tensor, "batch"]) -> Inputs:
    """The inputs with the padding at the end of each row in front of it, in every tensor and map along the prompt."""
    length = inputs.tensors["attention_mask"].shape[1]
    order = (torch.arange(length, device=pads.device) - pads[:, None]) % length

    def moved(name: str, value: Any) -> Any:
        if name not in (*PER_TOKEN, "inputs_embeds") or not isinstance(value, Tensor):
            return value
        if name == "inputs_embeds":
            return value.take_along_dim(order[..., None], 1)
        return value.take_along_dim(order.expand(value.shape), -1)

    def placed(tokens: TokenMap) -> TokenMap:
        return TokenMap(
            **{name: np.take_along_axis(column, order.cpu().numpy(), 1) for name, column in vars(tokens).items()}
        )

    maps = {
        name: placed(tokens) if name in towers and towers[name].tokens == "ids" else tokens
        for name, tokens in inputs.tokens.items()
    }
    return replace(inputs, tensors={k: moved(k, v) for k, v in inputs.tensors.items()}, tokens=maps)


def _padded(inputs: Inputs) -> bool:
    mask = inputs.tensors.get("attention_mask")
    return isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask.all())


def _checked(ids: Tensor, scores: Tensor) -> Tensor:
    """The scores as they are; an error where padding has made them NaN, from which the library would go on writing."""
    if bool(scores.isnan().any()):
        raise InputError(
            "the scores of the next token are NaN after padding", expected="numbers",
            exists="in float64 the library's eager attention gives NaN where a query sees nothing but padding",
            do='open the model with attn="sdpa" or in float32, or write the prompts one by one',
        )  # fmt: skip
    return scores


def _check_options(options: Mapping[str, Any], inputs: Inputs) -> None:
    """Refuse counts that are none, tensors that the inputs hold, and a beginning that the inputs have made already."""
    for name, least in _COUNTS.items():
        value = options.get(name)
        if value is not None and not (isinstance(value, int | np.integer) and value is not True and value >= least):
            raise InputError(f"`{name}=` cannot be {value!r}", expected=f"a whole number, at least {least}")
    twice = next((name for name in options if name in inputs.tensors), None)
    if twice:
        raise InputError(f"`{twice}=` is in the inputs already", do="pass it to `model.inputs` alone")
    start = next((name for name in _STARTS if options.get(name) is not None), None)
    if start and "decoder_input_ids" in inputs.tensors:
        raise InputError(
            f"`{start}=` says how the decoder begins, and so do the inputs", expected="one of them",
            do="pass the sound alone, or write the whole beginning as `text=`",
        )  # fmt: skip


def _prompt_length(engine: Engine, inputs: Inputs, outputs: Any, options: Mapping[str, Any]) -> int:
    """How many of the ids that came back are the prompt's: those of a decoder, where the library gives them back."""
    prompt = inputs.tensors.get("input_ids" if writes(engine.module) else "decoder_input_ids")
    stripped = "audio" in engine.towers and not options.get("force_unique_generate_call")
    if prompt is None or (stripped and type(outputs) in (Tensor, dict)):  # Whisper joins segments without their start
        return 0
    return int(prompt.shape[1])


def _mask(module: Any, inputs: Inputs, ids: Tensor, skip: int, options: Mapping[str, Any]) -> Int[Tensor, "row token"]:
    """1 for the prompt's own tokens and for the new ones up to the end of each row."""
    config: Any = options.get("generation_config") or module.generation_config
    ends, pad = (options.get(name, getattr(config, name)) for name in ("eos_token_id", "pad_token_id"))
    ends = torch.as_tensor([] if ends is None else ends).flatten().tolist()
    pad = ends[0] if pad is None and ends else pad
    new = ~padding(ids[:, skip:], pad, None, pad if pad in ends else None)
    old = torch.ones_like(ids[:, :skip])
    mask = inputs.tensors.get("attention_mask")
    if writes(module) and isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] == skip:
        old = mask.repeat_interleave(len(ids) // len(mask), 0)
    return torch.cat([old.to(ids), new.to(ids)], 1)
