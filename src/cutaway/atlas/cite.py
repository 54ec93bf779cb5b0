"""Works as reference managers take them: BibTeX, RIS and CSL-JSON, from what is known and no more.

Of most works the first author alone is known here, and an entry says so: `and others` in BibTeX, a note in RIS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from cutaway.atlas.works import Work
from cutaway.errors import InputError, near

_LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
          "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip
FIRST = "Of the authors the first is named."
DOUBT = "The arXiv number was not checked."


def cite(works: Work | Iterable[Work], form: str = "bibtex") -> str:
    """Works as the text of a file, in `bibtex`, `ris` or `csl-json`.

    >>> print(cite(Work("lin25", "A Survey", "Lin", 2025, "2502.17516", "read")).splitlines()[0])
    @misc{lin25,
    """
    if form not in FORMS:
        raise InputError(
            f"'{form}' is no format of a reference", expected="bibtex, ris or csl-json",
            exists=near(form, FORMS), do="name one of these",
        )  # fmt: skip
    return FORMS[form]([works] if isinstance(works, Work) else [*works])


def _bibtex(works: list[Work]) -> str:
    return "\n\n".join(map(_entry, works)) + "\n" if works else ""


def _entry(work: Work) -> str:
    family, given = parted(work.author)
    who = f"{{{escaped(family)}}}, {escaped(given)}" if given else f"{{{escaped(family)}}}"
    fields = {
        "title": f"{{{escaped(work.title)}}}", "author": f"{who} and others" if family else "",
        "year": str(work.year or ""), "eprint": work.arxiv, "archivePrefix": "arXiv" if work.arxiv else "",
        "url": work.url, "note": escaped(_note(work)),
    }  # fmt: skip
    lines = (f"  {name} = {{{value}}}," for name, value in fields.items() if value)
    return "\n".join([f"@misc{{{work.key},", *lines, "}"])


def _ris(works: list[Work]) -> str:
    return "\n".join(map(_record, works))


def _record(work: Work) -> str:
    family, given = parted(work.author)
    fields = [
        ("TY", "UNPB" if work.arxiv else "GEN"), ("ID", work.key), ("T1", work.title),
        ("AU", f"{family}, {given}" if given else family), ("PY", str(work.year or "")),
        ("AN", f"arXiv:{work.arxiv}" if work.arxiv else ""), ("UR", work.url),
        ("N1", " ".join(filter(None, (FIRST if family else "", _note(work))))),
    ]  # fmt: skip
    return "\n".join([*(f"{name}  - {value}" for name, value in fields if value), "ER  - ", ""])


def _csl(works: list[Work]) -> str:
    return json.dumps([_item(work) for work in works], ensure_ascii=False, indent=2) + "\n"


def _item(work: Work) -> dict[str, Any]:
    family, given = parted(work.author)
    name = {"family": family, **({"given": given} if given else {})}
    return {
        "id": work.key, "type": "article", "title": work.title,
        **({"author": [name, {"literal": "others"}]} if family else {}),
        **({"issued": {"date-parts": [[work.year]]}} if work.year else {}),
        **({"number": f"arXiv:{work.arxiv}", "publisher": "arXiv", "URL": work.url} if work.arxiv else {}),
        **({"note": _note(work)} if _note(work) else {}),
    }  # fmt: skip


FORMS: dict[str, Callable[[list[Work]], str]] = {"bibtex": _bibtex, "ris": _ris, "csl-json": _csl}


def parted(author: str) -> tuple[str, str]:
    """The family name of an author, and the initial behind it where works of that name and year are told apart by it.

    >>> parted("Jiang N."), parted("Ben Melech Stan")
    (('Jiang', 'N.'), ('Ben Melech Stan', ''))
    """
    found = re.fullmatch(r"(.+?)\s+((?:[^\W\d_]\.\s?)+)", author)
    return (found[1], found[2]) if found else (author, "")


def escaped(text: str) -> str:
    r"""A text with the signs that LaTeX takes for its own written so that it prints them.

    >>> print(escaped("R&D: 50%"))
    R\&D: 50\%
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _note(work: Work) -> str:
    return DOUBT if work.arxiv and work.trust == "unchecked" else ""
