"""Several dictionaries beside one another, each over its seeds, with what they are held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray
from matplotlib.axes import Axes

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.baselines import random_dictionary
from cutaway.methods.sparse_autoencoders.seen import Seen
from cutaway.model.dictionary import Dictionary, Neurons
from cutaway.store.reducers import Gram, Moments

Named = Mapping[str, Dictionary | Sequence[Dictionary]]
RANDOM, NEURONS, FEW = "random", "neurons", "neurons, as sparse"


def listed(dictionaries: Named, untrained: Dictionary | Sequence[Dictionary] | None = None) -> dict[str, list[Any]]:
    """The dictionaries by name, each as the list of its seeds; `untrained` behind them under that name."""
    given = {**dictionaries, **({} if untrained is None else {"untrained": untrained})}
    found = {name: list(one) if isinstance(one, Sequence) else [one] for name, one in given.items()}
    if not found or not all(found.values()):
        raise MethodError("no dictionary", expected="one at least under each name", do="`{'topk': dictionary}`")
    taken = sorted({RANDOM, NEURONS, FEW} & set(found))
    if taken:
        raise MethodError(f"'{taken[0]}' is the name of a floor", expected="another name", do="rename it")
    return found


def moments(rows: Iterable[Seen]) -> Moments:
    """Mean and covariance of the rows that a dictionary reads."""
    found = Gram()
    for part in rows:
        found.add(part.x)
    return found.value


def floors(site: str, width: int, k: int, of: Moments, *, seeds: int = 3) -> dict[str, list[Any]]:
    """What any dictionary is held against: random directions of its width and sparsity, and the neurons."""
    mean = of.mean.float()
    return {
        RANDOM: [random_dictionary(site, width, mean, of.covariance, k=k, seed=seed) for seed in range(seeds)],
        NEURONS: [Neurons(site, mean)],
        FEW: [Neurons(site, mean, k)],
    }


def dataset(values: Mapping[str, Mapping[str, Sequence[float]]]) -> xarray.Dataset:
    """A variable for each measure over (dictionary, seed), from measures by dictionary; NaN where there is no seed."""
    seeds = max(len(one) for found in values.values() for one in found.values())
    names = list(dict.fromkeys(name for found in values.values() for name in found))
    table = {
        name: (("dictionary", "seed"), np.array(
            [[*found.get(name, ()), *[np.nan] * (seeds - len(found.get(name, ())))] for found in values.values()]))
        for name in names
    }  # fmt: skip
    return xarray.Dataset(table, coords={"dictionary": list(values), "seed": range(seeds)})


def summed(data: xarray.Dataset, names: Iterable[str]) -> Any:
    """One row a dictionary, one column a measure: its mean over seeds, and the standard deviation of a reseed."""
    import pandas

    rows = []
    for name in data["dictionary"].values:
        one, row = data.sel(dictionary=name), {"dictionary": str(name)}
        for measure in names:
            mean, far = noise(one[measure])
            row[measure] = f"{mean:.3f}" + ("" if np.isnan(far) else f" ± {far:.3f}")
        rows.append(row)
    return pandas.DataFrame(rows)


def noise(values: xarray.DataArray) -> tuple[float, float]:
    """The mean over seeds and the standard deviation of one of them (n - 1); NaN of a single one."""
    known = values.values[~np.isnan(values.values)]
    if not len(known):
        return float("nan"), float("nan")
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else float("nan")


def bars(ax: Axes, data: xarray.Dataset, names: Sequence[str]) -> None:
    """Bars of some measures by dictionary, with the spread over seeds."""
    every = [str(name) for name in data["dictionary"].values]
    wide = 0.8 / len(names)
    for at, measure in enumerate(names):
        found = np.array([noise(data[measure].sel(dictionary=name)) for name in every])
        places = np.arange(len(every)) + (at - (len(names) - 1) / 2) * wide
        ax.bar(places, found[:, 0], wide, yerr=np.nan_to_num(found[:, 1]), label=measure, error_kw={"lw": 0.8})
    low = min([0.0, *(float(one) for name in names for one in data[name].values.ravel() if one < 0)])
    ax.set_xticks(range(len(every)), every, rotation=30, ha="right", fontsize=7)
    ax.set_ylim(max(low * 1.1, -1.0), 1.05)
    ax.axhline(0, color="gray", lw=0.6)
    ax.legend(fontsize=7)
