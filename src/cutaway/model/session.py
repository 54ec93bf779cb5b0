"""One session of watching and changing: hooks go on, the model runs, hooks come off, whatever happens.

Writers are registered in front of everything else, so that captures the library makes with its own hooks see the edit;
readers behind everything else. Only what was registered here is removed, by handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.errors import EditError, SiteError
from cutaway.model.attention import AttentionTap, tapped
from cutaway.model.edits import Edit
from cutaway.model.linear import norm_weights
from cutaway.model.region import Frame, MapOf, write
from cutaway.model.seats import ATTENTION_KINDS, Seat, Tower, first, is_rms, norm_scale, replaced


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


@dataclass
class _Clock:
    """Where a tower is in its run: positions already in its cache, denoising step, rows of its batch."""

    offset: int = 0
    step: int = -1
    rows: int = 1
    total: int = 0
    calls: int = 0
    schedule: Any = None


@dataclass
class Guidance:
    """What a session must know of a pipeline: its scheduler, how many guidance rows lie in one batch, its denoiser."""

    scheduler: Any
    rows: Callable[[], int]
    denoisers: Sequence[Tower] = ()


@dataclass
class Session:
    """The hooks of one run: `edits` by seat, `record` the seats to read. Use as a context manager.

    `shares`: for each edit the share of the batch it acts on, (i, n) for the i-th of n equal parts; none: all of it.
    A session inside another, `outer`, takes over its edits, before its own; the outer one steps aside meanwhile.
    """

    edits: Sequence[tuple[Seat, Edit]] = ()
    record: Sequence[Seat] = ()
    recording: Recording = field(default_factory=Recording)
    tokens: MapOf | None = None
    totals: dict[str, int] = field(default_factory=dict)
    guidance: Guidance | None = None
    open_ended: bool = False
    outer: Session | None = None
    shares: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        self._borrowed = len(self.outer.edits) if self.outer else 0
        self.edits = [*(self.outer.edits if self.outer else ()), *self.edits]
        self.read: dict[str, list[Tensor]] = {}
        self._versions: list[tuple[str, Tensor, int]] = []
        self._fired: set[int] = set()
        self._clocks: dict[str, _Clock] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        seats = {seat.site: seat for seat in (*(seat for seat, _ in self.edits), *self.record)}
        towers = {seat.tower.name: seat.tower for seat in seats.values()}
        if self.guidance and any(tower.prompted for tower in towers.values()):
            towers |= {tower.name: tower for tower in self.guidance.denoisers}  # its steps end the prompt's encoding
        with self._stack:  # taken down at once if anything below raises
            if self.outer:
                self._stack.callback(self.outer.__enter__)
                self.outer._step_aside()
            for tower in towers.values():
                self._watch(tower)
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
        idle = [edit for i, (_, edit) in enumerate(self.edits) if i not in self._fired and i >= self._borrowed]
        acted = {id(edit) for i, (_, edit) in enumerate(self.edits) if i in self._fired}
        idle = [edit for edit in idle if id(edit) not in acted]
        if idle:
            raise EditError(
                f"{idle[0]!r} never acted: its site did not run, or its step or positions never came",
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
        clock = self._clocks.setdefault(tower.name, _Clock(total=self.totals.get(tower.name, 0)))

        def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            cache = kwargs.get("past_key_values")
            clock.offset = int(cache.get_seq_length()) if cache is not None and tower.causal else 0
            entering = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.dim() > 0]
            clock.rows = entering[0].shape[0] if entering else 1
            if (
                tower.causal
                and not clock.offset
                and tower.name not in self.totals
                and entering
                and entering[0].dim() > 1
            ):
                clock.total = entering[0].shape[1]  # the prompt: negative positions count from its end
            clock.calls += 1
            if tower.stepped and self.guidance:
                schedule = self.guidance.scheduler.timesteps
                clock.step = clock.step + 1 if clock.schedule is schedule else 0
                clock.schedule = schedule
                for other in self._clocks.values():
                    other.calls = 0

        self._stack.callback(tower.module.register_forward_pre_hook(start, with_kwargs=True, prepend=True).remove)

    def _frame(self, seat: Seat, axes: tuple[str, ...], inner: int = 0) -> Frame:
        clock = self._clocks[seat.tower.name]
        cross = seat.site.part.startswith("cross.") and seat.kind in ("k", "v", "scores", "pattern")
        shift = {"token": clock.offset + inner, "query": clock.offset + inner, "key": inner}
        if seat.kind in ("k", "v"):
            shift["token"] = inner
        total = {} if cross or seat.site.layer is None else dict.fromkeys(("token", "query", "key"), clock.total)
        return Frame(
            shift, total, max(clock.step, 0), self._guidance(seat.tower), seat.tower.prompted, self.tokens,
            self.open_ended or seat.tower.packed,
        )  # fmt: skip

    def _guidance(self, tower: Tower) -> tuple[str, ...]:
        """The guidance rows in the batch of a tower, in order; empty where there is no such axis."""
        if tower.prompted:
            return ("cond",) if self._clocks[tower.name].calls < 2 else ("uncond",)
        if tower.stepped:
            return ("uncond", "cond") if self.guidance and self.guidance.rows() == 2 else ("cond",)
        return ()

    def _view(self, seat: Seat, raw: Tensor) -> Tensor:
        return seat.view.get(raw, self._clocks[seat.tower.name].rows, len(self._guidance(seat.tower)))

    # --- writing ------------------------------------------------------------------------------------------------------

    def _changed(self, seats: Iterable[Seat], raw: Tensor, inner: int = 0) -> Tensor:
        """A copy of a raw tensor with every edit of these seats applied in the order they were given."""
        new = raw.clone(memory_format=torch.contiguous_format)
        acted = False
        sites = {seat.site for seat in seats}
        for i, (seat, edit) in enumerate(self.edits):
            if seat.site not in sites:
                continue
            view = self._view(seat, new)
            if self.shares:
                which, of = self.shares[i - self._borrowed] if i >= self._borrowed else (0, 1)
                view = view.unflatten(seat.site.axes.index("batch"), (of, -1)).select(
                    seat.site.axes.index("batch"), which
                )
            if write(view, seat.site, edit, self._frame(seat, seat.site.axes, inner)):
                self._fired.add(i)
                acted = True
        return new if acted else raw

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
        axes = [axis for axis in seat.site.axes if axis != "step"]
        chosen = {"token": how.tokens, "head": how.heads, "kv_head": how.heads}
        for i, axis in enumerate(axes):
            if (choice := chosen.get(axis)) is not None:
                seen = seen.index_select(i, _positions(choice, seen.shape[i], name, axis).to(seen.device))
        seen = seen if how.grad else seen.detach()
        kept = seen.to("cpu" if how.keep == "cpu" else seen.device, how.dtype or seen.dtype)
        kept = kept.clone() if how.copy and kept.data_ptr() == raw.data_ptr() else kept
        if not kept.is_inference():  # such tensors do not count their changes
            self._versions.append((name, kept, kept._version))
        self.read.setdefault(name, []).append(kept)
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


def _positions(choice: Sequence[int] | slice, size: int, name: str, axis: str) -> Int[Tensor, "n"]:
    """What to keep of an axis, in the order it was asked for."""
    try:
        return torch.arange(size)[choice if isinstance(choice, slice) else list(choice)]
    except IndexError as error:
        word = "tokens" if axis == "token" else "heads"
        raise SiteError(
            f"cannot keep {word} {choice} of '{name}'", expected=f"numbers from 0 to {size - 1}",
            do=f"record it in a run of its own with other `{word}=`",
        ) from error  # fmt: skip


def _by_port(seats: Iterable[Seat]) -> list[list[Seat]]:
    """Group seats that look at the same tensor: their edits share one hook and compose in order."""
    groups: dict[tuple[int, str, int, str], dict[str, Seat]] = {}
    for seat in seats:
        groups.setdefault((id(seat.module), seat.kind, seat.index, seat.keyword), {})[str(seat.site)] = seat
    return [list(group.values()) for group in groups.values()]
