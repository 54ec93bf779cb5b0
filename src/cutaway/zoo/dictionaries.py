"""Dictionaries that come with the package: by name, of which model and sites, and how each was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shipped:
    """One dictionary: the model and sites it is of, its recipe, and the scenes it was trained on.

    `drawn`: denoising steps of each drawing, of a model that draws.
    """

    model: str
    site: str
    target: str = ""
    scenes: int = 6000
    drawn: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stands_for(self) -> str:
        """The site whose features it brings."""
        return self.target or self.site


SHIPPED: Mapping[str, Shipped] = {
    "emoji-clip-sae": Shipped(
        "zoo:emoji-clip", "vision.4.resid_post", recipe={"width": 1024, "k": 8, "steps": 8000, "scale": "kind"}
    ),
    "emoji-clip-transcoder": Shipped(
        "zoo:emoji-clip", "vision.4.resid_mid", "vision.4.mlp.out",
        recipe={"width": 1024, "k": 16, "steps": 8000, "scale": "kind"},
    ),
    "emoji-llava-sae": Shipped(
        "zoo:emoji-llava", "text.3.resid_post", recipe={"width": 1024, "k": 12, "steps": 8000, "scale": "kind"}
    ),
    "emoji-llava-transcoder": Shipped(
        "zoo:emoji-llava", "text.3.resid_mid", "text.3.mlp.out",
        recipe={"width": 1024, "k": 16, "steps": 8000, "scale": "kind"},
    ),
    "emoji-sd-sae": Shipped(
        "zoo:emoji-sd", "denoiser.16.resid_post", scenes=1500, drawn=20,
        recipe={"width": 768, "k": 12, "steps": 8000, "timed": 20},
    ),
    "emoji-sd-transcoder": Shipped(
        "zoo:emoji-sd", "denoiser.16.resid_mid", "denoiser.16.mlp.out", scenes=1500, drawn=20,
        recipe={"width": 768, "k": 16, "steps": 8000, "timed": 20},
    ),
}  # fmt: skip
HOME = Path(__file__).parent / "models" / "dictionaries"


def folder_of(name: str) -> Path:
    """Where a dictionary lies."""
    return HOME / name


def names_of(model: str) -> tuple[str, ...]:
    """The dictionaries of a model of the zoo."""
    return tuple(name for name, one in SHIPPED.items() if one.model == model)
