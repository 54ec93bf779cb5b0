"""Harvests by several workers: each makes whole shards of one store, which lies where all of them see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cutaway.jobs.crew import Workers, crew
from cutaway.model.engine import Record
from cutaway.model.model import Model
from cutaway.store import harvesting
from cutaway.store.shard_work import WriteShard
from cutaway.store.spec import Entry
from cutaway.store.stored import Store


def harvest(
    model: Model, data: Any, sites: Record, out: str | Path, *, workers: Workers = 0, progress: bool = True,
    **options: Any,
) -> Store:  # fmt: skip
    """`store.harvest` by several workers, with its options: this process holds the store, workers write its shards.

    A shard is the same bytes whoever makes it, where processors and threads are alike; a worker that dies leaves
    no shard half made, and a harvest that was stopped is taken up with any number of workers. On a cluster `out` is a
    folder that all machines see by that path. Raises as `store.harvest` and `jobs.run` do.

    >>> import cutaway, tempfile
    >>> model, folder = cutaway.load("tiny:clip"), tempfile.mkdtemp()
    >>> harvest(model, ["a red dog", "a cat"], "text.1.resid_post", folder, progress=False)
    Store(2 items of 'tiny:clip'; text: 9 rows of text.1.resid_post; 0.0 MiB)
    """
    with crew(model, workers) as some:

        def spread(work: WriteShard, todo: Sequence[int]) -> Iterator[tuple[int, Entry]]:
            return some.run(work, todo, progress=False)

        where = Path(out).absolute()  # workers have folders of their own to be in
        how = spread if some.actors else None
        return harvesting.harvest(model, data, sites, where, progress=progress, spread=how, **options)
