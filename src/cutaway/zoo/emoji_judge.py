"""`zoo:emoji-judge`: who tells, independently of those who draw, what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import avg_pool2d, interpolate

from cutaway import data
from cutaway.data.prompts import DRAWABLE, DRAWINGS
from cutaway.zoo.drawing import scenes_of
from cutaway.zoo.evaluate import Row, row
from cutaway.zoo.judging import LABELS, Recipe, Shown, look, shown, train
from cutaway.zoo.spec import Spec, Told

BATCH = 250
PARTS: tuple[tuple[data.Split, bool], ...] = (("test", False), ("test", True), ("places", False), ("pairs", False))


def untrained(seed: int = 0) -> Any:
    """The judge before training: a `transformers.UperNetForSemanticSegmentation` on a small ResNet, 1.6 million."""
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    eyes = ResNetConfig(
        embedding_size=32, hidden_sizes=[48, 96, 160], depths=[1, 2, 2], layer_type="basic",
        out_features=["stage1", "stage2", "stage3"],
    )  # fmt: skip
    config = UperNetConfig(
        backbone_config=eyes, hidden_size=64, pool_scales=[1, 2], use_auxiliary_head=False,
        id2label=dict(enumerate(LABELS)), label2id={name: index for index, name in enumerate(LABELS)},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UperNetForSemanticSegmentation(config).eval()


def processor() -> Any:
    """Its picture processing: 64 × 64 in [-1, 1]."""
    from cutaway.zoo import emoji_clip

    return emoji_clip.processor().image_processor


def batches(recipe: Recipe) -> Callable[[int], Shown]:
    """The pictures of any step, all of the training split."""

    def draw(step: int) -> Shown:
        return shown(scenes_of(recipe, step))

    return draw


@torch.inference_mode()
def evaluate(module: Any, n: int, told: Told) -> list[Row]:
    """Whether it tells everything about a scene, then thing, place, paint and ground; also of blurred pictures."""
    rows = []
    for split, soft in PARTS:
        of = f"{split}{', blurred' * soft}"
        told(of)
        scenes = list(data.scenes(split, n, 0, DRAWINGS))
        found = []
        for start in range(0, n, BATCH):
            pixels = data.tensor(scenes[start : start + BATCH]).to(module.device).float() / 127.5 - 1
            if soft:
                pixels = interpolate(avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")
            found += look(module, pixels).scenes()
        rows += compared(of, scenes, found)
    return rows


def compared(of: str, scenes: list[data.Scene], found: list[data.Scene]) -> list[Row]:
    """What the judge saw beside what there is."""
    same, place, paint, ground = [], [], [], []
    for scene, seen in zip(scenes, found, strict=True):
        by_name = {thing.concept: thing for thing in seen.things}
        same.append(set(by_name) == {thing.concept for thing in scene.things})
        ground.append(seen.background == scene.background)
        for thing in scene.things:
            other = by_name.get(thing.concept)
            near = other is not None and max(abs(a - b) for a, b in zip(other.place, thing.place, strict=True)) < 0.1
            place.append(near)
            paint.append(other is not None and other.tint == thing.tint)
    ways = {
        "all things and no others": (same, 1 / len(DRAWABLE)), "thing within 0.1 of its place": (place, 1 / 9),
        "paint of a thing": (paint, 1 / 7), "background": (ground, 1 / 11),
    }  # fmt: skip
    return [row(measure, of, torch.tensor(right), chance) for measure, (right, chance) in ways.items()]


@torch.inference_mode()
def _lost(module: Any, shipped: Any) -> float:
    """The largest change of a probability in any cell of 100 test scenes."""
    pixels = data.tensor(list(data.scenes("test", 100, 0, DRAWINGS))).float() / 127.5 - 1
    return (look(module, pixels).thing - look(shipped, pixels).thing).abs().max().item()


@cache
def judge() -> Any:
    """The judge that comes with the package."""
    return SPEC.open()[0]


SPEC = Spec(
    "emoji-judge", "tells what a small picture shows, cell by cell",
    start=untrained, processor=processor, recipe=Recipe, batches=batches, train=train,
    measure=lambda module, _, n, told: evaluate(module, n, told), lost=_lost,
    template=Path(__file__).with_suffix(".md"), asked="nothing",
)  # fmt: skip
