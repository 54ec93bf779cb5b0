"""The table of methods: what it promises of a family is run, and the page in the docs is this table."""

import ast
import inspect
from pathlib import Path

import pytest

from cutaway.methods.method import ROWS
from cutaway.methods.result import Result
from cutaway.methods.table import METHODS
from cutaway.questions.asked import NEVER
from cutaway.report import methods

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
CELLS = [(one.name, family) for one in METHODS for family in ("contrastive", "generative", "diffusion")]


@pytest.mark.parametrize(("name", "family"), CELLS)
def test_what_the_table_says_is_so(name, family):
    """A cell with `yes` gives a result; an empty one says what it needs, and the method refuses with the same words."""
    row = next(one for one in methods.rows() if one.method is not None and one.method.name == name)
    method = row.method
    asked = methods.question_for(method, family)
    if row.families[family]:
        made = method.apply(asked)
        assert isinstance(made.result, Result) and made.result.data.sizes
        assert f"found = {name}(" in made.code() and f"import {name}" in made.code()
        return
    assert "needs" in method.why_not(asked)
    with pytest.raises(ValueError, match="does not fit this question"):
        method.apply(asked)


def test_every_row_of_the_taxonomy_is_listed():
    assert [*dict.fromkeys(row.row for row in methods.rows())] == [*ROWS] and len(ROWS) == 12
    assert {one.row for one in METHODS} <= set(ROWS)


def test_the_readme_shows_the_table_and_says_why_a_cell_is_empty():
    made = methods.overview()
    assert made in (DOCS.parents[1] / "README.md").read_text()
    assert methods.NONE not in made
    filled = {(row.row, family) for row in methods.rows() for family, fits in row.families.items() if fits}
    assert not filled & {*methods.EMPTY}


def test_each_declaration_says_what_it_can_not_tell_and_offers_options_that_exist():
    for one in METHODS:
        assert one.line.endswith(".") and one.cannot.endswith(".") and one.parts, one.name
        parameters = inspect.signature(one.function).parameters
        assert {*one.takes, *one.options} <= set(parameters), one.name


def test_each_method_is_held_against_truth_chance_and_an_untrained_model():
    """By the marks of the tests: `@pytest.mark.checks("word_lens", "truth")`."""
    found = {
        (mark.args[0].value, what.value)
        for file in (Path(__file__).parents[1] / "methods").glob("test_*.py")
        for mark in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.checks"
        for what in mark.args[1:]
    }
    wanted = {(one.name, what) for one in METHODS for what in ("truth", "baseline", "floor")}
    assert found == wanted, f"no test is marked: {sorted(wanted - found)}; no such method: {sorted(found - wanted)}"


def test_what_a_kind_of_model_never_has_it_lacks():
    """So the help of a method leaves out what no model for it can be asked with, and nothing else."""
    for family, asked in methods.questions().items():
        for part in NEVER[family]:
            assert asked.part(part) is None, (family, part)
    for row in methods.rows():
        if row.method is not None:
            assert {*row.method.kinds} == {name for name, fits in row.families.items() if fits}


def test_it_prints(capsys):
    methods.print_methods(needs=True)
    told = capsys.readouterr().out
    assert "activation-patc" in told and "can not tell: A share of recovery" in told


def test_the_page_in_the_docs_is_this_table():
    assert methods.markdown() in DOCS.read_text(encoding="utf-8"), "write it anew: cutaway methods --markdown"
