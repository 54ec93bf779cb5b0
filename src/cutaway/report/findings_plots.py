"""The figures of a page of findings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.report.findings_measures import FACTORS, beyond, carried

Found = dict[str, xarray.Dataset]


def draw_all(found: Found, folder: Path, stem: str) -> dict[str, str]:
    """Draw the figures; their paths as the page beside the folder writes them."""
    made = {
        "heads": heads(found), "direct": direct(found["direct"]), "ablation": ablation(found["ablation"]),
        "layers": layers(found),
    }  # fmt: skip
    paths = {}
    for name, figure in made.items():
        file = folder / f"{stem}-{name}.png"
        figure.savefig(file, dpi=90)
        paths[name] = f"{folder.name}/{file.name}"
    return paths


def heads(found: Found) -> Figure:
    """Above: the share of each head that a factor explains; below: what patching the head recovers."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots(2, len(FACTORS), sharex=True, sharey=True)
    one = found["heads"]
    rows = (
        (beyond(one), "viridis", 0.0, 1.0, "share explained"),
        (one["recovery"], "RdBu_r", -1.0, 1.0, "recovery"),
    )
    dots = carried(one)
    for row, (values, colours, low, high, name) in zip(axes, rows, strict=True):
        for f, (ax, factor) in enumerate(zip(row, FACTORS, strict=True)):
            image = ax.imshow(values.sel(factor=factor), cmap=colours, vmin=low, vmax=high, aspect="auto")
            if colours == "viridis":
                ax.set_title(factor, fontsize=10)
                _dots(ax, dots[f])
            _ticks(ax, one)
        row[0].set_ylabel("layer")
        figure.colorbar(image, ax=row[-1], label=name)
    for ax in axes[1]:
        ax.set_xlabel("head")
    return figure


def _dots(ax: Axes, mask: Any) -> None:
    down, across = mask.nonzero()
    ax.scatter(across, down, s=6, color="white")


def _ticks(ax: Axes, one: xarray.Dataset) -> None:
    ax.set_xticks(range(one.sizes["head"]))
    ax.set_yticks(range(one.sizes["layer"]))


def ablation(one: xarray.Dataset) -> Figure:
    """For each set of ablated heads, what is lost on every factor beside random heads: choices, then margins."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes, places = figure.subplots(2, len(FACTORS), sharex=True, sharey="row"), range(len(FACTORS))
    kinds = (("drop", "low", "high", "random"), ("margin", "margin_low", "margin_high", "random_margin"))
    for row, (value, low, high, random) in zip(axes, kinds, strict=True):
        for ax, ablated in zip(row, FACTORS, strict=True):
            mine = 100 * one[[value, low, high, random]].sel(ablated=ablated)
            spread = [abs(mine[value] - mine[low]).values, abs(mine[high] - mine[value]).values]
            colours = ["C1" if factor == ablated else "C0" for factor in FACTORS]
            ax.bar(places, mine[value], 0.6, yerr=spread, color=colours, ecolor="gray")
            for place, factor in zip(places, FACTORS, strict=True):
                values = mine[random].sel(factor=factor).values
                ax.scatter([place + 0.38] * len(values), values, s=5, color="black")
            ax.axhline(0, color="gray", linewidth=0.8)
            ax.set_xticks(places, FACTORS, rotation=30, ha="right", fontsize=8)
    for ax, ablated in zip(axes[0], FACTORS, strict=True):
        ax.set_title(f"without {ablated}: {one['heads'].sel(ablated=ablated).item()}", fontsize=8)
    axes[0, 0].set_ylabel("points lost (dots: random heads)", fontsize=8)
    axes[1, 0].set_ylabel("% of the margin lost", fontsize=8)
    return figure


def direct(one: xarray.Dataset) -> Figure:
    """Naming without the direct effects of the first, the last, or random n layers: of heads, of MLPs."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for ax, what in zip(figure.subplots(1, 2, sharey=True), ("heads", "MLPs"), strict=True):
        mine, n = one.sel(what=what), one["layers"].values
        for order, mark in (("first", "o"), ("last", "s"), ("random", "^")):
            ax.plot(n, mine["accuracy"].sel(order=order), marker=mark, markersize=4, label=f"{order} n")
        ax.fill_between(n, mine["random_low"], mine["random_high"], alpha=0.2, color="C2")
        ax.axhline(float(mine["majority"]), color="gray", linestyle=":")
        ax.set(title=what, xlabel="layers whose direct effect is its mean", ylim=(0, 1.03))
    figure.axes[0].set_ylabel("naming accuracy")
    figure.axes[0].legend(fontsize=7)
    return figure


def layers(found: Found) -> Figure:
    """For each factor, along the layers: read by probes, used as patching says, left after erasure."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    one, floor = found["layers"], found["layers_floor"]
    for ax, factor in zip(figure.subplots(1, len(FACTORS), sharey=True), FACTORS, strict=True):
        mine, places = one.sel(factor=factor), one["layer"].values
        ax.plot(places, mine["read"], marker="o", markersize=3, label="read by a probe")
        ax.fill_between(places, mine["read_low"], mine["read_high"], alpha=0.2)
        ax.plot(places, floor["read"].sel(factor=factor), color="C0", linestyle=":", label="the same, untrained")
        ax.plot(places, mine["used"], color="C1", marker="s", markersize=3, label="recovery by patching")
        ax.fill_between(places, mine["used_low"], mine["used_high"], alpha=0.2, color="C1")
        ax.plot(places, mine["kept"].mean("split"), color="C2", marker="^", markersize=3, label="left after erasure")
        ax.set_title(factor, fontsize=10)
        ax.set(xlabel="layer", ylim=(-0.3, 1.3))
    figure.axes[0].legend(fontsize=6)
    return figure
