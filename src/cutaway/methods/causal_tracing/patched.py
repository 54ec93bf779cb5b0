"""What patching runs, and what comes out of it: places put from one run of a pair into the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.windows import windows
from cutaway.model.cells import Cells, placed
from cutaway.model.edits import Ablate, Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.targets import Target, numbers, of_rows
from cutaway.questions.pairs import batches, one_length, same_positions
from cutaway.store.reducers import Mean

DRAWS = 2000


@dataclass(frozen=True)
class Places:
    """What is moved at once, one after another: each some sites with selectors; `dim` is the axis that they lie on."""

    dim: str
    each: tuple[tuple[tuple[Site, Mapping[str, Any]], ...], ...]
    coords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> list[Site]:
        """Every site that is written to, once."""
        return list({str(site): site for place in self.each for site, _ in place}.values())

    @classmethod
    def of(cls, sites: Sequence[Site], wide: int = 1) -> Places:
        """Sites one by one, or layers `wide` in a row at a time: by layer where all are of one kind, else by site."""
        kinds: dict[tuple[str | None, str], list[Site]] = {}
        for site in sites:
            kinds.setdefault((site.stream, site.part), []).append(site)
        of_layers = len({site.part for site in sites}) == 1 and sites[0].layer is not None
        if wide == 1:
            names = {"site": [str(site) for site in sites]}
            layers = {"layer": [site.layer for site in sites], "site": ("layer", names["site"])}
            return cls("layer" if of_layers else "site", tuple(((site, {}),) for site in sites),
                       layers if of_layers else names)  # fmt: skip
        each: list[tuple[tuple[Site, Mapping[str, Any]], ...]] = []
        named: list[str] = []
        for some in kinds.values():
            found = {site.layer: site for site in some if site.layer is not None}
            for name, layers_in in windows(sorted(found), wide).items() if found else ():
                each.append(tuple((found[layer], {}) for layer in layers_in))
                named.append(name if of_layers else str(found[layers_in[0]]).replace(f".{layers_in[0]}.", f".{name}."))
        return cls("layer" if of_layers else "site", tuple(each), {"layer" if of_layers else "site": named})


@dataclass(frozen=True)
class Corruption:
    """What makes the other run of a pair: here the counterfactual as it is given, once."""

    draws: int = 1

    def inputs(self, given: Inputs, start: int, draw: int) -> Inputs:
        """The inputs of the corrupted run; `start` is the number of the first row."""
        return given

    def edits(self, model: Model, given: Inputs, start: int, draw: int) -> list[Edit]:
        """What is held in place while the corrupted run goes on."""
        return []


@dataclass(frozen=True)
class Runs:
    """The options of one call, and the loop over batches."""

    model: Model
    places: Places
    over: tuple[str, ...]
    at: Any
    mode: str
    how: str
    seed: int
    batch: int
    corruption: Corruption = Corruption()

    def __call__(self, one: Any, other: Any, aim: Target) -> tuple[dict[str, ndarray], list[Any]]:
        """The target of every run, rows last, and the token map of every batch."""
        sites = self.places.sites
        tower = sites[0].tower
        average = self._average(one, other) if self.how == "mean" else {}
        found: dict[str, list[ndarray]] = {name: [] for name in ("patched", "random", "clean", "corrupted")}
        maps: list[Any] = []
        for start, stop, here, there in batches(self.model, one, other, tower, self.batch):
            same_positions(here, there, tower, start)
            if "token" in self.over:
                one_length(here, sites[0])
            m = of_rows(aim, start, stop) if stop else aim
            clean = self.model.run(here, record=[str(site) for site in sites])
            draws = [
                self._drawn(here, self.corruption.inputs(there, start, draw), clean, m, average, start, draw, not stop)
                for draw in range(self.corruption.draws)
            ]
            for name in draws[0]:
                found[name].append(np.mean([one[name] for one in draws], 0))
            maps.append(here.tokens.get(tower))
        return {name: np.concatenate(parts, -1) for name, parts in found.items() if parts}, maps

    def _drawn(
        self, here: Inputs, there: Inputs, clean: Run, m: Target, average: Mapping[str, Tensor], start: int, draw: int,
        alone: bool,
    ) -> dict[str, ndarray]:  # fmt: skip
        """The corrupted run of one draw, and every place put from one run into the other.

        Rows that are `alone`, all that there are, are refused before that where none of them moves the target.
        """
        sites, names = self.places.sites, [str(site) for site in self.places.sites]
        held = self.corruption.edits(self.model, there, start, draw)
        with _held(self.model, held, there):
            corrupted = self.model.run(there, record=names)
        known = {"clean": plain(numbers(m, clean)), "corrupted": plain(numbers(m, corrupted))}
        if alone:
            moving(**known)
        swap = self.mode == "noise" or self.how != "patch"
        base, source = (here, corrupted) if swap else (there, clean)
        axes = {axis: range(_size(sites, source, axis)) for axis in self.over}
        donor = corrupted if swap and self.how == "patch" else clean
        unrelated = _shifted(donor, sites, self.seed + start)
        at = self.at(here) if callable(self.at) else self.at
        made = _prototypes(self.places, self.how, source, average, unrelated, at)
        with _held(self.model, [] if swap else held, there):
            swept = {name: _swept(self.model, base, each, axes, m) for name, each in made.items()}
        return {**known, **swept}

    def _average(self, one: Any, other: Any) -> dict[str, Tensor]:
        """The mean of every site over the rows of both sides."""
        sites = self.places.sites
        means = {str(site): Mean() for site in sites}
        for *_, here, there in batches(self.model, one, other, sites[0].tower, self.batch):
            for inputs in (here, there):
                run = self.model.run(inputs, record=list(means))
                for site in sites:
                    means[str(site)].add(run[site].movedim(site.axes.index("batch"), 0))
        rows = {str(site): site.axes.index("batch") for site in sites}
        return {name: mean.value.unsqueeze(rows[name]) for name, mean in means.items()}


def _held(model: Model, edits: Sequence[Edit], inputs: Inputs) -> AbstractContextManager[Any]:
    """Edits in place for the length of a block; nothing where there are none."""
    return model.edited(list(edits), inputs) if edits else nullcontext()


def axis_of(site: Site, axis: str) -> str:
    """An axis by its name at a site: keys and values may have fewer heads, in an axis of their own."""
    return site.head_axis or axis if axis == "head" else axis


def plain(values: Float[Tensor, "row"]) -> Float[ndarray, "row"]:
    """The numbers of a target as an array of double precision."""
    return np.asarray(values.detach().double().cpu().numpy())


def _size(sites: Sequence[Site], run: Run, axis: str) -> int:
    sizes = {run[site].shape[site.axes.index(axis_of(site, axis))] for site in sites}
    if len(sizes) > 1:
        raise MethodError(
            f"these sites have {sizes} values of '{axis}'", expected="as many at each site", do="name sites of one size"
        )
    return int(sizes.pop())


def _shifted(run: Run, sites: Sequence[Site], seed: int) -> dict[str, Tensor] | None:
    """The activations with rows exchanged, none left in place; None when there is only one row."""
    found: dict[str, Tensor] = {}
    for site in sites:
        axis, value = site.axes.index("batch"), run[site]
        rows = value.shape[axis]
        if rows < 2:
            return None
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        moved = torch.empty_like(order)
        moved[order] = order.roll(1)
        found[str(site)] = value.index_select(axis, moved.to(value.device))
    return found


def _prototypes(
    places: Places, how: str, source: Run, average: Mapping[str, Tensor], unrelated: dict[str, Tensor] | None, at: Any
) -> dict[str, list[list[Edit]]]:
    """For the method and its baseline, the edits of each place, still without the axes that are gone over."""
    where = {} if at is None else {"token": at}

    def made(edit: Any, *more: Any) -> list[list[Edit]]:
        return [[edit(str(site), *more, **where, **own) for site, own in place] for place in places.each]

    strange = made(Patch, unrelated) if unrelated else []
    if how == "resample" and not strange:
        raise MethodError("resampling needs a second row", expected="two pairs at least", do="give more pairs")
    mine = strange
    if how == "patch":
        mine = made(Patch, source.activations)
    elif how == "mean":
        mine = made(Ablate, "mean", average)
    elif how == "zero":
        mine = made(Ablate)
    return {"patched": mine, **({"random": [*strange]} if strange else {})}


def _swept(
    model: Model, inputs: Inputs, prototypes: Sequence[Sequence[Edit]], axes: Mapping[str, range], target: Target
) -> Float[ndarray, "site *over row"]:
    """The target of every cell: each place at each combination of values of the axes."""
    cells = [
        [placed(edit, str(edit.site), dict(zip(axes, chosen, strict=True))) for edit in place]
        for place in prototypes
        for chosen in product(*axes.values())
    ]
    found = model.sweep(inputs, Cells.of(cells), target, progress=False).values.values
    return np.asarray(found).reshape(len(prototypes), *(len(values) for values in axes.values()), -1)


# --- what comes out ---------------------------------------------------------------------------------------------------


def table(
    found: dict[str, ndarray], places: Places, over: tuple[str, ...], maps: list[Any], least: float,
    from_clean: bool, seed: int,
) -> xarray.Dataset:  # fmt: skip
    """Shares of the gap by pair and place, their means with intervals; MethodError where the target does not move."""
    clean, corrupted = found["clean"], found["corrupted"]
    gap, moves = clean - corrupted, moving(clean, corrupted)
    used = moves & (abs(gap) >= least * np.median(abs(gap[moves])))
    dims = (places.dim, *over)
    data = xarray.Dataset({"clean": ("pair", clean), "corrupted": ("pair", corrupted), "used": ("pair", used)})
    patched = np.moveaxis(found["patched"], -1, 0)
    scale = np.where(used, gap, np.nan).reshape(-1, *[1] * (patched.ndim - 1))

    def shares(values: ndarray) -> ndarray:
        return (values - corrupted.reshape(scale.shape)) / scale

    data["recovery"] = (("pair", *dims), shares(patched))
    data["effect"] = (dims, (patched - (clean if from_clean else corrupted).reshape(scale.shape)).mean(0))
    random = np.moveaxis(found["random"], -1, 0) if "random" in found else np.full_like(patched, np.nan)
    for three, values in ((("mean", "low", "high"), patched), (("random", "random_low", "random_high"), random)):
        for name, value in zip(three, interval(shares(values)[used], seed), strict=True):
            data[name] = (dims, value)
    return _placed(data.assign_coords({"pair": range(len(clean)), **places.coords}), maps)


def moving(clean: Float[ndarray, " pair"], corrupted: Float[ndarray, " pair"]) -> Bool[ndarray, " pair"]:
    """Which pairs move the target; MethodError where none does."""
    moves = np.asarray(abs(clean - corrupted) > 1e-6 * max(abs(clean).max(), abs(corrupted).max()))
    if not moves.any():
        raise MethodError(
            f"the target does not move: {clean.mean():.3g} clean, {corrupted.mean():.3g} corrupted",
            expected="a target on which the two inputs of a pair differ",
            do="check that it reads what the pairs change, and that the model takes note of it",
        )
    return moves


def interval(values: Float[ndarray, "pair *cells"], seed: int) -> tuple[ndarray, ndarray, ndarray]:
    """Mean over pairs and the 2.5 and 97.5 % points of the means of resampled pairs; one pair has no interval."""
    flat, n, mean = values.reshape(len(values), -1), len(values), np.asarray(values.mean(0))
    if n < 2:
        return mean, np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS) / n
    low, high = np.quantile(weights @ flat, (0.025, 0.975), axis=0)
    return mean, low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def _placed(data: xarray.Dataset, maps: list[Any]) -> xarray.Dataset:
    """Say what each position is, where it is the same in every row."""
    if "token" not in data.sizes or any(known is None or len(known) != data.sizes["token"] for known in maps):
        return data
    columns = {"token_kind": "kind", "row": "row", "col": "col"}
    for name, column in columns.items():
        every = np.concatenate([getattr(known, column) for known in maps])
        if (every == every[0]).all():
            plain_column = every[0].astype(str) if column == "kind" else every[0]
            data = data.assign_coords({name: ("token", plain_column)})
    return data
