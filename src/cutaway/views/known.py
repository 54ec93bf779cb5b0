"""All kinds of view and their parts by name, and the view that a JSON text holds."""

from __future__ import annotations

import json
from dataclasses import is_dataclass

from cutaway.errors import InputError
from cutaway.views import boards, captions, films, graphs, kinds, picture, units
from cutaway.views.encode import decode
from cutaway.views.kinds import Opening, View

KINDS: dict[str, type] = {
    name: one
    for module in (kinds, boards, films, graphs, units, captions, picture)
    for name, one in vars(module).items()
    if isinstance(one, type) and is_dataclass(one) and one.__module__ == module.__name__ and one not in (View, Opening)
}


def from_json(text: str) -> View:
    """The view that `to_json` wrote."""
    view = decode(json.loads(text), KINDS)
    if not isinstance(view, View):
        raise InputError("this JSON is not a view", expected="what View.to_json wrote", do="check which file it is")
    return view
