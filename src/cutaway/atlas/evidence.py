"""What this package measured, cell by cell: numbers of the pages of findings, each with the command that writes it.

The tables `data/evidence.tsv` and `data/sides.tsv` say where each number stands (`pages.py`) and hold a copy of it, so
that the package needs no pages. `filled` makes the copies anew; a test holds them against the pages.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from cutaway.atlas.pages import number_at

TABLES = ("evidence.tsv", "sides.tsv")
_AT = "_at"


@dataclass(frozen=True)
class Evidence:
    """A number of ours: what it is, beside the same before training (`floor`) and by chance; "" where not measured.

    Two numbers with a stroke between them are two sets of inputs.
    """

    id: str
    row: str
    family: str
    method: str
    use: str
    unit: str
    what: str
    page: str
    value: str
    floor: str
    chance: str
    chance_is: str
    command: str


@dataclass(frozen=True)
class Sides:
    """The same measured by picture and in words on one model, across the two where that can be, and by chance."""

    id: str
    what: str
    unit: str
    page: str
    picture: str
    words: str
    across: str
    chance: str
    chance_is: str
    command: str


@cache
def evidence() -> tuple[Evidence, ...]:
    """All numbers by cell.

    >>> next(one.unit for one in evidence() if one.id == "probe-side")
    '% right'
    """
    names = Evidence.__dataclass_fields__
    return tuple(Evidence(**{name: row[name] for name in names}) for row in _rows("evidence.tsv"))


@cache
def sides() -> tuple[Sides, ...]:
    """All that was measured both by picture and in words."""
    names = Sides.__dataclass_fields__
    return tuple(Sides(**{name: row[name] for name in names}) for row in _rows("sides.tsv"))


def for_cell(row: str, family: str) -> tuple[Evidence, ...]:
    """Our numbers for a cell of the taxonomy."""
    return tuple(one for one in evidence() if one.row == row and one.family == family)


def addresses(table: str) -> Iterator[tuple[Mapping[str, str], str]]:
    """The rows of a table of numbers, each with the name of a column that has an address in `name + "_at"`."""
    for row in _rows(table):
        yield from ((row, name.removesuffix(_AT)) for name in row if name.endswith(_AT) and row[name])


def filled(table: str, page: Callable[[str], str]) -> str:
    """The text of a table with every number taken anew from its page; `page` gives the text of one by its name."""
    rows = [dict(row) for row in _rows(table)]
    for row in rows:
        for name in [name for name in row if name.endswith(_AT)]:
            row[name.removesuffix(_AT)] = number_at(page(row["page"]), row[name]) if row[name] else ""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, [*rows[0]], delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _rows(table: str) -> list[dict[str, str]]:
    text = (files("cutaway.atlas") / "data" / table).read_text(encoding="utf-8")
    return [*csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)]
