"""Apply one edit to one tensor: resolve its selectors on named axes, fit its value, write only the selected part.

A tensor may be a window of a longer axis (one decoding step over a key/value cache, one picture of a packed tower):
selectors are absolute positions, `Frame` says where the window lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.edits import Edit
from cutaway.model.sites import Site
from cutaway.model.tokens import TokenMap, Where

POSITIONS = ("token", "query", "key")
MapOf = Callable[[Site, str, int], TokenMap]


@dataclass(frozen=True)
class Frame:
    """Where a tensor lies in the run: offset and total of each position axis, denoising step, guidance rows."""

    offset: Mapping[str, int] = field(default_factory=dict)
    total: Mapping[str, int] = field(default_factory=dict)
    step: int = 0
    guidance: tuple[str, ...] = ()
    optional_guidance: bool = False
    tokens: MapOf | None = None
    open_ended: bool = False


@dataclass(frozen=True)
class _Axis:
    """One axis under one edit: chosen absolute positions (None: all), whether an int dropped it, its window."""

    name: str
    size: int
    offset: int
    chosen: Int[Tensor, "n"] | None
    dropped: bool
    open_ended: bool = False

    def extent(self, whole: bool) -> int:
        """How many entries a value has here that spans the whole axis, or only the chosen positions."""
        if whole:
            return self.offset + self.size
        return self.size if self.chosen is None else len(self.chosen)

    def window(self) -> tuple[Tensor, Tensor, Tensor]:
        """(local positions, their absolute positions, their rank among the chosen)."""
        absolute = self.chosen if self.chosen is not None else torch.arange(self.offset, self.offset + self.size)
        rank = torch.arange(len(absolute))
        inside = (absolute >= self.offset) & (absolute < self.offset + self.size)
        return absolute[inside] - self.offset, absolute[inside], rank[inside]


def write(seen: Float[Tensor, "..."], site: Site, edit: Edit, frame: Frame) -> bool:
    """Write one edit into the view `seen`, in place; False when the edit does not concern this window or step."""
    names = [axis for axis in site.axes if axis != "step"] or [f"dim{i}" for i in range(seen.dim())]
    if edit.step is not None and "step" not in site.axes:
        raise _no_axis(edit, site, "step")
    if edit.step is not None and frame.step not in _steps(edit.step):
        return False
    rows = _row_masks(edit, site, frame, dict(zip(names, seen.shape, strict=True)))
    if rows is None:
        return _write(seen, site, names, edit, frame, edit.selectors(), None)
    row_axis = names.index("batch")
    selectors = edit.selectors()
    wanted = _listed(selectors.pop("batch"), seen.shape[row_axis], edit, "batch")[0] if edit.batch is not None else None
    done = False
    for row in range(seen.shape[row_axis]):
        if wanted is None or row in wanted:
            chosen = {name: mask[row if len(mask) > 1 else 0].nonzero().flatten() for name, mask in rows.items()}
            part = seen.narrow(row_axis, row, 1)
            done |= _write(part, site, names, edit, frame, {**selectors, **chosen}, row)
    return done


def _write(
    seen: Tensor, site: Site, names: list[str], edit: Edit, frame: Frame, selectors: dict[str, Any], row: int | None
) -> bool:
    axes = _axes(seen, site, names, edit, frame, selectors)
    value, whole = _value(edit, site, axes, frame)
    if value is not None and frame.open_ended:
        axes = [_within(axis, value.shape[i], whole) for i, axis in enumerate(axes)]
    windows = [axis.window() for axis in axes]
    if any(len(local) == 0 for local, _, _ in windows):
        return False
    if value is not None:
        wanted = [absolute if whole else rank for _, absolute, rank in windows]
        value = _take(edit, site, value, axes, wanted, whole, row).to(seen.device, seen.dtype)
    sizes = [len(local) for local, _, _ in windows]
    if all(size == axis.size for size, axis in zip(sizes, axes, strict=True)) and _in_order(windows):
        seen.copy_(edit.apply(seen, value))
        return True
    mesh = tuple(
        local.to(seen.device).view([-1 if i == j else 1 for j in range(len(axes))])
        for i, (local, _, _) in enumerate(windows)
    )
    seen[mesh] = edit.apply(seen[mesh], value)
    return True


def _in_order(windows: list[tuple[Tensor, Tensor, Tensor]]) -> bool:
    return all(torch.equal(local, torch.arange(len(local))) for local, _, _ in windows)


def _axes(
    seen: Tensor, site: Site, names: list[str], edit: Edit, frame: Frame, selectors: dict[str, Any]
) -> list[_Axis]:
    given = {_axis_of(name, site, names, edit): value for name, value in selectors.items() if name != "step"}
    axes = []
    for name, size in zip(names, seen.shape, strict=True):
        offset = frame.offset.get(name, 0)
        if name not in given:
            axes.append(_Axis(name, size, offset, None, False, frame.open_ended))
            continue
        if name == "guidance":
            chosen, dropped = _guided(given[name], frame, edit), True
        else:
            total = max(frame.total.get(name, 0), offset + size if not frame.open_ended else 0)
            choice = (
                given[name].resolve(_map(frame, site, name, size))[0] if isinstance(given[name], Where) else given[name]
            )
            chosen, dropped = _listed(choice, total or size, edit, name, frame.open_ended)
        axes.append(_Axis(name, size, offset, chosen, dropped, frame.open_ended))
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


def _listed(choice: Any, total: int, edit: Edit, name: str, open_ended: bool = False) -> tuple[Tensor, bool]:
    """A selector as absolute positions, and whether it drops its axis."""
    if isinstance(choice, slice):
        return torch.arange(total)[choice], False
    picked = _numbers(choice, edit, name)
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


def _numbers(choice: Any, edit: Edit, name: str) -> Tensor:
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


def _guided(choice: str, frame: Frame, edit: Edit) -> Tensor:
    if choice in frame.guidance or frame.optional_guidance:
        return torch.tensor([i for i, name in enumerate(frame.guidance) if name == choice], dtype=torch.long)
    known = ", ".join(frame.guidance)
    raise EditError(f"{edit!r}: no guidance row '{choice}'", exists=known, do="run with guidance above 1")


def _steps(choice: Any) -> Any:
    return [choice] if isinstance(choice, int) else range(10_000)[choice] if isinstance(choice, slice) else choice


def _map(frame: Frame, site: Site, axis: str, size: int) -> TokenMap:
    if frame.tokens is None:
        raise EditError(
            f"'{site}': `Where(…)` needs to know what each position is", expected="inputs",
            do="pass `inputs=` to `model.edited`, or select positions by number",
        )  # fmt: skip
    return frame.tokens(site, axis, max(size, frame.total.get(axis, 0)))


def _row_masks(edit: Edit, site: Site, frame: Frame, sizes: dict[str, int]) -> dict[str, Tensor] | None:
    """Position masks that differ between rows, by axis; None when every row selects the same positions."""
    masks: dict[str, Tensor] = {}
    for name in POSITIONS:
        choice = getattr(edit, name)
        if isinstance(choice, Where) and name in sizes:
            choice = choice.resolve(_map(frame, site, name, sizes[name]))
        if isinstance(choice, Tensor) and choice.dtype == torch.bool and choice.dim() == 2:
            masks[name] = choice
    if not masks or all(bool((mask == mask[:1]).all()) for mask in masks.values()):
        return None if not masks or all(isinstance(getattr(edit, n), Where) for n in masks) else _single(masks)
    rows = sizes.get("batch", 1)
    return {name: mask if len(mask) in (1, rows) else _spread(mask, rows, edit) for name, mask in masks.items()}


def _single(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask[:1] for name, mask in masks.items()}


def _spread(mask: Tensor, rows: int, edit: Edit) -> Tensor:
    """Repeat a mask for beams or samples, which lie next to one another."""
    if rows % len(mask):
        raise EditError(
            f"{edit!r}: the positions have {len(mask)} rows, the activations {rows}",
            do="use one input, or equal batches",
        )
    return mask.repeat_interleave(rows // len(mask), 0)


# --- values -----------------------------------------------------------------------------------------------------------


def _value(edit: Edit, site: Site, axes: list[_Axis], frame: Frame) -> tuple[Tensor | None, bool]:
    """The edit's value with one dimension an axis, and whether it spans the whole site or only the selected part."""
    full = edit.full(site)
    if full is not None:
        if "step" in site.axes and full.dim() == len(site.axes):
            full = full[frame.step if full.shape[0] > 1 else 0]
        if frame.optional_guidance and full.dim() == len(axes) and full.shape[0] == 2:
            full = full[("uncond", "cond").index(frame.guidance[0])][None]
        if full.dim() != len(axes):
            raise _misfit(edit, site, tuple(full.shape), axes, True)
        return full, True
    brought = edit.value(site)
    if brought is None:
        return None, False
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
    return value, False


def _within(axis: _Axis, size: int, whole: bool) -> _Axis:
    """On an axis of which this tensor is a window, an edit reaches only the positions its value has."""
    if size == 1 or axis.name not in POSITIONS:
        return axis
    if axis.chosen is None:
        return replace(axis, chosen=torch.arange(size))
    return replace(axis, chosen=axis.chosen[axis.chosen < size]) if whole else axis


def _take(
    edit: Edit, site: Site, value: Tensor, axes: list[_Axis], wanted: list[Tensor], whole: bool, row: int | None
) -> Tensor:
    """The entries of the value that the window needs, on every axis on which it has more than one."""
    shape = tuple(value.shape) if whole else tuple(torch.as_tensor(edit.value(site)).shape)
    for i, (axis, index) in enumerate(zip(axes, wanted, strict=True)):
        size = value.shape[i]
        if size == 1:
            continue
        if axis.name == "batch" and row is not None:
            index = torch.tensor([row])
        elif size != axis.extent(whole) and not (axis.open_ended and axis.name in POSITIONS):
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
