"""Views of several pictures: a film with maps, a gallery with numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutaway.errors import InputError
from cutaway.views.kinds import Cell, View, keep
from cutaway.views.picture import Picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip(View):
    """A film: maps of each text by frame, each on the picture of its frame, in several `sets` to choose from.

    `values` are (text, set, frame, row, column); `axis` is what frames are, `within` what the sets are ("layer").
    """

    pictures: tuple[Picture, ...]
    texts: tuple[str, ...]
    sets: tuple[str, ...]
    frames: tuple[str, ...]
    values: np.ndarray
    unit: str
    axis: str = "step"
    within: str = "layer"
    shown: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        size = len(self.texts), len(self.sets), len(self.frames)
        keep(self, "values", (*size, None, None), "text, set, frame, row, column")
        if len(self.pictures) != len(self.frames):
            raise InputError(
                f"'{self.title}' has {len(self.pictures)} pictures for {len(self.frames)} frames",
                expected="one for each", do="repeat the picture where it stays the same",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery(View):
    """Pictures side by side, each with its caption and a number or word under each of `columns`."""

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    columns: tuple[str, ...] = ()
    cells: tuple[tuple[Cell, ...], ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, size = [len(row) for row in self.cells], len(self.pictures)
        if len(self.captions) != size or (self.columns and rows != [len(self.columns)] * size):
            raise InputError(
                f"'{self.title}' has {size} pictures, {len(self.captions)} captions, {len(rows)} rows",
                expected=f"one of each a picture, with {len(self.columns)} cells a row",
                do="write what was not measured as None",
            )  # fmt: skip
