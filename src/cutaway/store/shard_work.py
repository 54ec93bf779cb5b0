"""One shard as a value: from its number to its file, the same bytes whoever makes it and in whatever order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.model.model import Model
from cutaway.store.collect import Collected, How, collect
from cutaway.store.examples import Data
from cutaway.store.files import write_whole
from cutaway.store.fitted import Origin
from cutaway.store.places import Words
from cutaway.store.shards import pieces
from cutaway.store.spec import Entry, Spec

BLOCK = 2**20  # bytes

# What a store is known by of models that a process has made shards with, so that their weights are read once.
_CONTENT: WeakKeyDictionary[Model, str] = WeakKeyDictionary()


def remember(model: Model, content: str) -> None:
    """What a model is known by now, for shards that this process makes of it."""
    _CONTENT[model] = content


@dataclass(frozen=True, eq=False)
class Made:
    """A shard in memory: tensors in parts, what is told beside them, rows by table."""

    shard: int
    tensors: Mapping[str, list[Tensor]]
    told: Mapping[str, Any]
    rows: Mapping[str, int]

    def write(self, folder: Path) -> Entry:
        """Write its file, and when that is whole on the disk the entry that commits it."""
        path = folder / Entry.names(self.shard)[0]
        path.with_suffix(".json").unlink(missing_ok=True)
        digest = write_whole(path, pieces(self.tensors, self.told))
        entry = Entry(self.shard, dict(self.rows), path.stat().st_size, digest)
        entry.write(folder)
        return entry


def _told(
    shard: int, spec: Spec, words: Words, constants: Mapping[str, Any], rows: Mapping[str, int]
) -> dict[str, Any]:  # fmt: skip
    """What a shard says of itself: which it is, of which store, and what its rows have in common."""
    return {"shard": shard, "of": spec.digest, "words": [*words.numbers], "constants": constants, "rows": rows}


class Packed:
    """Small batches of rows behind one another in blocks: kept one by one among the large readings that are freed
    around them, they leave holes that the next readings do not fit into, and a long shard takes the memory of all.
    """

    def __init__(self) -> None:
        self.free: Tensor | None = None

    def add(self, rows: Shaped[Tensor, "row *shape"]) -> Shaped[Tensor, "row *shape"]:
        """The same rows, where they stay; large ones where they are."""
        if not rows.nbytes or rows.nbytes * 4 > BLOCK:
            return rows
        if self.free is None or len(self.free) < len(rows):
            self.free = rows.new_empty(BLOCK * len(rows) // rows.nbytes, *rows.shape[1:])
        kept, self.free = self.free[: len(rows)], self.free[len(rows) :]
        return kept.copy_(rows)


@dataclass(frozen=True)
class WriteShard:
    """Work for `jobs`: open nothing, hold nothing; `do` makes and commits one shard of the store in `folder`."""

    folder: str
    spec: Spec
    data: Data
    how: How

    def do(self, model: Model, chunk: int) -> Entry:
        """Make and commit a shard; the same bytes for the same number. Another model than the store's is refused."""
        if model not in _CONTENT:
            remember(model, Origin.of(model, *self.spec.on.sites).content)
        if _CONTENT[model] != self.spec.on.content:
            raise StoreError(
                f"this worker opened another model than that of '{self.folder}'", expected=str(self.spec.on),
                exists=str(Origin.of(model, *self.spec.on.sites)),
                do="open the same weights, dtype and configuration everywhere",
            )  # fmt: skip
        return self.made(model, chunk).write(Path(self.folder))

    def made(self, model: Model, chunk: int, head: Collected | None = None) -> Made:
        """A shard in memory; `head` is its first batch where that was made before."""
        words, span = Words(), self.spec.span(chunk)
        sites = model.sites.select(list(self.spec.kept))
        towers = tuple(dict.fromkeys(site.tower for site in sites))
        tensors: dict[str, list[Tensor]] = {}
        packed = {site: Packed() for site in self.spec.kept}
        columns: dict[str, list[Mapping[str, np.ndarray]]] = {}
        for start in range(span.start, span.stop, self.spec.batch):
            stop = min(start + self.spec.batch, span.stop)
            if head is None or start > span.start:
                inputs = self.data.inputs(model, towers, start, stop)
                made = collect(model, inputs, sites, self.how, start=start, words=words)
            else:
                made, words = head, head.words
            self._check(made)
            for site in self.spec.kept:
                tensors.setdefault(site, []).append(packed[site].add(made.rows[site]))
            for table, one in made.columns.items():
                columns.setdefault(table, []).append(one)
        constants: dict[str, dict[str, float]] = {}
        for table, parts in columns.items():
            constants[table] = {}
            for name in parts[0]:
                column = np.concatenate([one[name] for one in parts])
                if len(column) and (column == column[0]).all() and name != "item":
                    constants[table][name] = float(column[0]) if name == "time" else int(column[0])
                else:
                    tensors[f"index.{table}.{name}"] = [torch.from_numpy(column)]
        rows = {table: sum(len(one["item"]) for one in parts) for table, parts in columns.items()}
        return Made(chunk, tensors, _told(chunk, self.spec, words, constants, rows), rows)

    def _check(self, made: Collected) -> None:
        """Every site is there, with rows of the shape that the store was begun with."""
        for site, known in self.spec.kept.items():
            found = made.kept.get(site)
            if found != known:
                said = "nothing" if found is None else f"rows of {found.shape} in {found.dtype}, table '{found.table}'"
                raise StoreError(
                    f"'{site}' gave {said} for some items",
                    expected=f"rows of {known.shape} in {known.dtype}, table '{known.table}', as for the first ones",
                    do="harvest inputs of one kind and size, or leave this site out",
                )  # fmt: skip
