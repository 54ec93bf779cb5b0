"""Padded batches: positions as numbers of a row's own, activations brought into their order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import EditError, SiteError
from cutaway.model.sites import POSITIONS, Site

if TYPE_CHECKING:
    from cutaway.model.edits import Edit
    from cutaway.model.inputs import Inputs


def sliced(choice: slice, total: int, end: int) -> Int[Tensor, "n"]:
    """The positions of a slice: negative ones count from the end of the prompt, others go on behind it, up to `end`."""
    if (choice.step or 1) < 0:
        return torch.tensor(list(range(total)[choice]), dtype=torch.long)
    first, stop = (max(0, n + total) if n is not None and n < 0 else n for n in (choice.start, choice.stop))
    return torch.arange(max(total, end))[slice(first, stop, choice.step)]


def endless(choice: Any) -> bool:
    """Whether a selector is a slice that goes on behind the prompt, with what is written."""
    return isinstance(choice, slice) and choice.stop is None and (choice.step or 1) > 0


def own_positions(
    choice: Any, own: Int[Tensor, "n"], said: Edit | str, axis: str, row: int, after: int | None = None,
    written: int = 0,
) -> Int[Tensor, "m"] | Int[Tensor, ""]:  # fmt: skip
    """The places in a padded row of positions that are counted along the row's own; an int stays a single number.

    `after`: the place at which the row goes on while text is written, so far by `written`; None: it ends.
    """
    if isinstance(choice, slice):
        choice = sliced(choice, len(own), len(own) + written)
    listed = list(choice) if isinstance(choice, Iterable) and not isinstance(choice, Tensor) else choice
    picked = torch.as_tensor(listed)
    if picked.dtype == torch.bool:  # a mask lies over the padded row itself
        return picked.flatten().nonzero().flatten()
    count = len(own)
    number = torch.where(picked < 0, picked + count, picked)
    outside = (number < 0) | ((number >= count) & (after is None))
    if outside.any():
        raise EditError(
            f"{said!r}: {axis} {int(picked.flatten()[outside.flatten()][0])} is out of range in row {row}",
            expected=f"{axis} from 0 to {count - 1}: padding does not count",
            do="negative positions count from the end of each row; `batch=` chooses rows",
        )
    if after is None:
        return own[number]
    return torch.where(number < count, own[number.clamp(max=count - 1)], after + number - count)


def numbers_of(places: Int[Tensor, "m"], own: Int[Tensor, "n"], after: int) -> Int[Tensor, "m"]:
    """The inverse: which of the row's own positions lie at these places."""
    return torch.where(places < after, torch.searchsorted(own, places), len(own) + places - after)


def padded(site: Site, inputs: Inputs) -> dict[str, Bool[Tensor, "row position"]]:
    """The position axes of a site on which some row is filled up, with what is each row's own."""
    found = {axis: inputs.own(site, axis) for axis in POSITIONS if axis in site.axes}
    return {axis: own for axis, own in found.items() if own is not None}


def in_order(
    tensor: Float[Tensor, "..."], site: Site, inputs: Inputs, part: Collection[str] = ()
) -> tuple[Float[Tensor, "..."], dict[str, Int[Tensor, "row"]]]:
    """An activation with each row's own positions in front, and how many they are on axes with padding."""
    lengths = {}
    for axis, own in padded(site, inputs).items():
        at, rows = site.axes.index(axis), site.axes.index("batch")
        if (
            axis in part
            or tensor.dim() != len(site.axes)
            or tensor.shape[at] != own.shape[1]
            or tensor.shape[rows] != len(own)
        ):
            raise EditError(
                f"'{site}' was recorded in part from a padded batch", expected="all of its positions and rows",
                do="record it without `tokens=`, or prompts of one length",
            )  # fmt: skip
        lengths[axis] = own.sum(1)
        order = (~own).int().argsort(dim=1, stable=True)
        if not torch.equal(order, torch.arange(own.shape[1]).expand_as(order)):
            shape = [1] * tensor.dim()
            shape[rows], shape[at] = order.shape
            tensor = torch.take_along_dim(tensor, order.view(shape).to(tensor.device), at)
    return tensor, lengths


def averaged(
    tensor: Float[Tensor, "..."], axes: Sequence[str], over: Sequence[str], lengths: dict[str, Int[Tensor, "row"]]
) -> Float[Tensor, "..."]:
    """The mean over some axes of an activation in own order; what fills up a row does not count (none: NaN)."""
    dims = [axes.index(axis) for axis in over]
    weights = torch.ones((1,) * tensor.dim(), dtype=tensor.dtype, device=tensor.device)
    for axis, count in lengths.items():
        at, rows = axes.index(axis), axes.index("batch")
        shape = [1] * tensor.dim()
        shape[rows], shape[at] = len(count), tensor.shape[at]
        inside = torch.arange(tensor.shape[at])[None] < count[:, None]
        weights = weights * inside.view(shape).to(weights)
    if not lengths:
        return tensor.mean(dims, keepdim=True)
    whole = weights.expand(tensor.shape)
    return (tensor * whole).sum(dims, keepdim=True) / whole.sum(dims, keepdim=True)


class Kept(NamedTuple):
    """What a recording holds of an axis: the places of it (each row's own in a padded batch), of so many."""

    places: Int[Tensor, "*row n"]
    of: int


def part_of(
    seen: Tensor, axes: Sequence[str], chosen: dict[str, Any], own: dict[str, Tensor], name: str
) -> tuple[Tensor, dict[str, Kept]]:
    """What to keep of an activation, and what that is on each axis of which not all is kept as it lies."""
    part = {}
    for i, axis in enumerate(axes):
        if (choice := chosen.get(axis)) is None:
            continue
        size = seen.shape[i]
        if axis in own:
            seen, places = own_part(seen, axes.index("batch"), i, choice, own[axis], name)
        else:
            places = positions(choice, size, name, axis)
            seen = seen.index_select(i, places.to(seen.device))
        if not torch.equal(places, torch.arange(size)):
            part[axis] = Kept(places, size)
    return seen, part


def rank_among(numbers: Int[Tensor, "n"], wanted: Int[Tensor, "m"], said: Edit | str, axis: str) -> Int[Tensor, "m"]:
    """Where a recording of these numbers of an axis has others; an error where it has not."""
    same = numbers[None] == wanted[:, None]
    lost = ~same.any(1)
    if lost.any():
        raise EditError(
            f"{said!r}: {axis} {int(wanted[lost][0])} was not recorded in the other run",
            exists=", ".join(map(str, numbers.tolist())),
            do="record it without `tokens=` and `heads=`, or write its tensor with `Set`",
        )
    return same.int().argmax(1)


def own_part(
    seen: Tensor, rows: int, at: int, choice: Sequence[int] | slice, own: Bool[Tensor, "row position"], name: str
) -> tuple[Tensor, Int[Tensor, "row n"]]:
    """What to keep of the positions of a padded batch, and where it lay: of each row its own, in order."""
    asked = choice if isinstance(choice, slice) else list(choice)
    places = [own_positions(asked, mask.nonzero().flatten(), name, "token", row) for row, mask in enumerate(own)]
    if len({len(of) for of in places}) > 1:
        raise SiteError(
            f"the rows of '{name}' have different numbers of positions in tokens={choice}",
            expected="as many of each row",
            do="name positions that every row has, or record all",
        )  # fmt: skip
    shape = [1] * seen.dim()
    shape[rows], shape[at] = len(places), len(places[0])
    return torch.take_along_dim(seen, torch.stack(places).view(shape).to(seen.device), at), torch.stack(places)


def positions(choice: Sequence[int] | slice, size: int, name: str, axis: str) -> Int[Tensor, "n"]:
    """What to keep of an axis, in the order it was asked for."""
    try:
        return torch.arange(size)[choice if isinstance(choice, slice) else list(choice)]
    except IndexError as error:
        word = "tokens" if axis == "token" else "heads"
        raise SiteError(
            f"cannot keep {word} {choice} of '{name}'", expected=f"numbers from 0 to {size - 1}",
            do=f"record it in a run of its own with other `{word}=`",
        ) from error  # fmt: skip


def numbers_in(choice: Any, edit: Edit, name: str) -> Tensor:
    """A selector as a tensor of positions or a mask; anything else is an error."""
    try:
        picked = torch.as_tensor(list(choice) if isinstance(choice, range) else choice)
    except (TypeError, ValueError, RuntimeError):
        picked = None
    if picked is None or (picked.is_floating_point() and picked.numel()):
        raise EditError(
            f"{edit!r}: `{name}=` cannot be {choice!r}", expected="a number, a list, a slice, a mask or Where(…)",
            do="words are found by meaning: Where(text='dog')",
        )  # fmt: skip
    return picked


def of_copy(value: Tensor, axis: int, rows: int, copy: tuple[int, int]) -> Tensor:
    """Of a value with an entry for each row and each copy of these, those of one copy: the k-th of n."""
    which, of = copy
    mine = of > 1 and 0 <= axis < value.dim() and value.shape[axis] == rows * of
    return value.unflatten(axis, (rows, of)).select(axis + 1, which) if mine else value
