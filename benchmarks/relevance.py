"""What relevance maps are worth in the three families: the tables of docs/relevance.md.

python benchmarks/relevance.py [--many 6] [--seeds 0 1] [--part clip llava removal tokens captions sd twins]

For each seed other scenes of EmojiWorld with two things each, of which the text names the first. Overlap (patches above
the mean of the map), pointing and share are on the exact mask of that thing; `gone` how often the thing with more
relevance is the one whose absence, drawn again without it, changes the number more; `together` the synergy of the top
quarter of patches and words, in units of the number; `floor` the share of the same method in the untrained model;
`shuffled` the rank correlation with the map after all weights, and those of the upper half, were shuffled.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from timing import seeded

import cutaway
from cutaway import data, questions
from cutaway.data.prompts import DRAWINGS, prompt
from cutaway.methods import drawn_by_prompt, relevance, token_relevance
from cutaway.methods.cross_attention.spoken import phrase
from cutaway.methods.relevance.measures import (
    alike,
    by_chance,
    covered,
    located,
    randomised,
    really_gone,
    synergy,
)
from cutaway.methods.relevance.relevance import WAYS, Relevance
from cutaway.methods.relevance.twins import apart, twins
from cutaway.report.findings_pixels import FEW, PAIR, asked, question, two_things

SPOKEN = ("gradient", "gradient_input", "attn_lrp", "grad_cam", "rollout", "chefer", "tam")
COLUMNS = ("overlap", "best", "points", "share", "floor", "gone", "together", "shuffled", "upper half", "seconds")


def main() -> None:
    """Print the tables."""
    parts = {
        "clip": clip, "llava": llava, "removal": removal, "tokens": tokens, "captions": captions, "sd": sd,
        "twins": told_apart,
    }  # fmt: skip
    parser = seeded(__doc__, 6, "scenes")
    parser.add_argument("--part", nargs="*", choices=parts, default=[*parts])
    given = parser.parse_args()
    for name in given.part:
        parts[name](given.many, given.seeds)


def clip(many: int, seeds: list[int]) -> None:
    """How near a picture is to the name of one of its things."""
    _table("zoo:emoji-clip", many, seeds)


def llava(many: int, seeds: list[int]) -> None:
    """The answer to whether one of the things is there."""
    _table("zoo:emoji-llava", many, seeds)


def _table(name: str, many: int, seeds: list[int]) -> None:
    model, floor = cutaway.load(name), cutaway.load(f"{name}@untrained")
    for seed in seeds:
        scenes = two_things(many, seed)
        inputs, target = asked(model, scenes)
        before = asked(floor, scenes)[0]
        whole = [question(model, one) for one in scenes]
        print(f"\n{name}, seed {seed}, {len(scenes)} scenes\n| method | {' | '.join(COLUMNS)} |")
        for method in (*WAYS, "by chance"):
            started = time.process_time()
            found = _found(model, inputs, target, method, seed)
            seconds = (time.process_time() - started) / many
            row = _scored(found, scenes, whole, seed) | {"seconds": seconds}
            row["floor"] = np.mean([
                one.mass for one in _fits(_found(floor, before, target, method, seed), scenes)
            ])  # fmt: skip
            for column, begin in (("shuffled", 0.0), ("upper half", 0.5)):
                with randomised(model, begin, seed=seed):
                    other = _found(model, inputs, target, method, seed + 1)
                row[column] = np.mean([alike(found.map(at).values, other.map(at).values) for at in range(many)])
            print(f"| {method} | {' | '.join(f'{row[one]:.2f}' for one in COLUMNS)} |", flush=True)


def _found(model: cutaway.Model, inputs: Any, target: Any, method: str, seed: int) -> Relevance:
    if method != "by chance":
        return relevance(model, inputs, target, method=method, seed=seed, **FEW.get(method, {}))
    made = relevance(model, inputs, target, method="gradient")
    dice = np.random.default_rng(seed)
    data_ = {name: one.copy(data=dice.random(one.shape)) for name, one in made.data.items() if name != "value"}
    return replace(made, data=made.data.assign(data_))


def _fits(found: Relevance, scenes: list[data.Scene]) -> list[Any]:
    heats = [found.map(at).values for at in range(len(scenes))]
    return [located(heat, covered(data.masks(one)[0], heat)) for heat, one in zip(heats, scenes, strict=True)]


def _scored(found: Relevance, scenes: list[data.Scene], whole: list[questions.Question], seed: int) -> dict[str, float]:
    fits = _fits(found, scenes)
    gone, together = [], []
    for at, (scene, one) in enumerate(zip(scenes, whole, strict=True)):
        made = really_gone(one, scene, found.map(at).values)
        gone.append(int(made.density.argmax()) == int(np.abs(made.effect).argmax()))
        alone = replace(found, data=found.data.isel(target=[at]))
        if "word" in alone.data:
            done = synergy(one.model, one.inputs, one.target, alone, draws=0, seed=seed)
            together.append(done.dividend)
    return {
        "overlap": np.mean([one.iou for one in fits]), "best": np.mean([one.best for one in fits]),
        "points": np.mean([one.hit for one in fits]), "share": np.mean([one.mass for one in fits]),
        "gone": np.mean(gone), "together": np.mean(together) if together else np.nan,
    }  # fmt: skip


def removal(many: int, seeds: list[int]) -> None:
    """Things that are drawn away, or into an empty scene, in the order of the relevance on them."""
    world = replace(PAIR, things=(3, 3))
    for name in ("zoo:emoji-clip", "zoo:emoji-llava"):
        model, floor = cutaway.load(name), cutaway.load(f"{name}@untrained")
        for seed in seeds:
            scenes = two_things(many, seed, world, 3)
            whole = [question(model, one) for one in scenes]
            inputs, target = asked(model, scenes)
            before = asked(floor, scenes)[0]
            print(f"\n{name}, seed {seed}, {len(scenes)} scenes of three things, in units of the number")
            print("| method | deletion | floor | lowest | insertion | floor | highest |")
            for method in (*WAYS, "by chance"):
                made = [
                    [
                        really_gone(each, scene, found.map(at).values)
                        for at, (each, scene) in enumerate(zip(whole, scenes, strict=True))
                    ]
                    for found in (
                        _found(one, row, target, method, seed) for one, row in ((model, inputs), (floor, before))
                    )
                ]
                numbers = []
                for way, best in (("deletion", "lowest"), ("insertion", "highest")):
                    numbers += [np.mean([getattr(each, way) for each in some]) for some in made]
                    numbers.append(np.mean([getattr(each, best) for each in made[0]]))
                print(f"| {method} | {' | '.join(f'{each:.3f}' for each in numbers)} |", flush=True)


def tokens(many: int, seeds: list[int]) -> None:
    """Of a caption that is put into the model's mouth, the tokens that name a thing, against the mask of that thing."""
    model, floor = cutaway.load("zoo:emoji-llava"), cutaway.load("zoo:emoji-llava@untrained")
    for seed in seeds:
        scenes = two_things(many, seed)
        print(f"\nzoo:emoji-llava, names in captions, seed {seed}, {len(scenes)} captions")
        print("| method | overlap | points | share | by chance | floor | on the other thing | seconds |")
        for method in SPOKEN:
            started = time.process_time()
            rows = _named(model, scenes, method)
            seconds = (time.process_time() - started) / many
            share = np.mean([one.mass for one in _named(floor, scenes, method)[0]])
            fits, chance, other = rows
            numbers = [np.mean([getattr(one, name) for one in fits]) for name in ("iou", "hit", "mass")]
            numbers += [np.mean([one.mass for one in some]) for some in (chance, [], other) if some]
            numbers = [*numbers[:4], share, numbers[4], seconds]
            print(f"| {method} | {' | '.join(f'{one:.2f}' for one in numbers)} |", flush=True)


def _named(model: cutaway.Model, scenes: list[data.Scene], method: str) -> tuple[list[Any], list[Any], list[Any]]:
    inputs = model.inputs(
        image=[[data.render(one)] for one in scenes], text=["Describe the picture."] * len(scenes),
        answer=[f"a {one.things[0].concept} and a {one.things[1].concept}" for one in scenes],
    )  # fmt: skip
    found = token_relevance(model, inputs, method=method, batch=len(scenes) * 2)
    fits, chance, others = [], [], []
    for at, (row, number) in enumerate(zip(found["row"].values, found["number"].values, strict=True)):
        count = int((found["row"].values == row).sum())
        if number not in (1, count - 1) or count != 5:
            continue
        which, heat = int(number != 1), found.map(at).values
        truth, other = (covered(data.masks(scenes[row])[one], heat) for one in (which, 1 - which))
        fits.append(located(heat, truth))
        chance.append(by_chance(heat, truth))
        others.append(located(heat, other))
    return fits, chance, others


def captions(many: int, seeds: list[int]) -> None:
    """Every token of a caption of four sentences, a sentence for each of three things and one for the background."""
    model, floor = cutaway.load("zoo:emoji-llava"), cutaway.load("zoo:emoji-llava@untrained")
    world = replace(PAIR, things=(3, 3))
    for seed in seeds:
        scenes = two_things(many, seed, world, 3)
        print(f"\nzoo:emoji-llava, captions of four sentences, seed {seed}, {len(scenes)} captions")
        print("| method | tokens | of | overlap | points | share | by chance | floor | on other things |")
        for method in SPOKEN:
            made, before = (_long(one, scenes, method) for one in (model, floor))
            for what in ("name", "place", "background"):
                fits, chance, other = (np.array([one[at] for one in made if one[0] == what]) for at in (1, 2, 3))
                numbers = [*fits.mean(0), chance.mean(), np.mean([one[1][2] for one in before if one[0] == what])]
                numbers.append(np.nanmean(other) if what != "background" else np.nan)
                print(
                    f"| {method} | {len(fits)} | {what} | {' | '.join(f'{one:.2f}' for one in numbers)} |", flush=True
                )


def _long(model: cutaway.Model, scenes: list[data.Scene], method: str) -> list[tuple[str, list[float], float, float]]:
    """Of each token that says a thing, its place or a colour of the background: how its map fits what it says."""
    told: list[tuple[str, list[float], float, float]] = []
    for scene in scenes:
        inputs = model.inputs(
            image=[[data.render(scene)]], text=["What does the picture show?"], answer=[data.sentences(scene).text]
        )
        found = token_relevance(model, inputs, method=method, batch=32)
        words, at = [str(one) for one in found["token"].values], -1
        for number, word in enumerate(words):
            heat = found.map(number).values
            at += word == scene.things[min(at + 1, len(scene.things) - 1)].concept
            parts = [covered(one, heat) for one in data.masks(scene)]
            free = ~np.any(parts, 0)
            if at >= 0 and word in (scene.things[at].concept, scene.things[at].place_name):
                what, truth = "name" if word == scene.things[at].concept else "place", parts[at]
                rest = [located(heat, one).mass for number, one in enumerate(parts) if number != at]
            elif word in scene.background.colours and free.any():
                what, truth, rest = "background", free, [np.nan]
            else:
                continue
            fit = located(heat, truth)
            told.append((what, [fit.iou, fit.hit, fit.mass], by_chance(heat, truth).mass, float(np.mean(rest))))
    return told


def sd(many: int, seeds: list[int]) -> None:
    """What a prompt of two things adds where the first of them is: which of its words have most; word maps."""
    model, floor = cutaway.load("zoo:emoji-sd"), cutaway.load("zoo:emoji-sd@untrained")
    world = replace(DRAWINGS, things=(2, 2), repeat=0.0)
    for seed in seeds:
        scenes = two_things(many, seed, world)
        print(f"\nzoo:emoji-sd, seed {seed}, {len(scenes)} scenes of two things, step 10 of 20")
        print("| method | its name | it rather | floor | map: overlap | points | share | by chance | seconds |")
        for method in WAYS:
            if method in ("grad_cam", "rollout", "shapley"):
                continue
            started = time.process_time()
            made = _drawn(model, scenes, method, seed)
            seconds = (time.process_time() - started) / many
            numbers = [np.mean(made["first"]), np.mean(made["rather"])]
            numbers.append(np.mean(_drawn(floor, scenes, method, seed)["rather"]))
            numbers += [np.mean(made[name]) if name in made else np.nan for name in ("iou", "hit", "mass", "chance")]
            print(f"| {method} | {' | '.join(f'{one:.2f}' for one in [*numbers, seconds])} |", flush=True)


def _drawn(model: cutaway.Model, scenes: list[data.Scene], method: str, seed: int) -> dict[str, list[float]]:
    """Whether the name has most, whether it and the word behind it have more than the other's; how its map fits."""
    prompts = [prompt(one, one.seed, ground=True).text for one in scenes]
    inputs = model.inputs(prompt=prompts, image=[data.render(one) for one in scenes], step=10, steps=20, seed=seed)
    shape = inputs.tensors["sample"].shape[2:]
    truths = [covered(data.masks(one)[0], np.zeros(shape)) for one in scenes]
    target = drawn_by_prompt(model, inputs, torch.from_numpy(np.stack(truths)))
    found = relevance(model, inputs, target, method=method, seed=seed, **FEW.get(method, {}))
    made: dict[str, list[float]] = {}
    for at, scene in enumerate(scenes):
        said = found.words(at)
        values = found["word"].values[at][: len(said)]
        names = [phrase(said, thing.concept) for thing in scene.things]
        own, other = (values[[*places, min(places[-1] + 1, len(said) - 1)]].sum() for places in names)
        made.setdefault("first", []).append(float(int(values.argmax()) in names[0]))
        made.setdefault("rather", []).append(float(own > other))
        if "maps" in found.data:
            heat = found["maps"].isel(target=at, place=names[0]).sum("place").values
            fit = located(heat, truths[at])
            for name, value in (("iou", fit.iou), ("hit", fit.hit), ("mass", fit.mass)):
                made.setdefault(name, []).append(value)
            made.setdefault("chance", []).append(by_chance(heat, truths[at]).mass)
    return made


def told_apart(many: int, seeds: list[int]) -> None:
    """Two read-outs of one model, by a thing and by a cue: do the maps of a method say which is which."""
    model = cutaway.load("zoo:emoji-clip")
    for seed in seeds:
        found = twins(model, few=many, seed=seed)
        inputs = model.inputs(image=[data.render(one) for one in found.scenes])
        print(f"\nTwins on zoo:emoji-clip, seed {seed}, {len(found.scenes)} scenes; right {found.right}")
        print("| method | on the thing, by thing | by cue | on the cue, by thing | by cue | both right |")
        for method in (*WAYS, "by chance"):
            if method == "shapley":
                continue
            maps = []
            for which in ("thing", "cue"):
                made = _found(model, inputs, found.target(which, len(found.scenes)), method, seed + len(maps))
                maps.append([made.map(at).values for at in range(len(found.scenes))])
            row = apart(found, *maps)
            numbers = [*row.thing.mean(1), *row.cue.mean(1), row.both]
            print(f"| {method} | {' | '.join(f'{one:.2f}' for one in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
