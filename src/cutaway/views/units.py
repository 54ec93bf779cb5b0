"""The view of the units of a site, features of a dictionary or neurons: a table to search, and a page for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cutaway.errors import InputError
from cutaway.views.kinds import Axis, Phrase, View, keep
from cutaway.views.picture import Picture


@dataclass(frozen=True)
class Context:
    """A place in a text where a unit is large: what stands before it, the token, what stands behind, and how large."""

    before: str
    token: str
    after: str
    value: float


@dataclass(frozen=True)
class Unit:
    """One unit: what it is described as, its numbers, where it is largest, what it writes.

    Of `numbers` those that are columns of the view stand in its table, all in the unit's own panel.

    `pictures` are places among the pictures of the view, the one in which it is largest first, `values` how large;
    `writes` are texts that its direction adds to, each with its share or cosine; `near` are numbers of other units with
    the cosine of the two directions.
    """

    number: int
    name: str = ""
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    pictures: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    contexts: tuple[Context, ...] = ()
    writes: tuple[Phrase, ...] = ()
    near: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Units(View):
    """Units as a table, and what is known of the chosen one; each has an address of its own, `#v-title/number`.

    `maps` (picture of a unit, row, column) are the activations over its pictures, those of the first unit first; NaN
    where a place has none. `counts` (unit, bin) are how many rows lie in each bin of `bins`. `curves` (unit, point) are
    what happens to `effect` when a unit is set to the points of `points`; `chance` (low, middle, high; point) is the
    same of random units. `sorted` is the number that orders the table.
    """

    units: tuple[Unit, ...]
    columns: tuple[str, ...]
    sorted: str
    pictures: tuple[Picture, ...] = ()
    maps: np.ndarray | None = None
    unit: str = "activation"
    bins: tuple[str, ...] = ()
    counts: np.ndarray | None = None
    points: Axis | None = None
    curves: np.ndarray | None = None
    chance: np.ndarray | None = None
    effect: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        shown = sum(len(unit.pictures) for unit in self.units)
        keep(self, "maps", (shown, None, None), "picture of a unit, row, column")
        keep(self, "counts", (len(self.units), len(self.bins)), "unit, bin")
        places = len(self.points.labels) if self.points else 0
        keep(self, "curves", (len(self.units), places), "unit, point")
        keep(self, "chance", (3, places), "low, middle, high; point")
        numbers = [unit.number for unit in self.units]
        odd = [unit.number for unit in self.units if not all(0 <= at < len(self.pictures) for at in unit.pictures)]
        if len(set(numbers)) < len(numbers) or odd or self.sorted not in self.columns:
            raise InputError(
                f"'{self.title}' has a unit twice, a picture that is not there, or no column '{self.sorted}'",
                expected="each unit once, and places among the pictures",
                exists=", ".join(map(str, odd[:5] or numbers[:5])),
                do="number units as the site does, and pictures from 0",
            )  # fmt: skip
