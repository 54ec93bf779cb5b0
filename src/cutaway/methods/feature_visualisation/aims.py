"""What is to become large: units of a site, heads, directions or features of a dictionary, each in a row of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.dictionary import At, Dictionary
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target
from cutaway.model.tokens import KINDS

Place = Literal["patches", "peak", "class", "last", "all"]
PLACES: tuple[Place, ...] = ("patches", "peak", "class", "last", "all")
WIDTHS = ("head", "kv_head", "d_head", "channel", "d_model", "d_mlp")  # axes that become units
FOLDED = 4  # axes of what a convolution gives


@dataclass(frozen=True, eq=False)
class activation(Target):  # noqa: N801
    """How large a unit of a site is, one unit a row: row i has unit `units[i]`.

    `at`: the mean over the patches of the picture, the largest of them ("peak"), the class token, the last position or
    the mean over all. Of a site with heads a unit is a head, and its number the mean length of what it gives. With
    `along` (row, width) it is the state along them. `through` is the dictionary whose features the units are, read
    before their activation if `sloped`: there a feature that is off has a slope too.
    """

    site: str
    units: tuple[int, ...]
    at: Place = "patches"
    along: Tensor | None = None
    through: Any = None
    sloped: bool = False

    @property
    def unit(self) -> str:
        """That of the site."""
        return "activation"

    @property
    def reads_at(self) -> str:
        """The site that a run must have recorded."""
        return str(self.through.site) if self.through is not None else self.site

    def rows(self, start: int, stop: int) -> activation:
        """The target of these rows only."""
        kept = None if self.along is None else self.along[start:stop]
        return replace(self, units=self.units[start:stop], along=kept)

    def __call__(self, run: Run) -> Float[Tensor, "row"]:
        """The number of each row."""
        return self.table(run).diagonal()

    def table(self, run: Run) -> Float[Tensor, "row unit"]:
        """The numbers of every row for every one of the units."""
        state = laid(run, self.reads_at)
        if self.through is not None:
            state = self._featured(run, state)
        elif "head" in run.sites[self.reads_at].axes:
            state = state.unflatten(-1, (-1, run[self.reads_at].shape[-1])).norm(dim=-1)
        if self.along is not None:
            return pooled(run, self.reads_at, state @ self.along.to(state).T, self.at)
        return pooled(run, self.reads_at, state[..., list(self.units)], self.at)

    def _featured(self, run: Run, state: Float[Tensor, "row place d"]) -> Float[Tensor, "row place feature"]:
        kind = None
        if "kind" in self.through.asks:
            known = run.inputs.map_for(run.sites[self.reads_at], "token", state.shape[1]).kind
            kind = torch.from_numpy(np.vectorize(KINDS.index, otypes=[np.int64])(known))
        before = getattr(self.through, "before", None)
        read = before if self.sloped and before is not None else self.through.encode
        return read(state, At(kind)).to(state)


def laid(run: Run, name: str) -> Float[Tensor, "row place unit"]:
    """What a run has at a site, as positions and units: heads and channels become units."""
    value, axes = run[name], run.sites[name].axes
    while axes[:1] and axes[0] in ("step", "guidance"):  # of one evaluation there is one of each
        value, axes = value[0], axes[1:]
    if "query" in axes:
        raise MethodError(
            f"'{name}' holds pairs of positions", expected="a site whose last axis are units", exists=", ".join(axes),
            do="take `mlp.post`, `attn.z`, `resid_post`, or features of a dictionary",
        )  # fmt: skip
    if "height" in axes or (not axes and value.dim() == FOLDED):
        return value.flatten(2).movedim(1, 2)
    if "token" in axes or (not axes and value.dim() > 2):
        return value.flatten(2)
    return value.flatten(1)[:, None]


def pooled(run: Run, name: str, value: Float[Tensor, "row place unit"], at: Place) -> Float[Tensor, "row unit"]:
    """One number a row and unit, of the places that `at` names; of a site without positions the only one."""
    site = run.sites[name]
    if value.shape[1] == 1 or "token" not in site.axes:
        return value.amax(1) if at == "peak" else value.mean(1)
    known = run.inputs.map_for(site, "token", value.shape[1])
    kinds = known.kind
    if at == "last":
        last = [int(np.flatnonzero(row != "pad")[-1]) for row in kinds]
        return value[torch.arange(len(value)), last * (len(value) // len(last))]
    chosen = kinds != "pad" if at == "all" else kinds == ("cls" if at == "class" else "image")
    if not chosen.any(1).all():
        raise MethodError(
            f"'{name}' has no position of the kind that is asked for ({at})",
            exists=", ".join(sorted({*map(str, kinds.ravel())})),
            expected=f"one of {', '.join(PLACES)}", do="name another place: `at=`",
        )  # fmt: skip
    mask = torch.from_numpy(chosen).to(value.device)[..., None]
    if at == "peak":
        return value.masked_fill(~mask, -torch.inf).amax(1)
    return (value * mask).sum(1) / mask.sum(1)


def units_of(
    model: Model, site: str, units: Sequence[int] | None, at: Place, directions: Tensor | None = None
) -> activation:  # fmt: skip
    """The target of units of a site, or of directions there; refuses what the site does not have."""
    if at not in PLACES:
        raise MethodError(f"no place '{at}'", expected="places of a picture", exists=", ".join(PLACES))
    chosen = model.sites.one(site)
    through: Dictionary | None = None
    if chosen.axes[-1:] == ("feature",):
        through = model.dictionaries.get(str(chosen))
        if through is None or "step" in through.asks:
            raise MethodError(
                f"the features at '{site}' cannot be made large here", expected="a dictionary that knows no steps",
                do="name the site of its features, or open another dictionary",
            )  # fmt: skip
    if directions is not None:
        wide = math.prod(chosen.sizes.get(name, 0) for name in chosen.axes if name in WIDTHS)
        if directions.dim() != 2 or (wide and directions.shape[1] != wide):
            raise MethodError(
                f"directions of shape {tuple(directions.shape)} at '{chosen}'", do="give a row for each picture",
                expected=f"(row, {wide or 'width'})",
            )  # fmt: skip
        return activation(str(chosen), tuple(range(len(directions))), at, directions)
    axis = "head" if "head" in chosen.axes else "channel" if "channel" in chosen.axes else (chosen.axes or ("",))[-1]
    size = chosen.sizes.get(axis)
    picked = [int(one) for one in units or ()]
    odd = [one for one in units or () if one != int(one) or one < 0 or (size is not None and one >= size)]
    if odd or not picked:
        raise MethodError(
            f"no unit {odd[0]} at '{site}'" if odd else f"no unit of '{site}' is named",
            expected="numbers from 0" + ("" if size is None else f" to {size - 1}"), do="name them: `units=`",
        )  # fmt: skip
    return activation(str(chosen), tuple(picked), at, None, through)
