"""Text explanations on a page. What heads vary with stands in the decomposition's table of heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.methods.text_explanation.splice import SparseTexts
from cutaway.views.kinds import Table
from cutaway.views.words import quoted, signed

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
