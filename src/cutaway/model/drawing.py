"""What a pipeline is asked to draw, in its own words: which of it it takes, how many rows it makes, on which grid.

A pipeline's `__call__` says what it takes. Whatever it is asked for beside that is refused here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cutaway.errors import InputError, near
from cutaway.model.calls import Pipeline
from cutaway.model.inputs import Inputs, as_list
from cutaway.model.pictures import picture
from cutaway.model.prompts import join, longest_prompt, own_length, prompt_maps
from cutaway.model.seats import Tower
from cutaway.model.texts import a_text
from cutaway.model.tokens import TokenMap

# What `model.inputs` calls a thing, and what pipelines call it.
NAMES = {
    "prompt": "prompt", "negative": "negative_prompt", "label": "class_labels", "image": "image", "mask": "mask_image",
    "strength": "strength", "guidance": "guidance_scale", "length": "max_sequence_length",
}  # fmt: skip
GUIDANCE = 5.0


@dataclass(frozen=True)
class Asked:
    """What is asked of a pipeline: `rows` of the inputs by name, each drawn `copies` times, and the call so far."""

    rows: tuple[str, ...]
    copies: int
    call: dict[str, Any]


def prepare_drawing(pipeline: Any, towers: dict[str, Tower], given: Mapping[str, Any]) -> Inputs:
    """The call of a pipeline and the token maps of its prompt and of its latent picture; a prompt may be empty."""
    takes = taken(pipeline)
    _check_taken(pipeline, takes, given)
    _check_numbers(given)
    if "denoiser" not in towers:
        raise InputError(
            f"nothing is known of the denoiser of {type(pipeline).__name__}", expected="one with a row in the tables",
            exists=f"the towers {', '.join(towers) or 'none'}",
            do="hold edits with `model.edited(…)` while you call the pipeline; docs/adding-a-model.md adds the row",
        )  # fmt: skip
    asked = _rows(pipeline, takes, given)
    images = [picture(one) for one in as_list(given["image"])] if "image" in takes else []
    factor, patch, unit = units(pipeline, towers["denoiser"])
    height, width = _size(pipeline, towers["denoiser"], given["size"], images, factor, unit)
    call = {**asked.call, "num_inference_steps": given["steps"], "seed": given["seed"]}
    if "guidance" in takes:
        call[_weight(pipeline, given)] = GUIDANCE if given["guidance"] is None else given["guidance"]
    if "height" in takes:
        call |= {"height": height, "width": width}
    call |= _pictures(takes, given, images, asked, (width, height))
    grid = (height // factor // patch, width // factor // patch)
    picture_map = TokenMap.patches(len(asked.rows), *grid)
    maps = {"denoiser": picture_map}
    if "prompt" in takes:
        longest = longest_prompt(pipeline, towers) if given["length"] is None else int(given["length"])
        call |= {"max_sequence_length": longest} if longest is not None else {}
        maps = _maps(pipeline, towers, list(asked.rows), picture_map, longest)
    return Inputs(call, maps, tuple(images), Pipeline(), grid, drawn=asked.rows, copies=asked.copies)


def _maps(
    pipeline: Any, towers: dict[str, Tower], prompts: list[str], picture_map: TokenMap, longest: int | None
) -> dict[str, TokenMap]:
    """The token maps of the encoders of these prompts and of the picture, and of both where a denoiser joins them."""
    maps = {**prompt_maps(pipeline, towers, prompts, longest), "denoiser": picture_map}
    joint = towers["denoiser"].row.joint
    if joint and "text" in maps:
        gap = bool(joint.gap) and getattr(pipeline, joint.gap) is None
        join(maps, joint, (own_length(pipeline) if longest is None else longest) if gap else 0)
    return maps


def against(pipeline: Any, towers: dict[str, Tower], inputs: Inputs) -> Inputs:
    """The inputs of a drawing with the token maps of what its guidance is against: negative prompts, or empty ones."""
    call = inputs.tensors
    if "prompt" not in call or "denoiser" not in inputs.tokens:
        return inputs
    prompts = list(call.get("negative_prompt") or [""] * len(inputs.drawn))
    return replace(
        inputs, tokens=_maps(pipeline, towers, prompts, inputs.tokens["denoiser"], call.get("max_sequence_length"))
    )


def _weight(pipeline: Any, given: Mapping[str, Any]) -> str:
    """What a pipeline calls the weight of guidance; one that is told a number beside the prompt has another for it."""
    apart = "true_cfg_scale" in inspect.signature(type(pipeline).__call__).parameters
    return "true_cfg_scale" if apart and given["negative"] is not None else NAMES["guidance"]


def as_asked(drawing: Inputs) -> dict[str, Any]:
    """What a whole drawing was asked with, in the words of `model.inputs`."""
    given, copies = drawing.tensors, drawing.copies
    asked: dict[str, Any] = {name: given.get(theirs) for name, theirs in NAMES.items()}
    asked |= {name: given[NAMES[name]][::copies] for name in ("label", "image", "mask") if NAMES[name] in given}
    return {
        **asked, "guidance": given.get("true_cfg_scale", asked["guidance"]), "size": drawn_size(drawing),
        "pictures": copies if copies > 1 else None, "seed": given["seed"], "steps": given["num_inference_steps"],
    }  # fmt: skip


def drawn_size(drawing: Inputs) -> tuple[int, int] | None:
    """Height and width of what is drawn, as asked or as the picture to begin with has them; None where neither says."""
    given = drawing.tensors
    if "height" in given:
        return given["height"], given["width"]
    return (given["image"][0].height, given["image"][0].width) if "image" in given else None


def alone(drawing: Inputs, prompts: Sequence[str]) -> dict[str, Any]:
    """The words of `model.inputs` for other prompts under the options of a drawing: without guidance, one of each."""
    asked = as_asked(drawing)
    first = {name: asked[name] and asked[name][0] for name in ("image", "mask")}
    return {**asked, **first, "prompt": list(prompts), "negative": None, "guidance": 1.0, "pictures": None}


def taken(pipeline: Any) -> tuple[str, ...]:
    """What a pipeline takes, in our words."""
    own = inspect.signature(type(pipeline).__call__).parameters
    found = [name for name, theirs in NAMES.items() if theirs in own]
    if "label" in found and not _classes(pipeline):
        found.remove("label")
    return (*found, "pictures", "seed", "steps", *(["size"] if "image" in found or "height" in own else []),
            *(["height"] if "height" in own else []))  # fmt: skip


def _classes(pipeline: Any) -> int | None:
    """How many classes a denoiser knows; None where it knows none."""
    for part in pipeline.components.values():
        config = getattr(part, "config", {})
        for name in ("num_embeds_ada_norm", "num_class_embeds"):
            if isinstance(config, Mapping) and config.get(name):
                return int(config[name])
    return None


def _check_taken(pipeline: Any, takes: tuple[str, ...], given: Mapping[str, Any]) -> None:
    """Refuse what this pipeline does not take, and a call without what it cannot do without."""
    kind, said = type(pipeline).__name__, ", ".join(f"`{name}=`" for name in takes if name != "height")
    odd = next((name for name, value in given.items() if value is not None and name not in takes), None)
    alone = "; its pictures come from noise alone" if odd == "prompt" and "label" not in takes else ""
    if odd is not None:
        raise InputError(
            f"{kind} takes no `{odd}=`", expected="what its own call takes", exists=said,
            do=f"leave it out{alone}",
        )  # fmt: skip
    needed: list[str] = [name for name in ("prompt", "label") if name in takes]
    needed += ["image"] if {"strength", "mask"} & set(takes) else []
    needed += ["mask"] if "mask" in takes else []
    lacking = next((name for name in needed if given[name] is None or as_list(given[name]) == []), None)
    if lacking is not None:
        raise InputError(
            f"nothing to draw: {kind} needs `{lacking}=`", expected=said,
            exists=", ".join(f"`{name}=`" for name, value in given.items() if value is not None),
            do=f"give `{lacking}=`; docs/pipelines.md shows what each kind of pipeline takes",
        )  # fmt: skip


def _rows(pipeline: Any, takes: tuple[str, ...], given: Mapping[str, Any]) -> Asked:
    """The rows of the inputs: the prompts, the labels, or where there are neither each picture."""
    copies = 1 if given["pictures"] is None else int(given["pictures"])
    own = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" in takes:
        prompts, against = ([a_text(one) for one in as_list(given[name])] for name in ("prompt", "negative"))
        if len(against) not in (0, 1, len(prompts)):
            raise InputError(
                f"{len(prompts)} prompts and {len(against)} negative ones", expected="one, or one a prompt"
            )
        call: dict[str, Any] = {"prompt": prompts}
        if against:
            call["negative_prompt"] = against * (len(prompts) if len(against) == 1 else 1)
        if copies > 1:
            call["num_images_per_prompt"] = copies
        return Asked(tuple(prompts), copies, call)
    if "label" in takes:
        labels = [_label(pipeline, one) for one in as_list(given["label"])]
        call = {"class_labels": [label for label in labels for _ in range(copies)]}
        call |= {"batch_size": len(labels) * copies} if "batch_size" in own else {}
        return Asked(tuple(map(str, labels)), copies, call)
    return Asked(tuple(f"picture {at}" for at in range(copies)), 1, {"batch_size": copies})


def _label(pipeline: Any, label: Any) -> int:
    """A class by its number, or by a name that the pipeline knows."""
    count, named = _classes(pipeline) or 0, getattr(pipeline, "labels", None) or {}
    if isinstance(label, str) and label in named:
        label = named[label]
    if not whole(label) or not 0 <= label < count:
        raise InputError(
            f"no class {label!r}", expected=f"a number from 0 to {count - 1}" + (", or a name" if named else ""),
            exists=near(str(label), named) if named else f"{count} classes",
        )  # fmt: skip
    return int(label)


def whole(number: Any) -> bool:
    """Whether this is a whole number."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def _check_numbers(given: Mapping[str, Any]) -> None:
    steps, seed, guidance, pictures = (given[name] for name in ("steps", "seed", "guidance", "pictures"))
    if not whole(steps) or steps < 1:
        raise InputError(f"{steps!r} denoising steps", expected="a whole number, at least one")
    if not whole(seed):
        raise InputError(f"`seed=` cannot be {seed!r}", expected="a whole number")
    if guidance is not None and (not isinstance(guidance, Real) or not math.isfinite(guidance)):
        raise InputError(f"`guidance=` cannot be {guidance!r}", expected="a number; 1 draws without guidance")
    if pictures is not None and (not whole(pictures) or pictures < 1):
        raise InputError(f"`pictures=` cannot be {pictures!r}", expected="how many pictures a prompt: at least one")
    length = given["length"]
    if length is not None and (not whole(length) or length < 0):
        raise InputError(f"`length=` cannot be {length!r}", expected="how many positions a prompt has")
    strength = given["strength"]
    if strength is None:
        return
    if not isinstance(strength, Real) or not 0 < float(strength) <= 1:
        raise InputError(f"`strength=` cannot be {strength!r}", expected="a share of the steps: above 0, at most 1")
    if int(steps * float(strength)) < 1:
        raise InputError(
            f"no step is left of {steps} at `strength={strength}`", expected="steps x strength of at least 1",
            do=f"take {math.ceil(1 / float(strength))} steps or more",
        )  # fmt: skip


# --- sizes ------------------------------------------------------------------------------------------------------------


def scale_factor(pipeline: Any) -> int:
    """How many pixels a place of the latents is wide; 1 where the denoiser works on pixels."""
    own = getattr(pipeline, "vae_scale_factor", None)
    if own is not None:
        return int(own)
    coder = next((pipeline.components[name] for name in ("vae", "vqvae") if name in pipeline.components), None)
    return 1 if coder is None else 2 ** (len(coder.config.block_out_channels) - 1)


def units(pipeline: Any, denoiser: Tower) -> tuple[int, int, int]:
    """Pixels a place of the latents, places a position, and what the sides of a picture must be multiples of."""
    factor, config, joint = scale_factor(pipeline), denoiser.module.config, denoiser.row.joint
    patch = (joint.patch if joint else 0) or int(getattr(config, "patch_size", None) or 1)
    unit = factor * patch if joint or denoiser.tokens == "patches" else math.lcm(factor, 8)
    return factor, patch, unit


def _size(
    pipeline: Any, denoiser: Tower, size: Any, images: list[Image.Image], factor: int, unit: int
) -> tuple[int, int]:  # fmt: skip
    """Height and width: as asked, as the first picture has them, or the pipeline's own."""
    if size is None and images:
        size = (images[0].height, images[0].width)
        if any(side < unit or side % unit for side in size):
            raise InputError(
                f"a picture of {size[0]} x {size[1]} pixels (height, width)",
                expected=f"sides that are multiples of {unit}",
                do=f"`size={tuple(max(unit, side // unit * unit) for side in size)}` scales it",
            )
        return size
    if size is None:
        config: Any = denoiser.module.config
        own = getattr(pipeline, "default_sample_size", None) or config.sample_size
        sides = tuple(own) if isinstance(own, list | tuple) else (own, own)
        return int(sides[0]) * factor, int(sides[1]) * factor
    pair = isinstance(size, list | tuple) and len(size) == 2 and all(map(whole, size))
    if not pair or any(side < unit or side % unit for side in size):
        raise InputError(f"a picture of size {size}", expected=f"(height, width) in pixels, both multiples of {unit}")
    return int(size[0]), int(size[1])


# --- pictures to begin with -------------------------------------------------------------------------------------------


def _pictures(
    takes: tuple[str, ...], given: Mapping[str, Any], images: list[Image.Image], asked: Asked, size: tuple[int, int]
) -> dict[str, Any]:  # fmt: skip
    """The picture, the mask and the strength of a call: one of each for every row and copy, in their order.

    Pipelines put a shorter list behind itself, in another order than the copies of the prompts.
    """
    call: dict[str, Any] = {}
    things = {"image": images, "mask": [_mask(one) for one in as_list(given["mask"])] if "mask" in takes else []}
    for name, found in things.items():
        if not found:
            continue
        if len(found) not in (1, len(asked.rows)):
            raise InputError(
                f"{len(asked.rows)} prompts and {len(found)} of `{name}=`", expected="one for all, or one a prompt"
            )
        how = Image.Resampling.NEAREST if name == "mask" else Image.Resampling.LANCZOS
        fitted = [one if one.size == size else one.resize(size, how) for one in found]
        fitted *= len(asked.rows) if len(fitted) == 1 else 1
        call[NAMES[name]] = [one for one in fitted for _ in range(asked.copies)]
    if given["strength"] is not None:
        call["strength"] = float(given["strength"])
    return call


def _mask(source: Any) -> Image.Image:
    """A mask as grey levels: white is drawn anew. True, and 1 of whole numbers that are 0 and 1, is white."""
    if isinstance(source, np.ndarray | Tensor):
        levels = np.asarray(source)
        if levels.ndim == 2 and levels.dtype.kind in "iu" and set(np.unique(levels).tolist()) <= {0, 1}:
            source = levels.astype(bool)
    return picture(source).convert("L")
