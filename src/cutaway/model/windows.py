"""What the present call of each tower holds: its rows, positions, step and guidance rows, in words of the inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cutaway.errors import SiteError
from cutaway.model.calls import Forward, Pipeline
from cutaway.model.clock import Clock
from cutaway.model.inputs import Inputs
from cutaway.model.known import parameters
from cutaway.model.own import padded
from cutaway.model.region import Frame
from cutaway.model.seats import ATTENTION_KINDS, Seat, Tower
from cutaway.model.sites import POSITIONS, Site


@dataclass(frozen=True)
class Root:
    """What a session must know of the whole: the module or the pipeline that is called, and its towers."""

    module: Any
    towers: Sequence[Tower] = ()
    pipeline: Any = None


class Windows:
    """The clocks of the towers of a session, read against the inputs: `frame` says where a tensor lies.

    `inputs`: None where they are not known beforehand (`model.edited`): then the calls themselves tell.
    """

    def __init__(self, root: Root, inputs: Inputs | None, open_ended: bool) -> None:
        self.root, self.inputs, self.open_ended = root, inputs, open_ended
        self._clocks: dict[str, Clock] = {}
        self._rows: dict[str, tuple[int, ...] | None] = {}
        self._padded: dict[Site, dict[str, Tensor]] = {}
        rows = self._rows_of("denoiser")
        call = inputs.call if inputs else Pipeline() if root.pipeline else Forward()
        self.schedule = call.schedule(root.pipeline, len(rows) if rows else None)
        self._whole_mask: Tensor | None = None
        self._prompts: int | None = None  # rows that `generate` was called with, before it multiplied them

    @property
    def step(self) -> int:
        """The denoising step, 0 where there is none."""
        return self.schedule.step if self.schedule else 0

    def watch(self, towers: Iterable[Tower], stack: ExitStack) -> None:
        """Put on the hooks that follow these towers; `stack` takes them off."""
        watched = {tower.name: tower for tower in towers}
        if self.schedule:  # its steps end the prompt's encoding, and its prompts are the rows of the denoiser
            watched |= {tower.name: tower for tower in self.root.towers if tower.stepped or tower.prompted}
        for tower in watched.values():
            self._watch(tower, stack)
        if self.inputs is None and not self.root.pipeline:
            self._watch_root(stack)

    def _watch(self, tower: Tower, stack: ExitStack) -> None:
        clock = self._clocks.setdefault(tower.name, Clock(tower))

        def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            clock.start(args, kwargs)
            if tower.stepped and self.schedule:
                self.schedule.tick(clock.named(args, kwargs).get("timestep"))
                for other in self._clocks.values():
                    other.calls = 0

        register = tower.module.register_forward_pre_hook
        stack.callback(register(start, with_kwargs=True, prepend=True).remove)
        leave = tower.module.register_forward_hook(lambda module, args, output: clock.stop(output))
        stack.callback(leave.remove)

    def _watch_root(self, stack: ExitStack) -> None:
        """Where the inputs are not known beforehand: see the mask of the whole call."""
        names = parameters(self.root.module)

        def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._whole_mask = {**dict(zip(names, args, strict=False)), **kwargs}.get("attention_mask")

        register = self.root.module.register_forward_pre_hook
        stack.callback(register(start, with_kwargs=True, prepend=True).remove)

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

    def frame(self, seat: Seat, sizes: Mapping[str, int], inner: int = 0, copy: tuple[int, int] = (0, 1)) -> Frame:
        """Where a view of these sizes lies; `inner`: the positions that a packed tower attended to before.

        `copy`: (k, n), the k-th of n copies of the rows of the inputs.
        """
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
            offset, total, self.own(seat, sizes), self.step, schedule.steps if schedule else 1,
            self.guidance(seat.tower), self._rows_of(seat.tower.name), tokens, self.open_ended or seat.tower.packed,
            copy,
        )  # fmt: skip

    def _rows_of(self, tower: str) -> tuple[int, ...] | None:
        """The row of the inputs of each row of a tower, where these are known."""
        if tower not in self._rows:
            self._rows[tower] = self.inputs.rows(tower) if self.inputs else None
        return self._rows[tower]

    def own(self, seat: Seat, axes: Collection[str]) -> dict[str, Tensor]:
        """Which positions are a row's own, on the axes of a site on which some are padding."""
        if self.inputs:
            if seat.site not in self._padded:
                self._padded[seat.site] = padded(seat.site, self.inputs)
            return self._padded[seat.site]
        clock = self._clocks[seat.tower.name]
        mask = clock.mask if clock.mask is not None else self._whole_mask
        reads = seat.tower.tokens == "ids" and not seat.site.part.startswith("cross.")
        if not reads or not isinstance(mask, Tensor) or mask.dim() != 2 or len(mask) != clock.rows:
            return {}
        prompt = mask[:, : clock.prompt].bool().cpu()
        fits = clock.prompt and mask.shape[1] >= clock.offset + clock.length and not bool(prompt.all())
        return {axis: prompt for axis in POSITIONS if axis in axes} if fits else {}

    def guidance(self, tower: Tower) -> tuple[str, ...]:
        """The guidance rows in the batch of a tower, in order; empty where there is no such axis."""
        if tower.prompted:
            return ("cond",) if self._clocks[tower.name].calls < 2 else ("uncond",)
        return self.schedule.names(self._clocks[tower.name].rows) if tower.stepped and self.schedule else ()

    def row(self, seat: Seat, rows: int, guidance: str) -> slice | None:
        """Which of so many rows of a call belong to a guidance row of this name; None where it holds others than all.

        None as well for no name, or where there is one guidance row at most.
        """
        names = self.guidance(seat.tower)
        if guidance not in names or len(names) < 2 or rows != self._clocks[seat.tower.name].rows:
            return None
        each = rows // len(names)
        return slice(names.index(guidance) * each, (names.index(guidance) + 1) * each)

    def view(self, seat: Seat, raw: Tensor, cut: bool = False) -> Tensor:
        """A raw tensor through the axes of its site; `cut`: it holds one of the guidance rows."""
        rows, guidance = self._clocks[seat.tower.name].rows, self.guidance(seat.tower)
        if cut:
            return seat.view.get(raw, rows // len(guidance), 1)
        if len(guidance) > 1 and len(raw) != rows:
            raise SiteError(
                f"'{seat.site}' holds {len(raw)} of the {rows} rows of this call: the pipeline computes its guidance "
                f"rows ({', '.join(guidance)}) apart in this layer",
                expected="all of them at once", exists="the output of the sublayer (`attn.out`), and other layers",
                do="leave this site out, or draw without perturbed attention: `pag_scale=0`",
            )  # fmt: skip
        return seat.view.get(raw, rows, len(guidance))

    def copies(self, seat: Seat, rows: int) -> int:
        """How many rows of a batch belong to one row of the inputs, next to one another: beams, samples, pictures.

        0 where the rows are not known any more: Whisper writes on with those that have not ended.
        """
        known: int | None = self._prompts
        if self.inputs:
            known = 1 if seat.tower.packed else len(self._rows_of(seat.tower.name) or ()) or None
        elif seat.tower.stepped:
            known = next((clock.rows for clock in self._clocks.values() if clock.tower.prompted and clock.ran), None)
        if known and (rows % known or self._clocks[seat.tower.name].dropped):
            return 0 if known > 1 else 1
        return rows // known if known else 1


def axes_of(site: Site) -> tuple[str, ...]:
    """The axes of what one call gives: steps are calls of their own."""
    return tuple(axis for axis in site.axes if axis != "step")
