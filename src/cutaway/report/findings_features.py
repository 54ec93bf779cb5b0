"""What features say of scenes beside neurons: for each concept the one best unit, chosen and judged apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from cutaway.data import Scene
from cutaway.data.prompts import DRAWINGS
from cutaway.data.worlds import scenes
from cutaway.methods.network_dissection.concept_masks import Concepts, concepts_in
from cutaway.methods.network_dissection.unit_maps import Posed, unit_maps
from cutaway.methods.sparse_autoencoders.baselines import random_dictionary
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.model.dictionary import Neurons, opened
from cutaway.model.fingerprint import fingerprint
from cutaway.model.model import Model
from cutaway.report.findings_scenes import TOLD
from cutaway.store.fitted import Fitted
from cutaway.store.reducers import Gram
from cutaway.zoo.dictionaries import SHIPPED, folder_of

FEATURES, NEURONS, PROBE = "features", "MLP neurons", "probe on the state"
UNITS = (FEATURES, "untrained features", "random directions", "axes of the state", NEURONS, PROBE)
FEWEST = 10  # scenes with and without a concept in each half
TRIES = 20  # shufflings of the scenes
RIDGE = 1e-2  # of the mean variance, for the probe


def coverage(model: Model, n: int, seed: int, told: TOLD, *, name: str, trained: bool = True) -> xarray.Dataset:
    """For each concept of the scenes how well the best single unit tells it: AUROC on scenes that did not choose it.

    `auroc`, `chosen` (units, concept): the unit with the highest AUROC on the even scenes, judged on the odd ones;
    `shuffled` (units, concept): its mean when these are shuffled; `width`, `on` (units): how many units there are, and
    are on at a patch. Of the probe: a ridge regression on the mean state. `name`: the dictionary of the zoo whose site
    it is; a model that is not `trained` has no features. Concepts are `kind: word`.
    """
    shipped = SHIPPED[name]
    some = list(scenes("test", n, seed, DRAWINGS) if shipped.drawn else scenes("test", n, seed))
    posed = Posed(seed=seed, steps=shipped.drawn or Posed.steps)
    known = concepts_in(some, least=4 * FEWEST)
    kept = _judged(known, some)
    shows, rows = known.present(some)[:, kept], {}
    for label, values, on in _collections(model, name, some, posed, trained, seed):
        told(label)
        made = _probed(values, shows) if label == PROBE else best(values, shows, seed)
        rows[label] = made.assign(on=on, width=values.shape[1])
    data = xarray.concat([*rows.values()], xarray.DataArray([*rows], dims="units", name="units"))
    named = [f"{kind}: {word}" for kind, word in (known.names[at] for at in kept)]
    return data.assign_coords(concept=named).assign_attrs(items=n, site=shipped.site, dictionary=name)


def contents() -> tuple[str, ...]:
    """What the dictionaries are, so that a kept section never stands for other weights."""
    return tuple(fingerprint(Fitted.load(folder_of(name)).tensors) for name in sorted({*STEPS} & {*SHIPPED}))


def _judged(known: Concepts, some: list[Scene]) -> Int[ndarray, "concept"]:
    """The concepts that both halves have enough scenes with, and without."""
    shows = known.present(some)
    halves = [shows[at::2].sum(0) for at in (0, 1)]
    enough = [(one >= FEWEST) & (one <= len(some) // 2 - FEWEST) for one in halves]
    return np.flatnonzero(enough[0] & enough[1])


def _collections(
    model: Model, name: str, some: list[Scene], posed: Posed, trained: bool, seed: int
) -> Iterator[tuple[str, Float[ndarray, "scene unit"], float]]:
    """Each kind of unit at a site: the largest of each in every scene, and how many are on at a patch."""
    site, own = model.sites.one(SHIPPED[name].site), opened(f"zoo:{name}")
    if trained:
        yield FEATURES, *_largest(model.with_dictionaries(own), f"{own.target}.features", some, posed)
    states = torch.cat([made.values.float() for made in unit_maps(model, some, site, posed, progress=False)])
    moments = Gram().add(states.flatten(0, 2)).value
    mean, k = moments.mean.float(), int(SHIPPED[name].recipe["k"])
    plain = untrained("topk", str(site), len(mean), centre=mean, width=own.width, k=k, seed=seed)
    chance = random_dictionary(str(site), own.width, mean, moments.covariance.float(), k=k, seed=seed)
    for label, features in (
        ("untrained features", plain.encode(states)),
        ("random directions", chance.encode(states)),
        ("axes of the state", Neurons(str(site), mean).encode(states)),
    ):
        yield label, features.amax((1, 2)).numpy(), float((features > 0).float().sum(-1).mean())
    yield NEURONS, *_largest(model, f"{site.tower}.{site.layer}.mlp.post", some, posed)
    yield PROBE, states.mean((1, 2)).numpy(), float(states.shape[-1])


def _largest(model: Model, site: str, some: list[Scene], posed: Posed) -> tuple[Float[ndarray, "scene unit"], float]:
    """The largest activation of each unit in every scene, and how many are on at a patch."""
    best, on = [], []
    for made in unit_maps(model, some, model.sites.one(site), posed, progress=False):
        best.append(made.values.float().amax((1, 2)))
        on.append((made.values > 0).float().sum(-1).mean((1, 2)))
    return torch.cat(best).numpy(), float(torch.cat(on).mean())


def best(values: Float[ndarray, "scene unit"], shows: Bool[ndarray, "scene concept"], seed: int) -> xarray.Dataset:
    """The unit with the highest AUROC for each concept in the even scenes, judged on the odd ones."""
    first, second = values[::2], values[1::2]
    chosen = aurocs(first, shows[::2]).argmax(0)
    held = aurocs(second, shows[1::2])
    found = held[chosen, np.arange(shows.shape[1])]
    dice, shuffled = np.random.default_rng(seed), np.zeros(shows.shape[1])
    for _ in range(TRIES):
        again = aurocs(second, shows[1::2][dice.permutation(len(second))])
        shuffled += again[chosen, np.arange(shows.shape[1])] / TRIES
    return xarray.Dataset({
        "auroc": ("concept", found), "chosen": ("concept", chosen), "shuffled": ("concept", shuffled),
    })  # fmt: skip


def _probed(values: Float[ndarray, "scene d"], shows: Bool[ndarray, "scene concept"]) -> xarray.Dataset:
    """AUROC on the odd scenes of a ridge regression on the even ones: what any direction of the mean state says."""
    mean = values[::2].mean(0)
    x, y = values[::2] - mean, shows[::2] - shows[::2].mean(0)
    penalty = RIDGE * np.trace(x.T @ x) / x.shape[1]
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    said = (values[1::2] - mean) @ weights
    found = np.array([aurocs(said[:, [at]], shows[1::2][:, [at]])[0, 0] for at in range(shows.shape[1])])
    none = np.full(len(found), -1)
    return xarray.Dataset({
        "auroc": ("concept", found), "chosen": ("concept", none), "shuffled": ("concept", np.full(len(found), 0.5)),
    })  # fmt: skip


def aurocs(
    values: Float[ndarray, "scene unit"], shows: Bool[ndarray, "scene concept"]
) -> Float[ndarray, "unit concept"]:
    """The chance that a unit is larger in a scene with a concept than in one without; ties count half.

    >>> aurocs(np.array([[0.0], [1.0], [2.0]]), np.array([[False], [True], [True]]))
    array([[1.]])
    """
    ranks = _ranks(values)
    with_it = shows.sum(0)
    without = len(shows) - with_it
    sums = ranks.T @ shows.astype(float)
    return np.asarray((sums - with_it * (with_it + 1) / 2) / np.maximum(with_it * without, 1))


def _ranks(values: Float[ndarray, "scene unit"]) -> Float[ndarray, "scene unit"]:
    """Ranks from 1, those of equal values their mean."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=0))


STEPS: Mapping[str, Any] = {
    f"{name}{end}": partial(coverage, name=name, trained=not end)
    for name, one in SHIPPED.items() if not one.target for end in ("", "_floor")
}  # fmt: skip
