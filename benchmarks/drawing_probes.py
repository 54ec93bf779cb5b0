"""From which step and block on a drawing's thing, background and place can be read: docs/probing-drawings.md.

python benchmarks/drawing_probes.py [--model zoo:emoji-sd] [--many 48] [--seeds 0 1] [--untrained]

Prompts that cross 8 things with 6 backgrounds (another choice for each seed), each from noise of its own. Ridges and
logistic regressions on states of the prompt's half, at five steps; no prompt is on both sides of a split. `where, new
things` holds out things, not prompts. With --untrained the same labels, from the model before training: it is asked
the same, and what the judge found is that of the trained model's drawings from the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import BEFORE, seeded

import cutaway
from cutaway.methods import linear_probing
from cutaway.questions.drawings import crossed, drawings, found
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS

SEEN = ("drawn", "x", "where")
NEW = "where, new things"
Labels = dict[str, Any]


def main() -> None:
    """Print what is found for each seed."""
    told = seeded(__doc__, 48, "drawings", model=("zoo:emoji-sd", "which model"), untrained=BEFORE,
                  guidance=("cond", "which row of the guidance"))  # fmt: skip
    given = told.parse_args()
    model = cutaway.load(given.model)
    for seed in given.seeds:
        texts, asked = crossed(given.many, seed=seed)
        kept: Labels = {}
        labels = {**asked, **{name: _kept(found(name), kept, name) for name in SEEN}}
        _tell(model, texts, seed, labels, asked["thing"], given.guidance)
        known = {**asked, **{name: np.concatenate(parts) for name, parts in kept.items()}}
        print(f"the judge sees the thing that was asked for in {np.mean(known['drawn'] == asked['thing']):.2f}")
        if given.untrained:
            _tell(cutaway.load(f"{given.model}@untrained"), texts, seed, known, asked["thing"], given.guidance)


def _kept(one: Callable[[Any], np.ndarray], kept: Labels, name: str) -> Callable[[Any], np.ndarray]:
    """A label that is remembered, batch by batch."""

    def read(run: Any) -> np.ndarray:
        made = one(run)
        kept.setdefault(name, []).append(made)
        return made

    return read


def _tell(
    model: cutaway.Model, texts: list[str], seed: int, labels: Labels, things: np.ndarray, guidance: str
) -> None:  # fmt: skip
    started = time.perf_counter()
    silent = {"length": 0} if "mmdit" in model.name else {}  # no positions for the T5 that is not there
    rows = drawings(model, texts, seed=seed, steps=STEPS, guidance=GUIDANCE, **silent)
    where = labels["where"]
    every = {**labels, NEW: where if isinstance(where, np.ndarray) else found("where")}
    made = linear_probing(model, rows, every, tower="denoiser", types={NEW: things}, seeds=(0, 1, 2),
                          guidance=guidance, progress=False)  # fmt: skip
    print(f"\n{model.name}, seed {seed}, {len(texts)} drawings, {guidance}, {time.perf_counter() - started:.0f} s")
    for at, name in enumerate(map(str, made["label"].values)):
        one = made.data.isel(label=at)
        floor = float(one["majority"].isel(site=0, step=0).mean())
        print(f"{name} ({one['metric'].item()}, {one['items'].item()} drawings; floor {floor:.2f}, "
              f"largest control {float(one['control'].mean('seed').max()):.2f})")  # fmt: skip
        print("  step        " + "".join(f"{step:6d}" for step in one["step"].values))
        for site, line in zip(one["site"].values, one["mean"].values, strict=True):
            short = str(site).removeprefix("denoiser.").removesuffix(".resid_post")
            print(f"  {short:12s}" + "".join(f"{value:6.2f}" for value in line))
        half = float(((one["high"] - one["low"]) / 2).median())
        print(f"  half a 95 % interval, median: {half:.2f}", flush=True)


if __name__ == "__main__":
    main()
