"""Scenes for the tests of EmojiWorld: any that hypothesis thinks of, and generated ones from every split."""

import json
from functools import cache

from hypothesis import strategies as st

from cutaway import data

NAMES = [concept.name for concept in data.concepts()][::17]
COLOURS = list(data.COLOURS)

# As plain values, and scenes as JSON: the run-time checks of shapes and types draw random numbers, which hypothesis
# does not allow where it makes its examples. A test reads the scene with `data.Scene.from_json`.
_PLAIN = st.fixed_dictionaries({"kind": st.just("plain"), "colours": st.sampled_from(COLOURS).map(lambda c: [c])})
_MIXED = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["gradient", "texture"]),
        "colours": st.permutations(COLOURS).map(lambda order: order[:2]),
        "seed": st.integers(0, 60),
    }
)
_THING = st.fixed_dictionaries(
    {
        "concept": st.sampled_from(NAMES),
        "artist": st.sampled_from(data.SEEN_ARTISTS),
        "place": st.lists(st.floats(0, 1), min_size=2, max_size=2),
        "size": st.floats(0.05, 1.2),
        "rotation": st.sampled_from([0.0, 0.0, 15.0, -40.0, 90.0]),
        "tint": st.sampled_from([None, None, *data.TINTS]),
    }
)
_LABEL = st.fixed_dictionaries({"text": st.sampled_from(NAMES), "place": st.sampled_from(["top", "bottom"])})
SCENES = st.fixed_dictionaries(
    {
        "canvas": st.lists(st.integers(16, 80), min_size=2, max_size=2),
        "background": st.one_of(_PLAIN, _MIXED),
        "things": st.lists(_THING, max_size=4),
        "label": st.one_of(st.none(), _LABEL),
        "seed": st.integers(0, 2**31),
    }
).map(json.dumps)


@cache
def many() -> list[data.Scene]:
    """Scenes of up to four things from every split."""
    world = data.World(things=(1, 4), repeat=0.25, tinted=0.3)
    return [scene for split in data.SPLITS for scene in data.scenes(split, 60, 5, world)]
