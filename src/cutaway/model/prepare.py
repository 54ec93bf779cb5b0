"""From what a user has (pictures, texts, sounds, prompts) to the tensors a model takes, without torchvision."""

from __future__ import annotations

import difflib
import inspect
import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from cutaway.errors import InputError, near
from cutaway.model.calls import Forward, Method, Pipeline
from cutaway.model.geometry import text_map, token_maps
from cutaway.model.inputs import Inputs, as_list
from cutaway.model.picture_prompts import around_pictures, picture_prompts
from cutaway.model.pictures import picture
from cutaway.model.seats import Tower
from cutaway.model.sounds import sound_inputs
from cutaway.model.table import Family, Joint
from cutaway.model.texts import a_text, check_length, completed, text_inputs
from cutaway.model.tokens import TokenMap
from cutaway.model.tools import Tools, need

OWN = ("image", "text", "audio", "prompt")


def prepare(
    module: Any, towers: dict[str, Tower], family: Family, tools: Tools, *, image: Any, text: Any, audio: Any,
    tensors: dict[str, Any],
) -> Inputs:  # fmt: skip
    """Tensors and token maps for a transformers model, from pictures, texts, sounds and prepared tensors."""
    tensors = {name: value for name, value in tensors.items() if value is not None}
    pictures, texts = _pictures(image), [a_text(one) for one in as_list(text)]
    flat = tuple(one for some in pictures for one in (some if isinstance(some, list) else [some]))
    beside = [n for n, v in (("image", flat), ("text", texts), ("audio", as_list(audio))) if v]
    _check_names(module, tensors, beside)
    made = _made(module, towers, family, tools, pictures, texts, as_list(audio), tensors)
    _check_beside(tensors, made, beside, family)
    given = made | tensors
    if tensors and family.kind != "contrastive":
        given = completed(module, tools.tokenizer, given)
    if not given:
        raise InputError(
            "nothing to run on",
            expected="`image=`, `text=`, `audio=`, or tensors by name",
            do="see `help(model.inputs)`",
        )
    call = Forward()
    if (
        family.kind in ("contrastive", "unknown")
        and hasattr(module, "get_image_features")
        and hasattr(module, "get_text_features")
        and ("pixel_values" in given) != ("input_ids" in given)
    ):
        call = Method("get_image_features" if "pixel_values" in given else "get_text_features")
    maps = token_maps(towers, family, module, given, tools.tokenizer, tools.sounds)
    unasked = "decoder_input_ids" in made and "decoder_input_ids" not in tensors and not (texts and as_list(audio))
    return Inputs(given, maps, flat, call, unasked=("decoder_input_ids",) if unasked else ())


def _pictures(image: Any) -> list[Any]:
    """Pictures as RGB; a list inside the list, the pictures of one prompt, stays one."""
    return [
        [picture(one) for one in some] if isinstance(some, list | tuple) else picture(some) for some in as_list(image)
    ]


def _made(
    module: Any, towers: dict[str, Tower], family: Family, tools: Tools, pictures: list[Any], texts: list[str],
    sounds: list[Any], tensors: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The tensors that pictures, texts and sounds make."""
    if sounds and towers and "audio" not in towers:
        raise InputError("this model takes no sound", exists=f"the towers {', '.join(towers)}")
    prepared = next((name for name in ("input_ids", "inputs_embeds") if name in tensors), None)
    if pictures and not texts and not prepared and family.image_tokens:
        raise InputError("a picture alone", expected="`text=` next to `image=`, for instance a question about it")
    if pictures and texts and family.image_tokens:
        return picture_prompts(module, towers.get("text"), family, tools, pictures, texts)
    made: dict[str, Any] = {}
    if pictures:
        flat = [one for some in pictures for one in (some if isinstance(some, list) else [some])]
        if len(flat) != len(pictures) and not family.image_tokens:
            raise InputError("several pictures a row", expected=f"one picture a row: {type(module).__name__} reads one")
        made |= _pixels(module, towers, tools, flat)
        made |= around_pictures(module, family, tensors["input_ids"]) if prepared == "input_ids" else {}
    if sounds:
        made |= sound_inputs(module, tools, sounds, texts)
    elif texts:
        made |= text_inputs(module, towers, tools.tokenizer, texts)
    return made


def _check_names(module: Any, tensors: dict[str, Any], beside: list[str]) -> None:
    """Refuse names the call does not have, and values that are not tensors."""
    known = [name for name in inspect.signature(module.forward).parameters if name not in ("args", "kwargs")]
    for name, value in tensors.items():
        slip = difflib.get_close_matches(name, OWN, n=1)
        if name not in known and (beside or slip or not set(tensors) & set(known)):
            raise InputError(
                (f"`{name}=` came together with `{beside[0]}=`, but " if beside else "")
                + f"{type(module).__name__} takes no `{name}=`",
                exists=near(name, [*slip, *known]),
            )
        if isinstance(value, str | list | tuple | np.ndarray):
            raise InputError(f"`{name}=` cannot be of type {type(value).__name__}", expected="a tensor")


def _check_beside(tensors: dict[str, Any], made: dict[str, Any], beside: list[str], family: Family) -> None:
    """Refuse a prepared tensor beside what makes the same tensor, or makes it without knowing of the other."""
    taken = set(made) - {"decoder_input_ids" if "audio" not in beside or "text" not in beside else ""}
    taken |= {"inputs_embeds"} if "input_ids" in made else set()
    taken |= {"pixel_values"} if family.image_tokens and "text" in beside else set()
    name = next((name for name in tensors if name in taken), None)
    if name is not None:
        raise InputError(
            f"`{name}=` came together with `{beside[0]}=`",
            expected="either pictures, texts and sounds, or prepared tensors of what they make",
            exists=f"`{'=`, `'.join(beside)}=` make{'s' if len(beside) == 1 else ''} {', '.join(sorted(made))}",
        )


def _pixels(module: Any, towers: dict[str, Tower], tools: Tools, pictures: list[Any]) -> dict[str, Any]:
    if towers and not any(tower.tokens in ("patches", "packed") for tower in towers.values()):
        raise InputError("this model takes no picture", exists=f"the towers {', '.join(towers) or 'none'}")
    processor = need(tools.images, "an image processor", module)
    return dict(processor(images=pictures, return_tensors="pt"))


# --- diffusion --------------------------------------------------------------------------------------------------------


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
    longest = _longest_prompt(pipeline)
    if longest:
        call["max_sequence_length"] = longest
    maps = prompt_maps(pipeline, towers, prompts, longest)
    maps["denoiser"] = TokenMap.patches(len(prompts), *grid)
    if joint:
        _join(maps, joint)
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


def _longest_prompt(pipeline: Any) -> int | None:
    """How many T5 positions a pipeline with such an encoder uses: its own default, or what the tokenizer allows."""
    tokenizers = [getattr(pipeline, name, None) for name in ("tokenizer_3", "tokenizer_2")]
    own = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    if own is None:
        return None
    return min(int(own.default), *(int(t.model_max_length) for t in tokenizers[:1] + tokenizers[1:] if t is not None))


def prompt_maps(
    pipeline: Any, towers: dict[str, Tower], prompts: list[str], longest: int | None
) -> dict[str, TokenMap]:
    """The token map of each text encoder, padded as the pipeline pads; too long a prompt is an error."""
    maps: dict[str, TokenMap] = {}
    encoders = [name for name in towers if name.split("_")[0] == "text"]
    for n, name in enumerate(encoders, 1):
        tokenizer = getattr(pipeline, "tokenizer" if n == 1 else f"tokenizer_{n}", None)
        if tokenizer is None:
            continue
        limit = 77 if tokenizer.model_max_length > 10_000 else int(tokenizer.model_max_length)
        if towers[name].row.endless:
            limit = longest or limit
        made = tokenizer(prompts, padding="max_length", max_length=limit, truncation=False, return_tensors="pt")
        check_length(made["input_ids"], limit, prompts)
        maps[name] = text_map(made["input_ids"], made.get("attention_mask"), tokenizer, None)
    return maps


def _join(maps: dict[str, TokenMap], joint: Joint) -> None:
    """The streams of a joint-attention transformer, each alone and as they lie behind one another."""
    picture, encoders = maps["denoiser"], [name for name in maps if name.split("_")[0] == "text"]
    text = _side_by_side([maps[encoders[at]] for at in joint.encoders if at < len(encoders)])
    maps["denoiser.image"], maps["denoiser.text"] = picture, text
    maps["denoiser.joint"] = _side_by_side([text, picture] if joint.first == "text" else [picture, text])


def _side_by_side(maps: list[TokenMap]) -> TokenMap:
    return TokenMap(**{name: np.concatenate([getattr(m, name) for m in maps], 1) for name in vars(maps[0])})
