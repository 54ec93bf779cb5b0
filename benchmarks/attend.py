"""Whether Attend-and-Excite brings things that are missing: the tables of docs/attend-and-excite.md.

python benchmarks/attend.py [--many 16] [--seeds 0 1] [--etas 30 120 480] [--steps 10] [--joint] [--untrained]

Held-out prompts of two things on a background, each drawn as it is, with its latents moved at the first half of the
steps, and moved as far in directions by chance, from the same noise. `--joint`: `zoo:emoji-mmdit` in the place of
`zoo:emoji-sd`. For each: whether `zoo:emoji-judge` sees both things, the probability of the one that it sees less of,
and the differences to the plain drawing, with 95 % intervals over prompts drawn anew.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import numpy as np
import torch
from timing import BEFORE, paired, seeded

import cutaway
from cutaway.data.prompts import prompt
from cutaway.methods import attend_and_excite
from cutaway.methods.cross_attention.attend_and_excite import SIDES
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate_drawn import GUIDANCE, scenes_of
from cutaway.zoo.judging import look

BATCH = 16


def main() -> None:
    """Print what is found for each seed and eta, and for all seeds together."""
    given = seeded(
        __doc__, 16, "prompts of two things", etas=([30.0, 120.0, 480.0], "how far along the gradient"),
        steps=(10, "steps of a drawing"), joint=(False, "zoo:emoji-mmdit"), untrained=BEFORE,
    ).parse_args()  # fmt: skip
    name = ("zoo:emoji-mmdit" if given.joint else "zoo:emoji-sd") + ("@untrained" if given.untrained else "")
    model = cutaway.load(name)
    for eta in given.etas:
        every = []
        for seed in given.seeds:
            started = time.perf_counter()
            found = _measured(model, given.many, seed, eta, given.steps)
            took = time.perf_counter() - started
            _tell(f"{model.name}, seed {seed}, eta {eta:g}, {given.many} prompts, {took:.0f} s", found)
            every.append(found)
        both = {name: np.concatenate([found[name] for found in every], -1) for name in every[0]}
        _tell(f"{model.name}, all seeds, eta {eta:g}", both)


def _measured(model: cutaway.Model, many: int, seed: int, eta: float, steps: int) -> dict[str, np.ndarray]:
    """The probability of both things (side, thing, picture), the loss (side, picture) and the moves (picture)."""
    scenes = list(islice(scenes_of("test", 2, seed), many))
    parts: dict[str, list[np.ndarray]] = {"there": [], "loss": [], "moved": []}
    for start in range(0, many, BATCH):
        some = scenes[start : start + BATCH]
        fixed: dict[str, Any] = {"seed": seed * 10_000 + start, "steps": steps, "guidance": GUIDANCE}
        fixed |= {"length": 0} if "mmdit" in model.name else {}
        texts = [prompt(scene, scene.seed, way="things", ground=True).text for scene in some]
        names = [[thing.concept for thing in scene.things] for scene in some]
        found = attend_and_excite(model, model.inputs(prompt=texts, **fixed), names, eta=eta, seed=seed, progress=False)
        parts["there"].append(np.stack([_there(found["drawn"].sel(side=side).values, names) for side in SIDES]))
        parts["loss"].append(found["loss"].isel(step=-1).values)
        parts["moved"].append(found["moved"].mean("step").values)
    return {name: np.concatenate(values, -1) for name, values in parts.items()}


@torch.no_grad()
def _there(drawn: np.ndarray, names: list[list[str]]) -> np.ndarray:
    """The probability of each of two things in each picture, in the eyes of the judge."""
    seen = look(emoji_judge.judge(), torch.from_numpy(drawn).movedim(-1, 1).float() / 127.5 - 1)
    return np.array([[float(seen.there(both[which])[at]) for at, both in enumerate(names)] for which in (0, 1)])


def _tell(title: str, found: dict[str, np.ndarray]) -> None:
    both, least = (found["there"] > 0.5).all(1).astype(float), found["there"].min(1)
    print(f"\n{title}: moved by {found['moved'].mean():.1%} of their length a step")
    for at, side in enumerate(SIDES):
        line = f"  {side:8s} both {both[at].mean():.2f}  lesser {least[at].mean():.2f}"
        line += f"  loss {found['loss'][at].mean():.3f}"
        if at:
            line += f"  both {paired(both[at] - both[0])}  lesser {paired(least[at] - least[0])}"
        print(line)
    print(f"  excited - random: both {paired(both[1] - both[2])}  lesser {paired(least[1] - least[2])}", flush=True)


if __name__ == "__main__":
    main()
