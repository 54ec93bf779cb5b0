"""The worlds, by name."""

from __future__ import annotations

from cutaway.bench.worlds.shown import CLIP, LLAVA, MMDIT, TEXT
from cutaway.bench.worlds.world import World
from cutaway.errors import InputError, near
from cutaway.zoo import parted, planted_clip, planted_llava, planted_mmdit, planted_text

_EVERY = (
    World(planted_text.PLANT, {"text": TEXT}),
    World(planted_llava.PLANT, {"both": LLAVA}),
    World(planted_clip.PLANT, CLIP),
    World(planted_mmdit.PLANT, {"denoiser": MMDIT}),
)
WORLDS = {one.name: one for one in _EVERY}


def world(name: str) -> World:
    """The world of that name, with or without `zoo:` in front.

    >>> world("zoo:planted-text").name
    'planted-text'
    """
    plain = parted(name)[1] if parted(name)[0] == "zoo" else name
    if plain not in WORLDS:
        raise InputError(
            f"no world is called '{name}'", expected="a model with a planted circuit", exists=near(plain, WORLDS),
            do="name one of these",
        )  # fmt: skip
    return WORLDS[plain]
