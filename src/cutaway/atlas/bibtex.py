"""Reading BibTeX: as much of it as reference managers write, with the line of whatever can not be read."""

from __future__ import annotations

import re
import unicodedata

from cutaway.atlas.works import ARXIV, FAMILIES, USES, Problem, Read, Work, from_words
from cutaway.errors import InputError
from cutaway.methods.method import ROWS

_BEGIN = re.compile(r"@\s*(\w+)\s*([{(])")
_FIELD = re.compile(r"\s*,?\s*([A-Za-z][\w:+./-]*)\s*=\s*")
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
            "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "r": "\u030a", "k": "\u0328"}  # fmt: skip
_LETTERS = {"ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å",
            "AA": "Å", "i": "ı", "textasciitilde": "\2", "textasciicircum": "^", "textbackslash": "\\"}  # fmt: skip
_IGNORED = ("comment", "preamble", "string")


def from_bibtex(text: str, file: str) -> Read:
    """The works of a BibTeX file: title, first author, year, and an arXiv number wherever one stands.

    Keywords that are rows, families or applications of the atlas put a work into its cells.
    """
    works, problems, at = [], [], 0
    while begin := _BEGIN.search(text, at):
        line, kind = text.count("\n", 0, begin.start()) + 1, begin[1].lower()
        try:
            end = _closing(text, begin.end() - 1)
        except InputError as error:
            problems.append(Problem(file, line, error.failed))
            following = re.compile(r"(?m)^\s*@\s*\w+\s*[{(]").search(text, begin.end())
            if following is None:
                break
            at = following.start()
            continue
        inside, at = text[begin.end() : end], end + 1
        if kind in _IGNORED:
            continue
        try:
            works.append(_work(*_entry(inside)))
        except InputError as error:
            problems.append(Problem(file, line, error.failed))
    if not works and not problems:
        problems.append(Problem(file, None, "no BibTeX entry is in it"))
    return Read(tuple(works), tuple(problems))


def _closing(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`; an entry that begins a line inside means it is open."""
    opened, closes = text[start], {"{": "}", "(": ")"}[text[start]]
    depth = 0
    for at in range(start, len(text)):
        if text[at - 1 : at] == "\\":
            continue
        if text[at] == opened or text[at] == "{":
            depth += 1
        elif (text[at] == closes and depth == 1) or (text[at] == "}" and (opened == "{" or depth > 1)):
            depth -= 1
            if not depth:
                return at
        elif text[at] == "@" and depth == 1 and _BEGIN.match(text, at) and not text[:at].rpartition("\n")[2].strip():
            break
    raise InputError("an entry that begins here is not closed")


def _entry(inside: str) -> tuple[str, dict[str, str]]:
    """The key of an entry and its fields by name."""
    key, comma, rest = inside.partition(",")
    if not comma and "=" in key:
        raise InputError("an entry without a key")
    found: dict[str, str] = {}
    while rest.strip(" \t\r\n,"):
        named = _FIELD.match(rest)
        if named is None:
            raise InputError(f"'{key.strip()}': no field begins at '{' '.join(rest.split())[:30]}'")
        value, rest = _value(rest[named.end() :], key.strip())
        found.setdefault(named[1].lower(), value)
    return key.strip(), found


def _value(text: str, key: str) -> tuple[str, str]:
    """The value in front of a text, in braces, quotes or bare, and what is behind it."""
    if text.startswith("{"):
        end = _closing(text, 0)
        return text[1:end], text[end + 1 :]
    if text.startswith('"'):
        depth = 0
        for at in range(1, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if text[at] == '"' and depth == 0 and text[at - 1] != "\\":
                return text[1:at], text[at + 1 :]
        raise InputError(f"'{key}': a value in quotes is not closed")
    bare = re.match(r"[^,{}\"]*", text)
    return (bare[0].strip() if bare else ""), text[bare.end() if bare else 0 :]


def _work(key: str, fields: dict[str, str]) -> Work:
    first = _first(fields.get("author", ""))
    year = re.search(r"\d{4}", fields.get("year", "") or fields.get("date", ""))
    where = (fields.get(name, "") for name in ("eprint", "arxivid", "url", "doi", "journal", "note"))
    number = next((found[1] for text in where if (found := ARXIV.search(text))), "")
    words = [word.strip() for word in re.split(r"[;,]", plain(fields.get("keywords", "")))]
    given_words = {
        "methods": [word for word in words if word in ROWS], "families": [word for word in words if word in FAMILIES],
        "uses": [word for word in words if word in USES],
    }  # fmt: skip
    return from_words(
        {
            "key": key, "title": plain(fields.get("title", "")), "author": first,
            "year": year[0] if year else "", "arxiv": number,
            **{name: ";".join(found) for name, found in given_words.items()},
        },
        yours=True,
    )  # fmt: skip


def _first(authors: str) -> str:
    """The family name of the first of the authors; a name in braces is one name. Of an initial alone, that too."""
    name = re.split(r"\s+and\s+", authors.strip(), maxsplit=1)[0]
    whole = re.fullmatch(r"\{(.*?)\}(?:,\s*(.+))?", name)
    family, given = (whole[1], whole[2] or "") if whole else (name.partition(",")[0], name.partition(",")[2].strip())
    if not whole and "," not in name:
        family = plain(name).rpartition(" ")[2]
    return plain(family) + (f" {plain(given)}" if re.fullmatch(r"[^\W\d_]\.?", given) else "")


def plain(text: str) -> str:
    r"""A value without its braces and commands.

    >>> plain(r"{{Vi{\'e}gas}} \& {B}au")
    'Viégas & Bau'
    """

    def accented(found: re.Match[str]) -> str:
        letter = {"\\i": "i", "\\j": "j"}.get(found[2], found[2])
        return unicodedata.normalize("NFC", letter + _ACCENTS[found[1]])

    text = re.sub(r"\\(['`^\"~=.])\s*\{?(\\[ij]|[A-Za-z])\}?", accented, text)
    text = re.sub(r"\\([cvuHrk])\s*\{(\\[ij]|[A-Za-z])\}", accented, text)
    text = re.sub(r"\\([A-Za-z]+)(?:\{\}|\s+|(?![A-Za-z]))", lambda found: _LETTERS.get(found[1], ""), text)
    text = re.sub(r"\\([&%$#_{}])", lambda found: {"{": "\0", "}": "\1"}.get(found[1], found[1]), text)
    text = text.replace("{", "").replace("}", "").replace("\0", "{").replace("\1", "}")
    return " ".join(text.replace("---", "—").replace("~", " ").replace("\2", "~").split())
