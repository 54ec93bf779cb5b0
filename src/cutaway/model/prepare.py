"""From what a user has (pictures, texts, sounds, prompts) to the tensors a model takes, without torchvision."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError, near
from cutaway.model.geometry import text_map, token_maps
from cutaway.model.inputs import Inputs, as_list, picture
from cutaway.model.seats import Tower
from cutaway.model.table import Family
from cutaway.model.tokens import TokenMap


@dataclass(frozen=True)
class Tools:
    """The parts of a processor, wherever the library puts them; `whole` is the processor itself when it is complete."""

    whole: Any = None
    tokenizer: Any = None
    images: Any = None
    sounds: Any = None

    @classmethod
    def of(cls, processor: Any) -> Tools:
        """Take a processor, a bare tokenizer or a bare image processor apart."""
        if processor is None:
            return cls()
        tokenizer = getattr(processor, "tokenizer", processor if hasattr(processor, "decode") else None)
        images = getattr(processor, "image_processor", processor if hasattr(processor, "image_mean") else None)
        sounds = getattr(processor, "feature_extractor", processor if hasattr(processor, "sampling_rate") else None)
        complete = hasattr(processor, "apply_chat_template") and callable(processor) and tokenizer is not processor
        return cls(processor if complete else None, tokenizer, images, sounds)


_WANTED = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "image_grid_thw", "mm_token_type_ids")


def prepare(
    module: Any, towers: dict[str, Tower], family: Family, tools: Tools, *, image: Any, text: Any, audio: Any,
    tensors: dict[str, Any],
) -> Inputs:  # fmt: skip
    """Tensors and token maps for a transformers model, from pictures, texts, sounds or prepared tensors."""
    pictures = tuple(picture(one) for one in as_list(image))
    texts = [_text(one) for one in as_list(text)]
    made: dict[str, Any] = {}
    if tensors:
        beside = [n for n, v in (("image", image), ("text", text), ("audio", audio)) if v is not None]
        made = _prepared(module, tensors, beside)
    elif pictures and not texts and family.image_tokens:
        raise InputError("a picture alone", expected="`text=` next to `image=`, for instance a question about it")
    elif audio is not None:
        made = _sound(module, tools, audio, texts)
    elif pictures and texts and family.image_tokens:
        made = _picture_prompt(module, family, tools, pictures, texts)
        _check_length(made["input_ids"], _limit(towers.get("text")), texts)
    else:
        made = (_pixels(module, towers, tools, pictures) if pictures else {}) | (
            _ids(module, towers, tools, texts) if texts else {}
        )
    if not made:
        raise InputError(
            "nothing to run on",
            expected="`image=`, `text=`, `audio=`, or tensors by name",
            do="see `help(model.inputs)`",
        )
    call = "forward"
    if (
        family.kind == "contrastive"
        and {"vision", "text"} <= set(towers)
        and ("pixel_values" in made) != ("input_ids" in made)
    ):
        call = "get_image_features" if "pixel_values" in made else "get_text_features"
    maps = token_maps(towers, family, module, made, tools.tokenizer, tools.sounds)
    return Inputs(made, maps, pictures, call)


def _prepared(module: Any, tensors: dict[str, Any], beside: list[str]) -> dict[str, Any]:
    """Tensors that go to the model as they are, under the names its call has."""
    known = list(inspect.signature(module.forward).parameters)
    name = next((name for name in tensors if name not in known), next(iter(tensors)))
    if beside:
        raise InputError(
            f"`{name}=` came together with `{beside[0]}=`",
            expected="either pictures, texts and sounds, or prepared tensors",
            exists="the tensors " + near(name, known),
        )
    if not set(tensors) & set(known):
        raise InputError(f"{type(module).__name__} takes no `{name}=`", exists=near(name, known))
    for name, value in tensors.items():
        if isinstance(value, str | list | tuple | np.ndarray):
            raise InputError(f"`{name}=` cannot be of type {type(value).__name__}", expected="a tensor")
    return dict(tensors)


def _text(source: Any) -> str:
    if not isinstance(source, str):
        raise InputError(f"a text cannot be of type {type(source).__name__}", expected="a string or a list of strings")
    if not source.strip():
        raise InputError("this text is empty", expected="at least one word")
    return source


def _need(tool: Any, what: str, module: Any) -> Any:
    if tool is None:
        raise InputError(
            f"this {type(module).__name__} came without {what}",
            expected="a processor next to the weights, or `cutaway.load(model, processor=…)`",
            do="or pass prepared tensors by name: `model.inputs(pixel_values=…, input_ids=…)`",
        )
    return tool


def _pixels(module: Any, towers: dict[str, Tower], tools: Tools, pictures: tuple[Any, ...]) -> dict[str, Any]:
    if towers and not any(tower.tokens in ("patches", "packed") for tower in towers.values()):
        raise InputError("this model takes no picture", exists=f"the towers {', '.join(towers) or 'none'}")
    processor = _need(tools.images, "an image processor", module)
    return dict(processor(images=list(pictures), return_tensors="pt"))


def _ids(module: Any, towers: dict[str, Tower], tools: Tools, texts: list[str]) -> dict[str, Any]:
    tower = towers.get("encoder") or next((tower for tower in towers.values() if tower.tokens == "ids"), None)
    if tower is None and towers:
        raise InputError("this model takes no text", exists=f"the towers {', '.join(towers)}")
    tokenizer = _need(tools.tokenizer, "a tokenizer", module)
    fixed = type(module).__name__.startswith("Siglip")
    limit = _limit(tower)
    padding: Any = {"padding": "max_length", "max_length": limit} if fixed else {"padding": len(texts) > 1}
    made = dict(tokenizer(texts, return_tensors="pt", truncation=False, **padding))
    made.pop("token_type_ids", None) if tower is not None and tower.causal else None
    if fixed:
        made.pop("attention_mask", None)
    _check_length(made["input_ids"], limit, texts)
    if getattr(module.config, "is_encoder_decoder", False):
        made["decoder_input_ids"] = torch.full((len(texts), 1), module.config.decoder_start_token_id)
    return made


def _limit(tower: Tower | None) -> int | None:
    config = getattr(tower.module, "config", None) if tower else None
    for name in ("max_position_embeddings", "n_positions", "max_target_positions"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return None


def _check_length(ids: Tensor, limit: int | None, texts: list[str]) -> None:
    if limit is not None and ids.shape[1] > limit:
        longest = max(texts, key=len)
        raise InputError(
            f"'{longest[:40]}{'…' if len(longest) > 40 else ''}' is {ids.shape[1]} tokens long",
            expected=f"at most {limit} tokens, the length of the text tower",
            do="shorten it; cutaway never truncates silently",
        )


def _sound(module: Any, tools: Tools, audio: Any, texts: list[str]) -> dict[str, Any]:
    extractor = _need(tools.sounds, "a feature extractor", module)
    sounds = audio if isinstance(audio, list) else [audio]
    made = dict(extractor([_wave(s) for s in sounds], sampling_rate=extractor.sampling_rate, return_tensors="pt"))
    start = torch.full((len(sounds), 1), module.config.decoder_start_token_id)
    if texts:
        tokenizer = _need(tools.tokenizer, "a tokenizer", module)
        ids = tokenizer(texts, return_tensors="pt", add_special_tokens=False, padding=len(texts) > 1)["input_ids"]
        start = torch.cat([start.expand(len(ids), 1), ids], 1)
        _check_length(start, getattr(module.config, "max_target_positions", None), texts)
    return {**made, "decoder_input_ids": start}


def _wave(source: Any) -> Any:
    array = source.numpy() if isinstance(source, Tensor) else source
    if getattr(array, "ndim", 0) != 1 or len(array) < 2:
        raise InputError(
            f"a sound cannot be {type(source).__name__} of shape {getattr(array, 'shape', '?')}",
            expected="one channel of samples, a 1-D array at the model's sampling rate",
        )
    return array


def _picture_prompt(
    module: Any, family: Family, tools: Tools, pictures: tuple[Any, ...], texts: list[str]
) -> dict[str, Any]:
    tokenizer = _need(tools.tokenizer, "a tokenizer", module)
    mark = (
        tokenizer.convert_ids_to_tokens(module.config.image_token_id)
        if module.config.image_token_id is not None
        else ""
    )
    own = bool(mark) and all(mark in text for text in texts)
    if len(texts) not in (1, len(pictures)) and not own:
        raise InputError(
            f"{len(pictures)} pictures and {len(texts)} texts do not pair up",
            expected="one picture a text, or all pictures with one text", do=f"mark their places with '{mark}'",
        )  # fmt: skip
    each = len(pictures) if len(texts) == 1 else 1
    whole = tools.whole
    if whole is not None and getattr(whole, "chat_template", None) and not own:
        texts = [_chat(whole, text, each) for text in texts]
    elif family.image_tokens in ("grid", "anyres", "thw") and type(whole).__name__ != "PaliGemmaProcessor" and not own:
        texts = [mark * each + "\n" + text if family.image_tokens != "thw" else mark * each + text for text in texts]
    if whole is None:
        return _expanded(module, tools, mark, list(pictures), texts)
    nested = [list(pictures)] if len(texts) == 1 else [[one] for one in pictures]
    pali, flat = type(whole).__name__ == "PaliGemmaProcessor", type(whole).__name__.startswith("Blip2")
    made = whole(images=list(pictures) if flat else nested, text=texts, return_tensors="pt", padding=len(texts) > 1)
    return {key: value for key, value in dict(made).items() if key in _WANTED or (key == "token_type_ids" and pali)}


def _chat(processor: Any, text: str, pictures: int) -> str:
    content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def _expanded(module: Any, tools: Tools, mark: str, pictures: list[Any], texts: list[str]) -> dict[str, Any]:
    """Qwen-VL without its processor class, which demands torchvision: a mark becomes a token a patch group."""
    made = dict(_need(tools.images, "an image processor", module)(images=pictures, return_tensors="pt"))
    merge = module.config.vision_config.spatial_merge_size
    counts = iter((made["image_grid_thw"].prod(-1) // merge**2).tolist())
    full = []
    for text in texts:
        pieces = text.split(mark)
        full.append(pieces[0] + "".join(mark * next(counts, 1) + piece for piece in pieces[1:]))
    ids = dict(tools.tokenizer(full, return_tensors="pt", padding=len(full) > 1))
    ids.pop("token_type_ids", None)
    return made | ids | {"mm_token_type_ids": (ids["input_ids"] == module.config.image_token_id).long()}


# --- diffusion --------------------------------------------------------------------------------------------------------


def prepare_prompt(
    pipeline: Any, towers: dict[str, Tower], *, prompt: Any, negative: Any, seed: int, steps: int, guidance: float,
    size: tuple[int, int] | None,
) -> Inputs:  # fmt: skip
    """The call of a pipeline and the token maps of its prompt and of its latent picture."""
    prompts = [_text(one) for one in as_list(prompt)]
    if not prompts:
        raise InputError("nothing to draw", expected="`prompt=`", do="see `help(model.inputs)`")
    if steps < 1:
        raise InputError(f"{steps} denoising steps", expected="at least one")
    denoiser = towers["denoiser"].module
    factor = int(pipeline.vae_scale_factor)
    config: Any = denoiser.config
    if size is None:
        side = getattr(pipeline, "default_sample_size", None) or config.sample_size
        size = (int(side) * factor, int(side) * factor)
    patch = 2 if type(denoiser).__name__.startswith("Flux") else int(getattr(config, "patch_size", None) or 1)
    unit = factor * patch if towers["denoiser"].tokens == "joint" else math.lcm(factor, 8)
    if any(side < unit or side % unit for side in size):
        raise InputError(f"a picture of size {size}", expected=f"(height, width) in pixels, both multiples of {unit}")
    height, width = size
    call: dict[str, Any] = {
        "prompt": prompts, "num_inference_steps": steps, "guidance_scale": guidance, "height": height, "width": width,
        "seed": seed,
    }  # fmt: skip
    if negative is not None:
        call["negative_prompt"] = as_list(negative) * (len(prompts) if len(as_list(negative)) == 1 else 1)
    grid = (height // factor // patch, width // factor // patch)
    longest = _longest_prompt(pipeline)
    if longest:
        call["max_sequence_length"] = longest
    maps = prompt_maps(pipeline, towers, prompts, longest)
    maps["denoiser"] = TokenMap.patches(len(prompts), *grid)
    if towers["denoiser"].tokens == "joint":
        _join(maps, type(denoiser).__name__)
    return Inputs(call, maps, (), "pipeline", grid)


def _longest_prompt(pipeline: Any) -> int | None:
    """How many T5 positions a pipeline with such an encoder uses: its own default, or what the tokenizer allows."""
    tokenizers = [getattr(pipeline, name, None) for name in ("tokenizer_3", "tokenizer_2")]
    default = 256 if type(pipeline).__name__.startswith("StableDiffusion3") else 512
    if "max_sequence_length" not in inspect.signature(type(pipeline).__call__).parameters:
        return None
    return min(default, *(int(t.model_max_length) for t in tokenizers[:1] + tokenizers[1:] if t is not None))


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
        if "T5" in type(towers[name].module).__name__:
            limit = longest or limit
        made = tokenizer(prompts, padding="max_length", max_length=limit, truncation=False, return_tensors="pt")
        _check_length(made["input_ids"], limit, prompts)
        maps[name] = text_map(made["input_ids"], made.get("attention_mask"), tokenizer, None)
    return maps


def _join(maps: dict[str, TokenMap], denoiser: str) -> None:
    """The streams of a joint-attention transformer: SD3 puts the picture first, Flux the text."""
    picture = maps["denoiser"]
    flux = denoiser.startswith("Flux")
    encoders = [name for name in maps if name.split("_")[0] == "text"]
    spoken = [maps[encoders[-1]]] if flux else [maps[encoders[0]], *([maps["text_3"]] if "text_3" in maps else [])]
    text = _side_by_side(spoken)
    maps["denoiser.image"], maps["denoiser.text"] = picture, text
    maps["denoiser.joint"] = _side_by_side([text, picture] if flux else [picture, text])


def _side_by_side(maps: list[TokenMap]) -> TokenMap:
    return TokenMap(**{name: np.concatenate([getattr(m, name) for m in maps], 1) for name in vars(maps[0])})
