"""Pictures of any kind as RGB (files, PIL images of every mode, arrays and tensors of every type), and as pixels.

Where a model writes about pictures, `picture_prompts.py` says which of them belongs to which text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.inputs import as_list
from cutaway.model.modality import Asked, Modality
from cutaway.model.picture_prompts import around_pictures, picture_prompts

SMALLEST, LARGEST = 2, 64_000_000
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
GREY = "pass grey levels as bytes, as uint16 or as floats in [0, 1]"


def pictures_in(folder: Path) -> list[Path]:
    """The files of a folder that end as pictures do, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def picture(source: Any) -> Image.Image:
    """A picture of any kind as RGB, turned as its EXIF says, transparency on white; refuses what is no picture.

    Floats run from 0 to 1, bytes and 16-bit numbers through the range of their type, True is white. Other integers are
    taken where they are bytes (0 to 255), as the library's own processors take them.
    """
    if isinstance(source, str | Path):
        with _opened(Path(source)) as file:
            return picture(file)
    image = source if isinstance(source, Image.Image) else _from_array(_array(source))
    _check_frames(image)
    _check_size(image)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _from_array(_grey_levels(image))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def _check_size(image: Image.Image) -> None:
    if min(image.size) < SMALLEST:
        raise InputError(
            f"this picture has {image.width} x {image.height} pixels", expected=f"at least {SMALLEST} x {SMALLEST}",
            do="pass the whole picture",
        )  # fmt: skip
    if image.width * image.height > LARGEST:
        raise InputError(
            f"this picture has {image.width} x {image.height} pixels", expected=f"at most {LARGEST:,} pixels",
            do="shrink it first: the model sees a few hundred pixels a side",
        )  # fmt: skip


def _check_frames(image: Image.Image) -> None:
    """Refuse films and files of several pages. An MPO is a photo with its preview behind it, a PSD one with layers."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("MPO", "PSD"):
        name = Path(str(getattr(image, "filename", "") or "this picture")).name
        raise InputError(
            f"'{name}' ({image.format}) holds {frames} pictures", expected="one picture",
            do="choose one: `image.seek(0)`, then pass `image.copy()`",
        )  # fmt: skip


def _grey_levels(image: Image.Image) -> np.ndarray:
    """The numbers of a PIL image of 16 or 32 bits; mode I holds 16 bits in 32 and does not say so."""
    levels = np.asarray(image)
    if image.mode == "F":
        return levels
    if image.mode == "I" and (levels.min() < 0 or levels.max() > 65_535 or levels.max() < 256):
        raise InputError(
            f"this grey picture of mode I runs from {levels.min()} to {levels.max()}: it does not say what white is",
            expected="16 bits, more than 255 and at most 65,535", do=GREY,
        )  # fmt: skip
    return levels.astype(np.uint16)


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        raise InputError(f"no picture at '{path}'", expected="the path of a picture file", do="check the path")
    try:
        return Image.open(path)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(
            f"'{path.name}' cannot be opened as a picture ({type(error).__name__})", expected="PNG, JPEG, WebP, …"
        ) from error


def _array(source: Any) -> np.ndarray:
    array = numbers(source)
    if array is None:
        raise InputError(
            f"a picture cannot be of type {type(source).__name__}",
            expected="a PIL image, a path, or an array (height, width[, 3 or 4])",
            do="pass prepared tensors by name instead: `model.inputs(pixel_values=…, input_ids=…)`",
        )
    return array


def numbers(source: Any) -> np.ndarray | None:
    """The numbers of an array or tensor of any type, wherever it lies; None for anything else."""
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return source if isinstance(source, np.ndarray) else None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)) or 0 in array.shape:
        raise InputError(
            f"an array of shape {array.shape} is not a picture", expected="(height, width[, 1, 3 or 4])",
            do="move the channels last, one picture at a time",
        )  # fmt: skip
    levels = _bytes(array)
    return Image.fromarray(levels[..., 0] if levels.ndim == 3 and levels.shape[-1] == 1 else levels)


def _bytes(array: np.ndarray) -> np.ndarray:
    """Numbers of any type as levels from 0 to 255."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array / 257).round().astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise InputError(
                "this float picture leaves the range 0 to 1", expected="floats in [0, 1] or bytes in [0, 255]"
            )
        return (array.astype(np.float64) * 255).round().astype(np.uint8)
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > 255:
        said = f" from {array.min()} to {array.max()}" if np.issubdtype(array.dtype, np.integer) else ""
        raise InputError(
            f"this picture of {array.dtype}{said} does not say what white is",
            expected="floats in [0, 1], bytes in [0, 255] or uint16 in [0, 65535]",
            do="scale it first: `(array / white).clip(0, 1)`",
        )
    return array.astype(np.uint8)


# --- what a model is given --------------------------------------------------------------------------------------------


def flat(pictures: list[Any]) -> list[Image.Image]:
    """One picture after the other, those of one prompt too."""
    return [one for some in pictures for one in (some if isinstance(some, list) else [some])]


def _read(image: Any) -> list[Any]:
    """Pictures as RGB; a list inside the list, the pictures of one prompt, stays one."""
    return [
        [picture(one) for one in some] if isinstance(some, list | tuple) else picture(some) for some in as_list(image)
    ]


def _made(asked: Asked) -> dict[str, Any]:
    """Pixels; of a model that writes about pictures the whole prompts, unless these are prepared."""
    module, family, pictures, texts = asked.module, asked.family, asked.given["image"], asked.given["text"]
    if family.image_tokens and texts:
        return picture_prompts(asked)
    if family.image_tokens and not {"input_ids", "inputs_embeds"} & set(asked.tensors):
        raise InputError("a picture alone", expected="`text=` next to `image=`, for instance a question about it")
    every = flat(pictures)
    if len(every) != len(pictures) and not family.image_tokens:
        raise InputError("several pictures a row", expected=f"one picture a row: {type(module).__name__} reads one")
    made = dict(asked.need(PICTURES)(images=every, return_tensors="pt"))
    ids = asked.tensors.get("input_ids")
    return made if ids is None else made | around_pictures(module, family, ids)


PICTURES = Modality(
    "image", called="picture", tool="images", tokens=("patches", "packed"), read=_read, make=_made,
    places="image_tokens",
)  # fmt: skip
