"""Where a model that draws looks for its words, and whether that is what draws: the tables of docs/word-maps.md.

python benchmarks/word_maps.py [--many N] [--seeds 0 1] [--untrained] [--maps] [--joint]

For each seed other prompts and other noise. `--untrained`: the pipeline before training, held against what the trained
one drew from the same noise. `--maps`: maps alone, nothing is hidden. `--joint`: `zoo:emoji-mmdit`, which has joint
attention, without the empty positions that stand in the place of its T5; the maps of attention rollout stand beside.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import numpy as np
import torch
from timing import BEFORE, seeded
from torch.nn.functional import interpolate

import cutaway
from cutaway import Knockout
from cutaway.data.prompts import prompt
from cutaway.methods import attention_rollout, cross_attention, hide_words
from cutaway.methods.cross_attention.maps import looking
from cutaway.methods.cross_attention.spoken import phrase
from cutaway.methods.truth import fit
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate import wilson
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS, scenes_of
from cutaway.zoo.judging import Seen, look

SETS = {"one thing": ("test", 1), "two things": ("test", 2)}
BESIDE = {"in front of it": -1, "behind it": 1, "second behind it": 2}  # words, counted from the name
KINDS = {"the begin": "bos", "the end": "eos", "padding": "pad"}
FINE = 16  # cells of the judge, a side


def main() -> None:
    """Print what is found for each seed."""
    given = seeded(
        __doc__, 32, "prompts of each set", untrained=BEFORE, maps=(False, "maps alone, nothing is hidden"),
        joint=(False, "zoo:emoji-mmdit in the place of zoo:emoji-sd"),
    ).parse_args()  # fmt: skip
    name = "zoo:emoji-mmdit" if given.joint else "zoo:emoji-sd"
    drawer = cutaway.load(name)
    model = cutaway.load(f"{name}@untrained") if given.untrained else drawer
    for seed in given.seeds:
        for of, (split, things) in SETS.items():
            started = time.perf_counter()
            scenes = list(islice(scenes_of(split, things, seed), given.many))
            rows = _measured(model, drawer, scenes, seed, hide=model is drawer and not given.maps)
            print(f"\n{model.name}, seed {seed}, {of}: {len(scenes)} prompts, {time.perf_counter() - started:.0f} s")
            _print(rows)


def _measured(
    model: cutaway.Model, drawer: cutaway.Model, scenes: list[Any], seed: int, *, hide: bool
) -> dict[str, list[Any]]:
    """For each thing that the judge sees: how its map fits, and what is left of it when words are hidden."""
    rows: dict[str, list[Any]] = {}
    for start in range(0, len(scenes), 16):
        some = scenes[start : start + 16]
        captions = [prompt(scene, scene.seed, ground=True).text for scene in some]
        fixed = {"prompt": captions, "seed": seed * 10_000 + start, "steps": STEPS, "guidance": GUIDANCE}
        fixed |= {"length": 0} if "mmdit" in model.name else {}
        inputs, plain = model.inputs(**fixed), drawer.inputs(**fixed)
        found = cross_attention(model, inputs, progress=False)
        unsaid = _unsaid(model, inputs)
        rolled = attention_rollout(model, inputs, progress=False) if "mmdit" in model.name else None
        drawn = _look(drawer.run(plain, output="pt").outputs.images)
        hidden = {}
        for what, edits in _edits(model, inputs, some).items() if hide else ():
            with model.edited(edits):
                hidden[what] = _look(model.run(inputs, output="pt").outputs.images)
        for at, scene in enumerate(some):
            for which, thing in enumerate(scene.things):
                _one(rows, at, which, thing.concept, (found, unsaid, rolled), drawn, hidden)
    return rows


def _unsaid(model: cutaway.Model, inputs: Any) -> dict[str, torch.Tensor]:
    """Maps (picture, row, col) of all positions of the prompt that are no word, by kind, the mean over all calls."""
    calls: dict[str, list[torch.Tensor]] = {}

    def add(reading: Any) -> None:
        pattern = reading.value[reading.guidance.index("cond")].mean(1)
        said = inputs.map_for(reading.site, "key", pattern.shape[-1])
        patches = inputs.map_for(reading.site, "query", pattern.shape[-2])
        shape = int(patches.row.max()) + 1, int(patches.col.max()) + 1
        own = pattern[:, torch.from_numpy(patches.row[0] >= 0)]
        for name, kind in KINDS.items():
            there = torch.from_numpy(said.kind == kind).to(own)
            heat = torch.einsum("bqk,bk->bq", own, there).unflatten(1, shape)
            calls.setdefault(name, []).append(_fine(heat))

    model.run(inputs, record=looking(model), into=add, output="latent")
    return {name: torch.stack(maps).mean(0) for name, maps in calls.items()}


def _fine(maps: torch.Tensor) -> torch.Tensor:
    """Maps (…, row, col) on the cells of the judge."""
    return interpolate(maps.flatten(0, -3)[None], (FINE, FINE), mode="bilinear")[0].reshape(
        *maps.shape[:-2], FINE, FINE
    )


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


def _one(rows: dict[str, list[Any]], at: int, which: int, name: str, looks: Any, drawn: Seen, hidden: Any) -> None:
    """One thing of one drawing."""
    found, unsaid, rolled = looks
    was = float(drawn.there(name)[at])
    rows.setdefault("there", []).append(was > 0.5)
    truth = drawn.mask(at, name).numpy().astype(bool)
    if was <= 0.5 or not truth.any():
        return
    each = found["attention"].isel(picture=at).mean(("step", "layer"))
    maps = {
        "the word": found.heat(name, at).values,
        "“background”": found.heat("background", at).values,
        "all words": each.sum("place").values,
    }
    places = phrase(found.words(at), name)
    for word, away in BESIDE.items():
        maps[f"the word {word}"] = each.isel(place=(places[0] if away < 0 else places[-1]) + away).values
    maps |= {word: heat[at].numpy() for word, heat in unsaid.items()}
    if rolled is not None:
        last = rolled["attention"].isel(picture=at, layer=-1).mean("step")
        maps["the word, rolled out"] = last.isel(place=places).sum("place").values
        maps["the word behind it, rolled out"] = last.isel(place=places[-1] + 1).values
        maps["all words, rolled out"] = last.sum("place").values
    maps = {word: _fine(torch.from_numpy(heat)[None])[0].numpy() for word, heat in maps.items()}
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
        along = found["attention"].isel(picture=at, place=places).sum("place").mean(other).transpose(axis, "row", "col")
        fits = fit(_fine(torch.from_numpy(along.values)).numpy(), truth)
        rows.setdefault(f"iou by {axis}", []).append(fits.iou)
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
