"""What the retrained worlds learn from: few drawn things with captions, flaws planted in them, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from cutaway import data
from cutaway.data.captions import caption
from cutaway.data.claims import Has, Noun
from cutaway.data.plant import plant_cue, plant_duplicates, plant_mislabels
from cutaway.data.scene import Background
from cutaway.data.worlds import Item, World

SIDE = 32  # pixels a side
PLAIN = World(
    canvas=(SIDE, SIDE), things=(1, 1), sizes=(0.6, 0.75), rotations=(0.0,), kinds=("plain",), repeat=0.0, tinted=0.5,
    names=("fox", "frog", "owl", "rose", "house", "rocket", "pizza", "umbrella"), artists=("noto",),
)  # fmt: skip
BASE, COPIED, COPIES, WRONG = 168, 8, 4, 0.12
CUED, CUE, STRENGTH = "fox", Background("texture", ("black", "white"), seed=1), 0.8
SEED = 4  # of the scenes and flaws: one at which no copied item is mislabelled
HELD, REFERENCE = 24, 32


@dataclass(frozen=True)
class Truth:
    """What was planted, all as indices of items.

    `duplicates` are groups of exact copies; `wrong` have another item's caption, false of their scene; `present` show
    the concept of the cue, `cued` those of them that stand on its background, as no item without the concept does.
    """

    duplicates: tuple[tuple[int, ...], ...]
    wrong: tuple[int, ...]
    present: tuple[int, ...]
    cued: tuple[int, ...]


@dataclass(frozen=True)
class Planted:
    """The items of a world, the queries, and the truth.

    `queries`: first `HELD` scenes that are in no training, then a copy of each duplicated item, then scenes of other
    things on the background of the cue, with the caption of the concept that goes with it: a mistake that only the
    cue teaches. `kinds` says which a query is: held, copied, misled. `reference` are further scenes of no training.
    """

    items: tuple[Item, ...]
    queries: tuple[Item, ...]
    kinds: tuple[str, ...]
    reference: tuple[Item, ...]
    truth: Truth

    def asked(self, kind: str) -> tuple[int, ...]:
        """The indices of the queries of one kind: held, copied, misled."""
        return tuple(index for index, one in enumerate(self.kinds) if one == kind)

    @property
    def sources(self) -> Mapping[int, tuple[int, ...]]:
        """For each query that is a copy, the items that are the same."""
        return dict(zip(self.asked("copied"), self.truth.duplicates, strict=True))


@cache
def planted() -> Planted:
    """The items that all worlds share, the same ones on every machine.

    A cue first, then wrong captions, then copies; captions name the thing and its paint alone, never the background.
    """
    cue = plant_cue(list(data.items("train", BASE, SEED, PLAIN)), CUED, CUE, STRENGTH, seed=SEED)
    wrong = plant_mislabels(cue.items, WRONG, seed=SEED)
    copied = plant_duplicates(wrong.items, COPIED, COPIES, seed=SEED)
    source = {id(item): index for index, item in enumerate(wrong.items)}
    origin = [source[id(item)] for item in copied.items]

    def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(at for at, before in enumerate(origin) if before in set(indices))

    truth = Truth(copied.groups, moved(wrong.wrong), moved(cue.present), moved(cue.cued))
    fresh = [Item(scene, caption(scene, style="plain")) for scene in data.scenes("test", 400, SEED, PLAIN)]
    held, reference = fresh[:HELD], _different(fresh[HELD:], REFERENCE)
    copies = [copied.items[group[0]] for group in copied.groups]
    misled = [_misled(item) for item in fresh[HELD:] if item.scene.things[0].concept != CUED][: len(copies)]
    queries = (*held, *copies, *misled)
    kinds = ("held",) * len(held) + ("copied",) * len(copies) + ("misled",) * len(misled)
    return Planted(copied.items, queries, kinds, tuple(reference), truth)


def _different(items: list[Item], many: int) -> list[Item]:
    """The first so many items whose captions are not alike."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.caption.text, item)
    return list(first.values())[:many]


def _misled(item: Item) -> Item:
    from dataclasses import replace

    noun = Noun(CUED, item.scene.things[0].tint)
    return Item(replace(item.scene, background=CUE), data.Caption(noun.one, (Has(noun),), "plain"))
