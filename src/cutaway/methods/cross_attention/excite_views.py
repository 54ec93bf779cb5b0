"""Attend-and-Excite on a page: the drawing as it is, with its latents moved, and moved as far by chance."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image
from xarray import DataArray

from cutaway.methods.cross_attention.attend_and_excite import SIDES, Excited
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views import films, kinds
from cutaway.views.picture import Picture
from cutaway.views.words import number, quoted

ENTRY = "attend_and_excite"
CAPTIONS = ("as it is drawn", "latents moved so that the words are looked for", "moved as far by chance")
_LIMITS = (
    "A word that is looked for need not be drawn, and a picture may change as it does for any move of that length. It "
    "is one drawing from one noise."
)


def show(page: Page) -> Iterator[kinds.View]:
    """The three drawings side by side."""
    found: Excited = page.made(ENTRY)
    look = page.applied[ENTRY].look(least)
    yield films.Gallery(
        title="Moved so that every word is looked for",
        seen=_said(found),
        limits=_LIMITS,
        pictures=tuple(
            Picture.of(Image.fromarray(found["drawn"].isel(picture=0).sel(side=side).values), caption)
            for side, caption in zip(SIDES, CAPTIONS, strict=True)
        ),
        captions=CAPTIONS,
        columns=("largest share of the word that is looked for least, at the last step that is moved",),
        cells=tuple((float(look.value.sel(side=side)),) for side in SIDES),
        provenance=origin(found),
        code=look.code,
    )


def tell(page: Page) -> Iterator[str]:
    """What became of the word that is looked for least."""
    yield _said(page.made(ENTRY))


def least(found: Excited) -> DataArray:
    """The largest share that a patch gives to the word that is looked for least, at the last step that is moved."""
    return 1 - found["loss"].isel(picture=0, step=-1)


def _said(found: Excited) -> str:
    shares = least(found)
    said = ", ".join(quoted(str(word)) for word in found["said"].values[0] if word)
    plain, excited, random = (float(shares.sel(side=side)) for side in SIDES)
    return (
        f"Of {said}, the one that is looked for least gets at most {number(plain)} of the attention of a patch as it "
        f"is drawn, {number(excited)} when the latents are moved for it at {found['step'].size} steps, and "
        f"{number(random)} when they are moved as far by chance."
    )
