"""The three figures of the page of models that draw: a strip of drawings, places of the prompt, what changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.report.findings_drawings import JOINT, MODELS, UNET
from cutaway.report.findings_drawn import HIDDEN, PARTS, PLACES, WAYS
from cutaway.report.findings_plots import saved

Found = dict[str, xarray.Dataset]
COLOURS = {UNET: "#2066a8", JOINT: "#c1571b"}
COLUMNS = {
    "drawn": "drawn",
    "own": "its name",
    "behind": "word behind",
    "without": "name hidden",
    "edited": "new meaning",
}


def draw_all(found: Found, folder: Path, stem: str) -> dict[str, str]:
    """Draw the figures; their paths as the page beside the folder writes them."""
    return saved({"strip": strip(found), "places": places(found), "changes": changes(found)}, folder, stem)


def strip(found: Found) -> Figure:
    """A row for each model, five pictures for each prompt of the first set."""
    many = found["shown"].sizes["prompt"]
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axes = figure.subplots(len(MODELS), many * len(COLUMNS))
    for row, (end, name) in zip(axes, MODELS.items(), strict=True):
        for at in range(many):
            one = found[f"shown{end}"].isel(set=0, prompt=at)
            for ax, (what, title) in zip(row[at * len(COLUMNS) :], COLUMNS.items(), strict=False):
                _picture(ax, one[what].values)
                if not end:
                    ax.set_title(title, fontsize=8)
        row[0].set_ylabel(name, fontsize=8)
    for at in range(many):
        axes[-1, at * len(COLUMNS) + 2].set_xlabel(str(found["shown"]["said"].values[0, at]), fontsize=8)
    return figure


def _picture(ax: Axes, values: np.ndarray) -> None:
    """A drawing, or a map from 0 to its own greatest."""
    ax.imshow(values, cmap=None if values.ndim == 3 else "magma", vmin=0, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])


def places(found: Found) -> Figure:
    """What kinds of positions bring back, and what each layer of the text encoder draws."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, part in zip(axes[:2], PARTS, strict=True):
        bars = {
            name: found[f"places{end}"]["in_mean"].sel(part=part, position=list(PLACES)) for end, name in MODELS.items()
        }
        _bars(ax, PLACES, bars, f"the {part}", "brought back, % of the gap")
    for end, name in MODELS.items():
        one = found[f"lens{end}"]
        names = [str(layer) for layer in one["layer"].values]
        for part, style in zip(PARTS, ("-", "--"), strict=True):
            values = 100 * one["value"].sel(part=part).mean("set")
            axes[2].plot(range(len(names)), values, style, marker="o", color=COLOURS[name], label=f"{name}, {part}")
    longest = max((found[f"lens{end}"]["layer"].values for end in MODELS), key=len)
    axes[2].set_xticks(range(len(longest)), [str(layer) for layer in longest])
    axes[2].set(xlabel="layer of the text encoder", ylabel="drawn, %", title="drawn from each layer", ylim=(-5, 105))
    axes[2].legend(fontsize=7)
    return figure


def changes(found: Found) -> Figure:
    """What is left without words, by which grid a prompt enters, and what another meaning of a word draws."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    left = {name: found[f"maps{end}"]["left"].sel(things=1, hidden=list(HIDDEN)) for end, name in MODELS.items()}
    _bars(axes[0], HIDDEN, left, "hidden from every patch", "the thing is there, %")
    one = found["layers"]["in_mean"]
    grids = [str(name) for name in one["layer"].values if "×" in str(name)]
    put = {str(part): one.sel(part=part, layer=grids) for part in PARTS}
    colours = dict(zip(put, ("#2066a8", "#9ec3e6"), strict=True))
    _bars(axes[1], grids, put, f"put in through one grid, {UNET}", "brought back, % of the gap", colours)
    kinds = {"new thing:\nthe edit": ("new", WAYS[0]), "new thing:\nrandom": ("new", WAYS[1]),
             "others:\nthe edit": ("untold", WAYS[0]), "others:\nbefore": ("untold", "before")}  # fmt: skip
    shares = {}
    for end, name in MODELS.items():
        one = found[f"edits{end}"]
        shares[name] = xarray.concat([one[what].sel(way=way, drop=True) for what, way in kinds.values()], "kind")
    _bars(axes[2], list(kinds), shares, "a word with another meaning", "drawn, %")
    return figure


def _bars(
    ax: Axes, names: list[str] | tuple[str, ...], bars: dict[str, xarray.DataArray], title: str, what: str,
    colours: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Bars beside one another, a dot for each set."""
    at = np.arange(len(names))
    for shift, (label, values) in zip((-0.18, 0.18), bars.items(), strict=True):
        each = 100 * values.transpose("set", ...).values
        ax.bar(at + shift, each.mean(0), 0.34, color=(colours or COLOURS)[label], label=label, alpha=0.75)
        for row in each:
            ax.plot(at + shift, row, "o", color="black", markersize=3)
    long = max(len(line) for name in names for line in name.split("\n")) > 9
    ax.set_xticks(at, names, rotation=30 if long else 0, ha="right" if long else "center", fontsize=8)
    ax.set(ylabel=what, title=title, ylim=(-10, 128), yticks=range(0, 101, 20))
    ax.legend(fontsize=7, loc="upper center", ncols=2)
