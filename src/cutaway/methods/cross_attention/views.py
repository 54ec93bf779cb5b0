"""Attention to words on a page: the map of each word on what was drawn, by step and by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import xarray
from PIL import Image

from cutaway.methods.cross_attention.cross_attention import AXES, WordMaps
from cutaway.methods.result import origin
from cutaway.methods.shown import Page, measured
from cutaway.views import films, kinds
from cutaway.views.picture import Picture
from cutaway.views.words import mass, quoted

ENTRY, BY_HEAD = "cross_attention", "cross_attention_by_head"
_LIMITS = (
    "Where a patch looks is not what makes the thing appear there: a word may work through another one, and the end of "
    "the prompt, which is no word, may carry all of it. Cutting the attention shows what depends on it."
)


def show(page: Page) -> Iterator[kinds.View]:
    """The mean map of each word, then by step under the picture as it forms, by layer and by head."""
    found = page.made(ENTRY)
    yield overlay(page, found)
    yield film(page, found)
    yield by(page, ENTRY, "layer")
    if page.made(BY_HEAD) is not None:
        yield by(page, BY_HEAD, "head")


def lead(page: Page) -> tuple[kinds.Opening, tuple[str, ...]]:
    """The page begins with a word, and with the number where it is one.

    The word is the one that the question names, else the one that is looked for most in one place.
    """
    found = page.made(ENTRY)
    at = _first(page, found)
    said = _most(found) if at == _gathered(found) else _of(found, at)
    first = overlay(page, found)
    one = replace(
        first, title=f"Where {quoted(found.words()[at])} is looked for", texts=(found.words()[at],), shown=0,
        values=first.values[at : at + 1], seen=first.seen.removeprefix(_most(found)).strip(),
    )  # fmt: skip
    trivial = page.question.counterpart is None and not page.question.pictures  # its own drawing, held against itself
    rest = [one for one in page.told() if one != said]
    told = tuple(rest if trivial else [measured(page), *rest])
    return kinds.Opening(verdict=said, lead=one, evidence=told), (said, *told)


def tell(page: Page) -> Iterator[str]:
    """Which word is looked for most in one place, and where."""
    found = page.made(ENTRY)
    yield _most(found)


def overlay(page: Page, found: WordMaps) -> kinds.Overlay:
    """The mean over everything of the first drawing, on it."""
    return kinds.Overlay(
        title="Where each word is looked for",
        seen=f"{_most(found)} {float(found['elsewhere'].isel(picture=0).mean()):.1%} of all attention goes to no word; "
        f"a word of one token would get {float(found['even']):.1%} if all positions got the same."
        f"{page.before(ENTRY, _most)}",
        limits=_LIMITS, picture=_drawn(found), texts=tuple(found.words()), values=_maps(found).values, caption=True,
        shown=_first(page, found), unit="share of attention", palette="reads", provenance=origin(found),
        code=page.applied[ENTRY].look().code,
    )  # fmt: skip


def film(page: Page, found: WordMaps) -> films.Strip:
    """The maps of each word at each step, under what the drawing would become if it ended there."""
    maps = _maps(found, "step", "layer").transpose("place", "layer", "step", "row", "col")
    steps = [str(step) for step in maps["step"].values]
    look = page.applied[ENTRY].look(attended, axis="step")
    said, most, least = _peaks(look.value)
    forming = "forming" in found.data
    frames = found["forming"].values if forming else [found["drawn"].values[0]] * len(steps)
    what = "what the drawing would become if it ended at this step" if forming else "what was drawn"
    return films.Strip(
        title="Where each word is looked for while the picture forms",
        seen=f"Words together get most attention at step {most} and least at step {least} ({said}). Above each map: "
        f"{what}.",
        limits=f"{_LIMITS} Coarse layers are brought to the finest grid: their maps look smoother than they are.",
        pictures=tuple(
            Picture.of(Image.fromarray(one), f"{what}: step {step}") for step, one in zip(steps, frames, strict=True)
        ),
        texts=tuple(found.words()), sets=("all layers", *(f"layer {name}" for name in maps["layer"].values)),
        frames=tuple(steps), values=np.concatenate([maps.mean("layer", keepdims=True).values, maps.values], 1),
        unit="share of attention", shown=_first(page, found), provenance=origin(found),
        code=look.code,
    )  # fmt: skip


def by(page: Page, entry: str, axis: str) -> kinds.Lens:
    """The maps of each word at each layer, or of each head."""
    found = page.made(entry)
    maps = _maps(found, "layer", *([axis] if axis == "head" else []))
    if axis == "head":
        maps = maps.stack(of=("layer", "head")).transpose("place", "of", "row", "col")
        maps = maps.isel(of=np.flatnonzero(np.isfinite(maps.values).any((0, 2, 3))))
        names = [f"{layer}.{head}" for layer, head in maps["of"].values]
        maps = maps.drop_vars(["of", "layer", "head"]).assign_coords(of=names).rename(of="head")
    look = (
        page.applied[entry].look(attended_by_head) if axis == "head" else page.applied[entry].look(attended, axis=axis)
    )
    said, most, least = _peaks(look.value)
    return kinds.Lens(
        title=f"Where each word is looked for, {axis} by {axis}",
        seen=f"Words together get most attention at {axis} {most} and least at {axis} {least} ({said}).",
        limits=f"{_LIMITS} Coarse layers are brought to the finest grid: their maps look smoother than they are.",
        picture=_drawn(found), texts=tuple(found.words()), layers=tuple(map(str, maps[axis].values)), axis=axis,
        values=maps.transpose("place", axis, "row", "col").values, caption=True,
        shown=_first(page, found), unit="share of attention", folded=True,
        provenance=origin(found),
        code=look.code,
    )  # fmt: skip


def attended(found: WordMaps, axis: str) -> xarray.DataArray:
    """What of all attention goes to each word along an axis."""
    maps = found["attention"].isel(picture=0, place=slice(len(found.words()))).mean(("row", "col"))
    return maps.mean([name for name in AXES if name in maps.dims and name != axis])


def attended_by_head(found: WordMaps) -> xarray.DataArray:
    """What of all attention goes to each word, by layer and head; heads that a layer does not have are left out."""
    maps = found["attention"].isel(picture=0, place=slice(len(found.words()))).mean(("row", "col"))
    return maps.stack(of=("layer", "head")).dropna("of")


def _peaks(shares: xarray.DataArray) -> tuple[str, str, str]:
    """What all words get together, at most and at least, and where that is."""
    sums = shares.sum("place")
    names = [".".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in sums[sums.dims[0]].values]
    most, least = names[int(sums.values.argmax())], names[int(sums.values.argmin())]
    return f"{float(sums.max()):.1%} and {float(sums.min()):.1%} of all", most, least


def _maps(found: WordMaps, *kept: str) -> xarray.DataArray:
    """The maps of the first drawing, the mean over all axes but these."""
    maps = found["attention"].isel(picture=0, place=slice(len(found.words())))
    return maps.mean([axis for axis in AXES if axis in maps.dims and axis not in kept])


def _drawn(found: WordMaps) -> Picture:
    return Picture.of(Image.fromarray(found["drawn"].values[0]), "what was drawn")


def _first(page: Page, found: WordMaps) -> int:
    """The word that the question names, or else the one whose attention lies most in one place."""
    named = page.question.word.lower()
    said = [word.lower().strip(".,;:!?") for word in found.words()]
    return said.index(named) if named in said else _gathered(found)


def _gathered(found: WordMaps) -> int:
    """The word whose attention lies most in one place."""
    maps = _maps(found).values
    return max(range(len(maps)), key=lambda which: mass(maps[which])[1])


def _most(found: WordMaps) -> str:
    """The same as a sentence."""
    at = _gathered(found)
    return f"The word that is looked for most in one place is {quoted(found.words()[at])}: {_where(found, at)}"


def _of(found: WordMaps, at: int) -> str:
    """Where another word is looked for, as a sentence."""
    return f"Where {quoted(found.words()[at])} is looked for: {_where(found, at)}"


def _where(found: WordMaps, at: int) -> str:
    maps = _maps(found).values[at]
    place, share = mass(maps)
    return (
        f"{share:.1%} of what it gets lies in the ninth at the {place} (11.1% if spread evenly), and a patch gives it "
        f"at most {float(maps.max()):.1%} of its attention."
    )
