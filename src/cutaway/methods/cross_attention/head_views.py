"""Head relevance vectors on a page: which heads look for which words."""

from __future__ import annotations

from collections.abc import Iterator

from xarray import DataArray

from cutaway.methods.cross_attention.head_relevance import HeadRelevance
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Axis, Matrix
from cutaway.views.words import number, quoted

ENTRY = "head_relevance"
_LIMITS = (
    "That a head draws what it looks for: weaken it to see. Each call has one word that comes first, however little it "
    "leads, and a word with larger keys comes first more often."
)


def show(page: Page) -> Iterator[Matrix]:
    """A map of words and heads."""
    found: HeadRelevance = page.made(ENTRY)
    look = page.applied[ENTRY].look(relevant)
    yield Matrix(
        title="Which heads look for which words",
        seen=_said(found),
        limits=_LIMITS,
        pictures=(None, None),
        sides=("Prompt", "Words"),
        captions=(quoted(page.question.text), ", ".join(map(str, found["concept"].values))),
        row_axis=Axis("word", tuple(map(str, found["concept"].values))),
        column_axis=Axis("head", tuple(map(str, found["head"].values))),
        values=look.value.values,
        unit="share of the calls of a head",
        signed=False,
        folded=True,
        provenance=origin(found),
        code=look.code,
    )


def tell(page: Page) -> Iterator[str]:
    """The head that looks for one word most often."""
    yield _said(page.made(ENTRY))


def relevant(found: HeadRelevance) -> DataArray:
    """The share of the calls of each head in which it looks most for each word."""
    return found["relevance"]


def _said(found: HeadRelevance) -> str:
    most = relevant(found).stack(both=("concept", "head"))
    best = most.isel(both=int(most.values.argmax()))
    steady = int((relevant(found).max("concept") >= 0.9).sum())
    return (
        f"{steady} of {found['head'].size} heads look most for the same word in nine of ten of their calls; head "
        f"{best['head'].item()} looks most for {quoted(str(best['concept'].item()))} in {number(float(best))} of its "
        f"calls ({number(float(found['even']))} if it preferred none)."
    )
