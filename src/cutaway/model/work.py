"""What the units of a clean run compute, as counts of FLOPs; nothing here is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from cutaway.model.known import Known, tensors
from cutaway.model.seats import Tower


@dataclass
class Work:
    """The work of towers and blocks (`units`, by id; `homes` says of which tower) in a run that is known."""

    known: Known
    units: Mapping[int, nn.Module]
    homes: Mapping[int, Tower]

    @cached_property
    def weights(self) -> dict[int, int]:
        """How many weights of each unit are those of a matrix."""
        return {at: sum(one.numel() for one in unit.parameters() if one.dim() > 1) for at, unit in self.units.items()}

    def outer(self, until: int) -> list[nn.Module]:
        """The blocks that run at or after a time, and towers without blocks."""
        units = [u for u in self.units.values() if self.homes[id(u)].module is not u or not self.homes[id(u)].blocks]
        return [u for u in units if any(call.ended >= until for call in self.known.calls.get(id(u), []))]

    def flops(self, unit: nn.Module, until: int = -1, share: float = 1.0) -> float:
        """Twice the weights for each position it gives, and attention over all positions; for calls from a time on."""
        calls = self.known.calls[id(unit)]
        times = sum(call.ended >= until for call in calls) * share
        shapes = [t.shape for t in tensors(next((c.output for c in calls if c.output is not None), None))]
        weights = self.weights[id(unit)]
        if not shapes:
            return 2.0 * weights * times
        width = shapes[0][1] if len(shapes[0]) == 4 else shapes[0][-1]
        positions = shapes[0].numel() / width
        row = positions / shapes[0][0] if len(shapes[0]) > 2 else 1
        return (2 * weights * positions + 4 * positions * row * width) * times

    def row_bytes(self, start: int = 0) -> int:
        """Rough memory of the rows of a run: activations of the widest block from a position on, and its scores."""
        most = 0
        for unit in self.outer(-1):
            given = tensors(self.known.calls[id(unit)][0].output)
            if given and given[0].dim() == 3:
                (batch, length, width), element = given[0].shape, given[0].element_size()
                positions, heads = length - start if length > start else length, max(1, width // 64)
                most = max(most, batch * positions * (16 * width + 3 * heads * length) * element)
            elif given and given[0].dim() == 4:
                most = max(most, 16 * given[0].numel() * given[0].element_size())
        return most
