"""The zoo in the terminal: training with a progress bar, measuring, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from cutaway.errors import InputError
from cutaway.zoo.evaluate import Row


def print_zoo(console: Console | None = None) -> None:
    """The trained models, one row each, with how well they name things."""
    from cutaway.zoo.trained import TRAINED

    table = Table("name", "parameters", "size", "what", "zero-shot top-1", title="the zoo", title_justify="left")
    for model in TRAINED.values():
        if not model.here:
            table.add_row(f"zoo:{model.name}", "", "", model.about, "not trained here yet")
            continue
        measured = model.measured()
        best = next(row for row in measured["rows"] if row["measure"] == "zero-shot top-1")
        size = sum(file.stat().st_size for file in model.folder.glob("*.safetensors")) / 1e6
        naming = f"{100 * best['value']:.1f} % of {best['of']}"
        table.add_row(
            f"zoo:{model.name}", f"{measured['parameters'] / 1e6:.2f} M", f"{size:.1f} MB", model.about, naming
        )
    (console or Console()).print(table)


def evaluate_zoo(name: str, n: int, console: Console | None = None) -> list[Row]:
    """Measure a model of the zoo and print the table."""
    from cutaway.zoo import trained
    from cutaway.zoo.evaluate import evaluate

    console = console or Console()
    module, processor = trained.build(name)
    with console.status("measuring") as status:
        rows = evaluate(module, processor, n=n, told=lambda what: status.update(f"measuring: {what}"))
    print_rows(f"zoo:{name}", rows, console)
    return rows


def train_zoo(
    name: str, chosen: dict[str, Any], work: Path, out: Path, device: str = "cpu", measure: int = 2000
) -> None:
    """Train by the recipe with the chosen changes, from where `work` left off; then measure and write the card."""
    from cutaway.zoo import make
    from cutaway.zoo.contrastive import Recipe, seconds_spent, steps_done
    from cutaway.zoo.trained import trained

    trained(name)
    if (out / "config.json").exists():
        raise InputError(f"'{out}' holds a model", expected="a new folder", do="give another --out, or remove it")
    console = Console()
    recipe = Recipe(**chosen)
    module, steps = make.training(recipe, work, device)
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
            bar.update(task, completed=step.step, now=f"loss {step.loss:.2f}, own text first {100 * step.hits:.0f} %")
    with console.status("measuring"):
        rows = make.finish(module, recipe, out, seconds=seconds_spent(work), device=device, n=measure)
    print_rows(str(out), rows, console)


def print_rows(title: str, rows: list[Row], console: Console) -> None:
    """Measures in percent."""
    trials, right, chance = (Column(name, justify="right") for name in ("trials", "% right", "chance"))
    table = Table("measure", "of", trials, right, "95 % interval", chance, title=title, title_justify="left")
    for row in rows:
        span = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        table.add_row(row.measure, row.of, str(row.n), f"{100 * row.value:.1f}", span, f"{100 * row.chance:.1f}")
    console.print(table)
