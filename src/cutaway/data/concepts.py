"""The things EmojiWorld can show: their names, how one speaks of them, their colours, who draws them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cutaway.errors import InputError, near

ASSETS = Path(__file__).parent / "assets"
ARTISTS = ("noto", "fluent", "twemoji", "emojione")
SEEN_ARTISTS = ARTISTS[:3]
UNSEEN_ARTIST = ARTISTS[3]
_MAIN_SHARE = 0.5  # of the drawn area: less than this, and a drawing has no one colour


@dataclass(frozen=True, eq=False)
class Concept:
    """One kind of thing. `kin` are the concepts that the same word might name: never a wrong answer to this one.

    `shades` gives, for each artist, the colour words of the drawing with their share of its area, largest first.
    """

    name: str
    one: str
    many: str
    plural: bool
    hexcode: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]
    kin: frozenset[str]
    shades: Mapping[str, tuple[tuple[str, float], ...]]

    @cached_property
    def artists(self) -> tuple[str, ...]:
        """Who draws it, in the order of `ARTISTS`."""
        return tuple(artist for artist in ARTISTS if artist in self.shades)

    @property
    def colours(self) -> tuple[str, ...]:
        """Its main colour words, as Noto draws it."""
        return tuple(word for word, _ in self.shades["noto"])

    def colour(self, artist: str) -> str | None:
        """The colour of at least half of the drawing; None where no colour has that much."""
        word, share = self.shades[artist][0] if self.shades[artist] else ("", 0.0)
        return word if share >= _MAIN_SHARE else None

    def is_kin(self, other: str) -> bool:
        """Whether a word for the other may also name this one; true for the concept itself."""
        return other == self.name or other in self.kin


def concept(name: str) -> Concept:
    """The concept of that name."""
    known = _table()
    if name not in known:
        raise InputError(
            f"no concept is called {name!r}",
            expected="the name of a drawing in EmojiWorld",
            exists=near(name, known),
            do="cutaway.data.concepts() gives them all",
        )
    return known[name]


def concepts(artist: str | None = None, group: str | None = None) -> tuple[Concept, ...]:
    """Every concept, or those an artist draws, or those of a group, in the order of the Unicode chart."""
    every = tuple(_table().values())
    check_artist(artist or ARTISTS[0])
    groups = {entry.group for entry in every}
    if group is not None and group not in groups:
        raise InputError(
            f"no group is called {group!r}",
            expected="a group of concepts",
            exists=near(group, sorted(groups)),
            do="leave it out for all of them",
        )
    return tuple(
        entry
        for entry in every
        if (artist is None or artist in entry.shades) and (group is None or entry.group == group)
    )


def check_artist(artist: str) -> None:
    """Raise unless there is such an artist."""
    if artist not in ARTISTS:
        raise InputError(
            f"no artist is called {artist!r}",
            expected="one who drew the sprites",
            exists=", ".join(ARTISTS),
            do="choose one of these",
        )


@cache
def _table() -> dict[str, Concept]:
    rows = json.loads((ASSETS / "concepts.json").read_text(encoding="utf-8"))
    return {row["name"]: _concept(row) for row in rows}


def _concept(row: dict[str, Any]) -> Concept:
    shades = {artist: tuple((word, share) for word, share in found) for artist, found in row["colours"].items()}
    plain = {key: row[key] for key in ("name", "one", "many", "plural", "hexcode", "group", "subgroup")}
    return Concept(**plain, keywords=tuple(row["keywords"]), kin=frozenset(row["kin"]), shades=shades)
