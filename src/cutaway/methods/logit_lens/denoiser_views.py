"""What the blocks of a denoiser would predict, on a page: how far each is, and what each would draw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray
from PIL import Image

from cutaway.methods.logit_lens.denoiser_lens import DenoiserLens
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.films import Gallery
from cutaway.views.kinds import Axis, Matrix, View
from cutaway.views.picture import Picture
from cutaway.views.words import number

ENTRY = "denoiser_lens"
STEPS, LEVELS = 4, 5
_LIMITS = (
    "A block is read as if it were the last, which it was never trained to be: what it holds in another basis is not "
    "read, and that later blocks use what is read is not said."
)


def show(page: Page) -> Iterator[View]:
    """How far each block is from the prediction, by step; then what some blocks would draw."""
    found: DenoiserLens = page.made(ENTRY)
    look = page.applied[ENTRY].look(by_step)
    far, names = look.value, named(found)
    yield Matrix(
        title="How far each block of the denoiser is from what it predicts",
        seen=_said(found) + page.before(ENTRY, _said), limits=_LIMITS, pictures=(None, None), sides=("", ""),
        captions=("", ""), row_axis=Axis("block", names), column_axis=Axis("step", _texts(found["step"])),
        values=far.values, unit="lengths of the prediction", signed=False, provenance=origin(found), code=look.code,
    )  # fmt: skip
    if "forming" in found.data:
        yield _gallery(page, found, names)


def tell(page: Page) -> Iterator[str]:
    """From which block on the prediction is read nearly whole."""
    yield _said(page.made(ENTRY))


def by_step(found: DenoiserLens) -> xarray.DataArray:
    """The first drawing: (layer, step)."""
    return found["far"].isel(picture=0).transpose("layer", "step")


def named(found: DenoiserLens) -> tuple[str, ...]:
    """What enters, and each block by its number."""
    return tuple("what enters" if layer < 0 else str(layer) for layer in found["layer"].values)


def _gallery(page: Page, found: DenoiserLens, names: tuple[str, ...]) -> Gallery:
    """What the drawing would become, a row of blocks for each step."""
    layers = sorted({round(at) for at in np.linspace(0, len(names) - 1, LEVELS)})
    places = [(step, layer) for step in range(found.data.sizes["step"]) for layer in layers]
    frames, far, random = (found[name] for name in ("forming", "far", "random"))
    captions = tuple(
        f"step {int(found['step'][step])}, {'block ' if layer else ''}{names[layer]}" for step, layer in places
    )
    return Gallery(
        title="What each block of the denoiser would draw", seen=_said(found), limits=_LIMITS,
        pictures=tuple(Picture.of(Image.fromarray(frames.values[at]), text)
                       for at, text in zip(places, captions, strict=True)),
        captions=captions, columns=("from the prediction, in its lengths", "of other patches"),
        cells=tuple((float(far[at][0]), float(random[at][0])) for at in places),
        provenance=origin(found), code=page.applied[ENTRY].look().code,
    )  # fmt: skip


def _texts(values: xarray.DataArray) -> tuple[str, ...]:
    return tuple(map(str, values.values))


def _said(found: DenoiserLens) -> str:
    far = by_step(found).mean("step").values
    random = found["random"].isel(picture=0).mean("step").values
    near = named(found)[int(np.flatnonzero(far > 0.5)[-1]) + 1] if (far > 0.5).any() else "what enters"
    return (
        f"What enters the first block reads {number(far[0])} lengths from what is predicted (states of other patches "
        f"{number(random[0])}); half a length or less is left {'of' if near == 'what enters' else 'from block'} {near}"
        f"{'' if near == 'what enters' else ' on'}, the mean over steps; the last block is the prediction."
    )
