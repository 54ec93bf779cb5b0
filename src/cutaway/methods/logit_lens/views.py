"""The lens on a page: what each patch and each layer says, and where that contradicts what the patches add."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray
from numpy import ndarray

from cutaway.methods.logit_lens.logit_lens import Lens
from cutaway.methods.representation_decomposition.views import PATCHES, direct
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.model.weights import readout
from cutaway.questions.question import Question
from cutaway.views import kinds
from cutaway.views.words import signed

STRONG = 0.5  # patches that add at least this share of the largest are those that count


def show(page: Page) -> Iterator[kinds.View]:
    """The number by layer, all layers and patches, and the last layer, centred where there are other pictures."""
    yield growth(page)
    yield by_layer(page)
    yield last_layer(page)


def conflict(page: Page, read: ndarray) -> str:
    """What to know before a map of the first text, (row, col), that says the opposite of what the patches add."""
    own = direct(page)
    if own is None:
        return ""
    added = own.added.values
    strong = added >= STRONG * added.max()
    against = int((strong & (read < 0)).sum())
    if added.max() <= 0 or 2 * against < strong.sum():
        return ""
    which = "the patch that adds" if strong.sum() == 1 else f"the {strong.sum()} patches that add"
    beyond = "is" if strong.sum() == 1 else f"{against} are"
    return (
        f"This map contradicts “{PATCHES}”: of {which} most to {page.names.aim}, {beyond} below zero here. Both are "
        "right about different things. That map counts what the model uses, and is part of an exact sum; this one asks "
        "how well a patch, read alone, would fit the text, which the model never does. For what the model relies on, "
        "trust that one. So that they are not mixed up, this one is violet and green."
    )


def last_layer(page: Page) -> kinds.Overlay:
    """What each patch says at the last layer, centred where there are other pictures."""
    entry = "lens_centred" if "lens_centred" in page.applied else "lens"
    lens, centred, name = page.made(entry), entry == "lens_centred", page.names[0]
    look = page.applied[entry].look(patches)
    values = look.value.isel(layer=-1).values
    row, col = np.unravel_index(values[0].argmax(), values[0].shape)
    reader, all_read = _end(page)
    how = f"Each patch is read as if it were {'alone' if all_read else f'the {reader}'}"
    how += f", less the mean over {lens.data.sizes['picture']} pictures," if centred else ""
    how += f" and compared with each text{' less the mean of the texts' if centred else ''}."
    onward = "all patches together go" if all_read else f"only the {reader} goes"
    chance = float(lens["random"].values[-1])
    return kinds.Overlay(
        title="What each patch says at the last layer",
        seen=f"{how} {name} fits best at row {row}, column {col} (cosine {signed(values[0].max()):+.3f}); a "
        f"random direction fits a patch at ±{chance:.3f}. {(values[0] > 2 * chance).mean():.1%} of the patches fit it "
        "more than twice as well.",
        limits=f"The model never reads patches this way: {onward} on. A low number does not mean that a "
        "patch knows nothing of the text, only that the output's own words do not say so. "
        f"“{PATCHES}” adds up to the output; where the two differ, trust that one.",
        warning=conflict(page, values[0]), folded=True, palette="reads", picture=page.seen, texts=page.names.labels,
        values=values, unit="cosine", signed=True, provenance=origin(lens),
        code=look.code,
    )  # fmt: skip


def by_layer(page: Page) -> kinds.Lens:
    """Every layer and patch against every text, with the curve of what reads them."""
    lens, (reader, all_read) = page.made("lens"), _end(page)
    look = page.applied["lens"].look(read)
    pooled, values = (part.values for part in look.value)
    layers = _layers(lens)
    first = int(np.argmax(pooled[0] >= 0.9 * pooled[0, -1])) if pooled[0, -1] > 0 else len(layers) - 1
    return kinds.Lens(
        title="Layer by layer",
        seen=f"Read after each layer, the {reader}'s cosine with {page.names[0]} goes from "
        f"{signed(pooled[0, 0]):+.3f} at the input to {signed(pooled[0, -1]):+.3f} at the end, which is the model's "
        "own number. It first has nine tenths of that at "
        f"{'the input' if layers[first] == 'input' else f'layer {layers[first]}'}.",
        limits="The final norm and projection were trained for the last layer and "
        f"{'for all patches' if all_read else f'the {reader} alone'}. In between, low means that "
        "the state is not yet in the output's own words, not that the model does not know. Pictures and texts also lie "
        "in two cones, so compare texts and layers rather than trust a single cosine.",
        warning=conflict(page, values[0, -1]), folded=True, picture=page.seen, texts=page.names.labels, layers=layers,
        unit="cosine", pooled=pooled, values=values, signed=True, reader=reader, provenance=origin(lens),
        code=look.code,
    )  # fmt: skip


def growth(page: Page) -> kinds.Curve:
    """The number that is explained at each layer, beside the untrained model and chance."""
    lens, own = page.made("lens"), _line(page)
    lines = [
        kinds.Line(name.replace("counterfactual", "the counterfactual"), _line(side), baseline=side is page.floor)
        for name, side in page.beside.items() if "lens" in side.applied
    ]  # fmt: skip
    chance = _chance(page)
    lines.append(kinds.Line("random texts (band)", np.zeros_like(chance), -chance, chance, baseline=True))
    step = int(np.abs(np.diff(own)).argmax())
    return kinds.Curve(
        title="Where the answer appears",
        seen=f"For {page.names.aim}, {page.number} changes most at layer {step} (by "
        f"{signed(own[step + 1] - own[step]):+.3f}) and ends at {signed(own[-1]):+.3f}. The grey band is what random "
        "texts give, one standard deviation.",
        limits="The curve is read through the model's last norm and projection at every layer. A step says that the "
        "answer turned into the output's words there, not that it was worked out there.",
        x=kinds.Axis("layer", _layers(lens)), lines=tuple(lines), unit="cosine", provenance=origin(lens), folded=True,
        code=page.applied["lens"].look(at_the_end).code,
    )  # fmt: skip


def patches(found: Lens) -> xarray.DataArray:
    """What each patch says of each text after each layer."""
    return found["patch"].isel(picture=0).transpose("layer", "text", "row", "col")


def read(found: Lens) -> tuple[xarray.DataArray, xarray.DataArray]:
    """What reads the patches, and the patches themselves, against each text after each layer."""
    pooled = found["pooled"].isel(picture=0).transpose("text", "layer")
    return pooled, found["patch"].isel(picture=0).transpose("text", "layer", "row", "col")


def at_the_end(found: Lens, question: Question) -> xarray.DataArray:
    """The number by layer, as the lens reads it."""
    return question.aimed(found["pooled"].isel(picture=0))


def _end(page: Page) -> tuple[str, bool]:
    """What reads the tower at its end, and whether it reads all patches."""
    end = readout(page.question.model, "vision")
    return end.reader, end.at == "pool"


def _layers(lens: Lens) -> tuple[str, ...]:
    return tuple("input" if layer < 0 else str(layer) for layer in lens["layer"].values)


def _line(page: Page) -> ndarray:
    """The number by layer, as the lens reads it."""
    return np.asarray(page.applied["lens"].look(at_the_end).value.values)


def _chance(page: Page) -> ndarray:
    """What random texts give for the number that is explained, one standard deviation, at each layer."""
    texts = page.question.texts
    words = None if texts is None else texts.directions(centre=False)
    length = 1.0 if words is None or len(words) < 2 else float((words[0] - words[1]).norm())
    return np.asarray(page.made("lens")["random"].values * length)
