"""Text explanations on a page. What heads vary with stands in the decomposition's table of heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas

from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.methods.text_explanation.concept_dictionary import ConceptDictionary
from cutaway.methods.text_explanation.splice import SparseTexts
from cutaway.views.kinds import Table
from cutaway.views.words import number, quoted, signed

NEAREST = 12


def sparse(page: Page) -> Iterator[Table]:
    """The embedding as a few texts."""
    made, bank = page.made("splice"), page.question.bank
    if made is None or bank is None:
        return
    look = page.applied["splice"].look(heaviest, count=NEAREST)
    cells = tuple((str(r["text"]), str(r["topic"]), float(r["weight"])) for r in look.value.to_dict("records"))
    cosine, chance, used = (float(made[name].values[0]) for name in ("cosine", "random", "used"))
    named = ", ".join(quoted(text) for text, _, _ in cells[:3]) or "nothing"
    yield Table(
        title="The embedding as a few texts",
        seen=f"{used:.0f} of {len(bank)} texts rebuild the picture's embedding, less the mean of many pictures, with a "
        f"cosine of {signed(cosine):+.3f}; the heaviest are {named}. As many random directions in place of the texts "
        f"reach {signed(chance):+.3f}.",
        limits="A description, not an effect on the output. It can use no word that the bank lacks, and picks "
        "neighbours for what it has no word for. Where random directions do nearly as well, the words carry little.",
        columns=("text", "topic", "weight"), cells=cells, folded=True, provenance=origin(made),
        code=look.code,
    )  # fmt: skip


def heaviest(found: SparseTexts, count: int) -> Any:
    """The texts with the largest weights."""
    return found.top(count=count)


def concepts(page: Page) -> Iterator[Table]:
    """The concepts of the states, in words, and how the learners compare."""
    made = page.made("concepts")
    if made is None:
        return
    applied, where = page.applied["concepts"], ", ".join(made.provenance.sites)
    learners, found = applied.look(learned), applied.look(frequent, count=NEAREST)
    own, other = learners.value.iloc[0], learners.value.iloc[-1]
    many, share = len(made["concept"]), number(own["explained"])
    seen = (
        f"{many} concepts explain {share} of what varies in {where}, on pictures that "
        f"nothing was learned on; states drawn as they are {number(other['explained'])}."
    )
    if "named" in made.data:
        seen += (
            f" In {number(own['named'])} of these pictures a word of the strongest concept names something that is "
            f"shown; of another concept in {number(own['named_random'])}."
        )
    limits = "That the model uses a concept; one that no word names. Other numbers of concepts and seeds give others."
    yield Table(
        title="States as a few concepts", seen=seen, limits=limits, columns=tuple(map(str, found.value.columns)),
        cells=tuple(tuple(row) for row in found.value.round(3).itertuples(index=False)), folded=True,
        provenance=origin(made), code=found.code,
    )  # fmt: skip
    yield Table(
        title="Concepts by other learners", seen="Semi-NMF beside principal components, k-means and single states.",
        limits=limits, columns=tuple(map(str, learners.value.columns)),
        cells=tuple(tuple(row) for row in learners.value.round(3).itertuples(index=False)), folded=True,
        provenance=origin(made), code=learners.code,
    )  # fmt: skip


def learned(found: ConceptDictionary) -> pandas.DataFrame:
    """A row a learner."""
    return found.table()


def frequent(found: ConceptDictionary, count: int) -> pandas.DataFrame:
    """The concepts that most rows have."""
    return found.concepts().head(count)
