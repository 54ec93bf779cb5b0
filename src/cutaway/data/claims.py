"""Statements about a scene that are true or false by its geometry alone. Captions and questions are made of them."""

from __future__ import annotations

from dataclasses import dataclass

from cutaway.data.concepts import concept
from cutaway.data.scene import Scene, Thing

RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
CLEAR = 0.15  # of the canvas: centres nearer than this are neither left nor right, neither above nor below


@dataclass(frozen=True)
class Noun:
    """A kind of thing: a concept, in one tint if a tint is given."""

    concept: str
    tint: str | None = None

    def names(self, thing: Thing) -> bool:
        """Whether the thing is one of these."""
        return thing.concept == self.concept and self.tint in (None, thing.tint)

    @property
    def one(self) -> str:
        """One of them: `a dog`, `a red dog`, `some grapes`."""
        phrase = concept(self.concept).one
        if self.tint is None:
            return phrase
        article = "some " if phrase.startswith("some ") else "an " if self.tint[0] in "aeiou" else "a "
        return f"{article}{self.tint} {self.concept}"

    @property
    def the(self) -> str:
        """The one in sight: `the dog`, `the red dog`, `mount fuji`."""
        named = concept(self.concept).one == self.concept
        return self.concept if named and not self.tint else f"the {self._bare}"

    def number(self, count: int) -> str:
        """Exactly so many: `one dog`, `two red dogs`, `three pieces of bread`."""
        tint = f"{self.tint} " if self.tint else ""
        many = concept(self.concept).many
        if count != 1:
            return f"{number_word(count)} {tint}{many}"
        head, link, rest = many.partition(f" of {self.concept}")
        if link:  # sets of grapes, pieces of bread
            return f"one {tint}{head.removesuffix('s')}{link}{rest}"
        return f"one {self._bare}"

    @property
    def _bare(self) -> str:
        return f"{self.tint} {self.concept}" if self.tint else self.concept


@dataclass(frozen=True)
class Has:
    """There is at least one of these."""

    noun: Noun

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of the scene."""
        return any(map(self.noun.names, scene.things))


@dataclass(frozen=True)
class Count:
    """There are exactly so many of these; of things of any kind if the noun is None."""

    noun: Noun | None
    number: int

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of the scene."""
        return sum(self.noun is None or self.noun.names(thing) for thing in scene.things) == self.number


@dataclass(frozen=True)
class At:
    """One of these has its centre in that ninth of the canvas."""

    noun: Noun
    place: str

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of the scene."""
        return any(self.noun.names(thing) and thing.place_name == self.place for thing in scene.things)


@dataclass(frozen=True)
class Beside:
    """One of the first lies clearly to that side (`left`, `right`, `above`, `below`) of one of the second."""

    first: Noun
    relation: str
    second: Noun

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of the scene."""
        return any(
            one is not other
            and self.first.names(one)
            and self.second.names(other)
            and self.relation in relations(one, other)
            for one in scene.things
            for other in scene.things
        )


@dataclass(frozen=True)
class On:
    """The background is of that kind, in these colours, in any order for a texture."""

    kind: str
    colours: tuple[str, ...]
    pattern: str | None = None

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of the scene."""
        ground = scene.background
        ordered = tuple if self.kind == "gradient" else frozenset
        same = ordered(ground.colours) == ordered(self.colours)
        return (ground.kind, ground.pattern) == (self.kind, self.pattern) and same


@dataclass(frozen=True)
class DrawnBy:
    """One of these was drawn by that artist."""

    noun: Noun
    artist: str

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of the scene."""
        return any(self.noun.names(thing) and thing.artist == self.artist for thing in scene.things)


@dataclass(frozen=True)
class Written:
    """These words are written on the picture; None for a picture with nothing written on it."""

    text: str | None

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of the scene."""
        return (scene.label.text if scene.label else None) == self.text


Claim = Has | Count | At | Beside | On | DrawnBy | Written


def relations(one: Thing, other: Thing) -> tuple[str, ...]:
    """Where the one clearly lies, seen from the other: at most one of left and right, one of above and below."""
    right, down = one.place[0] - other.place[0], one.place[1] - other.place[1]
    across = ("right",) if right >= CLEAR else ("left",) if right <= -CLEAR else ()
    along = ("below",) if down >= CLEAR else ("above",) if down <= -CLEAR else ()
    return across + along


def number_word(count: int) -> str:
    """A count in words up to twelve, in digits above."""
    words = "no one two three four five six seven eight nine ten eleven twelve".split()
    return words[count] if count < len(words) else str(count)
