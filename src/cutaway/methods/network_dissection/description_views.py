"""Descriptions on a page: how well each describer's hold, beside other units' labels, and what they are."""

from __future__ import annotations

from collections.abc import Iterator

import pandas

from cutaway.methods.network_dissection.description_scores import DescriptionScores
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Table, View
from cutaway.views.words import number

CANNOT = "That the concept is what drives the unit; descriptions that are no concept of these scenes."


def shown(page: Page) -> Iterator[View]:
    """The describers side by side, and the labels of each unit."""
    made = page.made("descriptions")
    if made is None:
        return
    yield _table(page, made)
    yield _labels(page, made)


def _table(page: Page, made: DescriptionScores) -> Table:
    look = page.applied["descriptions"].look(held)
    best = look.value.sort_values("pearson", ascending=False).iloc[0]
    return Table(
        title="How well descriptions hold",
        seen=f"On pictures that no describer saw, descriptions by {best['describer']} correlate with their units by "
        f"{number(best['pearson'])}, labels of other units by {number(best['pearson, others'])}; the mean over "
        f"{made.data.sizes['unit']} units of {', '.join(made.provenance.sites)}.",
        limits=CANNOT, columns=tuple(map(str, look.value.columns)),
        cells=tuple(tuple(row) for row in look.value.round(3).itertuples(index=False)),
        provenance=origin(made), code=look.code,
    )  # fmt: skip


def _labels(page: Page, made: DescriptionScores) -> Table:
    look = page.applied["descriptions"].look(labelled)
    return Table(
        title="What units are called",
        seen="Each unit by each describer, with the correlation on pictures kept apart.",
        limits=CANNOT, columns=tuple(map(str, look.value.columns)),
        cells=tuple(tuple(row) for row in look.value.itertuples(index=False)),
        provenance=origin(made), code=look.code, folded=True,
    )  # fmt: skip


def held(found: DescriptionScores) -> pandas.DataFrame:
    """A row a describer."""
    return found.table()


def labelled(found: DescriptionScores) -> pandas.DataFrame:
    """A row a unit: its label by each describer, and how it correlates."""
    table = pandas.DataFrame({"unit": found["unit"].values})
    for name in found["describer"].values:
        one = found.data.sel(describer=name)
        table[str(name)] = one["label"].values
        table[f"{name}, r"] = one["score"].sel(similarity="pearson").values.round(2)
    return table
