"""Whether a direction in the middle of the UNet of `zoo:emoji-sd` draws a concept: how far, beside random directions.

python benchmarks/drawing_steering.py [--many 6] [--seeds 0] [--site denoiser.7.resid_post] [--untrained]

The direction is the difference of mean states of prompts with and without the concept, by step; it is put into other
prompts, without the concept, from other noise. `there` is the judge's probability, the mean over prompts.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from timing import BEFORE, seeded

import cutaway
from cutaway.data import Has, Noun, On
from cutaway.methods import steering, steering_vector
from cutaway.methods.task_vectors import SteeringVector
from cutaway.methods.task_vectors.states import random_directions
from cutaway.questions.judged import judged
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS

FIT = ("duck", "guitar", "house", "penguin", "bus", "rose")
USE = ("robot", "zebra", "crown", "frog", "panda", "car")
GROUNDS = ("green", "white", "yellow", "purple", "gray", "red")
ALL = "denoiser.*.resid_post"
ALPHAS = (1.0, 2.0, 4.0, 8.0)


def main() -> None:
    """Print what is found for each concept and seed."""
    told = seeded(__doc__, 6, "prompts", site=("denoiser.7.resid_post", "where it is put in"), untrained=BEFORE)
    given = told.parse_args()
    model = cutaway.load("zoo:emoji-sd@untrained" if given.untrained else "zoo:emoji-sd")
    for seed in given.seeds:
        for concept, claim in (("fox", Has(Noun("fox"))), ("blue background", On("plain", ("blue",)))):
            started = time.perf_counter()
            fit, use = (
                _both(model, names[: given.many], concept, seed * 10_000 + at) for at, names in enumerate((FIT, USE))
            )
            vector = steering_vector(model, fit[1], fit[0], sites=given.site, progress=False)
            found = steering(model, *use, judged(claim), vector=vector, sites=given.site, alphas=ALPHAS, ways=("add",),
                             draws=2, seed=seed, progress=False)  # fmt: skip
            here = found.data.isel(layer=0, way=0)
            lengths = f"length {float(here['length']):.3g} of {float(here['state']):.3g}"
            print(f"\n{given.site}, seed {seed}, {concept}: {lengths}")
            print(f"  asked for {float(here['there']):.2f}, not asked for {float(here['here']):.2f}")
            for alpha in here["alpha"].values:
                one = here.sel(alpha=alpha)
                names = ("value", "random_value", "random_value_low", "random_value_high")
                print(f"  alpha {alpha:g}  " + "  ".join(f"{name} {float(one[name]):.2f}" for name in names))
            _together(model, fit, use, judged(claim), seed)
            print(f"  {time.perf_counter() - started:.0f} s", flush=True)


def _together(model: cutaway.Model, fit: list[Any], use: list[Any], aim: judged, seed: int) -> None:
    """The whole direction behind every transformer block at once, and random ones as long."""
    vector = steering_vector(model, fit[1], fit[0], sites=ALL, progress=False)
    dice = torch.Generator().manual_seed(seed)
    drawn = {"every block, alpha 1": vector.tensors}
    for at in range(2):
        some = {site: random_directions(one, 1, dice, by_step=True)[0] for site, one in vector.tensors.items()}
        drawn[f"every block, random {at}"] = some
    plain = model.run(use[0], output="pt").outputs.images
    for name, tensors in drawn.items():
        run = model.run(use[0], edits=SteeringVector(tensors, {}, vector.on).edits(1.0), output="pt")
        moved = 255 * float((run.outputs.images - plain).abs().mean())
        print(f"  {name}: value {float(aim(run).mean()):.2f}, pixels moved {moved:.1f}")


def _both(model: cutaway.Model, names: tuple[str, ...], concept: str, seed: int) -> list[cutaway.Inputs]:
    """Drawings of prompts without the concept, and of the same with it."""
    without = [(name, ground) for name, ground in zip(names, GROUNDS, strict=False)]
    having = [(concept, g) if concept == "fox" else (name, "blue") for name, g in without]
    said = [[f"a {name} on a {ground} background" for name, ground in some] for some in (without, having)]
    return [model.inputs(prompt=some, seed=seed, steps=STEPS, guidance=GUIDANCE) for some in said]


if __name__ == "__main__":
    main()
