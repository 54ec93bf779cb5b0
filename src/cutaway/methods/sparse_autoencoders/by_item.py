"""The features of whole items: the largest or the mean over the positions of a picture or text; pictures as grids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.seen import Rows, seen
from cutaway.model.dictionary import Dictionary

Pool = Literal["max", "mean"]


def by_item(
    dictionary: Dictionary, rows: Rows, *, pool: Pool = "max", batch: int = 4096, steps: int = 1, **where: Any
) -> Iterator[tuple[Int[Tensor, "item"], Float[Tensor, "item width"]]]:  # fmt: skip
    """Numbers of items and their features, the largest or the mean over an item's rows, some items at a time.

    Rows of an item must lie behind one another, as a store has them; rows of no item are items of their own.
    """
    held: list[tuple[Tensor, Tensor]] = []  # rows of an item that may go on in the next batch
    last, count = -1, 0
    for part in seen(dictionary, rows, batch=batch, steps=steps, **where):
        with torch.no_grad():
            features = dictionary.encode(part.x, part.at)
        item = torch.arange(count, count + len(part)) if part.item is None else part.item
        count += len(part)
        if bool((item.diff() < 0).any()) or int(item[0]) < last:
            raise MethodError("items come in no order", expected="rows as a store has them", do="sort them by item")
        last = int(item[-1])
        item, features = (torch.cat([*(one[at] for one in held), x]) for at, x in enumerate((item, features)))
        whole = item < last
        held = [(item[~whole], features[~whole])]
        if bool(whole.any()):
            yield _pooled(item[whole], features[whole], pool)
    if held:
        yield _pooled(*held[0], pool)


def _pooled(
    item: Int[Tensor, "row"], features: Float[Tensor, "row width"], pool: Pool
) -> tuple[Int[Tensor, "item"], Float[Tensor, "item width"]]:
    numbers, which = item.unique_consecutive(return_inverse=True)
    which = which.to(features.device)
    made = features.new_zeros(len(numbers), features.shape[1])
    how = "amax" if pool == "max" else "mean"
    return numbers, made.scatter_reduce(
        0, which[:, None].expand_as(features), features, how, include_self=False
    )  # fmt: skip


class Grids:
    """What lays the rows of pictures on their patch grids, picture by picture, whatever batches they come in."""

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(
        self, item: Int[Tensor, "row"], places: Int[Tensor, "row 2"], features: Float[Tensor, "row width"]
    ) -> Float[Tensor, "item high wide width"] | None:
        """Take in rows; the pictures that are whole now, if any. Rows on no grid (-1) are left out."""
        on = (places >= 0).all(1)
        self._held.append((item[on], places[on], features[on.to(features.device)]))
        item, places, features = (torch.cat(one) for one in zip(*self._held, strict=True))
        whole = item < item[-1] if len(item) else item < 0
        self._held = [(item[~whole], places[~whole], features[~whole])]
        return laid(item[whole], places[whole], features[whole]) if bool(whole.any()) else None

    def end(self) -> Float[Tensor, "item high wide width"] | None:
        """The last picture."""
        item, places, features = self._held.pop() if self._held else (torch.zeros(0),) * 3
        return laid(item, places, features) if len(item) else None


def laid(
    item: Int[Tensor, "n"], places: Int[Tensor, "n 2"], features: Float[Tensor, "n width"]
) -> Float[Tensor, "item high wide width"]:
    """Rows of whole pictures on their grids; MethodError where one has holes, or two rows at a place."""
    numbers, which = item.unique_consecutive(return_inverse=True)
    high, wide = (int(one) for one in places.max(0).values + 1)
    spot = (which * high + places[:, 0]) * wide + places[:, 1]
    if len(spot) != len(numbers) * high * wide or len(spot.unique()) != len(spot):
        raise MethodError(
            f"{len(spot)} rows of {len(numbers)} pictures do not lie on grids of {high} × {wide}",
            expected="one row at each place of each picture", do="choose one step, guidance row, image and tile",
        )  # fmt: skip
    made = features.new_zeros(len(spot), features.shape[1])
    made[spot.to(features.device)] = features
    return made.view(len(numbers), high, wide, -1)
