"""From when and from where on an edit can matter: its time in the clean run, its first position, its first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.model.edits import Edit
from cutaway.model.inputs import Inputs
from cutaway.model.known import Known
from cutaway.model.seats import Seat
from cutaway.model.tokens import Positions, Where


def since(known: Known, seat: Seat, edit: Edit) -> int:
    """The time in the clean run before which nothing depends on the edit; -1 when its module never ran."""
    call = 0
    if seat.tower.stepped:
        call = min(steps_of(edit))
    after = seat.kind == "out" and seat.module is not seat.tower.module
    return known.ended(seat.module, call) + 1 if after else known.began(seat.module, call)


def steps_of(edit: Edit) -> Sequence[int]:
    """The denoising steps an edit names; the first when it names none."""
    if edit.step is None:
        return (0,)
    if isinstance(edit.step, int):
        return (edit.step,)
    if isinstance(edit.step, slice):
        return (edit.step.start or 0,)
    return tuple(edit.step)


def start_of(seat: Seat, edit: Edit, inputs: Inputs, length: int) -> int:
    """The first position of a causal tower that an edit changes: of its tokens, or of its queries."""
    if not length or "batch" not in seat.site.axes:
        return 0
    attention = "query" in seat.site.axes
    chosen = edit.query if attention else edit.token
    if seat.site.part.startswith("cross.") and "query" not in seat.site.axes and seat.kind in ("k", "v"):
        return 0
    if chosen is None or not {"token", "query"} & set(seat.site.axes):
        return 0
    return first_of(chosen, seat, inputs, length)


def first_of(chosen: Positions, seat: Seat, inputs: Inputs, length: int) -> int:
    """The least position of a selector on a tower of this length."""
    if isinstance(chosen, Where):
        axis = "query" if "query" in seat.site.axes else "token"
        chosen = chosen.resolve(inputs.map_for(seat.site, axis, length))
    if isinstance(chosen, Tensor) and chosen.dtype == torch.bool:
        found = chosen.reshape(-1, chosen.shape[-1]).any(0).nonzero().flatten()
        return int(found[0]) if len(found) else 0
    if isinstance(chosen, Tensor):
        chosen = chosen.flatten().tolist()
    if isinstance(chosen, slice):
        chosen = range(length)[chosen]
    listed = [chosen] if isinstance(chosen, int) else list(chosen)
    return max(0, min(length - 1, *(p + length if p < 0 else p for p in listed))) if listed else 0
