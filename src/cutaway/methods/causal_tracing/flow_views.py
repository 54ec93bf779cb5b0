"""Windows that were traced and edges that were cut on a page: where an answer is held, and which way it came."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from xarray import Dataset

from cutaway.methods.causal_tracing.attention_knockout import Flow
from cutaway.methods.causal_tracing.causal_tracing import BAD, Traced
from cutaway.methods.causal_tracing.places import ALL
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views.kinds import Axis, Curve, Line, Table
from cutaway.views.words import number, signed

WINDOWS, KNOCKOUT = "tracing_windows", "knockout"
CALLED = {"attention": "what attention adds", "mlp": "what MLPs add", "residual": "the state itself"}


# --- windows ----------------------------------------------------------------------------------------------------------


def show_windows(page: Page) -> Iterator[Curve]:
    """What each window of layers brings back, attention beside MLPs."""
    if WINDOWS not in page.applied:
        return
    found, look = page.made(WINDOWS), page.applied[WINDOWS].look(by_window)
    several = found.data.sizes["pair"] > 1
    yield Curve(
        title="Windows of attention and of MLPs",
        seen="While the model is given the counterfactual, what attention or the MLPs add is replaced by that of this "
        f"input, at all positions, in a few layers in a row. 100% brings back all of the gap in {page.number}, 0% "
        f"nothing. {_window_told(found)}",
        limits="A window that brings the answer back is enough, not needed, and windows overlap. What it is compared "
        "with, an unrelated input, takes several pairs: one has none.",
        x=Axis("layer", tuple(str(one) for one in look.value["layer"].values)),
        lines=tuple(chain.from_iterable(_lines(look.value, str(what), several) for what in look.value["what"].values)),
        unit="share of the gap that comes back", provenance=origin(found), code=look.code, folded=True,
        warning=BAD if found.provenance.options["corruption"] == "noise" else "",
    )  # fmt: skip


def tell_windows(page: Page) -> Iterator[str]:
    """Which window brings back most."""
    if WINDOWS in page.applied:
        yield _window_told(page.made(WINDOWS))


def by_window(found: Traced) -> Dataset:
    """What the view shows: shares by kind and window."""
    return found.data[["mean", "low", "high", "random", "random_low", "random_high"]]


def _lines(shown: Dataset, what: str, several: bool) -> Iterator[Line]:
    here = shown.sel(what=what)
    bounds = (here["low"].values, here["high"].values) if several else (None, None)
    yield Line(CALLED.get(what, what), here["mean"].values, *bounds)
    if several:
        yield Line(f"{what}, from unrelated inputs", here["random"].values, baseline=True)


def _window_told(found: Traced) -> str:
    said = []
    for what in found["what"].values:
        mean = found["mean"].sel(what=what)
        best = mean.isel(layer=int(np.nanargmax(mean.values)))
        said.append(f"{CALLED.get(str(what), what)} {signed(float(best)):.1%} in layers {best['layer'].item()}")
    return f"Most comes back from: {'; '.join(said)}."


# --- edges ------------------------------------------------------------------------------------------------------------


def show_knockout(page: Page) -> Iterator[Curve | Table]:
    """The change by window of layers, and every edge with all layers cut at once, beside as many edges by chance."""
    if KNOCKOUT not in page.applied:
        return
    found, look = page.made(KNOCKOUT), page.applied[KNOCKOUT].look(by_layer)
    said: dict[str, Any] = {
        "limits": "What an edge no longer brings another may bring, so no change is no proof that nothing is read "
        "there. A query that loses an edge gives its share to the rest.",
        "provenance": origin(found), "code": look.code,
    }  # fmt: skip
    inside = look.value.isel(layer=look.value["layer"].values != ALL)
    yield Curve(
        title="Which way it takes through attention",
        seen="Edges of attention are cut in a few layers in a row; in front of the arrow stands what is read, behind "
        f"it what reads it. {_flow_told(page, found)}",
        x=Axis("layers", tuple(str(one) for one in inside["layer"].values)),
        lines=tuple(chain.from_iterable(_edge_lines(inside, str(edge)) for edge in inside["edge"].values)),
        unit=f"change of {page.number}", **said,
    )  # fmt: skip
    yield Table(
        title="Edges of attention, cut", seen="Each edge cut in all layers at once, and where one window does most, "
        f"beside as many edges from the same positions to others drawn by chance. {_window_most(found)}",
        columns=("edge", "all layers", "share", "by chance", "strongest window", "there", "there by chance"),
        cells=tuple(_cells(found, str(edge)) for edge in found["edge"].values), folded=True, **said,
    )  # fmt: skip


def tell_knockout(page: Page) -> Iterator[str]:
    """What each edge does with all layers cut, the strongest first."""
    if KNOCKOUT in page.applied:
        yield _flow_told(page, page.made(KNOCKOUT))


def by_layer(found: Flow) -> Dataset:
    """What the views show: the change of the number by edge and window."""
    return found.data[["change", "low", "high", "random"]]


def _edge_lines(shown: Dataset, edge: str) -> Iterator[Line]:
    here = shown.sel(edge=edge)
    bounds = (here["low"].values, here["high"].values) if here["low"].notnull().all() else (None, None)
    yield Line(edge, here["change"].values, *bounds)
    yield Line(f"{edge}, by chance", here["random"].values, baseline=True)


def _cells(found: Flow, edge: str) -> tuple[Any, ...]:
    whole, best = found.data.sel(edge=edge, layer=ALL), _strongest(found, edge)
    share = float(whole["relative"])
    return (
        edge, _plain(whole["change"]), None if np.isnan(share) else f"{signed(share):+.0%}", _plain(whole["random"]),
        str(best["layer"].item()), _plain(best["change"]), _plain(best["random"]),
    )  # fmt: skip


def _window_most(found: Flow) -> str:
    each = {str(edge): _strongest(found, str(edge)) for edge in found["edge"].values}
    edge, best = max(each.items(), key=lambda one: abs(float(one[1]["change"])))
    return f"Of single windows {edge} in layers {best['layer'].item()} does most: {_number(best['change'])}."


def _strongest(found: Flow, edge: str) -> Any:
    inside = found.data.sel(edge=edge).isel(layer=found["layer"].values != ALL)
    return inside.isel(layer=int(np.abs(inside["change"].values).argmax()))


def _plain(value: Any) -> float | None:
    return None if np.isnan(float(value)) else round(signed(float(value)), 4)


def _flow_told(page: Page, found: Flow) -> str:
    whole = found.data.sel(layer=ALL)
    order = np.argsort(-abs(whole["change"].values), kind="stable")
    said = []
    for at in order:
        here = whole.isel(edge=int(at))
        share = float(here["relative"])
        much = "" if np.isnan(share) else f" ({signed(share):+.0%})"
        chance = "" if np.isnan(here["random"]) else f", by chance {_number(here['random'])}"
        said.append(f"{here['edge'].item()} {_number(here['change'])}{much}{chance}")
    told = f"Cut in all layers at once, {page.number} changes by: {'; '.join(said)}."
    return told + page.before(KNOCKOUT, _shortly)


def _shortly(found: Flow) -> str:
    whole = found.data.sel(layer=ALL)
    return "; ".join(f"{edge} {_number(whole['change'].sel(edge=edge))}" for edge in whole["edge"].values) + "."


def _number(value: Any) -> str:
    return f"{'−' if float(value) < 0 else '+'}{number(abs(float(value)))}"
