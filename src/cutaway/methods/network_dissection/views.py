"""Network dissection on a page: units beside shuffled ones, which concepts the best of them mark, and how alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
import xarray

from cutaway.methods.network_dissection.network_dissection import Dissection
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Axis, Curve, Line, Matrix, Table, View
from cutaway.views.words import number

LISTED, RANKS = 24, 21
CANNOT = (
    "What a unit does, or what else it answers to: its strongest patches alone are looked at, and a concept has to "
)
CANNOT += "have a mask here to be named."


def show(page: Page) -> Iterator[View]:
    """Units by their best concept beside the null, the best of them, and these against all their concepts."""
    made = page.made("dissection")
    if made is None:
        return
    yield _curve(page, made)
    yield _table(page, made)
    yield _matrix(page, made)


def _curve(page: Page, made: Dissection) -> Curve:
    look = page.applied["dissection"].look(ranked, ranks=RANKS)
    first = made.shares().iloc[0]
    return Curve(
        title="Units that mark a concept",
        seen=f"Of the units of {', '.join(made.provenance.sites)}, {first['labelled']:.0%} mark some concept with an "
        f"IoU above 0.04; of random directions {first['labelled_random']:.0%}, of units whose pictures are shuffled "
        f"{first['labelled_null']:.1%}. {first['beyond']:.0%} are above the 99th percentile of these, "
        f"{number(first['bound'])}.",
        limits=CANNOT, unit="IoU",
        x=Axis("quantile of units", tuple(f"{at:.2f}" for at in np.linspace(0, 1, RANKS))),
        lines=tuple(Line(name, look.value[name].values, baseline=name != "units") for name in look.value.data_vars),
        provenance=origin(made), code=look.code,
    )  # fmt: skip


def ranked(found: Dissection, ranks: int) -> xarray.Dataset:
    """The best IoU of units, of random directions and of units with shuffled pictures, from the lowest to the best."""
    at = np.linspace(0, 1, ranks)
    first = found.data.isel(share=0)
    return xarray.Dataset({
        "units": ("quantile", np.quantile(first["iou"].max("concept"), at)),
        "random directions": ("quantile", np.quantile(first["random"].max("kind_of"), at)),
        "pictures shuffled": ("quantile", np.quantile(first["null"].max("kind_of"), at)),
    })  # fmt: skip


def _table(page: Page, made: Dissection) -> Table:
    look = page.applied["dissection"].look(listed, count=LISTED)
    columns = ("unit", "concept", "kind", "iou", "labelled", "beyond")
    cells = tuple(tuple(_plain(row[name]) for name in columns) for row in look.value.to_dict("records"))
    first = look.value.iloc[0]
    return Table(
        title="The units that mark a concept best",
        seen=f"Unit {first['unit']} marks “{first['concept']}” best of all, with an IoU of "
        f"{number(float(first['iou']))}.",
        limits=CANNOT, columns=columns, cells=cells, provenance=origin(made), code=look.code, folded=True,
    )  # fmt: skip


def listed(found: Dissection, count: int) -> pandas.DataFrame:
    """The best units."""
    return found.best().head(count)


def _matrix(page: Page, made: Dissection) -> Matrix:
    look = page.applied["dissection"].look(against, count=LISTED)
    values: xarray.DataArray = look.value
    return Matrix(
        title="Units against concepts",
        seen=f"The {values.sizes['unit']} best units and the {values.sizes['concept']} concepts that name them.",
        limits=CANNOT, pictures=(None, None), sides=("units", "concepts"), captions=("", ""),
        row_axis=Axis("unit", tuple(map(str, values["unit"].values))),
        column_axis=Axis("concept", tuple(map(str, values["concept"].values))),
        values=values.values, unit="IoU", signed=False, provenance=origin(made), code=look.code, folded=True,
    )  # fmt: skip


def against(found: Dissection, count: int) -> xarray.DataArray:
    """The IoU of the best units with every concept that names one of them."""
    best = found.best().head(count)
    return found["iou"].isel(share=0).sel(unit=best["unit"].values, concept=best["concept"].unique())


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
