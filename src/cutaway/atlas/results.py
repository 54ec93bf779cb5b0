"""A user's own results on the atlas: the files that `result.save` wrote, each in the cells of its method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cutaway.atlas.works import Problem
from cutaway.errors import CutawayError, InputError
from cutaway.methods.result import Provenance, load
from cutaway.methods.table import METHODS


@dataclass(frozen=True)
class Own:
    """A saved result: the method that made it and its row, the families it may belong to, what it holds."""

    file: str
    method: str
    row: str
    families: tuple[str, ...]
    model: str
    made: str
    holds: str


def read_results(folder: str | Path) -> tuple[tuple[Own, ...], tuple[Problem, ...]]:
    """The results in a folder and below it; a file that can not be read is a problem, and the others are read.

    Raises InputError where there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"'{folder}' is no folder",
            expected="a folder of files that `result.save` wrote (`.nc`)",
            do="check the path",
        )
    found, problems = [], []
    for path in sorted(folder.rglob("*.nc")):
        try:
            found.append(_own(path, str(path.relative_to(folder))))
        except CutawayError as error:
            wanted = f"; expected {error.expected}" if error.expected else ""
            problems.append(Problem(str(path), None, f"{error.failed}{wanted}"))
    if not found and not problems:
        problems.append(Problem(str(folder), None, "no result (`.nc`) is in it"))
    return tuple(found), tuple(problems)


def _own(path: Path, file: str) -> Own:
    result = load(path)
    told: Provenance = result.provenance
    method = next((one for one in METHODS if one.name == told.method), None)
    if method is None:
        raise InputError(
            f"it was made by '{told.method}', which is no declared method", expected="one of `cutaway methods`"
        )
    sizes = ", ".join(f"{name} {size}" for name, size in result.data.sizes.items())
    holds = f"{result.main or next(iter(map(str, result.data)), 'nothing')} ({sizes})"
    return Own(file, method.name, method.row, _families(told, method.kinds), told.model, told.made, holds)


def _families(told: Provenance, can: Iterable[str]) -> tuple[str, ...]:
    """The families that a result may be of: all of its method, unless its sites say which."""
    towers = {site.partition(".")[0] for site in told.sites}
    signs = {"denoiser": "diffusion", "vae": "diffusion", "connector": "generative"}
    seen = tuple(dict.fromkeys(signs[tower] for tower in towers if tower in signs))
    return seen[:1] or tuple(can)
