"""Features of dictionaries as sites: `text.3.resid_post.features`, and what they leave over, `text.3.resid_post.error`.

y = decode(f) + e. An edit of f or e moves y by what it moves on the right, so that an edit that changes nothing leaves
y as it is to the last bit, and e stays when f is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import EditError, SiteError, near
from cutaway.model.dictionary import At, Dictionary
from cutaway.model.seats import ATTENTION_KINDS, Seat, Through
from cutaway.model.sites import HEAD_AXES, POSITIONS, Site
from cutaway.model.tokens import KINDS

if TYPE_CHECKING:
    from cutaway.model.engine import Engine
    from cutaway.model.windows import Windows

Side = Literal["features", "error"]


class Opened:
    """A tensor y seen through a dictionary in one call: f, e and how y follows them. `y` is written in place."""

    def __init__(
        self, dictionary: Dictionary, y: Float[Tensor, "*rows d_out"], x: Float[Tensor, "*rows d_in"], at: At
    ) -> None:
        self.dictionary, self.y, self.at = dictionary, y, at
        self.x = x.clone() if y.data_ptr() == x.data_ptr() else x  # y is written while x is still asked for
        self.features = dictionary.encode(self.x, at)
        self._left: Tensor | None = None

    def side(self, side: Side) -> Float[Tensor, "*rows n"]:
        """The features, or what they leave over."""
        if side == "features":
            return self.features
        if self._left is None:
            made = self.dictionary.decode(self.features, self.x, self.at)
            self._left = self.y.to(torch.promote_types(made.dtype, self.y.dtype)) - made.to(self.y.device)
        return self._left

    def close(self, side: Side, new: Float[Tensor, "*rows n"], held: bool = False) -> None:
        """Let the features, or what they leave over, be others, and y what follows from that.

        `held`: nothing is moved but put into the graph, and what led to y stays in it as it is.
        """
        old = (self.features if side == "features" else self.side("error")).to(new)
        before, after = (old.detach() if held else old), new
        if side == "features":
            self._left = self.side("error")
            before, after = (self.dictionary.decode(f, self.x, self.at) for f in (before, after))
            self.features = new
        else:
            self._left = new
        moved = (after - before).to(self.y.device)
        self.y.copy_(self.y.to(torch.promote_types(moved.dtype, self.y.dtype)) + moved)


def places(windows: Windows, seat: Seat, view: Float[Tensor, "*rows d"], shares: int) -> At:
    """What each row of a view is, as far as the dictionary of the seat asks for it."""
    assert seat.through is not None
    asks, rows = seat.through.dictionary.asks, tuple(view.shape[:-1])
    step = torch.full(rows, windows.step) if "step" in asks else None
    steps = windows.schedule.steps if windows.schedule else 1
    return At(_kinds(windows, seat, view, shares).expand(rows) if "kind" in asks else None, step, steps)


def _kinds(windows: Windows, seat: Seat, view: Float[Tensor, "*rows d"], shares: int) -> Int[Tensor, "row position"]:
    """The kind of each position of the rows of a view; what is written behind the prompt is text."""
    site = seat.site
    axes = tuple(axis for axis in site.axes if axis != "step")
    axis = next((axis for axis in axes if axis in POSITIONS), None)
    if windows.inputs is None or axis is None:
        raise EditError(
            f"the dictionary of '{site}' tells kinds of positions apart, and they are not known here",
            expected="a site with positions, and inputs", do="pass `inputs=` to `model.edited`",
        )  # fmt: skip
    size, batch = view.shape[axes.index(axis)], view.shape[axes.index("batch")]
    frame = windows.frame(seat, dict(zip(axes, view.shape, strict=True)))
    first = frame.offset.get(axis, 0)
    known = windows.inputs.map_for(site, axis, max(size, frame.total.get(axis, 0))).kind
    written = max(0, first + size - known.shape[1])
    words = np.concatenate([known, np.full((len(known), written), "text", object)], 1)[:, first : first + size]
    kinds = torch.from_numpy(np.vectorize(KINDS.index, otypes=[np.int64])(words))
    copies = windows.copies(seat, batch // shares) or 1
    kinds = kinds.repeat_interleave(copies, 0).repeat(shares, 1) if len(kinds) > 1 else kinds
    if len(kinds) not in (1, batch):
        raise SiteError(
            f"which of the inputs the {batch} rows of '{site}' belong to is not known",
            expected=f"rows of {len(known)} inputs", do="run the inputs one by one",
        )  # fmt: skip
    return kinds


def with_features(engine: Engine, dictionaries: Mapping[str, Dictionary]) -> dict[str, Seat]:
    """The seats of a model with those of the features of dictionaries, each behind the site it stands for.

    A name other than "" stands between: `text.3.resid_post.wide.features`.
    """
    made: dict[str, dict[str, Seat]] = {}
    for name, dictionary in dictionaries.items():
        label = "" if name.isdecimal() else name
        target, source = (_fitting(engine, site, size, dictionary) for site, size in _ends(dictionary))
        elsewhere = None if source.site == target.site else source
        if source.tower != target.tower:
            raise SiteError(
                f"a dictionary that reads '{source.site}' cannot stand for '{target.site}'",
                expected="two sites of one tower, position for position", do="train one within a tower",
            )  # fmt: skip
        for side, axis in (("features", "feature"), ("error", target.site.axes[-1])):
            site = target.site
            part = ".".join(word for word in (site.part, label, side) if word)
            sizes = {**site.sizes, axis: dictionary.width if side == "features" else dictionary.d_out}
            here = replace(site, part=part, axes=(*site.axes[:-1], axis), sizes=sizes)
            if str(here) in engine.seats or str(here) in made.get(str(site), {}):
                raise SiteError(
                    f"'{here}' is there already", expected="a name of its own for each dictionary of a site",
                    do="name it: `model.with_dictionaries(wide=…)`",
                )  # fmt: skip
            seat = replace(target, site=here, through=Through(dictionary, side, elsewhere))  # type: ignore[arg-type]
            made.setdefault(str(site), {})[str(here)] = seat
    seats: dict[str, Seat] = {}
    for name, seat in engine.seats.items():
        seats |= {name: seat, **made.get(name, {})}
    return seats


def _side_by_side(seat: Seat) -> Seat:
    """The heads of a site behind one another in one row, as the output projection takes them."""
    sizes = {name: size for name, size in seat.site.sizes.items() if name not in ("head", "d_head")}
    whole = {**sizes, "d_heads": seat.site.sizes["head"] * seat.site.sizes["d_head"]}
    site = replace(seat.site, axes=(*seat.site.axes[:-2], "d_heads"), sizes=whole)
    return replace(seat, site=site, view=replace(seat.view, heads=0))


def _ends(dictionary: Dictionary) -> tuple[tuple[str, int], tuple[str, int]]:
    return (dictionary.target, dictionary.d_out), (dictionary.site, dictionary.d_in)


def _fitting(engine: Engine, name: str, size: int, dictionary: Dictionary) -> Seat:
    """The seat of a site whose last axis is that of a dictionary."""
    seat = engine.seat(name)
    seat = _side_by_side(seat) if seat.site.part == "attn.z" and "d_head" in seat.site.sizes else seat
    site: Site = seat.site
    shaped = site.axes and site.axes[-1] in site.sizes and not set(site.axes) & {*HEAD_AXES, "height", "width"}
    if seat.kind in (*ATTENTION_KINDS, "scale") or not shaped or seat.through:
        raise SiteError(
            f"'{site}' cannot be seen through a dictionary", expected="a site whose last axis holds one vector a row",
            exists=near(str(site), [str(one) for one in engine.sites if one.axes[-1:] in (("d_model",), ("d_mlp",))]),
            do="take one of the residual stream, of what a sublayer adds, of an MLP's neurons, or `attn.z`",
        )  # fmt: skip
    if site.sizes[site.axes[-1]] != size:
        raise SiteError(
            f"this dictionary does not fit '{site}'", expected=f"rows of {site.sizes[site.axes[-1]]} numbers",
            exists=f"{type(dictionary).__name__} for rows of {size}", do="open the model that it was trained on",
        )  # fmt: skip
    return seat
