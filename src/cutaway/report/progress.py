"""One progress bar for work in named steps; nothing where the error stream is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

STEPS = 13  # of a report with everything in it


@contextmanager
def steps(console: Console | None = None, total: int = STEPS) -> Iterator[Callable[[str], None]]:
    """Gives a function that is told what is being done; the bar moves on with each call and vanishes at the end."""
    shown = Console(emoji=False, stderr=True, quiet=console.quiet if console else False)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("starting", total=total)

        def told(what: str) -> None:
            bar.update(task, advance=1, description=what)

        yield told
