"""What a report is made of: kinds of view, pure data, each of which becomes JSON and a part of the page.

Every view says what is `seen` and its `limits`, what it can not tell. Arrays are float32 with NaN for "not measured".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np

from cutaway.errors import InputError
from cutaway.views.encode import encode
from cutaway.views.picture import Picture

Cell = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What all views have: a title, what is seen, what it can not tell, the code that computes it, and its origin.

    A `folded` view shows its title until it is opened; `warning` is what a reader must know before looking.
    """

    title: str
    seen: str
    limits: str
    code: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)
    warning: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        for name in ("title", "seen", "limits"):
            if not getattr(self, name).strip():
                raise InputError(
                    f"a {type(self).__name__} without '{name}'",
                    expected="a title, what is seen, and what it can not tell",
                    do="say it in one or two sentences: a reader sees this page without you",
                )

    def to_json(self) -> str:
        """All of it as text; `from_json` is the inverse."""
        return json.dumps(encode(self), ensure_ascii=False, allow_nan=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and type(other) is type(self) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())


@dataclass(frozen=True)
class Axis:
    """What one side of a matrix counts: a name such as "layer", and a label for each place."""

    name: str
    labels: tuple[str, ...]

    @classmethod
    def patches(cls, rows: int, columns: int) -> Axis:
        """The patches of a picture, row by row."""
        return cls(
            "patch", tuple(f"row {row}, column {column}" for row, column in product(range(rows), range(columns)))
        )

    @classmethod
    def count(cls, name: str, size: int) -> Axis:
        """Places known by their number alone, from 0."""
        return cls(name, tuple(str(place) for place in range(size)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay(View):
    """A map over the patches of one picture for each text: `values` are (text, row, column).

    `palette` keeps what patches add apart from what is read off them; with `caption` the texts are the words of one;
    `shown` is the place of the text that is shown first.
    """

    picture: Picture
    texts: tuple[str, ...]
    values: np.ndarray
    unit: str
    signed: bool = False
    palette: Literal["adds", "reads"] = "adds"
    caption: bool = False
    shown: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, "values", (len(self.texts), None, None), "text, row, column")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lens(View):
    """Maps by layer: `values` (text, layer, row, column); `pooled` (text, layer) is what `reader` makes of all.

    `axis` is the name of the layers where they are something else; `caption` and `shown` as for an `Overlay`.
    """

    picture: Picture
    texts: tuple[str, ...]
    layers: tuple[str, ...]
    values: np.ndarray
    unit: str
    pooled: np.ndarray | None = None
    reader: str = "class token"
    signed: bool = False
    axis: str = "layer"
    caption: bool = False
    shown: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        size = len(self.texts), len(self.layers)
        keep(self, "values", (*size, None, None), "text, layer, row, column")
        keep(self, "pooled", size, "text, layer")


@dataclass(frozen=True)
class Phrase:
    """A text that describes what a head writes, and the share (0…1) of the head's variance along it."""

    text: str
    variance: float | None = None


@dataclass(frozen=True)
class Head:
    """One attention head: its effect with an interval, its direct effect, the texts that describe it, other numbers.

    `most` and `least` are places among the pictures of the table: of those in which its effect is largest, smallest.
    """

    layer: int
    head: int
    effect: float | None
    direct: float | None = None
    low: float | None = None
    high: float | None = None
    phrases: tuple[Phrase, ...] = ()
    extra: Mapping[str, float | None] = field(default_factory=dict)
    most: tuple[int, ...] = ()
    least: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadTable(View):
    """Attention heads as a map (layer × head) and as a table. `effect` and `direct` name what the numbers are.

    A chosen head opens its pattern over `picture`: `patterns` (layer, head, row, column), what `reader` attends to; and
    of `pictures` those that move it most. Views of heads of the same `tower` lead here.
    """

    heads: tuple[Head, ...]
    effect: str = "effect"
    direct: str = "direct effect"
    picture: Picture | None = None
    patterns: np.ndarray | None = None
    reader: str = "class token"
    pictures: tuple[Picture, ...] = ()
    tower: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, "patterns", (None, None, None, None), "layer, head, row, column")
        places = Counter((head.layer, head.head) for head in self.heads)
        twice = sorted(place for place, times in places.items() if times > 1)
        if twice or any(layer < 0 or head < 0 for layer, head in places):
            raise InputError(
                f"'{self.title}' has the same head twice or a head below zero",
                expected="each (layer, head) once, counted from 0", exists=", ".join(map(str, twice[:5])),
                do="average over runs before making the table",
            )  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One signed contribution to a total, and the group it belongs to ("heads", "MLPs", "bias")."""

    label: str
    group: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Bars(View):
    """A number taken apart: contributions with their sign, sums by group, and the total they should add up to."""

    bars: tuple[Bar, ...]
    unit: str
    total: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix(View):
    """Numbers over two named axes: `values` (and `low`, `high`) are (row, column).

    In front stand the two inputs that they compare: their `pictures` where they have any, what they are called
    (`sides`) and `captions`. With `grid` = (rows, columns), the column axis is the patches of the first picture and can
    be folded onto it.
    """

    pictures: tuple[Picture | None, Picture | None]
    sides: tuple[str, str]
    captions: tuple[str, str]
    row_axis: Axis
    column_axis: Axis
    values: np.ndarray
    unit: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    signed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        size = len(self.row_axis.labels), len(self.column_axis.labels)
        for name in ("values", "low", "high"):
            keep(self, name, size, f"{self.row_axis.name}, {self.column_axis.name}")
        if self.grid is not None and self.grid[0] * self.grid[1] != size[1]:
            raise InputError(
                f"'{self.title}' cannot fold {size[1]} columns onto a grid of {self.grid[0]}×{self.grid[1]}",
                expected=f"a grid of {size[1]} patches", do="leave grid out when the columns are not patches",
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a curve, with its interval. A baseline (random directions, an untrained model) is drawn grey."""

    label: str
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    baseline: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve(View):
    """Lines with confidence bands over one axis, usually the layers, beside their baselines."""

    x: Axis
    lines: tuple[Line, ...]
    unit: str

    def __post_init__(self) -> None:
        super().__post_init__()
        for line in self.lines:
            for name in ("values", "low", "high"):
                keep(line, name, (len(self.x.labels),), self.x.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class WordGrid(View):
    """The words that each token reads as, by layer: `ranked` (token, layer, rank) are places among `words`.

    `values` are their numbers, the same shape. With a `picture`, `patches` (row, column) are the places of its tokens
    among all, NaN for none: these are shown on it, the others as a grid.
    """

    tokens: tuple[str, ...]
    layers: tuple[str, ...]
    words: tuple[str, ...]
    ranked: np.ndarray
    values: np.ndarray
    unit: str
    picture: Picture | None = None
    patches: np.ndarray | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size = len(self.tokens), len(self.layers), None
        for name in ("ranked", "values"):
            keep(self, name, size, "token, layer, rank")
        keep(self, "patches", (None, None), "row, column")
        if self.ranked.shape != self.values.shape or not ((self.ranked >= 0) & (self.ranked < len(self.words))).all():
            raise InputError(
                f"'{self.title}' ranks words that are not there, or not as many as it has numbers for",
                expected=f"{self.values.shape} places from 0 to {len(self.words) - 1}", exists=f"{self.ranked.shape}",
                do="give the place of each word in `words`",
            )  # fmt: skip
        if (self.picture is None) != (self.patches is None):
            raise InputError(
                f"'{self.title}' has a picture without patches, or patches without a picture", expected="both or none",
                do="leave both out where no token is part of a picture",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(View):
    """Anything else: named columns and rows of text and numbers. `units` (one for each row) say which are shares."""

    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [at for at, row in enumerate(self.cells) if len(row) != len(self.columns)]
        if wrong:
            raise InputError(
                f"'{self.title}': row {wrong[0]} has {len(self.cells[wrong[0]])} cells",
                expected=f"{len(self.columns)}, one for each column", exists=", ".join(self.columns[:5]),
                do="fill what was not measured with None",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Opening:
    """How a page begins: a verdict of one sentence, one map, the texts with their numbers, the evidence.

    `texts` has a row for each text: what it goes by, the text, numbers under `columns`, which are what `heading` says.
    `words` are titles of the views that a word of the text opens, one for each row, "" for none.
    """

    verdict: str
    lead: Overlay | None = None
    columns: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    words: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    heading: str = "cosine with"


def keep(owner: object, name: str, shape: tuple[int | None, ...], axes: str) -> None:
    """Replace an array by a float32 copy that cannot be written, once its shape and numbers are found right."""
    given = getattr(owner, name)
    if given is None:
        return
    array = np.array(given, np.float32)
    title = getattr(owner, "title", "") or getattr(owner, "label", "")
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = " × ".join("any" if want is None else str(want) for want in shape)
        raise InputError(
            f"'{title}': '{name}' has shape {tuple(array.shape)}",
            expected=f"({axes}) = {wanted}",
            do="name one text, layer or label for each place, in the order of the array",
        )
    if np.isinf(array).any():
        raise InputError(
            f"'{title}': '{name}' has {int(np.isinf(array).sum())} infinite numbers",
            expected="finite numbers, or NaN for what was not measured",
            do="replace them by NaN, or find the division by zero",
        )
    array.setflags(write=False)
    object.__setattr__(owner, name, array)
