"""A steering bench: how much of the way from one answer to another a direction goes, and what else it changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.result import Provenance, Result, labels
from cutaway.methods.task_vectors.states import (
    Moved,
    batches_of,
    choices,
    chosen_sites,
    picked,
    random_directions,
    usual_position,
)
from cutaway.methods.task_vectors.vectors import How, SteeringVector, steering_vector, stepped
from cutaway.model.edits import Edit
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.targets import Target, numbers
from cutaway.model.tokens import Positions

METHOD = "steering"
SOURCE = (
    "Turner et al. 2023, arXiv 2308.10248; Rimsky et al. 2023, arXiv 2312.06681; Arditi et al. 2024, arXiv 2406.11717"
)
ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
WAYS: tuple[How, ...] = ("add", "bend")
ONE = 1.0  # the whole direction


@dataclass(frozen=True, eq=False, repr=False)
class Steering(Result):
    """What a direction does at each layer, in each way, by each multiple alpha of it.

    `value` (way, layer, alpha): the target, mean over rows; `share`: of the gap to the counterfactual (0 as it is, 1 as
    there). `cost`: the mean of KL(before || steered) over the others, in nats; `kept`: the share of the others that say
    the same first. `random_value`, `random_share`, `random_cost`, `random_kept`: the mean over random directions of the
    same length, with `_low` and `_high`, the smallest and the largest. `out_value`, `out_share`, `out_cost`, `out_kept`
    (layer) and `random_out_…`: with the direction projected out of the inputs. `here`, `there`: the target unedited;
    `length` (layer): of the direction, `state` (layer) of the states that it is added to.
    """

    main: ClassVar[str] = "share"

    @property
    def best(self) -> int:
        """The place of the layer whose direction, added whole, goes farthest for the least others that it changes."""
        whole = self.data.isel(way=0).sel(alpha=ONE)
        lost = (1 - whole["kept"]).fillna(0.0)
        return int((whole["share"].clip(-1, 1) - lost).fillna(-2.0).argmax("layer"))

    def summary(self) -> Any:
        """Each layer with the whole direction added: how far it goes and what it costs, beside random directions."""
        whole = self.data.isel(way=0).sel(alpha=ONE)
        names = ["share", "random_share", "cost", "random_cost", "kept", "random_kept"]
        frame = whole[[name for name in names if whole[name].notnull().any()]].to_dataframe().reset_index()
        frame = frame.drop(columns=[name for name in ("way", "alpha", "site") if name in frame])
        return frame.assign(out_share=self["out_share"].values, random_out_share=self["random_out_share"].values)

    def note(self) -> str:
        """What the whole direction is, and what is missing."""
        said = f"alpha {ONE:g} is the whole difference of the two inputs' states at the position where it is added."
        return said if self["cost"].notnull().any() else f"{said} Without other inputs no cost was measured."

    def _draw(self, ax: Axes) -> None:
        at = self.best
        alphas = self["alpha"].values
        for way in self["way"].values:
            here = self.data.sel(way=way).isel(layer=at)
            line = ax.plot(alphas, here["share"], marker="o", label=f"share of the gap, {way}")[0]
            if here["kept"].notnull().any():
                ax.plot(alphas, here["kept"], linestyle="--", color=line.get_color(), label=f"others kept, {way}")
        ax.plot(alphas, self["random_share"].isel(layer=at), color="gray", label="random directions")
        chance = self.data.isel(layer=at)
        ax.fill_between(alphas, chance["random_share_low"], chance["random_share_high"], color="gray", alpha=0.15)
        ax.set(xlabel="alpha", ylabel="share", title=f"layer {labels(self['share'], 'layer')[at]}")
        ax.legend(fontsize=7)


@torch.no_grad()
def steering(
    model: Model, inputs: Inputs, counterfactual: Inputs, target: Target, *,
    others: Inputs | Sequence[Inputs] = (), vector: SteeringVector | None = None,
    sites: str | Sequence[str] | None = None, at: Positions | None = None,
    alphas: Sequence[float] = ALPHAS, ways: Sequence[How] = WAYS, draws: int = 3, seed: int = 0, progress: bool = True,
) -> Steering:  # fmt: skip
    """Steer inputs along a direction by more and more, and see what they and other inputs then say.

    x <- x + alpha v (`add`), or the same at the old length of x (`bend`), at one site after another and the positions
    `at`; and x <- x - (x v') v / |v|^2 (`out`). v is the mean state of the `counterfactual` less that of the inputs, or
    of a `vector` that was found elsewhere. share = (m(alpha) - m) / (m_counterfactual - m), m the target. The cost is
    read off `others`, inputs whose answers should stay: KL of what they say, and how many still say the same first.
    Beside each number stand `draws` random directions of the same length.

    Units: shares, nats, the target's own. Source: Turner et al. 2023, arXiv 2308.10248; Rimsky et al. 2023, arXiv
    2312.06681; Arditi et al. 2024, arXiv 2406.11717 (`out`). `bend` turns x in the plane of x and v, and goes less far
    than v; cost, chance and the sweep over layers are ours.

    What it can NOT tell: that the model itself moves along this direction. At the position that the answer is read at,
    alpha 1 is the other input's own state at every layer, so a share of 1 late is by construction; it is the cost to
    others that says whether the direction is about the difference or about these two inputs. Random directions are
    spread evenly, states are not: a random one mostly points where the model reads little.

    >>> import cutaway
    >>> from cutaway import targets
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> here, there = model.inputs(text="a red dog"), model.inputs(text="a blue dog")
    >>> found = steering(model, here, there, targets.logit_diff("cat", "dog"), progress=False)
    >>> found["share"].dims, round(float(found["share"].sel(way="add", alpha=1.0).isel(layer=-1)), 6)
    (('way', 'layer', 'alpha'), 1.0)
    """
    started = time.perf_counter()
    chosen = chosen_sites(model, sites)
    where = usual_position(model, chosen[0].tower) if at is None else at
    _check(alphas, draws)
    given = "" if vector is None else repr(vector)
    if vector is None:
        vector = steering_vector(model, counterfactual, inputs, sites=list(map(str, chosen)), at=where, progress=False)
    else:
        vector.check(model, *chosen)
    bench = _Bench(model, chosen, where, _nonzero(alphas), tuple(ways), vector, draws, seed)
    data = bench(inputs, counterfactual, target, list(batches_of(others)))
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(map(str, chosen)), seed=seed, at=repr(where),
        alphas=list(alphas), ways=list(ways), draws=draws, target=repr(target), unit=target.unit,
        vector=given,
    )  # fmt: skip
    return Steering(data, told)


def _nonzero(alphas: Sequence[float]) -> tuple[float, ...]:
    """Each alpha once, that of the whole direction among them; 0 changes nothing and is not run."""
    return tuple(alpha for alpha in dict.fromkeys([*map(float, alphas), ONE]) if alpha)


def _check(alphas: Sequence[float], draws: int) -> None:
    if draws < 1 or not all(np.isfinite(alphas)):
        raise MethodError(
            f"alphas {list(alphas)}, {draws} random directions", expected="finite numbers, one direction at least",
            do="leave them out",
        )  # fmt: skip


# --- what is run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bench:
    """The options of one call."""

    model: Model
    sites: list[Site]
    at: Any
    alphas: tuple[float, ...]
    ways: tuple[How, ...]
    vector: SteeringVector
    draws: int
    seed: int

    def __call__(self, inputs: Inputs, other: Inputs, target: Target, others: list[Inputs]) -> xarray.Dataset:
        """Every number, by way, layer and alpha."""
        here, there = (float(numbers(target, _run(self.model, one)).mean()) for one in (inputs, other))
        cells = self._cells()
        found = {"value": (_swept(self.model, inputs, cells, target).mean(-1), here)}
        gap = there - here or np.nan
        found["share"] = (found["value"][0] - here) / gap, 0.0 * gap
        found |= self._cost(others, cells)
        data: dict[str, Any] = {"here": ((), here), "there": ((), there)}
        for name, (values, still) in found.items():
            data |= self._named(name, values.reshape(len(self.sites), -1), still)
        sites = [str(site) for site in self.sites]
        data["state"] = "layer", _lengths(self.model, inputs, self.sites, self.at)
        data["length"] = "layer", [self.vector.length[site] for site in sites]
        layers = [site.layer if site.layer is not None else -1 for site in self.sites]
        coords = {"way": list(self.ways), "layer": layers, "site": ("layer", sites), "alpha": [*self.alphas, 0.0]}
        return xarray.Dataset(data, coords=coords).sortby("alpha")

    def _cells(self) -> list[list[Edit]]:
        """For each site: the direction in every way by every alpha, and out; then random ones in the first way."""
        dice, cells = torch.Generator().manual_seed(self.seed), []
        where: dict[str, Any] = {} if self.at is None else {"token": self.at}
        for site in map(str, self.sites):
            given = self.vector.tensors[site]
            for draw, one in enumerate([given, *random_directions(given, self.draws, dice, by_step=stepped(site))]):
                made = SteeringVector({site: one}, {}, self.vector.on)
                ways = self.ways[:1] if draw else self.ways
                cells += [made.edits(alpha, how=way, **where) for way in ways for alpha in self.alphas]
                cells.append(made.edits(how="out", **where))
        return cells

    def _cost(self, others: list[Inputs], cells: list[list[Edit]]) -> dict[str, tuple[ndarray, float]]:
        """What the others say then, against what they say: the mean of KL, and the share with the same first choice."""
        count, cost, kept = 0, np.zeros(len(cells)), np.zeros(len(cells))
        for inputs in others:
            before = choices(self.model.run(inputs))
            both = _swept(self.model, inputs, cells, Moved(before)).reshape(len(cells), 2, -1)
            count += both.shape[-1]
            cost += both[:, 1].sum(-1)
            kept += (both[:, 0] == before.argmax(-1).cpu().numpy()).sum(-1)
        known = float(count or np.nan)
        return {"cost": (cost / known, 0 / known), "kept": (kept / known, known / known)}

    def _named(self, name: str, values: Float[ndarray, "layer cell"], still: float) -> dict[str, Any]:
        """One quantity as variables: of the direction and of chance, steered (`still` where alpha is 0) and out."""
        layers, size, own = len(values), len(self.alphas), len(self.ways) * len(self.alphas)
        mine, chance = values[:, : own + 1], values[:, own + 1 :].reshape(layers, self.draws, size + 1)
        steered = mine[:, :-1].reshape(layers, len(self.ways), size).swapaxes(0, 1)
        drawn = _beside(chance[..., :-1], still)
        made: dict[str, Any] = {name: (("way", "layer", "alpha"), _beside(steered, still)),
                                f"out_{name}": ("layer", mine[:, -1])}  # fmt: skip
        for side, of in (("", np.mean), ("_low", np.min), ("_high", np.max)):
            made[f"random_{name}{side}"] = ("layer", "alpha"), of(drawn, axis=1)
            made[f"random_out_{name}{side}"] = "layer", of(chance[..., -1], axis=1)
        return made


def _beside(values: ndarray, still: float) -> ndarray:
    """With what holds for alpha 0 behind the others."""
    return np.concatenate([values, np.full((*values.shape[:-1], 1), still)], -1)


def _run(model: Model, inputs: Inputs) -> Run:
    """A plain run; a drawing as tensors, as a sweep has it."""
    return model.run(inputs, output="pt") if inputs.call.loops else model.run(inputs)


def _swept(model: Model, inputs: Inputs, cells: list[list[Edit]], target: Target) -> Float[ndarray, "cell row"]:
    return np.asarray(model.sweep(inputs, cells, target, progress=False).values.values)


def _lengths(model: Model, inputs: Inputs, sites: Sequence[Site], at: Positions | None) -> list[float]:
    """How long the states are that are steered, mean over them."""
    run = model.run(inputs, record=[str(site) for site in sites])
    found: list[Tensor] = [picked(run, site, at).double().norm(dim=-1).mean() for site in sites]
    return [float(one) for one in found]
