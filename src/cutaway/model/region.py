"""Apply one edit to one tensor: resolve its selectors on named axes, fit its value, write only the selected part.

A tensor may be a window of a longer axis (one decoding step over a key/value cache, one picture of a packed tower):
selectors are absolute positions, `Frame` says where the window lies. In a padded batch positions are those of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.edits import Edit
from cutaway.model.own import endless, numbers_in, numbers_of, of_copy, own_positions, rank_among, sliced
from cutaway.model.schedule import UNNAMED
from cutaway.model.sites import POSITIONS, Site
from cutaway.model.steps import present, steps_of
from cutaway.model.tokens import TokenMap, Where

MapOf = Callable[[Site, str, int], TokenMap]


@dataclass(frozen=True)
class Frame:
    """Where a tensor lies in the run.

    `offset`: where the window begins on each position axis; `total`: how many positions the prompt has; `own`: which of
    them are a row's own, for axes on which some are padding. `step` of `steps`, the names of the `guidance` rows in
    their order. `rows`: the row of the inputs that each row of the tower belongs to (several pictures a prompt).
    `copy`: (k, n), which of the n copies of these rows this is; a value may have an entry for each.
    """

    offset: Mapping[str, int] = field(default_factory=dict)
    total: Mapping[str, int] = field(default_factory=dict)
    own: Mapping[str, Bool[Tensor, "row position"]] = field(default_factory=dict)
    step: int = 0
    steps: int = 1
    guidance: tuple[str, ...] = ()
    rows: Sequence[int] | None = None
    tokens: MapOf | None = None
    open_ended: bool = False
    copy: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class _Axis:
    """One axis under one edit: chosen absolute positions (None: all), whether an int dropped it, its window.

    `own`: the row's own positions in a padded batch, by which a value from another run is counted; behind the prompt
    they go on at `after`. `prompt`: of a slice without an end, where the prompt ends.
    """

    name: str
    size: int
    offset: int
    chosen: Int[Tensor, "n"] | None
    dropped: bool
    open_ended: bool = False
    own: Int[Tensor, "m"] | None = None
    after: int = 0
    prompt: int | None = None

    def extent(self, whole: bool) -> int:
        """How many entries a value has here that spans the whole axis, or only the chosen positions."""
        if whole:
            return self.offset + self.size if self.own is None else len(self.own)
        return self.size if self.chosen is None else len(self.chosen)

    def window(self) -> tuple[Tensor, Tensor, Tensor]:
        """(local positions, where a whole value has them, their rank among the chosen)."""
        if self.chosen is None and self.own is None:
            local = torch.arange(self.size)
            return local, local + self.offset if self.offset else local, local
        absolute = self.chosen if self.chosen is not None else torch.arange(self.offset, self.offset + self.size)
        rank = torch.arange(len(absolute))
        inside = (absolute >= self.offset) & (absolute < self.offset + self.size)
        numbers = absolute if self.own is None else numbers_of(absolute, self.own, self.after)
        return absolute[inside] - self.offset, numbers[inside], rank[inside]


def write(seen: Float[Tensor, "..."], site: Site, edit: Edit, frame: Frame) -> bool:
    """Write one edit into the view `seen`, in place; False when the edit does not concern this window or step."""
    names = [axis for axis in site.axes if axis != "step"] or [f"dim{i}" for i in range(seen.dim())]
    if edit.step is not None and "step" not in site.axes:
        raise _no_axis(edit, site, "step")
    if edit.step is not None and frame.step not in steps_of(edit.step, frame.steps):
        return False
    sizes, full = dict(zip(names, seen.shape, strict=True)), edit.full(site)
    if full is not None and "batch" in sizes:
        full = of_copy(full, full.dim() - len(names) + names.index("batch"), sizes["batch"], frame.copy)
    rows = _rows(edit, site, frame, sizes)
    selectors = edit.selectors() | ({"batch": rows} if rows is not None else {})
    parts = _by_row(edit, site, frame, sizes, range(sizes.get("batch", 1)) if rows is None else rows, full)
    if parts is None:
        return _write(seen, site, names, edit, frame, _Part(selectors), full)
    row_axis = names.index("batch")
    selectors.pop("batch", None)
    done = False
    for part in parts:
        part = replace(part, selectors={**selectors, **part.selectors})
        done |= _write(seen.narrow(row_axis, part.row or 0, 1), site, names, edit, frame, part, full)
    return done


@dataclass(frozen=True)
class _Part:
    """What is selected of all rows, or of one `row`, the `rank`-th chosen: selectors, own positions on padded axes."""

    selectors: Mapping[str, Any]
    row: int | None = None
    rank: int = 0
    own: Mapping[str, Int[Tensor, "n"]] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)


def _write(
    seen: Tensor, site: Site, names: list[str], edit: Edit, frame: Frame, part: _Part, full: Tensor | None
) -> bool:
    axes = _axes(seen, site, names, edit, frame, part)
    value = _value(edit, site, axes) if full is None else _whole(edit, site, axes, frame, full)
    whole = full is not None
    if value is not None and not whole and "batch" in names and part.row is None:
        at = names.index("batch")
        value = of_copy(value, at, axes[at].extent(False), frame.copy)
    if value is not None and frame.open_ended:
        axes = [_within(axis, value.shape[i], whole, edit.kept(site, axis.name)) for i, axis in enumerate(axes)]
    windows = [axis.window() for axis in axes]
    if any(len(local) == 0 for local, _, _ in windows):
        return False
    exact = seen.dtype
    if value is not None:
        wanted = [number if whole else rank for _, number, rank in windows]
        exact = torch.promote_types(seen.dtype, torch.float32)  # half precision is computed in single
        value = _take(edit, site, value, axes, wanted, whole, part).to(seen.device, exact)
    sizes = [len(local) for local, _, _ in windows]
    if all(size == axis.size for size, axis in zip(sizes, axes, strict=True)) and all(
        torch.equal(local, torch.arange(len(local))) for local, _, _ in windows
    ):
        seen.copy_(edit.apply(seen.to(exact), value))
        return True
    mesh = tuple(
        local.to(seen.device).view([-1 if i == j else 1 for j in range(len(axes))])
        for i, (local, _, _) in enumerate(windows)
    )
    seen[mesh] = edit.apply(seen[mesh].to(exact), value).to(seen.dtype)
    return True


# --- selectors --------------------------------------------------------------------------------------------------------


def _rows(edit: Edit, site: Site, frame: Frame, sizes: Mapping[str, int]) -> list[int] | None:
    """The rows of the tower that `batch=` names: those of these rows of the inputs; None where it is not given."""
    if edit.batch is None:
        return None
    if "batch" not in sizes:
        raise _no_axis(edit, site, "batch")
    if frame.rows is None:
        return _listed(edit.batch, sizes["batch"], edit, "batch")[0].tolist()
    if len(frame.rows) != sizes["batch"]:
        raise EditError(
            f"{edit!r}: the rows of '{site.tower}' lie behind one another, without a batch axis",
            expected="positions", do="choose pictures by meaning: `token=Where('image', image=0)`",
        )  # fmt: skip
    chosen = set(_listed(edit.batch, max(frame.rows) + 1, edit, "batch")[0].tolist())
    return [row for row, owner in enumerate(frame.rows) if owner in chosen]


def _by_row(
    edit: Edit, site: Site, frame: Frame, sizes: Mapping[str, int], rows: Sequence[int], full: Tensor | None
) -> list[_Part] | None:
    """What is selected of each row, where rows differ; None when every row selects the same positions."""
    masks = {name: mask for name in POSITIONS if (mask := _mask(edit, site, frame, sizes, name)) is not None}
    padded = {name: mask for name, mask in frame.own.items() if name in sizes}
    there = edit.lengths.get(str(site), {}) if edit.lengths is not None else {}
    counted = edit.lengths is not None and bool(padded or there)  # a value from another run, by own positions
    numbered = [name for name in padded if name not in masks and getattr(edit, name) is not None]
    differ = any(bool((mask != mask[:1]).any()) for mask in masks.values())
    if not differ and not numbered and not counted:
        return None
    for name in there:
        length = frame.total.get(name) or sizes[name]
        padded.setdefault(name, torch.ones(1, length, dtype=torch.bool))
    parts = []
    for rank, row in enumerate(rows):
        own = {name: _of_row(mask, row, sizes, edit).nonzero().flatten() for name, mask in padded.items()}
        chosen = {name: _of_row(mask, row, sizes, edit).nonzero().flatten() for name, mask in masks.items()}
        for name in numbered:
            end = padded[name].shape[1] if frame.open_ended else None
            written = max(0, frame.offset.get(name, 0) + sizes[name] - end) if end else 0
            chosen[name] = own_positions(getattr(edit, name), own[name], edit, name, row, end, written)
        if counted:
            _check_lengths(edit, site, own, there, row, full)
            chosen = own | {name: at[torch.isin(at, own.get(name, at))] for name, at in chosen.items()}
        after = {name: mask.shape[1] for name, mask in padded.items()}
        parts.append(_Part(chosen, row, rank, own if counted else {}, after))
    return parts


def _mask(edit: Edit, site: Site, frame: Frame, sizes: Mapping[str, int], name: str) -> Tensor | None:
    """A selector by meaning or by a mask a row as such a mask; None for any other."""
    choice = getattr(edit, name) if name in POSITIONS else None
    if isinstance(choice, Where) and name in sizes:
        return choice.resolve(_map(frame, site, name, sizes[name]))
    if isinstance(choice, Tensor) and choice.dtype == torch.bool and choice.dim() == 2:
        return choice
    return None


def _of_row(mask: Bool[Tensor, "row position"], row: int, sizes: Mapping[str, int], edit: Edit) -> Tensor:
    if len(mask) not in (1, sizes.get("batch", 1)):
        raise EditError(
            f"{edit!r}: the positions have {len(mask)} rows, the activations {sizes.get('batch', 1)}",
            expected="positions of these inputs", do="resolve them on the inputs of this run",
        )  # fmt: skip
    return mask[row if len(mask) > 1 else 0]


def _check_lengths(
    edit: Edit, site: Site, own: Mapping[str, Tensor], there: Mapping[str, Tensor], row: int, full: Tensor | None
) -> None:
    """Refuse a value from a run in which this row has another number of positions."""
    axes = [axis for axis in site.axes if full is not None and (axis != "step" or full.dim() == len(site.axes))]
    for axis, places in own.items():
        size = full.shape[axes.index(axis)] if full is not None and axis in axes else 1
        given = int(there[axis][row if len(there[axis]) > 1 else 0]) if axis in there else size
        if size > 1 and given != len(places):
            raise EditError(
                f"{edit!r}: row {row} has {len(places)} positions here and {given} in the other run",
                expected="prompts of equal length, position for position",
                do="reword one of them, or choose the rows that fit with `batch=`",
            )


def _axes(seen: Tensor, site: Site, names: list[str], edit: Edit, frame: Frame, part: _Part) -> list[_Axis]:
    given = {_axis_of(name, site, names, edit): value for name, value in part.selectors.items() if name != "step"}
    axes = []
    for name, size in zip(names, seen.shape, strict=True):
        offset, own = frame.offset.get(name, 0), part.own.get(name)
        if name not in given or (name == "batch" and part.row is not None):
            axes.append(_Axis(name, size, offset, None, False, frame.open_ended, own, part.after.get(name, 0)))
            continue
        if name == "guidance":
            chosen, dropped = _guided(given[name], frame, edit), True
        else:
            total = max(frame.total.get(name, 0), offset + size if not frame.open_ended else 0)
            choice = given[name]
            if part.row is None and (mask := _mask(edit, site, frame, {name: size}, name)) is not None:
                choice = mask[0]  # every row chooses the same
            chosen, dropped = _listed(choice, total or size, edit, name, frame.open_ended, offset + size)
            dropped = dropped or (name == "batch" and isinstance(edit.batch, int) and len(chosen) == 1)
        prompt = part.after.get(name, frame.total.get(name, 0)) if endless(getattr(edit, name, None)) else None
        axes.append(_Axis(name, size, offset, chosen, dropped, frame.open_ended, own, part.after.get(name, 0), prompt))
    return axes


def _axis_of(selector: str, site: Site, names: list[str], edit: Edit) -> str:
    axis = {"head": site.head_axis, "unit": names[-1]}.get(selector, selector)
    if selector == "unit" and names[-1] in ("batch", *POSITIONS):
        axis = None
    if axis is None or axis not in names:
        raise _no_axis(edit, site, selector)
    return axis


def _no_axis(edit: Edit, site: Site, selector: str) -> EditError:
    return EditError(
        f"{edit!r}: site '{site}' has no axis for `{selector}=`",
        exists=f"the axes {site.shape}",
        do="drop the selector or choose a site that has it",
    )


def _listed(
    choice: Any, total: int, edit: Edit, name: str, open_ended: bool = False, end: int = 0
) -> tuple[Tensor, bool]:
    """A selector as absolute positions, and whether it drops its axis; a slice goes on to `end`."""
    if isinstance(choice, slice):
        return sliced(choice, total, end), False
    picked = numbers_in(choice, edit, name)
    if picked.dtype == torch.bool:
        if picked.numel() != total and not open_ended:
            raise EditError(f"{edit!r}: a mask of {picked.numel()} entries", expected=f"one for each {name}: {total}")
        return picked.flatten().nonzero().flatten(), False
    dropped, chosen = picked.dim() == 0, picked.flatten().long()
    chosen = torch.where(chosen < 0, chosen + total, chosen)
    outside = (chosen < 0) | (chosen >= total)
    if outside.any() and not (open_ended and name in POSITIONS and bool((chosen >= 0).all())):
        raise EditError(
            f"{edit!r}: {name} {int(chosen[outside][0])} is out of range", expected=f"{name} from 0 to {total - 1}",
            do="negative positions count from the end",
        )  # fmt: skip
    return chosen, dropped


def _guided(choice: str, frame: Frame, edit: Edit) -> Tensor:
    if UNNAMED in frame.guidance and choice not in frame.guidance:
        raise EditError(
            f"{edit!r}: nothing says which guidance rows this call of the denoiser holds", expected="a call with them",
            do="edit all rows, without `guidance=`",
        )  # fmt: skip
    return torch.tensor([i for i, name in enumerate(frame.guidance) if name == choice], dtype=torch.long)


def _map(frame: Frame, site: Site, axis: str, size: int) -> TokenMap:
    if frame.tokens is None:
        raise EditError(
            f"'{site}': `Where(…)` needs to know what each position is", expected="inputs",
            do="pass `inputs=` to `model.edited`, or select positions by number",
        )  # fmt: skip
    return frame.tokens(site, axis, max(size, frame.total.get(axis, 0)))


# --- values -----------------------------------------------------------------------------------------------------------


def _value(edit: Edit, site: Site, axes: list[_Axis]) -> Tensor | None:
    """The edit's value for the selected part, with one dimension an axis; None for an edit without."""
    brought = edit.value(site)
    if brought is None:
        return None
    try:
        value = torch.as_tensor(brought)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EditError(f"{edit!r}: this is no value", expected="a number or a tensor") from error
    kept = [axis for axis in axes if not axis.dropped]
    if value.dim() > len(kept):
        raise _misfit(edit, site, tuple(value.shape), kept, False)
    value = value.reshape((1,) * (len(kept) - value.dim()) + tuple(value.shape))
    for i, axis in enumerate(axes):
        value = value.unsqueeze(i) if axis.dropped else value
    return value


def _whole(edit: Edit, site: Site, axes: list[_Axis], frame: Frame, full: Tensor) -> Tensor:
    """The edit's value for the whole site at this step, with one dimension an axis."""
    if "step" in site.axes and full.dim() == len(site.axes):
        if 1 < len(full) <= frame.step:
            raise EditError(
                f"{edit!r} brings nothing for step {frame.step}", expected="a run of as many steps, or of a single one",
                exists=f"steps 0 to {len(full) - 1}", do="draw both in the same number of steps, or name some: `step=`",
            )  # fmt: skip
        full = full[frame.step if full.shape[0] > 1 else 0]
    if full.dim() != len(axes):
        raise _misfit(edit, site, tuple(full.shape), axes, True)
    return present(full, frame.guidance, edit) if "guidance" in site.axes else full


def _within(axis: _Axis, size: int, whole: bool, kept: Tensor | None) -> _Axis:
    """On an axis of which this tensor is a window, an edit reaches only the positions its value has."""
    if (size == 1 and kept is None) or axis.name not in POSITIONS:
        return axis
    if axis.prompt and axis.chosen is not None:
        axis = replace(axis, chosen=axis.chosen[axis.chosen < axis.prompt])
    reached = torch.arange(size) if kept is None else kept
    reached = reached if axis.own is None else axis.own[reached[reached < len(axis.own)]]
    if axis.chosen is None:
        return replace(axis, chosen=reached)
    return replace(axis, chosen=axis.chosen[torch.isin(axis.chosen, reached)]) if whole else axis


def _take(
    edit: Edit, site: Site, value: Tensor, axes: list[_Axis], wanted: list[Tensor], whole: bool, part: _Part
) -> Tensor:
    """The entries of the value that the window needs, on every axis on which it has more than one."""
    shape = tuple(value.shape) if whole else tuple(torch.as_tensor(edit.value(site)).shape)
    for i, (axis, index) in enumerate(zip(axes, wanted, strict=True)):
        size, kept = value.shape[i], edit.kept(site, axis.name)
        if kept is not None:
            index = rank_among(kept, index, edit, axis.name)
        elif size == 1:
            continue
        elif axis.name == "batch" and part.row is not None:
            index = torch.tensor([part.row if whole else part.rank])
        elif axis.own is None and size != axis.extent(whole) and not (axis.open_ended and axis.name in POSITIONS):
            raise _misfit(edit, site, shape, axes, whole)
        if int(index.max()) >= size:
            raise _misfit(edit, site, shape, axes, whole)
        if len(index) != size or not torch.equal(index, torch.arange(size)):
            value = value.index_select(i, index.to(value.device))
    return value


def _misfit(edit: Edit, site: Site, got: tuple[int, ...], axes: list[_Axis], whole: bool) -> EditError:
    expected = ", ".join(f"{axis.name}={axis.extent(whole)}" for axis in axes if whole or not axis.dropped)
    return EditError(
        f"{edit!r} does not fit '{site}': its value has shape {got}",
        expected=f"something that broadcasts to ({expected})",
        exists=f"the site {site.shape}",
        do="an int selector drops its axis, a list or slice keeps it",
    )
