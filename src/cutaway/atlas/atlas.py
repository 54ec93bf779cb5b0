"""The atlas: cells of the taxonomy, filled from declarations, findings and works; what can be asked of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cutaway.atlas import taxonomy
from cutaway.atlas.cite import cite
from cutaway.atlas.evidence import Evidence, for_cell
from cutaway.atlas.results import Own, read_results
from cutaway.atlas.works import FAMILIES, Problem, Work, find, joined, read, shipped
from cutaway.methods.method import ROWS, Method
from cutaway.methods.table import in_row

STATES = {
    "measured": "measured here: a method of this package, and numbers of ours",
    "runs": "runs here: a method of this package, no number of ours yet",
    "elsewhere": "works of others are listed, this package has no method for it",
    "nobody": "no work on it is listed here, and this package has no method for it",
    "never": "there can be no such thing",
}


@dataclass(frozen=True, eq=False)
class Cell:
    """A row and a family: the methods of this package, the works about it, our numbers, a user's own results.

    `general` are works about the row that name no family of the atlas: of language or vision models alone, or of the
    method itself.
    """

    row: str
    family: str
    methods: tuple[Method, ...]
    works: tuple[Work, ...]
    general: tuple[Work, ...]
    evidence: tuple[Evidence, ...]
    own: tuple[Own, ...] = ()

    @property
    def state(self) -> str:
        """How it is filled, a name in `STATES`."""
        if not self.methods and taxonomy.never(self.row, self.family):
            return "never"
        if self.methods:
            return "measured" if self.evidence else "runs"
        return "elsewhere" if self.works else "nobody"


@dataclass(frozen=True, eq=False)
class Atlas:
    """The works, a user's own among them, and results; `problems` are lines and files that could not be read."""

    works: tuple[Work, ...]
    own: tuple[Own, ...] = ()
    problems: tuple[Problem, ...] = ()
    yours: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, row by row."""
        return tuple(self._cell(row, family) for row in ROWS for family in FAMILIES)

    def cell(self, row: str, family: str) -> Cell:
        """One cell. Raises KeyError where there is no such row or family."""
        return {(cell.row, cell.family): cell for cell in self.cells}[row, family]

    def _cell(self, row: str, family: str) -> Cell:
        about = [work for work in self.works if row in work.methods]
        return Cell(
            row, family, tuple(one for one in in_row(row) if family in one.kinds),
            tuple(work for work in about if family in work.families),
            tuple(work for work in about if not {*work.families} & {*FAMILIES}),
            for_cell(row, family), tuple(one for one in self.own if one.row == row and family in one.families),
        )  # fmt: skip

    def find(self, key: str) -> Work:
        """A work by its key or its arXiv number. Raises InputError where there is none."""
        return find(key, self.works)

    def search(self, words: str) -> tuple[Work, ...]:
        """The works in which every word occurs, in title, author, year, key, number or what they are about.

        Those with more of the words in their title come first, then the newer.
        """
        wanted = re.findall(r"[^\s]+", words.lower())
        found = [work for work in self.works if wanted and all(word in _all(work) for word in wanted)]
        return tuple(sorted(found, key=lambda work: (-_hits(work, wanted), -(work.year or 0), work.key)))

    def related(self, key: str) -> tuple[tuple[Work, tuple[tuple[str, str], ...]], ...]:
        """The works that share cells with one, those that share most first, with the cells that they share."""
        one = self.find(key)
        shared = ((work, one.cells & work.cells) for work in self.works if work.key != one.key)
        ranked = sorted(shared, key=lambda pair: (-len(pair[1]), -(pair[0].year or 0), pair[0].key))
        return tuple((work, tuple(sorted(cells))) for work, cells in ranked if cells)

    def cite(self, key: str | Iterable[str], form: str = "bibtex") -> str:
        """One or more works in `bibtex`, `ris` or `csl-json`."""
        return cite([self.find(one) for one in ([key] if isinstance(key, str) else key)], form)

    def gaps(self) -> tuple[taxonomy.Gap, ...]:
        """What the survey says is missing, with how far it is closed here and the command that shows it."""
        return taxonomy.gaps()

    def empty(self) -> tuple[Cell, ...]:
        """The cells without a method of this package that could have one."""
        return tuple(cell for cell in self.cells if cell.state in ("elsewhere", "nobody"))

    def write(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write `atlas.html` into a folder, which is made if it is not there, and return its path."""
        from cutaway.atlas.page import write

        return write(self, folder, overwrite=overwrite)


def open_atlas(works: Sequence[str | Path] = (), results: Sequence[str | Path] = ()) -> Atlas:
    """The atlas of the package, with your own works (`.tsv`, `.bib`) and folders of saved results.

    What can not be read of them is in `problems`, by file and line, and the rest is there.

    >>> atlas = open_atlas()
    >>> atlas.cell("logit lens", "generative").state
    'measured'
    """
    every, problems, yours = shipped(), list[Problem](), set[str]()
    for path in works:
        found = read(path)
        before = {work.key for work in every}
        every = joined(every, found.works)
        yours |= {work.key for work in every} - before
        problems += found.problems
    own: list[Own] = []
    for folder in results:
        made, broken = read_results(folder)
        own += made
        problems += broken
    return Atlas(every, tuple(own), tuple(problems), frozenset(yours))


def _all(work: Work) -> str:
    lists = (*work.methods, *work.families, *work.uses, *work.about)
    return " ".join((work.key, work.title, work.author, str(work.year or ""), work.arxiv, *lists)).lower()


def _hits(work: Work, wanted: Iterable[str]) -> int:
    return sum(word in work.title.lower() for word in wanted)
