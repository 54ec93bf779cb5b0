"""What is true of EmojiWorld scenes, as labels for probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cutaway.data import Scene, concept
from cutaway.errors import MethodError

LABELS = ("concept", "group", "place", "background", "kind", "count", "artist", "x", "y")


def scene_labels(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Labels by name, one a scene: words for classes, floats for numbers.

    Of the first thing: `concept`, its `group` (animals, food, …), `place` (a ninth of the canvas), `artist`, and its
    centre `x`, `y` in fractions of the canvas. Of the scene: `background` (first colour), `kind` (plain, gradient,
    texture) and `count` (a number).

    >>> from cutaway.data import scene_at
    >>> scene_labels([scene_at("test", 0)])["place"].shape
    (1,)
    """
    empty = [i for i, scene in enumerate(scenes) if not scene.things]
    if empty or not len(scenes):
        raise MethodError(
            f"scene {empty[0] if empty else 'list'} is empty", expected="at least one thing in each scene",
            do="draw them from a World with things=(1, …)",
        )  # fmt: skip
    firsts = [scene.things[0] for scene in scenes]
    return {
        "concept": np.array([thing.concept for thing in firsts]),
        "group": np.array([concept(thing.concept).group for thing in firsts]),
        "place": np.array([thing.place_name for thing in firsts]),
        "background": np.array([scene.background.colours[0] for scene in scenes]),
        "kind": np.array([scene.background.kind for scene in scenes]),
        "count": np.array([float(len(scene.things)) for scene in scenes]),
        "artist": np.array([thing.artist for thing in firsts]),
        "x": np.array([thing.place[0] for thing in firsts]),
        "y": np.array([thing.place[1] for thing in firsts]),
    }
