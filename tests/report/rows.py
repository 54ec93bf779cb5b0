"""What the page saves as CSV, written down a second time: the header of each kind of view, and its numbers."""

import math
from collections.abc import Iterator
from functools import singledispatch

import numpy as np

from cutaway.views.boards import Board, Papers, Remarks
from cutaway.views.captions import WordMaps
from cutaway.views.films import Gallery, Strip
from cutaway.views.graphs import Layered
from cutaway.views.kinds import Bars, Curve, HeadTable, Lens, Matrix, Overlay, Table, View, WordGrid
from cutaway.views.units import Units

Row = list[object]


def rows(view: View) -> Iterator[Row]:
    """The header, then a row for each number; what was not measured is an empty cell."""
    for row in told(view):
        yield ["" if cell is None or (isinstance(cell, float) and not math.isfinite(cell)) else cell for cell in row]


@singledispatch
def told(view: View) -> Iterator[Row]:
    raise NotImplementedError(type(view))


@told.register
def _(view: Overlay) -> Iterator[Row]:
    yield ["text", "row", "column", "value"]
    yield from ([view.texts[t], *at, float(v)] for (t, *at), v in np.ndenumerate(view.values))


@told.register
def _(view: Lens) -> Iterator[Row]:
    yield ["text", "layer", "token", "row", "column", "value"]
    for (t, layer), v in np.ndenumerate(view.pooled):
        yield [view.texts[t], view.layers[layer], view.reader, None, None, float(v)]
    for (t, layer, *at), v in np.ndenumerate(view.values):
        yield [view.texts[t], view.layers[layer], "patch", *at, float(v)]


@told.register
def _(view: Strip) -> Iterator[Row]:
    yield ["text", view.within, view.axis, "row", "column", "value"]
    for (t, one, frame, *at), v in np.ndenumerate(view.values):
        yield [view.texts[t], view.sets[one], view.frames[frame], *at, float(v)]


@told.register
def _(view: Gallery) -> Iterator[Row]:
    yield ["picture", *view.columns]
    yield from ([name, *row] for name, row in zip(view.captions, view.cells, strict=True))


@told.register
def _(view: WordMaps) -> Iterator[Row]:
    yield ["word", "part", "row", "column", "value"]
    for at, word in enumerate(view.words):
        for (way, *place), v in np.ndenumerate(view.values[at]):
            yield [word, view.ways[way], *place, float(v)]
        yield from ([word, f"{bar.group}: {bar.label}", None, None, bar.value] for bar in view.bars[at])


@told.register
def _(view: Units) -> Iterator[Row]:
    yield ["unit", "description", *view.columns, "writes", "near"]
    for one in view.units:
        numbers = [one.numbers.get(name) for name in view.columns]
        texts, near = "; ".join(phrase.text for phrase in one.writes), " ".join(str(number) for number, _ in one.near)
        yield [one.number, one.name, *numbers, texts, near]


@told.register
def _(view: HeadTable) -> Iterator[Row]:
    extras = list(dict.fromkeys(name for head in view.heads for name in head.extra))
    yield ["layer", "head", view.effect, "low", "high", view.direct, *extras, "texts"]
    for head in view.heads:
        texts = (s.text if s.variance is None else f"{s.text} ({s.variance:.3g})" for s in head.phrases)
        numbers = (head.effect, head.low, head.high, head.direct, *(head.extra.get(name) for name in extras))
        yield [head.layer, head.head, *numbers, "; ".join(texts)]


@told.register
def _(view: Bars) -> Iterator[Row]:
    yield ["group", "label", "value", "low", "high"]
    yield from ([bar.group, bar.label, bar.value, bar.low, bar.high] for bar in view.bars)


@told.register
def _(view: Matrix) -> Iterator[Row]:
    yield [view.row_axis.name, view.column_axis.name, "value", "low", "high"]
    for (row, column), v in np.ndenumerate(view.values):
        sides = (None if side is None else float(side[row, column]) for side in (view.low, view.high))
        yield [view.row_axis.labels[row], view.column_axis.labels[column], float(v), *sides]


@told.register
def _(view: Curve) -> Iterator[Row]:
    yield ["line", "baseline", view.x.name, "value", "low", "high"]
    for line in view.lines:
        for at, label in enumerate(view.x.labels):
            sides = (None if side is None else float(side[at]) for side in (line.low, line.high))
            yield [line.label, str(line.baseline).lower(), label, float(line.values[at]), *sides]


@told.register
def _(view: WordGrid) -> Iterator[Row]:
    yield ["token", "layer", "rank", "word", "value"]
    for (token, layer, rank), place in np.ndenumerate(view.ranked):
        value = float(view.values[token, layer, rank])
        yield [view.tokens[token], view.layers[layer], rank + 1, view.words[int(place)], value]


@told.register
def _(view: Table) -> Iterator[Row]:
    yield list(view.columns)
    yield from ([str(c).lower() if isinstance(c, bool) else c for c in row] for row in view.cells)


@told.register
def _(view: Layered) -> Iterator[Row]:
    yield ["what", "from", "to", "as", "rank", view.score, "true", "edges", view.unit, "low", "high", "by chance"]
    for link in view.links:
        names = view.nodes[link.start].name, view.nodes[link.end].name
        true = None if link.true is None else str(link.true).lower()
        yield ["edge", *names, link.role, link.rank + 1, link.score, true, *[None] * 5]
    for at, size in enumerate(view.sizes):
        bounds = (float(one[at]) for one in (view.carried, view.low, view.high, view.chance))
        yield ["size", *[None] * 6, size, *bounds]


@told.register
def _(view: Board) -> Iterator[Row]:
    yield ["row", "column", "state", "on it"]
    for one in view.squares:
        yield [view.rows[one.row], view.columns[one.column], one.state, "; ".join(one.mark)]


@told.register
def _(view: Remarks) -> Iterator[Row]:
    yield ["remark", "state", "part", "text"]
    for one in view.remarks:
        for part in one.parts:
            words = [part.text, *part.lines, *("; ".join(row) for row in part.cells)]
            yield [one.title, one.badge, part.title, " ".join(filter(None, words))]


@told.register
def _(view: Papers) -> Iterator[Row]:
    yield ["key", "title", "first author", "year", "arXiv", "checked", "rows", "columns", "uses", "about"]
    for one in view.papers:
        places = ((view.rows, one.rows), (view.columns, one.columns), (view.uses, one.uses))
        lists = ("; ".join(names[at] for at in given) for names, given in places)
        yield [one.key, one.title, one.author, one.year, one.number, one.checked, *lists, "; ".join(one.about)]
