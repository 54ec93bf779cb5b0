"""The zoo in the terminal: training with a progress bar, measuring, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from cutaway.model.load import device_of, dtype_of
from cutaway.report.tables import heading
from cutaway.zoo import make
from cutaway.zoo.evaluate import Row
from cutaway.zoo.trained import TRAINED, trained
from cutaway.zoo.training import seconds_spent, steps_done


def print_zoo(console: Console | None = None) -> None:
    """The trained models, one row each, with the first of the measures that were taken when they were made."""
    names = (Column(name, no_wrap=name == "name") for name in ("name", "parameters", "size", "what", "measured"))
    table = Table(*names)
    for model in TRAINED.values():
        if not model.here:
            table.add_row(model.title, "", "", model.about, "not trained here yet")
            continue
        measured = model.measured()
        best = next(iter(measured["rows"]), None)
        size = sum(file.stat().st_size for file in model.folder.rglob("*.safetensors")) / 1e6
        said = f"{best['measure']}, {best['of']}: {100 * best['value']:.1f} %" if best else "nothing"
        table.add_row(model.title, f"{measured['parameters'] / 1e6:.2f} M", f"{size:.1f} MB", model.about, said)
    (console or Console(emoji=False)).print(table)


def evaluate_zoo(
    name: str, n: int, device: str = "cpu", console: Console | None = None, *, dtype: str = "float32"
) -> list[Row]:
    """Measure a model of the zoo on a device, in a dtype, and print the table."""
    console, spec = console or Console(emoji=False), trained(name)
    where, kind = device_of(device), dtype_of(dtype)
    module, processor = spec.open() if kind is None else spec.open(dtype=kind)
    module.to(where)
    with console.status("measuring") as status:
        rows = spec.measure(module, processor, n, lambda what: status.update(f"measuring: {what}"))
    print_rows(spec.title, rows, console)
    return rows


def train_zoo(
    name: str, chosen: dict[str, Any], work: Path | None, out: Path | None, device: str = "cpu", measure: int = 2000
) -> None:
    """Train by the recipe with the chosen changes, from where `work` left off; then measure and write the card.

    Without `work` and `out`, `runs/NAME` and `runs/NAME/model`.
    """
    spec = trained(name)
    work = work or Path("runs") / spec.name
    out = out or work / "model"
    make.check_new(out)
    device_of(device)
    console = Console(emoji=False)
    recipe = spec.recipe(**chosen)
    module, steps = make.training(spec, recipe, work, device)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress("training", *columns, console=console) as bar:
        task = bar.add_task("training", total=recipe.steps, completed=steps_done(work), now="")
        for step in steps:
            bar.update(task, completed=step.step, now=f"loss {step.loss:.2f}, {100 * step.hits:.0f} % right")
    with console.status("measuring") as status:
        rows = make.finish(
            spec, module, recipe, out, seconds=seconds_spent(work), device=device, n=measure,
            told=lambda what: status.update(f"measuring: {what}"),
        )  # fmt: skip
    print_rows(str(out), rows, console)


def print_rows(title: str, rows: list[Row], console: Console) -> None:
    """Measures in percent."""
    trials, right, chance = (Column(name, justify="right") for name in ("trials", "% right", "chance"))
    heading(console, title)
    table = Table("measure", "of", trials, right, "95 % interval", chance)
    for row in rows:
        span = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        table.add_row(row.measure, row.of, str(row.n), f"{100 * row.value:.1f}", span, f"{100 * row.chance:.1f}")
    console.print(table)
