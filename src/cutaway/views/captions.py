"""The view of a caption in which a word lights what wrote it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutaway.errors import InputError
from cutaway.views.kinds import Bar, View, keep
from cutaway.views.picture import Picture


@dataclass(frozen=True, kw_only=True, eq=False)
class WordMaps(View):
    """The words of a text over a picture: a chosen one shows its map, and bars of what wrote it.

    `values` are (word, way, row, column), `ways` the kinds of map; `told` says of each word what its numbers are about;
    `bars` has for each word parts with the group they belong to. A word has an address of its own, `#v-title/number`.
    """

    picture: Picture
    words: tuple[str, ...]
    told: tuple[str, ...]
    ways: tuple[str, ...]
    values: np.ndarray
    bars: tuple[tuple[Bar, ...], ...]
    unit: str
    shown: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, "values", (len(self.words), len(self.ways), None, None), "word, way, row, column")
        if not len(self.words) == len(self.told) == len(self.bars):
            raise InputError(
                f"'{self.title}' has {len(self.words)} words, {len(self.told)} sentences and {len(self.bars)} lists",
                expected="one of each a word", do="give an empty list where nothing was measured",
            )  # fmt: skip
