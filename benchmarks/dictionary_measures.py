"""What dictionaries of the trained models are worth: the second table of docs/dictionary-measures.md.

python benchmarks/dictionary_measures.py [MODEL ...] [--seeds N] [--steps N] [--train N] [--test N] [--k N]

Of each model one place in its middle: topk dictionaries with several seeds, on scenes of training, measured on scenes
of no training beside the same before training, random directions and neurons.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import cutaway
from cutaway import store
from cutaway.data import caption, questions, render, scene_at
from cutaway.data.prompts import DRAWINGS, prompt
from cutaway.data.scene import Scene
from cutaway.methods.sparse_autoencoders.beginning import untrained
from cutaway.methods.sparse_autoencoders.dictionary_quality import dictionary_quality
from cutaway.methods.sparse_autoencoders.monosemantic import scene_embeddings
from cutaway.methods.sparse_autoencoders.training import train
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.questions.labels import scene_labels
from cutaway.store.reducers import Mean

STEP, STEPS = 5, 10  # of a drawing


@dataclass(frozen=True)
class Place:
    """Where a dictionary reads, and how its store is made."""

    site: str
    how: dict[str, Any] = field(default_factory=dict)


PLACES = {
    "zoo:emoji-clip": Place("vision.3.resid_post"),
    "zoo:emoji-llava": Place("text.2.resid_post"),
    "zoo:emoji-sd": Place("denoiser.14.resid_post", {"steps": [STEP], "guidance": "cond", "asked": {"steps": STEPS}}),
}


def main() -> None:
    """Print a table for each model."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", nargs="*", default=list(PLACES))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--train", type=int, default=300, help="scenes")
    options.add_argument("--test", type=int, default=150, help="scenes")
    options.add_argument("--k", type=int, default=8)
    chosen = options.parse_args()
    for name in chosen.models:
        began, model, place = time.perf_counter(), cutaway.load(name), PLACES[name]
        learned, held = (
            store.harvest(
                model, store.Scenes(n, split=split), place.site, tempfile.mkdtemp(), progress=False, **place.how
            )
            for n, split in ((chosen.train, "train"), (chosen.test, "test"))
        )
        d = held.shape(place.site)[0]
        shape = {"width": 4 * d, "k": chosen.k}
        seeds, centre = range(chosen.seeds), Mean()
        for part in learned.rows(place.site):
            centre.add(part.x)
        made = [train(learned, place.site, "topk", steps=chosen.steps, seed=seed, progress=False, **shape).dictionary
                for seed in seeds]  # fmt: skip
        floor = [untrained("topk", place.site, d, centre=centre.value, seed=seed, **shape) for seed in seeds]
        scenes = [scene_at("test", at, 0, DRAWINGS) if place.how else scene_at("test", at) for at in range(chosen.test)]
        labels = {one: scene_labels(scenes)[one] for one in ("group", "background")}
        found = dictionary_quality(
            model, {"topk": made}, held, untrained=floor, inputs=inputs(model, scenes[:64]),
            embeddings=scene_embeddings(scenes), labels=labels, seeds=chosen.seeds, progress=False,
        )  # fmt: skip
        print(f"\n## {name}, {place.site}: {4 * d} features, k {chosen.k}, {chosen.steps} steps on {chosen.train} "
              f"scenes; measured on {chosen.test}; {time.perf_counter() - began:.0f} s\n")  # fmt: skip
        table = found.summary().drop(columns=["cosine", "shrinkage", "scored"])
        print("| " + " | ".join(table.columns) + " |\n|---" + "|--:" * (len(table.columns) - 1) + "|")
        for row in table.itertuples(index=False):
            print("| " + " | ".join(map(str, row)) + " |")


def inputs(model: Model, scenes: list[Scene]) -> list[Inputs]:
    """What the model is judged on, 16 scenes at a time: pairs, answers, or one evaluation on noised pictures."""
    found = []
    for start in range(0, len(scenes), 16):
        part = scenes[start : start + 16]
        pictures = [render(scene) for scene in part]
        if "denoiser" in model.towers:
            words = [prompt(scene).text for scene in part]
            found.append(model.inputs(prompt=words, image=pictures, step=STEP, steps=STEPS, seed=start))
        elif "connector" in model.towers:
            asked = [questions(scene)[start % 3] for scene in part]
            found.append(model.inputs(image=pictures, text=[one.question for one in asked],
                                      answer=[one.answer for one in asked]))  # fmt: skip
        else:
            found.append(model.inputs(image=pictures, text=[caption(scene).text for scene in part]))
    return found


if __name__ == "__main__":
    main()
