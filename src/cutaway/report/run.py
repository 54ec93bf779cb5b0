"""One method at a time for the command line: compute it, print its labelled table, keep it, draw it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Column, Table

from cutaway.jobs.cluster import counted
from cutaway.methods.method import Method
from cutaway.methods.result import Result
from cutaway.questions.asked import BRINGS, asked
from cutaway.questions.given import EMOJIWORLD, check_file
from cutaway.questions.lacks import lacking
from cutaway.report.tables import heading
from cutaway.source import Source
from cutaway.views.words import number

ROWS = 40  # of a table


def answer(
    method: Method, model: Source | str, given: Mapping[str, Any], options: Mapping[str, Any], *,
    out: Path | None = None, plot: Path | None = None, overwrite: bool = False, workers: int | str = 0,
) -> None:  # fmt: skip
    """Ask the question that is given, apply the method (its work by workers), print its table, write its files."""
    check_files(out, plot, overwrite)
    workers = counted(workers)
    asking = {name: value for name, value in given.items() if value is not None}
    if "labels" in method.parts and not asking.get("labels"):
        asking["labels"] = ("place",) if asking.get("pictures", EMOJIWORLD) == EMOJIWORLD else ("folder",)
    for part in dict.fromkeys(one.split(".")[0] for one in method.parts):  # what can be seen before a model is opened
        wanted = BRINGS[part].one_of if part in BRINGS else ()
        if wanted and not any(asking.get(name) for name in wanted):
            method.check(lacking(part))
    beside = {one.split(".")[0] for one in (*method.parts, *method.also.values())}
    question = asked(model, **asking, floor="floor" in beside)
    made = method.apply(question, progress=True, workers=workers, **options).result
    finish(
        made, out, plot, overwrite, None if method.table is None else method.table(made, question),
        None if method.plot is None or plot is None else method.plot(made, question),
    )  # fmt: skip


def finish(
    result: Result, out: Path | None, plot: Path | None, overwrite: bool, table: Any = None, drawn: Axes | None = None
) -> None:
    """Print the table of a result and write its files; ones that exist are kept unless `overwrite`."""
    console = Console(emoji=False)
    show(result.summary() if table is None else table, repr(result), console)
    if result.note():
        console.print(result.note(), markup=False, highlight=False)
    if out is not None:
        result.save(out, overwrite=overwrite)
        console.print(f"wrote {out} (open it with cutaway.methods.result.load)", markup=False, soft_wrap=True)
    if plot is not None:
        (drawn or result.plot()).figure.savefig(plot)
        console.print(f"wrote {plot}", markup=False, soft_wrap=True)


def check_files(out: Path | None, plot: Path | None, overwrite: bool) -> None:
    """Refuse paths that cannot be written before anything is computed."""
    for path, kinds in ((out, (".nc",)), (plot, (".png", ".pdf", ".svg"))):
        if path is None:
            continue
        check_file(path, kinds, overwrite)


def show(frame: Any, title: str, console: Console) -> None:
    """A data frame as a table, its numbers with three digits; what is too wide goes on in a further table below."""
    numeric = {name: kind.kind in "fi" for name, kind in zip(frame, frame.dtypes, strict=True)}
    cells = {name: _column(list(frame[name].head(ROWS))) for name in frame}
    heading(console, title)
    if not len(frame):
        console.print("Nothing to list: the method found no row.")
        return
    for names in _fitting(cells, numeric, console.width):
        columns = (
            Column(str(name), justify="right" if numeric[name] else "left", min_width=_least(cells[name], name))
            for name in names
        )
        table = Table(*columns)
        for row in zip(*(cells[name] for name in names), strict=True):
            table.add_row(*row)
        console.print(table)
    if len(frame) > ROWS:
        console.print(f"… and {len(frame) - ROWS} rows more: --out keeps them all")


def _least(cells: Sequence[str], name: object) -> int:
    """The width below which a word of a column, or a number, would be broken."""
    return max(len(word) for cell in (*cells, str(name)) for word in cell.split() or [""])


def _fitting(cells: Mapping[Any, Sequence[str]], numeric: Mapping[Any, bool], width: int) -> list[list[Any]]:
    """The columns of each table, so that none is too wide; the first ones that name a row stand in each of them."""
    labels = list(itertools.takewhile(lambda name: not numeric[name] or name in ("layer", "head", "token"), cells))
    taken = 1 + sum(_least(cells[name], name) + 3 for name in labels)
    tables, room = [list(labels)], width - taken
    for name in list(cells)[len(labels) :]:
        need = _least(cells[name], name) + 3
        if need > room and len(tables[-1]) > len(labels):
            tables.append(list(labels))
            room = width - taken
        tables[-1].append(name)
        room -= need
    return tables


def _column(values: Sequence[Any]) -> list[str]:
    """The cells of a column, its numbers alike; nothing for what does not exist, such as the heads of an embedding."""
    measured = [float(value) for value in values if isinstance(value, float | np.floating) and np.isfinite(value)]
    size = max(map(abs, measured), default=0.0)
    return [_cell(value, size) for value in values]


def _cell(value: Any, size: float) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else number(float(value), size)
    return str(value)
