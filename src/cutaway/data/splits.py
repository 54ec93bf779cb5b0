"""Which scenes belong to training and which are kept apart: unseen pairs, unseen places, one unseen artist.

The rules look at nothing but the scene, so that anyone can check a scene with `split_of`:

- `artist`: everything is drawn by the unseen artist (Emojione).
- `pairs`: two different concepts stand together that never do in training: one unordered pair of concepts in eight.
- `places`: a thing stands in the one ninth of the canvas where its concept never stands in training.
- `test`: none of these, and the scene's fingerprint falls in one fold of sixteen.
- `train`: the rest.

A scene with two of the first three novelties, or with several artists of whom one is unseen, is in no split.
"""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from itertools import combinations
from typing import Literal, get_args

from cutaway.data.concepts import UNSEEN_ARTIST
from cutaway.data.scene import PLACES, Scene
from cutaway.errors import InputError, near

Split = Literal["train", "test", "pairs", "places", "artist"]
SPLITS: tuple[Split, ...] = get_args(Split)
PAIR_FOLDS = 8
TEST_FOLDS = 16


def split_of(scene: Scene) -> Split | None:
    """The split the scene belongs to; None for none."""
    unseen = [thing.artist == UNSEEN_ARTIST for thing in scene.things]
    names = sorted({thing.concept for thing in scene.things})
    pair = any(unseen_pair(one, other) for one, other in combinations(names, 2))
    place = any(thing.place_name == unseen_place(thing.concept) for thing in scene.things)
    novelties: dict[Split, bool] = {"artist": any(unseen), "pairs": pair, "places": place}
    new = [name for name, is_new in novelties.items() if is_new]
    if len(new) > 1 or any(unseen) != all(unseen):
        return None
    if new:
        return new[0]
    return "test" if in_test_fold(scene) else "train"


@lru_cache(maxsize=1 << 16)
def unseen_pair(one: str, other: str) -> bool:
    """Whether two different concepts never stand together in training."""
    return one != other and _hash("pair", *sorted((one, other))) % PAIR_FOLDS == 0


@lru_cache(maxsize=4096)
def unseen_place(name: str) -> str:
    """The ninth of the canvas where a concept never stands in training."""
    return PLACES[_hash("place", name) % len(PLACES)]


def in_test_fold(scene: Scene) -> bool:
    """Whether what the scene shows (not its canvas, not its seed) falls in the fold kept for `test`."""
    shown = [(t.concept, t.artist, t.place, t.size, t.rotation, t.tint) for t in scene.things]
    ground = scene.background
    return zlib.crc32(repr((shown, ground.kind, ground.colours, ground.seed)).encode()) % TEST_FOLDS == 0


def check_split(split: str) -> None:
    """Raise unless there is such a split."""
    if split not in SPLITS:
        raise InputError(
            f"no split is called {split!r}",
            expected="a part of EmojiWorld",
            exists=near(split, SPLITS),
            do=f"choose one of {', '.join(SPLITS)}",
        )


def _hash(*words: str) -> int:
    return zlib.crc32(json.dumps(words).encode())
