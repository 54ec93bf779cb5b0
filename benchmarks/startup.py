"""How long cutaway takes to start: `import cutaway` and `cutaway --help` in fresh processes, beside an empty Python.

python benchmarks/startup.py [--json FILE] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from timing import about

SCRIPT = str(Path(sys.executable).parent / "cutaway")
COMMANDS = {  # what to run, and the seconds it may take
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import cutaway": ([sys.executable, "-c", "import cutaway"], 0.3),
    "cutaway --help": ([SCRIPT, "--help"], 0.5),
    "import torch": ([sys.executable, "-c", "import torch"], None),
}


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a process to its end, and its processor time."""

    name: str
    median: float
    best: float
    cpu: float
    goal: float | None

    @property
    def met(self) -> str:
        """Whether the median keeps the goal; empty where there is none."""
        return "" if self.goal is None else "yes" if self.median < self.goal else "NO"


def once(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one fresh process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[2:4]) - sum(before[2:4])


def measure(rounds: int) -> list[Start]:
    """Every command once a round, in turn; a first round that is not counted fills the file cache."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, (command, _) in COMMANDS.items():
            times = once(command)
            if number:
                taken[name].append(times)
    found = []
    for name, (_, goal) in COMMANDS.items():
        walls, cpus = zip(*taken[name], strict=True)
        found.append(Start(name, statistics.median(walls), min(walls), statistics.median(cpus), goal))
    return found


def main() -> None:
    """Parse the options, measure, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, help="write the numbers here as well")
    options.add_argument("--rounds", type=int, default=15, help="fresh processes for each command (15)")
    given = options.parse_args()
    machine = about("cutaway", "typer", "rich", "torch")
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    rows = measure(given.rounds)
    table = Table("command", "median s", "best s", "cpu s", "goal", "met")
    for row in rows:
        goal = "" if row.goal is None else f"< {row.goal}"
        table.add_row(row.name, f"{row.median:.3f}", f"{row.best:.3f}", f"{row.cpu:.3f}", goal, row.met)
    Console(width=100).print(table)
    if given.json:
        found = {"about": machine, "starts": [asdict(row) | {"met": row.met} for row in rows]}
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
