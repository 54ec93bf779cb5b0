"""Which component feeds which, on a page: what wrote the values that the strongest heads read."""

from __future__ import annotations

import numpy as np
import xarray

from cutaway.errors import SiteError
from cutaway.methods.representation_decomposition.direct import Direct
from cutaway.methods.representation_decomposition.representation_decomposition import Decomposition
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.questions.question import Question
from cutaway.views.kinds import Cell, Table
from cutaway.views.words import signed

HEADS = 4  # that have a column
NAMED = 2  # writers that the sentence names
PARTS = {"attn": "attention", "cross": "cross-attention", "mlp": "MLP"}


def written(found: Decomposition, question: Question) -> xarray.DataArray:
    """What each head adds to the number, by what wrote the values that it reads."""
    return Direct(question, found).feeding()


def feeds(page: Page, own: Direct) -> Table | None:
    """A row for each writer, a column for each of the heads that add most; None where it is not known who wrote."""
    if own.all_read:
        return None
    try:
        look = page.applied["decomposition"].look(written)
    except SiteError:  # a block whose values are not in the table
        return None
    fed: xarray.DataArray = look.value
    order = np.argsort(-np.abs(own.heads.values), axis=None)[:HEADS]
    chosen = [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, own.heads.shape), strict=True)]
    columns = [fed.isel(layer=layer, head=head) for layer, head in chosen]
    wrote = [at for at in range(fed.sizes["writer"]) if any(float(column[at]) for column in columns)]
    cells: list[tuple[Cell, ...]] = [("all", *(float(column.sum()) for column in columns))]
    cells += [(_named(str(fed["writer"].values[at])), *(float(column[at]) for column in columns)) for at in wrote]
    return Table(
        title="What feeds the heads",
        seen=f"The heads with the largest direct effects on {page.number}, for {page.names.aim}, by what wrote the "
        f"values that they read. {_told(chosen[0], columns[0])} Each column is an exact sum.",
        limits="Patterns and norms are held as they were: it counts what is moved, not what makes a head look where it "
        "looks (its queries and keys). It goes back one head; what fed the writers in turn is not told.",
        columns=("written by", *(f"layer {layer}, head {head}" for layer, head in chosen)), cells=tuple(cells),
        folded=True, provenance=origin(own.parts), code=look.code,
    )  # fmt: skip


def _told(place: tuple[int, int], column: xarray.DataArray) -> str:
    """Where the strongest head has its effect from, in a sentence."""
    whole = float(column.sum())
    order = np.argsort(-np.sign(whole) * column.values)[:NAMED]
    parts = [f"{signed(float(column[at])):+.3f} from the {_named(str(column['writer'].values[at]))}" for at in order]
    return (
        f"Layer {place[0]}, head {place[1]} ({signed(whole):+.3f}) has {' and '.join(parts)}, each through the "
        "attention of this head."
    )


def _named(writer: str) -> str:
    """A writer in words."""
    layer, _, part = writer.partition(".")
    if part:
        return f"{PARTS[part]} of layer {layer}"
    return {"embed": "embedding of patches and positions", "bias": "bias of the values"}.get(writer, writer)
