"""A scene told in full: a text that answers every question that `questions` asks of its picture."""

from __future__ import annotations

import random

from cutaway.data.captions import SIDES, Caption, at_place, ground_claim, noun
from cutaway.data.claims import RELATIONS, At, Beside, Claim, DrawnBy, Noun, Written, relations
from cutaway.data.concepts import concept
from cutaway.data.scene import Background, Scene, Thing


def description(scene: Scene, seed: int = 0) -> Caption:
    """One sentence for each thing, then how they lie, the background and what is written. `seed` shuffles the things.

    Not one of `STYLES`: it is longer than a caption, and says the colour of things that were not painted.
    """
    draw = random.Random(seed)
    things = draw.sample(scene.things, len(scene.things))
    told = [_thing(thing) for thing in things] + _related(things, draw) + [_ground(scene.background), _label(scene)]
    return Caption(
        " ".join(f"{text}." for text, _ in told), tuple(claim for _, claims in told for claim in claims), "full"
    )


def sentences(scene: Scene) -> Caption:
    """A sentence a thing: what it is and where, and the background. What a model is asked to say of a picture."""
    words = [f"{noun(thing).one} {at_place(thing.place_name)}" for thing in scene.things]
    claims = tuple(At(noun(thing), thing.place_name) for thing in scene.things)
    ground, told = _ground(scene.background)
    return Caption(" ".join(f"{text}." for text in (*words, ground)), (*claims, *told), "sentences")


_Told = tuple[str, tuple[Claim, ...]]


def _thing(thing: Thing) -> _Told:
    which = noun(thing)
    colour = f", {thing.colour}" if thing.colour and not thing.tint else ""
    text = f"{which.one} {at_place(thing.place_name)}{colour}, in the {thing.artist} style"
    return text, (At(which, thing.place_name), DrawnBy(which, thing.artist))


def _related(things: list[Thing], draw: random.Random) -> list[_Told]:
    """How each two things of different kinds lie to each other, said from one of them."""
    told: list[_Told] = []
    kinds = [thing.concept for thing in things]
    unique = [thing for thing in things if kinds.count(thing.concept) == 1]
    for index, one in enumerate(unique):
        for other in unique[index + 1 :]:
            first, second = (one, other) if draw.random() < 0.5 else (other, one)
            sides = [side for side in RELATIONS if side in relations(first, second)]
            if not sides:
                continue
            verb = "are" if concept(first.concept).plural else "is"
            where = " and ".join(SIDES[side] for side in sides)
            claims = tuple(Beside(Noun(first.concept), side, Noun(second.concept)) for side in sides)
            told.append((f"{Noun(first.concept).the} {verb} {where} {Noun(second.concept).the}", claims))
    return told


def _ground(background: Background) -> _Told:
    first, last = background.colours[0], background.colours[-1]
    if background.kind == "plain":
        text = f"a plain {first} background"
    elif background.kind == "gradient":
        text = f"a gradient background from {first} to {last}"
    else:
        text = f"a {background.pattern} texture background of {first} and {last}"
    return text, (ground_claim(background),)


def _label(scene: Scene) -> _Told:
    if scene.label is None:
        return "nothing written on it", (Written(None),)
    return f'the word "{scene.label.text}" written on it', (Written(scene.label.text),)
