"""What a user brings to a report, checked: a model, a picture, texts, a bank of texts, a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from cutaway import data
from cutaway.errors import InputError, SiteError
from cutaway.methods.feed import embedded
from cutaway.methods.text_bank import TextBank, emoji_bank, file_bank, text_bank
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.model.pictures import picture
from cutaway.model.weights import readout

EMOJIWORLD = "emojiworld"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FITS = "CLIP, SigLIP and models built like them (`tiny:clip`, `tiny:siglip`, `zoo:emoji-clip`)"


# --- model ------------------------------------------------------------------------------------------------------------


def opened(model: Model | str | Path) -> Model:
    """The model, opened if it came by name; an error unless it is one that the report can take apart."""
    found = model if isinstance(model, Model) else load(model)
    if found.family.kind != "contrastive" or not {"vision", "text"} <= set(found.towers):
        raise InputError(
            f"'{found.name}' is no contrastive model of pictures and texts: it is {found.family.kind}, with the towers "
            f"{', '.join(found.towers) or 'none'}",
            expected=f"for now, {FITS}",
            do="`cutaway sites`, `model.run` and `model.sweep` take the other families",
        )
    try:
        readout(found, "vision")
    except SiteError as error:
        raise InputError(
            f"'{found.name}' cannot be explained yet: {error.failed}", expected=f"for now, {FITS}", do=error.do
        ) from error
    return found


def untrained(model: Model) -> Model | None:
    """The same model before training, for models of the zoo; None where there is no such twin."""
    known = model.name.startswith("zoo:") and "@" not in model.name
    return load(f"{model.name}@untrained") if known else None


# --- pictures ---------------------------------------------------------------------------------------------------------


def read_picture(source: Any) -> Image.Image:
    """A picture of any size and mode as RGB, turned as its EXIF says; a damaged file is an error that names it."""
    if not isinstance(source, str | Path) or not Path(source).is_file():
        return picture(source)
    try:
        with Image.open(source) as file:
            return picture(file)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return picture(source)
    except (OSError, SyntaxError) as error:
        raise InputError(
            f"'{Path(source).name}' is damaged and cannot be read to its end ({error})",
            expected="a whole PNG, JPEG, WebP, …",
            do="open it in a viewer and save it again",
        ) from error


class Folder(Sequence[Any]):
    """The pictures of a folder in the order of their names, opened only when asked for; at most `limit` of them."""

    def __init__(self, folder: str | Path, limit: int = 512) -> None:
        path = Path(folder)
        if not path.is_dir():
            raise InputError(
                f"there is no folder '{folder}'", expected=f"a folder of pictures, or the word '{EMOJIWORLD}'"
            )
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if len(found) < 3:
            raise InputError(
                f"'{folder}' holds {len(found)} pictures", expected="at least 3, better some hundreds",
                exists=", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing in it",
                do=f"pictures end in {' '.join(SUFFIXES)}; sub-folders are not looked into",
            )  # fmt: skip
        self.files = tuple(found[:limit])

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> list[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        return (
            [read_picture(file) for file in self.files[at]] if isinstance(at, slice) else read_picture(self.files[at])
        )


def crowd(source: str | Path | None, model: Model, count: int) -> Sequence[Any] | None:
    """Many pictures, against which one is seen: a folder's, scenes of EmojiWorld, or for a zoo model these unasked."""
    if source is None and not model.name.startswith("zoo:"):
        return None
    if source is None or str(source) == EMOJIWORLD:
        return [data.scene_at("test", index) for index in range(count)]
    return Folder(source, count)


def as_seen(model: Model, whole: Image.Image, longest: int = 448) -> Image.Image:
    """The part of a picture that the model is given, in the shape it is given, finer where the file is finer.

    The processor's tensor says what the model sees. Its cropping is done again on the whole picture; where the two
    disagree, the tensor itself is the picture.
    """
    tensor = model.inputs(image=whole).tensors["pixel_values"][0].float().cpu()
    tool = model.tools.images
    mean, spread = (torch.tensor(getattr(tool, name, None) or [0.5] * 3) for name in ("image_mean", "image_std"))
    array = (tensor * spread[:, None, None] + mean[:, None, None]).clamp(0, 1).permute(1, 2, 0).numpy()
    given = Image.fromarray((array * 255).round().astype(np.uint8))
    times = max(1, longest // max(given.size))
    size = (given.width * times, given.height * times)
    fine = whole.resize(size, Image.Resampling.BICUBIC, box=_crop(tool, whole, given))
    gap = np.abs(np.asarray(fine.resize(given.size, Image.Resampling.BICUBIC), float) - np.asarray(given, float)).mean()
    return fine if gap < 12 else given.resize(size, Image.Resampling.NEAREST)


def _crop(tool: Any, whole: Image.Image, given: Image.Image) -> tuple[float, float, float, float]:
    """The box of the whole picture that a processor keeps: all of it, or the middle after scaling the short side."""
    size = dict(getattr(tool, "size", None) or {})
    short = size.get("shortest_edge")
    if not (getattr(tool, "do_center_crop", False) and short):
        return (0, 0, whole.width, whole.height)
    scale = min(whole.size) / int(short)
    width, height = (min(side * scale, full) for side, full in zip(given.size, whole.size, strict=True))
    left, top = (whole.width - width) / 2, (whole.height - height) / 2
    return (left, top, left + width, top + height)


# --- texts ------------------------------------------------------------------------------------------------------------


def read_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts without blanks around them, each once, at least one."""
    given = [texts] if isinstance(texts, str) else list(texts)
    kept = tuple(dict.fromkeys(text.strip() for text in given if text.strip()))
    if not kept:
        raise InputError(
            "there is no text to hold the picture against", expected="at least one text, for instance 'a dog'",
            do="give --text (texts= in Python), better two: what it shows, and what it might be mistaken for",
        )  # fmt: skip
    return kept


def asked(model: Model, texts: tuple[str, ...]) -> TextBank:
    """The user's texts with their embeddings; unlike `text_bank`, one text is enough."""
    return TextBank(texts, ("asked",) * len(texts), embedded(model, texts, "text", progress=False), model.name)


def bank_of(source: str | Path | None, model: Model, texts: tuple[str, ...] = ()) -> TextBank | None:
    """A bank of texts: a file's, one a line; EmojiWorld's phrases, for a zoo model unasked; else two texts or more."""
    if source is None and not model.name.startswith("zoo:"):
        return text_bank(model, texts, progress=False) if len(texts) > 1 else None
    if source is None or str(source) == EMOJIWORLD:
        return emoji_bank(model, progress=False)
    return file_bank(model, source, progress=False)


def with_asked(texts: TextBank, bank: TextBank) -> TextBank:
    """The bank with the user's own texts in front, each text once."""
    new = [index for index, text in enumerate(bank.texts) if text not in texts.texts]
    return TextBank(
        (*texts.texts, *(bank.texts[index] for index in new)),
        (*texts.topics, *(bank.topics[index] for index in new)),
        torch.cat([texts.embeddings, bank.embeddings[new]]),
        bank.model,
    )


def unknown_words(model: Model, texts: Sequence[str]) -> list[str]:
    """Words that the tokenizer has no entry for, so that the model reads each of them as the same blank."""
    tokenizer = model.tokenizer
    blank = getattr(tokenizer, "unk_token_id", None)
    if blank is None:
        return []
    words = dict.fromkeys(word for text in texts for word in text.split())
    return [word for word in words if blank in tokenizer(word, add_special_tokens=False)["input_ids"]]
