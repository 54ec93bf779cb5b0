"""What probes score, as a result: held-out scores by site and label, with controls, floors and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.methods.linear_probing.probe_data import chance, fit, is_number, shuffled_by_type, split
from cutaway.methods.result import Result, labels
from cutaway.model.sites import Site


@dataclass(frozen=True, eq=False, repr=False)
class Probes(Result):
    """Held-out scores of probes: accuracy for classes, R^2 for numbers (`metric` by label).

    `score`, `control`, `majority` (site, label, seed); `mean`, `low`, `high` (site, label) with a 95 % interval over
    the splits; `selectivity` (site, label) = mean score - mean control; `layer` (site), -1 for what has no layer.
    """

    main: ClassVar[str] = "mean"

    def summary(self) -> Any:
        """For each label, the best site."""
        best = self["mean"].argmax("site")
        names = ["mean", "low", "high", "selectivity", "majority"]
        table = self.data.drop_vars(["majority"]).assign(majority=self["majority"].mean("seed")).isel(site=best)[names]
        return table.to_dataframe().reset_index()[["label", "site", *names]]

    def _draw(self, ax: Axes) -> None:
        """A scale for each metric: accuracy on the left, R² on the right where both are there."""
        places, names = range(self.data.sizes["site"]), labels(self["mean"], "label")
        metrics = dict.fromkeys(str(self["metric"].sel(label=name).values) for name in names)
        axes = {metric: ax if place == 0 else ax.twinx() for place, metric in enumerate(metrics)}
        lines = []
        for at, name in enumerate(names):
            one, colour = self.data.sel(label=name), f"C{at}"
            metric = str(one["metric"].values)
            side = axes[metric]
            lines += side.plot(places, one["mean"], marker="o", color=colour, label=f"{name} ({metric})")
            side.fill_between(places, one["low"], one["high"], alpha=0.2, color=colour)
            side.plot(places, one["control"].mean("seed"), linestyle=":", color=colour)
        ax.set_xticks(places, [str(site) for site in self["site"].values], rotation=40, ha="right", fontsize=7)
        for metric, side in axes.items():
            side.set_ylabel(f"held-out {metric} (dotted: control)")
        ax.legend(handles=lines, fontsize=8)


def scores_of(
    x: Float[ndarray, "item unit"], y: ndarray, types: ndarray, test: float, seed: int, penalty: float
) -> tuple[float, float, float]:
    """Score, control score and majority baseline of one split."""
    train, held = split(y, test, seed)
    control = shuffled_by_type(y, types, seed)
    trivial = len(np.unique(control[train])) < 2
    return (
        fit(x[train], y[train], penalty).score(x[held], y[held]),
        1.0 if trivial else fit(x[train], control[train], penalty).score(x[held], control[held]),
        chance(y[train], y[held]),
    )


def table(
    scores: Float[ndarray, "3 site label seed"], sites: Sequence[Site], named: Mapping[str, ndarray],
    seeds: Sequence[int], test: float,
) -> xarray.Dataset:  # fmt: skip
    """The scores as a data set, with means over splits, their intervals and what they are better than controls by."""
    from scipy import stats

    n = len(seeds)
    mean = scores[0].mean(-1)
    spread = scores[0].std(-1, ddof=1) if n > 1 else np.full(mean.shape, np.nan)
    half = stats.t.ppf(0.975, max(1, n - 1)) * spread * (1 / n + test / (1 - test)) ** 0.5
    axes = ("site", "label", "seed")
    each = {name: (axes, values) for name, values in zip(("score", "control", "majority"), scores, strict=True)}
    selectivity = mean - scores[1].mean(-1)
    least = np.array([-np.inf if is_number(y) else 0.0 for y in named.values()])
    whole = {
        "mean": mean,
        "low": np.maximum(mean - half, least),
        "high": np.minimum(mean + half, 1),
        "selectivity": selectivity,
    }
    return xarray.Dataset(
        {**each, **{name: (axes[:2], values) for name, values in whole.items()}},
        coords={
            "site": [str(site) for site in sites],
            "label": list(named),
            "seed": list(seeds),
            "layer": ("site", [-1 if s.layer is None or s.part == "resid_pre" else s.layer for s in sites]),
            "metric": ("label", ["R^2" if is_number(y) else "accuracy" for y in named.values()]),
        },
    )
