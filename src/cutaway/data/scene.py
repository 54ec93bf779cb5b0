"""A scene as plain data: what is drawn, by whom, where, how big, on what ground, with what written on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args

from cutaway.data.concepts import check_artist, concept
from cutaway.errors import InputError, near

Kind = Literal["plain", "gradient", "texture"]
Edge = Literal["top", "bottom"]

# Colours of backgrounds: soft, so that things stand out.
COLOURS = {
    "white": (246, 246, 244),
    "gray": (158, 160, 164),
    "black": (38, 38, 44),
    "red": (206, 72, 68),
    "orange": (240, 156, 76),
    "yellow": (246, 224, 116),
    "green": (124, 186, 112),
    "blue": (104, 158, 224),
    "purple": (150, 112, 196),
    "pink": (246, 178, 202),
    "brown": (134, 98, 72),
}
# Colours a thing can be painted with.
TINTS = {
    "red": (232, 32, 36),
    "yellow": (255, 214, 20),
    "green": (30, 168, 56),
    "blue": (32, 96, 236),
    "purple": (136, 44, 190),
    "pink": (255, 124, 190),
}
KINDS: tuple[Kind, ...] = get_args(Kind)
PATTERNS = ("striped", "checked", "dotted")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789 -!?.,'")
LARGEST_CANVAS = 4096


def _choice(what: str, word: str, known: Any) -> None:
    if word not in known:
        raise InputError(
            f"no {what} is called {word!r}",
            expected=f"a {what} by its word",
            exists=near(word, known),
            do="choose one of these",
        )


@dataclass(frozen=True)
class Thing:
    """One drawing. `place` is its centre (x, y) as a fraction of the canvas, from the top left corner.

    `size` is its longest side before rotation as a fraction of the canvas's shorter side, `rotation` is in degrees
    counter-clockwise, `tint` paints it in one colour of `TINTS` and keeps light and shade.
    """

    concept: str
    artist: str = "noto"
    place: tuple[float, float] = (0.5, 0.5)
    size: float = 0.5
    rotation: float = 0.0
    tint: str | None = None

    def __post_init__(self) -> None:
        check_thing(self.concept, self.artist)
        x, y = self.place
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise InputError(
                f"{self.concept} stands at {self.place}, which is off the canvas",
                expected="x and y between 0 and 1: fractions of width and height",
                do="divide pixels by the canvas",
            )
        if not 0 < self.size <= 2:
            raise InputError(
                f"{self.concept} has size {self.size}",
                expected="more than 0 and at most 2: a fraction of the canvas's shorter side",
                do="divide pixels by the canvas",
            )
        if self.tint is not None:
            _choice("tint", self.tint, TINTS)

    @property
    def place_name(self) -> str:
        """The ninth of the canvas that its centre is in, in words: `PLACES` in rows from the top left."""
        return place_name(self.place)

    @property
    def colour(self) -> str | None:
        """Its tint, or the colour of at least half of the drawing, or None when it has no one colour."""
        return self.tint or concept(self.concept).colour(self.artist)


@dataclass(frozen=True)
class Background:
    """What is behind the things: one colour word of `COLOURS` for a plain one, two for a gradient or a texture.

    `seed` chooses the direction of a gradient, and the pattern, direction and grain of a texture.
    """

    kind: Kind = "plain"
    colours: tuple[str, ...] = ("white",)
    seed: int = 0

    def __post_init__(self) -> None:
        _choice("kind of background", self.kind, KINDS)
        for colour in self.colours:
            _choice("background colour", colour, COLOURS)
        wanted = 1 if self.kind == "plain" else 2
        if len(self.colours) != wanted or len(set(self.colours)) != wanted:
            raise InputError(
                f"a {self.kind} background has the colours {', '.join(self.colours) or 'none'}",
                expected=f"{wanted} different" if wanted > 1 else "1",
                do=f"name {wanted} of {', '.join(COLOURS)}",
            )
        if self.seed < 0:
            raise InputError(f"a background has seed {self.seed}", expected="0 or more", do="choose another")

    @property
    def pattern(self) -> str | None:
        """A texture's pattern, one of `PATTERNS`; None for the other kinds."""
        return PATTERNS[self.seed % len(PATTERNS)] if self.kind == "texture" else None


@dataclass(frozen=True)
class Label:
    """Words written over the picture on a white plate, at its top or bottom."""

    text: str
    place: Edge = "bottom"

    def __post_init__(self) -> None:
        _choice("place of a label", self.place, ("top", "bottom"))
        odd = sorted(set(self.text.lower()) - LETTERS)
        if odd or not self.text.strip() or len(self.text) > 48:
            raise InputError(
                f"the label {self.text!r} cannot be written",
                expected="1 to 48 letters, digits, spaces and - ! ? . , '",
                exists=f"{' '.join(odd)} in it" if odd else "",
                do="write it without them" if odd else "shorten it, or leave the label out",
            )


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn. Later things lie over earlier ones, the label over everything.

    `canvas` is (width, height) in pixels; nothing else is, so the same scene draws at any size. `seed` is the number
    the scene was drawn from, for the record.
    """

    canvas: tuple[int, int] = (64, 64)
    background: Background = Background()
    things: tuple[Thing, ...] = ()
    label: Label | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(8 <= side <= LARGEST_CANVAS for side in self.canvas):
            raise InputError(
                f"a canvas of {self.canvas} pixels",
                expected=f"a width and a height of 8 to {LARGEST_CANVAS}",
                do="choose another size",
            )

    def to_json(self) -> str:
        """The scene as one line of JSON; `Scene.from_json` reads it back equal."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Scene:
        """The scene that `to_json` wrote."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"the scene is not JSON ({error})", expected="what Scene.to_json wrote", do="check where it came from"
            ) from error
        return _scene(raw)


def place_name(place: tuple[float, float]) -> str:
    """The ninth of the canvas a point (x, y) is in, in words."""
    x, y = place
    return PLACES[3 * min(int(3 * y), 2) + min(int(3 * x), 2)]


@lru_cache(maxsize=8192)
def check_thing(name: str, artist: str) -> None:
    """Raise unless there is such a concept and the artist draws it."""
    check_artist(artist)
    found = concept(name)
    if artist not in found.shades:
        raise InputError(
            f"{artist} draws no {name}",
            expected="an artist who draws it",
            exists=", ".join(found.artists),
            do="choose one of these",
        )


def _scene(raw: Any) -> Scene:
    values = _values(Scene, raw)
    if "canvas" in values:
        values["canvas"] = _pair(values["canvas"])
    if "background" in values:
        ground = _values(Background, values["background"])
        values["background"] = Background(**ground | {"colours": tuple(ground.get("colours", ("white",)))})
    if "things" in values:
        values["things"] = tuple(_thing(one) for one in values["things"])
    if values.get("label") is not None:
        values["label"] = Label(**_values(Label, values["label"]))
    return Scene(**values)


def _thing(raw: Any) -> Thing:
    values = _values(Thing, raw)
    if "place" in values:
        values["place"] = _pair(values["place"])
    return Thing(**values)


def _pair(raw: Any) -> tuple[Any, Any]:
    if not isinstance(raw, list) or len(raw) != 2 or not all(isinstance(one, int | float) for one in raw):
        raise InputError(f"a pair of numbers is written as {raw!r}", expected="[x, y]", do="write two numbers")
    return raw[0], raw[1]


def _values(cls: Any, raw: Any) -> dict[str, Any]:
    known = [field.name for field in fields(cls)]
    if not isinstance(raw, dict):
        raise InputError(
            f"a {cls.__name__} is written as {type(raw).__name__}", expected="an object", do="write its fields by name"
        )
    for key in raw:
        if key not in known:
            raise InputError(
                f"a {cls.__name__} has no field {key!r}",
                expected="the fields that to_json writes",
                exists=near(key, known),
                do="remove it",
            )
    return dict(raw)
