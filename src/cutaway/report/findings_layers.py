"""What happens without heads, and where factors are read and used along the layers: measured on one set of scenes."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
import xarray
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.data import Pair, render
from cutaway.methods.linear_probing import linear_probing
from cutaway.methods.linear_probing.erasure import erase
from cutaway.model.edits import Ablate, Edit
from cutaway.model.model import Model
from cutaway.model.tokens import Where
from cutaway.questions.drawn import apart
from cutaway.questions.labels import scene_labels
from cutaway.questions.rows import Rows, recorded
from cutaway.report.findings_scenes import (
    FACTORS,
    PROBED,
    TOLD,
    Retrieval,
    lone_pairs,
    lone_scenes,
    patching,
    resampled,
)
from cutaway.store.reducers import Mean
from cutaway.store.stored import Store

SET = 3  # heads that are ablated together
RANDOM_SETS = 80  # the least p is 1 in 81, below 5 % for each of four factors together
ERASURES = 99  # random bases
REFERENCE = 256  # scenes of which heads have their mean
PROBES, MEANS, BATCH = ("vision.*.resid_post",), ("vision.*.attn.z",), 128
Place = tuple[int, int]  # layer, head


def named_heads(found: xarray.Dataset, factor: str) -> list[Place]:
    """The heads whose texts about a factor explain the most, in variance: at most `SET`, none without such a text."""
    weight = (found["named"].sel(factor=factor) * found["variance"]).transpose("layer", "head").values
    order = [int(i) for i in np.argsort(-weight, axis=None, kind="stable")[:SET] if weight.flat[i] > 0]
    return sorted((i // weight.shape[1], i % weight.shape[1]) for i in order)


def ablation(
    model: Model, found: xarray.Dataset, n: int, seed: int, told: TOLD, rows: Store | None = None
) -> xarray.Dataset:  # fmt: skip
    """What mean-ablating the heads named for a factor costs on the pairs of every factor, beside random heads.

    `found` names the heads, on other scenes than these; NaN where it names none. `drop` (ablated, factor): how many
    fewer choices are right, `margin`: the share of the mean margin lost, both with `_low` and `_high` from a bootstrap
    over pairs; `random_drop` and `random_margin` (factor, draw): the same without `SET` heads drawn from all.
    """
    pairs, reference = max(8, n // 16), min(n, REFERENCE)
    given = {factor: Retrieval(model, some) for factor, some in lone_pairs(pairs, seed, 6).items()}
    means = _mean_heads(model, lone_scenes(reference, seed, 3) if rows is None else rows)
    chosen = [named_heads(found, factor) for factor in FACTORS]
    drawn = random_sets(found.sizes["layer"], found.sizes["head"], np.random.default_rng(seed))
    cells, lost = [_without(heads or drawn[0], means) for heads in (*chosen, *drawn)], []
    for factor in FACTORS:
        told(f"ablating heads, {factor}")
        lost.append(costs(given[factor].clean(), given[factor].under(cells), seed))
    data = xarray.concat(lost, "factor").assign_coords(factor=list(FACTORS), ablated=list(FACTORS))
    own = [f"{of}{end}" for of in ("drop", "margin") for end in ("", "_low", "_high")]
    data[own] = data[own].where(xarray.DataArray([bool(heads) for heads in chosen], dims="ablated"))
    data["heads"] = ("ablated", [", ".join(f"{layer}.{head}" for layer, head in heads) or "none" for heads in chosen])
    return data.assign_attrs(pairs=pairs, draws=len(drawn), reference=reference)


def random_sets(layers: int, heads: int, draw: np.random.Generator) -> list[list[Place]]:
    """Different sets of `SET` heads, drawn from all."""
    every: set[tuple[Place, ...]] = set()
    while len(every) < min(RANDOM_SETS, comb(layers * heads, SET)):
        flat = sorted(draw.choice(layers * heads, SET, replace=False).tolist())
        every.add(tuple((one // heads, one % heads) for one in flat))
    return [list(one) for one in sorted(every)]


def _mean_heads(model: Model, rows: Rows) -> dict[str, Tensor]:
    means: dict[str, Mean] = {}
    for run in recorded(model, rows, "vision", MEANS, progress=False):
        for name, value in run.activations.items():
            means.setdefault(name, Mean()).add(value)
    return {name: one.value[None].to(value.dtype) for name, one in means.items()}


def _without(heads: Sequence[Place], means: dict[str, Tensor]) -> list[Edit]:
    return [Ablate(f"vision.{layer}.attn.z", "mean", means, head=head) for layer, head in heads]


def costs(clean: Float[ndarray, "pair 2"], under: Float[ndarray, "cell pair 2"], seed: int) -> xarray.Dataset:
    """Drop of the share of right choices and of the margin: of one cell a factor with intervals, of the rest plain."""
    weights, whole = resampled(len(clean), seed), clean.mean() or np.nan
    drop = (clean > 0).mean(1) - (under > 0).mean(2)  # cell, pair
    margin = 1 - under.mean((1, 2)) / whole
    own = slice(len(FACTORS))
    again = weights @ clean.mean(1)
    lost = 1 - (under[own].mean(2) @ weights.T) / np.where(again == 0, np.nan, again)
    data = xarray.Dataset({"drop": ("ablated", drop[own].mean(1)), "margin": ("ablated", margin[own])})
    for name, values in (("drop", drop[own] @ weights.T), ("margin", lost)):
        low, high = np.quantile(values, (0.025, 0.975), axis=1)
        data[f"{name}_low"], data[f"{name}_high"] = ("ablated", low), ("ablated", high)
    data["random_drop"], data["random_margin"] = (
        ("draw", drop[len(FACTORS) :].mean(1)),
        ("draw", margin[len(FACTORS) :]),
    )
    return data


# --- where factors are read and used ----------------------------------------------------------------------------------


def layers(
    model: Model, n: int, seed: int, told: TOLD, rows: Store | None = None, *, with_erasure: bool = True
) -> xarray.Dataset:  # fmt: skip
    """Along the layers, at the class token: what probes read, what patching recovers; what erasing costs at the end.

    `read`, `read_low`, `read_high`, `selectivity` (factor, layer), `majority` (factor); `used`, `used_low`,
    `used_high`, `used_random`, `used_random_high` (factor, layer): recovery in minimal pairs; `kept` (factor): the
    share of the margin for the own caption that is left after the probe's directions are erased in the last layer, and
    `kept_random` (factor, draw) after as many random ones are.
    """
    some = lone_scenes(n, seed, 2)
    truth = scene_labels(some)
    told("probing")
    probes = linear_probing(
        model, some if rows is None else rows, {factor: truth[PROBED[factor]] for factor in FACTORS}, sites=PROBES,
        seeds=tuple(10 * seed + split for split in range(3)), batch=BATCH, progress=False,
    )  # fmt: skip
    renamed = {"mean": "read", "low": "read_low", "high": "read_high", "label": "factor"}
    data = probes.data[["mean", "low", "high", "selectivity"]].rename(renamed)
    data["majority"] = probes["majority"].mean(("site", "seed")).rename(label="factor")
    data = data.swap_dims(site="layer").drop_vars(["site", "metric"])
    given, curves = lone_pairs(max(8, n // 8), seed, 7), []
    for factor in FACTORS:
        told(f"patching layers, {factor}")
        curve = patching(model, given[factor], over=(), at=Where("cls"), seed=seed, batch=64).drop_vars("used")
        curves.append(curve.rename({k: f"used_{k}" for k in ("low", "high", "random", "random_high")}))
    data = data.merge(xarray.concat(curves, "factor").rename(mean="used").assign_coords(factor=list(FACTORS)))
    if with_erasure:
        data = data.merge(_erased(model, some if rows is None else rows, truth, given, seed, told))
    return data.transpose("factor", "layer", ...).assign_attrs(items=n, pairs=max(8, n // 8))


def _erased(
    model: Model, rows: Rows, truth: dict[str, Any], given: dict[str, list[Pair]], seed: int, told: TOLD
) -> xarray.Dataset:  # fmt: skip
    site = f"vision.{model.sites.towers()['vision'] - 1}.resid_post"
    kept, random = [], []
    for factor in FACTORS:
        told(f"erasing {factor}")
        one = erase(
            model, rows, truth[PROBED[factor]], site=site, target=apart(model, given[factor])[2], read=(),
            on=model.inputs(image=[render(pair.a) for pair in given[factor]]), draws=ERASURES, seed=seed, test=0.1,
            batch=BATCH, progress=False,
        )  # fmt: skip
        clean = float(one["target"].sel(condition="clean")) or np.nan
        kept.append(float(one["target"].sel(condition="erased")) / clean)
        random.append(one["target_random"].values / clean)
    return xarray.Dataset(
        {"kept": ("factor", kept), "kept_random": (("factor", "draw"), np.stack(random))},
        coords={"factor": list(FACTORS)},
    )
