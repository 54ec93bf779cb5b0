"""What a kind of thing that a model is given (a picture, a text, a sound) says of itself; `prepare.py` lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cutaway.model.seats import Tower
from cutaway.model.table import Family
from cutaway.model.tools import Tool, Tools


@dataclass(frozen=True)
class Asked:
    """A model and what it is given: things by the argument of `model.inputs`, and prepared tensors by their names."""

    module: Any
    towers: Mapping[str, Tower]
    family: Family
    tools: Tools
    given: Mapping[str, list[Any]]
    tensors: Mapping[str, Any]

    def need(self, modality: Modality) -> Any:
        """The part of the processor for things of a kind, or an error that says that the model came without it."""
        return self.tools.need(modality.tool, self.module)


@dataclass(frozen=True)
class Modality:
    """One kind of thing that a model may be given, and all that is done with it before the model runs.

    `argument` is that of `model.inputs`, `read` makes a list of what stands there, each thing checked. `make` gives the
    tensors of what is asked, with the part `tool` of the processor. `tokens` are the kinds of towers (`Tower.tokens`)
    that read these things: a model without one refuses them, as `called`. Texts beside them are part of what `make`
    makes if `texts` says so, or if the column `places` of the family gives these things places among the text.
    """

    argument: str
    called: str
    tool: Tool
    tokens: tuple[str, ...]
    read: Callable[[Any], list[Any]]
    make: Callable[[Asked], dict[str, Any]]
    texts: bool = False
    places: str = ""

    def placed(self, family: Family) -> bool:
        """Whether a family of models has places for these things among the text."""
        return bool(self.places and getattr(family, self.places))
