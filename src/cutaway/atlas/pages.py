"""Tables of a page in Markdown, and a number in one of them by its address.

An address is `heading > name=value & name=value > column`: the heading that the table stands under (its beginning is
enough), what its row says, and the column. ` [2]` behind a heading or a column is the second table or column of that
name, ` +1` behind a row the one below it, `#` the name of the first column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cutaway.errors import InputError, near

_RULE = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")


@dataclass(frozen=True)
class Grid:
    """A table of a page: the heading that it stands under, its columns, its rows, all without marks of Markdown."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(text: str) -> Iterator[Grid]:
    """The tables of a page, in their order."""
    heading, lines, at = "", text.splitlines(), 0
    while at < len(lines):
        if found := re.match(r"#+\s+(.*)", lines[at]):
            heading = plain(found[1])
        elif lines[at].startswith("|") and at + 1 < len(lines) and _RULE.fullmatch(lines[at + 1]):
            columns, at, rows = _parts(lines[at]), at + 2, []
            while at < len(lines) and lines[at].startswith("|"):
                rows.append(_parts(lines[at]))
                at += 1
            yield Grid(heading, columns, tuple(rows))
            continue
        at += 1


def number_at(text: str, address: str) -> str:
    """What stands at an address of a page. Raises InputError where that is no cell, or more than one.

    >>> number_at("## Heads\\n| head | lost |\\n|---|---|\\n| **3.2** | 96 / 97 |", "Heads > head=3.2 > lost")
    '96 / 97'
    """
    parts = [part.strip() for part in address.split(" > ")]
    if len(parts) != 3:
        raise InputError(f"'{address}' is no address", expected="heading > name=value > column", do="see `pages.py`")
    heading, where, column = parts
    which, below = _counted(heading, r" \[(\d+)\]"), _counted(where, r" \+(\d+)")
    nth = _counted(column, r" \[(\d+)\]") or 1
    column = column.removesuffix(f" [{nth}]")
    wanted = dict(_pair(part) for part in where.removesuffix(f" +{below}").split(" & "))
    every = [grid for grid in grids(text) if grid.heading.startswith(heading.removesuffix(f" [{which}]"))]
    every = every[which - 1 : which] if which else every
    found = [
        grid.rows[at + below][places[nth - 1]]
        for grid in every
        for at, row in enumerate(grid.rows[: len(grid.rows) - below])
        if len(places := [at for at, name in enumerate(grid.columns) if name == column]) >= nth
        and all(_holds(grid, row, name, value) for name, value in wanted.items())
    ]
    if len(found) != 1:
        columns = [name for grid in every for name in grid.columns]
        raise InputError(
            f"'{address}' leads to {len(found)} cells", expected="one", exists=near(column, columns),
            do="look at the page: it may have been written anew",
        )  # fmt: skip
    return found[0]


def _counted(words: str, pattern: str) -> int:
    found = re.search(pattern + "$", words)
    return int(found[1]) if found else 0


def _pair(words: str) -> tuple[str, str]:
    name, _, value = words.partition("=")
    return name.strip(), value.strip()


def _holds(grid: Grid, row: tuple[str, ...], name: str, value: str) -> bool:
    at = 0 if name == "#" else grid.columns.index(name) if name in grid.columns else -1
    return at >= 0 and at < len(row) and row[at] == value


def _parts(line: str) -> tuple[str, ...]:
    return tuple(plain(part) for part in line.strip().strip("|").split("|"))


def plain(text: str) -> str:
    """A text without bold, code and links."""
    text = re.sub(r"\[([^\]\[]+)\]\([^)]*\)", r"\1", text)
    return " ".join(text.replace("**", "").replace("`", "").split())
