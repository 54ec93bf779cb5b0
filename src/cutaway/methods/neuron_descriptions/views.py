"""Units on a page: their strongest pictures, what is known of each, what making them weaker or stronger does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas
import xarray
from jaxtyping import Float
from numpy import ndarray

from cutaway.data import Scene, caption, pixels
from cutaway.methods.neuron_descriptions.neuron_descriptions import Neurons
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.films import Gallery
from cutaway.views.kinds import Axis, Curve, Line, Table, View
from cutaway.views.picture import Picture
from cutaway.views.words import number

UNITS, DIMMED = 4, 0.3
CANNOT = "That a unit is about what its strongest pictures share: the pictures below them may show it as well."


def show(page: Page) -> Iterator[View]:
    """The strongest pictures, the table, the curves where there is a number."""
    made = page.made("neurons")
    if made is None:
        return
    yield from _galleries(page, made)
    yield _table(page, made)
    if "change" in made.data:
        yield _curve(page, made)


def _galleries(page: Page, made: Neurons) -> Iterator[Gallery]:
    scenes = page.question.scenes
    assert scenes is not None
    for at in range(min(UNITS, made.data.sizes["unit"])):
        look = page.applied["neurons"].look(strongest, at=at)
        unit, shown = made["unit"].values[at], [scenes[int(one)] for one in look.value["picture"].values]
        yield Gallery(
            title=f"Unit {unit} of {', '.join(made.provenance.sites)}",
            seen=f"The {len(shown)} of {len(scenes)} pictures with its strongest patches, dimmed where it is not above "
            f"what 1 in 200 patches is, {number(float(made['threshold'].values[at]))}.",
            limits=CANNOT, pictures=tuple(_lit(shown, made, at)),
            captions=tuple(caption(one, one.seed).text for one in shown), columns=("activation",),
            cells=tuple((float(one),) for one in look.value["activation"].values),
            provenance=origin(made), code=look.code,
        )  # fmt: skip


def strongest(found: Neurons, at: int) -> xarray.Dataset:
    """The pictures with the strongest patches of one unit."""
    return found.data[["picture", "activation"]].isel(unit=at)


def _lit(shown: Sequence[Scene], made: Neurons, at: int) -> Iterator[Picture]:
    """Pictures as they are where a unit is strong, dark elsewhere."""
    maps, least = made["map"].values[at], float(made["threshold"].values[at])
    for scene, one in zip(shown, maps, strict=True):
        drawn = pixels(scene).astype(float)
        height, width = drawn.shape[:2]
        strong = _enlarged(one > least, height, width)
        lit = drawn * np.where(strong, 1.0, DIMMED)[..., None]
        yield Picture.of(lit.astype(np.uint8), "a strong picture, dark where the unit is weak")


def _enlarged(marks: ndarray, height: int, width: int) -> Float[ndarray, "height width"]:
    rows, cols = marks.shape
    return np.asarray(marks[np.arange(height) * rows // height][:, np.arange(width) * cols // width], float)


def _table(page: Page, made: Neurons) -> Table:
    look = page.applied["neurons"].look(told)
    columns = tuple(map(str, look.value.columns))
    cells = tuple(tuple(_plain(value) for value in row) for row in look.value.itertuples(index=False))
    more = ""
    if "word" in made.data:
        best, chance = float(made["write"].isel(word_rank=0).mean()), float(made["write_random"].mean())
        more = f" What they write fits its best word with {number(best)} on average, a random vector {number(chance)}."
    return Table(
        title="What is known of each unit",
        seen=f"{len(cells)} units of {', '.join(made.provenance.sites)}, {made.provenance.options['chosen']}.{more}",
        limits=CANNOT, columns=columns, cells=cells, provenance=origin(made), code=look.code,
    )  # fmt: skip


def told(found: Neurons) -> pandas.DataFrame:
    """A row a unit."""
    return found.summary()


def _curve(page: Page, made: Neurons) -> Curve:
    look = page.applied["neurons"].look(curves)
    value: xarray.Dataset = look.value
    lines = [Line(f"unit {unit}", value["change"].sel(unit=unit).values) for unit in value["unit"].values]
    gone, others = (float(np.abs(value[name].isel(factor=0)).mean()) for name in ("change", "others"))
    return Curve(
        title="Units weaker and stronger",
        seen=f"Without one of these units {page.number} moves by {number(gone)} on average, without one that is as "
        f"active by {number(others)}.",
        limits="What several units do together; activations far from those seen are not the model's own.",
        x=Axis("activation times", tuple(f"{one:g}" for one in value["factor"].values)),
        lines=(*lines, Line("as active (mean size)", value["others"].values, baseline=True)),
        unit="change", provenance=origin(made), code=look.code,
    )  # fmt: skip


def curves(found: Neurons) -> xarray.Dataset:
    """What multiplying each unit changes, and the mean size of what units as active change."""
    return xarray.Dataset(
        {"change": found["change"], "others": np.abs(found["matched"]).mean(("unit", "control"))}
    )  # fmt: skip


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain
