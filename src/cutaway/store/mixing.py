"""Going over a store: its rows in order, or mixed by a buffer, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.store.shards import Shard
from cutaway.store.spec import DTYPES
from cutaway.store.stored import WORDS, Batch, Index

if TYPE_CHECKING:
    from cutaway.store.stored import Store

RUN = 64  # rows that lie behind one another are read together, so that a disk is not asked for each
MANY = 64  # shards whose index is held


def in_order(
    store: Store, sites: Sequence[str], table: str, batch: int, where: Mapping[str, Any]
) -> Iterator[Batch]:  # fmt: skip
    """Batches of exactly `batch` rows, fewer in the last, whatever shards they lie in."""
    _check(batch, batch)
    held: list[Batch] = []
    for shard in sorted(store.entries):
        index = store.indexed(table, shard)
        chosen = np.flatnonzero(index.where(**where)) if where else None
        file, count = store.shard(shard), len(index) if chosen is None else len(chosen)
        at = 0
        while at < count:
            take = min(batch - sum(map(len, held)), count - at)
            part = slice(at, at + take) if chosen is None else chosen[at : at + take]
            held.append(Batch({site: _read(file, site, part) for site in sites}, index.at(part)))
            at += take
            if sum(map(len, held)) == batch:
                yield _joined(held)
                held = []
    if held:
        yield _joined(held)


def mixed(
    store: Store, sites: Sequence[str], table: str, batch: int, buffer: int, seed: int, where: Mapping[str, Any]
) -> Iterator[Batch]:  # fmt: skip
    """Each row once, in an order by chance.

    Runs of 64 rows come in an order by chance into a buffer, from which rows are drawn by chance; half of it is drawn
    before it is filled up again.

    The same `seed` gives the same order. With a buffer as large as the table any order is equally likely; with a
    smaller one, rows of one run meet more often than by chance, the more so the smaller it is.
    """
    _check(batch, buffer)
    draw, long = np.random.default_rng(seed), min(RUN, buffer)
    runs = [
        (shard, start, min(start + long, store.entries[shard].rows[table]))
        for shard in sorted(store.entries) for start in range(0, store.entries[shard].rows[table], long)
    ]  # fmt: skip
    source = iter([runs[at] for at in draw.permutation(len(runs))])
    pool = _Pool(store, sites, table, min(buffer, store.count(table)) + long)
    while True:
        last = not pool.fill(source, buffer, where)
        order = draw.permutation(pool.count)
        out = len(order) if last else max(batch, len(order) // 2 // batch * batch)
        for at in range(0, out, batch):
            yield pool.batch(order[at : min(at + batch, out)])
        if last:
            return
        pool.keep(np.sort(order[out:]))


class _Pool:
    """Rows of some sites and what they are, in memory that is taken once: the first `count` places hold some."""

    def __init__(self, store: Store, sites: Sequence[str], table: str, size: int) -> None:
        self.store, self.table, self.size, self.count = store, table, size, 0
        kept = {site: store.spec.kept[site] for site in sites}
        self.values = {site: torch.empty(size, *one.shape, dtype=DTYPES[one.dtype]) for site, one in kept.items()}
        self.columns: dict[str, ndarray] = {}
        self.words: list[str] = []
        self.numbers: dict[str, int] = {}
        self.opened: dict[int, tuple[Shard, Index]] = {}

    def fill(self, runs: Iterator[tuple[int, int, int]], rows: int, where: Mapping[str, Any]) -> bool:
        """Take in runs until so many rows are there; whether there may be more of them."""
        while self.count < rows:
            run = next(runs, None)
            if run is None:
                return False
            self._take(*run, where)
        return True

    def _take(self, shard: int, start: int, stop: int, where: Mapping[str, Any]) -> None:
        """One run, read to where the rows end; of which, where some are asked for, these are kept."""
        file, index = self._open(shard)
        part = index.at(slice(start, stop))
        chosen = np.flatnonzero(part.where(**where)) if where else None
        count = stop - start if chosen is None else len(chosen)
        if not count:
            return
        first, end = self.count, self.count + count
        for site, values in self.values.items():
            if chosen is None:
                file.read(site, start, stop, values[first:end])
            else:
                values[first:end] = file.read(site, start, stop)[torch.from_numpy(chosen)]
        for name, column in part.columns.items():
            if name not in self.columns:
                self.columns[name] = np.zeros(self.size, column.dtype)
            self.columns[name][first:end] = column if chosen is None else column[chosen]
        self.count = end

    def _open(self, shard: int) -> tuple[Shard, Index]:
        """A shard and its index, with texts numbered as in this pool; read once, let go when many others are held."""
        if shard not in self.opened:
            if len(self.opened) >= MANY:
                self.opened.pop(next(iter(self.opened)))
            index = self.store.indexed(self.table, shard)
            for word in index.words:
                if word not in self.numbers:
                    self.numbers[word] = len(self.words)
                    self.words.append(word)
            lookup = np.array([self.numbers[word] for word in index.words], np.int32)
            columns = {name: lookup[one] if name in WORDS else one for name, one in index.columns.items()}
            self.opened[shard] = self.store.shard(shard), Index(columns, self.words)
        return self.opened[shard]

    def batch(self, places: ndarray) -> Batch:
        """The rows at these places."""
        at = torch.from_numpy(places)
        index = Index({name: column[places] for name, column in self.columns.items()}, self.words)
        return Batch({site: values.index_select(0, at) for site, values in self.values.items()}, index)

    def keep(self, places: ndarray) -> None:
        """Let go all rows but these, which move to the front."""
        at, self.count = torch.from_numpy(places), len(places)
        for values in self.values.values():
            values[: len(places)] = values.index_select(0, at)
        for column in self.columns.values():
            column[: len(places)] = column[places]


def _read(file: Any, site: str, part: slice | ndarray) -> Tensor:
    """Rows of a site: a stretch, or those of these numbers."""
    if isinstance(part, slice):
        return file.read(site, part.start, part.stop)
    first, last = int(part[0]), int(part[-1]) + 1
    return file.read(site, first, last)[torch.from_numpy(part - first)]


def _joined(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    values = {site: torch.cat([part.values[site] for part in parts]) for site in parts[0].values}
    return Batch(values, Index.joined([part.index for part in parts]))


def _check(batch: int, buffer: int) -> None:
    if batch < 1 or buffer < batch:
        raise StoreError(
            f"batches of {batch} rows from a buffer of {buffer}", expected="one row at least, and a buffer of a batch",
            do="give a larger one",
        )  # fmt: skip
