"""The lens on the page: what each patch and each layer says, and where that contradicts what the patches add."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from cutaway.report.battery import Battery, Measured
from cutaway.report.sections import PATCHES, aimed, chances, origin
from cutaway.report.snippets import Snippets
from cutaway.report.words import aim, alone, labels, name, number, onward, signed
from cutaway.views.kinds import Axis as Side
from cutaway.views.kinds import Curve, Lens, Line, Overlay
from cutaway.views.picture import Picture

STRONG = 0.5  # patches that add at least this share of the largest are those that count


def conflict(found: Battery, read: ndarray) -> str:
    """What to know before a map of the first text, (row, col), that says the opposite of what the patches add."""
    added = aimed(found.own)
    strong = added >= STRONG * added.max()
    against = int((strong & (read < 0)).sum())
    if added.max() <= 0 or 2 * against < strong.sum():
        return ""
    which = "the patch that adds" if strong.sum() == 1 else f"the {strong.sum()} patches that add"
    beyond = "is" if strong.sum() == 1 else f"{against} are"
    return (
        f"This map contradicts “{PATCHES}”: of {which} most to {aim(found)}, {beyond} below zero here. Both are right "
        "about different things. That map counts what the model uses, and is part of an exact sum; this one asks how "
        "well a patch, read alone, would fit the text, which the model never does. For what the model relies on, trust "
        "that one. So that they are not mixed up, this one is violet and green."
    )


def last_layer(found: Battery, picture: Picture, code: Snippets) -> Overlay:
    """What each patch says at the last layer, centred where there are other pictures."""
    lens, centred = found.centred or found.own.lens, found.centred is not None
    values = lens["patch"].isel(picture=0, layer=-1).transpose("text", "row", "col").values
    row, col = np.unravel_index(values[0].argmax(), values[0].shape)
    how = f"Each patch is read {alone(found.own)}"
    how += f", less the mean over {lens.data.sizes['picture']} pictures," if centred else ""
    how += f" and compared with each text{' less the mean of the texts' if centred else ''}."
    chance = float(lens["random"].values[-1])
    return Overlay(
        title="What each patch says at the last layer",
        seen=f"{how} {name(found, 0)} fits best at row {row}, column {col} (cosine {signed(values[0].max()):+.3f}); a "
        f"random direction fits a patch at ±{chance:.3f}. {(values[0] > 2 * chance).mean():.1%} of the patches fit it "
        "more than twice as well.",
        limits=f"The model never reads patches this way: {onward(found.own)} on. A low number does not mean that a "
        "patch knows nothing of the text, only that the output's own words do not say so. "
        f"“{PATCHES}” adds up to the output; where the two differ, trust that one.",
        warning=conflict(found, values[0]), folded=True, palette="reads", picture=picture, texts=labels(found),
        values=values, unit="cosine", signed=True, code=code.last_layer(centred), provenance=origin(lens),
    )  # fmt: skip


def by_layer(found: Battery, picture: Picture, code: Snippets) -> Lens:
    """Every layer and patch against every text, with the curve of what reads them."""
    lens = found.own.lens
    pooled = lens["pooled"].isel(picture=0).transpose("text", "layer").values
    values = lens["patch"].isel(picture=0).transpose("text", "layer", "row", "col").values
    names = _layers(found)
    first = int(np.argmax(pooled[0] >= 0.9 * pooled[0, -1])) if pooled[0, -1] > 0 else len(names) - 1
    return Lens(
        title="Layer by layer",
        seen=f"Read after each layer, the {found.own.reader}'s cosine with {name(found, 0)} goes from "
        f"{signed(pooled[0, 0]):+.3f} at the input to {signed(pooled[0, -1]):+.3f} at the end, which is the model's "
        "own number. It first has nine tenths of that at "
        f"{'the input' if names[first] == 'input' else f'layer {names[first]}'}.",
        limits="The final norm and projection were trained for the last layer and "
        f"{'for all patches' if found.own.all_read else f'the {found.own.reader} alone'}. In between, low means that "
        "the state is not yet in the output's own words, not that the model does not know. Pictures and texts also lie "
        "in two cones, so compare texts and layers rather than trust a single cosine.",
        warning=conflict(found, values[0, -1]), folded=True, picture=picture, texts=labels(found), layers=names,
        unit="cosine", pooled=pooled, code=code.lens(), values=values, signed=True, reader=found.own.reader,
        provenance=origin(lens),
    )  # fmt: skip


def growth(found: Battery, code: Snippets) -> Curve:
    """The number that is explained at each layer, beside the untrained model and chance."""
    lens, own = found.own.lens, _line(found.own)
    lines = [Line("this picture", own)]
    if found.other is not None:
        lines.append(Line("the counterfactual", _line(found.other)))
    if found.floor is not None:
        lines.append(Line("before training", _line(found.floor), baseline=True))
    chance = chances(found)
    lines.append(Line("random texts (band)", np.zeros_like(chance), -chance, chance, baseline=True))
    step = int(np.abs(np.diff(own)).argmax())
    return Curve(
        title="Where the answer appears",
        seen=f"For {aim(found)}, {number(found)} changes most at layer {step} (by "
        f"{signed(own[step + 1] - own[step]):+.3f}) and ends at {signed(own[-1]):+.3f}. The grey band is what random "
        "texts give, one standard deviation.",
        limits="The curve is read through the model's last norm and projection at every layer. A step says that the "
        "answer turned into the output's words there, not that it was worked out there.",
        x=Side("layer", _layers(found)), lines=tuple(lines), unit="cosine", code=code.growth(),
        provenance=origin(lens), folded=True,
    )  # fmt: skip


def _layers(found: Battery) -> tuple[str, ...]:
    return tuple("input" if layer < 0 else str(layer) for layer in found.own.lens["layer"].values)


def _line(measured: Measured) -> ndarray:
    pooled = measured.lens["pooled"].isel(picture=0).transpose("text", "layer").values
    return np.asarray(pooled[0] - pooled[1] if len(pooled) > 1 else pooled[0])
