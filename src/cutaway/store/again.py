"""Runs again from a store: what `model.run` recorded, batch by batch, for methods that ask for no more than that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.tokens import KINDS, TokenMap
from cutaway.model.towers import READ_THEIR_PADDING
from cutaway.store.shards import Shard
from cutaway.store.stored import Index, Sites, Store

POSITIONS = ("token", "query", "key")


def runs(
    store: Store, model: Model, sites: Sites, tower: str, *, kind: str = "", batch: int = 32
) -> Iterator[Run]:  # fmt: skip
    """The recorded sites of `batch` items at a time, as `model.run` gives them, with the token map of a tower.

    An item is a row. Shorter ones are filled up in front, with positions of kind `pad`. Of sites of the store that
    hold whole rows: no filters, no steps or guidance rows, a picture an item. Raises StoreError for others. Who reads
    positions of one `kind` alone is given these from a store that kept them, and no others.

    >>> import cutaway, tempfile
    >>> from cutaway.store.harvesting import harvest
    >>> model, folder = cutaway.load("tiny:clip"), tempfile.mkdtemp()
    >>> store = harvest(model, ["a red dog", "a cat"], "text.*.resid_post", folder, progress=False)
    >>> (run,) = runs(store, model, "text.1.resid_post", "text")
    >>> run["text.1.resid_post"].shape, list(run.inputs.tokens["text"].kind[1])
    (torch.Size([2, 5, 32]), ['pad', 'bos', 'text', 'text', 'eos'])
    """
    names = store.select(sites)
    _check(store, model, names, tower, kind)
    chosen = {name: model.sites.one(name) for name in names}
    for shard in sorted(store.entries):
        span, file = store.spec.span(shard), store.shard(shard)
        tables = dict.fromkeys(store.spec.kept[name].table for name in names)
        indices = {table: store.indexed(table, shard) for table in (*tables, *_own(store, tower))}
        for start in range(span.start, span.stop, batch):
            items = range(start, min(start + batch, span.stop))
            known = _map(indices[tower], items) if tower in indices else TokenMap.blank(len(items), 0)
            found = {
                name: _read(file, site, indices[store.spec.kept[name].table], items) for name, site in chosen.items()
            }
            yield Run(
                None,
                Inputs({}, {tower: known}),
                chosen,
                {name: value.to(model.device) for name, value in found.items()},
                (),
                model,
            )


def _check(store: Store, model: Model, names: Sequence[str], tower: str, kind: str) -> None:
    """Refuse what cannot be laid out as one row an item."""
    store.check_model(model)
    said, do = "", "harvest it whole: `where=None`, no `steps=`"
    stepped = next((name for name in names if {"step", "guidance"} & set(store.spec.kept[name].axes)), None)
    if not store.complete:
        said, do = f"{len(store)} of {store.spec.items} items are there", "run its harvest to the end"
    elif store.spec.keep and repr(kind) not in store.spec.keep:
        said = f"only some positions were kept ({', '.join(store.spec.keep)})"
    elif stepped is not None:
        said, do = f"'{stepped}' has steps or guidance rows", "go over its rows: `store.rows`"
    elif type(model.module).__name__ in READ_THEIR_PADDING and model.towers[tower].tokens == "ids":
        said, do = "this tower reads its padding, which is never a row", "give the texts themselves"
    if said:
        raise StoreError(
            f"'{store.path}' holds no whole runs: {said}", expected="all positions of every item", do=do,
            exists=f"{len(store)} items",
        )  # fmt: skip


def _own(store: Store, tower: str) -> tuple[str, ...]:
    """The table of a tower's own positions, if there is one."""
    return (tower,) if tower in store.tables else ()


def _spans(index: Index, items: range) -> ndarray:
    """Where the rows of each item begin, and of the last end."""
    bounds = np.searchsorted(index.columns["item"], np.arange(items.start, items.stop + 1))
    if (np.diff(bounds) == 0).any():
        raise StoreError(
            f"item {items.start + int((np.diff(bounds) == 0).argmax())} has no row here", expected="rows of every item",
            do="harvest items of one kind",
        )  # fmt: skip
    if (index.columns["image"][bounds[0] : bounds[-1]] > 0).any() or (index.columns["tile"][bounds[0] :] > 0).any():
        raise StoreError(
            f"an item from {items.start} on has several pictures or crops", expected="one picture an item",
            do="go over its rows: `store.rows`",
        )  # fmt: skip
    return bounds


def _read(file: Shard, site: Site, index: Index, items: range) -> Float[Tensor, "batch *axes"]:
    """What a site held for these items, its axes in their order."""
    bounds = _spans(index, items)
    rows = file.read(str(site), int(bounds[0]), int(bounds[-1]))
    counts, shape = np.diff(bounds), rows.shape[1:]
    axes = tuple(axis for axis in POSITIONS if axis in site.axes)
    if not axes:
        return rows
    if len(axes) == 1:
        made = rows.new_zeros(len(items), int(counts.max()), *shape)
        for at, (start, stop) in enumerate(pairwise(bounds - bounds[0])):
            made[at, made.shape[1] - (stop - start) :] = rows[start:stop]
        return made
    queries = int(index.columns["position"][bounds[0] : bounds[1]].max()) + 1
    if len(set(counts)) > 1:
        raise StoreError(
            f"'{site}' holds pairs of {min(counts)} to {max(counts)} positions", expected="as many of each item",
            do="go over its rows: `store.rows`",
        )  # fmt: skip
    square = rows.view(len(items), queries, -1, *shape)
    return square.movedim((1, 2), (site.axes.index("query"), site.axes.index("key")))


def _map(index: Index, items: range) -> TokenMap:
    """The token map of a tower as its index tells it, shorter rows filled up in front."""
    bounds = _spans(index, items)
    made = TokenMap.blank(len(items), int(np.diff(bounds).max()), "pad")
    for at, (start, stop) in enumerate(pairwise(bounds)):
        here = slice(made.kind.shape[1] - (stop - start), None)
        made.kind[at, here] = np.array(KINDS, object)[index.columns["kind"][start:stop]]
        made.text[at, here] = index["text"][start:stop]
        for name in ("tile", "row", "col", "time"):
            getattr(made, name)[at, here] = index.columns[name][start:stop]
        made.image[at, here] = np.where(index.columns["row"][start:stop] >= 0, at, -1)
    return made
