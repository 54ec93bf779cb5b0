"""A model by name with how it is to be opened: what a command line says before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """A hub id, folder, `zoo:` or `tiny:` name, and the options of `cutaway.load`; prints as the name."""

    name: str
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    attn: str | None = None
    trust_remote_code: bool = False
    device_map: Any = None
    max_memory: Any = None
    dictionary: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def left_out(index: Mapping[str, Any]) -> dict[str, None]:
    """The parts that a pipeline's index (`model_index.json`) names and does not have, as options for opening it.

    A Stable Diffusion 3 without its T5 is opened only if that is said; its folder says so.
    """
    return {part: None for part, named in index.items() if isinstance(named, list | tuple) and named[0] is None}
