"""Time contestants side by side: every round runs each of them once, so that a busy machine slows all alike.

Also the options that these programs share.

What counts is the processor time of this process, not the clock on the wall: on a shared machine the latter is mostly
about the others. With one thread on an idle machine the two are the same; the tables show both.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

Times = tuple[float, float]
Race = tuple[str, "list[Contestant]", int]  # title, who runs, rounds
QUICK = 5  # rounds
BEFORE = (False, "the model before training")  # options of `seeded`
DRAWS = ("zoo:emoji-sd", "which model of the zoo draws")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler reports its own start and stop


@dataclass(frozen=True)
class Contestant:
    """One way to do the job. `call` None: it cannot, `note` says why. `goal`: the most it may take, in baselines."""

    name: str
    call: Callable[[], Any] | None
    goal: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """Medians over the rounds; the ratios are medians of the ratios within each round, to the first contestant.

    `ratio` (with `spread`, its middle half) is in processor time, `wall_ratio` in time on the wall.
    """

    name: str
    milliseconds: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    wall_ratio: float | None = None
    memory_mb: float | None = None
    goal: float | None = None
    note: str = ""

    @property
    def met(self) -> str:
        """Whether the goal is met; empty where there is none."""
        if self.goal is None or self.ratio is None:
            return ""
        return "yes" if self.ratio <= self.goal else "NO"


def race(contestants: Sequence[Contestant], rounds: int, memory: Callable[[Callable[[], Any]], float]) -> list[Result]:
    """Run everyone once a round, in an order that rotates, and compare with the first contestant."""
    running = [one for one in contestants if one.call is not None]
    for one in running * 2:  # the first calls pay for caches, thread pools and lazy imports
        _timed(one)
    peaks = {one.name: memory(one.call) for one in running if one.call}
    taken: dict[str, list[Times]] = {one.name: [] for one in running}
    for number in range(rounds):
        first = number % len(running)
        for one in running[first:] + running[:first]:
            taken[one.name].append(_timed(one))
    base = taken[running[0].name]
    return [_result(one, taken.get(one.name), base, peaks.get(one.name)) for one in contestants]


def _timed(one: Contestant) -> Times:
    """Seconds of processor and of wall time for one call, the collector run before and not during."""
    assert one.call is not None
    gc.collect()
    start = time.process_time(), time.perf_counter()
    kept = one.call()
    took = time.process_time() - start[0], time.perf_counter() - start[1]
    del kept
    return took


def _result(one: Contestant, times: list[Times] | None, base: list[Times], peak: float | None) -> Result:
    if times is None:
        return Result(one.name, goal=one.goal, note=one.note)
    ratios, walls = (sorted(a[i] / b[i] for a, b in zip(times, base, strict=True)) for i in (0, 1))
    quarter = len(ratios) // 4
    return Result(
        one.name, statistics.median(cpu for cpu, _ in times) * 1000, statistics.median(ratios),
        (ratios[quarter], ratios[-1 - quarter]), statistics.median(walls), peak, one.goal, one.note,
    )  # fmt: skip


# --- programs ---------------------------------------------------------------------------------------------------------


def options(told: str, **defaults: Any) -> argparse.ArgumentParser:
    """The options of a program: one for each default, with its help, `name=(default, help)`.

    A number makes an option with a value, False a flag, a list one with several values, a type one without a default.
    """
    made = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, said) in defaults.items():
        if default is False:
            made.add_argument(f"--{name}", action="store_true", help=said)
        elif isinstance(default, type):
            made.add_argument(f"--{name}", type=default, help=said)
        else:
            several = isinstance(default, list)
            one = default[0] if several else default
            shown = f"{said} ({' '.join(map(str, default)) if several else default})"
            made.add_argument(f"--{name}", type=type(one), nargs="+" if several else None, default=default, help=shown)
    return made


def timed(told: str, rounds: int, quick: str, **more: Any) -> argparse.ArgumentParser:
    """The options of a program that times models."""
    return options(
        told, json=(Path, "write the numbers here as well"), rounds=(rounds, "how often each contestant runs"),
        threads=(1, "threads for torch"), quick=(False, f"{quick}: does it work at all"), **more,
    )  # fmt: skip


def seeded(told: str, many: int, counted: str, **more: Any) -> argparse.ArgumentParser:
    """The options of a program that measures a model of the zoo, once for each seed."""
    return options(told, many=(many, counted), seeds=([0, 1], "other prompts, other random directions"), **more)


def begun(given: argparse.Namespace, *missing: str) -> dict[str, str]:
    """Set threads and seed, print and return what the numbers depend on, and what is `missing`."""
    import torch

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    machine = about("torch", "transformers", "cutaway", "nnsight") | {"threads": str(torch.get_num_threads())}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for one in missing:
        print(one)
    return machine


def compete(given: argparse.Namespace, races: Iterable[Race], *missing: str) -> dict[str, list[Result]]:
    """Run every race, print its table, write all of them where --json says."""
    import torch

    machine, results = begun(given, *missing), {}
    with torch.no_grad():
        for title, contestants, rounds in races:
            results[title] = race(contestants, rounds, tensor_peak)
            show(title, results[title])
    if given.json:
        save(given.json, machine, results)
    return results


# --- measures and tables ----------------------------------------------------------------------------------------------


def tensor_peak(call: Callable[[], Any]) -> float:
    """The most tensor memory in MB that a call holds beyond what was there before it, as the allocator counts it."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        kept = call()
    del kept
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6


def about(*packages: str) -> dict[str, str]:
    """What the numbers depend on: versions, cores and threads, the date; nothing that names a machine."""
    found = {"date": date.today().isoformat(), "python": platform.python_version(), "machine": platform.machine()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["cores"] = str(cores)
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def show(title: str, results: Sequence[Result]) -> None:
    """Print one case as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("contestant", min_width=34)
    for column in ("cpu ms", "ratio", "middle half", "goal", "met", "wall ratio", "peak MB"):
        table.add_column(column, justify="right", no_wrap=True)
    missing: list[str] = []
    for one in results:
        if one.milliseconds is None or one.spread is None:
            missing.append(f"{one.name}: n/a, {one.note}")
            continue
        peak = "" if one.memory_mb is None else f"{one.memory_mb:.0f}"
        goal = "" if one.goal is None else f"≤ {one.goal:.2f}"
        spread = "{:.3f}-{:.3f}".format(*one.spread)
        name = f"{one.name} ({one.note})" if one.note else one.name
        numbers = f"{one.milliseconds:.1f}", f"{one.ratio:.3f}", spread, goal, one.met, f"{one.wall_ratio:.3f}", peak
        table.add_row(name, *numbers)
    table.caption, table.caption_justify = "\n".join(missing) or None, "left"
    Console(width=130).print(table)


def paired(differences: np.ndarray) -> str:
    """A mean of paired differences with a 95 % interval, from 2000 resamplings."""
    draw = np.random.default_rng(0).integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[draw].mean(1), (0.025, 0.975))
    return f"{differences.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def save(path: Path, machine: dict[str, str], cases: dict[str, list[Result]]) -> None:
    """Write what `show` printed as JSON."""
    rows = {title: [asdict(one) | {"met": one.met} for one in results] for title, results in cases.items()}
    path.write_text(json.dumps({"about": machine, "cases": rows}, indent=2) + "\n", encoding="utf-8")
