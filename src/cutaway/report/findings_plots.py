"""The figures of a page of findings: three for a first look, two beside the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cutaway.report.findings_claims import apart
from cutaway.report.findings_heads import beyond
from cutaway.report.findings_layers import SET
from cutaway.report.findings_scenes import FACTORS

Found = dict[str, xarray.Dataset]
TRAINED, UNTRAINED = "#2066a8", "#a0a0a0"


def draw_all(found: Found, folder: Path, stem: str) -> dict[str, str]:
    """Draw the figures; their paths as the page beside the folder writes them."""
    made = {
        "known": known(found), "heads": heads(found), "cost": cost(found["ablation"]),
        "direct": direct(found["direct"]), "layers": layers(found),
    }  # fmt: skip
    return saved(made, folder, stem)


def saved(figures: dict[str, Figure], folder: Path, stem: str) -> dict[str, str]:
    """Figures as files, and their paths as the page beside the folder writes them."""
    paths = {}
    for name, figure in figures.items():
        file = folder / f"{stem}-{name}.png"
        figure.savefig(file, dpi=100)
        paths[name] = f"{folder.name}/{file.name}"
    return paths


def known(found: Found) -> Figure:
    """Right captions of 100 for each factor, before and after training; a line where a coin is, a dot for each set."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ax, places = figure.subplots(), np.arange(len(FACTORS))
    bars = (("known_floor", UNTRAINED, "before training", -0.2), ("known", TRAINED, "after training", 0.2))
    for name, colour, label, shift in bars:
        one = found[name]
        ax.bar(places + shift, 100 * one["right"].mean("set"), 0.38, color=colour, label=label)
        for k in range(one.sizes["set"]):
            mine = 100 * one.isel(set=k)
            across = places + shift + (k - 0.5) * 0.14
            ends = _ends(mine["right"], mine["low"], mine["high"])
            ax.errorbar(across, mine["right"], yerr=ends, fmt="o", color="black", markersize=3, linewidth=1)
    ax.axhline(50, color="black", linestyle="--", linewidth=1, label="a coin")
    ax.set_xticks(places, [f"they differ in\nthe {factor}" for factor in FACTORS])
    ax.set(ylabel="right captions, of 100", ylim=(0, 105), title="Which of two captions belongs to this picture?")
    figure.legend(loc="outside right center", fontsize=9)
    return figure


def heads(found: Found) -> Figure:
    """The share of each head that a factor explains, above after training, below before; frames: what is claimed."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots(2, len(FACTORS), sharex=True, sharey=True)
    claimed = apart(found).transpose("factor", "layer", "head").values
    for row, name, label in zip(axes, ("heads", "heads_floor"), ("after training", "before training"), strict=True):
        values = 100 * beyond(found[name]).mean("set").transpose("factor", "layer", "head")
        for f, (ax, factor) in enumerate(zip(row, FACTORS, strict=True)):
            image = ax.imshow(values.sel(factor=factor), cmap="Blues", vmin=0, vmax=80, aspect="auto", origin="lower")
            if name == "heads":
                ax.set_title(factor)
                _frame(ax, claimed[f])
            _numbers(ax, values.sel(factor=factor).values)
            ax.set_xticks(range(values.sizes["head"]))
            ax.set_yticks(range(values.sizes["layer"]))
        row[0].set_ylabel(f"{label}\nlayer")
    for ax in axes[1]:
        ax.set_xlabel("head")
    figure.colorbar(image, ax=axes, label="% of what the head does that depends on it")
    figure.suptitle("What does each head look for? (framed: learned, beyond luck)", fontsize=11)
    return figure


def _frame(ax: Axes, mask: np.ndarray) -> None:
    for down, across in np.argwhere(mask):
        ax.add_patch(Rectangle((across - 0.46, down - 0.45), 0.92, 0.9, fill=False, edgecolor="#d03020", linewidth=1.5))


def _numbers(ax: Axes, values: np.ndarray) -> None:
    for (down, across), value in np.ndenumerate(values):
        if value >= 1:
            colour = "white" if value > 45 else "black"
            ax.text(across, down, f"{value:.0f}", ha="center", va="center", fontsize=6, color=colour)


def cost(one: xarray.Dataset) -> Figure:
    """What is lost without the heads named for a factor, on that factor: captions, then margin; grey: random heads."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    titles = {"drop": "right captions lost, of 100", "margin": "lead over the wrong caption lost, %"}
    for ax, (of, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for f, factor in enumerate(FACTORS):
            for k in range(one.sizes["set"]):
                mine = 100 * one[[of, f"{of}_low", f"{of}_high"]].sel(ablated=factor, factor=factor).isel(set=k)
                low, middle, high = 100 * one[f"random_{of}"].sel(factor=factor).isel(set=k).quantile(
                    (0.025, 0.5, 0.975), skipna=False
                )
                place = f + (k - 0.5) * 0.36
                ax.bar(
                    place, high - low, 0.3, bottom=low, color="#d8d8d8", label=_once(ax, f"95 % of {SET} random heads")
                )
                ax.plot([place - 0.15, place + 0.15], [middle, middle], color="#808080", linewidth=1)
                ends = _ends(mine[of], mine[f"{of}_low"], mine[f"{of}_high"])
                label = _once(ax, f"the {SET} heads whose texts speak of it")
                ax.errorbar(place, mine[of], yerr=ends, fmt="o", color=TRAINED, markersize=5, label=label)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(range(len(FACTORS)), FACTORS)
        ax.set_title(title, fontsize=10)
    figure.axes[0].set_ylim(top=max(20.0, figure.axes[0].get_ylim()[1]))
    figure.axes[0].legend(fontsize=8, loc="upper left")
    figure.suptitle(f"What does the model lose without {SET} heads? (two sets of pictures each)", fontsize=11)
    return figure


def _ends(value: xarray.DataArray, low: xarray.DataArray, high: xarray.DataArray) -> np.ndarray:
    """How far an interval reaches down and up."""
    return np.clip(np.stack([np.atleast_1d(value - low), np.atleast_1d(high - value)]), 0, None)


def _once(ax: Axes, label: str) -> str | None:
    """The label, unless the axes have it already."""
    return None if label in ax.get_legend_handles_labels()[1] else label


def direct(one: xarray.Dataset) -> Figure:
    """Naming without the direct effects of the first, the last, or random n layers: of heads, of MLPs."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for ax, what in zip(figure.subplots(1, 2, sharey=True), ("heads", "MLPs"), strict=True):
        mine, n = one.sel(what=what), one["layers"].values
        for order, mark in (("first", "o"), ("last", "s"), ("random", "^")):
            lines = 100 * mine["accuracy"].sel(order=order).transpose("layers", "set")
            ax.plot(n, lines.mean("set"), marker=mark, markersize=4, label=f"{order} n")
        low, high = 100 * mine["random_low"].min("set"), 100 * mine["random_high"].max("set")
        ax.fill_between(n, low, high, alpha=0.2, color="C2")
        ax.axhline(100 * float(mine["majority"].max()), color="gray", linestyle=":")
        ax.set(title=what, xlabel="layers whose direct effect is its mean", ylim=(0, 103))
    figure.axes[0].set_ylabel("named, %")
    figure.axes[0].legend(fontsize=7)
    return figure


def layers(found: Found) -> Figure:
    """For each factor, along the layers: read by probes, before and after training; recovered, also from a stranger."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    one, floor = found["layers"], found["layers_floor"]
    for ax, factor in zip(figure.subplots(1, len(FACTORS), sharey=True), FACTORS, strict=True):
        mine, places = one.sel(factor=factor), one["layer"].values
        curves = (
            (mine["read"], TRAINED, "-", "read by a probe"),
            (floor["read"].sel(factor=factor), UNTRAINED, "-", "the same, untrained"),
            (mine["used"], "#d07020", "-", "recovery by patching"),
            (mine["used_random"], "#d07020", ":", "the same from a stranger"),
        )
        for values, colour, style, label in curves:
            mean = 100 * values.transpose("set", "layer")
            ax.plot(places, mean.mean("set"), color=colour, linestyle=style, marker="o", markersize=3, label=label)
            ax.fill_between(places, mean.min("set"), mean.max("set"), color=colour, alpha=0.2)
        ax.set_title(factor, fontsize=10)
        ax.set(xlabel="layer", ylim=(-20, 140))
    figure.axes[0].set_ylabel("%")
    figure.axes[0].legend(fontsize=6, loc="upper left")
    return figure
