"""Set-up for every test: shapes and types checked at run time, no network, one thread."""

import ast
import inspect
import os
import re
from collections.abc import Callable
from functools import cache, wraps
from itertools import count
from pathlib import Path
from typing import Any

import jaxtyping
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ["MPLBACKEND"] = "Agg"
# Read when torch is first imported. The models are so small that threads mostly wait for one another: on a busy
# machine two are thirty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Continuous integration tries the same examples each time; elsewhere hypothesis draws new ones, and keeps what fails.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Must run before anything imports cutaway, and stays for the session: every annotated call in the package is checked,
# but for those of functions inside functions.
# An int passes for a float, as it does for mypy. Only where shapes stand in the annotations (or a name that is there
# for mypy alone) are they bound to one another, which takes most of the time of a call.
SHAPES = {"Float", "Int", "UInt8", "Bool", "Num", "Real", "Shaped"}
FIRST, EVERY = 12, 25  # calls of each function whose shapes are checked, and one in so many of the rest
_bound = jaxtyping.jaxtyped


@cache
def _unresolved(file: str) -> set[str]:
    """Names that a module imports for mypy alone."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    tests = [one for one in ast.walk(tree) if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"]
    named = [
        name
        for one in tests
        for line in one.body
        if isinstance(line, ast.Import | ast.ImportFrom)
        for name in line.names
    ]
    return {(name.asname or name.name).split(".")[0] for name in named}


def _checked(*, typechecker: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator that the import hook puts on everything."""
    bound = _bound(typechecker=typechecker)

    def decorate(made: Any) -> Any:
        if not inspect.isfunction(made):
            return bound(made)
        if "<locals>" in made.__qualname__:  # made anew with every call, and so would be its check: mypy has seen it
            return made
        words = set(re.findall(r"\w+", " ".join(map(str, made.__annotations__.values()))))
        return (
            _often(bound(made), made)
            if words & (SHAPES | _unresolved(made.__code__.co_filename))
            else typechecker(made)
        )

    return decorate


def _often(checked: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Check the first calls in each process, then one in so many: a check costs more than most functions."""
    calls = count(1)

    @wraps(plain)
    def called(*args: Any, **kwargs: Any) -> Any:
        at = next(calls)
        return (checked if at <= FIRST or at % EVERY == 0 else plain)(*args, **kwargs)

    return called


jaxtyping.jaxtyped = _checked
CHECKED_TYPES = install_import_hook("cutaway", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
