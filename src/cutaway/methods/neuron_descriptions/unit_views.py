"""Profiles of units as a view: a table to search, and a page for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas
import xarray

from cutaway.data import Scene, render
from cutaway.data.description import description
from cutaway.methods.neuron_descriptions.unit_profiles import Profiles
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Axis, Phrase, View
from cutaway.views.picture import Picture
from cutaway.views.units import Context, Unit, Units
from cutaway.views.words import number

COLUMNS = ("correlation", "share of patches on", "mean when on", "largest")
AT_IMAGE = "share at patches, not words"
SCORES = {"cosine": "cosine", "auprc": "AUPRC", "f1": "F1, top 5 %", "iou": "IoU, top 5 %"}
LIMITS = (
    "What a unit is for. A description is the concept whose presence in a picture correlates most with the unit's "
    "largest activation there, of the concepts that these scenes have; units of a model before training have such "
    "descriptions too, since colours are in the pixels. What a unit writes is read through the end of "
    "the tower alone, and not what later layers make of it."
)


def shown(page: Page) -> Iterator[View]:
    """All units of the site."""
    made = page.applied["profiles"]
    yield replace(units_view(made.result, page.question.scenes or ()), code=made.look(table).code)


def table(found: Profiles) -> pandas.DataFrame:
    """A row a unit."""
    return found.table()


def units_view(found: Profiles, scenes: Sequence[Scene], title: str = "") -> Units:
    """Every unit that is ever on; `scenes` are those that were looked at."""
    data = found.data
    alive = np.flatnonzero(found.alive)
    some = data.isel(unit=alive)
    items = np.unique(some["item"].values)
    at = {int(item): place for place, item in enumerate(items)}
    units = tuple(_unit(some.isel(unit=place), at, float(data["bound"])) for place in range(len(alive)))
    named, site = sum(bool(one.name) for one in units), ", ".join(found.provenance.sites)
    maps = some["map"].values[some["value"].values > 0]
    steered = "effect" in some
    return Units(
        title=title or f"Units of {site}",
        seen=f"{len(alive)} of {data.sizes['unit']} units of {site} are on somewhere in "
        f"{found.provenance.options['scenes']} pictures{' or in texts' if 'token' in data else ''}. For {named} a "
        f"concept correlates with r above {number(float(data['bound']))}, which 1 in 100 reaches when pictures are "
        "shuffled.",
        limits=LIMITS,
        units=units, columns=(*COLUMNS, *((AT_IMAGE,) if "at_image" in data else ())), sorted="correlation",
        pictures=tuple(_picture(scenes[int(item)]) for item in items), maps=maps,
        bins=tuple(number(float(edge)) for edge in data["bin"].values), counts=some["counts"].values,
        points=Axis("times its largest", tuple(f"{point:g}" for point in data["point"].values)) if steered else None,
        curves=some["effect"].values if steered else None, chance=data["chance"].values if steered else None,
        effect=f"{data.attrs.get('reads', 'cosine')} of its first text, more than without" if steered else "",
        provenance=origin(found),
    )  # fmt: skip


def _unit(row: xarray.Dataset, at: dict[int, int], bound: float) -> Unit:
    r = float(row["correlation"])
    says = zip(row["text"].values, row["says"].values, strict=True) if "text" in row else ()
    near = zip(row["near"].values, row["cosine"].values, strict=True) if "near" in row else ()
    on = row["value"].values > 0
    return Unit(
        number=int(row["unit"]), name=str(row["concept"].values) if r > bound else "",
        numbers={
            "correlation": r, "share of patches on": float(row["density"]), "mean when on": float(row["mean"]),
            "largest": float(row["largest"]), **_scored(row),
            **({AT_IMAGE: float(row["at_image"])} if "at_image" in row else {}),
        },
        contexts=_contexts(row) if "token" in row else (),
        pictures=tuple(at[int(item)] for item in row["item"].values[on]),
        values=tuple(float(value) for value in row["value"].values[on]),
        writes=tuple(Phrase(str(text), None) for text, _ in says),
        near=tuple((int(other), float(cosine)) for other, cosine in near),
    )  # fmt: skip


def _scored(row: xarray.Dataset) -> dict[str, float]:
    """How well the description fits by the other valid similarities; the correlation is a column."""
    return {SCORES[name]: float(row["scores"].sel(score=name)) for name in map(str, row["score"].values)
            if name in SCORES}  # fmt: skip


def _contexts(row: xarray.Dataset) -> tuple[Context, ...]:
    parts = (row[name].values for name in ("before", "token", "after", "at_word"))
    return tuple(
        Context(str(before), str(token), str(after), float(value))
        for before, token, after, value in zip(*parts, strict=True) if value > 0
    )  # fmt: skip


def _picture(scene: Scene) -> Picture:
    return Picture.of(render(scene), description(scene).text)
