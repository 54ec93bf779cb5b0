"""Drawings from the layers of a text encoder, on a page."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from cutaway.methods.logit_lens.diffusion_lens import DrawnLayers
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views import films, kinds
from cutaway.views.picture import Picture
from cutaway.views.words import number

ENTRY = "diffusion_lens"


def show(page: Page) -> Iterator[kinds.View]:
    """The drawings side by side, with how far each is from the one that is drawn."""
    found: DrawnLayers = page.made(ENTRY)
    names, frames = [str(name) for name in found["layer"].values], found["drawn"].isel(picture=0).values
    far, random = (found[name].isel(picture=0).values for name in ("value", "random"))
    yield films.Gallery(
        title="What is drawn from each layer of the text encoder",
        seen=_said(found),
        limits="The denoiser was never shown the states of early layers: what it cannot draw from them may be there in "
        "another form. The distance is of pixels, and small things count little.",
        pictures=tuple(Picture.of(Image.fromarray(one.astype(np.uint8)), f"drawn from {name}")
                       for name, one in zip(names, frames, strict=True)),
        captions=tuple(name if name == "embed" else f"layer {name}" for name in names),
        columns=("distance to the drawing", "the same from noise as large"),
        cells=tuple((float(a), float(b)) for a, b in zip(far, random, strict=True)),
        provenance=origin(found), code=page.applied[ENTRY].look().code,
    )  # fmt: skip


def tell(page: Page) -> Iterator[str]:
    """From which layer on the drawing is closer to what is drawn than half of what the first gives."""
    yield _said(page.made(ENTRY))


def _said(found: DrawnLayers) -> str:
    far = found["value"].isel(picture=0).values
    names = [str(name) for name in found["layer"].values]
    near = names[next(at for at, _ in enumerate(far) if (far[at:] <= far[0] / 2).all())]
    return (
        f"Drawn from what enters the text encoder the picture is {number(far[0])} (mean squared difference) from the "
        f"one that is drawn; from {near if near == 'embed' else f'layer {near}'} on it is less than half of that."
    )
