"""A retrained world: a model, what it was trained on, and what many other trainings would have made of it."""

from __future__ import annotations

from pathlib import Path

from cutaway.bench.retrained.contrastive import Contrastive
from cutaway.bench.retrained.drawing import Drawing
from cutaway.bench.retrained.family import Family
from cutaway.bench.retrained.generative import Generative

_HOME = Path(__file__).parent / "shipped"
FAMILIES: dict[str, Family] = {one.name: one for one in (Contrastive(), Generative(), Drawing())}


def shipped(name: str) -> Path:
    """The file with the numbers of a world."""
    return _HOME / f"{name}.safetensors"
