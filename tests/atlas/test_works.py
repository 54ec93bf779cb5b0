"""The works: facts and how far they were checked; a user's own join, and a broken line is named."""

from pathlib import Path

import pytest

from cutaway.atlas.bibtex import from_bibtex, plain
from cutaway.atlas.works import ALONE, COLUMNS, FAMILIES, USES, Work, by_key, find, from_table, joined, read, shipped
from cutaway.errors import InputError
from cutaway.methods.method import ROWS


def test_the_works_of_the_package_are_whole() -> None:
    works = shipped()
    assert len(works) >= 270 and len(by_key(works)) == len(works)
    numbers = [work.arxiv for work in works if work.arxiv]
    assert len({*numbers}) == len(numbers)
    assert all(work.trust for work in works if work.arxiv) and not any(work.trust for work in works if not work.arxiv)
    assert {row for work in works for row in work.methods} == {*ROWS}
    assert {one for work in works for one in work.families} <= {*FAMILIES, *ALONE}
    assert {one for work in works for one in work.uses} == {*USES}
    assert sum(work.cited for work in works) >= 10


def test_a_number_that_was_not_checked_says_so() -> None:
    doubted = next(work for work in shipped() if work.trust == "unchecked")
    assert "not checked" in doubted.said and "could not be checked" in doubted.checked
    assert "not checked" not in find("lin25", shipped()).said
    assert find("lin25", shipped()) == find("arXiv:2502.17516v2", shipped())
    unknown = next(work for work in shipped() if not work.arxiv)
    assert unknown.checked == "no arXiv number is known" and unknown.url == ""


def test_a_broken_line_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text(
        "key\ttitle\tyear\tarxiv\tmethods\tfamilies\n"
        "a1\tOne\t2024\t2401.00001\tlogit lens\tgenerative\n"
        "b 2\tTwo\t2024\t\t\t\n"
        "c3\t\t2024\t\t\t\n"
        "\n"
        "d4\tFour\t24\t\t\t\n"
        "e5\tFive\t2024\t24.1\t\t\n"
        "f6\tSix\t2024\t\tlogit lense\t\n"
        "a1\tOne again\t2024\t\t\t\n"
        "g7\tSeven\t2024\t\t\t\ttoo\tmany\n"
        "h8\tEight\t2025\t\t\taudio\n",
        encoding="utf-8",
    )
    found = read(path)
    assert [work.key for work in found.works] == ["a1", "h8"]
    assert [(problem.file, problem.line) for problem in found.problems] == [
        (str(path), at) for at in (3, 4, 6, 7, 8, 9, 10)
    ]
    said = "\n".join(map(str, found.problems))
    for part in (
        "own.tsv:3: 'b 2' is no key",
        "no title",
        "the year is '24'",
        "no arXiv number",
        "logit lens",
        "line 2",
    ):
        assert part in said
    assert found.works[0].cells == {("logit lens", "generative")} and found.works[0].trust == "yours"


@pytest.mark.parametrize("text", ["", "name\ttitle\n", "key\ttitle\tcolour\n"])
def test_a_table_without_its_first_line_is_one_problem(text: str) -> None:
    (problem,) = from_table(text, "x.tsv").problems
    assert problem.line == 1 and COLUMNS[0] in problem.what


def test_bibtex_is_read_and_its_broken_entries_are_named() -> None:
    text = r"""% a comment
@string{x = "y"}
@article{doe24, title = {{A {\"U}ber-model} \& more}, author = "Doe, Jane and Roe, R.", year = 2024,
  eprint = {2401.00002}, keywords = {logit lens; generative, nonsense}}

@misc{no-title, year = 2020}
@misc{open26, title = {Not closed, year = 2020
@inproceedings(last25, title = "Last", author = {Ann Lee}, url = {https://arxiv.org/abs/2501.00003v2})
@misc{odd, title = {T}, = {no name}}
"""
    found = from_bibtex(text, "own.bib")
    assert [(work.key, work.title, work.author, work.year, work.arxiv) for work in found.works] == [
        ("doe24", "A Über-model & more", "Doe", 2024, "2401.00002"), ("last25", "Last", "Lee", None, "2501.00003"),
    ]  # fmt: skip
    assert found.works[0].cells == {("logit lens", "generative")}
    assert [problem.line for problem in found.problems] == [6, 7, 9]
    assert from_bibtex("nothing", "x.bib").problems[0].line is None
    assert plain(r"Vi{\'e}gas, \v{C}ech \ss{} \{x\}") == "Viégas, Čech ß {x}"


def test_own_works_join_and_take_no_one_elses_place(tmp_path: Path) -> None:
    there = find("neo24", shipped())
    same = Work("mine", "The same", arxiv=there.arxiv, methods=("task vectors",))
    other = Work("neo24", "Another of that name", arxiv="2401.00009")
    made = by_key(joined(shipped(), [same, other, Work("new1", "New")]))
    assert "mine" not in made and "task vectors" in made["neo24"].methods and made["neo24"].title == there.title
    assert made["neo24-yours"].title == other.title and made["new1"].title == "New"
    with pytest.raises(InputError, match="no file"):
        read(tmp_path / "gone.tsv")
    (tmp_path / "latin.bib").write_bytes(b"@misc{a, title={\xe9}}")
    assert "not UTF-8" in str(read(tmp_path / "latin.bib").problems[0])
    with pytest.raises(InputError, match="key 'nobody99'"):
        find("nobody99", shipped())


def test_works_without_a_number_are_not_one_work():
    own = [Work("first", "One"), Work("second", "Another"), Work("third", "A third", arxiv="2401.12345")]
    assert {"first", "second", "third"} <= {*by_key(joined(shipped(), own))}
