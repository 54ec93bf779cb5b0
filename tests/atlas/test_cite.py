"""Every work survives a parser that others keep, in each format."""

import json
import re
import warnings

import pytest

from cutaway.atlas.bibtex import from_bibtex
from cutaway.atlas.cite import FORMS, cite, parted
from cutaway.atlas.works import Work, shipped
from cutaway.errors import InputError

TITLE = r"50% of R&D: {braces}, $x_1$ ~ #2 \alpha “quoted” <b>"
HARD = Work("hard+1", TITLE, "Ben Melech Stan", 2024, "2404.03118", "unchecked")
WORKS = (*shipped(), HARD)


def test_bibtex_comes_back_from_pybtex() -> None:
    pybtex = pytest.importorskip("pybtex.database")
    from pybtex.richtext import Text

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pybtex.parse_string(cite(WORKS), "bibtex").entries
    assert [*found] == [work.key for work in WORKS]
    for work in WORKS:
        entry = found[work.key]
        title = str(Text.from_latex(entry.fields["title"]))
        assert re.sub(r"[{}\\]", "", title) == re.sub(r"[{}\\]", "", work.title), work.key
        assert entry.fields.get("year", "") == str(work.year or "")
        assert entry.fields.get("eprint", "") == work.arxiv
        assert bool(entry.persons.get("author")) is bool(work.author)
        if work.author:
            first, others = entry.persons["author"]
            assert str(others) == "others"
            assert "".join(map(str, first.last_names)).strip("{}") == parted(work.author)[0]
        assert ("not checked" in entry.fields.get("note", "")) is (work.trust == "unchecked")


def test_ris_comes_back_from_rispy() -> None:
    rispy = pytest.importorskip("rispy")
    found = rispy.loads(cite(WORKS, "ris"))
    assert len(found) == len(WORKS)
    for entry, work in zip(found, WORKS, strict=True):
        assert entry["id"] == work.key and entry["primary_title"] == work.title
        assert entry.get("year", "") == str(work.year or "")
        assert entry.get("accession_number", "") == (f"arXiv:{work.arxiv}" if work.arxiv else "")
        assert entry.get("authors", [""])[0] == ", ".join(filter(None, parted(work.author)))


@pytest.mark.filterwarnings("ignore")
def test_csl_json_comes_back_from_citeproc() -> None:
    source = pytest.importorskip("citeproc.source.json")
    found = source.CiteProcJSON(json.loads(cite(WORKS, "csl-json")))
    assert [*found] == [work.key.lower() for work in WORKS]  # it knows keys in small letters
    for work in WORKS:
        entry = found[work.key.lower()]
        assert str(entry["title"]) == work.title and entry["type"] == "article"
        assert not work.year or entry["issued"]["year"] == work.year
        assert not work.author or entry["author"][0]["family"] == parted(work.author)[0]


def test_what_is_written_is_read_by_the_reader_of_your_own_files() -> None:
    found = from_bibtex(cite(WORKS), "own.bib")
    assert not found.problems
    for again, work in zip(found.works, WORKS, strict=True):
        assert (again.key, again.year, again.arxiv) == (work.key, work.year, work.arxiv)
        assert re.sub(r"[{}]", "", again.title) == re.sub(r"[{}]", "", " ".join(work.title.split())), work.key
        assert again.author == work.author


def test_a_format_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="bibtex, ris or csl-json"):
        cite(HARD, "endnote")
    assert cite((), "bibtex") == cite((), "ris") == "" and {*FORMS} == {"bibtex", "ris", "csl-json"}
