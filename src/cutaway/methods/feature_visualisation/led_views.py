"""Drawings that were led, on a page: each beside the plain one and one that was moved as far by chance."""

from __future__ import annotations

from collections.abc import Iterator

import xarray

from cutaway.methods.feature_visualisation.drawing_visualisation import SIDES, Led
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.films import Gallery
from cutaway.views.picture import Picture
from cutaway.views.words import number

CALLED = {"plain": "as it is drawn", "led": "led so that it is large", "random": "moved as far by chance"}
CANNOT = (
    "That the unit is about what is drawn: a prior that draws few things shows the nearest of these, and a denoiser "
    "that learned nothing can be led as well."
)
TIMES = 4


def show(page: Page) -> Iterator[Gallery]:
    """Three drawings a unit."""
    made = page.made("led")
    if made is None:
        return
    look = page.applied["led"].look(numbers)
    pictures, captions, cells = [], [], []
    for at, unit in enumerate(made["unit"].values):
        for side, name in enumerate(SIDES):
            shown = made["picture"].values[at, side].repeat(TIMES, 0).repeat(TIMES, 1)
            pictures.append(Picture.of(shown, f"unit {unit}, {CALLED[name]}"))
            captions.append(f"unit {unit}: {CALLED[name]}")
            cells.append((float(look.value.isel(unit=at, side=side)),))
    middle = look.value.median("unit")
    said = ", ".join(f"{CALLED[name]} {number(float(middle.sel(side=name)))}" for name in SIDES)
    yield Gallery(
        title="Drawings led by a unit", pictures=tuple(pictures), captions=tuple(captions), columns=("activation",),
        cells=tuple(cells), limits=CANNOT, provenance=origin(made), code=look.code,
        seen=f"The mean activation at step {made.provenance.options['step']}: {said} (medians over units).",
    )  # fmt: skip


def numbers(found: Led) -> xarray.DataArray:
    """What the view shows: the lines of this function are the code of the view."""
    return found["value"].max("draw")
