"""Data into models: any stream of pictures, scenes or texts in batches, their embeddings, a bar that can be silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from cutaway.data import Scene, render
from cutaway.errors import MethodError, SiteError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.weights import Readout, readout
from cutaway.store.again import runs
from cutaway.store.stored import Store

Rows = Inputs | Iterable[Any] | Dataset[Any] | Store
T = TypeVar("T")

# What an example of a data set, or a batch of a loader, calls that which a tower reads.
NAMES = {"picture": ("picture", "image", "pictures", "images"), "text": ("caption", "text", "captions", "texts")}


def tracked(items: Iterable[T], what: str, total: int | None = None, *, show: bool = True) -> Iterator[T]:
    """The same items, with a progress bar on the terminal's error stream that vanishes when done.

    Where the number of items is not known, the bar counts and promises nothing.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(emoji=False, stderr=True)
    if not (show and console.is_terminal):
        yield from items
        return
    yield from track(items, what, total=total, console=console, transient=True)


def feed(
    model: Model, rows: Rows, tower: str, *, batch: int = 32, what: str = "running", progress: bool = True
) -> Iterator[Inputs]:
    """Inputs for a tower, `batch` rows at a time, made when they are asked for and held by nobody afterwards.

    `rows` is anything that can be gone over: a list, a generator, an array with a picture a row, a torch data set or
    `DataLoader` (whose own batches are taken apart). A row is a picture or a scene, for a text tower a string; of an
    example with names the one that the tower reads is taken (`picture`, `image`; `caption`, `text`), of a tuple the
    first, as torch writes examples with a label. Ready `Inputs`, alone or as rows, go through whole.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> stream = (scene_at("test", i) for i in range(5))
    >>> [made.tokens["vision"].batch for made in feed(cutaway.load("tiny:clip"), stream, "vision", batch=2)]
    [2, 2, 1]
    """
    if isinstance(rows, Inputs):
        yield rows
        return
    check_rows(model, rows, tower)
    if batch < 1:
        raise MethodError(f"batches of {batch} rows", expected="one at least", do="give `batch` from 1 on")
    size, given = _length(rows), 0
    total = None if size is None else -(-size // batch)
    for part in tracked(_batches(_each(rows, reads_words(model, tower)), batch), what, total, show=progress):
        given += 1
        yield part if isinstance(part, Inputs) else prepared(model, part, tower)
    if not given:
        raise MethodError(
            f"nothing to run on: {_kind(rows)} gave no row", expected="one row at least",
            do="make it anew if it was gone through before (a generator is used up), or check what it reads",
        )  # fmt: skip


def recorded(
    model: Model, rows: Rows, tower: str, sites: Sequence[str | Site] | str, *, edits: Any = (), kind: str = "",
    batch: int = 32, what: str = "recording", progress: bool = True,
) -> Iterator[Run]:  # fmt: skip
    """Runs of rows that recorded these sites, `batch` at a time; from a `Store` of this model as it was, without a run.

    Who reads positions of one `kind` alone says so: a store that kept only these will do.

    >>> import cutaway, tempfile
    >>> from cutaway import store
    >>> model, texts = cutaway.load("tiny:clip"), ["a red dog", "a cat"]
    >>> kept = store.harvest(model, texts, "text.1.resid_post", tempfile.mkdtemp(), progress=False)
    >>> for rows in (texts, kept):
    ...     (run,) = recorded(model, rows, "text", "text.1.resid_post", progress=False)
    ...     print(tuple(run["text.1.resid_post"].shape))
    (2, 5, 32)
    (2, 5, 32)
    """
    if not isinstance(rows, Store):
        for inputs in feed(model, rows, tower, batch=batch, what=what, progress=progress):
            yield model.run(inputs, record=sites, edits=edits)
        return
    if edits:
        raise MethodError(
            "a store holds the model as it is, and here it is to run under edits", do="give the rows themselves",
            expected="rows that can be run", exists=repr(rows),
        )  # fmt: skip
    total = sum(-(-len(rows.spec.span(shard)) // batch) for shard in rows.entries)
    yield from tracked(runs(rows, model, sites, tower, kind=kind, batch=batch), what, total, show=progress)


def check_rows(model: Model, rows: object, tower: str) -> None:
    """Raise unless the tower exists and there is something to go over, in an order; looks at no row."""
    if tower not in model.towers:
        raise MethodError(
            f"no tower '{tower}'", expected="a tower of this model", exists=", ".join(model.towers) or "no named tower",
            do="`print(model)` shows them",
        )  # fmt: skip
    if isinstance(rows, Inputs):
        return
    what, do = "", "put a single one into a list"
    if isinstance(rows, Store):
        what, do = "a store, whose items were run before, and this method runs them anew", "give the rows themselves"
    elif isinstance(rows, (str, bytes, Path, Image, Scene)) or _is_picture(rows):
        what = f"{_kind(rows)}, not rows"
    elif isinstance(rows, Mapping):
        what, do = f"{_kind(rows)} with names, not rows", "give one of its columns, or a list of examples with names"
    elif isinstance(rows, set | frozenset):
        what, do = f"{_kind(rows)}, which has no order to hold labels or results against", "give a list: `sorted(…)`"
    elif not isinstance(rows, Iterable) and not _has_numbers(rows):
        what = f"{_kind(rows)}, which cannot be gone over"
    elif _length(rows) == 0:
        what, do = f"{_kind(rows)} without a row", "check where the rows come from"
    if what:
        raise MethodError(
            f"nothing to run on: this is {what}", exists=repr(rows)[:60] if isinstance(rows, str | Path) else "",
            expected="a list, a stream or a data set of pictures or scenes (of texts for a text tower)", do=do,
        )  # fmt: skip


def again(model: Model, rows: Rows, tower: str) -> Sequence[Any]:
    """Rows for a method that goes over them more than once, and picks among them; what runs out is refused."""
    check_rows(model, rows, tower)
    if isinstance(rows, Inputs) or not _has_numbers(rows):
        raise MethodError(
            f"{_kind(rows)} can be gone over once, in its own order, and this method goes back to single rows",
            expected="rows with numbers: a list, or a data set that has a length",
            do="put them into a list: `list(…)`; of a loader, give the data set",
        )  # fmt: skip
    return _Numbered(rows)


class _Numbered(Sequence[Any]):
    """Rows of any kind by their numbers; a stretch is a list."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        chosen = range(len(self))[at]
        return self.rows[chosen] if isinstance(chosen, int) else [self.rows[i] for i in chosen]


def prepared(model: Model, rows: Sequence[Any], tower: str) -> Inputs:
    """One batch of rows as the model takes them."""
    words = reads_words(model, tower)
    given = [_row(one, words) for one in rows]
    if words and any(isinstance(one, Scene | Image) for one in given):
        raise MethodError(
            f"the '{tower}' tower reads words, and these rows are pictures", expected="texts, or ready inputs",
            do="say what is asked of each picture (`--text`, `model.inputs(image=…, text=…)`), or take tower 'vision'",
        )  # fmt: skip
    return model.inputs(text=given) if words else model.inputs(image=given)


def reads_words(model: Model, tower: str) -> bool:
    """Whether the positions of a tower are words; else they are parts of a picture."""
    return model.towers[tower].tokens == "ids"


def ended(model: Model, tower: str) -> Readout:
    """How a tower that ends in an embedding or in classes is read; a decoder ends in its vocabulary and is refused."""
    end = readout(model, tower)
    if model.towers[tower].causal and end.space.endswith(".logits"):
        raise SiteError(
            f"the '{tower}' tower is a decoder: its end is its whole vocabulary",
            expected="a tower that ends in an embedding or in classes", exists=", ".join(model.towers),
            do="`model.sweep` and `model.gradients` take decoders, with a target",
        )  # fmt: skip
    return end


def embedded(
    model: Model, rows: Rows, tower: str, *, batch: int = 64, progress: bool = True
) -> Float[Tensor, "item joint"]:
    """What the model gives out for each row in its joint space, not normalised; from any tower that ends there."""
    names = [f"{tower}.{part}" for part in ("joint", "pool.out") if f"{tower}.{part}" in model.sites]
    end = ended(model, tower) if not names or reads_words(model, tower) else None
    site = names[0] if names else str(end and end.space)
    found = []
    for inputs in feed(model, rows, tower, batch=batch, what=f"embedding ({tower})", progress=progress):
        at = end.positions(inputs) if end is not None else None  # raises where a text is read at its padding
        read = model.run(inputs, record=site)[site]
        found.append((read if read.dim() == 2 else read[torch.arange(len(read)), at]).cpu())
    return torch.cat(found)


def unit(vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Each row divided by its length; a row of zeros stays zero."""
    lengths = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny)


# --- rows one by one --------------------------------------------------------------------------------------------------


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any] | Inputs]:
    """Rows in lists of `size`; ready inputs by themselves."""
    held: list[Any] = []
    for row in rows:
        ready = isinstance(row, Inputs)
        held += [] if ready else [row]
        if held and (ready or len(held) == size):
            yield held
            held = []
        if ready:
            yield row
    if held:
        yield held


def _each(rows: Any, words: bool) -> Iterator[Any]:
    """Every row, what a loader has put together taken apart."""
    if isinstance(rows, DataLoader) and rows.batch_sampler is not None:
        columns = rows.collate_fn is default_collate
        for made in rows:
            yield from _loaded(made, words, columns)
    elif isinstance(rows, DataLoader):
        yield from (tuple(one) if isinstance(one, list) else one for one in rows)  # torch makes lists of tuples
    elif isinstance(rows, Iterable):
        yield from rows
    else:
        yield from (rows[i] for i in range(len(rows)))  # torch asks no end of a data set but its length


def _loaded(made: Any, words: bool, columns: bool) -> Iterable[Any]:
    """The rows of a loader's batch; torch's own collate makes a list of columns of tuples, and only then."""
    if isinstance(made, Inputs):
        return [made]
    if isinstance(made, Mapping):
        return _named(made, words)
    columns = columns and isinstance(made, list) and not isinstance(made[0], str)
    return made[0] if columns or isinstance(made, tuple) else made


def _row(one: Any, words: bool) -> Any:
    """A row as `model.inputs` takes it."""
    if isinstance(one, Mapping):
        one = _named(one, words)
    if isinstance(one, tuple):
        one = one[0]
    if isinstance(one, Scene) and not words:
        return render(one)
    first = isinstance(one, Tensor) and one.dim() == 3 and one.shape[0] in (1, 3, 4)
    return one.movedim(0, -1) if first and one.shape[-1] not in (1, 3, 4) else one  # torch puts channels first


def _named(example: Mapping[str, Any], words: bool) -> Any:
    wanted = NAMES["text" if words else "picture"]
    found = [name for name in wanted if name in example]
    if not found:
        raise MethodError(
            f"an example has no {'text' if words else 'picture'}", expected=", ".join(wanted),
            exists=", ".join(map(str, list(example)[:5])) or "nothing",
            do="name it: `(row['…'] for row in rows)`; of prepared tensors, `(model.inputs(**row) for row in rows)`",
        )  # fmt: skip
    return example[found[0]]


def _length(rows: object) -> int | None:
    """How many rows there are, where that is known; the length of a loader counts batches, or is an error."""
    return len(rows) if isinstance(rows, Sized) and not isinstance(rows, DataLoader) else None


def _has_numbers(rows: object) -> bool:
    return isinstance(rows, Sized) and hasattr(rows, "__getitem__")


def _is_picture(rows: object) -> bool:
    """Whether rows are numbers of one picture rather than of several, or an array of texts."""
    plain = isinstance(rows, Tensor) or (isinstance(rows, np.ndarray) and rows.dtype.kind not in "OSU")
    return plain and isinstance(rows, Tensor | np.ndarray) and rows.ndim < 4


def _kind(rows: object) -> str:
    article = "an" if type(rows).__name__[0] in "aeiouAEIO" else "a"
    return f"{article} {type(rows).__name__}"
