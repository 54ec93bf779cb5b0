"""What a view shows of a result, and the Python that makes it: one function, which is run and printed."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pandas
import xarray


@dataclass(frozen=True, eq=False)
class Look:
    """What a function made of a result, `value`, and the programme that makes and prints the same, `code`."""

    value: Any
    code: str


def looked(function: Callable[..., Any], found: Any, question: Any, constants: Mapping[str, Any]) -> tuple[Any, str]:
    """What a function gives for a result and its question, and its own lines, in which each part of that is printed.

    `function` takes `found` or `question` or both by these names, and `constants`, which stand in the lines as they
    are.
    """
    known = inspect.signature(function).parameters
    given = {name: value for name, value in (("found", found), ("question", question)) if name in known}
    value = function(**given, **constants)
    *before, last = _body(function, constants)
    parts = last.elts if isinstance(last, ast.Tuple) else [last]
    values = value if isinstance(last, ast.Tuple) else (value,)
    lines = [ast.unparse(line) for line in before]
    return value, "\n".join([*lines, *(_printed(part, one) for part, one in zip(parts, values, strict=True))])


def imported(function: Callable[..., Any]) -> tuple[str, ...]:
    """The lines that import what a function uses, each name from where it is public."""
    function = inspect.unwrap(function)
    spoken = {node.id for line in _body(function, {}) for node in ast.walk(line) if isinstance(node, ast.Name)}
    space = vars(sys.modules[function.__module__])
    known = inspect.signature(function).parameters
    return tuple(_home(name, space[name]) for name in sorted(spoken - {*known}) if name in space)


def summary(found: Any) -> Any:
    """The summary of a result."""
    return found.summary()


def _body(function: Callable[..., Any], constants: Mapping[str, Any]) -> list[Any]:
    """The statements of a function without its docstring, the last of them as the expression that it returns."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    body = tree.body[1:] if ast.get_docstring(tree) else tree.body
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    around = vars(sys.modules[function.__module__])
    plain = {
        name: one for name, one in around.items() if isinstance(one, int | float | str | tuple) and name not in own
    }
    filled: list[Any] = [_Filled({**plain, **constants}).visit(line) for line in body]
    assert isinstance(filled[-1], ast.Return)
    return [*filled[:-1], filled[-1].value]


class _Filled(ast.NodeTransformer):
    """Names replaced by what they stand for: what a view chose, and the plain values of its module."""

    def __init__(self, constants: Mapping[str, Any]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """A name as its value, where that is known."""
        return ast.Constant(self.constants[node.id]) if node.id in self.constants else node


def _printed(part: ast.expr, value: Any) -> str:
    """The line that prints a part, as a table where it is one."""
    said = ast.unparse(part)
    said = said if isinstance(part, ast.Call | ast.Attribute | ast.Subscript | ast.Name) else f"({said})"
    rounded = ".round(4)" if getattr(getattr(value, "dtype", None), "kind", "") in "fiu" else ""
    match value:
        case xarray.DataArray() if value.ndim in (1, 2):
            said += f".to_pandas(){rounded}.to_string()"
        case xarray.DataArray() if value.ndim > 2:
            said += f".rename('value').to_series(){rounded}"
        case xarray.Dataset():
            said += ".to_dataframe().round(4).to_string()"
        case pandas.DataFrame() | pandas.Series():
            said += ".round(4).to_string()"
        case np.ndarray():
            said += ".round(4)"
    return f"print({said})"


def _home(name: str, value: Any) -> str:
    """The line that imports a name: a module by its short name, else from the outermost package that hands it out."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}"
    return f"from {next(_homes(name, value))} import {name}"


def _homes(name: str, value: Any) -> Iterator[str]:
    words = str(value.__module__).split(".")
    for upto in range(1, len(words) + 1):
        module = sys.modules.get(".".join(words[:upto]))
        if module is not None and vars(module).get(name) is value:
            yield ".".join(words[:upto])
