"""Whether heads that look for a concept draw it: the tables of docs/head-relevance.md.

python benchmarks/head_relevance.py [--many 16] [--seeds 0 1] [--steps 10] [--untrained] [--model NAME]

Which heads of `zoo:emoji-sd`, or of another model, look most for words of things, of colours and of places
(`head_relevance`, on drawings of the same prompts), and then ordered weakening: all words of a prompt are multiplied by
-2 in the first 5, 10 and 20 of its heads, the most relevant to a concept first, the least relevant first, or in an
order by chance. For each: the probability of the thing and of the background in the eyes of `zoo:emoji-judge`.
`--untrained`: the heads of the pipeline before training are told apart, nothing is drawn.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import numpy as np
import torch
from timing import BEFORE, DRAWS, paired, seeded

import cutaway
from cutaway import data
from cutaway.data.prompts import DRAWABLE, claims_of, prompt
from cutaway.methods import head_relevance, weaken_heads
from cutaway.questions.judged import judged
from cutaway.zoo.evaluate_drawn import GUIDANCE, scenes_of

CONCEPTS = {
    "thing": list(DRAWABLE), "colour": list(data.COLOURS), "place": ["top", "bottom", "left", "right", "middle"],
}  # fmt: skip
COUNTS = (5, 10, 20)
ORDERS = ("most relevant first", "least relevant first", "by chance")


def main() -> None:
    """Print what is found for each seed, and the differences of all seeds together."""
    given = seeded(
        __doc__, 16, "prompts of one thing", steps=(10, "steps of a drawing"), untrained=BEFORE, model=DRAWS
    ).parse_args()
    model = cutaway.load(f"{given.model}@untrained" if given.untrained else given.model)
    every: dict[str, list[np.ndarray]] = {}
    for seed in given.seeds:
        started = time.perf_counter()
        scenes = islice(scenes_of("test", 1, seed), given.many)
        texts = [prompt(scene, scene.seed, way="things", ground=True).text for scene in scenes]
        silent = {"length": 0} if "mmdit" in model.name else {}  # no positions for the T5 that is not there
        inputs = model.inputs(prompt=texts, seed=seed * 10_000, steps=given.steps, guidance=GUIDANCE, **silent)
        found = head_relevance(model, inputs, CONCEPTS, seed=seed, progress=False)
        print(f"\n{model.name}, seed {seed}, {len(texts)} prompts")
        _heads(found)
        for name, values in {} if given.untrained else _weakened(model, inputs, texts, found, seed).items():
            every.setdefault(name, []).append(values)
        print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    if every:
        _together({name: np.concatenate(values, -1) for name, values in every.items()})


def _heads(found: Any) -> None:
    """How steady heads are, and how many keep to each concept."""
    relevance, random = found["relevance"].values, found["random"].values
    largest = [values.max(0).mean() for values in (relevance, random)]
    print("  largest share of a head, the mean over heads: {:.2f} (by chance {:.2f})".format(*largest))
    for at, concept in enumerate(CONCEPTS):
        steady = [int((values[at] >= 0.9).sum()) for values in (relevance, random)]
        print(
            f"  {concept:7s} mean {relevance[at].mean():.2f}, in 9 of 10 calls {steady[0]} heads "
            f"(by chance {steady[1]}); first: {', '.join(found.order(concept)[:5])}"
        )


def _weakened(model: cutaway.Model, inputs: Any, texts: list[str], found: Any, seed: int) -> dict[str, np.ndarray]:
    """The probability of the thing and of the background (part, picture) of each drawing."""
    drawn = {"plain": _judged(model, inputs, texts, [])}
    dice = np.random.default_rng(seed)
    chance = [str(head) for head in dice.permutation(found["head"].values)]
    for concept in ("thing", "colour"):
        order = found.order(concept)
        for name, heads in zip(ORDERS, (order, order[::-1], chance), strict=True):
            for count in COUNTS:
                key = f"{concept}, {name}, {count}"
                if name == ORDERS[2] and concept != "thing":  # the same drawing
                    drawn[key] = drawn[key.replace(concept, "thing", 1)]
                    continue
                drawn[key] = _judged(model, inputs, texts, weaken_heads(model, inputs, heads[:count]))
    for key, values in drawn.items():
        print(f"  {key:38s} thing {values[0].mean():.2f}  background {values[1].mean():.2f}")
    return drawn


def _judged(model: cutaway.Model, inputs: Any, texts: list[str], edits: Any) -> np.ndarray:
    run = model.run(inputs, edits=edits, output="pt")
    return torch.stack([judged([claims_of(text)[at] for text in texts])(run) for at in (0, -1)]).double().numpy()


def _together(drawn: dict[str, np.ndarray]) -> None:
    """The differences between orders, the mean over how many heads were weakened, with 95 % intervals over prompts."""
    for key, values in drawn.items():
        print(f"  all seeds: {key:38s} thing {values[0].mean():.2f}  background {values[1].mean():.2f}")
    for concept in ("thing", "colour"):
        most, least, chance = (
            np.mean([drawn[f"{concept}, {name}, {count}"] for count in COUNTS], 0) for name in ORDERS
        )
        for other, values in (("least first", least), ("chance", chance)):
            for at, part in enumerate(("thing", "background")):
                print(f"  heads of “{concept}”: {other} less most first, {part} {paired(values[at] - most[at])}")


if __name__ == "__main__":
    main()
