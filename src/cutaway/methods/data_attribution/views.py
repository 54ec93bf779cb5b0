"""Training items on a page: those that help most, those that harm most, and how all scores lie beside chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray
from numpy import ndarray
from PIL.Image import Image

from cutaway.methods.data_attribution.data_attribution import DataAttribution
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.films import Gallery
from cutaway.views.kinds import Axis, Curve, Line, View
from cutaway.views.picture import Picture
from cutaway.views.words import number

ENTRY = "data_attribution"
MANY, BINS = 8, 24
CANNOT = (
    "What a training without these items would give: scores are of first order, at the weights as they are. Items that "
    "were not looked at may matter more."
)


def show(page: Page) -> Iterator[View]:
    """Proponents, opponents, and the histogram of all scores."""
    found: DataAttribution | None = page.made(ENTRY)
    if found is None:
        return
    yield _gallery(page, found, "Training items that help most", helping)
    yield _gallery(page, found, "Training items that harm most", harming)
    yield _histogram(page, found)


def tell(page: Page) -> Iterator[str]:
    """Which item helps most."""
    yield _said(page.made(ENTRY))


def helping(found: DataAttribution) -> xarray.Dataset:
    """The items of the highest scores."""
    return found.data[["scores", "loss", "caption"]].isel(query=0, item=found.proponents(k=MANY))


def harming(found: DataAttribution) -> xarray.Dataset:
    """The items of the lowest scores."""
    return found.data[["scores", "loss", "caption"]].isel(query=0, item=found.opponents(k=MANY))


def counted(found: DataAttribution) -> xarray.DataArray:
    """How many items have a score in each of some bins, from the lowest score to the highest."""
    counts, edges = np.histogram(found["scores"].values[0], BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    return xarray.DataArray(counts, dims="score", coords={"score": middles})


def normal(values: ndarray, bins: ndarray) -> ndarray:
    """How many items a normal distribution of the same mean and spread would have around each of these scores."""
    spread = max(float(values.std()), np.finfo(float).tiny)
    height = np.exp(-(((bins - values.mean()) / spread) ** 2) / 2)
    return np.asarray(len(values) * height / max(height.sum(), 1e-12))


def _gallery(page: Page, found: DataAttribution, title: str, which: object) -> Gallery:
    look = page.applied[ENTRY].look(which)  # type: ignore[arg-type]
    training = page.question.training
    assert training is not None
    shown = [training.shown(int(item)) for item in look.value["item"].values]
    drawn = [(picture, words) for picture, words in shown if picture is not None]
    columns = ("score", "loss of the item")
    cells = np.stack([look.value["scores"].values, look.value["loss"].values], 1)
    kept = [row for row, (picture, _) in zip(cells, shown, strict=True) if picture is not None]
    return Gallery(
        title=title, seen=_said(found), limits=CANNOT,
        pictures=tuple(_small(picture, words) for picture, words in drawn), captions=tuple(words for _, words in drawn),
        columns=columns, cells=tuple(tuple(None if np.isnan(one) else float(one) for one in row) for row in kept),
        provenance=origin(found), code=look.code,
    )  # fmt: skip


def _small(picture: Image, words: str) -> Picture:
    return Picture.of(picture, f"a training item: {words}", longest=192)


def _histogram(page: Page, found: DataAttribution) -> Curve:
    look = page.applied[ENTRY].look(counted)
    values, bins = found["scores"].values[0], look.value["score"].values
    return Curve(
        title="How the scores of all training items lie",
        seen=f"Of {values.size} items {int((values > 0).sum())} have a score above 0. The highest is "
        f"{number(_far(values, values.max()))} standard deviations from the mean, the lowest "
        f"{number(_far(values, values.min()))}.",
        limits=CANNOT, unit="items", x=Axis("score", tuple(number(float(one)) for one in bins)),
        lines=(Line("items", look.value.values), Line("a normal distribution", normal(values, bins), baseline=True)),
        provenance=origin(found), code=look.code,
    )  # fmt: skip


def _far(values: ndarray, one: float) -> float:
    return float((one - values.mean()) / max(float(values.std()), np.finfo(float).tiny))


def _said(found: DataAttribution) -> str:
    best, worst = found.proponents(k=1)[0], found.opponents(k=1)[0]
    captions, values = found["caption"].values, found["scores"].values[0]
    return (
        f"Of {values.size} training items “{captions[best]}” helps most ({number(float(values[best]))}), and "
        f"“{captions[worst]}” harms most ({number(float(values[worst]))}), by {found.provenance.options['by']}."
        f"{_foretold(found)}"
    )


def _foretold(found: DataAttribution) -> str:
    """How far the scores foretell models that were trained on some of the items; "" where nobody trained them."""
    if "lds" not in found.data:
        return ""
    mine, chance = (number(float(found[name].values[0])) for name in ("lds", "lds_random"))
    return (
        f" LDS {mine}: how far the scores order models trained on some of the items ({chance} in an order by chance)."
    )
