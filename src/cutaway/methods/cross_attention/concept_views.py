"""Maps of concepts on a page: each on what was drawn, and layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray
from PIL import Image

from cutaway.methods.cross_attention.concept_attention import ConceptMaps
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Lens, Overlay, View
from cutaway.views.picture import Picture
from cutaway.views.words import mass, quoted

ENTRY = "concept_attention"
_LIMITS = (
    "Shares sum to 1 over the concepts that were asked for, wherever none of them is: with others beside it a map is "
    "another. It is read off the patches; that the model draws by it is not said."
)


def show(page: Page) -> Iterator[View]:
    """The mean map of each concept, then by layer."""
    found = page.made(ENTRY)
    look = page.applied[ENTRY].look(mapped)
    maps = look.value.transpose("concept", "layer", "row", "col")
    texts, shown = tuple(map(str, found["concept"].values)), _most(maps.mean("layer"))
    yield Overlay(
        title="What patches speak of, among the words of the prompt", seen=_said(found) + page.before(ENTRY, _said),
        limits=_LIMITS, picture=_drawn(found), texts=texts, values=maps.mean("layer").values, shown=shown,
        palette="reads", caption=True, unit="share among the words", provenance=origin(found), code=look.code,
    )  # fmt: skip
    yield Lens(
        title="The same, layer by layer", seen=_said(found), limits=_LIMITS, picture=_drawn(found), texts=texts,
        layers=tuple(map(str, found["layer"].values)), values=maps.values, shown=shown, caption=True, folded=True,
        unit="share among the words", provenance=origin(found), code=look.code,
    )  # fmt: skip


def tell(page: Page) -> Iterator[str]:
    """Which concept is most in one place, and where."""
    yield _said(page.made(ENTRY))


def mapped(found: ConceptMaps) -> xarray.DataArray:
    """The share of each concept on the first picture by layer, the mean over steps."""
    return found["share"].isel(picture=0).mean("step")


def _drawn(found: ConceptMaps) -> Picture:
    return Picture.of(Image.fromarray(found["drawn"].values[0]), "what was drawn")


def _most(maps: xarray.DataArray) -> int:
    """The concept that lies most in one place."""
    return max(range(len(maps)), key=lambda which: mass(maps.values[which] - maps.values[which].min())[1])


def _said(found: ConceptMaps) -> str:
    maps = mapped(found).mean("layer")
    at = _most(maps)
    place, _ = mass(maps.values[at] - maps.values[at].min())
    row, col = np.unravel_index(maps.values[at].argmax(), maps.values[at].shape)
    return (
        f"The word whose share lies most in one place is {quoted(str(found['concept'].values[at]))}, at the {place}: "
        f"{float(maps[at].max()):.1%} of the patch in row {row}, column {col}, {float(maps[at].mean()):.1%} on "
        f"average; {1 / len(maps):.1%} if all {len(maps)} words were alike."
    )
