"""What a user brings to a report, checked: a model, a picture, texts, a bank of texts, a folder of pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from cutaway import data
from cutaway.data import worlds
from cutaway.errors import InputError
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.model.pictures import SUFFIXES, picture, pictures_in
from cutaway.questions.bank import TextBank, emoji_bank, emoji_texts, file_bank, file_texts
from cutaway.zoo.trained import spec_of

EMOJIWORLD = worlds.EMOJIWORLD


# --- model ------------------------------------------------------------------------------------------------------------


def untrained(model: Model) -> Model | None:
    """The same model before training, for models of the zoo; None where there is no such twin."""
    spec = spec_of(model.name)
    return load(spec.floor, device=model.device, dtype=model.dtype) if spec and spec.floor else None


# --- folders ---------------------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before anything is computed; nothing is left behind."""
    made: list[Path] = []
    try:
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"'{shorten(str(folder), 80)}' cannot be written to ({error.strerror or error})",
            expected="a folder that is there, or one that can be made", do="give another --out (`out=`)",
        ) from error  # fmt: skip
    finally:
        for one in made:
            with suppress(OSError):
                one.rmdir()


def check_file(path: Path, kinds: Sequence[str], overwrite: bool) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    if path.suffix.lower() not in kinds:
        raise InputError(
            f"'{path}' ends in '{path.suffix}'" if path.suffix else f"'{path}' has no ending",
            expected=" or ".join(kinds), do=f"call it '{path.with_suffix(kinds[0])}'",
        )  # fmt: skip
    if not path.parent.is_dir():
        raise InputError(
            f"there is no folder '{path.parent}'", expected="a file in a folder that is there", do="make it first"
        )
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(
            f"'{path}' is already there", expected="a new file", do="give another name" + (
                "" if path.is_dir() else ", or --overwrite"),
        )  # fmt: skip
    check_folder(path.parent)


# --- pictures ---------------------------------------------------------------------------------------------------------


def read_picture(source: Any) -> Image.Image:
    """A picture of any size and mode as RGB, turned as its EXIF says; a damaged file is an error that names it."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        inside = [file.name for file in pictures_in(Path(source))]
        raise InputError(
            f"'{source}' is a folder", expected="one picture file", exists=", ".join(inside[:5]) or "no picture in it",
            do="name one picture; many go by their folder to --pictures",
        )  # fmt: skip
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


def readable(file: Path) -> bool:
    """Whether a file can be read to its end as a picture."""
    try:
        read_picture(file)
    except InputError:
        return False
    return True


class Folder(Sequence[Any]):
    """The pictures of a folder in the order of their names, opened only when asked for; at most `limit` of them.

    Files that are no pictures are an error that names all of them, unless `skip`: then they are left out, and named in
    `skipped`.
    """

    def __init__(self, folder: str | Path, limit: int = 512, *, skip: bool = False) -> None:
        path = Path(folder)
        if not path.is_dir():
            raise InputError(
                f"'{folder}' is a file" if path.is_file() else f"there is no folder '{folder}'",
                expected=f"a folder of pictures, or the word '{EMOJIWORLD}'",
                do="give the folder that holds them; --image takes a single picture",
            )
        found = pictures_in(path)
        bad = [file for file in found[:limit] if not readable(file)] if skip else []
        self.skipped = tuple(file.name for file in bad)
        self.files = tuple(file for file in found[:limit] if file not in bad)
        if len(self.files) < 3:
            raise InputError(
                f"'{folder}' holds {len(self.files)} pictures" + (" that can be read" if bad else ""),
                expected="at least 3, better some hundreds",
                exists=", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing in it",
                do=f"pictures end in {' '.join(SUFFIXES)}; sub-folders are not looked into",
            )
        if not skip and not all(map(_opens, self.files)):
            self._refuse([file for file in self.files if not readable(file)])

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> list[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        try:
            wanted = self.files[at]
            return read_picture(wanted) if isinstance(wanted, Path) else [read_picture(file) for file in wanted]
        except InputError:
            self._refuse([file for file in self.files if not readable(file)])
            raise

    def _refuse(self, bad: list[Path]) -> None:
        """Name all files that cannot be read, if there are any."""
        if not bad:
            return
        names = ", ".join(file.name for file in bad[:5]) + (f" and {len(bad) - 5} more" if bad[5:] else "")
        raise InputError(
            f"of the {len(self)} pictures in '{bad[0].parent}', {len(bad)} cannot be read: {names}",
            expected="whole PNG, JPEG, WebP, … files",
            exists=f"{len(self) - len(bad)} that can be read",
            do="take them away, or leave them out with --skip-bad (`skip_bad=True`)",
        )


def _opens(file: Path) -> bool:
    """Whether a file begins like a picture; far cheaper than to read it."""
    try:
        with Image.open(file):
            return True
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return False


def crowd(source: str | Path | None, name: str, count: int, *, skip_bad: bool = False) -> Sequence[Any] | None:
    """Many pictures, against which one is seen: a folder's, scenes of EmojiWorld, or unasked those of its spec."""
    spec = spec_of(name)
    source = spec.crowd if source is None and spec else source
    if source is None:
        return None
    if str(source) == EMOJIWORLD:
        return [data.scene_at("test", index) for index in range(count)]
    return Folder(source, count, skip=skip_bad)


def as_seen(
    model: Model, whole: Image.Image, longest: int = 448, given: Mapping[str, Any] | None = None
) -> Image.Image:
    """The part of a picture that the model is given, in the shape it is given, finer where the file is finer.

    The processor's tensor says what the model sees, `given` with others or made for it. Its cropping is done again on
    the whole picture; where the two disagree, the tensor itself is the picture. A picture that the model is given in
    pieces, or not at all, is the whole one.
    """
    pixels = (model.inputs(image=whole).tensors if given is None else given).get("pixel_values")
    if pixels is None or pixels.dim() != 4 or pixels.shape[1] != 3:
        return whole
    tensor = pixels[0].float().cpu()
    tool = model.engine.tools.images
    mean, spread = (torch.tensor(getattr(tool, name, None) or [0.5] * 3) for name in ("image_mean", "image_std"))
    array = (tensor * spread[:, None, None] + mean[:, None, None]).clamp(0, 1).permute(1, 2, 0).numpy()
    seen = Image.fromarray((array * 255).round().astype(np.uint8))
    times = max(1, longest // max(seen.size))
    size = (seen.width * times, seen.height * times)
    fine = whole.resize(size, Image.Resampling.BICUBIC, box=_crop(tool, whole, seen))
    gap = np.abs(np.asarray(fine.resize(seen.size, Image.Resampling.BICUBIC), float) - np.asarray(seen, float)).mean()
    return fine if gap < 12 else seen.resize(size, Image.Resampling.NEAREST)


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
    """The texts without blanks around them, at least one, no two alike."""
    given = [text.strip() for text in ([texts] if isinstance(texts, str) else texts)]
    if not any(given):
        raise InputError(
            "there is no text to hold the picture against", expected="at least one text, for instance 'a dog'",
            do="give --text (texts= in Python), better two: what it shows, and what it might be mistaken for",
        )  # fmt: skip
    for index, text in enumerate(given):
        if not text or text in given[:index]:
            raise InputError(
                f"text {index + 1} is empty" if not text else f"the text '{text}' is given twice",
                expected="texts that differ, none of them empty", exists=", ".join(map(repr, given[:5])),
                do="leave it out, or give the rival that you meant",
            )  # fmt: skip
    return tuple(given)


def check_bank(source: str | Path | None) -> None:
    """Refuse a file that is no bank of texts, before a model is opened."""
    if source is not None and str(source) != EMOJIWORLD:
        file_texts(source)


def bank_of(source: str | Path | None, model: Model) -> TextBank | None:
    """A bank of texts: a file's, one a line; EmojiWorld's phrases; unasked that of the model's spec, else none."""
    spec = spec_of(model.name)
    source = spec.bank if source is None and spec else source
    return None if source is None else read_bank(source, model)


def contexts_of(source: str | Path | None, name: str) -> tuple[str, ...] | None:
    """Texts in whose words the states of a model that writes are found: a file's, EmojiWorld's, or its spec's."""
    spec = spec_of(name)
    source = spec.bank if source is None and spec else source
    if source is None:
        return None
    return tuple(emoji_texts() if str(source) == EMOJIWORLD else file_texts(source))


def read_bank(source: str | Path, model: Model) -> TextBank:
    """The texts of a file, one a line, or the phrases of EmojiWorld."""
    if str(source) == EMOJIWORLD:
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
