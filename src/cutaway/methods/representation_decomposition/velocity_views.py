"""What a denoiser predicts on a page: what its words bring to each patch, the sum by layer, and the heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray
from PIL import Image

from cutaway.methods.representation_decomposition.velocity_decomposition import VelocityDecomposition
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Bar, Bars, Head, HeadTable, Overlay, View
from cutaway.views.picture import Picture
from cutaway.views.words import adding_up, quoted, signed

ENTRY = "velocity"
_LIMITS = (
    "These are direct effects, with norms, gates and patterns held: a layer that prepares what a later one writes "
    "shows up as nothing, and what words do to one another in the text's own stream never shows."
)


def show(page: Page) -> Iterator[View]:
    """The map of each word, the sum, and the heads."""
    found = page.made(ENTRY)
    yield overlay(page, found)
    yield bars(page, found)
    yield heads(page, found)


def tell(page: Page) -> Iterator[str]:
    """How long what guidance adds is, where it comes from, and which head writes most of it."""
    found = page.made(ENTRY)
    yield _said(found) + page.before(ENTRY, _said)


def overlay(page: Page, found: VelocityDecomposition) -> Overlay:
    """What each word of the first prompt brings to each patch through all heads."""
    look = page.applied[ENTRY].look(by_word)
    maps = look.value.transpose("place", "row", "col").values
    texts = tuple(str(word) for word in found["word"].values[0] if word)
    most = int(np.abs(maps).sum((1, 2)).argmax())
    return Overlay(
        title=f"What each word adds to what is predicted, {along(found)}",
        seen=f"{_said(found)}{page.before(ENTRY, _said)} The word that adds most, patches taken together without "
        f"their sign, is {quoted(texts[most])}.",
        limits=f"{_LIMITS} The text model reads from left to right, so that later words and the end hold earlier ones.",
        picture=Picture.of(Image.fromarray(found["drawn"].values[0]), "what was drawn"), texts=texts,
        values=maps[: len(texts)], unit="latent units", signed=True, caption=True, shown=most,
        provenance=origin(found), code=look.code,
    )  # fmt: skip


def bars(page: Page, found: VelocityDecomposition) -> Bars:
    """The mean over patches as a sum: what enters, heads by layer, MLPs, constants."""
    look = page.applied[ENTRY].look(by_layer)
    data, total = look.value
    made = [Bar("what enters the first block", "embedding", float(data["embed"]))]
    for name, title, group in (("heads", "heads of layer", "heads"), ("mlps", "MLP of layer", "MLPs")):
        made += [Bar(f"{title} {layer}", group, float(value)) for layer, value in enumerate(data[name].values)]
    constants = {"biases of the attention": data["biases"].sum(), "constants of the end": data["constant"]}
    made += [Bar(label, "constants", float(value)) for label, value in constants.items()]
    made.append(Bar("not in the sum", "rest", float(data["rest"])))
    return Bars(
        title=f"What adds up to what is predicted, {along(found)}", seen=adding_up(made, total), limits=_LIMITS,
        bars=tuple(made), unit="latent units", total=total, provenance=origin(found), code=look.code,
    )  # fmt: skip


def heads(page: Page, found: VelocityDecomposition) -> HeadTable:
    """What each head writes, and what the same is along the directions of other patches."""
    look = page.applied[ENTRY].look(by_head)
    wrote, chance, source = look.value
    total = float(found.pushed().isel(picture=0).mean())
    rows = [
        Head(layer, head, float(value), float(value) / total if total else None, extra={
            "other patches": float(chance[layer, head]), "from words": float(source[layer, head, 0]),
            "from other text": float(source[layer, head, 1]), "from patches": float(source[layer, head, 2]),
        })
        for (layer, head), value in np.ndenumerate(wrote.values)
    ]  # fmt: skip
    layer, head = np.unravel_index(np.abs(wrote.values).argmax(), wrote.shape)
    above = int((np.abs(wrote.values) > 2 * chance.values).sum())
    return HeadTable(
        title=f"Heads, {along(found)}",
        seen=f"What each head adds directly, the mean over patches. Layer {layer}, head {head} adds most: "
        f"{signed(float(wrote[layer, head])):+.3f} of {signed(total):+.3f}. {above} of {wrote.size} heads add more "
        "than twice what they add along the directions of other patches of the same picture (root mean square).",
        limits=f"{_LIMITS} A head that adds as much along the directions of other patches writes the same everywhere.",
        heads=tuple(rows), effect="direct effect", direct="share of all", provenance=origin(found), code=look.code,
    )  # fmt: skip


def by_word(found: VelocityDecomposition) -> xarray.DataArray:
    """What each word of the first prompt brings to each patch, the mean over steps."""
    return found.pushed("words").isel(picture=0).mean("step")


def by_layer(found: VelocityDecomposition) -> tuple[Any, float]:
    """Every kind of term by layer, the mean over patches and steps of the first picture, and what they add up to."""
    names = ("embed", "heads", "biases", "mlps", "constant", "rest")
    first = {name: found.pushed(name).isel(picture=0).mean(("step", "row", "col")) for name in names}
    first["heads"] = first["heads"].sum("head")
    return xarray.Dataset(first), float(found.pushed().isel(picture=0).mean())


def by_head(found: VelocityDecomposition) -> tuple[Any, Any, Any]:
    """What each head writes, the same along other patches, and what it brings from where; of the first picture."""
    wrote = found.pushed("heads").isel(picture=0).mean(("step", "row", "col"))
    chance = (found.pushed("heads_chance").isel(picture=0).mean("step") ** 2).mean("draw") ** 0.5
    source = found.pushed("sources").isel(picture=0).mean(("step", "row", "col"))
    return wrote, chance, source


def along(found: VelocityDecomposition) -> str:
    """Which direction it is, in words."""
    return str(found.provenance.options["along"])


def _said(found: VelocityDecomposition) -> str:
    total = float(found.pushed().isel(picture=0).mean())
    brought = found.pushed("sources").isel(picture=0).sum(("layer", "head")).mean(("step", "row", "col"))
    wrote = found.pushed("heads").isel(picture=0).mean(("step", "row", "col"))
    layer, head = np.unravel_index(np.abs(wrote.values).argmax(), wrote.shape)
    from_words, from_text, from_patches = (f"{signed(float(value)):+.3f}" for value in brought.values)
    return (
        f"A patch's prediction, {along(found)}, is {signed(total):+.3f} latent units long on average; heads bring "
        f"{from_words} of it directly from words, {from_text} from the rest of the text and {from_patches} from "
        f"patches. Layer {layer}, head {head} writes most of any head ({signed(float(wrote[layer, head])):+.3f})."
    )
