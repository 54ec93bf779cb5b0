"""What to cite for a method: the sources that its file names, each with its work where the atlas has one."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache

from cutaway.atlas.mentions import works_of
from cutaway.atlas.works import Work
from cutaway.methods.method import Method
from cutaway.methods.table import METHODS, method

SOURCE = re.compile(r"^(?:[A-Z]+_)*SOURCES?$")


def sources_of(one: Method) -> tuple[str, ...]:
    """The sources that the file of a method names: what its results carry, and numbers in its own words beside."""
    file = sys.modules[one.function.__module__]
    held = [value for name, value in vars(file).items() if SOURCE.match(name)]
    words = (value.values() if isinstance(value, Mapping) else [value] for value in held)
    named = [word for some in words for word in some if isinstance(word, str)]
    beside = re.findall(r"arXiv (\d{4}\.\d{4,5})", " ".join((inspect.getdoc(one.function) or "").split()))
    more = [f"arXiv {number}" for number in beside if not any(number in source for source in named)]
    return tuple(dict.fromkeys((*named, *more)))


def cited_by(name: str) -> tuple[Work, ...]:
    """The works to cite for a method, by its name. Raises MethodError where there is no such method.

    >>> [work.key for work in cited_by("diffusion-lens")]
    ['toker24']
    """
    return works_of(sources_of(method(name)))


def users_of(work: Work) -> tuple[str, ...]:
    """The methods of this package that name a work among their sources."""
    return _users().get(work.arxiv or work.key, ())


@cache
def _users() -> dict[str, tuple[str, ...]]:
    made: dict[str, list[str]] = {}
    for one in METHODS:
        for work in works_of(sources_of(one)):
            made.setdefault(work.arxiv or work.key, []).append(one.name)
    return {key: tuple(names) for key, names in made.items()}
