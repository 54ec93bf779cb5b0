"""How long a report takes to make and to appear: `cutaway demo`, the size of its page, its first paint in Chromium.

python benchmarks/explain.py [--json FILE] [--rounds N] [--picture FILE]

Beside the demonstration stands a page as large models make it: 24 layers × 24 × 24 patches × 8 texts. Pages are opened
at desktop and phone width in a fresh tab of a headless Chromium; without one, their times are left out. `--picture`
keeps a screenshot of the demonstration's patch map, the one in the README.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from timing import about

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the tests drive a browser as well
from cutaway.report.page import write
from report.browser import Page, chromium, find_chromium
from report.test_page import large

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
GOALS = {"seconds": 60.0, "megabytes": 10.0, "paint": 1.0}


@dataclass(frozen=True)
class Outcome:
    """Seconds to make a report (fresh process), megabytes of its page, seconds to its first paint by screen."""

    name: str
    seconds: float | None
    megabytes: float
    paint: dict[str, float]

    @property
    def met(self) -> str:
        """Whether all goals are met."""
        good = (self.seconds or 0) < GOALS["seconds"] and self.megabytes < GOALS["megabytes"]
        return "yes" if good and all(value < GOALS["paint"] for value in self.paint.values()) else "NO"


def painted(tab: Page, page: Path, rounds: int) -> dict[str, float]:
    """Median seconds from the start of loading to the first paint, at each width."""
    found: dict[str, list[float]] = {name: [] for name in SIZES}
    for _ in range(rounds):
        for name, size in SIZES.items():
            tab.show(page, *size, touch=name == "phone")
            found[name].append(tab.run(PAINT) / 1000)
    return {name: statistics.median(values) for name, values in found.items()}


def keep_picture(tab: Page, page: Path, picture: Path) -> None:
    """A screenshot of the map of patches."""
    tab.show(page, 1280, 800)
    tab.run("document.querySelector('section h2').scrollIntoView({behavior: 'instant'})")
    time.sleep(0.3)
    tab.screenshot(picture)


def measure(rounds: int, folder: Path, picture: Path | None) -> list[Outcome]:
    """Make both pages, weigh them, open them."""
    start = time.perf_counter()
    command = [str(Path(sys.executable).parent / "cutaway"), "demo", "--out", str(folder / "demo")]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    taken = time.perf_counter() - start
    pages = {"cutaway demo": folder / "demo" / "report.html", "24 layers × 24 × 24 patches": folder / "large.html"}
    write(pages["24 layers × 24 × 24 patches"], "Large", large(24, 24, 8, 16))
    paints: dict[str, dict[str, float]] = {}
    if find_chromium() is not None:
        with chromium(folder / "profile") as browser:
            tab = browser.page()
            paints = {name: painted(tab, page, rounds) for name, page in pages.items()}
            if picture is not None:
                keep_picture(tab, pages["cutaway demo"], picture)
    return [
        Outcome(name, taken if name == "cutaway demo" else None, page.stat().st_size / 1e6, paints.get(name, {}))
        for name, page in pages.items()
    ]


def main() -> None:
    """Parse the options, measure, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, help="write the numbers here as well")
    options.add_argument("--rounds", type=int, default=7, help="how often each page is opened at each width (7)")
    options.add_argument("--picture", type=Path, help="keep a screenshot of the demonstration here")
    given = options.parse_args()
    machine = about("cutaway", "torch")
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.rounds, Path(folder), given.picture)
    table = Table("report", "made in s", "page MB", *(f"first paint, {name}, s" for name in SIZES), "goals met")
    for one in found:
        paints = (f"{one.paint[name]:.2f}" if name in one.paint else "n/a" for name in SIZES)
        table.add_row(
            one.name, "" if one.seconds is None else f"{one.seconds:.1f}", f"{one.megabytes:.2f}", *paints, one.met
        )
    Console(width=110).print(table)
    print("Goals: made in under 60 s, under 10 MB, first paint in under 1 s.")
    if given.json:
        rows = [asdict(one) | {"met": one.met} for one in found]
        given.json.write_text(json.dumps({"about": machine, "reports": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
