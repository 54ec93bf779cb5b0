"""A caption on a page: a word lights the patches, heads and features that wrote it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray

from cutaway.methods.feature_visualisation.caption_sources import CaptionSources
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.captions import WordMaps
from cutaway.views.kinds import Bar
from cutaway.views.words import number

HEADS = 6
CANNOT = (
    "What would be written without a part, but for the features: a map says what heads bring straight to the word, or "
    "follows a rule back to the picture; what an earlier word brings is of the picture as well."
)


def show(page: Page) -> Iterator[WordMaps]:
    """The caption, where it was looked at."""
    made = page.made("caption")
    if made is None:
        return
    look = page.applied["caption"].look(written)
    data = look.value
    words = tuple(map(str, data["text"].values))
    told = tuple(_told(data.isel(token=at)) for at in range(len(words)))
    bars = tuple(tuple(_bars(data.isel(token=at))) for at in range(len(words)))
    first = int(np.argmax(data["straight"].values))
    share = float(data["straight"].sum() / np.abs(data["number"]).sum())
    yield WordMaps(
        title="What wrote each word", picture=page.seen, words=words, told=told, shown=first,
        ways=tuple(map(str, data["way"].values)),
        values=data["patches"].transpose("token", "way", "row", "col").values, bars=bars, unit="logits",
        seen="Choose a word, also by arrow keys: the picture shows which patches speak for it (orange) or against it "
        f"(blue) beside the next likely word, the bars which heads{' and features' if 'feature' in data else ''} do. "
        "Straight: what heads carry from a patch to the word, an exact sum; any path: led back through all layers "
        f"(AttnLRP). Straight from patches comes {number(share)} of the difference, over all words.",
        limits=CANNOT, provenance=origin(made), code=look.code,
    )  # fmt: skip


def written(found: CaptionSources) -> xarray.Dataset:
    """What the view shows: the lines of this function are the code of the view."""
    return found.data


def _told(one: xarray.Dataset) -> str:
    return (
        f"Probability {float(one['probability']):.2f}; {number(float(one['number']))} logits above "
        f"“{one['rival'].item()}”, of which patches bring {number(float(one['straight']))} straight and all MLPs "
        f"{number(float(one['mlps']))}."
    )


def _bars(one: xarray.Dataset) -> Iterator[Bar]:
    """The heads that bring most, with their size for random words; the features."""
    heads, chance = one["heads"].values, one["heads_chance"].values
    for at in np.argsort(-np.abs(heads), axis=None)[:HEADS]:
        layer, head = np.unravel_index(at, heads.shape)
        size = number(float(chance[layer, head]))
        yield Bar(f"{layer}.{head} (random words {size})", "heads (layer.head)", float(heads[layer, head]))
    if "feature" in one:
        edge = float(np.nanmax(np.abs(one["others"].values))) if np.isfinite(one["others"].values).any() else 0.0
        for feature, effect in zip(one["feature"].values, one["effect"].values, strict=True):
            if np.isfinite(feature):
                yield Bar(f"{int(feature)} (others to {number(edge)})", "lost without the feature", float(effect))
