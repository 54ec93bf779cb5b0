"""What features do to an answer, as views: how much each counts for, and where they are on in the picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas
from xarray import Dataset

from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.methods.sparse_autoencoders.feature_effects import FeatureEffects
from cutaway.views.kinds import Overlay, Table, View
from cutaway.views.words import number, signed

LIMITS = (
    "What a feature stands for; whether the dictionary cuts the model where the model does. What features leave over "
    "may carry the answer: how much stands above. Features that stand in for one another each seem to count for little."
)


def show(page: Page) -> Iterator[View]:
    """The features that count most, beside others that are on; where they are on, on a picture."""
    found: FeatureEffects = page.made("features")
    look = page.applied["features"].look(counted)
    site, others = found.provenance.sites[0], np.abs(found["random"].values)
    edge = f"{number(float(np.quantile(others, 0.95)))}" if others.size else "nothing"
    table = look.value
    rows: list[tuple[str | float | int, ...]] = [
        (int(row["feature"]), row["effect"], row["attribution"], row["activation"], int(row["on"]))
        for row in table.to_dict("records")
    ]
    yield Table(
        title="Which features it depends on",
        seen=f"What {page.number} loses without a feature of {site}, exactly. 95 % of {others.size} others that "
        f"are on move it by less than {edge}. {found.note()}",
        limits=LIMITS, columns=("feature", "lost without it", "first order", "largest activation", "places"),
        cells=tuple(rows), provenance=origin(found), code=look.code,
    )  # fmt: skip
    yield from _where(page, found, site)


def tell(page: Page) -> Iterator[str]:
    """The feature that counts most."""
    found: FeatureEffects = page.made("features")
    at = int(np.abs(found["effect"].values).argmax())
    yield (
        f"Of {found.provenance.sites[0]} feature {int(found['number'].values[at])} counts most: without it "
        f"{page.number} changes by {signed(-float(found['effect'].values[at]))}."
    )


def counted(found: FeatureEffects) -> pandas.DataFrame:
    """The features taken out, in the order of their first-order effect."""
    return found.summary()


def _where(page: Page, found: FeatureEffects, site: str) -> Iterator[View]:
    """The activations of the features over the picture, where their places are patches of one."""
    inputs, picture = page.question.inputs, page.picture
    if inputs is None or picture is None or not page.question.pictures:
        return
    here = page.question.model.sites.one(site)
    places = found["place"]
    known = inputs.map_for(here, "token", places.sizes["token"])
    if not (known.row[0] >= 0).any() or len(known) != places.sizes["token"]:
        return
    rows, cols = int(known.row[0].max()) + 1, int(known.col[0].max()) + 1
    maps = np.full((places.sizes["top"], rows, cols), np.nan, np.float32)
    inside = np.flatnonzero((known.row[0] >= 0) & (known.image[0] == 0))
    maps[:, known.row[0][inside], known.col[0][inside]] = places.values[:, inside]
    numbers, effects = found["number"].values, found["effect"].values
    yield Overlay(
        title="Where these features are on",
        seen=f"The activations of the {len(numbers)} features of {site} that count most, over the picture.",
        limits="Whether the answer depends on them there: a feature may be on where nothing reads it.",
        picture=picture,
        texts=tuple(f"feature {int(n)} ({number(float(e))})" for n, e in zip(numbers, effects, strict=True)),
        values=maps, unit="activation", shown=int(np.nansum(maps, (1, 2)).argmax()), provenance=origin(found),
        code=page.applied["features"].look(placed).code,
    )  # fmt: skip


def placed(found: FeatureEffects) -> Dataset:
    """Where the features are on."""
    return found.data[["number", "place"]]
