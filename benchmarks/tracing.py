"""What carries a thing, its background or its paint into a drawing of `zoo:emoji-sd`: docs/tracing-drawings.md.

python benchmarks/tracing.py [--many N] [--seeds 0 1] [--steps N] [--parts thing background] [--untrained]

Pairs of prompts that differ in one word, drawn from the same noise; for each seed other prompts and other noise.
`--untrained`: the pipeline before training, the keys and values of all layers and of each grid alone.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from timing import BEFORE, seeded

import cutaway
from cutaway.methods import drawing_tracing
from cutaway.model.targets import denoising_error
from cutaway.questions.judged import prompts_apart
from cutaway.zoo.evaluate_drawn import GUIDANCE

GRIDS = {"16 × 16": [1, 18, 20], "8 × 8": [3, 14, 16], "4 × 4": [5, 7, 10, 12]}
LAYERS = {str(layer): [layer] for layer in sorted(layer for some in GRIDS.values() for layer in some)}
TEXT = {"first": [0], "last": [2]}  # layers of the text encoder
NOISED = (1, 3, 5)  # steps at which the denoising error is taken


def main() -> None:
    """Print what is found for each seed."""
    made = seeded(
        __doc__, 10, "pairs of each part", untrained=BEFORE, steps=(6, "steps of a drawing"),
        parts=(["thing", "background"], "what differs"), each=(1, "drawings of each pair, from noise of their own"),
    )  # fmt: skip
    given = made.parse_args()
    model = cutaway.load("zoo:emoji-sd@untrained" if given.untrained else "zoo:emoji-sd")
    for seed in given.seeds:
        for part in given.parts:
            own, other, target = prompts_apart(part, given.many, seed=seed, each=given.each)
            fixed = {"seed": seed, "steps": given.steps, "guidance": GUIDANCE}
            both = model.inputs(prompt=own, **fixed), model.inputs(prompt=other, **fixed)
            print(f"\n=== {model.name}, seed {seed}: {len(own)} pairs that differ in the {part}, {given.steps} steps")
            if given.untrained:
                _traced("before training", model, both, target, groups=GRIDS, windows=1, random=False)
            else:
                _all(model, both, target, own, other, fixed)


def _all(model: Any, both: Any, target: Any, own: list[str], other: list[str], fixed: dict[str, Any]) -> None:
    """Every map of one set of pairs."""
    steps, quick = fixed["steps"], {"random": False}
    cuts = [at for at in (1, 2, 3, 4, 5) if at < steps]
    windows = {**{f"first {at}": range(at) for at in cuts}, **{f"from {at} on": range(at, steps) for at in cuts}}
    _traced("prompt by grid, put in", model, both, target, groups=GRIDS, windows=1)
    by_layer = _traced("prompt by layer, put in", model, both, target, groups=LAYERS, windows=1, **quick)
    _traced("prompt by layer, taken out", model, both, target, groups=LAYERS | GRIDS, windows=1, mode="noise", **quick)
    _traced("prompt of all layers by steps, put in", model, both, target, groups={}, windows=windows, **quick)
    _traced("text encoder, put in", model, both, target, what="word", groups=TEXT, **quick)
    _traced("text encoder, taken out", model, both, target, what="word", groups=TEXT, mode="noise", **quick)
    _traced("what attention adds, put in", model, both, target, what="attention", groups=GRIDS, windows=1, **quick)
    pictures = model.run(both[0], output="pt").outputs.images
    images = [(one.movedim(0, -1) * 255).round().byte().numpy() for one in pictures]
    cheap = []
    for step in [at for at in NOISED if at < steps]:
        pair = [model.inputs(prompt=said, image=images, step=step, **fixed) for said in (own, other)]
        cheap.append(
            _traced(f"denoising error at step {step}, put in", model, pair, denoising_error(), groups=LAYERS, windows=1,
                    **quick)["mean"].isel(step=0)
        )  # fmt: skip
    judges = by_layer["mean"].isel(step=0)[:-1]
    said = [f"{float(np.corrcoef(one[:-1], judges)[0, 1]):.2f}" for one in cheap]
    print(f"correlation of single layers with the judge's, by step: {', '.join(said)}")


def _traced(title: str, model: Any, both: Any, target: Any, **how: Any) -> Any:
    started = time.perf_counter()
    found = drawing_tracing(model, *both, target, progress=False, **how)
    clean, corrupted = float(found["clean"].mean()), float(found["corrupted"].mean())
    print(f"\n{title}: {clean:.3g} clean, {corrupted:.3g} counterfactual, {time.perf_counter() - started:.0f} s")
    for layer in found["layer"].values:
        here = found.data.sel(layer=layer)
        cells = [_cell(here.isel({found.axis: at}), found.axis) for at in range(here.sizes[found.axis])]
        print(f"  {layer:9s}", "; ".join(cells), flush=True)
    return found


def _cell(here: Any, axis: str) -> str:
    random = "" if np.isnan(here["random"]) else f" random {float(here['random']):.2f}"
    said = f"{float(here['mean']):.2f} [{float(here['low']):.2f}, {float(here['high']):.2f}]"
    return f"{here[axis].item()} {said}{random}"


if __name__ == "__main__":
    main()
