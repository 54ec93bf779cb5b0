"""A page of findings about a model of the zoo: measured, kept section by section, and written with its figures."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import xarray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cutaway.errors import InputError
from cutaway.methods.result import Provenance, Result
from cutaway.model.fingerprint import fingerprint
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.report import findings_measures as measures
from cutaway.report.findings_page import About, page
from cutaway.report.findings_plots import draw_all
from cutaway.report.sources import check_folder
from cutaway.zoo.trained import TRAINED

SMALLEST = 48  # scenes: fewer leave a class without items
Found = dict[str, xarray.Dataset]


def write_findings(
    model_name: str, out: str | Path, n: int = 640, seed: int = 0, *, work: str | Path | None = None,
    console: Console | None = None,
) -> Path:  # fmt: skip
    """Measure a model of the zoo and its untrained floor, and write a Markdown page with figures beside it.

    `n` is the number of scenes; pairs are n / 4 to n / 8 for each factor. `work` keeps each section as netCDF, so that
    an interrupted call goes on where it was (by default the user's cache folder); the page is written anew each time.
    """
    out = Path(out)
    if n < SMALLEST:
        raise InputError(
            f"{n} scenes leave a class without items", expected=f"{SMALLEST} at least", do=f"--n {SMALLEST} or more"
        )
    if out.suffix != ".md":
        raise InputError(
            f"'{out}' does not end in .md",
            expected="a path of a Markdown page",
            do=f"call it '{out.with_suffix('.md')}'",
        )
    if not model_name.startswith("zoo:") or "@" in model_name:
        raise InputError(
            f"'{model_name}' has no untrained floor", expected="a trained model of the zoo, which has one",
            exists=", ".join(f"zoo:{name}" for name in TRAINED), do="name one of these",
        )  # fmt: skip
    check_folder(out.parent)
    model, floor = load(model_name), load(f"{model_name}@untrained")
    return write(model, floor, out, n, seed, work=work, console=console)


def write(
    model: Model, floor: Model, out: Path, n: int, seed: int, *, work: str | Path | None = None,
    console: Console | None = None,
) -> Path:  # fmt: skip
    """The page about an opened model and the same one before training."""
    folder = Path(work) if work else _cache()
    folder.mkdir(parents=True, exist_ok=True)
    (out.parent / "img").mkdir(parents=True, exist_ok=True)
    found, seconds = measure(model, floor, n, seed, folder, console or Console(stderr=True))
    figures = draw_all(found, out.parent / "img", out.stem)
    about = About(model.name, n, seed, _said(out), seconds)
    out.write_text(page(found, about, figures), encoding="utf-8")
    return out


def measure(
    model: Model, floor: Model, n: int, seed: int, folder: Path, console: Console
) -> tuple[Found, dict[str, float]]:  # fmt: skip
    """Every section, from the folder where it is there already, and the seconds each took when it was measured."""
    found: Found = {}
    seconds: dict[str, float] = {}
    steps: dict[str, tuple[Model, Callable[..., xarray.Dataset]]] = {
        "known": (model, measures.known),
        "known_floor": (floor, measures.known),
        "heads": (model, measures.heads),
        "heads_floor": (floor, measures.heads),
        "direct": (model, measures.direct),
        "layers_floor": (floor, partial(measures.layers, with_erasure=False)),
        "layers": (model, measures.layers),
        "ablation": (model, lambda *rest: measures.ablation(rest[0], found["heads"], *rest[1:])),
    }
    marks, code = {id(one): fingerprint(one) for one in (model, floor)}, _code()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("opening", total=len(steps))
        for name, (of, step) in steps.items():
            key = fingerprint(code, marks[id(model)], marks[id(of)], n, seed)[:12]
            kept = folder / f"{name}-{key}.nc"
            result = _kept(kept, lambda told, of=of, step=step: step(of, n, seed, told), bar, task, name, of)
            found[name], seconds[name] = result.data, result.provenance.seconds
            bar.advance(task)
    return found, seconds


def _kept(path: Path, make: Callable[..., xarray.Dataset], bar: Any, task: Any, name: str, model: Model) -> Result:
    """The section in the file, or made now and kept there."""
    if path.is_file():
        return Result.load(path)
    started = time.perf_counter()
    section = name.replace("_", " of the ")
    data = make(lambda what: bar.update(task, description=f"{section}: {what}"))
    result = Result(data, Provenance.of(f"findings: {section}", "this page", started=started, model=model))
    result.save(path)
    return result


def _code() -> str:
    """What the package's own code is, so that a kept section never stands for another way to measure."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cutaway" / "findings"


def _said(out: Path) -> str:
    """The path as a command would have it: relative, or its name alone."""
    here = Path.cwd()
    absolute = out.resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else out.name
