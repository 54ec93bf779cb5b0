"""What the rows of a reading are: each position of each item, with what the token map of its tower says of it.

A site with positions has a row for each; one with pairs of them (attention patterns) a row for each pair; one without
a row for each item, or picture. Padding is never a row. Sites whose rows are the same things share a *table*, called
by the tower, the stream or the source whose positions these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from cutaway.errors import InputError, StoreError
from cutaway.model.inputs import Inputs, map_name
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.tokens import KINDS, TokenMap, Where

_CODES = {kind: number for number, kind in enumerate(KINDS)}
NUMBERS = ("item", "image", "copy", "tile", "position", "kind", "row", "col", "text", "step", "guidance")
PAIRED = ("key", "key_kind")
Filter = str | int | Where
Sizes = Mapping[str, int]


@dataclass
class Words:
    """Texts by number, in the order in which they came up."""

    numbers: dict[str, int] = field(default_factory=lambda: {"": 0})

    def __call__(self, texts: ndarray) -> Int[ndarray, "*shape"]:
        """The number of each text."""
        known = self.numbers
        flat = [known.setdefault(str(text), len(known)) for text in texts.ravel()]
        return np.array(flat, np.int32).reshape(texts.shape)


@dataclass(frozen=True, eq=False)
class Places:
    """The rows of a reading: their table, where they lie among guidance x row x position, and a column for each fact.

    Columns are 32-bit numbers: texts and guidance rows in `Words`, kinds in `KINDS`; `time` is a float. -1: none.
    """

    table: str
    flat: Int[Tensor, "n"]
    columns: Mapping[str, ndarray]


@dataclass(frozen=True, eq=False)
class _Axis:
    """One position axis of a batch: what each position is, whose, which of its item's pictures, its own number."""

    known: TokenMap
    item: ndarray  # row, position; counted in the batch
    image: ndarray
    tile: ndarray
    copy: ndarray
    number: ndarray
    own: ndarray

    def column(self, name: str) -> ndarray:
        """A column of the token map for every row of the batch."""
        return _repeated(getattr(self.known, name), len(self.item))


def table_of(site: Site, inputs: Inputs, sizes: Sizes) -> str:
    """What the table of a site's rows is called: `vision`, `denoiser.text`, `denoiser.8x8`, `text.pairs`."""
    axes = _position_axes(site)
    if not axes:
        return f"{site.tower}.whole"
    names = [_source(site, axis, inputs, sizes) for axis in axes]
    other = [name.removeprefix(site.tower).lstrip(".") for name in names[1:] if name not in (names[0], site.tower)]
    return names[0] if len(names) == 1 else ".".join([names[0], *other, "pairs"])


def _source(site: Site, axis: str, inputs: Inputs, sizes: Sizes) -> str:
    """What the positions of one axis are called, seen from the tower of the site."""
    if axis == "height":
        return f"{site.tower}.{sizes['height']}x{sizes['width']}"
    name = map_name(site, axis, inputs.tokens)
    known = inputs.map_for(site, axis, sizes[axis])
    if site.part.startswith("pool.") and len(known) != sizes[axis]:
        return f"{site.tower}.query"
    if inputs.latent is not None and name == "denoiser" and known.row.size:
        name = f"denoiser.{int(known.row.max()) + 1}x{int(known.col.max()) + 1}"
    return name if name.split(".")[0] == site.tower else f"{site.tower}.{name}"


def _position_axes(site: Site) -> tuple[str, ...]:
    return tuple(axis for axis in ("token", "query", "key", "height") if axis in site.axes)


def places(
    model: Model, inputs: Sequence[tuple[str, Inputs]], site: Site, sizes: Sizes, *, start: int, keep: Sequence[Filter],
    words: Words,
) -> Places:  # fmt: skip
    """The rows of one reading: `inputs` of each guidance row ("" for none), `start` the number of the first item.

    `keep`: kinds, positions (negative ones from the end of a row) and `Where`s, any of which may be met; none: all.
    """
    axes, several = _position_axes(site), len(inputs) > 1
    parts = []
    for number, (name, given) in enumerate(inputs):
        each = [_axis(model, given, site, axis, sizes) for axis in axes or ("whole",)]
        kept = _kept(each[0], keep) if axes else np.ones(each[0].item.shape, bool)
        grid, columns = _columns(each, kept, words)
        columns["guidance"] = np.full(len(columns["item"]), words(np.array([name]))[0], np.int32)
        parts.append((grid + number * _span(each), columns))
    flat = np.concatenate([grid for grid, _ in parts]) if several else parts[0][0]
    joined = {name: np.concatenate([columns[name] for _, columns in parts]) for name in parts[0][1]}
    joined["item"] = (joined["item"] + start).astype(np.int32)
    return Places(table_of(site, inputs[0][1], sizes), torch.from_numpy(flat), joined)


def _span(each: Sequence[_Axis]) -> int:
    """How many positions, or pairs of them, a guidance row holds."""
    return int(each[0].item.size * (each[1].item.shape[1] if len(each) > 1 else 1))


def _columns(each: Sequence[_Axis], kept: ndarray, words: Words) -> tuple[ndarray, dict[str, ndarray]]:
    """The kept places of one guidance row, and their columns."""
    first = each[0]
    if len(each) > 1:
        both = kept[:, :, None] & each[1].own[:, None, :] & (first.item[:, :, None] == each[1].item[:, None, :])
        row, at, key = np.nonzero(both)
    else:
        (row, at), both = np.nonzero(kept), kept
    numbers = {name: getattr(first, name)[row, at] for name in ("item", "image", "tile", "copy")}
    numbers |= {"position": first.number[row, at]}
    numbers |= {name: first.column(name)[row, at] for name in ("row", "col")}
    columns = {name: np.asarray(value, np.int32) for name, value in numbers.items()}
    columns["kind"] = _coded(first.column("kind")[row, at])
    columns["text"] = words(first.column("text")[row, at])
    columns["time"] = np.asarray(first.column("time")[row, at], np.float32)
    if len(each) > 1:
        columns["key"] = np.asarray(each[1].number[row, key], np.int32)
        columns["key_kind"] = _coded(each[1].column("kind")[row, key])
    return np.flatnonzero(both), columns


def _coded(kinds: ndarray) -> Int[ndarray, "n"]:
    return np.array([_CODES[kind] for kind in kinds], np.int32)


def _axis(model: Model, inputs: Inputs, site: Site, axis: str, sizes: Sizes) -> _Axis:
    """One position axis of a reading, or the one place that stands for a row of a site without positions."""
    batch = sizes["batch"]
    known, own = _known(inputs, site, axis, sizes)
    owners = _owners(inputs, site, batch)
    copies = batch // len(owners)
    row = np.arange(batch) // copies
    own = own[row] if own is not None and len(own) * copies == batch else np.ones((batch, len(known)), bool)
    shape = (batch, len(known))
    image, tile = (_repeated(one, batch) for one in _pictures(model, inputs, site, known))
    if model.towers[site.tower].packed and axis != "whole":
        item = _packed_owners(inputs, image)
    else:
        item = np.broadcast_to(np.array(owners)[row][:, None], shape)
    first = np.zeros(int(item.max()) + 1, int)  # the number of each item's first picture
    for one in np.unique(item):
        first[one] = image[(item == one) & (image >= 0)].min(initial=image.max())
    copy = np.broadcast_to((np.arange(batch) % copies)[:, None], shape) if copies > 1 else np.full(shape, -1)
    image = np.where(image >= 0, image - first[item], -1)
    return _Axis(known, item, image, tile, copy, _numbered(own, item), own)


def _repeated(values: ndarray, batch: int) -> ndarray:
    """A row of a token map for every row of a batch, in which copies lie next to one another."""
    return values if len(values) == batch else values.repeat(batch // len(values), 0)


def _pictures(model: Model, inputs: Inputs, site: Site, known: TokenMap) -> tuple[ndarray, ndarray]:
    """Picture and crop of every position; where a row of a tower is one picture, of its class token too."""
    seen = inputs.tokens.get(site.tower)
    if seen is None or model.towers[site.tower].tokens != "patches":
        return known.image, known.tile
    whole = (seen.image.max(1)[:, None], seen.tile.max(1)[:, None])
    return tuple(np.broadcast_to(one, (len(one), len(known))) for one in whole)  # type: ignore[return-value]


def _known(inputs: Inputs, site: Site, axis: str, sizes: Sizes) -> tuple[TokenMap, ndarray | None]:
    """The token map of an axis, and which positions no mask hides."""
    if axis == "whole":
        blank = TokenMap.blank(sizes["batch"], 1)
        blank.kind[:] = ""
        return blank, None
    if axis == "height":
        return TokenMap.patches(sizes["batch"], sizes["height"], sizes["width"]), None
    known = inputs.map_for(site, axis, sizes[axis])
    if len(known) == sizes[axis]:
        own = inputs.own(site, axis)
        return known, None if own is None else own.numpy()
    if site.part.startswith("pool."):
        return TokenMap.blank(sizes["batch"], sizes[axis], "query"), None
    raise StoreError(
        f"'{site}' holds {sizes[axis]} positions and its token map {len(known)}",
        expected="a site whose positions are known", do="leave it out",
    )  # fmt: skip


def _owners(inputs: Inputs, site: Site, batch: int) -> tuple[int, ...]:
    """The item, counted in the batch, of each row of a tower; copies of one lie next to one another."""
    owners = inputs.rows(site.tower)
    if owners is None:
        known = max((tokens.batch for tokens in inputs.tokens.values()), default=0)
        owners = tuple(range(known or batch))
    if batch % len(owners):
        if batch == 1:  # packed: each position says whose it is
            return (0,)
        raise StoreError(
            f"'{site}' holds {batch} rows, and these inputs {len(owners)}", expected="as many of each input",
            do="leave this site out", exists="sites of the other towers",
        )  # fmt: skip
    return owners


def _packed_owners(inputs: Inputs, image: ndarray) -> ndarray:
    """The item of each position of a tower that holds all pictures behind one another."""
    text = inputs.tokens.get("text")
    if text is None or not (text.image >= 0).any():
        return np.zeros(image.shape, int)
    owner = {int(one): row for row in range(text.batch) for one in np.unique(text.image[row]) if one >= 0}
    lost = sorted({int(one) for one in np.unique(image)} - set(owner))
    if lost:
        raise StoreError(
            f"picture {lost[0]} belongs to no text of these inputs", expected="every picture in some prompt",
            do="give the pictures with the texts that speak of them",
        )  # fmt: skip
    return np.vectorize(owner.get, otypes=[int])(image)


def _numbered(own: ndarray, item: ndarray) -> ndarray:
    """The number of each position among its item's own in its row; -1 for what is hidden."""
    if (item == item[:, :1]).all():
        return np.where(own, own.cumsum(1) - 1, -1)
    numbers = np.full(own.shape, -1)
    for row in range(len(own)):
        for one in np.unique(item[row]):
            mine = own[row] & (item[row] == one)
            numbers[row, mine] = np.arange(int(mine.sum()))
    return numbers


def _kept(axis: _Axis, keep: Sequence[Filter]) -> ndarray:
    """Which positions are rows: no padding, and what was asked for."""
    kinds = axis.column("kind")
    asked = any(one == "pad" or (isinstance(one, Where) and one.kind == "pad") for one in keep)
    kept = axis.own & ((kinds != "pad") | asked)
    if not keep:
        return kept
    met = np.zeros(kept.shape, bool)
    for one in keep:
        if isinstance(one, int):
            met |= _at(axis, kept, one)
        elif isinstance(one, Where):
            met |= _met(axis, one)
        else:
            met |= kinds == one
    return kept & met


def _at(axis: _Axis, kept: ndarray, position: int) -> ndarray:
    """A position of every row, negative ones from the end of what is its own."""
    if position >= 0:
        return axis.number == position
    from_end = _numbered(kept[:, ::-1], axis.item[:, ::-1])[:, ::-1]
    return from_end == -1 - position


def _met(axis: _Axis, where: Where) -> ndarray:
    try:
        found = where.resolve(axis.known).numpy()
    except InputError:  # none here
        return np.zeros(axis.item.shape, bool)
    return _repeated(found, len(axis.item))
