"""The causal check of a probe: take what it reads out of the running model, and see what is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.linear_probing.probe_data import (
    Pool,
    Pooling,
    Probe,
    chance,
    checked,
    fit,
    is_number,
    split,
    states,
)
from cutaway.methods.result import Provenance, Result
from cutaway.model.edits import Add, Edit, Project
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.targets import Target, numbers
from cutaway.questions.rows import Rows, again
from cutaway.store.stored import Store

METHOD = "erasure"
SOURCE = "Elazar et al. 2020, arXiv 2006.00995 (amnesic probing); Ravfogel et al. 2020, arXiv 2004.07667 (INLP)"


@dataclass(frozen=True, eq=False, repr=False)
class Erasure(Result):
    """What is left after the directions of a probe are taken out of the running model.

    `score` (condition, site): held-out accuracy or R^2 of probes that were fitted on the untouched states of each
    site, on runs that are `clean`, `erased`, or had as many `random` directions taken out in which the data vary
    otherwise; `majority` is the floor. `target` (condition): the mean of a target, where one was given, and
    `target_random` (draw) that of each random draw.
    """

    main: ClassVar[str] = "score"

    def summary(self) -> Any:
        """One row a site, one column a condition."""
        return self["score"].to_pandas().T.reset_index()

    def _draw(self, ax: Axes) -> None:
        for i, condition in enumerate(self["condition"].values):
            places = np.arange(self.data.sizes["site"]) + (i - 1) * 0.27
            ax.bar(places, self["score"].sel(condition=condition), 0.25, label=str(condition))
        ax.axhline(float(self["majority"]), color="gray", linestyle=":", label="floor")
        ax.set_xticks(range(self.data.sizes["site"]), [str(site) for site in self["site"].values], fontsize=8)
        ax.set(ylabel="held-out score")
        ax.legend(fontsize=8)


def erase(
    model: Model, rows: Rows, labels: Any, *, site: str, read: Sequence[str] | None = None,
    pool: Pool = "pooled", rounds: int = 1, target: Target | None = None, on: Inputs | None = None, test: float = 0.25,
    penalty: float = 10.0, draws: int = 3, seed: int = 0, batch: int = 32, progress: bool = True,
) -> Erasure:  # fmt: skip
    """Take the directions a probe reads out of the running model, and see what later sites and a target lose.

    x <- x - Q Q' (x - mean x) at `site`, on the positions the probe was given, with Q an orthonormal basis of the
    probe's weights, in the states' own units; `rounds` > 1 fits and removes again (INLP). Probes of the sites `read`
    (by default `site`, the last residual stream and the end of the tower; none for a target alone, where `rows` may be
    a `Store`) are fitted on untouched training items and scored on held-out items of clean, erased and randomly erased
    runs. `target` is measured on the inputs `on`. Random directions are drawn as the states vary where the label is the
    same: sum g_i r_i with g_i normal and r_i the state less what its label says of it (the mean of its class, or a
    straight line in numbers). Drawn evenly they hold next to nothing of the data, and anything would look large beside.

    Units: accuracy or R^2; the target's own. Source: Elazar et al. 2020, arXiv 2006.00995; Ravfogel et al. 2020, arXiv
    2004.07667. We keep the mean, so that only differences between items go; theirs draws its directions evenly.

    What it can NOT tell: that the property is gone: later layers read other positions too, one round leaves what
    correlated directions carry, and what else lay in those directions is lost with it.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> from cutaway.questions.labels import scene_labels
    >>> scenes = [scene_at("test", i) for i in range(24)]
    >>> x, model = scene_labels(scenes)["x"], cutaway.load("tiny:clip")
    >>> found = erase(model, scenes, x, site="vision.1.resid_post", draws=1, progress=False)
    >>> found["condition"].values.tolist()
    ['clean', 'erased', 'random']
    """
    started = time.perf_counter()
    at = model.sites.one(site)
    _check(rounds, draws, target, on)
    pooling, sites = Pooling.of(model, at.tower, pool), _read_at(model, at, read)
    items = None if isinstance(rows, Store) and not sites else again(model, rows, at.tower)
    record = model.sites.select([site, *map(str, sites)])
    clean = states(model, rows if items is None else items, record, pooling, batch=batch, progress=progress)
    y = checked(labels, len(clean[site]), "labels")
    train, held = split(y, test, seed)
    x = clean[site][train]
    probes = {str(s): fit(clean[str(s)][train], y[train], penalty) for s in sites}
    basis, mean = _removable(x, y[train], rounds, penalty), x.mean(0)
    noise = varied(unlabelled(x, y[train]), len(basis), draws, seed)
    runs: dict[str, list[list[Edit]]] = {
        "clean": [[]],
        "erased": [erasing(at, pooling, basis, mean)],
        "random": [erasing(at, pooling, directions, mean) for directions in noise],
    }
    kept = [] if items is None else [items[i] for i in held]
    under = partial(states, model, kept, sites, pooling, batch=batch, progress=progress)
    scores = _scores(runs, probes, y[held], under) if probes else np.empty((3, 0))
    data = xarray.Dataset(
        {"score": (("condition", "site"), scores), "majority": ((), chance(y[train], y[held]))},
        coords={"condition": list(runs), "site": [str(s) for s in sites]},
    )
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(map(str, sites)), seed=seed, erased_at=site,
        directions=len(basis), rounds=rounds, pool=pool, draws=draws, penalty=penalty, target=repr(target),
    )  # fmt: skip
    return Erasure(data.assign(_reached(model, on, target, runs)), told)


def _scores(
    runs: dict[str, list[list[Edit]]], probes: dict[str, Probe], y: ndarray,
    under: Callable[..., dict[str, Float[ndarray, "item unit"]]],
) -> Float[ndarray, "condition site"]:  # fmt: skip
    """The score of every probe in every condition, mean over its draws."""
    rows = []
    for several in runs.values():
        seen = [under(edits=edits) for edits in several]
        rows.append([np.mean([probe.score(one[site], y) for one in seen]) for site, probe in probes.items()])
    return np.array(rows)


def _reached(
    model: Model, on: Inputs | None, target: Target | None, runs: dict[str, list[list[Edit]]]
) -> dict[str, Any]:  # fmt: skip
    """The mean of the target in every condition, and in each random draw; nothing where there is no target."""
    if target is None or on is None:
        return {}
    clean = float(numbers(target, model.run(on)).mean())
    swept = model.sweep(on, [*runs["erased"], *runs["random"]], target, progress=False).values.values
    erased, *random = swept.reshape(1 + len(runs["random"]), -1).mean(1).tolist()
    return {"target": ("condition", [clean, erased, float(np.mean(random))]), "target_random": ("draw", random)}


def unlabelled(x: Float[ndarray, "item unit"], y: ndarray) -> Float[ndarray, "item unit"]:
    """The states less what their labels say of them: the mean of a class, or a straight line in numbers."""
    known = np.stack([y, np.ones(len(y))], 1) if is_number(y) else (y[:, None] == np.unique(y)).astype(float)
    return np.asarray(x - known @ np.linalg.lstsq(known, x, rcond=None)[0])


def varied(rest: Float[ndarray, "item unit"], k: int, draws: int, seed: int) -> list[Float[ndarray, "k unit"]]:
    """Orthonormal bases of k random directions each, drawn with the covariance of these states."""
    draw = np.random.default_rng(seed)
    return [np.linalg.qr((draw.standard_normal((k, len(rest))) @ rest).T)[0].T for _ in range(draws)]


def _check(rounds: int, draws: int, target: Target | None, on: Inputs | None) -> None:
    if rounds < 1 or draws < 1:
        raise MethodError(
            f"cannot erase in {rounds} rounds beside {draws} draws", expected="at least one round and one draw",
            do="leave them out: one round, three draws",
        )  # fmt: skip
    if (target is None) != (on is None):
        raise MethodError(
            "a target needs inputs to be read on, and the other way round", expected="`target` and `on`, or neither",
            do="pass `on=model.inputs(…)`",
        )  # fmt: skip


def _read_at(model: Model, at: Site, read: Sequence[str] | None) -> list[Site]:
    if at.axes[-1] != "d_model":
        raise MethodError(
            f"'{at}' has no d_model axis", expected="a site of the residual stream or of what adds to it",
            exists=", ".join(at.axes), do=f"take one such as '{at.tower}.*.resid_post'",
        )  # fmt: skip
    if read is not None:
        return model.sites.select(read)
    last = model.sites.towers()[at.tower] - 1
    ends = [name for part in ("joint", "final") if (name := f"{at.tower}.{part}") in model.sites]
    return model.sites.select([str(at), f"{at.tower}.{last}.resid_post", *ends[:1]])


def _removable(x: Float[ndarray, "item unit"], y: ndarray, rounds: int, penalty: float) -> Float[ndarray, "k unit"]:
    """An orthonormal basis of what successive probes read."""
    found: list[ndarray] = []
    for _ in range(rounds):
        new = fit(x, y, penalty).directions()
        x = x - (x - x.mean(0)) @ new.T @ new
        found.append(new)
    basis, sizes, _ = np.linalg.svd(np.concatenate(found).T, full_matrices=False)
    return basis.T[sizes > 1e-8]


def erasing(site: Site, pooling: Pooling, basis: Float[ndarray, "k unit"], mean: Float[ndarray, "unit"]) -> list[Edit]:
    """Project the directions out and put the mean back."""
    where = {"token": pooling.selector} if "token" in site.axes else {}
    directions = torch.from_numpy(basis)
    back = directions.T @ (directions @ torch.from_numpy(mean))
    return [Project(site, directions, **where), Add(site, back, **where)]
