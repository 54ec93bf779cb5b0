"""One session of watching and changing: hooks go on, the model runs, hooks come off, whatever happens.

Writers are registered in front of everything else, so that captures the library makes with its own hooks see the edit;
readers behind everything else. Only what was registered here is removed, by handle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import EditError, SiteError
from cutaway.model.attention import AttentionTap, tapped
from cutaway.model.clock import Clock
from cutaway.model.edits import Edit
from cutaway.model.inputs import Inputs
from cutaway.model.known import parameters
from cutaway.model.linear import norm_weights
from cutaway.model.own import Kept, padded, part_of
from cutaway.model.region import Frame, write
from cutaway.model.schedule import Schedule
from cutaway.model.seats import ATTENTION_KINDS, Seat, Tower, first, is_rms, norm_scale, replaced
from cutaway.model.sites import POSITIONS, Site
from cutaway.model.tokens import Where


class Stop(Exception):  # noqa: N818, control flow and not an error
    """Raised by the last needed reader to end a forward early; never leaves a session."""


@dataclass(frozen=True)
class Recording:
    """How to keep what is read: where (`device`: as it comes), in which dtype, which tokens and heads, copied."""

    keep: Literal["device", "cpu"] = "device"
    dtype: torch.dtype | None = None
    tokens: Sequence[int] | slice | None = None
    heads: Sequence[int] | slice | None = None
    copy: bool = False
    grad: bool = False
    stop: bool = False


@dataclass(frozen=True)
class Root:
    """What a session must know of the whole: the module or the pipeline that is called, and its towers."""

    module: Any
    towers: Sequence[Tower] = ()
    pipeline: Any = None


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
        self._versions: list[tuple[str, Tensor, int]] = []
        self._fired: set[int] = set()
        self._lacking: dict[int, str] = {}
        self._clocks: dict[str, Clock] = {}
        rows = self.inputs.rows("denoiser") if self.inputs else None
        self.schedule = Schedule(self.root.pipeline, len(rows) if rows else None) if self.root.pipeline else None
        self._whole_mask: Tensor | None = None
        self._prompts: int | None = None  # rows that `generate` was called with, before it multiplied them
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        seats = {seat.site: seat for seat in (*(seat for seat, _ in self.edits), *self.record)}
        towers = {seat.tower.name: seat.tower for seat in seats.values()}
        if self.schedule:  # its steps end the prompt's encoding, and its prompts are the rows of the denoiser
            towers |= {tower.name: tower for tower in self.root.towers if tower.stepped or tower.prompted}
        with self._stack:  # taken down at once if anything below raises
            if self.outer:
                self._stack.callback(self.outer.__enter__)
                self.outer._step_aside()
            for tower in towers.values():
                self._watch(tower)
            if self.inputs is None and not self.root.pipeline:
                self._watch_root()
            for group in _by_port(seat for seat, _ in self.edits):
                self._install_writer(group)
            for seat in self.record:
                self._install_reader(seat)
            for module in {id(s.module): s.module for s in seats.values() if s.kind in ATTENTION_KINDS}.values():
                self._tap(module)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> Literal[False]:
        self._stack.close()
        if self.outer:
            self.outer._fired |= {i for i in self._fired if i < self._borrowed}
        return False

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
                    do="run with guidance above 1",
                )  # fmt: skip
            raise EditError(
                f"{edit!r} never acted: its site did not run, or its step or positions never came",
                do="check `step=` and `token=` against the input; `model.sites` says which sites are dead",
            )
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

    # --- clocks -------------------------------------------------------------------------------------------------------

    def _watch(self, tower: Tower) -> None:
        clock = self._clocks.setdefault(tower.name, Clock(tower))

        def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            clock.start(args, kwargs)
            if tower.stepped and self.schedule:
                self.schedule.tick(clock.named(args, kwargs).get("timestep"))
                for other in self._clocks.values():
                    other.calls = 0

        register = tower.module.register_forward_pre_hook
        self._stack.callback(register(start, with_kwargs=True, prepend=True).remove)
        leave = tower.module.register_forward_hook(lambda module, args, output: clock.stop(output))
        self._stack.callback(leave.remove)

    def _watch_root(self) -> None:
        """Where the inputs are not known beforehand: see the mask of the whole call."""
        names = parameters(self.root.module)

        def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._whole_mask = {**dict(zip(names, args, strict=False)), **kwargs}.get("attention_mask")

        register = self.root.module.register_forward_pre_hook
        self._stack.callback(register(start, with_kwargs=True, prepend=True).remove)

    def begin_writing(self, rows: int | None, prompt: int) -> None:
        """The library's `generate` begins, with so many rows before it multiplies them, behind a prompt of this length.

        0: the prompt is what its decoder is first called with.
        """
        self._prompts = rows
        for clock in self._clocks.values():
            clock.begin_writing(prompt)

    def end_writing(self) -> None:
        """`generate` has ended: the next call is a prompt again."""
        self._prompts = None
        for clock in self._clocks.values():
            clock.end_writing()

    def _frame(self, seat: Seat, sizes: Mapping[str, int], inner: int = 0) -> Frame:
        site, clock = seat.site, self._clocks[seat.tower.name]
        cached = seat.kind in ("k", "v")
        cross, last = site.part.startswith("cross."), site.layer is None and seat.tower.causal
        offset, total = {}, {}
        for axis in POSITIONS:
            if axis in sizes and not (cross and (axis == "key" or cached)):
                offset[axis] = clock.window(axis, sizes[axis], inner=inner, cached=cached, end=last)
                windowed = seat.tower.packed and seat.kind in ATTENTION_KINDS
                total[axis] = clock.prompt if seat.tower.causal or windowed else 0
        schedule, tokens = self.schedule, self.inputs.map_for if self.inputs else None
        return Frame(
            offset, total, self._own(seat, sizes), schedule.step if schedule else 0, schedule.steps if schedule else 1,
            self._guidance(seat.tower), self.inputs.rows(seat.tower.name) if self.inputs else None, tokens,
            self.open_ended or seat.tower.packed,
        )  # fmt: skip

    def _own(self, seat: Seat, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Which positions are a row's own, on the axes of a site on which some are padding."""
        if self.inputs:
            return padded(seat.site, self.inputs)
        clock = self._clocks[seat.tower.name]
        mask = clock.mask if clock.mask is not None else self._whole_mask
        reads = seat.tower.tokens == "ids" and not seat.site.part.startswith("cross.")
        if not reads or not isinstance(mask, Tensor) or mask.dim() != 2 or len(mask) != clock.rows:
            return {}
        prompt = mask[:, : clock.prompt].bool().cpu()
        fits = clock.prompt and mask.shape[1] >= clock.offset + clock.length and not bool(prompt.all())
        return {axis: prompt for axis in POSITIONS if axis in sizes} if fits else {}

    def _guidance(self, tower: Tower) -> tuple[str, ...]:
        """The guidance rows in the batch of a tower, in order; empty where there is no such axis."""
        if tower.prompted:
            return ("cond",) if self._clocks[tower.name].calls < 2 else ("uncond",)
        return self.schedule.names(self._clocks[tower.name].rows) if tower.stepped and self.schedule else ()

    def _view(self, seat: Seat, raw: Tensor) -> Tensor:
        return seat.view.get(raw, self._clocks[seat.tower.name].rows, len(self._guidance(seat.tower)))

    def _copies(self, seat: Seat, rows: int) -> int:
        """How many rows of a batch belong to one row of the inputs, next to one another: beams, samples, pictures.

        0 where the rows are not known any more: Whisper writes on with those that have not ended.
        """
        known: int | None = None
        if self.inputs:
            owners = self.inputs.rows(seat.tower.name)
            known = self.inputs.tokens[seat.tower.name].batch if seat.tower.name in self.inputs.tokens else None
            known = known or (len(owners) if owners and not seat.tower.packed else None)
        elif seat.tower.stepped:
            known = next((clock.rows for clock in self._clocks.values() if clock.tower.prompted and clock.ran), None)
        else:
            known = self._prompts
        if known and (rows % known or self._clocks[seat.tower.name].dropped):
            return 0 if known > 1 else 1
        return rows // known if known else 1

    # --- writing ------------------------------------------------------------------------------------------------------

    def _changed(self, seats: Iterable[Seat], raw: Tensor, inner: int = 0) -> Tensor:
        """A copy of a raw tensor with every edit of these seats applied in the order they were given."""
        new = raw.clone(memory_format=torch.contiguous_format)
        acted = False
        sites = {seat.site for seat in seats}
        for i, (seat, edit) in enumerate(self.edits):
            if seat.site not in sites:
                continue
            for part in self._parts(seat, self._view(seat, new), i):
                frame = self._frame(seat, dict(zip(axes_of(seat.site), part.shape, strict=False)), inner)
                if write(part, seat.site, edit, frame):
                    self._fired.add(i)
                    acted = True
                elif edit.guidance and edit.guidance not in frame.guidance:
                    self._lacking[i] = ", ".join(frame.guidance)
        return new if acted else raw

    def _parts(self, seat: Seat, view: Tensor, edit: int) -> Iterator[Tensor]:
        """The view as batches of the rows of the inputs: an edit's share of it, and each copy of these rows."""
        if "batch" not in seat.site.axes:
            yield view
            return
        axis = axes_of(seat.site).index("batch")
        if self.shares:
            which, of = self.shares[edit - self._borrowed] if edit >= self._borrowed else (0, 1)
            view = view.unflatten(axis, (of, -1)).select(axis, which)
        copies = self._copies(seat, view.shape[axis])
        if not copies:
            _check_rows(seat, self.edits[edit][1], view.shape[axis])
        yield from view.unflatten(axis, (-1, copies)).unbind(axis + 1) if copies > 1 else (view,)

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
        bias = 0 if is_rms(norm) else norm_weights(norm)[1]
        return bias + (output - bias) * (old / new).unsqueeze(-1)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _install_reader(self, seat: Seat) -> None:
        if seat.kind in ATTENTION_KINDS:
            return
        if seat.kind in ("in", "mid"):
            handle = seat.module.register_forward_pre_hook(
                lambda module, args, kwargs: self._keep(seat, seat.pick(args, kwargs)), with_kwargs=True
            )
        elif seat.kind == "scale":
            handle = seat.module.register_forward_hook(
                lambda module, args, output: self._keep(seat, self._seen_scale(seat, module, args[0]))
            )
        else:
            handle = seat.module.register_forward_hook(
                lambda module, args, output: self._keep(seat, first(output, seat.index))
            )
        self._stack.callback(handle.remove)

    def _seen_scale(self, seat: Seat, norm: nn.Module, entering: Tensor) -> Tensor:
        scale = norm_scale(norm, entering)
        return self._changed([seat], scale) if any(s.site == seat.site for s, _ in self.edits) else scale

    def _keep(self, seat: Seat, raw: Float[Tensor, "..."]) -> None:
        how, name = self.recording, str(seat.site)
        seen = self._view(seat, raw)
        axes = axes_of(seat.site)
        chosen = {"token": how.tokens, "head": how.heads, "kv_head": how.heads}
        own = self._own(seat, dict(zip(axes, seen.shape, strict=False))) if how.tokens is not None else {}
        seen, self.part[name] = part_of(seen, axes, chosen, own, name)
        seen = seen if how.grad else seen.detach()
        kept = seen.to("cpu" if how.keep == "cpu" else seen.device, how.dtype or seen.dtype)
        kept = kept.clone() if how.copy and kept.data_ptr() == raw.data_ptr() else kept
        if not kept.is_inference():  # such tensors do not count their changes
            self._versions.append((name, kept, kept._version))
        self.read.setdefault(name, []).append((self.schedule.step if self.schedule else 0, kept))
        if how.stop and len(self.read) == len(self.record):
            raise Stop

    # --- attention ----------------------------------------------------------------------------------------------------

    def _tap(self, module: nn.Module) -> None:
        reads = {seat.kind: seat for seat in self.record if seat.module is module and seat.kind in ATTENTION_KINDS}
        writes = {seat.kind: seat for seat, _ in self.edits if seat.module is module and seat.kind in ATTENTION_KINDS}
        tap = AttentionTap(
            set(writes),
            set(reads),
            lambda kind, tensor, offset: self._changed([writes[kind]], tensor, offset),  # type: ignore[index]
            lambda kind, tensor: self._keep(reads[kind], tensor),  # type: ignore[index]
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


def axes_of(site: Site) -> tuple[str, ...]:
    """The axes of what one call gives: steps are calls of their own."""
    return tuple(axis for axis in site.axes if axis != "step")
