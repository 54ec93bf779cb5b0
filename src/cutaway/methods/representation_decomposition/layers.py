"""Effects by layer: its heads together, its biases, its MLP; as a table and as bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def by_layer(effect: xarray.DataArray) -> Any:
    """Of effects (item, term, text) the mean over items of the parts of each layer, a column a text."""
    mean = effect.mean("item")
    names = [str(name) for name in mean["term"].values]
    layers = np.array([name.split(".")[0] for name in names])
    kinds = np.array(["heads" if ".head." in name else name.split(".")[-1] for name in names])
    grouped = mean.transpose("term", "text").to_pandas().groupby([layers, kinds], sort=False).sum()
    return grouped.rename_axis(["layer", "part"]).reset_index()


def axes_for(frame: Any) -> Axes:
    """A figure on which every row of such a table has room."""
    made: Axes = Figure(figsize=(6.4, 0.24 * len(frame) + 1.4), dpi=120, layout="constrained").subplots()
    return made


def bars(ax: Axes, frame: Any) -> None:
    """What the parts of each layer add to each text."""
    frame = frame.set_index(["layer", "part"])
    places = np.arange(len(frame))
    height = 0.8 / len(frame.columns)
    for at, text in enumerate(frame.columns):
        ax.barh(places + at * height, frame[text], height, label=str(text))
    ax.set_yticks(
        places + 0.4 - height / 2,
        [part if layer == part else f"{layer} {part}" for layer, part in frame.index],
        fontsize=7,
    )
    ax.invert_yaxis()
    ax.axvline(0, color="gray", linewidth=0.8)
    ax.set(xlabel="cosine, mean over the pictures", title="What each part adds to the similarity")
    ax.legend(fontsize=8)
