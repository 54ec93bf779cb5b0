"""Data by name: EmojiWorld, a folder of pictures, a text file with an item a line, a Hugging Face data set on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from cutaway.data import Scene, scene_at
from cutaway.data.prompts import DRAWINGS
from cutaway.data.splits import Split, check_split
from cutaway.data.worlds import DEFAULT, EMOJIWORLD, World
from cutaway.errors import StoreError
from cutaway.model.fingerprint import fingerprint
from cutaway.model.model import Model
from cutaway.model.pictures import SUFFIXES, picture, pictures_in
from cutaway.store.examples import Examples, part


@dataclass(frozen=True)
class Scenes(Examples):
    """The first n scenes of EmojiWorld for a seed: pictures with captions, questions of who answers, prompts.

    >>> len(Scenes(100, split="test"))
    100
    """

    n: int
    split: Split = "train"
    seed: int = 0
    world: World = DEFAULT

    def __post_init__(self) -> None:
        check_split(self.split)

    def __len__(self) -> int:
        return self.n

    def scene(self, at: int) -> Scene:
        """A scene by its number."""
        return scene_at(self.split, at, self.seed, self.world)

    def example(self, at: int, name: str, model: Model) -> Any:
        """The scene drawn, a caption, a question or a prompt."""
        scene = self.scene(at)
        if name == "prompt" and self.world == DEFAULT:  # what a model that draws has words for
            scene = scene_at(self.split, at, self.seed, DRAWINGS)
        return part(scene, name, model)

    def told(self) -> str:
        """Number, split and seed."""
        return f"{self.n} scenes of {EMOJIWORLD} ({self.split}, seed {self.seed})"


@dataclass(frozen=True)
class Pictures(Examples):
    """The pictures of a folder in the order of their names, opened when they are asked for; `text` goes with each."""

    folder: str
    text: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if not Path(self.folder).is_dir():
            raise StoreError(
                f"there is no folder '{self.folder}'", expected="a folder of pictures", do="check the path"
            )
        if not self.files:
            raise StoreError(
                f"'{self.folder}' holds no picture", expected=f"files that end in {' '.join(SUFFIXES)}",
                exists=", ".join(sorted(file.name for file in Path(self.folder).iterdir())[:5]) or "nothing in it",
                do="sub-folders are not looked into: give the one that holds them",
            )  # fmt: skip

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(pictures_in(Path(self.folder))[: self.limit])

    def __len__(self) -> int:
        return len(self.files)

    def example(self, at: int, name: str, model: Model) -> Any:
        """The picture, or the text that goes with every one."""
        if name in ("text", "prompt"):
            return self.text
        return opened(self.files[at]) if name == "image" else None

    def content(self) -> str:
        """A digest of the names and the bytes of all files."""
        digest = hashlib.blake2b(digest_size=32)
        for file in self.files:
            digest.update(f"{file.name}\0".encode() + hashlib.blake2b(file.read_bytes(), digest_size=32).digest())
        return fingerprint(digest.digest(), self.text, dict(self.more))

    def told(self) -> str:
        """How many, and where."""
        return f"{len(self)} pictures of '{Path(self.folder).name}'" + (f" with “{self.text}”" if self.text else "")


def opened(file: Path) -> Image.Image:
    """A picture file as RGB; a damaged one is an error that names it."""
    try:
        return picture(file)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise StoreError(
            f"'{file.name}' cannot be read to its end ({error})", expected="a whole PNG, JPEG, WebP, …",
            exists="the items before it are kept", do="repair it or take it away, and run the same again",
        ) from error  # fmt: skip


@dataclass(frozen=True)
class Lines(Examples):
    """The lines of a text file, an item each, empty ones left out: texts, or prompts of a model that draws."""

    texts: tuple[str, ...]
    name: str = "lines"

    @classmethod
    def of(cls, path: str | Path, *, limit: int | None = None, **more: Any) -> Lines:
        """The lines of a UTF-8 file."""
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(
                f"'{path}' cannot be read ({error})", expected="a UTF-8 text file, an item a line", do="check the path"
            ) from error
        texts = tuple(line.strip() for line in lines if line.strip())[:limit]
        if not texts:
            raise StoreError(f"'{path}' has no line with a text in it", expected="an item a line", do="write some")
        return cls(texts, path.name, more=more)

    def __len__(self) -> int:
        return len(self.texts)

    def example(self, at: int, name: str, model: Model) -> Any:
        """The line."""
        return self.texts[at] if name in ("text", "prompt") else None

    def content(self) -> str:
        """A digest of the lines, whatever the file is called."""
        return fingerprint(self.texts, dict(self.more))

    def told(self) -> str:
        """How many, and of which file."""
        return f"{len(self)} lines of '{self.name}'"


@dataclass(frozen=True)
class Dataset(Examples):
    """A Hugging Face data set that `save_to_disk` wrote, read lazily; `text` goes with each item that has none.

    Needs the library `datasets`, whose own fingerprint of the data is taken.
    """

    folder: str
    split: str | None = None
    text: str | None = None
    limit: int | None = None

    @property
    def rows(self) -> Any:
        """The data set, opened once in a process."""
        return _on_disk(self.folder, self.split)

    def __len__(self) -> int:
        return min(len(self.rows), len(self.rows) if self.limit is None else self.limit)

    def example(self, at: int, name: str, model: Model) -> Any:
        """A column of the item under one of its usual names."""
        found = part(self.rows[at], name, model)
        return self.text if found is None and name in ("text", "prompt") else found

    def content(self) -> str:
        """The fingerprint that the library keeps."""
        return fingerprint(str(self.rows._fingerprint), len(self), self.text, dict(self.more))

    def told(self) -> str:
        """How many, and where."""
        return f"{len(self)} items of the data set '{Path(self.folder).name}'" + (
            f" ({self.split})" if self.split else ""
        )


@cache
def _on_disk(folder: str, split: str | None) -> Any:
    try:
        from datasets import load_from_disk  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise StoreError(
            f"'{folder}' is a Hugging Face data set, and the library that opens it is not installed",
            expected="the package datasets", do="install it: pip install datasets",
        ) from error  # fmt: skip
    try:
        found: Any = load_from_disk(folder)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"no data set could be opened at '{folder}' ({type(error).__name__})",
            expected="a folder that `save_to_disk` of the library wrote", do="check the path",
            exists=", ".join(sorted(one.name for one in Path(folder).glob("*"))[:5]) or "no such folder, or nothing",
        ) from error  # fmt: skip
    if isinstance(found, Mapping):
        if split not in found:
            raise StoreError(
                f"'{folder}' has no split '{split}'" if split else f"'{folder}' holds several splits",
                expected="the name of one", exists=", ".join(found), do="name it: `split=` (--split)",
            )  # fmt: skip
        found = found[split]
    return found


def read_data(
    source: str, *, n: int | None = None, split: str | None = None, seed: int = 0, text: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Examples:  # fmt: skip
    """Data as a command line names it: `emojiworld` (or `emojiworld:test`), a folder, a data set on disk, a text file.

    `n` items at most (of scenes 1000 unless given); `text` goes with every picture; `more` to `model.inputs`.

    >>> read_data("emojiworld:test", n=10).told()
    '10 scenes of emojiworld (test, seed 0)'
    """
    path, options = Path(source), dict(more or {})
    word, _, named = source.partition(":")
    if word == EMOJIWORLD:
        return Scenes(1000 if n is None else n, named or split or "train", seed, more=options)  # type: ignore[arg-type]
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return Dataset(source, split, text, n, more=options)
    if path.is_dir():
        return Pictures(source, text, n, more=options)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        return Lines.of(path, limit=n, **options)
    raise StoreError(
        f"'{source}' is a picture" if path.is_file() else f"nothing lies at '{source}'",
        expected=f"'{EMOJIWORLD}', a folder of pictures, a text file with an item a line, or a data set on disk",
        do="give the folder that holds it" if path.is_file() else "check the path",
    )  # fmt: skip
