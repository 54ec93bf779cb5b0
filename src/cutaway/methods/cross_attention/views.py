"""Attention to words on a page: the map of each word on what was drawn, by step and by layer."""

from __future__ import annotations

from collections.abc import Iterator

import xarray
from PIL import Image

from cutaway.methods.cross_attention.cross_attention import AXES, WordMaps
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views import kinds
from cutaway.views.picture import Picture
from cutaway.views.words import mass, quoted

ENTRY = "cross_attention"
_LIMITS = (
    "Where a patch looks is not what makes the thing appear there: a word may work through another one, and the end of "
    "the prompt, which is no word, may carry all of it. Cutting the attention shows what depends on it."
)


def show(page: Page) -> Iterator[kinds.View]:
    """The mean map of each word, then the same by step and by layer."""
    found = page.made(ENTRY)
    yield overlay(page, found)
    for axis in ("step", "layer"):
        if axis in found["attention"].dims:
            yield by(page, found, axis)


def tell(page: Page) -> Iterator[str]:
    """Which word is looked for most in one place, and where."""
    found = page.made(ENTRY)
    yield _most(found)


def overlay(page: Page, found: WordMaps) -> kinds.Overlay:
    """The mean over everything of the first drawing, on it."""
    floor = page.floor.made(ENTRY) if page.floor else None
    before = "" if floor is None else f" Before training: {_most(floor)[0].lower()}{_most(floor)[1:]}"
    return kinds.Overlay(
        title="Where each word is looked for",
        seen=f"{_most(found)} {float(found['elsewhere'].isel(picture=0).mean()):.1%} of all attention goes to no word; "
        f"a word of one token would get {float(found['even']):.1%} if all positions got the same.{before}",
        limits=_LIMITS, picture=_drawn(found), texts=tuple(found.words()), values=_maps(found).values, caption=True,
        unit="share of attention", palette="reads", provenance=origin(found), code=page.applied[ENTRY].look().code,
    )  # fmt: skip


def by(page: Page, found: WordMaps, axis: str) -> kinds.Lens:
    """The maps of each word at each step, or at each layer."""
    look, maps = page.applied[ENTRY].look(attended, axis=axis), _maps(found, axis)
    sizes = look.value
    spread = sizes.sum("place").values
    least, most = (str(maps[axis].values[at]) for at in (spread.argmin(), spread.argmax()))
    return kinds.Lens(
        title=f"Where each word is looked for, {axis} by {axis}",
        seen=f"Words together get most attention at {axis} {most} ({float(sizes.sum('place').max()):.1%}) and least at "
        f"{axis} {least} ({float(sizes.sum('place').min()):.1%}).",
        limits=f"{_LIMITS} Coarse layers are brought to the finest grid: their maps look smoother than they are.",
        picture=_drawn(found), texts=tuple(found.words()), layers=tuple(map(str, maps[axis].values)), axis=axis,
        values=maps.transpose("place", axis, "row", "col").values, caption=True, unit="share of attention", folded=True,
        provenance=origin(found),
        code=look.code,
    )  # fmt: skip


def attended(found: WordMaps, axis: str) -> xarray.DataArray:
    """What of all attention goes to each word along an axis."""
    maps = found["attention"].isel(picture=0, place=slice(len(found.words()))).mean(("row", "col"))
    return maps.mean([name for name in AXES if name in maps.dims and name != axis])


def _maps(found: WordMaps, *kept: str) -> xarray.DataArray:
    """The maps of the first drawing, the mean over all axes but these."""
    maps = found["attention"].isel(picture=0, place=slice(len(found.words())))
    return maps.mean([axis for axis in AXES if axis in maps.dims and axis not in kept])


def _drawn(found: WordMaps) -> Picture:
    return Picture.of(Image.fromarray(found["drawn"].values[0]), "what was drawn")


def _most(found: WordMaps) -> str:
    """The word whose attention lies most in one place, a sentence."""
    maps, said = _maps(found).values, found.words()
    places = [mass(one) for one in maps]
    at = max(range(len(said)), key=lambda which: places[which][1])
    (place, share), largest = places[at], float(maps[at].max())
    return (
        f"The word that is looked for most in one place is {quoted(said[at])}: {share:.1%} of what it gets lies in the "
        f"ninth at the {place} (11.1% if spread evenly), and a patch gives it at most {largest:.1%} of its attention."
    )
