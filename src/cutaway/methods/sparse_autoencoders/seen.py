"""Rows on which dictionaries are measured: from a store, a tensor, or a stream, with what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.dictionary import NOWHERE, At, Dictionary
from cutaway.model.tokens import KINDS
from cutaway.store.stored import Store


@dataclass(frozen=True, eq=False)
class Seen:
    """Rows x that a dictionary reads, rows y that it stands for, and what each of them is.

    `item` numbers the items that rows belong to, in an order that does not fall; `places` are row and column on the
    patch grid, -1 where there is none.
    """

    x: Float[Tensor, "row d_in"]
    y: Float[Tensor, "row d_out"]
    at: At = NOWHERE
    item: Int[Tensor, "row"] | None = None
    places: Int[Tensor, "row 2"] | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def kind(self) -> Int[Tensor, "row"]:
        """The kind of each position, a place in `KINDS`; 0 where nothing is known."""
        return torch.zeros(len(self), dtype=torch.long) if self.at.kind is None else self.at.kind.cpu().long()


Rows = Store | Tensor | Iterable[Seen]


def seen(dictionary: Dictionary, rows: Rows, *, batch: int = 4096, steps: int = 1, **where: Any) -> Iterator[Seen]:
    """Rows for a dictionary, `batch` at a time; of a store those that `where` names (`kind="image"`, `step=3`).

    From a `Store` that holds its site, and its target where that is another; a tensor (row, d) is read as it is, and
    stands for itself; a stream of `Seen` goes through. `steps`: of how many steps a drawing was, for dictionaries that
    ask for the step. Numbers are in float32, or in float64 where the rows are. MethodError where a dictionary asks what
    is not known.
    """
    if isinstance(rows, Store):
        yield from _stored(dictionary, rows, batch, steps, where)
        return
    if where:
        raise MethodError(
            f"rows without an index cannot be chosen by {', '.join(where)}", expected="a store", do="choose them before"
        )
    if isinstance(rows, Tensor):
        _check_asked(dictionary, NOWHERE)
        yield from (Seen(part, part) for part in map(_exact, rows.flatten(1).split(batch)))
        return
    for part in rows:
        _check_asked(dictionary, part.at)
        yield part


def _stored(
    dictionary: Dictionary, store: Store, batch: int, steps: int, where: dict[str, Any]
) -> Iterator[Seen]:  # fmt: skip
    sites = list(dict.fromkeys((dictionary.site, dictionary.target)))
    missing = [site for site in sites if site not in store.sites]
    if missing:
        raise MethodError(
            f"this store holds no '{missing[0]}'", expected="the sites of the dictionary",
            exists=", ".join(store.sites[:5]), do="harvest it too",
        )  # fmt: skip
    for part in store.rows(sites if len(sites) > 1 else sites[0], batch=batch, **where):
        columns = part.index.columns
        known = {name: torch.from_numpy(np.asarray(columns[name], np.int64)) for name in ("kind", "step")
                 if name in columns and (name != "step" or (columns[name] >= 0).all())}  # fmt: skip
        if "step" in dictionary.asks and steps <= int(known.get("step", torch.zeros(1)).max()):
            raise MethodError(
                f"'{dictionary.site}' has step {int(known['step'].max())}, of a drawing of {steps} steps",
                expected="how many steps the drawings had", do="pass `steps=`",
            )  # fmt: skip
        at = At(**known, steps=steps)
        _check_asked(dictionary, at)
        x, y = (_exact(part[site].flatten(1)) for site in (dictionary.site, dictionary.target))
        yield Seen(x, y, at, part.item, _places(columns))


def _places(columns: Any) -> Int[Tensor, "row 2"] | None:
    if "row" not in columns or "col" not in columns:
        return None
    both: ndarray = np.stack([columns["row"], columns["col"]], 1).astype(np.int64)
    return torch.from_numpy(both)


def _exact(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()


def _check_asked(dictionary: Dictionary, at: At) -> None:
    lacks = [name for name in dictionary.asks if getattr(at, name) is None]
    if lacks:
        raise MethodError(
            f"nothing is known of the {lacks[0]} of these rows", expected="what the dictionary asks",
            exists=", ".join(name for name in ("kind", "step") if getattr(at, name) is not None) or "nothing",
            do="read them from a store, or give `Seen` with an `At`",
        )  # fmt: skip


@torch.no_grad()
def read(dictionary: Dictionary, part: Seen) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row d_out"]]:
    """The features of some rows, and what they decode to."""
    features = dictionary.encode(part.x, part.at)
    return features, dictionary.decode(features, part.x, part.at)


def chosen(part: Seen, rows: Tensor) -> Seen:
    """Some of the rows, by a mask or by numbers."""
    at = replace(part.at, **{name: x[rows] for name in ("kind", "step") if (x := getattr(part.at, name)) is not None})
    item, places = (None if x is None else x[rows] for x in (part.item, part.places))
    return Seen(part.x[rows], part.y[rows], at, item, places)


def kind_name(kind: int) -> str:
    """The kind of a position in words; "rows" where nothing is known."""
    return KINDS[kind] or "rows"
