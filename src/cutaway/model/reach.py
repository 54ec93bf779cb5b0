"""From when and from where on an edit can matter: its time in the clean run, its first position, its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.edits import Edit
from cutaway.model.inputs import Inputs
from cutaway.model.known import Known
from cutaway.model.own import own_positions
from cutaway.model.seats import Seat
from cutaway.model.steps import steps_of as named_steps
from cutaway.model.tokens import Positions, Where


def since(known: Known, seat: Seat, edit: Edit, *, whole: bool = False) -> int:
    """The time in the clean run before which nothing depends on the edit; -1 when its module never ran.

    With `whole` the time at which the step begins, so that cells at other places of the same step begin with it. An
    edit of features depends on where their dictionary reads.
    """
    if seat.through and seat.through.source:
        here = since(known, replace(seat, through=None), edit, whole=whole)
        return min(here, since(known, seat.through.source, edit, whole=whole))
    call = 0
    if seat.tower.stepped:
        steps = len(known.calls.get(id(seat.tower.module), ())) or 1
        call = min(steps_of(edit, steps), default=0) if steps > 1 else 0
    if whole and (seat.tower.stepped or seat.tower.prompted) and known.began(seat.module, call) >= 0:
        return known.began(seat.tower.module, call)
    after = seat.kind == "out" and seat.module is not seat.tower.module
    return known.ended(seat.module, call) + 1 if after else known.began(seat.module, call)


def steps_of(edit: Edit, steps: int) -> Sequence[int]:
    """The denoising steps an edit names, of so many; the first when it names none."""
    return named_steps(edit.step, steps) if edit.step is not None else (0,)


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
    return first_of(chosen, seat, edit, inputs, length)


def first_of(chosen: Positions, seat: Seat, edit: Edit, inputs: Inputs, length: int) -> int:
    """The least place that a selector of positions names in any row of a tower of this length."""
    axis = "query" if "query" in seat.site.axes else "token"
    if isinstance(chosen, Where):
        chosen = chosen.resolve(inputs.map_for(seat.site, axis, length))
    if isinstance(chosen, Tensor) and chosen.dtype == torch.bool:
        found = chosen.reshape(-1, chosen.shape[-1]).any(0).nonzero().flatten()
        return int(found[0]) if len(found) else 0
    own = inputs.own(seat.site, axis)
    rows = own if own is not None else torch.ones(1, length, dtype=torch.bool)
    try:
        places = [own_positions(chosen, row.nonzero().flatten(), edit, axis, i) for i, row in enumerate(rows)]
    except EditError:  # said by the run itself, with the rows that are meant
        return 0
    return min((int(of.min()) for of in places if of.numel()), default=0)
