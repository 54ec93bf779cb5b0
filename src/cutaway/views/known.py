"""All kinds of view by name, and the view that a JSON text holds."""

from __future__ import annotations

import json

from cutaway.errors import InputError
from cutaway.views.encode import decode
from cutaway.views.films import Gallery, Strip
from cutaway.views.kinds import (
    Axis,
    Bar,
    Bars,
    Curve,
    Head,
    HeadTable,
    Lens,
    Line,
    Matrix,
    Overlay,
    Phrase,
    Table,
    View,
    WordGrid,
)  # fmt: skip
from cutaway.views.picture import Picture

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Overlay, Lens, Strip, Gallery, HeadTable, Bars, Matrix, Curve, WordGrid, Table,
        Picture, Axis, Phrase, Head, Bar, Line,
    )
}  # fmt: skip


def from_json(text: str) -> View:
    """The view that `to_json` wrote."""
    view = decode(json.loads(text), KINDS)
    if not isinstance(view, View):
        raise InputError("this JSON is not a view", expected="what View.to_json wrote", do="check which file it is")
    return view
