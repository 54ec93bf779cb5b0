"""What `prompt_to_prompt` does to drawings of `zoo:emoji-sd`, or of another: the tables of docs/prompt-edits.md.

python benchmarks/prompt_edits.py [--many 12] [--seeds 0 1] [--chance] [--model NAME]

Held-out prompts of one thing, each drawn once, and then another prompt in ways that keep more or less of it: `replace`
(another thing), `refine` (a paint in front of the thing), `reweight` (a word's columns times c). For each drawing:
whether what is new is there; how far pixels move outside of both things; how much of the old thing's place it takes.
With --chance another thing alone, the whole picture, beside the same patterns with their patches in an order by chance,
and both before training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import DRAWS, seeded

import cutaway
from cutaway import Scale
from cutaway.data.prompts import claims_of
from cutaway.methods import prompt_to_prompt, prompt_to_prompt_drawings
from cutaway.questions.judged import judged, prompts_apart
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS
from cutaway.zoo.judging import CELL, Seen, look

WAYS: Mapping[str, Mapping[str, float]] = {
    "share 0.2": {"share": 0.2}, "share 0.4": {"share": 0.4}, "share 0.8": {"share": 0.8}, "share 1": {"share": 1.0},
    "share 0.8, own 0.2": {"share": 0.8, "own": 0.2}, "share 0.8, own 0.4": {"share": 0.8, "own": 0.4},
}  # fmt: skip
FACTORS = (-2.0, 0.0, 0.5, 2.0, 4.0)
PAINTS = ("red", "blue", "green")


class Drawn(NamedTuple):
    """Pictures, and what the judge sees in them."""

    run: Any
    pictures: torch.Tensor
    seen: Seen


def main() -> None:
    """Print what is found for each seed."""
    chance = (False, "beside patterns in wrong places, and before training")
    given = seeded(__doc__, 12, "prompts", chance=chance, model=DRAWS).parse_args()
    if given.chance:
        for seed in given.seeds:
            for name in (given.model, f"{given.model}@untrained"):
                _beside_chance(name, seed, given.many)
        return
    model = cutaway.load(given.model)
    for seed in given.seeds:
        own, other, _ = prompts_apart("thing", given.many, seed=seed)
        named = [claims_of(text)[0].noun.concept for text in own]
        painted = [_painted(text, at) for at, text in enumerate(own)]
        for what, texts in (("replace", other), ("refine", painted), ("reweight", own)):
            started = time.perf_counter()
            print(f"\n{model.name}, seed {seed}, {what}: {own[0]!r} to {texts[0]!r}, {len(own)} prompts")
            _measured(model, own, texts, named, seed, what)
            print(f"  {time.perf_counter() - started:.0f} s")


def _beside_chance(name: str, seed: int, many: int) -> None:
    own, other, _ = prompts_apart("thing", many, seed=seed)
    model = cutaway.load(name)
    both = [model.inputs(prompt=some, seed=seed * 10_000, **_fixed(model)) for some in (own, other)]
    found = prompt_to_prompt_drawings(model, *both, shares=(0.0, 0.4, 0.8), seed=seed, progress=False)
    print(f"\n{name}, seed {seed}, {many} prompts\n{found.summary().round(2).to_string(index=False)}", flush=True)


def _fixed(model: cutaway.Model) -> dict[str, Any]:
    """Steps and guidance; no positions for a T5 that is not there."""
    return {"steps": STEPS, "guidance": GUIDANCE} | ({"length": 0} if "mmdit" in model.name else {})


def _painted(text: str, at: int) -> str:
    """A paint in front of the thing, another one than that of the background or its own."""
    noun, ground = claims_of(text)[0].noun, text.split()[-2]
    free = [paint for paint in PAINTS if paint not in (noun.tint, ground)]
    bare = text.replace(f"{noun.tint} ", "", 1) if noun.tint else text
    return f"a {free[at % len(free)]} {bare.split(' ', 1)[1]}"


def _measured(model: cutaway.Model, own: list[str], other: list[str], named: list[str], seed: int, what: str) -> None:
    fixed = _fixed(model)
    first, second = (model.inputs(prompt=some, seed=seed * 10_000, **fixed) for some in (own, other))
    claims = [claims_of(text)[0] for text in other]
    new = [claim.noun.concept for claim in claims]
    before = _draw(model, first)
    drawings = {"plain, same noise": _draw(model, second)}
    if what == "reweight":
        for factor in FACTORS:
            for word, words in {"thing": named, "“background”": ["background"] * len(own)}.items():
                drawings[f"{word} times {factor:g}"] = _reweighted(model, first, words, factor)
    else:
        for way, options in WAYS.items():
            drawings[way] = _draw(model, second, prompt_to_prompt(model, first, second, **options))
    strange = model.inputs(prompt=other, seed=seed * 10_000 + 5_000, **fixed)
    drawings["plain, other noise"] = _draw(model, strange)
    aim = judged(claims)
    for way, drawn in drawings.items():
        there = (aim(drawn.run) > 0.5).float()
        _tell(way, there, *_apart(before, drawn, named, new))


def _reweighted(model: cutaway.Model, inputs: Any, words: list[str], factor: float) -> Drawn:
    """Each prompt with its own word weighted."""
    edits = []
    for row, word in enumerate(words):
        one = model.inputs(prompt=inputs.tensors["prompt"][row], **_fixed(model))
        made = prompt_to_prompt(model, one, one, share=0.0, weights={word: factor})[0]
        query = made.query
        edits.append(Scale(made.site, factor, query=query, key=made.key, batch=[row], guidance=made.guidance))
    return _draw(model, inputs, edits)


@torch.no_grad()
def _draw(model: cutaway.Model, inputs: Any, edits: Any = ()) -> Drawn:
    run = model.run(inputs, edits=edits, output="pt")
    pictures = run.outputs.images.float()
    return Drawn(run, pictures, look(emoji_judge.judge(), pictures * 2 - 1))


def _apart(one: Drawn, two: Drawn, named: list[str], new: list[str]) -> tuple[list[float], list[float]]:
    """How far pixels move outside both things (mean absolute difference, of 255), and overlap of the two things."""
    moved, overlap = [], []
    for row, names in enumerate(zip(named, new, strict=True)):
        masks = [drawn.seen.thing[row].argmax(0) < drawn.seen.thing.shape[1] - 1 for drawn in (one, two)]
        outside = ~(masks[0] | masks[1]).repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
        moved.append(255 * float((one.pictures[row] - two.pictures[row]).abs().mean(0)[outside].mean()))
        here, there = (drawn.seen.mask(row, name).bool() for drawn, name in zip((one, two), names, strict=True))
        if here.any():
            overlap.append(float((here & there).sum() / (here | there).sum()))
    return moved, overlap


def _tell(way: str, there: torch.Tensor, moved: list[float], overlap: list[float]) -> None:
    print(
        f"  {way:24s} there {float(there.mean()):.2f}  moved {_mean(moved)}  place kept {_mean(overlap)}"
        f"  of {len(there)}, {len(overlap)}"
    )


def _mean(values: list[float]) -> str:
    array = np.array(values)
    return f"{array.mean():.2f} ± {1.96 * array.std(ddof=1) / len(array) ** 0.5:.2f}"


if __name__ == "__main__":
    main()
