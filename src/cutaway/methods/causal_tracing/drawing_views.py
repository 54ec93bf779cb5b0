"""Tracing of a drawing on a page: which layers and which positions of the prompt bring back what was asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cutaway.methods.causal_tracing.drawing_tracing import Tracing
from cutaway.methods.causal_tracing.places import ALL
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Axis, Matrix
from cutaway.views.picture import Picture
from cutaway.views.words import number, quoted, signed

ENTRIES = {
    "tracing_prompt": "what the patches of a layer read of the prompt (the keys and values of its cross-attention)",
    "tracing_word": "what the text encoder holds behind a layer, at some positions of the prompt,",
}
FEW = 0.05  # of the gap
_LIMITS = (
    "It shows that a place is enough, not that it is the only one. A place that brings nothing back alone may be one "
    "of several that do together, so shares do not add up. It is one drawing from one noise."
)


def show(page: Page) -> Iterator[Matrix]:
    """A map for each kind of place."""
    for entry, what in ENTRIES.items():
        if entry in page.applied:
            yield _map(page, entry, what)


def tell(page: Page) -> Iterator[str]:
    """Which place brings back most."""
    for entry in ENTRIES:
        if entry in page.applied:
            yield told(page.made(entry))


def told(found: Tracing) -> str:
    """The single layer, at the single place, that brings back most, as a sentence."""
    mean = found["mean"].values.copy()
    for at, name in enumerate(found["layer"].values):
        for which, place in enumerate(found[found.axis].values):
            if (name in (ALL, "embed")) or (place == ALL and mean.shape[1] > 1):
                mean[at, which] = -np.inf
    layer, place = np.unravel_index(mean.argmax(), mean.shape)
    named = str(found[found.axis].values[place])
    where = "" if named == ALL else f" ({named})"
    if mean[layer, place] < FEW:
        return f"No single layer brings back more than {FEW:.0%} of what tells the two prompts apart."
    return (
        f"Of single layers, layer {found['layer'].values[layer]}{where} brings back most of what tells the two prompts "
        f"apart: {signed(mean[layer, place]):.1%}."
    )


def _map(page: Page, entry: str, what: str) -> Matrix:
    found, other = page.made(entry), page.question.counterpart
    here, there = (float(found[name][0]) for name in ("clean", "corrupted"))
    prompt, rival = quoted(page.question.text), quoted("" if other is None else other.text)
    unit = found.provenance.options["unit"]
    drawn = [Picture.of(one, alt) for one, alt in zip(
        found["drawn"].values, ("what was drawn", "the counterfactual drawing"), strict=True
    )] if "drawn" in found.data else [None, None]  # fmt: skip
    return Matrix(
        title="Tracing by layer" if entry == "tracing_prompt" else "Tracing by layer and position of the prompt",
        seen=f"While {rival} is drawn from the same noise, {what} is replaced by that of {prompt}. 100% brings back "
        f"all of the gap in the {unit} ({number(here)} here, {number(there)} there), 0% nothing. {told(found)}",
        limits=_LIMITS, pictures=(drawn[0], drawn[1]), sides=("Clean", "Counterfactual"),
        captions=(f"{prompt}: {number(here)}", f"{rival}: {number(there)}"),
        row_axis=Axis("layer", tuple(map(str, found["layer"].values))),
        column_axis=Axis(found.axis, tuple(map(str, found[found.axis].values))), values=found["mean"].values,
        unit="share of the gap that comes back", folded=True, provenance=origin(found),
        code=page.applied[entry].look().code,
    )  # fmt: skip
