"""Maps of concepts beside maps of words in `zoo:emoji-mmdit`: the second table of docs/word-maps.md.

python benchmarks/concept_maps.py [--many N] [--seeds 0 1] [--untrained]

For each seed other prompts and other noise. Concepts are the things of the prompt, `STRANGERS` that are not in it, and
“background”. `--untrained`: the pipeline before training, held against what the trained one drew from the same noise.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import numpy as np
import torch
from timing import BEFORE, seeded

import cutaway
from cutaway.data.prompts import DRAWABLE, prompt
from cutaway.methods import concept_attention, cross_attention
from cutaway.methods.truth import fit, on_patches
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate import wilson
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS, scenes_of
from cutaway.zoo.judging import look

SETS = {"one thing": 1, "two things": 2}
STRANGERS = 4  # concepts beside those of a prompt
LOOKED = 10  # steps of which concepts are read


def main() -> None:
    """Print what is found for each seed."""
    given = seeded(__doc__, 12, "prompts of each set", untrained=BEFORE).parse_args()
    drawer = cutaway.load("zoo:emoji-mmdit")
    model = cutaway.load("zoo:emoji-mmdit@untrained") if given.untrained else drawer
    for seed in given.seeds:
        for of, things in SETS.items():
            started = time.perf_counter()
            scenes = list(islice(scenes_of("test", things, seed), given.many))
            rows: dict[str, list[Any]] = {}
            _measured(rows, model, drawer, scenes, seed)
            print(f"\n{model.name}, seed {seed}, {of}: {len(scenes)} prompts, {time.perf_counter() - started:.0f} s")
            _print(rows)


def _measured(
    rows: dict[str, list[Any]], model: cutaway.Model, drawer: cutaway.Model, scenes: list[Any], seed: int
) -> None:  # fmt: skip
    """For each thing that the judge sees: how the maps of its name and of others fit."""
    dice = np.random.default_rng(seed)
    for at, scene in enumerate(scenes):
        caption, names = prompt(scene, scene.seed, ground=True).text, [thing.concept for thing in scene.things]
        fixed = {"prompt": caption, "seed": seed * 10_000 + at, "steps": STEPS, "guidance": GUIDANCE, "length": 0}
        with torch.no_grad():
            drawn = torch.as_tensor(drawer.run(drawer.inputs(**fixed), output="pt").outputs.images)
            seen = look(emoji_judge.judge(), drawn.float() * 2 - 1)
        others = [str(one) for one in dice.permutation([one for one in DRAWABLE if one not in names])[:STRANGERS]]
        truths = {name: on_patches(seen.mask(0, name).numpy() > 0, 8, 8) >= 0.5 for name in names}
        there = [name for name in names if float(seen.there(name)[0]) > 0.5 and truths[name].any()]
        rows.setdefault("there", []).extend(name in there for name in names)
        if there:
            inputs = model.inputs(**fixed)
            words = cross_attention(model, inputs, progress=False)
            asked = [*names, *others, "background"]
            found = concept_attention(model, inputs, asked, steps=LOOKED, progress=False)
            for name in there:
                _one(rows, truths[name], name, others, found, words)


def _one(
    rows: dict[str, list[Any]], truth: np.ndarray, name: str, others: list[str], found: Any, words: Any
) -> None:  # fmt: skip
    """One thing of one drawing."""
    maps = {
        "concept": found.heat(name).values, "concept, product": _product(found, name),
        "word": words.heat(name).values, "“background” as a concept": found.heat("background").values,
        "all words": words["attention"].isel(picture=0).sum("place").mean(("step", "layer")).values,
    }  # fmt: skip
    for of, heat in maps.items():
        made = fit(heat, truth)
        rows.setdefault(f"iou {of}", []).append(float(made.iou))
        rows.setdefault(f"hit {of}", []).append(float(made.hit))
    strange = [fit(found.heat(other).values, truth) for other in others]
    rows.setdefault("iou concept that is not there", []).append(float(np.mean([one.iou for one in strange])))
    rows.setdefault("hit concept that is not there", []).append(float(np.mean([one.hit for one in strange])))
    made = fit(maps["concept"], truth)
    rows.setdefault("iou shuffled", []).append(float(made.iou_shuffled))
    rows.setdefault("hit shuffled", []).append(float(made.hit_shuffled))
    share = found.heat(name).values
    rows.setdefault("share on it", []).append(float(share[truth].mean()))
    rows.setdefault("share elsewhere", []).append(float(share[~truth].mean()))
    for axis, other in (("layer", "step"), ("step", "layer")):
        each = found["share"].isel(picture=0).sel(concept=name).mean(other)
        rows.setdefault(f"iou concept by {axis}", []).append(fit(each.transpose(axis, "row", "col").values, truth).iou)
        each = words["attention"].isel(picture=0, place=[words.words().index(name.split()[0])]).sum("place")
        each = each.mean(other).transpose(axis, "row", "col")
        rows.setdefault(f"iou word by {axis}", []).append(fit(each.values, truth).iou)


def _product(found: Any, name: str) -> np.ndarray:
    """The product without the softmax over concepts."""
    return np.asarray(found["score"].isel(picture=0).sel(concept=name).mean(("step", "layer")).values)


def _print(rows: dict[str, list[Any]]) -> None:
    for name, values in rows.items():
        array = np.asarray(values, float)
        if array.ndim == 1:
            middle, n = float(array.mean()), len(array)
            half = 1.96 * float(array.std(ddof=1)) / n**0.5
            low, high = wilson(middle, n) if name.startswith(("there", "hit")) else (middle - half, middle + half)
            print(f"  {name:34s} {middle:.3f} [{low:.3f}, {high:.3f}] of {n}")
        else:
            print(f"  {name:34s}", array.mean(0).round(2).tolist())


if __name__ == "__main__":
    main()
