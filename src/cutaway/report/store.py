"""Stores in the terminal and on a page: harvests, what is in a store in tables and pictures, its checksums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cutaway.errors import InputError
from cutaway.jobs.cluster import counted
from cutaway.jobs.harvests import harvest
from cutaway.model.load import load
from cutaway.questions.given import check_file
from cutaway.report import page
from cutaway.report.run import show
from cutaway.report.tables import amount
from cutaway.source import Source
from cutaway.store.harvesting import estimate
from cutaway.store.measures import by_patch, measured
from cutaway.store.sources import read_data
from cutaway.store.stored import Store
from cutaway.views.kinds import Axis, Curve, Line, Matrix, Table, View
from cutaway.views.words import number

LIMITS = "Which directions the rows differ in, nor what they stand for: lengths alone are seen."


def harvested(
    name: Source | str, sites: Sequence[str], data: str, out: Path, *, n: int | None = None, seed: int = 0,
    split: str | None = None, text: str | None = None, where: Sequence[str] = (), dtype: str | None = None,
    batch: int | None = None, items: int | None = None, at: Sequence[int] = (), rows: Sequence[str] = (),
    dry: bool = False, asked: Mapping[str, Any] | None = None, workers: int | str = 0,
) -> str:  # fmt: skip
    """Harvest as a command line asks for it, and say what lies there; with `dry` what would."""
    workers = counted(workers)
    if dry and workers != 0:
        raise InputError("an estimate runs one batch, here", expected="--dry or --workers", do="leave one of them out")
    options = {**(asked or {}), **({"seed": seed} if seed else {})}
    found = read_data(data, n=n, split=split, seed=seed, text=text)
    model = load(name)
    drawing = model.engine.pipeline is not None
    if asked and not drawing:
        raise InputError(
            f"'{model.name}' draws nothing", expected="--steps and --guidance for a model that draws",
            do="leave them out",
        )  # fmt: skip
    if drawing:
        found = read_data(data, n=n, split=split, seed=seed, text=text, more=options)
    keep = [int(one) if one.lstrip("-").isdecimal() else one for one in where]
    how: dict[str, Any] = {"where": keep, "steps": at, "guidance": rows, "dtype": dtype}
    if dry:
        guess = estimate(model, found, sites, batch=batch or 32, **how)
        counts = ", ".join(f"{count} rows in '{table}'" for table, count in guess.rows.items())
        return f"{guess.items} items, {len(guess.by_site)} sites: {amount(guess.total)}; {counts}"
    before = _there(out)
    made = harvest(model, found, sites, out, items=items, batch=batch, workers=workers, **how)
    again = f", of which {before} items were there" if before else ""
    return f"wrote {out}: {made}{again} (open it with cutaway.store.open)"


def _there(out: Path) -> int:
    return sum(len(Store(out).spec.span(shard)) for shard in _committed(out)) if (out / "store.json").is_file() else 0


def _committed(out: Path) -> list[int]:
    from cutaway.store.harvesting import missing
    from cutaway.store.spec import Spec

    spec = Spec.read(out)
    return sorted(set(range(spec.shards)) - set(missing(out, spec)))


def show_store(
    folder: Path, table: str = "", rows: int = 6, out: Path | None = None, *, overwrite: bool = False,
    console: Console | None = None,
) -> None:  # fmt: skip
    """Print what a store holds, the first rows of each index and the measures of each site; pictures go to `out`."""
    console = console or Console(emoji=False)
    if out is not None:
        check_file(out, (".html",), overwrite)
    store = Store(folder)
    console.print(repr(store), markup=False, highlight=False)
    spec = store.spec
    console.print(
        f"on {spec.told}; {amount(store.size)} in {len(store.entries)} of {spec.shards} files, {spec.shard} items each",
        markup=False, highlight=False,
    )  # fmt: skip
    chosen, views = [table] if table else list(store.tables), list[View]()
    for name in chosen:
        first = store.indexed(name, min(store.entries)).at(slice(0, rows)).frame()
        telling = [column for column in first if column == "item" or len(set(first[column])) > 1 or column == "kind"]
        show(first[telling], f"{name}: the first of {store.count(name)} rows", console)
        found = measured(store, store.tables[name])
        show(found.drop(columns="table"), f"{name}: length, mean and spread", console)
        views += [] if out is None else pictured(store, name, found)
    if out is not None:
        page.write(out, f"{folder.name}: activations of {store.model.model}", views, overwrite=overwrite,
                   summary=repr(store))  # fmt: skip
        console.print(f"wrote {out}", markup=False, soft_wrap=True)


def pictured(store: Store, table: str, found: Any) -> Iterator[View]:
    """Lengths and spreads (`found`, by kind of position) by site, by step where there are any, over the patch grid."""
    sites = store.tables[table]
    kinds = list(dict.fromkeys(found["kind"]))
    axis = Axis("site", tuple(sites))
    origin = {"model": store.model.model, "data": store.spec.told, "rows": store.count(table)}
    for column, what, said in (
        ("norm", "How long rows are", "mean length"), ("spread", "How far rows spread", "distance from their mean"),
    ):  # fmt: skip
        lines = [Line(kind or "whole", np.array([_of(found, site, kind, column) for site in sites])) for kind in kinds]
        last = [f"{line.label} {number(float(line.values[-1]))}" for line in lines]
        yield Curve(
            title=f"{what}: {table}", seen=f"At {sites[-1]} the {said} is " + ", ".join(last) + ".", limits=LIMITS,
            x=axis, lines=tuple(lines), unit=said, provenance=origin,
        )  # fmt: skip
    if any("step" in store.spec.kept[site].axes for site in sites):
        yield _steps(table, sites, measured(store, sites, by="step"), origin)
    if any(kind in ("image", "frame") for kind in kinds) and not table.endswith("pairs"):
        yield _patches(store, sites[-1], table, origin)
    cells = tuple(tuple(row) for row in found.drop(columns="table").itertuples(index=False, name=None))
    yield Table(
        title=f"Length, mean and spread: {table}", seen=f"{len(cells)} rows of numbers.", limits=LIMITS, folded=True,
        columns=tuple(name for name in found if name != "table"), cells=cells, provenance=origin,
    )  # fmt: skip


def _steps(table: str, sites: Sequence[str], found: Any, origin: Mapping[str, object]) -> Curve:
    steps = sorted(set(found["step"]))
    chosen = list(dict.fromkeys([sites[0], sites[len(sites) // 2], sites[-1]]))
    lines = [Line(site, np.array([_of(found, site, step, "norm", "step") for step in steps])) for site in chosen]
    ends = ", ".join(f"{line.label} {number(float(line.values[-1]))}" for line in lines)
    return Curve(
        title=f"How long rows are, step by step: {table}", seen=f"At step {steps[-1]}: {ends}.", limits=LIMITS,
        x=Axis("step", tuple(map(str, steps))), lines=tuple(lines), unit="mean length", provenance=origin,
    )  # fmt: skip


def _patches(store: Store, site: str, table: str, origin: Mapping[str, object]) -> Matrix:
    grid = by_patch(store, site)
    most = np.unravel_index(int(np.nanargmax(grid)), grid.shape)
    rows, columns = (Axis.count(name, size) for name, size in zip(("row", "column"), grid.shape, strict=True))
    return Matrix(
        title=f"How long rows are over the picture: {table}", limits=LIMITS, pictures=(None, None), sides=("", ""),
        seen=f"Of {site}, the longest on average lie at row {most[0]}, column {most[1]}: {number(float(grid[most]))}.",
        captions=("", ""), row_axis=rows, column_axis=columns, values=grid, unit="mean length", signed=False,
        provenance=origin,
    )  # fmt: skip


def _of(found: Any, site: str, value: object, column: str, by: str = "kind") -> float:
    rows = found[(found["site"] == site) & (found[by] == value)]
    return float(rows[column].iloc[0]) if len(rows) else float("nan")


def check_store(folder: Path) -> str:
    """Hold every file against its checksum, with a bar; say how many are whole, and what is not there yet."""
    from rich.progress import Progress

    store = Store(folder)
    shown = Console(emoji=False, stderr=True)
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("checking", total=len(store.entries))
        count = store.check(lambda _: bar.advance(task))
    rest = store.spec.shards - count
    more = f"; {rest} are not made yet: run the same harvest again" if rest else ""
    return f"{count} files of '{folder}' are as they were written, {amount(store.size)}{more}"
