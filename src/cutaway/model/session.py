"""One session of watching and changing: hooks go on, the model runs, hooks come off, whatever happens.

Writers are registered in front of everything else, so that captures the library makes with its own hooks see the edit;
readers behind everything else. Only what was registered here is removed, by handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import EditError, SiteError
from cutaway.model.attention import AttentionTap, tapped
from cutaway.model.edits import Edit
from cutaway.model.features import Opened, places
from cutaway.model.inputs import Inputs
from cutaway.model.linear import norm_weights
from cutaway.model.own import Kept, part_of
from cutaway.model.region import write
from cutaway.model.seats import ATTENTION_KINDS, Seat, first, is_rms, norm_scale, replaced
from cutaway.model.sites import POSITIONS, Site
from cutaway.model.tokens import Where
from cutaway.model.windows import Root, Windows, axes_of


class Stop(Exception):  # noqa: N818, control flow and not an error
    """Raised by the last needed reader to end a forward early; never leaves a session."""


@dataclass(frozen=True)
class Reading:
    """What one call gave at a site: its denoising step, the guidance rows in order (none: no such axis), the values.

    The axes of `value` are those of the site without `step`. It may be overwritten once the call goes on.
    """

    site: Site
    step: int
    guidance: tuple[str, ...]
    value: Float[Tensor, "..."]


@dataclass(frozen=True)
class Recording:
    """How to keep what is read: where (`device`: as it comes), in which dtype, which tokens and heads, copied.

    With `into` nothing is kept: each reading is handed on the moment it is there. `guidance` names the one guidance row
    that is read where there are several; "" for all.
    """

    keep: Literal["device", "cpu"] = "device"
    dtype: torch.dtype | None = None
    tokens: Sequence[int] | slice | None = None
    heads: Sequence[int] | slice | None = None
    copy: bool = False
    grad: bool = False
    stop: bool = False
    into: Callable[[Reading], None] | None = None
    guidance: str = ""


@dataclass
class Session:
    """The hooks of one run: `edits` by seat, `record` the seats to read. Use as a context manager.

    `shares`: for each edit the share of the batch it acts on, (i, n) for the i-th of n equal parts; none: all of it.
    `open_ended`: calls may go on behind the prompt. A session inside another, `outer`, takes over its edits, before its
    own, and what it knows of the inputs; the outer one steps aside meanwhile.
    """

    root: Root
    edits: Sequence[tuple[Seat, Edit]] = ()
    record: Sequence[Seat] = ()
    recording: Recording = field(default_factory=Recording)
    inputs: Inputs | None = None
    open_ended: bool = False
    outer: Session | None = None
    shares: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        self._borrowed = len(self.outer.edits) if self.outer else 0
        self.edits = [*(self.outer.edits if self.outer else ()), *self.edits]
        self.inputs = self.inputs or (self.outer.inputs if self.outer else None)
        self.read: dict[str, list[tuple[int, Tensor]]] = {}
        self.part: dict[str, dict[str, Kept]] = {}
        self.guided: dict[str, list[tuple[str, ...]]] = {}
        self._versions: list[tuple[str, Tensor, int]] = []
        self._entered: dict[Site, Tensor] = {}  # what dictionaries read in this call, by their sources
        self._opened: dict[int, Opened] = {}  # what edits made of features in this call, by their dictionaries
        self._fired: set[int] = set()
        self._lacking: dict[int, str] = {}
        self._missed: dict[str, str] = {}
        self.windows = Windows(self.root, self.inputs, self.open_ended)
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        seats = {seat.site: seat for seat in (*(seat for seat, _ in self.edits), *self.record)}
        sources = {end for seat in seats.values() for end in seat.ends[1:]}
        seats |= {seat.site: seat for seat in sources if seat.site not in seats}
        towers = {seat.tower.name: seat.tower for seat in seats.values()}
        with self._stack:  # taken down at once if anything below raises
            if self.outer:
                self._stack.callback(self.outer.__enter__)
                self.outer._step_aside()
            self.windows.watch(towers.values(), self._stack)
            for group in _by_port((*(seat for seat, _ in self.edits), *self._held)):
                self._install_writer(group)
            for seat in sources:
                self._install_reader(seat, self._enter)
            for seat in self.record:
                if not self.recording.grad:
                    self._install_reader(seat)
            for module in {id(s.module): s.module for s in seats.values() if s.kind in ATTENTION_KINDS}.values():
                self._tap(module)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> Literal[False]:
        self._stack.close()
        self._opened.clear()
        self._entered.clear()
        if self.outer:
            self.outer._fired |= {i for i in self._fired if i < self._borrowed}
        return False

    @property
    def _held(self) -> Sequence[Seat]:
        """What is read by being put into the graph."""
        return self.record if self.recording.grad else ()

    def _step_aside(self) -> None:
        """Take the hooks off until `__enter__` puts them back, those of the sessions around this one too."""
        self._stack.close()
        if self.outer:
            self.outer._step_aside()

    def check(self) -> None:
        """Complain about edits that never acted, sites that never fired and readings overwritten since."""
        acted = {id(edit) for i, (_, edit) in enumerate(self.edits) if i in self._fired}
        for i, (_, edit) in enumerate(self.edits):
            if i < self._borrowed or id(edit) in acted:
                continue
            if i in self._lacking:
                raise EditError(
                    f"{edit!r} never acted: no guidance row '{edit.guidance}' ran", exists=self._lacking[i],
                    do="name a row that runs; one without the prompt needs guidance above 1",
                )  # fmt: skip
            raise EditError(
                f"{edit!r} never acted: its site did not run, or its step or positions never came",
                do="check `step=` and `token=` against the input; `model.sites` says which sites are dead",
            )
        if missed := {name: names for name, names in self._missed.items() if name not in self.read}:
            raise SiteError(
                f"nothing of '{next(iter(missed))}' was read: no guidance row '{self.recording.guidance}' ran",
                expected="a row that runs: one without the prompt needs guidance above 1",
                exists=next(iter(missed.values())), do="name another row",
            )  # fmt: skip
        silent = [str(seat.site) for seat in self.record if str(seat.site) not in self.read]
        if silent:
            raise SiteError(
                f"'{silent[0]}' did not run on this input",
                expected="a site on the path of this input: no picture, no vision tower",
                do="record fewer sites or give the input that uses it",
            )
        for name, tensor, version in self._versions:
            if tensor._version != version:
                raise SiteError(f"'{name}' was overwritten in place after it was read", do="record it with copy=True")

    # --- writing ------------------------------------------------------------------------------------------------------

    def _changed(self, seats: Iterable[Seat], raw: Tensor, inner: int = 0) -> Tensor:
        """A copy of a raw tensor with every edit of these seats applied in the order they were given."""
        new = raw.clone(memory_format=torch.contiguous_format)
        acted = False
        group = {seat.site: seat for seat in seats}
        self._forget(group.values())
        for i, (seat, edit) in enumerate(self.edits):
            if seat.site in group and self._written(seat, edit, i, new, inner):
                acted = True
                self._fired.add(i)
                own = seat.through.dictionary if seat.through else None
                self._forget(one for one in group.values() if one.through and one.through.dictionary is not own)
        for seat in group.values() if self.recording.grad else ():
            if seat in self.record:
                self._hold(seat, new)
                acted = True
        return new if acted else raw

    def _written(self, seat: Seat, edit: Edit, i: int, raw: Tensor, inner: int) -> bool:
        """Whether the i-th edit changed something of a raw tensor, in place."""
        view = self.windows.view(seat, raw)
        opened = self._open(seat, view)
        seen = opened.side(seat.through.side).clone() if opened and seat.through else view
        acted = False
        for part, copy in self._parts(seat, seen, i):
            frame = self.windows.frame(seat, dict(zip(axes_of(seat.site), part.shape, strict=False)), inner, copy)
            if write(part, seat.site, edit, frame):
                acted = True
            elif edit.guidance and edit.guidance not in frame.guidance:
                self._lacking[i] = ", ".join(frame.guidance)
        if acted and opened and seat.through:
            opened.close(seat.through.side, seen)
            self._opened[id(seat.through.dictionary)] = opened
        return acted

    def _open(self, seat: Seat, view: Tensor) -> Opened | None:
        """A site's tensor as features and what they leave over; in the state that edits of this call left it in."""
        if seat.through is None or id(seat.through.dictionary) in self._opened:
            return self._opened[id(seat.through.dictionary)] if seat.through else None
        source = self._entered[seat.through.source.site] if seat.through.source else view
        at = places(self.windows, seat, view, self.shares[0][1] if self.shares else 1)
        return Opened(seat.through.dictionary, view, source, at)

    def _forget(self, seats: Iterable[Seat]) -> None:
        """What was made of a tensor before it was changed, or in an earlier call, is no more what it holds."""
        for seat in seats:
            if seat.through:
                self._opened.pop(id(seat.through.dictionary), None)

    def _enter(self, seat: Seat, raw: Tensor) -> None:
        """Note what a dictionary reads in this call."""
        self._entered[seat.site] = self.windows.view(seat, raw)

    def _hold(self, seat: Seat, raw: Tensor) -> None:
        """Let the output depend on one tensor of the site, which is kept: what is there plus zeros with a gradient."""
        view = self.windows.view(seat, raw)
        opened = self._open(seat, view)
        there = opened.side(seat.through.side).detach() if opened and seat.through else view
        held = there + torch.zeros_like(there, requires_grad=True)
        stepped = "step" in seat.site.axes  # one evaluation of a denoiser is one step
        kept = held[None] if stepped else held
        if opened and seat.through:
            opened.close(seat.through.side, kept[0] if stepped else kept, held=True)
            self._opened[id(seat.through.dictionary)] = opened
        else:
            view.copy_(kept[0] if stepped else kept)
        self._read(str(seat.site), kept, self.windows.guidance(seat.tower))

    def _parts(self, seat: Seat, view: Tensor, edit: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """The view as batches of the rows of the inputs: an edit's share of it, and each copy of these with its number.

        The number is (k, n): the k-th of n.
        """
        if "batch" not in seat.site.axes:
            yield view, (0, 1)
            return
        axis = axes_of(seat.site).index("batch")
        if self.shares:
            which, of = self.shares[edit - self._borrowed] if edit >= self._borrowed else (0, 1)
            view = view.unflatten(axis, (of, -1)).select(axis, which)
        copies = self.windows.copies(seat, view.shape[axis])
        if not copies:
            _check_rows(seat, self.edits[edit][1], view.shape[axis])
        parts = view.unflatten(axis, (-1, copies)).unbind(axis + 1) if copies > 1 else (view,)
        yield from ((part, (k, len(parts))) for k, part in enumerate(parts))

    def _install_writer(self, seats: list[Seat]) -> None:
        seat = seats[0]
        if seat.kind in ATTENTION_KINDS:
            return

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            raw = seat.pick(args, kwargs)
            new = self._changed(seats, raw)
            if seat.kind == "mid" and new is not raw:
                raw.copy_(new)
                return None
            return None if new is raw else seat.put(args, kwargs, new)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if seat.kind == "scale":
                return self._rescaled(seat, module, args[0], output)
            raw = first(output, seat.index)
            new = self._changed(seats, raw)
            return None if new is raw else replaced(output, seat.index, new)

        register: Any = (
            seat.module.register_forward_pre_hook if seat.kind in ("in", "mid") else seat.module.register_forward_hook
        )
        entering = seat.kind in ("in", "mid")
        handle = register(enter, with_kwargs=True, prepend=True) if entering else register(leave, prepend=True)
        self._stack.callback(handle.remove)

    def _rescaled(self, seat: Seat, norm: Any, entering: Tensor, output: Tensor) -> Tensor | None:
        """The output of a norm as if its denominator had been another: b + (y - b) s / s'."""
        old = norm_scale(norm, entering)
        new = self._changed([seat], old)
        if new is old:
            return None
        bias = 0 if is_rms(norm) else norm_weights(norm)[1].to(output)
        return bias + (output - bias) * (old / new).to(output.device).unsqueeze(-1)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _install_reader(self, seat: Seat, keep: Callable[[Seat, Tensor], None] | None = None) -> None:
        if seat.kind in ATTENTION_KINDS:
            return
        keep = keep or self._keep
        if seat.kind in ("in", "mid"):
            handle = seat.module.register_forward_pre_hook(
                lambda module, args, kwargs: keep(seat, seat.pick(args, kwargs)), with_kwargs=True
            )
        elif seat.kind == "scale":
            handle = seat.module.register_forward_hook(
                lambda module, args, output: keep(seat, self._seen_scale(seat, module, args[0]))
            )
        else:
            handle = seat.module.register_forward_hook(
                lambda module, args, output: keep(seat, first(output, seat.index))
            )
        self._stack.callback(handle.remove)

    def _seen_scale(self, seat: Seat, norm: nn.Module, entering: Tensor) -> Tensor:
        scale = norm_scale(norm, entering)
        return self._changed([seat], scale) if any(s.site == seat.site for s, _ in self.edits) else scale

    def _keep(self, seat: Seat, raw: Float[Tensor, "..."], cut: bool = False) -> None:
        """Take what a site holds in this call; `cut`: of the guidance rows it is only the one that was asked for."""
        how, name = self.recording, str(seat.site)
        names = self.windows.guidance(seat.tower)
        if how.guidance and names and how.guidance not in names:
            self._missed[name] = ", ".join(names)
            return
        seen = self.windows.view(seat, raw, cut)
        if seat.through and (opened := self._open(seat, seen)):
            seen = opened.side(seat.through.side)
        if how.guidance and names:
            seen = seen if cut else seen.narrow(0, names.index(how.guidance), 1)
            names = (how.guidance,)
        if how.tokens is not None or how.heads is not None:
            axes = axes_of(seat.site)
            chosen = {"token": how.tokens, "head": how.heads, "kv_head": how.heads}
            own = self.windows.own(seat, axes) if how.tokens is not None else {}
            seen, self.part[name] = part_of(seen, axes, chosen, own, name)
        seen = seen.detach()
        if how.into is not None:
            how.into(Reading(seat.site, self.windows.step, names, seen))
            self._read(name, None)
            return
        kept = seen.to("cpu" if how.keep == "cpu" else seen.device, how.dtype or seen.dtype)
        kept = kept.clone() if how.copy and kept.data_ptr() == raw.data_ptr() else kept
        if not kept.is_inference():  # such tensors do not count their changes
            self._versions.append((name, kept, kept._version))
        self._read(name, kept, names)

    def _read(self, name: str, kept: Tensor | None, guidance: tuple[str, ...] = ()) -> None:
        """Note what a site held, if it is kept; stop behind the last one if that was asked for."""
        self.read.setdefault(name, []).extend([] if kept is None else [(self.windows.step, kept)])
        if kept is not None and guidance:
            self.guided.setdefault(name, []).append(guidance)
        if self.recording.stop and len(self.read) == len(self.record):
            raise Stop

    # --- attention ----------------------------------------------------------------------------------------------------

    def _tap(self, module: nn.Module) -> None:
        inside = [seat for seat in self.record if seat.module is module and seat.kind in ATTENTION_KINDS]
        reads = {seat.kind: seat for seat in inside if not self.recording.grad}
        changed = (*(seat for seat, _ in self.edits), *self._held)
        writes = {seat.kind: seat for seat in changed if seat.module is module and seat.kind in ATTENTION_KINDS}
        tap = AttentionTap(
            set(writes),
            set(reads),
            lambda kind, tensor, offset: self._changed([writes[kind]], tensor, offset),  # type: ignore[index]
            lambda kind, tensor, cut: self._keep(reads[kind], tensor, cut),  # type: ignore[index]
            lambda rows: self.windows.row(inside[0], rows, self.recording.guidance) if inside else None,
        )
        self._stack.enter_context(tapped(module, tap))


def _by_port(seats: Iterable[Seat]) -> list[list[Seat]]:
    """Group seats that look at the same tensor: their edits share one hook and compose in order."""
    groups: dict[tuple[int, str, int, str], dict[str, Seat]] = {}
    for seat in seats:
        groups.setdefault((id(seat.module), seat.kind, seat.index, seat.keyword), {})[str(seat.site)] = seat
    return [list(group.values()) for group in groups.values()]


def _check_rows(seat: Seat, edit: Edit, rows: int) -> None:
    """Refuse an edit that tells rows apart where it is not known which rows these are."""
    full = edit.full(seat.site)
    several = full is not None and full.shape[axes_of(seat.site).index("batch")] > 1
    masks = [getattr(edit, axis) for axis in POSITIONS]
    if edit.batch is not None or several or any(isinstance(mask, Where | Tensor) for mask in masks):
        raise EditError(
            f"{edit!r}: which of the inputs these {rows} rows of '{seat.tower.name}' belong to is not known",
            expected="all rows in every call; the library went on with those that had not ended",
            do="write the inputs one by one, or make the edit the same for every row",
        )
