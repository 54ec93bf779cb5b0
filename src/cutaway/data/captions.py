"""Captions in several phrasings, each with the claims it makes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from cutaway.data.claims import At, Beside, Claim, Count, DrawnBy, Has, Noun, On, Written, number_word, relations
from cutaway.data.scene import Background, Scene, Thing
from cutaway.errors import InputError, near

SIDES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims; `style` names its phrasing."""

    text: str
    claims: tuple[Claim, ...]
    style: str = ""

    def true_of(self, scene: Scene) -> bool:
        """Whether everything it claims holds in the scene."""
        return all(claim.holds(scene) for claim in self.claims)


def captions(scene: Scene) -> tuple[Caption, ...]:
    """One caption in each phrasing that fits the scene; all are true of it."""
    made = (_made(style, scene) for style in STYLES)
    return tuple(caption for caption in made if caption)


def caption(scene: Scene, seed: int = 0, style: str | None = None) -> Caption:
    """One caption: in that phrasing, or in one that `seed` draws among those that fit the scene.

    `total` (`a picture of two things`) is not drawn: it says too little to train on.
    """
    if style is not None:
        if style not in STYLES:
            raise InputError(
                f"no phrasing is called {style!r}", expected="one of cutaway.data.STYLES", exists=near(style, STYLES)
            )
        found = _made(style, scene)
        if found is None:
            raise InputError(
                f"the phrasing {style!r} does not fit this scene",
                expected="a scene it can speak of truly",
                exists=", ".join(one.style for one in captions(scene)),
                do="choose one of these",
            )
        return found
    order = [name for name in STYLES if name != "total"]
    random.Random(seed).shuffle(order)
    return next(found for name in order if (found := _made(name, scene)))


def at_place(place: str) -> str:
    """A ninth of the canvas with its preposition: `in the top left`, `at the top`, `on the left`."""
    if place in ("top", "bottom"):
        return f"at the {place}"
    return f"on the {place}" if place in ("left", "right") else f"in the {place}"


def on_ground(background: Background) -> str:
    """The background in words: `on a blue background`, `on a dotted red and white background`."""
    first, second = background.colours[0], background.colours[-1]
    if background.kind == "plain":
        return f"on {_article(first)} background"
    if background.kind == "gradient":
        return f"on a background fading from {first} to {second}"
    return f"on a {background.pattern} {first} and {second} background"


def ground_claim(background: Background) -> On:
    """The claim that a background is this one."""
    return On(background.kind, background.colours, background.pattern)


def noun(thing: Thing) -> Noun:
    """The most that one word and a tint can say of a thing."""
    return Noun(thing.concept, thing.tint)


def groups(scene: Scene) -> dict[Noun, int]:
    """How many of each noun the scene holds, in the order of drawing.

    Beside an unpainted dog, a red dog counts as a dog: `two dogs`, since `one dog and one red dog` could mean either.
    """
    bare = {thing.concept for thing in scene.things if thing.tint is None}
    nouns = [Noun(thing.concept) if thing.concept in bare else noun(thing) for thing in scene.things]
    return {which: nouns.count(which) for which in dict.fromkeys(nouns)}


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


_Parts = tuple[str, tuple[Claim, ...]] | None


def _made(style: str, scene: Scene) -> Caption | None:
    parts = STYLES[style](scene)
    return Caption(*parts, style) if parts else None


def _contents(scene: Scene) -> tuple[str, tuple[Claim, ...]]:
    if not scene.things:
        return "nothing", (Count(None, 0),)
    words, claims = [], list[Claim]()
    for which, number in groups(scene).items():
        words.append(which.one if number == 1 else which.number(number))
        claims.append(Has(which) if number == 1 else Count(which, number))
    return listed(words), tuple(claims)


def _picture(scene: Scene) -> _Parts:
    words, claims = _contents(scene)
    return f"a picture of {words}", claims


def _ground(scene: Scene) -> _Parts:
    words, claims = _contents(scene)
    return f"{words} {on_ground(scene.background)}", (*claims, ground_claim(scene.background))


def _places(scene: Scene) -> _Parts:
    if not scene.things or len(scene.things) > 4:
        return None
    words = [f"{noun(thing).one} {at_place(thing.place_name)}" for thing in scene.things]
    return listed(words), tuple(At(noun(thing), thing.place_name) for thing in scene.things)


def _relation(scene: Scene, flip: bool = False) -> _Parts:
    """Two things and where the one lies from the other; across before along, where both are clear."""
    if len(scene.things) != 2 or len(groups(scene)) != 2:
        return None
    one, other = scene.things[::-1] if flip else scene.things
    sides = relations(one, other)
    if not sides:
        return None
    first, second = noun(one), noun(other)
    return f"{first.one} {SIDES[sides[0]]} {second.one}", (Beside(first, sides[0], second),)


def _relation_flipped(scene: Scene) -> _Parts:
    return _relation(scene, flip=True)


def _count(scene: Scene) -> _Parts:
    found = groups(scene)
    if not found:
        return None
    return listed([which.number(n) for which, n in found.items()]), tuple(Count(w, n) for w, n in found.items())


def _total(scene: Scene) -> _Parts:
    total = len(scene.things)
    return f"a picture of {number_word(total)} thing{'s' * (total != 1)}", (Count(None, total),)


def _artist(scene: Scene) -> _Parts:
    artists = {thing.artist for thing in scene.things}
    if len(artists) != 1:
        return None
    artist = artists.pop()
    words, claims = _contents(scene)
    return f"{words} in the {artist} style", (*claims, *(DrawnBy(which, artist) for which in groups(scene)))


def _written(scene: Scene) -> _Parts:
    if scene.label is None:
        return None
    words, claims = _contents(scene)
    return f'{words} with the word "{scene.label.text}" written on it', (*claims, Written(scene.label.text))


# The phrasings by name. A scene gets those that can speak of it truly.
STYLES: dict[str, Callable[[Scene], _Parts]] = {
    "plain": _contents,
    "picture": _picture,
    "ground": _ground,
    "places": _places,
    "relation": _relation,
    "relation flipped": _relation_flipped,
    "count": _count,
    "total": _total,
    "artist": _artist,
    "written": _written,
}
