"""The taxonomy as data: what families, rows and applications are, what the survey says, stated gaps, contradictions."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

SURVEY = "lin25"


@dataclass(frozen=True)
class Row:
    """A row of the taxonomy: what it asks and computes, its formula, where it comes from, what is open."""

    name: str
    asks: str
    computes: str
    formula: str
    origin: str
    open: tuple[str, ...]


@dataclass(frozen=True)
class Use:
    """An application: how the inside of a model is used for it, and by what it is measured."""

    name: str
    asks: str
    measured: str


@dataclass(frozen=True)
class Gap:
    """What the survey says is missing, and how far it is closed here: `numbers` are ids of `evidence.py`."""

    name: str
    text: str
    state: str
    here: str
    command: str
    numbers: tuple[str, ...]
    works: tuple[str, ...]


@dataclass(frozen=True)
class Contradiction:
    """Two things that studies say and that do not go together, and what our numbers say to it."""

    name: str
    one: str
    one_works: tuple[str, ...]
    other: str
    other_works: tuple[str, ...]
    here: str
    numbers: tuple[str, ...]
    verdict: str


@cache
def _told(name: str) -> dict[str, Any]:
    return tomllib.loads((files("cutaway.atlas") / "data" / f"{name}.toml").read_text(encoding="utf-8"))


def families() -> dict[str, str]:
    """What each family of models is, by its name."""
    return dict(_told("taxonomy")["families"])


def opens() -> dict[str, str]:
    """What can be opened here of families that no method is declared for."""
    return dict(_told("taxonomy")["opens"])


def never(row: str, family: str) -> str:
    """Why there can be no such cell; "" where there can."""
    found = (one["why"] for one in _told("taxonomy")["never"] if (one["row"], one["family"]) == (row, family))
    return next(iter(found), "")


def rows() -> tuple[Row, ...]:
    """The twelve rows, as they are told here.

    >>> rows()[1].asks
    'What would the model say if it stopped here?'
    """
    return tuple(Row(name=name, **_tupled(told)) for name, told in _told("taxonomy")["rows"].items())


def uses() -> tuple[Use, ...]:
    """The applications."""
    return tuple(Use(name=name, **told) for name, told in _told("taxonomy")["uses"].items())


def facets() -> dict[str, str]:
    """The seven facets of the survey, by their names."""
    return {name: told["text"] for name, told in _told("survey")["facets"].items()}


def known() -> str:
    """What the words on the survey rest on."""
    return str(_told("survey")["known"])


def gaps() -> tuple[Gap, ...]:
    """The stated gaps."""
    return tuple(Gap(**_tupled(told)) for told in _told("survey")["gaps"])


def contradictions() -> tuple[Contradiction, ...]:
    """The contradictions between studies."""
    return tuple(Contradiction(**_tupled(told)) for told in _told("survey")["contradictions"])


def _tupled(told: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
