"""What is drawn when a concept is exchanged in `zoo:emoji-sd` or `-mmdit`: the tables of docs/concept-edits.md.

python benchmarks/concept_edits.py [--model zoo:emoji-sd] [--many 8] [--seeds 0 1] [--part all]

For each seed another choice of things, other prompts and other noise. Parts: `kinds` (one edit at a time, and what it
is held against), `layers` (the maps of one layer alone), `several` (1 to 20 edits, at once and one after the other).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from timing import seeded

import cutaway
from cutaway.applications import concept_edit
from cutaway.data import Noun
from cutaway.data.prompts import DRAWABLE
from cutaway.model.readers import prompt_readers
from cutaway.model.shift import shifted
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate_drawn import BATCH, GUIDANCE, STEPS, draw
from cutaway.zoo.judging import Seen, look

PROMPTS = ("{}", "{} on a blue background", "{} on a white background", "{} in the top left on a green background")
SAME = ("{} on a purple background", "{} on a yellow background")  # as those of the edit, on other grounds
OTHER = ("{} in the bottom right", "a key and {} on a gray background")  # another place; beside another thing
COUNTS, KEPT, NEAR = (1, 2, 5, 10, 20), 12, 3


@dataclass(frozen=True)
class Choice:
    """Things that are exchanged, those that the edit is told to keep, and those it is told nothing of."""

    old: list[str]
    new: list[str]
    kept: list[str]
    untold: list[str]


def main() -> None:
    """Print what is found for each seed."""
    parts = {"kinds": _kinds, "layers": _layers, "several": _several}
    given = seeded(
        __doc__, 8, "edits of each kind", model=("zoo:emoji-sd", "who draws"), part=("all", "kinds, layers or several")
    ).parse_args()
    for seed in given.seeds:
        for name, part in parts.items():
            if given.part in ("all", name):
                started = time.perf_counter()
                print(f"\n{given.model}, seed {seed}, {name}")
                part(given.model, _choice(seed), given.many, seed)
                print(f"  {time.perf_counter() - started:.0f} s")


def _choice(seed: int) -> Choice:
    names = [name for name in DRAWABLE if name != "key"]
    random.Random(f"concept edits/{seed}").shuffle(names)
    most = COUNTS[-1]
    return Choice(
        names[:most], names[most : 2 * most], names[2 * most : 2 * most + KEPT], names[2 * most + KEPT :][:KEPT]
    )


def _said(name: str) -> str:
    return Noun(name).one


def _kinds(name: str, choice: Choice, many: int, seed: int) -> None:
    """One edit at a time, in the ways it can be made, beside none, a random one and the model before training."""
    model = cutaway.load(name)
    ways: dict[str, Callable[[Any], Any]] = {
        "nothing": lambda edit: {},
        "the edit": lambda edit: edit().tensors,
        "also behind the name": lambda edit: edit(places="after").tensors,
        "nothing kept": lambda edit: edit(keep=()).tensors,
        "into nothing": lambda edit: edit(new="").tensors,
        "random, as large": lambda edit: edit().random(seed).tensors,
    }
    for half in "kv":
        if any(one.name.endswith(f"cross.{half}") for one in prompt_readers(model)):
            ways[f"{half} alone"] = lambda e, h=half: e(maps=f"*.cross.{h}").tensors
    for way, make in ways.items():
        _tell(way, [_one(model, choice, at, make, seed) for at in range(many)])
    untrained = cutaway.load(f"{name}@untrained")
    _tell("before training", [_one(untrained, choice, at, ways["the edit"], seed) for at in range(many)])


def _one(model: cutaway.Model, choice: Choice, at: int, make: Callable[[Any], Any], seed: int) -> dict[str, float]:
    """What the judge sees with one edit held: shares of drawings."""
    old, new = choice.old[at], choice.new[at]

    def edit(new: str = _said(new), **options: Any) -> Any:
        kept = [_said(one) for one in choice.kept]
        return concept_edit(model, {_said(old): new}, **{"prompts": PROMPTS, "keep": kept, **options})

    rest = {"kept": choice.kept[:6], "untold": choice.untold[:6], "alike": _alike(old, new)}
    with shifted(model.engine, make(edit)):
        same, other = (_drawn(model, [(text, old) for text in some], seed) for some in (SAME, OTHER))
        told = {"new": _has(same, [new] * 2), "new, other prompts": _has(other, [new] * 2)}
        told |= {"old still": _has(same, [old] * 2)}
        for what, names in rest.items():
            told[what] = _has(_drawn(model, [(SAME[0], one) for one in names], seed), names)
    return {key: float(value.mean()) for key, value in told.items()}


def _layers(name: str, choice: Choice, many: int, seed: int) -> None:
    """The maps of one layer alone, and of as many layers as matter most, least, or by chance."""
    model = cutaway.load(name)
    layers = list(dict.fromkeys(one.name.rpartition(".cross.")[0] or one.name for one in prompt_readers(model)))
    edits = []
    for at in range(many):
        kept = [_said(one) for one in choice.kept]
        edits.append(concept_edit(model, {_said(choice.old[at]): _said(choice.new[at])}, prompts=PROMPTS, keep=kept))
    of = {one.weight: one.name.rpartition(".cross.")[0] or one.name for one in prompt_readers(model)}

    def drawn(some: Sequence[str]) -> list[dict[str, float]]:
        rows = []
        for at, edit in enumerate(edits):
            with shifted(model.engine, {key: value for key, value in edit.tensors.items() if of[key] in some}):
                old, new = choice.old[at], choice.new[at]
                rows.append({"new": float(_has(_drawn(model, [(text, old) for text in SAME], seed), [new] * 2).mean())})
        return rows

    alone = {layer: drawn([layer]) for layer in layers}
    for layer, rows in alone.items():
        _tell(layer, rows)
    best = sorted(layers, key=lambda layer: -float(np.mean([row["new"] for row in alone[layer]])))
    dice = random.Random(seed)
    for count in (2, 3, 5):
        if count < len(layers):
            _tell(f"best {count}, chosen on these", drawn(best[:count]))
            _tell(f"random {count}", [row for _ in range(3) for row in drawn(dice.sample(layers, count))])
            _tell(f"all but the best {count}", drawn(best[count:]))


def _several(name: str, choice: Choice, many: int, seed: int) -> None:
    """1 to 20 edits at once and one after the other: how many are drawn, and what is left of the rest."""
    del many
    for way, held in {"at once": _at_once, "one after the other": _in_turn}.items():
        for count, model in held(name, choice):
            old, new = choice.old[:count], choice.new[:count]
            told = {
                "new": _has(_drawn(model, [(SAME[0], one) for one in old], seed), new),
                "new, other prompts": _has(_drawn(model, [(OTHER[0], one) for one in old], seed), new),
            }
            for what, names in {"kept": choice.kept, "untold": choice.untold}.items():
                told[what] = _has(_drawn(model, [(SAME[0], one) for one in names], seed), names)
            print(f"  {count:2d} {way:20s}", "  ".join(f"{k} {v.mean():.2f} of {len(v)}" for k, v in told.items()))


def _changes(choice: Choice, some: range) -> Mapping[str, str]:
    return {_said(choice.old[at]): _said(choice.new[at]) for at in some}


def _at_once(name: str, choice: Choice) -> Iterator[tuple[int, cutaway.Model]]:
    model, kept = cutaway.load(name), [_said(one) for one in choice.kept]
    for count in COUNTS:
        with concept_edit(model, _changes(choice, range(count)), prompts=PROMPTS, keep=kept).added(model):
            yield count, model


def _in_turn(name: str, choice: Choice) -> Iterator[tuple[int, cutaway.Model]]:
    model, kept = cutaway.load(name), [_said(one) for one in choice.kept]
    with ExitStack() as stack:
        for at in range(COUNTS[-1]):
            one = concept_edit(model, _changes(choice, range(at, at + 1)), prompts=PROMPTS, keep=kept)
            stack.enter_context(one.added(model))
            if at + 1 in COUNTS:
                yield at + 1, model


@torch.no_grad()
def _drawn(model: cutaway.Model, asked: Sequence[tuple[str, str]], seed: int) -> Seen:
    """What the judge sees in drawings of things, one a prompt."""
    prompts = [text.replace("{}", _said(name)) for text, name in asked]
    return look(emoji_judge.judge(), draw(model.module, prompts, [seed * 10_000 + at for at in range(len(prompts))]))


def _has(seen: Seen, names: Sequence[str]) -> np.ndarray:
    """Whether each drawing has a thing, one name a drawing."""
    return np.array([float(seen.there(name)[at]) > 0.5 for at, name in enumerate(names)])


@cache
def _clip() -> cutaway.Model:
    return cutaway.load("zoo:emoji-clip")


def _alike(old: str, new: str) -> list[str]:
    """The things whose names `zoo:emoji-clip` holds closest to that of the old one."""
    clip = _clip()
    names = [name for name in DRAWABLE if name not in (old, new, "key")]
    run = clip.run(clip.inputs(text=[_said(name) for name in [old, *names]]), record="text.joint")
    said = torch.nn.functional.normalize(run["text.joint"], dim=-1)
    return [names[at] for at in (said[1:] @ said[0]).topk(NEAR).indices.tolist()]


def _tell(what: str, rows: Sequence[Mapping[str, float]]) -> None:
    """Means over edits, with a 95 % interval from a bootstrap over them."""
    dice, told = np.random.default_rng(0), []
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        drawn = values[dice.integers(len(values), size=(2000, len(values)))].mean(1)
        told.append(f"{key} {values.mean():.2f} [{np.quantile(drawn, 0.025):.2f}, {np.quantile(drawn, 0.975):.2f}]")
    print(f"  {what:24s}", "  ".join(told), flush=True)


if __name__ == "__main__":
    print(f"{STEPS} steps, guidance {GUIDANCE}, {BATCH} pictures at a time")
    main()
