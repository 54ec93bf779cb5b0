"""The works of the field as data: what is known of each, how far that was checked, and the cells it belongs to.

A file of works is a table with tabs between its columns, whose first line names them. Lists have `; ` between their
parts. A line that can not be read is named by file and line; the others are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from cutaway.errors import InputError, near
from cutaway.methods.method import ROWS

FAMILIES = ("contrastive", "generative", "diffusion", "unified", "state-space", "video", "audio", "time series", "3-D")
ALONE = ("vision", "language")  # models of one kind of thing, which works are about too
USES = (
    "spurious correlations", "zero-shot segmentation", "in-context learning", "model editing", "hallucinations",
    "safety and bias", "compositionality", "controllable generation", "compression",
)  # fmt: skip
TRUST = {
    "read": "the number was seen on the page of the work itself",
    "listed": "title and number were seen together in a list, the page of the work was not",
    "unchecked": "the number could not be checked",
    "yours": "as your file says",
    "": "no arXiv number is known",
}
COLUMNS = ("key", "title", "author", "year", "arxiv", "trust", "cited", "methods", "families", "uses", "about")
ARXIV = re.compile(r"(?<![\d.])(\d{4}\.\d{4,5})(?:v\d+)?(?!\d)")
_KEY = re.compile(r"[A-Za-z0-9][\w.:+/-]*")


@dataclass(frozen=True)
class Work:
    """One work: what is known of it, which rows and families it is about, and whether the survey is known to cite it.

    `author` is the first one; `trust` says how far the arXiv number was checked, a name in `TRUST`.
    """

    key: str
    title: str
    author: str = ""
    year: int | None = None
    arxiv: str = ""
    trust: str = ""
    cited: bool = False
    methods: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    about: tuple[str, ...] = ()

    @property
    def cells(self) -> frozenset[tuple[str, str]]:
        """The cells of the taxonomy that it belongs to: (row, family)."""
        return frozenset((row, family) for row in self.methods for family in self.families if family in FAMILIES)

    @property
    def url(self) -> str:
        """Where arXiv has it; "" where no number is known."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def checked(self) -> str:
        """How far its number was checked, as a sentence without its stop."""
        return TRUST[self.trust if self.arxiv else ""]

    @property
    def said(self) -> str:
        """It in one line: who, when, what, under which number."""
        who = f"{self.author} {self.year or 'no year'}".strip()
        number = f", arXiv {self.arxiv}" if self.arxiv else ""
        doubt = " (number not checked)" if self.arxiv and self.trust == "unchecked" else ""
        return f"{who}: {self.title}{number}{doubt}"


@dataclass(frozen=True)
class Problem:
    """A line or a file that could not be read: where it is, and what is the matter."""

    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.what}"


@dataclass(frozen=True)
class Read:
    """What was read of some files, and what could not be."""

    works: tuple[Work, ...]
    problems: tuple[Problem, ...] = ()


@cache
def shipped() -> tuple[Work, ...]:
    """The works that come with the package.

    >>> sum(work.trust == "unchecked" for work in shipped()) > 0
    True
    """
    text = (files("cutaway.atlas") / "data" / "works.tsv").read_text(encoding="utf-8")
    found = from_table(text, "works.tsv")
    if found.problems:
        raise InputError(f"the works of the package: {found.problems[0]}", expected="a whole table", do="repair it")
    return found.works


def by_key(works: Iterable[Work]) -> dict[str, Work]:
    """Works by their keys."""
    return {work.key: work for work in works}


def find(key: str, works: Sequence[Work]) -> Work:
    """A work by its key, or by its arXiv number."""
    number = ARXIV.search(key)
    for work in works:
        if work.key == key or (number and work.arxiv == number[1]):
            return work
    raise InputError(
        f"no work has the key '{key}'", expected="a key, as `cutaway atlas search` prints them, or an arXiv number",
        exists=near(key, by_key(works)), do="search for it: `cutaway atlas search WORDS`",
    )  # fmt: skip


# --- tables -----------------------------------------------------------------------------------------------------------


def from_table(text: str, file: str, *, yours: bool = False) -> Read:
    """The works in a table; a line that can not be read is a problem, and no more than that."""
    lines = text.removeprefix("\ufeff").splitlines()
    heading = [name.strip().lower() for name in lines[0].split("\t")] if lines else []
    strange = [name for name in heading if name not in COLUMNS]
    if strange or not {"key", "title"} <= {*heading}:
        named = ", ".join(map(repr, strange)) or "no key, or no title"
        return Read(
            (),
            (
                Problem(
                    file, 1, f"the first line names {named}; columns are {', '.join(COLUMNS)}, with tabs between them"
                ),
            ),
        )
    works, problems, lines_of = [], [], dict[str, int]()
    for at, line in enumerate(lines[1:], 2):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("\t")]
        try:
            if len(parts) > len(heading):
                raise InputError(f"{len(parts)} parts where the first line names {len(heading)}")
            work = from_words(dict(zip(heading, parts, strict=False)), yours=yours)
            if work.key in lines_of:
                raise InputError(f"the key '{work.key}' was given in line {lines_of[work.key]}")
        except InputError as error:
            problems.append(Problem(file, at, error.failed))
            continue
        lines_of[work.key] = at
        works.append(work)
    return Read(tuple(works), tuple(problems))


def from_words(given: Mapping[str, str], *, yours: bool = False) -> Work:
    """A work from the words of its columns. Raises InputError for what can not be."""
    key, title = given.get("key", ""), given.get("title", "")
    if not _KEY.fullmatch(key):
        raise InputError(f"'{key}' is no key: a letter or digit first, no spaces, such as neo24")
    if not title:
        raise InputError(f"'{key}' has no title, which every work needs")
    year = given.get("year", "")
    if year and not re.fullmatch(r"1[5-9]\d\d|20\d\d", year):
        raise InputError(f"'{key}': the year is '{year}', not four digits such as 2025")
    number = given.get("arxiv", "")
    if number and not ARXIV.fullmatch(number):
        raise InputError(f"'{key}': '{number}' is no arXiv number such as 2502.17516")
    trust = "yours" if yours else given.get("trust", "")
    if trust not in TRUST:
        raise InputError(f"'{key}': trust is '{trust}', not one of {', '.join(filter(None, TRUST))}")
    lists = {name: _list(given.get(name, "")) for name in ("methods", "families", "uses", "about")}
    for name, known in (("methods", ROWS), ("families", (*FAMILIES, *ALONE)), ("uses", USES)):
        for word in lists[name]:
            if word not in known:
                raise InputError(f"'{key}': {name} has '{word}'; near it: {near(word, known)}")
    return Work(
        key, title, given.get("author", ""), int(year) if year else None, number, trust if number else "",
        given.get("cited", "") == "yes", lists["methods"], lists["families"], lists["uses"], lists["about"],
    )  # fmt: skip


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(";") if part.strip()))


# --- a user's own -----------------------------------------------------------------------------------------------------


def read(path: str | Path) -> Read:
    """Your own works, from a table (`.tsv`, `.txt`) or from BibTeX (`.bib`). They count as checked by nobody but you.

    Raises InputError where there is no such file, or none of these kinds.
    """
    from cutaway.atlas.bibtex import from_bibtex

    path = Path(path)
    readers: dict[str, Callable[[str, str], Read]] = {".bib": from_bibtex}
    readers |= dict.fromkeys((".tsv", ".txt"), lambda text, file: from_table(text, file, yours=True))
    if not path.is_file() or path.suffix.lower() not in readers:
        raise InputError(
            f"'{path}' is no file of works" if path.exists() else f"there is no file '{path}'",
            expected="a file that ends in .tsv, .txt or .bib",
            do="see docs/atlas.md for what it holds",
        )  # fmt: skip
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return Read((), (Problem(str(path), None, f"not UTF-8 from byte {error.start} on"),))
    return readers[path.suffix.lower()](text, str(path))


def joined(works: Sequence[Work], own: Iterable[Work]) -> tuple[Work, ...]:
    """Works with a user's own behind them. One that is there by its key or number stays and takes on the cells."""
    made, numbers = by_key(works), {work.arxiv: work.key for work in works if work.arxiv}
    for work in own:
        key = work.key if work.key in made else numbers.get(work.arxiv, "")
        there = made.get(key)
        same = there and (not (there.arxiv and work.arxiv) or there.arxiv == work.arxiv)
        if there and same:
            more = {
                name: tuple(dict.fromkeys((*getattr(there, name), *getattr(work, name))))
                for name in ("methods", "families", "uses", "about")
            }
            made[key] = replace(there, **more)  # type: ignore[arg-type]
        else:
            free = work.key
            while free in made:
                free += "-yours"
            made[free] = replace(work, key=free)
            if work.arxiv:  # works without a number are not one work
                numbers[work.arxiv] = free
    return tuple(made.values())
