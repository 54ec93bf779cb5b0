"""Pictures that were made, on a page: each with the best picture of the data set and that of the untrained model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray

from cutaway.methods.feature_visualisation.feature_visualisation import Visions
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.films import Gallery
from cutaway.views.kinds import View
from cutaway.views.picture import Picture
from cutaway.views.words import signed

CANNOT = (
    "That anything like it is what makes the number large in real pictures: far above those of the data set a picture "
    "is one that nobody would take, and units of a model that learned nothing rise as well."
)
ENTRIES = ("vision", "unit_visions")
TIMES = 4  # a picture is this much larger on the page, with pixels as they are


def show(page: Page) -> Iterator[View]:
    """A gallery for the number, one for units."""
    for name in ENTRIES:
        made = page.made(name)
        if made is not None:
            yield _gallery(page, name, made)


def _gallery(page: Page, name: str, made: Visions) -> Gallery:
    look = page.applied[name].look(heights)
    units = name == "unit_visions"
    of = f"units of {', '.join(made.provenance.sites)}" if units else page.number
    pictures, captions, cells = [], [], []
    for at, unit in enumerate(made["unit"].values):
        said = f"unit {unit}" if units else f"{page.number} largest"
        z = {kind: float(look.value[kind].values[at]) for kind in look.value}
        sides = {"made": ("picture", "made"), "best": ("exemplar", "the best of the data set")}
        if "floor" in z:
            sides["floor"] = ("floor_picture", "made for the model before training")
        for kind, (array, told) in sides.items():
            pictures.append(Picture.of(_larger(made[array].values[at]), f"{told}, {said}"))
            captions.append(f"{said}: {told}")
            cells.append((z[kind] if np.isfinite(z[kind]) else None,))
    middle = look.value.median("unit")
    before = f", before training {signed(float(middle['floor'])):.3f}" if "floor" in middle else ""
    return Gallery(
        title="Pictures made for units" if units else "A picture made for the number",
        seen=f"Made so that {of} become{'' if units else 's'} large: {signed(float(middle['made'])):.3f} spreads above "
        f"the mean of the data set; its best picture {signed(float(middle['best'])):.3f}, pictures with its spectrum "
        f"and phases by chance {signed(float(middle['random'])):.3f}{before}{' (medians)' if units else ''}.",
        limits=CANNOT, pictures=tuple(pictures), captions=tuple(captions), columns=("z",), cells=tuple(cells),
        provenance=origin(made), code=look.code,
    )  # fmt: skip


def heights(found: Visions) -> xarray.Dataset:
    """How far above the data set the pictures are: the lines of this function are the code of the view."""
    return found.scores()


def _larger(picture: np.ndarray) -> np.ndarray:
    times = max(1, TIMES * 64 // max(picture.shape[:2]))
    return picture.repeat(times, 0).repeat(times, 1)
