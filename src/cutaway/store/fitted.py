"""What a training leaves behind: tensors, settings and the model it was fitted on, in a folder without pickle.

The folder holds `fitted.safetensors` and `config.json`. The model is known by content (weights, dtype, configuration,
tokenizer; where it was found and on which device it lies say nothing), so that what was fitted on one model is never
read on another in silence.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from cutaway import __version__
from cutaway.errors import InputError, StoreError
from cutaway.model.fingerprint import fingerprint
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.wrapped import at_rest

TENSORS, CONFIG, FORMAT = "fitted.safetensors", "config.json", 1
F = TypeVar("F", bound="Fitted")


@dataclass(frozen=True)
class Origin:
    """What something was fitted on: a model, by its name and by its content, and sites of it."""

    model: str
    revision: str
    dtype: str
    content: str
    sites: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, *sites: str | Site) -> Origin:
        """These sites of a model as it is now; edits held around it are no part of it.

        Of the dictionaries whose features are sites of the model, those that these sites are seen through count.
        """
        seats = [model.engine.seats.get(str(site)) for site in sites]
        through = [seat.through.dictionary for seat in seats if seat is not None and seat.through is not None]
        try:
            with at_rest(model.engine.roots.values()):
                content = fingerprint(model.engine.plain, *([through] if through else []))
        except InputError as error:
            raise StoreError(
                f"'{model.name}' cannot be known by its content", expected="a model whose weights are in memory",
                do="load it without offloading",
            ) from error  # fmt: skip
        return cls(model.name, model.revision, str(model.dtype).removeprefix("torch."), content, tuple(map(str, sites)))

    def __str__(self) -> str:
        revision = f" at {self.revision[:12]}" if self.revision else ""
        return f"'{self.model}'{revision} in {self.dtype} (content {self.content[:8]})"


@dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """Tensors by name, settings that JSON can hold, and what they were fitted on.

    A subclass gives its `kind` a name of its own, and says what can be done with the tensors.

    >>> import tempfile, cutaway, torch
    >>> model = cutaway.load("tiny:clip")
    >>> made = Fitted({"mean": torch.zeros(32)}, {"items": 9}, Origin.of(model, "vision.1.resid_post"))
    >>> back = Fitted.load(made.save(Path(tempfile.mkdtemp()) / "mean"))
    >>> back.check(model, "vision.1.resid_post")
    >>> back
    Fitted(mean 32; vision.1.resid_post of 'tiny:clip')
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    on: Origin

    kind: ClassVar[str] = "fitted"

    def check(self, model: Model, *sites: str | Site) -> None:
        """Raise StoreError unless it was fitted on this very model and, where some are named, at these sites."""
        here = Origin.of(model, *self.on.sites)
        if here.content != self.on.content:
            raise StoreError(
                f"this {self.kind} was fitted on {self.on}, not on {here}",
                expected="the same weights, dtype, configuration and tokenizer",
                exists=f"{self.on.model}: {', '.join(self.on.sites)}", do="open that model, or fit it anew on this one",
            )  # fmt: skip
        strange = [str(site) for site in sites if str(site) not in self.on.sites]
        if strange:
            raise StoreError(
                f"this {self.kind} was fitted at {', '.join(self.on.sites)}, not at {', '.join(strange)}",
                expected="a site it was fitted at", exists=", ".join(self.on.sites),
                do=f"read it there, or fit one at {strange[0]}",
            )  # fmt: skip

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder, whole or not at all; one that is there is an error, or with `overwrite` replaced.

        Only a folder that `save` wrote is ever replaced.
        """
        folder = Path(folder)
        there = folder.exists()
        if there and not (overwrite and _is_ours(folder)):
            raise StoreError(
                f"'{folder}' exists already" + (" and was not written by `save`" if overwrite else ""),
                expected="a path where nothing is", do="choose another" + ("" if overwrite else ", or overwrite=True"),
            )  # fmt: skip
        if not folder.parent.is_dir():
            raise StoreError(
                f"there is no folder '{folder.parent}'", expected="a path in a folder that exists", do="make it first"
            )
        new, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{word}") for word in ("new", "old"))
        try:
            self._write(new)
            if there:
                folder.rename(old)
            new.rename(folder)
        finally:
            if there and not folder.exists():
                old.rename(folder)
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
        return folder

    def _write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        tensors = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in self.tensors.items()
        }
        told = {
            "format": FORMAT, "kind": self.kind, "config": dict(self.config), "on": asdict(self.on),
            "content": fingerprint(tensors), "cutaway": __version__,
        }  # fmt: skip
        try:
            text = json.dumps(told, ensure_ascii=False, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"the settings of this {self.kind} cannot be written: {error}", do="put arrays into `tensors`",
                expected="numbers, texts, truth values, lists and mappings of these",
            ) from error  # fmt: skip
        folder.mkdir()
        save_file(tensors, folder / TENSORS)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls: type[F], folder: str | Path) -> F:
        """Open what `save` wrote; nothing in the folder is run. Another kind than this class is an error."""
        folder = Path(folder)
        kind, tensors, config, on = _read(folder)
        if cls is not Fitted and kind != cls.kind:
            raise StoreError(
                f"'{folder}' holds a {kind}", expected=f"a {cls.kind}",
                do="open it with the class of its kind, or with `Fitted.load`, which opens any",
            )  # fmt: skip
        return cls(tensors, config, on)

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{name} {'x'.join(map(str, x.shape)) or 'scalar'}" for name, x in sorted(self.tensors.items())
        )
        return f"{type(self).__name__}({sizes}; {', '.join(self.on.sites)} of '{self.on.model}')"


def _read(folder: Path) -> tuple[str, dict[str, Tensor], dict[str, Any], Origin]:
    """Kind, tensors, settings and origin of a folder, whose two files must belong together."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / CONFIG).is_file():
        raise StoreError(
            f"nothing fitted lies at '{folder}'", expected=f"a folder with {CONFIG} and {TENSORS}, as `save` writes it",
            exists=", ".join(sorted(one.name for one in folder.iterdir())[:5]) if folder.is_dir() else "no such folder",
            do="check the path",
        )  # fmt: skip
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if told["format"] > FORMAT:
            raise StoreError(
                f"'{folder}' was written by cutaway {told['cutaway']}", expected=f"format {FORMAT}",
                exists=f"format {told['format']}", do="open it with that version",
            )  # fmt: skip
        tensors = load_file(folder / TENSORS)
        found = told["kind"], tensors, told["config"], Origin(**{**told["on"], "sites": tuple(told["on"]["sites"])})
        whole = fingerprint(tensors) == told["content"]
    except (OSError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise StoreError(
            f"'{folder}' cannot be read ({type(error).__name__})", expected="a folder that `save` wrote, whole",
            do="copy it again, or fit it again",
        ) from error  # fmt: skip
    if not whole:
        raise StoreError(
            f"the tensors in '{folder}' are not those its {CONFIG} speaks of", expected="a folder that `save` wrote",
            do="copy it again, or fit it again",
        )  # fmt: skip
    return found


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds what `save` writes and nothing else."""
    return folder.is_dir() and {one.name for one in folder.iterdir()} == {TENSORS, CONFIG}
