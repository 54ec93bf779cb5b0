"""Findings on training data: what methods foretell of retrained models, each on two sets of trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import spearmanr

from cutaway.bench.retrained import Retrained, world
from cutaway.methods.data_attribution import data_attribution, lds, mislabel_auc, retrieval
from cutaway.model.model import Model

SETS, SAME = 2, 1e-3  # of trainings; what scores of items for themselves differ by where they say nothing
CHANCE, LIKENESS, TRACIN, BEFORE = "chance", "representation", "TracIn", "TRAK, before training"
WAYS: Mapping[str, Mapping[str, Any]] = {
    LIKENESS: {"method": "representation"},
    "dot": {"method": "dot", "kind": "whole"},
    "cosine": {"method": "cosine", "kind": "whole"},
    TRACIN: {"method": "dot", "kind": "whole"},
    "TRAK": {"method": "trak", "damping": 0.1},
    "LoGra": {"method": "logra"},
    "EK-FAC": {"method": "ekfac"},
    "DataInf": {"method": "datainf"},
    BEFORE: {"method": "trak", "damping": 0.1},
}
OF_DRAWINGS: Mapping[str, Mapping[str, Any]] = {
    "dot, steps of one length": {"method": "dot", "kind": "whole", "even": True},
    "D-TRAK": {"method": "trak", "damping": 0.1, "measure": "square"},
}  # fmt: skip
WORLDS = ("clip", "llava", "sd")


def traced(_: Model, __: int, seed: int, told: Callable[[str], None], *, name: str) -> xarray.Dataset:
    """Every method in one retrained world, against one half of its trainings; projections are of the seed.

    `lds` (way, query); `wrong`, `copies`, `cue` (way): how well items with another's caption come last or first,
    the share of copies among the first four, and items with the cue before others where that is what misled; NaN where
    a method has nothing to say. `ceiling` (query): how two seeds of training agree on this half.
    """
    made = world(name)
    mine = np.arange(len(made.kept)) % SETS == seed % SETS
    rows: dict[str, list[Any]] = {"lds": [], "wrong": [], "copies": [], "cue": []}
    chance = np.random.default_rng(seed).normal(size=(len(made.queries), len(made.items)))
    ways = {**WAYS, **(OF_DRAWINGS if name == "sd" else {})}
    for way in (CHANCE, *ways):
        told(f"{name}, {way}")
        scores, own = (chance, chance[0]) if way == CHANCE else scored(made, way, seed)
        rows["lds"].append(lds(scores, made.kept[mine], made.outcome[mine]))
        for part, value in flaws(made, scores, own).items():
            rows[part].append(value)
    twice = len(made.again)
    pairs = zip(made.outcome[:twice][mine[:twice]].T, made.again[mine[:twice]].T, strict=True)
    return xarray.Dataset(
        {
            "lds": (("way", "query"), np.stack(rows.pop("lds"))),
            **{part: ("way", values) for part, values in rows.items()},
            "ceiling": ("query", [spearmanr(one, other)[0] for one, other in pairs]),
        },
        {"way": [CHANCE, *ways], "query": np.arange(len(made.queries)), "kind": ("query", kinds(made))},
    )  # fmt: skip


def scored(made: Retrained, way: str, seed: int) -> tuple[Float[ndarray, "query item"], Float[ndarray, "item"]]:
    """The scores of a method, and those of each item for itself."""
    model, how = made.floor() if way == BEFORE else made.model, dict({**WAYS, **OF_DRAWINGS}[way])
    if way != LIKENESS:
        how["weights"] = made.pieces(model)
    if way == TRACIN:
        how["checkpoints"], how["rates"] = made.checkpoints()
    found = data_attribution(model, made.training(), made.asked(), seed=seed, progress=False, **how)
    return found.data["scores"].values, found.data["own"].values


def flaws(made: Retrained, scores: Float[ndarray, "query item"], own: Float[ndarray, "item"]) -> dict[str, float]:
    """What is planted, and how well it is found; NaN for wrong captions where each item scores itself alike."""
    every, truth = np.arange(len(made.items)), made.truth
    wrong = np.isin(every, truth.wrong)
    cued = np.isin(every, truth.cued) & ~wrong
    copied, misled = (scores[list(made.planted.asked(kind))] for kind in ("copied", "misled"))
    return {
        "wrong": float("nan") if np.isnan(own).any() or np.ptp(own) < SAME else float(mislabel_auc(own, wrong)),
        "copies": float(retrieval(copied, truth.duplicates, k=4)["recall"]),
        "cue": float(np.mean([mislabel_auc(one, cued) for one in misled])),
    }


def kinds(made: Retrained) -> list[str]:
    """What each query is: held, copied or misled."""
    found = [""] * len(made.queries)
    for kind in ("held", "copied", "misled"):
        for at in made.planted.asked(kind):
            found[at] = kind
    return found
