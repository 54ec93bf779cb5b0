"""Probes of what is drawn: from which block and step on a thing, its background and its place can be read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.linear_probing.drawn_states import TOWER, Drawn, drawn_states
from cutaway.methods.linear_probing.probe_data import chance, checked, fit, is_number, shuffled_by_type, split
from cutaway.methods.linear_probing.probes import Probes, table
from cutaway.methods.result import Provenance, labels
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.questions.rows import Rows, tracked

METHOD = "linear_probing"
SOURCE = (
    "Alain, Bengio 2016, arXiv 1610.01644; control tasks: Hewitt, Liang 2019, arXiv 1909.03368; of denoisers: Chen, "
    "Viégas, Wattenberg 2023, arXiv 2306.05720"
)


@dataclass(frozen=True, eq=False, repr=False)
class DrawnProbes(Probes):
    """The same at each `step` of a drawing: held-out scores (site, step, label, seed), and for maps AUC.

    AUC: of a point in the thing and one beside it, how often the first is given the higher number. Of a map `control`
    is the score of maps of other drawings, and `majority` that of the mean map of the training drawings at that point.
    `items` (label): how many pictures have the label.
    """

    def summary(self) -> Any:
        """For each label, the best site and step."""
        import pandas

        names = ("mean", "low", "high", "selectivity")
        majority, rows = self["majority"].isel(site=0, step=0).mean("seed"), []
        for at, label in enumerate(labels(self["mean"], "label")):
            mean = self["mean"].isel(label=at)
            site, step = np.unravel_index(int(mean.fillna(-np.inf).values.argmax()), mean.shape)
            best = self.data.isel(label=at, site=int(site), step=int(step))
            rows.append((label, best["site"].item(), best["step"].item(), *(float(best[name]) for name in names),
                         float(majority[at])))  # fmt: skip
        return pandas.DataFrame(rows, columns=["label", "site", "step", *names, "majority"])

    def _draw(self, ax: Axes) -> None:
        """A map of blocks and steps for each label side by side, each from its own floor to 1."""
        names, wide = labels(self["mean"], "label"), self.data.sizes["step"]
        floors = [float(self["majority"].isel(label=at).mean()) for at in range(len(names))]
        maps = [self["mean"].isel(label=at).transpose("site", "step").values for at in range(len(names))]
        parts = [np.clip((one - low) / max(1 - low, 1e-12), 0, 1) for one, low in zip(maps, floors, strict=True)]
        gap = np.full((len(maps[0]), 1), np.nan)
        image = ax.imshow(np.concatenate([part for one in parts for part in (one, gap)][:-1], 1), aspect="auto", vmin=0,
                          vmax=1)  # fmt: skip
        starts = [at * (wide + 1) for at in range(len(names))]
        steps = [str(step) for step in self["step"].values]
        ax.set_xticks([start + at for start in starts for at in range(wide)], steps * len(names), fontsize=6)
        ax.set_yticks(range(len(maps[0])), [str(site) for site in self["site"].values], fontsize=6)
        for start, name, low in zip(starts, names, floors, strict=True):
            metric = str(self["metric"].sel(label=name).values)
            ax.text(start + (wide - 1) / 2, -0.7, f"{name} ({metric}, floor {low:.2f})", ha="center", fontsize=7)
        ax.set_xlabel("step")
        ax.figure.colorbar(image, ax=ax, label="held-out score, from the floor (0) to 1")


def drawing_probing(
    model: Model, rows: Rows, given: Mapping[str, Any], *, sites: str | Sequence[str] | None, types: Any,
    steps: int | Sequence[int], guidance: str, test: float, seeds: Sequence[int], penalty: float, batch: int,
    progress: bool,
) -> DrawnProbes:  # fmt: skip
    """`linear_probing` of a denoiser, which says what is fitted and how it is split."""
    started = time.perf_counter()
    chosen = model.sites.select(sites) if sites else usual_sites(model)
    found = drawn_states(model, rows, chosen, given, steps=steps, guidance=guidance, batch=batch, progress=progress)
    ran = [site for site in chosen if (str(site), found.steps[0]) in found.mean]
    every = {name: _Label.of(name, found, types) for name in found.labels}
    scores = np.zeros((3, len(found.steps), len(ran), len(every), len(seeds)))
    todo = [(t, s, k) for t in range(len(found.steps)) for s in range(len(ran)) for k in range(len(seeds))]
    for t, s, k in tracked(todo, "probing", len(todo), show=progress):
        for n, label in enumerate(every.values()):
            key = str(ran[s]), found.steps[t]
            scores[:, t, s, n, k] = label.scores(
                (found.spots if label.maps is not None else found.mean)[key], test, seeds[k], penalty
            )
    data = xarray.concat(
        [table(one, ran, {name: label.y for name, label in every.items()}, seeds, test)
         for one in scores.swapaxes(0, 1)],
        xarray.DataArray(list(found.steps), dims="step", name="step"), coords="minimal", compat="override",
    ).transpose("site", "step", "label", "seed")  # fmt: skip
    data["metric"] = "label", ["AUC" if one.maps is not None else str(data["metric"].values[n])
                               for n, one in enumerate(every.values())]  # fmt: skip
    data["items"] = "label", [len(one.rows) for one in every.values()]
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(map(str, ran)), seed=int(seeds[0]), seeds=list(seeds),
        tower=TOWER, steps=list(found.steps), guidance=guidance, test=test, penalty=penalty, items=len(found.prompts),
        types="prompts" if types is None else "given",
    )  # fmt: skip
    return DrawnProbes(data, told)


def usual_sites(model: Model) -> list[Site]:
    """The picture as the denoiser gets it, and the picture's stream after each block (of convolution, without any)."""
    every = [site for site in model.sites if site.tower == TOWER and not site.dead and site.stream != "text"]
    for part in ("resid_post", "res.out"):
        found = [site for site in every if site.part in ("latent", part)]
        if any(site.part == part for site in found):
            return found
    raise MethodError(
        f"'{model.name}' has no denoiser with blocks", expected="a pipeline that draws",
        exists=", ".join(model.towers), do="see `cutaway methods` for what fits it",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Label:
    """One label: the pictures that have it (`rows`), theirs (`y`), their types; of maps these, and places on them."""

    rows: Shaped[ndarray, " labelled"]
    y: ndarray
    types: ndarray
    maps: Bool[ndarray, "picture row column"] | None = None
    places: tuple[ndarray, ndarray] | None = None  # of the points: row and column, each (picture, point)

    @classmethod
    def of(cls, name: str, found: Drawn, types: Any) -> _Label:
        """A label of these drawings; those without it ("" or NaN) are left out."""
        count, values = len(found.prompts), found.labels[name]
        own = types.get(name) if isinstance(types, Mapping) else types
        kinds = np.array(found.prompts) if own is None else np.asarray(own)
        if len(kinds) != count or len(values) != count:
            raise MethodError(
                f"'{name}' has {len(values)} labels and {len(kinds)} types",
                expected=f"one for each of {count} pictures", do="give as many as there are pictures, in their order",
            )  # fmt: skip
        every = np.arange(count)
        if values.ndim == 3:
            rows, columns = (found.points * values.shape[1:]).astype(int).transpose(2, 0, 1)
            maps = values.astype(bool)
            return cls(every, maps[every[:, None], rows, columns], kinds, maps, (rows, columns))
        there = np.flatnonzero(~np.isnan(values) if is_number(values) else values.astype(str) != "")
        return cls(there, checked(values[there], len(there), name), kinds[there])

    def scores(self, x: ndarray, test: float, seed: int, penalty: float) -> tuple[float, float, float]:
        """Score, control score and floor of one split, in which no type is on both sides."""
        train, held = _apart(self.types, None if self.maps is not None else self.y, test, seed)
        if self.maps is not None and self.places is not None:
            return _of_maps(x, self.maps, self.places, (train, held), seed, penalty)
        x, control = x[self.rows], shuffled_by_type(self.y, self.types, seed)
        trivial = len(np.unique(control[train])) < 2
        return (
            fit(x[train], self.y[train], penalty).score(x[held], self.y[held]),
            1.0 if trivial else fit(x[train], control[train], penalty).score(x[held], control[held]),
            chance(self.y[train], self.y[held]),
        )


def _of_maps(
    x: Float[ndarray, "picture point unit"], maps: Bool[ndarray, "picture row column"],
    places: tuple[ndarray, ndarray], parts: tuple[ndarray, ndarray], seed: int, penalty: float,
) -> tuple[float, float, float]:  # fmt: skip
    """The same for points of maps: a ridge on 0 and 1, and how well its numbers tell points inside from outside."""
    train, held = parts
    order, made = np.random.default_rng(seed).permutation(len(x)), []
    for of in (np.arange(len(x)), order):
        truth = maps[of[:, None], *places]
        probe = fit(x[train].reshape(-1, x.shape[-1]), truth[train].reshape(-1).astype(float), penalty)
        made.append(_auc(truth[held], probe.values(x[held].reshape(-1, x.shape[-1]))))
    prior = maps[train].mean(0)[places[0][held], places[1][held]]
    return made[0], made[1], _auc(maps[held[:, None], places[0][held], places[1][held]], prior)


def _apart(types: ndarray, y: ndarray | None, test: float, seed: int) -> tuple[ndarray, ndarray]:
    """Training and held-out pictures, types whole; classes keep their shares where each has enough types."""
    named, first, which = np.unique(types, return_index=True, return_inverse=True)
    of_types = np.arange(len(named)).astype(float) if y is None else y[first]
    train, held = split(of_types, test, seed)
    return np.flatnonzero(np.isin(which, train)), np.flatnonzero(np.isin(which, held))


def _auc(truth: Bool[ndarray, "picture point"], values: ndarray) -> float:
    """How often a point inside is given more than one outside; NaN where all points are on one side."""
    from sklearn.metrics import roc_auc_score

    flat = truth.reshape(-1)
    return float(roc_auc_score(flat, values.reshape(-1))) if 0 < flat.mean() < 1 else float("nan")
