"""What a pipeline draws of what it was asked for, as the judge sees it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import data
from cutaway.data.prompts import DRAWABLE, DRAWINGS, prompt
from cutaway.zoo import emoji_judge
from cutaway.zoo.drawing import Noise, Predict, Recipe, batches, trainer
from cutaway.zoo.evaluate import Row, row
from cutaway.zoo.judging import look
from cutaway.zoo.spec import Spec, Told

STEPS, GUIDANCE, BATCH = 20, 3.0, 32
SETS: dict[str, tuple[data.Split, int]] = {
    "one thing": ("test", 1), "two things": ("test", 2), "two things never seen together": ("pairs", 2),
}  # fmt: skip
CHANCE = {
    "thing asked for is there": 1 / len(DRAWABLE), "all things and no others": 1 / len(DRAWABLE), "its paint": 1 / 7,
    "background": 1 / len(data.COLOURS), "its place": 1 / 9, "side of one from the other": 1 / 4,
}  # fmt: skip


@torch.no_grad()
def evaluate(pipeline: Any, n: int, told: Told) -> list[Row]:
    """The share of claims that hold of what was drawn: of one thing and of two, of scenes and pairs seen and new.

    Prompts are those of held-out scenes, a seed each; the pictures are drawn in 20 steps with guidance 3. A claim of a
    place or a side also asks for its thing, so that it fails where the thing is missing.
    """
    rows = []
    for of, (split, things) in SETS.items():
        told(of)
        scenes = list(islice(scenes_of(split, things), n))
        captions = [prompt(scene, scene.seed, ground=True) for scene in scenes]
        seen = look(emoji_judge.judge(), draw(pipeline, [one.text for one in captions], range(n))).scenes()
        rows += _rows(of, scenes, captions, seen)
    return rows


def scenes_of(split: data.Split, things: int, seed: int = 0) -> Iterator[data.Scene]:
    """Scenes of so many things without end."""
    world = replace(DRAWINGS, things=(things, things))
    return (data.scene_at(split, index, seed, world) for index in count())


@torch.no_grad()
def draw(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], steps: int = STEPS, guidance: float = GUIDANCE
) -> Float[Tensor, "n 3 height width"]:
    """Pictures in [-1, 1], one a prompt, each from the noise of its own seed.

    A Stable Diffusion 3 without its T5 draws with no empty positions in that place.
    """
    found = []
    parts = pipeline.components
    more = {"max_sequence_length": 0} if "text_encoder_3" in parts and parts["text_encoder_3"] is None else {}
    for start in range(0, len(prompts), BATCH):
        some = list(prompts[start : start + BATCH])
        noise = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + BATCH]]
        made = pipeline(
            some, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="pt", **more
        )
        found.append(made.images.float().cpu() * 2 - 1)
    return torch.cat(found)


def drawer(
    name: str, about: str, part: str, start: Callable[[int], Any], noised: Noise, predict: Predict,
    recipe: type[Recipe], template: Path,
) -> Spec:  # fmt: skip
    """The spec of a pipeline that draws this world: `part` of it learns, and the judge measures what is drawn."""
    return Spec(
        name, about, start=start, processor=lambda: None, recipe=recipe, batches=partial(batches, name=name),
        train=trainer(part, noised, predict), lost=moved, template=template, asked="draw",
        measure=lambda pipeline, _, n, told: evaluate(pipeline, max(BATCH, n // 8), told),
    )  # fmt: skip


@torch.inference_mode()
def moved(pipeline: Any, shipped: Any) -> float:
    """The largest change of a channel of a pixel of 16 drawings, from one pipeline to another, in [0, 1]."""
    scenes = list(data.scenes("test", 16, 0, DRAWINGS))
    said = [prompt(scene, scene.seed).text for scene in scenes]
    one, other = (draw(made, said, range(len(said))) for made in (pipeline, shipped))
    return (one - other).abs().max().item() / 2


def _rows(
    of: str, scenes: Sequence[data.Scene], captions: Sequence[data.Caption], seen: Sequence[data.Scene]
) -> list[Row]:
    held: dict[str, list[bool]] = defaultdict(list)
    for scene, asked, drawn in zip(scenes, captions, seen, strict=True):
        names = {thing.concept for thing in scene.things}
        there = {thing.concept: thing for thing in drawn.things}
        for thing in scene.things:
            held["thing asked for is there"].append(thing.concept in there)
            if thing.tint:
                held["its paint"].append(thing.concept in there and there[thing.concept].tint == thing.tint)
        held["all things and no others"].append(names == set(there))
        held["background"].append(scene.background == drawn.background)
        for claim in asked.claims:
            kind = {"At": "its place", "Beside": "side of one from the other"}.get(type(claim).__name__)
            if kind:
                held[kind].append(claim.holds(drawn))
    return [row(kind, of, torch.tensor(right), CHANCE[kind]) for kind, right in held.items()]
