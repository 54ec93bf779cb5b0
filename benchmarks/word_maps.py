"""Where `zoo:emoji-sd` looks for its words, and whether that is what draws: the tables of docs/word-maps.md.

python benchmarks/word_maps.py [--many N] [--seeds 0 1] [--untrained]

For each seed other prompts and other noise. `--untrained`: the pipeline before training, held against what the trained
one drew from the same noise.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import numpy as np
import torch
from timing import BEFORE, seeded

import cutaway
from cutaway import Knockout
from cutaway.data.prompts import prompt
from cutaway.methods import cross_attention, hide_words
from cutaway.methods.truth import fit
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate import wilson
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS, scenes_of
from cutaway.zoo.judging import Seen, look

SETS = {"one thing": ("test", 1), "two things": ("test", 2)}


def main() -> None:
    """Print what is found for each seed."""
    given = seeded(__doc__, 32, "prompts of each set", untrained=BEFORE).parse_args()
    drawer = cutaway.load("zoo:emoji-sd")
    model = cutaway.load("zoo:emoji-sd@untrained") if given.untrained else drawer
    for seed in given.seeds:
        for of, (split, things) in SETS.items():
            started = time.perf_counter()
            scenes = list(islice(scenes_of(split, things, seed), given.many))
            rows = _measured(model, drawer, scenes, seed)
            print(f"\n{model.name}, seed {seed}, {of}: {len(scenes)} prompts, {time.perf_counter() - started:.0f} s")
            _print(rows)


def _measured(model: cutaway.Model, drawer: cutaway.Model, scenes: list[Any], seed: int) -> dict[str, list[Any]]:
    """For each thing that the judge sees: how its map fits, and what is left of it when words are hidden."""
    rows: dict[str, list[Any]] = {}
    for start in range(0, len(scenes), 16):
        some = scenes[start : start + 16]
        captions = [prompt(scene, scene.seed, ground=True).text for scene in some]
        fixed = {"prompt": captions, "seed": seed * 10_000 + start, "steps": STEPS, "guidance": GUIDANCE}
        inputs, plain = model.inputs(**fixed), drawer.inputs(**fixed)
        found = cross_attention(model, inputs, progress=False)
        drawn = _look(drawer.run(plain, output="pt").outputs.images)
        hidden = {}
        for what, edits in _edits(model, inputs, some).items() if model is drawer else ():
            with model.edited(edits):
                hidden[what] = _look(model.run(inputs, output="pt").outputs.images)
        for at, scene in enumerate(some):
            for which, thing in enumerate(scene.things):
                _one(rows, at, which, thing.concept, found, drawn, hidden)
    return rows


def _edits(model: cutaway.Model, inputs: Any, scenes: list[Any]) -> dict[str, list[Any]]:
    """What is hidden from all patches: the words of the first thing, another word, all words, all that is no word."""
    kinds = inputs.tokens["text"].kind
    every, rest = (torch.from_numpy(mask) for mask in (kinds == "text", np.isin(kinds, ("eos", "pad"))))
    return {
        "its words": hide_words(model, inputs, [scene.things[0].concept for scene in scenes]),
        "“background”": hide_words(model, inputs, "background"),
        "all words": [Knockout("denoiser.*.cross", key=every, guidance="cond")],
        "end and padding": [Knockout("denoiser.*.cross", key=rest, guidance="cond")],
    }


def _one(rows: dict[str, list[Any]], at: int, which: int, name: str, found: Any, drawn: Seen, hidden: Any) -> None:
    """One thing of one drawing."""
    was = float(drawn.there(name)[at])
    rows.setdefault("there", []).append(was > 0.5)
    truth = drawn.mask(at, name).numpy().astype(bool)
    if was <= 0.5 or not truth.any():
        return
    maps = {
        "the word": found.heat(name, at).values,
        "“background”": found.heat("background", at).values,
        "all words": found["attention"].isel(picture=at).sum("place").mean(("step", "layer")).values,
    }
    for word, heat in maps.items():
        made = fit(heat, truth)
        rows.setdefault(f"iou {word}", []).append(float(made.iou))
        rows.setdefault(f"hit {word}", []).append(float(made.hit))
    made = fit(maps["the word"], truth)
    rows.setdefault("iou shuffled", []).append(float(made.iou_shuffled))
    rows.setdefault("hit shuffled", []).append(float(made.hit_shuffled))
    places = [found.words(at).index(name.split()[0])]
    for axis in ("step", "layer"):
        other = "layer" if axis == "step" else "step"
        each = found["attention"].isel(picture=at, place=places).sum("place").mean(other)
        rows.setdefault(f"iou by {axis}", []).append(fit(each.transpose(axis, "row", "col").values, truth).iou)
    if which == 0:
        rows.setdefault("left, nothing hidden", []).append(was)
        for what, seen in hidden.items():
            rows.setdefault(f"left, {what} hidden", []).append(float(seen.there(name)[at]))


@torch.no_grad()
def _look(images: torch.Tensor) -> Seen:
    return look(emoji_judge.judge(), torch.as_tensor(images).float() * 2 - 1)


def _print(rows: dict[str, list[Any]]) -> None:
    for name, values in rows.items():
        array = np.asarray(values, float)
        if array.ndim == 1:
            middle, n = array.mean(), len(array)
            share = name.startswith(("there", "hit", "left"))
            low, high = wilson(float(middle), n) if share else (middle - _half(array), middle + _half(array))
            print(f"  {name:34s} {middle:.3f} [{low:.3f}, {high:.3f}] of {n}")
        else:
            print(f"  {name:34s}", array.mean(0).round(2).tolist())


def _half(values: np.ndarray) -> float:
    return float(1.96 * values.std(ddof=1) / len(values) ** 0.5)


if __name__ == "__main__":
    main()
