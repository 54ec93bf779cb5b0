"""Data into models: pictures, scenes or texts in batches, their embeddings, and a progress bar that can be silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.data import Scene, render
from cutaway.methods.result import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.weights import readout

Rows = Inputs | Sequence[Any]
T = TypeVar("T")


def tracked(items: Iterable[T], what: str, total: int | None = None, *, show: bool = True) -> Iterator[T]:
    """The same items, with a progress bar on the terminal's error stream that vanishes when done."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield from items
        return
    yield from track(items, what, total=total, console=console, transient=True)


def feed(
    model: Model, rows: Rows, tower: str, *, batch: int = 32, what: str = "running", progress: bool = True
) -> Iterator[Inputs]:
    """Inputs for a tower, `batch` rows at a time: pictures or scenes for `vision`, strings for `text`.

    A ready `Inputs` goes through whole.
    """
    if isinstance(rows, Inputs):
        yield rows
        return
    check_rows(model, rows, tower)
    starts = range(0, len(rows), batch)
    for start in tracked(starts, what, len(starts), show=progress):
        part = rows[start : start + batch]
        if tower.startswith("text"):
            yield model.inputs(text=list(part))
        else:
            yield model.inputs(image=[render(one) if isinstance(one, Scene) else one for one in part])


def check_rows(model: Model, rows: Sequence[Any], tower: str) -> None:
    """Raise unless the tower exists and there is something to run on."""
    if tower not in model.towers:
        raise MethodError(f"no tower '{tower}'", exists=", ".join(model.towers) or "no named tower")
    if isinstance(rows, str) or not len(rows):
        raise MethodError(
            f"nothing to run on: {rows!r}", expected="a list of pictures or scenes (or of texts for a text tower)",
            do="put a single one into a list",
        )  # fmt: skip


def embedded(
    model: Model, rows: Rows, tower: str, *, batch: int = 64, progress: bool = True
) -> Float[Tensor, "item joint"]:
    """What the model gives out for each row in its joint space, not normalised; from any tower that ends there."""
    names = [f"{tower}.{part}" for part in ("joint", "pool.out") if f"{tower}.{part}" in model.sites]
    end = readout(model, tower) if not names or tower.startswith("text") else None
    site = names[0] if names else str(end and end.space)
    found = []
    for inputs in feed(model, rows, tower, batch=batch, what=f"embedding ({tower})", progress=progress):
        at = end.positions(inputs) if end is not None else None  # raises where a text is read at its padding
        read = model.run(inputs, record=site)[site]
        found.append(read if read.dim() == 2 else read[torch.arange(len(read)), at])
    return torch.cat(found).cpu()


def unit(vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Each row divided by its length; a row of zeros stays zero."""
    lengths = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny)
