"""Data as numbered items, each in words of `model.inputs`: what a harvest goes over, in any order, on any machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL.Image import Image
from torch import Tensor

from cutaway.data import Scene, render
from cutaway.data.captions import caption
from cutaway.data.prompts import prompt
from cutaway.data.questions import questions
from cutaway.errors import InputError, StoreError
from cutaway.model.drawing import taken
from cutaway.model.fingerprint import fingerprint
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model

READ = {"patches": "image", "packed": "image", "ids": "text", "frames": "audio"}
# What examples of data sets call these.
NAMES = {
    "image": ("image", "picture", "img", "images"), "text": ("text", "caption", "question", "prompt", "captions"),
    "audio": ("audio", "sound"), "prompt": ("prompt", "text", "caption", "captions"), "label": ("label",),
}  # fmt: skip


@runtime_checkable
class Data(Protocol):
    """Items by number. Pickled, it goes to whoever makes a shard."""

    def __len__(self) -> int:
        """How many items."""

    def content(self) -> str:
        """A digest of all that the items are."""

    def told(self) -> str:
        """One line for people."""

    def inputs(self, model: Model, towers: Sequence[str], start: int, stop: int) -> Inputs:
        """Items `start` to `stop` as one batch; `towers`: those that must run."""


@dataclass(frozen=True)
class Examples:
    """Items that are examples with names; what the model reads of them is taken. `more` goes to `model.inputs`."""

    more: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        raise NotImplementedError

    def example(self, at: int, name: str, model: Model) -> Any:
        """What an item has under a name (`image`, `text`, `audio`, `prompt`, `label`); None where it has not."""
        raise NotImplementedError

    def content(self) -> str:
        """A digest of all that the items are."""
        return fingerprint(self)

    def told(self) -> str:
        """One line for people."""
        raise NotImplementedError

    def inputs(self, model: Model, towers: Sequence[str], start: int, stop: int) -> Inputs:
        """Items `start` to `stop` as one batch of the model, with what the `towers` read."""
        given: dict[str, Any] = {}
        for name in wanted(model, towers):
            column = [self.example(at, name, model) for at in range(start, stop)]
            if any(one is not None for one in column):
                given[name] = (
                    [_several(one) for one in column] if name == "image" and model.family.image_tokens else column
                )
        more = dict(self.more)
        if model.engine.pipeline is not None:
            more["seed"] = int(more.get("seed", 0)) * 10_000 + start  # other noise for each batch
        if not given and model.engine.pipeline is None:
            raise StoreError(
                f"item {start} of {self.told()} has nothing that '{model.name}' reads",
                expected=", ".join(wanted(model, towers)), do="name what it has, or give other data",
            )  # fmt: skip
        return model.inputs(**given, **more)


def _several(pictures: Any) -> list[Any]:
    """The pictures of one prompt."""
    if pictures is None:
        return []
    return list(pictures) if isinstance(pictures, list | tuple) else [pictures]


def wanted(model: Model, towers: Sequence[str]) -> tuple[str, ...]:
    """What these towers of a model are given, in words of `model.inputs`: all it reads where that runs as one."""
    if model.engine.pipeline is not None:
        takes = taken(model.engine.pipeline)
        return tuple(name for name in ("prompt", "label", "image") if name in takes)
    reads = {name: READ[tower.tokens] for name, tower in model.towers.items() if tower.tokens in READ}
    apart = model.family.kind == "contrastive" and set(towers) <= set(reads)
    return tuple(dict.fromkeys(read for name, read in reads.items() if name in towers or not apart))


@dataclass(frozen=True)
class Listed(Examples):
    """Rows at hand, or of a torch data set: pictures, scenes, texts, or examples with names.

    >>> Listed(("a red dog", "a cat"))
    Listed(2 items)
    """

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, at: int, name: str, model: Model) -> Any:
        """What an item has under a name."""
        return part(self.rows[at], name, model)

    @cached_property
    def _content(self) -> str:
        rows = (self.rows[at] for at in range(len(self.rows)))
        return fingerprint([_whole(row) for row in rows], dict(self.more))

    def content(self) -> str:
        """A digest of all rows."""
        try:
            return self._content
        except InputError as error:
            raise StoreError(
                "these rows cannot be known again: " + error.failed, expected="pictures, scenes, texts, numbers",
                do="give examples of these",
            ) from error  # fmt: skip

    def told(self) -> str:
        """How many rows."""
        return f"{len(self)} rows"

    def __repr__(self) -> str:
        return f"Listed({len(self)} items)"


@dataclass(frozen=True)
class Ready:
    """Inputs that were made before, a batch each: as many rows in every one, fewer in the last at most."""

    batches: tuple[Inputs, ...]

    def __post_init__(self) -> None:
        sizes = [rows_in(one) for one in self.batches]
        if any(size != sizes[0] for size in sizes[:-1]) or sizes[-1] > sizes[0]:
            raise StoreError(
                f"these inputs hold {', '.join(map(str, sizes[:5]))} rows", do="make them in batches of one size",
                expected="as many in each, fewer in the last at most",
            )  # fmt: skip

    @property
    def batch(self) -> int:
        """Rows of each."""
        return rows_in(self.batches[0])

    def __len__(self) -> int:
        return sum(map(rows_in, self.batches))

    def content(self) -> str:
        """A digest of all tensors."""
        return fingerprint(list(self.batches))

    def told(self) -> str:
        """How many rows, in how many batches."""
        return f"{len(self)} rows of inputs"

    def inputs(self, model: Model, towers: Sequence[str], start: int, stop: int) -> Inputs:
        """The batch that begins with an item."""
        return self.batches[start // self.batch]


def rows_in(inputs: Inputs) -> int:
    """How many items one bundle of inputs holds: prompts of a drawing, texts, or else pictures or sounds."""
    if inputs.drawn:
        return len(inputs.drawn)
    for name in ("text", "encoder", *inputs.tokens):
        if name in inputs.tokens:
            return inputs.tokens[name].batch
    return next((len(x) for x in inputs.tensors.values() if isinstance(x, Tensor) and x.dim()), 1)


def as_data(given: Any, **more: Any) -> Data:
    """Anything that has numbered items as `Data`; what runs out cannot be taken up again and is refused."""
    if isinstance(given, Data):
        return given
    if isinstance(given, Inputs):
        return Ready((given,))
    numbered = isinstance(given, Sized) and hasattr(given, "__getitem__")
    if not numbered or isinstance(given, str | bytes | Mapping | Path | Image):
        raise StoreError(
            f"a {type(given).__name__} is no data to go over",
            expected="a list, a data set with a length, or one of `cutaway.store`'s Scenes, Pictures, Lines, Dataset",
            do="put rows into a list: a harvest that is taken up again asks for items by their number",
        )  # fmt: skip
    if not len(given):
        raise StoreError("there is no item to run on", expected="one at least", do="check where the rows come from")
    rows = tuple(given) if isinstance(given, list | tuple) else given
    if isinstance(rows, tuple) and isinstance(rows[0], Inputs):
        return Ready(rows)
    return Listed(rows, more=more)


def part(row: Any, name: str, model: Model) -> Any:
    """What an item has under a name, for a model; None where it has nothing of the kind."""
    if isinstance(row, Mapping):
        found = next((row[one] for one in NAMES[name] if one in row), None)
        found = found[0] if name in ("text", "prompt") and isinstance(found, list | tuple) else found
        return _scene(found, name, model) if isinstance(found, Scene) else _channels_last(found)
    if isinstance(row, tuple):
        return part(row[0], name, model)
    if isinstance(row, Scene):
        return _scene(row, name, model)
    words = isinstance(row, str)
    fits = words if name in ("text", "prompt") else isinstance(row, int) if name == "label" else not words
    return _channels_last(row) if fits else None


def _scene(scene: Scene, name: str, model: Model) -> Any:
    """A scene drawn, as a caption, as a question where the model answers, or as a prompt."""
    if name == "image":
        return render(scene)
    if name == "prompt":
        return prompt(scene, scene.seed).text
    if name != "text":
        return None
    if model.family.image_tokens:
        asked = questions(scene, scene.seed)
        return asked[scene.seed % len(asked)].question
    return caption(scene, scene.seed).text


def _channels_last(one: Any) -> Any:
    """Torch puts the channels of a picture first."""
    first = isinstance(one, Tensor) and one.dim() == 3 and one.shape[0] in (1, 3, 4)
    return one.movedim(0, -1) if first and one.shape[-1] not in (1, 3, 4) else one


def _whole(row: Any) -> Any:
    """A row with the content of the files that it names."""
    if isinstance(row, Path):
        return row.name, row.read_bytes()
    if isinstance(row, Image):
        return row.mode, row.size, row.tobytes()
    if isinstance(row, Mapping):
        return {name: _whole(value) for name, value in row.items()}
    return [_whole(one) for one in row] if isinstance(row, list | tuple) else row
