"""Steering `zoo:emoji-llava` from one colour of background to another: the second table of docs/task-vectors.md.

python benchmarks/steering.py [--many N] [--seeds 0 1] [--untrained]

The vector is the difference of means of `many` questions each, told by pictures or in words; it is judged on others.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from timing import BEFORE, seeded

import cutaway
from cutaway import targets
from cutaway.data import Background
from cutaway.methods import steering, steering_vector
from cutaway.questions.tasks import conversations, emoji_questions
from cutaway.zoo.contexts import brief, task_scene
from cutaway.zoo.conversations import Conversation, Turn

ASKED = "What colour is the background?"
FROM, TO = "red", "blue"
BEST = ["share", "random_share", "random_share_high", "kept", "random_kept", "cost"]


def asked(model: Any, colour: str, way: str, draw: random.Random, many: int) -> Any:
    """The question about scenes on a background of that colour."""
    made = []
    for _ in range(many):
        scene = task_scene(draw, "background", "test", lambda _: True)
        scene = replace(scene, background=Background("plain", (colour,)))
        turn = Turn("background", ASKED, colour)
        made.append(Conversation((turn,), () if way == "words" else (scene,), brief(scene) if way == "words" else ""))
    return conversations(model, made)


def main() -> None:
    """Print every layer, for each seed, source and target."""
    given = seeded(__doc__, 12, "questions of each colour, for the vector and judging", untrained=BEFORE).parse_args()
    name = "zoo:emoji-llava" + "@untrained" * given.untrained
    model = cutaway.load(name)
    for seed in given.seeds:
        others = emoji_questions(model, 4 * given.many, seed=seed).inputs
        for source in ("picture", "words"):
            draw = random.Random(f"{source}/{seed}")
            sides = [asked(model, colour, source, draw, given.many).inputs for colour in (TO, FROM)]
            vector = steering_vector(model, *sides, progress=False)
            for target in ("picture", "words"):
                draw = random.Random(f"judged/{target}/{seed}")
                here, there = (asked(model, colour, target, draw, given.many) for colour in (FROM, TO))
                found = steering(
                    model, here.inputs, there.inputs, targets.logit_diff(TO, FROM), others=others, vector=vector,
                    seed=seed, draws=4, progress=False,
                )  # fmt: skip
                print(f"\n{name}, seed {seed}, {source} -> {target}: {float(found['here']):+.2f} here, "
                      f"{float(found['there']):+.2f} there", flush=True)  # fmt: skip
                for alpha in (1.0, 2.0):
                    whole = found.data.sel(way="add", alpha=alpha)
                    frame = whole[BEST].to_dataframe()[BEST]
                    frame["bend"] = found["share"].sel(way="bend", alpha=alpha).values
                    if alpha == 1:
                        frame["out"], frame["out kept"] = found["out_share"].values, found["out_kept"].values
                    print(f"alpha {alpha:g}\n{frame.round(3).to_string()}", flush=True)


if __name__ == "__main__":
    main()
