"""Patching on a page: what each place brings back when it is carried from one input to the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import xarray
from numpy import ndarray

from cutaway.data import Scene, render
from cutaway.methods.causal_tracing.activation_patching import Patching, activation_patching
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.model.sites import Site
from cutaway.model.tokens import TokenMap
from cutaway.questions.question import Question
from cutaway.views.kinds import Axis, Matrix
from cutaway.views.words import quoted, signed

UNIT = "share of the gap that comes back"
STRANGERS = 3  # pictures of the crowd from which heads are patched too
_LIMITS = (
    "It shows that a place is enough to bring the answer back, not that it is the only one. The patched state is one "
    "that the model never saw together with the rest."
)


def show(page: Page) -> Iterator[Matrix]:
    """Layer × position and layer × head, for what was patched."""
    if "patching_token" in page.applied:
        yield by_position(page)
    if "patching_head" in page.applied:
        yield by_head(page)
    if "patching_part" in page.applied:
        yield by_part(page)


def tell(page: Page) -> Iterator[str]:
    """Which position and which head brings back most of the gap."""
    if "patching_token" in page.applied:
        yield _position_told(page.question, page.made("patching_token"))
    if "patching_head" in page.applied:
        yield _head_told(page.made("patching_head"))
    if "patching_part" in page.applied:
        yield _part_told(page.made("patching_part"))


def unrelated(question: Question) -> xarray.DataArray | None:
    """What each head brings back when it comes from other pictures, in the same unit: root mean square over three.

    None without a crowd, or where its pictures do not give as many positions.
    """
    other = question.counterpart
    if question.crowd is None or other is None or other.inputs is None or not question.pictures:
        return None
    scale = question.value - other.value
    strangers = [question.other(render(one) if isinstance(one, Scene) else one) for one in question.crowd[:STRANGERS]]
    if any(len(one.tokens[tower]) != len(known) for one in strangers for tower, known in other.inputs.tokens.items()):
        return None
    shares = [
        activation_patching(question.model, one, other.inputs, over="head", target=question.target, progress=False)[
            "effect"
        ] / scale
        for one in strangers
    ]  # fmt: skip
    return (sum(share**2 for share in shares) / len(shares)) ** 0.5


def positions(question: Question, found: Patching) -> Axis:
    """The positions that were patched, by what each is: a word, or a place on a picture."""
    known = _map(question, found)
    if known is None:
        return Axis.count("token", found.data.sizes["token"])
    labels = [_called(known, at) for at in range(len(known))]
    return Axis("token", tuple(labels))


def _map(question: Question, found: Patching) -> TokenMap | None:
    """The token map of the tower that was patched, where it is that of its positions."""
    tower = _tower(found)
    known = question.inputs.tokens.get(tower) if question.inputs is not None else None
    return known if known is not None and len(known) == found.data.sizes["token"] else None


def _tower(found: Patching) -> str:
    return Site.parse(found.provenance.sites[0]).tower


def _called(known: TokenMap, at: int) -> str:
    """One position in words."""
    row, column, text = known.row[0, at], known.col[0, at], str(known.text[0, at]).replace("</w>", "").strip(" Ġ▁")
    if row < 0:
        return text or str(known.kind[0, at])
    which = f"picture {known.image[0, at] + 1}, " if known.image.max() > 0 else ""
    which += f"crop {known.tile[0, at]}, " if known.tile.max() > 0 else ""
    return f"{which}row {row}, column {column}"


def _grid(known: TokenMap | None) -> tuple[int, int] | None:
    """Rows and columns where all positions are patches of one picture, but for class tokens in front; else None."""
    if known is None:
        return None
    front = int((known.row[0] < 0).sum())
    size = int(known.row[0].max()) + 1, int(known.col[0].max()) + 1
    whole = (known.row[0, front:] >= 0).all() and len(known) - front == size[0] * size[1] > 0
    return size if whole and set(known.kind[0, :front]) <= {"cls", "register"} else None


def by_position(page: Page) -> Matrix:
    """Layer × position of the residual stream; on a picture tower the class token is told in words."""
    found, question = page.made("patching_token"), page.question
    grid, (values, low, high) = _grid(_map(question, found)), _sides(found, "token")
    places = positions(question, found) if grid is None else Axis.patches(*grid)
    front, layers = values.shape[1] - len(places.labels), _layers(found)
    this, seen = ("input", "is given") if _text_changed(question) else ("picture", "looks at")
    here, there = signed(question.value), signed(_there(page))
    whole, patched = question.model.sites.towers()[_tower(found)], len(layers.labels)
    return Matrix(
        title=f"Patching by layer and {'token' if grid is None else 'patch'}",
        seen=f"While the model {seen} the counterfactual, one state after another is replaced by that of this {this}. "
        f"100% brings back all of the gap in {page.number} for {page.names.aim} between the two {this}s ({here:+.3f} "
        f"here, {there:+.3f} there), 0% nothing. {_position_told(question, found)}"
        + ("" if patched >= whole else f" Of {whole} layers, {patched} were patched."),
        limits=_LIMITS + (" Single patches rarely bring back much where a thing covers many." if grid else ""),
        row_axis=layers, column_axis=places, values=values[:, front:], grid=grid, **_common(page, "patching_token"),
        low=None if low is None else low[:, front:], high=None if high is None else high[:, front:],
    )  # fmt: skip


def by_head(page: Page) -> Matrix:
    """Layer × head of the attention's results."""
    found = page.made("patching_head")
    values, low, high = _sides(found, "head")
    strange, at = unrelated(page.question), np.unravel_index(np.nanargmax(values), values.shape)
    beside = (
        "" if strange is None else f" From unrelated pictures the same head brings {signed(strange.values[at]):.1%}."
    )
    return Matrix(
        title="Patching by layer and head",
        seen=f"The same for the result of each head, at all positions at once. {_head_told(found)}{beside} A head with "
        "a small direct effect and a large number here acts through later layers.",
        limits=_LIMITS + " Heads that do the same job hide one another.",
        row_axis=_layers(found), column_axis=Axis.count("head", values.shape[1]), values=values, low=low, high=high,
        **_common(page, "patching_head"),
    )  # fmt: skip


def by_part(page: Page) -> Matrix:
    """Layer × part: what each attention, MLP or convolution of a layer adds, at all positions at once."""
    found = page.made("patching_part")
    sites = [Site.parse(str(one)) for one in found["site"].values]
    layers = sorted({site.layer for site in sites if site.layer is not None})
    parts = list(dict.fromkeys(_part(site) for site in sites))
    values = np.full((len(layers), len(parts)), np.nan)
    for site, value in zip(sites, shares(found)["mean"].values, strict=True):
        if site.layer is not None:
            values[layers.index(site.layer), parts.index(_part(site))] = value
    here, there = signed(page.question.value), signed(_there(page))
    return Matrix(
        title="Patching by layer and part",
        seen="While the model is given the counterfactual, what one part of a layer adds is replaced by that of this "
        f"input. 100% brings back all of the gap in {page.number} ({here:+.3f} here, {there:+.3f} there), 0% nothing. "
        f"{_part_told(found)}",
        limits=_LIMITS + " It is one step of the drawing: earlier and later ones may be carried elsewhere.",
        row_axis=Axis("layer", tuple(map(str, layers))), column_axis=Axis("part", tuple(parts)), values=values,
        **_common(page, "patching_part"),
    )  # fmt: skip


def _part(site: Site) -> str:
    return ".".join(filter(None, (site.stream, site.part)))


def _common(page: Page, entry: str) -> dict[str, Any]:
    """What both maps have."""
    here, there = f"{signed(page.question.value):+.3f}", f"{signed(_there(page)):+.3f}"
    changed = page.question.counterpart
    other = None if page.counterpart is None else page.counterpart.picture
    seen = None if other is None else replace(other, alt="the counterfactual picture")
    words = f" {quoted(changed.text)}" if changed is not None and _text_changed(page.question) else ""
    return {
        "pictures": (page.picture, seen), "sides": ("Clean", "Counterfactual"),
        "captions": (f"{next(iter(page.beside))}: {here}", f"counterfactual{words}: {there}"),
        "code": page.applied[entry].look(shares).code, "provenance": origin(page.made(entry)),
        "unit": UNIT, "folded": True,
    }  # fmt: skip


def _layers(found: Patching) -> Axis:
    """The sites that were patched: by layer, or by name where they are of several kinds."""
    first = str(found["recovery"].dims[1])
    return Axis(first, tuple(str(one) for one in found[first].values))


def shares(found: Patching) -> Any:
    """What comes back at each place: mean over pairs, its interval."""
    return found.data[["mean", "low", "high"]]


def _sides(found: Patching, axis: str) -> tuple[ndarray, ndarray | None, ndarray | None]:
    """The mean over pairs and its interval, each (layer, axis); no interval for one pair."""
    shown = shares(found).transpose(..., axis)
    mean, low, high = (shown[name].values for name in ("mean", "low", "high"))
    return (mean, None, None) if found.data.sizes["pair"] == 1 else (mean, low, high)


def _position_told(question: Question, found: Patching) -> str:
    """What brings back most beside the position that the answer is read at, and from which layer on that holds it."""
    grid, values, layers = _grid(_map(question, found)), _sides(found, "token")[0], _layers(found)
    front = values.shape[1] - grid[0] * grid[1] if grid else 0
    reader = "class token" if front else "last position" if question.voice else ""
    rest = values[:, front:] if grid else values[:, :-1] if reader and values.shape[1] > 1 else values
    layer, place = np.unravel_index(np.nanargmax(rest), rest.shape)
    said = (
        f"The strongest single {'patch' if grid else 'position'} is {layers.name} {layers.labels[layer]}, "
        f"{positions(question, found).labels[front + place]}: {signed(rest[layer, place]):.1%}."
    )
    if not reader:
        return said
    read = values[:, 0 if front else -1]
    half = next((layers.labels[at] for at, value in enumerate(read) if value >= 0.5), "")
    return f"{said} The {reader} {f'holds half of it from layer {half} on' if half else 'never holds half'}."


def _head_told(found: Patching) -> str:
    """Which head brings back most."""
    values, layers = _sides(found, "head")[0], _layers(found)
    layer, head = np.unravel_index(np.nanargmax(values), values.shape)
    most = f"{signed(values[layer, head]):.1%}"
    return f"{layers.name.capitalize()} {layers.labels[layer]}, head {head} brings back most: {most} of the gap."


def _part_told(found: Patching) -> str:
    """Which part of which layer brings back most."""
    best = found["mean"].isel(site=int(np.nanargmax(found["mean"].values)))
    return f"“{best['site'].item()}” brings back most: {signed(float(best)):.1%} of the gap."


def _text_changed(question: Question) -> bool:
    return question.counterpart is not None and question.counterpart.text != question.text


def _there(page: Page) -> float:
    return float("nan") if page.question.counterpart is None else page.question.counterpart.value
