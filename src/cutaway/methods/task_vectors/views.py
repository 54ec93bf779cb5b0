"""The steering bench on a page: how far a direction goes, and what it costs, by alpha and by layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray

from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.methods.task_vectors.steering import ONE, Steering
from cutaway.views import kinds
from cutaway.views.words import signed

ENTRY = "steering"
_WAYS = {"add": "added", "bend": "at the old length", "out": "projected out"}
_LIMITS = (
    "It does not say that the model itself moves along this direction. Where the answer is read, the whole difference "
    "is the other input's own state, so late layers go all the way by construction: what it costs others says whether "
    "the direction is about the difference or about these two inputs. Random directions mostly point where the model "
    "reads little."
)


def show(page: Page) -> Iterator[kinds.View]:
    """Alpha against effect and cost at one layer, and every layer with the whole difference."""
    found = page.made(ENTRY)
    yield bench(page, found)
    yield by_layer(page, found)


def tell(page: Page) -> Iterator[str]:
    """How far the whole difference goes where it costs least, and what a random direction does."""
    found = page.made(ENTRY)
    here = whole(found).isel(layer=found.best)
    said = (
        f"Steered by its difference to the counterfactual after layer {_layers(found)[found.best]}, the answer goes "
        f"{signed(float(here['share'])):.1%} of the way (random directions as long: "
        f"{signed(float(here['random_share'])):.1%})"
    )
    if np.isnan(float(here["kept"])):
        yield f"{said}."
        return
    yield (
        f"{said}; the same added to other inputs, {float(here['kept']):.1%} of them still answer as before (random: "
        f"{float(here['random_kept']):.1%})."
    )


def bench(page: Page, found: Steering) -> kinds.Curve:
    """Alpha against effect and cost, at the layer where the whole difference goes far for little."""
    look, at, lines = page.applied[ENTRY].look(alphas), found.best, []
    chance = look.value
    for way in map(str, found["way"].values):
        here = chance.sel(way=way)
        lines += [kinds.Line(f"share of the gap, {_WAYS[way]}", here["share"].values)]
        lines += [kinds.Line(f"others that answer as before, {_WAYS[way]}", here["kept"].values)] * _costs(found)
    for name, said in (("share", "share of the gap"), ("kept", "others that answer as before")):
        if name == "share" or _costs(found):
            own, low, high = (chance[f"random_{name}{side}"].values for side in ("", "_low", "_high"))
            lines.append(kinds.Line(f"{said}, random directions", own, low, high, baseline=True))
    full, layer = whole(found).isel(layer=at), _layers(found)[at]
    cost = (
        f" At alpha 1, {float(full['kept']):.1%} of other inputs still answer as before (random directions "
        f"{float(full['random_kept']):.1%}), and what they say moves by {float(full['cost']):.3f} nats (KL; random "
        f"{float(full['random_cost']):.3f})." if _costs(found) else " No other inputs were given, so no cost is known."
    )  # fmt: skip
    return kinds.Curve(
        title="Steering towards the counterfactual",
        seen=f"The difference of the two inputs' states after layer {layer}, times alpha, is added there. For "
        f"{page.names.aim}, {page.number} is {signed(float(found['here'])):+.3f} here and "
        f"{signed(float(found['there'])):+.3f} there: 100% is all of this gap. At alpha 1 it goes "
        f"{signed(float(full['share'])):.1%} of the way, random directions as long "
        f"{signed(float(full['random_share'])):.1%} on average.{cost} With the direction projected out it goes "
        f"{signed(float(found['out_share'][at])):.1%} of the way. The layer is the one where alpha 1 goes farthest for "
        "the least other answers changed.",
        limits=_LIMITS, x=kinds.Axis("alpha", tuple(f"{alpha:g}" for alpha in found["alpha"].values)),
        lines=tuple(lines), unit="share", folded=True, provenance=origin(found),
        code=look.code,
    )  # fmt: skip


def by_layer(page: Page, found: Steering) -> kinds.Table:
    """Every layer with the whole difference added, beside chance."""
    full, far = whole(found), whole(found)["share"].values
    columns = ["layer", "share of the gap", "random: share", "at the old length", "projected out"]
    names = ["share", "random_share"]
    cells = [[layer, *(float(full[name][at]) for name in names), _bent(found, at), float(found["out_share"][at])]
             for at, layer in enumerate(_layers(found))]  # fmt: skip
    if _costs(found):
        columns += ["others as before", "random: as before", "KL (nats)", "random: KL"]
        for at, cell in enumerate(cells):
            cell += [float(full[name][at]) for name in ("kept", "random_kept", "cost", "random_cost")]
    half = [layer for layer, value in zip(_layers(found), far, strict=True) if value >= 0.5]
    begins = f"It goes half of the way from layer {half[0]} on" if half else "It goes half of the way at no layer"
    return kinds.Table(
        title="Steering by layer",
        seen=f"The whole difference (alpha 1) added after each layer. {begins}; at the last one it goes "
        f"{signed(float(far[-1])):.1%}. The difference is {float(found['length'][-1]):.3f} long there, the state "
        f"{float(found['state'][-1]):.3f}.",
        limits=_LIMITS, columns=tuple(columns), cells=tuple(tuple(cell) for cell in cells), folded=True,
        provenance=origin(found), code=page.applied[ENTRY].look(whole).code,
    )  # fmt: skip


def alphas(found: Steering) -> xarray.Dataset:
    """What each way of steering does at the layer that is shown, by alpha."""
    return found.data.isel(layer=found.best)


def whole(found: Steering) -> xarray.Dataset:
    """What the whole difference does, added after each layer."""
    return found.data.isel(way=0).sel(alpha=ONE)


def _bent(found: Steering, at: int) -> float | None:
    """The share at the old length; None where it was not asked for."""
    if "bend" not in found["way"].values:
        return None
    return float(found["share"].sel(way="bend", alpha=ONE)[at])


def _costs(found: Steering) -> bool:
    return bool(found["kept"].notnull().any())


def _layers(found: Steering) -> tuple[str, ...]:
    return tuple(str(layer) for layer in found["layer"].values)
