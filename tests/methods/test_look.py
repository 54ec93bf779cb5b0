"""What a view shows and its code are one function: the lines that are printed give the value that is shown."""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pandas
import pytest
import xarray

from cutaway import questions
from cutaway.methods.look import imported, looked
from cutaway.methods.method import together
from cutaway.methods.representation_decomposition import Direct
from cutaway.methods.table import method
from cutaway.zoo import tiny
from world import opened

FOUND = xarray.Dataset({"a": ("x", np.arange(3.0)), "b": (("x", "y", "z"), np.ones((3, 2, 2)))})


def several(found, at):
    """A docstring is not printed."""
    row = found["a"].isel(x=at)
    return row * 2, float(row), found["b"], found["a"].to_pandas(), np.sqrt(found["a"].values)


def with_home(found, question):
    return Direct(question, found).heads


def said(code, space):
    out = StringIO()
    with redirect_stdout(out):
        exec(compile(code, "a view", "exec"), space)  # noqa: S102, the page shows it to be run
    return out.getvalue()


def test_the_lines_are_those_of_the_function_with_its_constants():
    value, lines = looked(several, FOUND, None, {"at": 2})
    assert float(value[0]) == 4.0 and lines.startswith(
        "row = found['a'].isel(x=2)\nprint((row * 2))\nprint(float(row))"
    )
    assert "docstring" not in lines
    printed = said("\n".join([*imported(several), lines]), {"found": FOUND})
    assert "4." in printed and "1.4142" in printed and imported(several) == ("import numpy as np",)


def test_a_name_comes_from_where_it_is_public():
    assert imported(with_home) == ("from cutaway.methods.representation_decomposition import Direct",)


@pytest.mark.parametrize("joined", [False, True])
def test_the_programme_prints_what_the_view_is_made_of(joined):
    """From the call that was made, and run from nothing but the question."""
    question = questions.match(opened("clip"), tiny.picture(), ["a red dog", "a cat"])
    made = method("representation_decomposition").apply(question, by_token=True)
    look = made.look(with_home)
    code = together((made, with_home)) if joined else look.code
    assert f"found = {made.call}" in code
    shown = said(code, {"question": question})
    table = pandas.DataFrame(look.value.to_pandas()).round(4).to_string()
    assert shown.strip() == table.strip()
