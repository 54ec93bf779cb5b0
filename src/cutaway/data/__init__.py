"""EmojiWorld: drawn scenes with exact truth. Pictures, masks, captions, questions, counterfactual pairs, splits.

from cutaway import data
scene = data.scene_at("train", 0)
data.render(scene), data.masks(scene), data.captions(scene), data.questions(scene)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutaway.data.captions import STYLES, Caption, caption, captions
from cutaway.data.claims import RELATIONS, At, Beside, Claim, Count, DrawnBy, Has, Noun, On, Written, relations
from cutaway.data.concepts import ARTISTS, SEEN_ARTISTS, UNSEEN_ARTIST, Concept, concept, concepts
from cutaway.data.description import description, sentences
from cutaway.data.pairs import FACTORS, Pair, counterfactual, pairs
from cutaway.data.plant import Cue, Duplicates, Mislabels, plant_cue, plant_duplicates, plant_mislabels
from cutaway.data.questions import QUESTIONS, Question, questions
from cutaway.data.render import boxes, coverage, label_mask, masks, pictures, pixels, render
from cutaway.data.scene import COLOURS, PLACES, TINTS, Background, Label, Scene, Thing
from cutaway.data.sheet import contact_sheet, pair_sheet, sheet
from cutaway.data.splits import SPLITS, Split, split_of, unseen_pair, unseen_place
from cutaway.data.sprites import sprite
from cutaway.data.worlds import DEFAULT, Item, World, items, scene_at, scenes

if TYPE_CHECKING:
    from cutaway.data.dataset import Batch, EmojiWorld, Example, collate, tensor

_NEEDS_TORCH = ("Batch", "EmojiWorld", "Example", "collate", "tensor")
__all__ = [
    "ARTISTS",
    "COLOURS",
    "DEFAULT",
    "FACTORS",
    "PLACES",
    "QUESTIONS",
    "RELATIONS",
    "SEEN_ARTISTS",
    "SPLITS",
    "STYLES",
    "TINTS",
    "UNSEEN_ARTIST",
    "At",
    "Background",
    "Batch",
    "Beside",
    "Caption",
    "Claim",
    "Concept",
    "Count",
    "Cue",
    "DrawnBy",
    "Duplicates",
    "EmojiWorld",
    "Example",
    "Has",
    "Item",
    "Label",
    "Mislabels",
    "Noun",
    "On",
    "Pair",
    "Question",
    "Scene",
    "Split",
    "Thing",
    "World",
    "Written",
    "boxes",
    "caption",
    "captions",
    "collate",
    "concept",
    "concepts",
    "contact_sheet",
    "counterfactual",
    "coverage",
    "description",
    "items",
    "label_mask",
    "masks",
    "pair_sheet",
    "pairs",
    "pictures",
    "pixels",
    "plant_cue",
    "plant_duplicates",
    "plant_mislabels",
    "questions",
    "relations",
    "render",
    "scene_at",
    "scenes",
    "sentences",
    "sheet",
    "split_of",
    "sprite",
    "tensor",
    "unseen_pair",
    "unseen_place",
]


def __getattr__(name: str) -> Any:
    """Load torch only for the data set and what goes with it."""
    if name in _NEEDS_TORCH:
        from cutaway.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'cutaway.data' has no attribute {name!r}")
