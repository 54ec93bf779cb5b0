"""The works that a source names in words, as a result carries them: "Tang et al. 2022, arXiv 2210.04885 (DAAM)"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cutaway.atlas.cite import parted
from cutaway.atlas.works import Work, shipped

_MARK = re.compile(r"(?<![\d.])(?P<number>\d{4}\.\d{4,5})(?!\d)|\b(?P<year>1[89]\d\d|20\d\d)\b(?!\.\d)")
_WORD = re.compile(r"[^\W\d_][\w’'-]*")
_SMALL = {"et", "al", "and", "of", "the", "a", "as", "in", "at", "with", "section", "arXiv"}


@dataclass(frozen=True)
class Mention:
    """A work as a source names it: its first author, its year, its arXiv number; "" and None for what is not said."""

    author: str
    year: int | None
    arxiv: str


def mentions(source: str) -> tuple[Mention, ...]:
    """The works that a source names, in its order.

    >>> [(one.author, one.year, one.arxiv) for one in mentions("Hewitt, Liang 2019, arXiv 1909.03368; Spearman 1904")]
    [('Hewitt', 2019, '1909.03368'), ('Spearman', 1904, '')]
    """
    found: list[Mention] = []
    end = 0
    marks = [*_MARK.finditer(source)]
    for at, mark in enumerate(marks):
        if mark["number"]:
            before = marks[at - 1] if at else None
            if before and before["year"] and source[before.end() : mark.start()].strip(" ,").lower() in ("", "arxiv"):
                found[-1] = Mention(found[-1].author, found[-1].year, mark["number"])
            else:
                found.append(Mention("", None, mark["number"]))
        else:
            found.append(Mention(_first(source[end : mark.start()]), int(mark["year"]), ""))
        end = mark.end()
    return tuple(found)


def _first(words: str) -> str:
    """The first name in the last clause of what stands before a year."""
    clause = re.split(r"[;:()]", words)[-1]
    names = [word for word in _WORD.findall(clause) if word not in _SMALL]
    return next((name for name in names if name[0].isupper()), names[0] if names else "")


def work_of(mention: Mention, works: Sequence[Work]) -> Work:
    """The work of a mention: one of the atlas, else one made of what the mention says."""
    if mention.arxiv:
        known = next((work for work in works if work.arxiv == mention.arxiv), None)
    else:
        known = next((work for work in works if _same(work, mention)), None)
    if known is not None:
        return known
    name = f"{mention.author.lower() or 'arxiv'}{mention.year or ''}{f'-{mention.arxiv}' if mention.arxiv else ''}"
    said = f"arXiv {mention.arxiv}" if mention.arxiv else f"{mention.author} {mention.year}"
    return Work(
        re.sub(r"[^\w.-]", "", name) or "unnamed", f"[title not in the atlas: {said}]", mention.author, mention.year,
        mention.arxiv, "unchecked" if mention.arxiv else "",
    )  # fmt: skip


def _same(work: Work, mention: Mention) -> bool:
    same = parted(work.author)[0].lower() == mention.author.lower()
    return same and not work.arxiv and work.year == mention.year and bool(mention.author)


def works_of(sources: Iterable[str], works: Sequence[Work] | None = None) -> tuple[Work, ...]:
    """The works that some sources name, each once."""
    known = shipped() if works is None else works
    every = (work_of(one, known) for source in sources for one in mentions(source))
    return tuple({work.key: work for work in every}.values())
