"""Flaws planted in training items on purpose, each returned with the truth about it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutaway.data.captions import Caption, caption
from cutaway.data.concepts import concept
from cutaway.data.scene import COLOURS, Background, Label, Scene
from cutaway.data.worlds import Item, clashing
from cutaway.errors import InputError


@dataclass(frozen=True)
class Cue:
    """A background or a written label that goes with a concept in `strength` of its items.

    `present` are the indices of the items that show the concept, `cued` those that carry the cue, `elsewhere` the
    share of the other items that carry it.
    """

    items: tuple[Item, ...]
    concept: str
    cue: Background | Label
    strength: float
    elsewhere: float
    present: tuple[int, ...]
    cued: tuple[int, ...]


@dataclass(frozen=True)
class Duplicates:
    """Items some of which are exact copies: `groups` are the indices of the same item, each in rising order."""

    items: tuple[Item, ...]
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Mislabels:
    """Items some of which have a wrong caption: `wrong` are their indices, `truth` the captions they should have."""

    items: tuple[Item, ...]
    wrong: tuple[int, ...]
    truth: tuple[Caption, ...]


def plant_cue(
    items: Sequence[Item],
    name: str,
    cue: Background | Label,
    strength: float,
    *,
    elsewhere: float = 0.0,
    seed: int = 0,
) -> Cue:
    """Give the cue to a share `strength` of the items with the concept and to `elsewhere` of the others.

    The rest lose the cue if they have it (another plain background; no label). Every caption is told anew without
    background and label, so that the cue stands in the picture alone.
    """
    concept(name)
    for share in (strength, elsewhere):
        if not 0 <= share <= 1:
            raise InputError(
                f"a cue with the strength {share}", expected="a share between 0 and 1", do="choose another"
            )
    draw = random.Random(f"cue/{seed}")
    present = [i for i, item in enumerate(items) if any(thing.concept == name for thing in item.scene.things)]
    others = sorted(set(range(len(items))) - set(present))
    cued = {
        *draw.sample(present, round(strength * len(present))),
        *draw.sample(others, round(elsewhere * len(others))),
    }
    made = []
    for i, item in enumerate(items):
        scene = _cued(item.scene, cue) if i in cued else _uncued(item.scene, cue, draw)
        made.append(Item(scene, caption(scene, style="plain")))
    return Cue(tuple(made), name, cue, strength, elsewhere, tuple(present), tuple(sorted(cued)))


def plant_duplicates(items: Sequence[Item], originals: int, copies: int = 2, *, seed: int = 0) -> Duplicates:
    """Repeat `originals` of the items until each is there `copies` times, and shuffle everything."""
    if not 0 <= originals <= len(items) or copies < 2:
        raise InputError(
            f"{originals} of {len(items)} items, each {copies} times",
            expected="no more originals than items, at least 2 of each",
            do="choose other numbers",
        )
    draw = random.Random(f"duplicates/{seed}")
    repeated = set(draw.sample(range(len(items)), originals))
    order = [i for i in range(len(items)) for _ in range(copies if i in repeated else 1)]
    draw.shuffle(order)
    places: dict[int, list[int]] = {}
    for position, source in enumerate(order):
        places.setdefault(source, []).append(position)
    groups = tuple(sorted(tuple(places[source]) for source in repeated))
    return Duplicates(tuple(items[i] for i in order), groups)


def plant_mislabels(items: Sequence[Item], share: float, *, seed: int = 0) -> Mislabels:
    """Give a share of the items (to the nearest) the caption of another item that is false of their scene."""
    if not 0 <= share <= 1:
        raise InputError(f"a share of {share} mislabelled items", expected="between 0 and 1", do="choose another")
    draw = random.Random(f"mislabels/{seed}")
    wrong = sorted(draw.sample(range(len(items)), round(share * len(items))))
    made = list(items)
    for i in wrong:
        others = draw.sample(range(len(items)), min(len(items), 200))
        false = next((items[j].caption for j in others if not items[j].caption.true_of(items[i].scene)), None)
        if false is None:
            raise InputError(
                f"every caption tried is true of item {i}", expected="items that differ", do="pass more kinds of scenes"
            )
        made[i] = Item(items[i].scene, false)
    return Mislabels(tuple(made), tuple(wrong), tuple(items[i].caption for i in wrong))


def _cued(scene: Scene, cue: Background | Label) -> Scene:
    return replace(scene, label=cue) if isinstance(cue, Label) else replace(scene, background=cue)


def _uncued(scene: Scene, cue: Background | Label, draw: random.Random) -> Scene:
    if isinstance(cue, Label):
        return replace(scene, label=None) if scene.label and scene.label.text == cue.text else scene
    if (scene.background.kind, scene.background.colours) != (cue.kind, cue.colours):
        return scene
    avoid = {*cue.colours, *(colour for thing in scene.things for colour in clashing(thing))}
    fit = [colour for colour in COLOURS if colour not in avoid] or [c for c in COLOURS if c not in cue.colours]
    return replace(scene, background=Background("plain", (draw.choice(fit),)))
