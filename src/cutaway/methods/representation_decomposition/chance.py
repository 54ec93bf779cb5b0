"""Beside chance: the main numbers of a page, the same of the counterfactual and before training, and what chance is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray

from cutaway.methods.representation_decomposition.direct import Direct
from cutaway.methods.representation_decomposition.representation_decomposition import Decomposition
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Table
from cutaway.views.words import inside, mass, signed

SHARE = "largest share of one ninth"
RANDOM = "random texts, one standard deviation"
EVEN = "even spread over the picture"
SIDES = ("this picture", "counterfactual", "before training")


def cosines(found: Decomposition, question: Any) -> xarray.DataArray:
    """The cosine of the picture with each of the question's texts."""
    return found.cosines(question.texts).isel(item=0)


def beside_chance(page: Page, sides: Mapping[str, Direct]) -> Table:
    """The main numbers beside the same of the untrained model, the counterfactual and chance."""
    own, floor, names = sides[SIDES[0]], sides.get(SIDES[2]), page.names
    rows: list[tuple[str, float | None, float | None, float | None, float | None, str]] = []

    def add(what: str, of: Any, chance: float, kind: str) -> None:
        here, there, before = (of(sides[side]) if side in sides else None for side in SIDES)
        rows.append((what, here, there, before, chance, kind))

    size = float(page.made("lens")["random"].values[-1])
    for at, label in enumerate(names.labels):
        add(f"cosine with {label}", lambda one, at=at: float(one.cosines[at]), size, RANDOM)
    if len(names) > 1:
        words = own.texts.directions(centre=False)
        add(names.aim, lambda one: one.question.value, size * float((words[0] - words[1]).norm()), RANDOM)
    add(SHARE, lambda one: mass(one.added.values)[1], 1 / 9, EVEN)
    for region, mask in page.question.truth.items():
        fair = float(own.added.sum()) * inside(own.added.values, mask)[1]
        add(f"added by the patches of {region}", lambda one, at=mask: inside(one.added.values, at)[0], fair, EVEN)
    for entry, what, numbers in (
        ("splice", "cosine of the sparse texts", ("cosine", "random")),
        ("head_texts", "mean fit of the heads' first texts", ("fit", "random_fit")),
    ):
        if (made := page.made(entry)) is not None:
            found, chance = (float(made[name].isel({made[name].dims[-1]: 0}).mean()) for name in numbers)
            rows.append((what, found, None, None, chance, "random directions as texts"))
    untold = (
        f" Before training it gave {signed(floor.question.value):+.3f}."
        if floor is not None
        else " No untrained twin of this model is known, so that column is empty."
    )
    return Table(
        title="Beside chance",
        seen=f"The model gives this picture {signed(page.question.value):+.3f} for {names.aim}.{untold} The main "
        "numbers of this page stand beside the same for the counterfactual picture, for the model before training, and "
        "for chance; the last column says which chance.",
        limits="Chance is a random direction or place, not a wrong but sensible text; for that, give the wrong text as "
        "a second --text. Random texts fall on both sides of zero, so their chance is a size, ±. One picture is one "
        "case: nothing here says how often the model behaves so.",
        columns=("number", *SIDES, "chance", "which chance"),
        folded=True, cells=tuple(rows), units=tuple("share" if row[0] == SHARE else "" for row in rows),
        code=page.applied["decomposition"].look(cosines).code,
        provenance=origin(own.parts),
    )  # fmt: skip
