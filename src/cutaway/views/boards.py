"""Views of what is known rather than of numbers: a board of squares that open, remarks, papers and what joins them."""

from __future__ import annotations

from dataclasses import dataclass

from cutaway.errors import InputError
from cutaway.views.kinds import View


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of what is told: a heading, sentences, a list, a formula, a command, a small table, papers.

    Of each paper its key and what a link to it says. One that is `folded` shows its heading and sentences until opened.
    """

    title: str = ""
    text: str = ""
    lines: tuple[str, ...] = ()
    formula: str = ""
    command: str = ""
    columns: tuple[str, ...] = ()
    cells: tuple[tuple[str, ...], ...] = ()
    papers: tuple[tuple[str, str], ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Square:
    """One square of a board: its row and column by number, its state, a few words written on it, what it opens."""

    row: int
    column: int
    state: str
    mark: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Board(View):
    """Squares by row and column. `states` are what a square can be, with the words of a legend.

    `groups` are headings over rows, "" where the one before goes on; `about` is told of every square of a row, in front
    of its own parts, and `more` behind them, unless its state is in `closed`; `heads` of every square of a column.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    squares: tuple[Square, ...]
    states: tuple[tuple[str, str], ...]
    groups: tuple[str, ...] = ()
    about: tuple[tuple[Part, ...], ...] = ()
    more: tuple[tuple[Part, ...], ...] = ()
    closed: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        places = [(square.row, square.column) for square in self.squares]
        inside = all(0 <= row < len(self.rows) and 0 <= column < len(self.columns) for row, column in places)
        strange = {square.state for square in self.squares} - {name for name, _ in self.states}
        given = ((self.groups, self.rows), (self.about, self.rows), (self.more, self.rows), (self.heads, self.columns))
        lengths = [len(some) for some, of in given if some and len(some) != len(of)]
        if not inside or len({*places}) < len(places) or strange or lengths:
            raise InputError(
                f"'{self.title}' has squares outside, twice, or of a state that is not told ({', '.join(strange)})",
                expected=f"one square at most for each of {len(self.rows)} × {len(self.columns)} places",
                do="give every square its place and one of `states`, and every row its group and what is told of it",
            )  # fmt: skip


@dataclass(frozen=True)
class Remark:
    """Something told under a heading, with a word or two on how it stands."""

    title: str
    parts: tuple[Part, ...]
    badge: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Remarks(View):
    """Remarks, one below the other."""

    remarks: tuple[Remark, ...]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A work: what is known of it. `rows`, `columns` and `uses` are places in the lists of its view.

    `number` is what arXiv has it under, `link` where; `checked` says how far that was checked, `doubt` whether it was
    not; `used_by` are what names it as a source, `entry` what one cites it by.
    """

    key: str
    title: str
    author: str = ""
    year: int | None = None
    number: str = ""
    link: str = ""
    checked: str = ""
    doubt: bool = False
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    uses: tuple[int, ...] = ()
    about: tuple[str, ...] = ()
    used_by: tuple[str, ...] = ()
    entry: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Papers(View):
    """Papers by year and row; those that share squares are related. `centre` is known to cite the keys in `cited`."""

    papers: tuple[Paper, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    uses: tuple[str, ...] = ()
    centre: str = ""
    cited: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = {paper.key for paper in self.papers}
        lost = {*self.cited, *filter(None, [self.centre])} - keys
        sizes = (("rows", len(self.rows)), ("columns", len(self.columns)), ("uses", len(self.uses)))
        outside = [
            paper.key
            for paper in self.papers
            if any(not 0 <= at < size for name, size in sizes for at in getattr(paper, name))
        ]
        if lost or outside or len(keys) < len(self.papers):
            raise InputError(
                f"'{self.title}' names papers that are not there, one twice, or rows that are not there",
                expected="each key once, and places in its lists", exists=", ".join([*sorted(lost), *outside][:5]),
                do="leave out what is not known",
            )  # fmt: skip
