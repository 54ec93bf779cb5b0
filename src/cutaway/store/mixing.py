"""Going over a store: its rows in order, or mixed by a buffer, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.store.stored import Batch, Index

if TYPE_CHECKING:
    from cutaway.store.stored import Store

RUN = 64  # rows that lie behind one another are read together, so that a disk is not asked for each


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
    draw = np.random.default_rng(seed)
    runs = [
        (shard, start, min(start + RUN, store.entries[shard].rows[table]))
        for shard in sorted(store.entries) for start in range(0, store.entries[shard].rows[table], RUN)
    ]  # fmt: skip
    runs = [runs[at] for at in draw.permutation(len(runs))]
    source = _runs(store, sites, table, runs, where)
    held: Batch | None = None
    while True:
        parts, rows = [] if held is None else [held], 0 if held is None else len(held)
        for part in source:
            parts.append(part)
            rows += len(part)
            if rows >= buffer:
                break
        if not rows:
            return
        pool, order = _joined(parts), draw.permutation(rows)
        last = rows < buffer
        out = rows if last else max(batch, rows // 2) // batch * batch
        for at in range(0, out, batch):
            yield _some(pool, order[at : min(at + batch, out)])
        held = None if last else _some(pool, order[out:])
        if last:
            return


def _runs(
    store: Store, sites: Sequence[str], table: str, runs: Sequence[tuple[int, int, int]], where: Mapping[str, Any]
) -> Iterator[Batch]:
    """Runs of rows as they come; the index of a shard is read once, and let go when many others are held."""
    indices: dict[int, Index] = {}
    for shard, start, stop in runs:
        if shard not in indices:
            if len(indices) >= MANY:
                indices.pop(next(iter(indices)))
            indices[shard] = store.indexed(table, shard)
        index, file = indices[shard].at(slice(start, stop)), store.shard(shard)
        found = Batch({site: file.read(site, start, stop) for site in sites}, index)
        if where:
            found = _some(found, np.flatnonzero(index.where(**where)))
        if len(found):
            yield found


MANY = 64


def _read(file: Any, site: str, part: slice | ndarray) -> Tensor:
    """Rows of a site: a stretch, or those of these numbers."""
    if isinstance(part, slice):
        return file.read(site, part.start, part.stop)
    first, last = int(part[0]), int(part[-1]) + 1
    return file.read(site, first, last)[torch.from_numpy(part - first)]


def _some(batch: Batch, chosen: ndarray) -> Batch:
    at = torch.from_numpy(chosen)
    return Batch({site: values[at] for site, values in batch.values.items()}, batch.index.at(chosen))


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
