"""Findings on pictures that are made: what a judge names in those made for a word, beside an untrained twin's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from numpy import ndarray

from cutaway.data import Noun, render, scene_at, scenes
from cutaway.data.prompts import DRAWABLE
from cutaway.methods import feature_visualisation
from cutaway.methods.feature_visualisation.paint import By
from cutaway.model.model import Model
from cutaway.model.targets import similarity
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.judging import look

WAYS: tuple[By, ...] = ("pixel", "fourier", "maco")
THINGS, STEPS, AMONG, FIRST = 8, 96, 64, 5
SCENE = "best of 64 scenes"


def made_for_words(model: Model, _: int, seed: int, told: Callable[[str], None]) -> xarray.Dataset:
    """Pictures made for the cosine with “a thing”: how large it becomes, and where a judge ranks the thing.

    `value` (way, thing) the cosine in the picture that was made; `rank` of the thing among all that the judge knows, 1
    the first, `probability` what the judge gives it. The last way is the scene that the model likes best. The judge is
    a classifier trained apart.
    """
    things = words(THINGS, seed)
    texts = [f"a {called(one)}" for one in things]
    inputs = model.inputs(image=render(scene_at("test", 3)), text=texts)
    among = list(scenes("test", AMONG, seed))
    value: dict[str, list[float]] = {way: [] for way in (*WAYS, SCENE)}
    pictures: dict[str, list[Any]] = {way: [] for way in value}
    for way in WAYS:
        for at, text in enumerate(texts):
            told(f"{way}, {text}")
            found = feature_visualisation(
                model, inputs, target=similarity(at), by=way, steps=STEPS, seed=seed, pictures=among, progress=False
            )
            value[way].append(float(found["value"][0]))
            pictures[way].append(found["picture"].values[0])
            if way == WAYS[-1]:
                value[SCENE].append(float(found["best"][0]))
                pictures[SCENE].append(found["exemplar"].values[0])
    judged = {way: ranked(np.stack(made), things) for way, made in pictures.items()}
    return xarray.Dataset(
        {
            "value": (("way", "thing"), np.array(list(value.values()))),
            "rank": (("way", "thing"), np.array([one for one, _ in judged.values()])),
            "probability": (("way", "thing"), np.array([one for _, one in judged.values()])),
        },
        {"way": list(value), "thing": np.arange(len(things)), "name": ("thing", things)},
    )  # fmt: skip


def words(many: int, seed: int) -> list[str]:
    """Things that the judge knows, whose name is one word; other seeds begin elsewhere."""
    known = [one for one in DRAWABLE if " " not in called(one)]
    apart = max(1, len(known) // many)
    return known[seed % apart :: apart][:many]


def called(thing: str) -> str:
    """A thing as texts call it."""
    return Noun(thing).the.removeprefix("the ")


def ranked(pictures: ndarray, things: Sequence[str]) -> tuple[list[int], list[float]]:
    """The rank that a judge gives the thing that each picture was made for, and its probability."""
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1
    with torch.no_grad():
        seen = look(judge(), pixels)
    every = torch.stack([seen.there(one) for one in DRAWABLE], 1)
    own = [DRAWABLE.index(one) for one in things]
    probability = [float(every[at, one]) for at, one in enumerate(own)]
    return [int((every[at] > probability[at]).sum()) + 1 for at in range(len(own))], probability
