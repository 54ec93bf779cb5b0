"""Where a training gets its rows: a tensor, a store on disk, or a model that runs as it goes on.

Every source has parts without end, and a part is the same batches whenever it is asked for: so a training that was
stopped goes on at (part, batch) with the rows that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.beginning import nowhere
from cutaway.model.fingerprint import fingerprint
from cutaway.model.model import Model
from cutaway.model.tokens import KINDS
from cutaway.store.collect import How, collect
from cutaway.store.examples import Data, Ready, as_data
from cutaway.store.fitted import Origin
from cutaway.store.stored import Store


@dataclass(frozen=True, eq=False)
class Fed:
    """A batch of rows as they were recorded: what is read, what is to be stood for (None: the same), what each is."""

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n d_out"] | None = None
    kind: Int[Tensor, "n"] | None = None
    step: Int[Tensor, "n"] | None = None
    parts: tuple[int, ...] = ()  # how long the rows of each site are in x

    def __len__(self) -> int:
        return len(self.x)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How long the rows of each site are."""
        return self.parts or (self.x.shape[1],)

    def at(self, chosen: Tensor) -> Fed:
        """Some rows of it."""
        y, kind, step = (None if one is None else one[chosen] for one in (self.y, self.kind, self.step))
        return Fed(self.x[chosen], y, kind, step, self.parts)

    def to(self, device: torch.device | str) -> Fed:
        """The same on a device, in single precision at least."""
        dtype = torch.promote_types(self.x.dtype, torch.float32)
        y = None if self.y is None else self.y.to(device, dtype)
        kind, step = (None if one is None else one.to(device, torch.long) for one in (self.kind, self.step))
        return Fed(self.x.to(device, dtype), y, kind, step, self.parts)


@runtime_checkable
class Feed(Protocol):
    """Rows without end, in parts that are each the same whenever they are asked for."""

    @property
    def on(self) -> Origin:
        """The model and the sites that they are of."""

    def part(self, number: int, batch: int, seed: int) -> Iterator[Fed]:
        """The whole batches of a part, in an order by chance; what is left over at its end is let go."""

    def content(self) -> str:
        """What the rows depend on."""


@dataclass(frozen=True, eq=False)
class Given:
    """Rows at hand; a part is all of them."""

    rows: Fed
    on: Origin

    def part(self, number: int, batch: int, seed: int) -> Iterator[Fed]:
        """All rows in another order."""
        return _shuffled(self.rows, batch, _dice(seed, number))

    @cached_property
    def _content(self) -> str:
        given = (self.rows.x, self.rows.y, self.rows.kind, self.rows.step)
        return fingerprint([one for one in given if one is not None])

    def content(self) -> str:
        """A digest of the rows."""
        return self._content


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows of sites of a store; a part is all of them, mixed in memory that holds `buffer`."""

    store: Store
    read: tuple[str, ...]
    target: str | None
    buffer: int = 2**16
    where: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on(self) -> Origin:
        """The model that made the store, at these sites."""
        made = self.store.model
        return Origin(made.model, made.revision, made.dtype, made.content, _named(self.read, self.target))

    def part(self, number: int, batch: int, seed: int) -> Iterator[Fed]:
        """Each row once."""
        sites = list(_named(self.read, self.target))
        size = max(self.buffer, batch)
        for one in self.store.shuffled(sites, batch=batch, buffer=size, seed=seed + 1009 * number, **self.where):
            if len(one) == batch:
                yield _fed({site: one[site] for site in sites}, one.index.columns, self.read, self.target)

    def content(self) -> str:
        """Which store it is, and which rows of it."""
        return fingerprint(self.store.spec.digest, _named(self.read, self.target), self.buffer, repr(dict(self.where)))


@dataclass(frozen=True, eq=False)
class Running:
    """Rows of a model that runs now; a part is a stretch of `items` of the data, run in batches of `together`.

    `how` says which positions, steps and guidance rows are kept, as `store.harvest` has it.
    """

    model: Model
    data: Data
    read: tuple[str, ...]
    target: str | None
    items: int = 256
    together: int = 32
    how: How = field(default_factory=How)

    @cached_property
    def on(self) -> Origin:
        """The model as it is now, at these sites."""
        return Origin.of(self.model, *_named(self.read, self.target))

    def part(self, number: int, batch: int, seed: int) -> Iterator[Fed]:
        """The rows of a stretch of items; stretches come in another order each time all were seen."""
        together = self.data.batch if isinstance(self.data, Ready) else self.together
        long = max(1, self.items // together) * together
        stretches = -(-len(self.data) // long)
        order = torch.randperm(stretches, generator=_dice(seed, number // stretches))
        first = int(order[number % stretches]) * long
        sites = self.model.sites.select(list(_named(self.read, self.target)))
        towers, parts = tuple(dict.fromkeys(site.tower for site in sites)), []
        for start in range(first, min(first + long, len(self.data)), together):
            inputs = self.data.inputs(self.model, towers, start, min(start + together, len(self.data)))
            made = collect(self.model, inputs, sites, self.how, start=start)
            tables = {str(site): made.kept[str(site)].table for site in sites}
            if len({*tables.values()}) > 1:
                raise MethodError(
                    f"the rows of {', '.join(tables)} are not the same positions", expected="sites of one tower",
                    exists=", ".join(dict.fromkeys(tables.values())), do="train a dictionary of each tower",
                )  # fmt: skip
            columns = made.columns[made.kept[self.read[0]].table]
            parts.append(_fed(made.rows, columns, self.read, self.target))
        return _shuffled(_together(parts), batch, _dice(seed, number))

    def content(self) -> str:
        """Which model, which data, which rows."""
        how = (self.items, self.together, repr(self.how))
        return fingerprint(self.on.content, self.data.content(), self.on.sites, how)


def feed_of(
    source: Any, read: Sequence[str], target: str | None, *, model: Model | None = None, on: Origin | None = None,
    y: Float[Tensor, "n d_out"] | None = None, kind: Any = None, step: Int[Tensor, "n"] | None = None,
    sizes: Sequence[int] = (), asked: Mapping[str, Any] | None = None, **more: Any,
) -> Feed:  # fmt: skip
    """A source as a feed: a `Store`, a tensor of rows (with `y`, `kind`, `step` of each), or data for a `model`.

    `asked` goes to `model.inputs` with all of the data, as of `store.harvest`.
    """
    read = tuple(read)
    if isinstance(source, Store):
        source.table(list(_named(read, target)))  # raises where rows are not the same things
        return Kept(source, read, target, **more)
    if isinstance(source, Tensor):
        known = None if kind is None else _kinds(kind, len(source))
        of = on if model is None else Origin.of(model, *_named(read, target))
        return _given(source, read, target, of, Fed(source, y, known, step, tuple(sizes)))
    if model is None:
        raise MethodError(
            f"a {type(source).__name__} is neither rows nor a store", do="give the model that runs on these data",
            expected="a Store, a tensor, or data and a `model`",
        )  # fmt: skip
    if model.engine.held is not None:
        raise MethodError(
            "edits are held around this training", expected="the model as it is", do="leave the `edited` block first"
        )
    names = tuple(str(model.sites.one(site)) for site in read)
    return Running(model, as_data(source, **(asked or {})), names, target, **more)


def _given(x: Tensor, read: tuple[str, ...], target: str | None, on: Origin | None, rows: Fed) -> Given:
    """Rows at hand, which must fit one another."""
    if x.dim() != 2 or not len(x):
        raise MethodError(
            f"a tensor of shape {tuple(x.shape)}", expected="rows × numbers, one row at least",
            do="lay all positions in one axis",
        )  # fmt: skip
    if (rows.y is None) != (target is None):
        raise MethodError(
            f"no rows of '{target}' are given" if rows.y is None else "rows to be stood for, and no name for them",
            expected="`target` and `y`, or neither", do="name the target and give a row of it for each row",
        )  # fmt: skip
    if sum(rows.sizes) != x.shape[1] or len(rows.sizes) != len(read):
        raise MethodError(
            f"rows of {x.shape[1]} numbers of {len(read)} sites", expected="how long the rows of each site are",
            exists=", ".join(map(str, rows.sizes)), do="give `sizes=`, one a site",
        )  # fmt: skip
    counts = {len(one) for one in (rows.x, rows.y, rows.kind, rows.step) if one is not None}
    if len(counts) > 1:
        raise MethodError(
            f"{' and '.join(map(str, sorted(counts)))} rows", expected="as many of each", do="give one a row"
        )
    return Given(rows, on or nowhere(*_named(read, target)))


def _kinds(kind: Any, count: int) -> Int[Tensor, "n"]:
    """Kinds by name or number, one a row."""
    if isinstance(kind, str):
        return torch.full((count,), KINDS.index(kind))
    if isinstance(kind, Tensor):
        return kind
    return torch.tensor([KINDS.index(one) if isinstance(one, str) else int(one) for one in kind])


def _named(read: Sequence[str], target: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*read, *([target] if target else [])]))


def _dice(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


def _shuffled(rows: Fed, batch: int, dice: torch.Generator) -> Iterator[Fed]:
    order = torch.randperm(len(rows), generator=dice)
    for start in range(0, len(rows) - batch + 1, batch):
        yield rows.at(order[start : start + batch])


def _fed(
    values: Mapping[str, Tensor], columns: Mapping[str, np.ndarray], read: Sequence[str], target: str | None
) -> Fed:  # fmt: skip
    """Rows of sites behind one another, with what is known of them; heads lie behind one another too."""
    flat = [values[site].flatten(1) for site in read]
    y = None if target is None or tuple(read) == (target,) else values[target].flatten(1)
    named = [name for name in ("kind", "step") if name in columns]
    known = {name: torch.from_numpy(np.ascontiguousarray(columns[name])).long() for name in named}
    step = known.get("step")
    told = step if step is not None and bool((step >= 0).all()) else None
    x = flat[0] if len(flat) == 1 else torch.cat(flat, 1)
    return Fed(x, y, known.get("kind"), told, tuple(one.shape[1] for one in flat))


def _together(parts: Sequence[Fed]) -> Fed:
    def join(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found)

    return Fed(join("x"), join("y"), join("kind"), join("step"), parts[0].parts)


def batches(feed: Feed, batch: int, seed: int, part: int = 0, skip: int = 0) -> Iterator[tuple[int, int, Fed]]:
    """Batches without end from a place on, each with the place of the one after it."""
    empty = 0
    while True:
        given = skip
        for fed in islice(feed.part(part, batch, seed), skip, None):
            given += 1
            yield part, given, fed
        empty = 0 if given else empty + 1
        if empty > 3:
            raise MethodError(
                f"a part of these rows holds less than a batch of {batch}", expected="one batch at least",
                do="give more rows (of a model that runs: more `items`), or a smaller `batch`",
            )  # fmt: skip
        part, skip = part + 1, 0
