"""Arithmetic of tasks in the weights of `zoo:emoji-llava`: the third table of docs/task-vectors.md.

python benchmarks/task_arithmetic.py [--steps N] [--many N] [--seeds 0 1]

Four fine-tunings of the decoder, each on one task (the kind, the background) told in one way (a picture alone, a phrase
alone) and so without examples; then what the model says with sums and differences of what they changed.
"""

from __future__ import annotations

import random
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timing import seeded
from torch.nn.functional import cross_entropy

import cutaway
from cutaway.methods import combined, weight_vector
from cutaway.questions.tasks import emoji_questions, emoji_tasks
from cutaway.zoo.contexts import by_example, kept_apart, task_scene
from cutaway.zoo.conversations import batch
from cutaway.zoo.language import scored

NAMES, WAYS, SIZE, RATE = ("kind", "background"), ("picture", "words"), 12, 3e-4


def tuned(name: str, way: str, steps: int, seed: int) -> Any:
    """A copy whose decoder has seen one task."""
    model, draw = cutaway.load("zoo:emoji-llava"), random.Random(f"{name}/{way}/{seed}")
    parameters = list(model.module.model.language_model.parameters())
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=0.0)
    for _ in range(steps):
        chats = []
        for _ in range(SIZE):
            one = by_example(
                name, 0, lambda: task_scene(draw, name, "train", lambda thing: not kept_apart(thing)),
                words=way == "words",
            )  # fmt: skip
            chats.append(replace(one, turns=(replace(one.turns[0], learnt=True),)))
        optimiser.zero_grad()
        cross_entropy(*scored(model.module, batch(chats))).backward()
        optimiser.step()
    return model


def main() -> None:
    """Print a line for each sum, for each seed."""
    given = seeded(__doc__, 24, "prompts of each kind", steps=(40, "of each fine-tuning")).parse_args()
    for seed in given.seeds:
        started, base = time.perf_counter(), cutaway.load("zoo:emoji-llava")
        judged = {(one.name, one.way): one.alone for one in emoji_tasks(base, NAMES, many=given.many, seed=seed)}
        others = emoji_questions(base, 2 * given.many, seed=seed)
        tau = {(name, way): weight_vector(base, tuned(name, way, given.steps, seed)) for name in NAMES for way in WAYS}
        print(f"\nseed {seed}: {given.steps} steps of {SIZE}, lengths",
              {" ".join(key): round(one.length, 2) for key, one in tau.items()})  # fmt: skip
        print(f"{'':44s}" + "".join(f"{name} {way:8s} " for name, way in judged) + "other questions")

        line = partial(shown, base, [*judged.values(), others])
        line("as it is")
        for key, one in tau.items():
            line(f"+ {' '.join(key)}", one)
        kind, ground = tau["kind", "words"], tau["background", "picture"]
        line("+ 0.5 kind words", kind, 0.5)
        line("- kind words", kind, -1.0)
        line("a random change as long as kind words", kind.random(seed))
        line("+ kind words + background picture", combined([kind, ground], [1, 1]))
        analogy = [tau["background", "words"], tau["kind", "picture"], kind]
        line("background words + kind picture - kind words", combined(analogy, [1, 1, -1]))
        print(f"{time.perf_counter() - started:.0f} s", flush=True)


def shown(base: Any, judged: list[Any], label: str, change: Any = None, scale: float = 1.0) -> None:
    """One line: the share of right next words of each kind of prompt under a change of the weights."""
    with nullcontext() if change is None else change.added(base, scale):
        shares = [right(base, one) for one in judged]
    print(f"{label:44s}" + "".join(f"{share:14.3f} " for share in shares), flush=True)


@torch.no_grad()
def right(model: Any, prompts: Any) -> float:
    """The share of right next words."""
    from cutaway.methods.task_vectors.states import choices

    return float((choices(model.run(prompts.inputs)).argmax(-1) == torch.tensor(prompts.answers)).double().mean())


if __name__ == "__main__":
    main()
