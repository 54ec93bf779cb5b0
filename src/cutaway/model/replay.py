"""Replay: run many single interventions again from where each begins to matter, exactly.

One clean run notes what every tower and block gave, and when. A cell whose edit acts at a time t gets everything that
ended before t from there. Rows of one forward are cells; a causal decoder re-runs only the positions from the edit on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.model.cells import Cells
from cutaway.model.engine import Bound, Engine
from cutaway.model.inputs import Inputs
from cutaway.model.known import (
    DENOISED,
    ROWS,
    Known,
    entries,
    hooked,
    in_guidance,
    in_rows,
    last_only,
    mapped,
    repeated,
    replaying,
    spread,
    tensors,
    watching,
)
from cutaway.model.plan import Chunk, Need, Plan, Way, chunked
from cutaway.model.reach import since, start_of, steps_of
from cutaway.model.run import Run
from cutaway.model.seats import ATTENTION_KINDS, Seat, Tower
from cutaway.model.sites import Site
from cutaway.model.work import Work


class Replay:
    """The clean run of some inputs and the plan of a sweep over them; `run(chunk)` gives one Run a cell."""

    def __init__(self, engine: Engine, inputs: Inputs, cells: Cells, *, last_logits: bool = False, memory: int) -> None:
        self.engine, self.inputs, self.memory = engine, inputs, memory
        self.apart = inputs.call.apart(engine.module, inputs.tensors)
        self.bound: list[Bound] = [engine.bind(list(edits)) for edits in cells.edits]
        self.known = Known()
        edited = engine.held is not None or any(seat.site.part == "logits" for cell in self.bound for seat, _ in cell)
        own = inputs.own(Site("text", None, "logits"), "token") if inputs.tokens else None
        last = own is None or bool(own[:, -1].all())  # every row ends with the batch
        keep_last = (
            last_logits and last and "logits_to_keep" in inputs.call.takes(engine.module) and not edited
        )  # else logits would shift
        self.costs: dict[tuple[Any, ...], float] = {}
        self.options = {**inputs.call.sweeping, **({"logits_to_keep": 1} if keep_last else {})}
        self._clean()
        self.work = Work(self.known, self.units, self.homes)
        self.plan = self._planned()

    # --- the clean run ------------------------------------------------------------------------------------------------

    @cached_property
    def units(self) -> dict[int, nn.Module]:
        """What can be given back: towers and their blocks."""
        towers = [tower.module for tower in self.engine.towers.values() if tower.module is not self.engine.module]
        blocks = [block for tower in self.engine.towers.values() for block in tower.blocks]
        return {id(module): module for module in (*towers, *blocks)}

    @cached_property
    def together(self) -> bool:
        """Whether several whole drawings are run as one: then cells begin with a step."""
        return self.inputs.call.loops and not self.apart

    @cached_property
    def homes(self) -> dict[int, Tower]:
        """The tower of each unit."""
        found: dict[int, Tower] = {}
        for tower in self.engine.towers.values():
            found |= {id(module): tower for module in (*tower.blocks, tower.module)}
        return found

    def _clean(self) -> None:
        """Run once without edits. A block inside a step is kept only for steps at which some cell begins."""
        stepped = [edit for bound in self.bound for seat, edit in bound if seat.tower.stepped]
        seats = list({id(end.module): end for bound in self.bound for seat, _ in bound for end in seat.ends}.values())

        @cache
        def begins(steps: int) -> set[int]:
            return {min(steps_of(edit, steps), default=0) for edit in stepped}

        def keep(module: nn.Module, call: int) -> bool:
            tower = self.homes[id(module)]
            again = self.inputs.call.loops and tower.stepped and module is not tower.module
            return not again or (not self.together and call in begins(len(self.engine.module.scheduler.timesteps)))

        started = time.perf_counter()
        towers, roots = list(self.engine.towers.values()), self.engine.roots
        with torch.no_grad(), watching(self.known, self.units, seats, towers, keep, hooked(roots)):
            self.known.outputs = self.inputs.call(self.engine.module, self.inputs.tensors, **self.options)
        if self.engine.device.type != "cpu":
            torch.accelerator.synchronize()
        self.clean_seconds = time.perf_counter() - started

    # --- planning -----------------------------------------------------------------------------------------------------

    def _planned(self) -> Plan:
        forward = sum(self.work.flops(unit) for unit in self.work.outer(-1))
        needs = [self._need(i, forward) for i in range(len(self.bound))]
        tokens = self.inputs.tokens.get("text")
        rows = self._rows_of(self.known.outputs)
        positions = max((self._length(need.tower) for need in needs if need.way == "suffix"), default=0)
        most: dict[Way, int] = {
            way: 1 if way in ("single", "plain") else max(1, self.memory // max(1, self._row_bytes(way, needs)))
            for way in ("suffix", "tower", "whole", "single", "plain")
        }
        chunks = []
        for need, members in chunked(needs, positions, most):
            cost = self._cost(need, members) if need.way != "plain" else forward
            chunks.append(Chunk(need.way, need.tower, need.since, need.start, members, cost * len(members)))
        reasons = tuple(dict.fromkeys(need.why for need in needs if need.why))
        held = tokens.batch if tokens else rows
        return Plan(tuple(chunks), tuple(needs), forward, self.known.bytes(), held, positions, reasons)

    def _need(self, cell: int, forward: float) -> Need:
        """How a cell can be run: the way that leaves most out, with what stands against the better ones."""
        bound = self.bound[cell]
        seats = [seat for seat, _ in bound]
        plain = Need("plain", flops=forward)
        if not seats:
            return replace(plain, why="plain: a cell without an edit")
        if any(seat.site.tower == "raw" for seat in seats):
            return replace(plain, why="plain: a raw site's place in the model is not known")
        for name in self.known.changed:
            return replace(plain, why=f"plain: a hook of yours changes '{name}', perhaps by row or place")
        if self.engine.family.kind == "unknown" and len(self.engine.towers) != 1:
            return replace(plain, why=f"plain: {type(self.engine.module).__name__} has no row in the tables")
        first = min(since(self.known, seat, edit, whole=self.together) for seat, edit in bound)
        if first < 0:
            return replace(plain, why=f"plain: '{seats[0].site}' does not run on this input")
        towers = {seat.tower.name: seat.tower for seat in seats}
        name = next(iter(towers))
        tower = towers[name]
        need = Need("whole", name, first)
        alone = len(towers) == 1 and self._inside(seats, tower) and self._ends_with(tower)
        if self.together:
            return replace(need, flops=self._cost(need, (cell,)))
        if self.apart or tower.packed or self._repeats(tower) or (alone and self._odd(tower)):
            need = replace(need, way="single", why=self._single(tower))
        elif alone:
            start = min(start_of(seat, edit, self.inputs, self._length(name)) for seat, edit in bound)
            way: Way = "suffix" if start > 0 and self._resumable(tower) else "tower"
            need = replace(need, way=way, start=start if way == "suffix" else 0)
        inside = need.way == "suffix" and any(
            seat.kind in ATTENTION_KINDS for seat in seats
        )  # keys are given row by row
        positions = self._positions(need) if alone and not inside else 0
        return replace(need, flops=self._cost(need, (cell,)), positions=positions)

    def _single(self, tower: Tower) -> str:
        if self.apart:
            return f"single: {self.apart}"
        if tower.packed:
            return f"single: '{tower.name}' has no batch axis"
        if self._repeats(tower):
            return f"single: '{tower.name}' runs repeatedly"
        return f"single: '{tower.name}' takes {', '.join(self._odd(tower))}, whose rows are not known"

    def _odd(self, tower: Tower) -> list[str]:
        """The tensors a tower takes of which it is not known along which axis their rows lie."""
        _, kwargs = self.known.arguments.get(tower.name, ((), {}))
        known = ROWS | DENOISED if tower.stepped else ROWS
        return [name for name, value in kwargs.items() if tensors(value) and name not in known]

    def _repeats(self, tower: Tower) -> bool:
        return any(len(self.known.calls.get(id(module), [])) > 1 for module in (tower.module, *tower.blocks))

    def _inside(self, seats: Sequence[Seat], tower: Tower) -> bool:
        """Whether all these modules run within the tower: BLIP-2 embeds the words of its text tower before it."""
        return min(self.known.began(seat.module) for seat in seats) >= self.known.began(tower.module)

    def _ends_with(self, tower: Tower) -> bool:
        """Whether rows may multiply at the entry of this tower: no other tower takes what it gives."""
        if tower.name not in self.known.arguments or tower.module is self.engine.module:
            return tower.module is self.engine.module and tower.name in self.known.arguments
        ended = self.known.ended(tower.module)
        others = [t for t in self.engine.towers.values() if t.module is not tower.module]
        return self.engine.family.kind == "contrastive" or all(self.known.began(t.module) < ended for t in others)

    def _resumable(self, tower: Tower) -> bool:
        """Whether the tower can be re-run from a position on: a cache was filled, no mask of more than two axes."""
        if tower.name not in self.known.caches or not tower.blocks:
            return False
        _, kwargs = self.known.arguments[tower.name]
        mask = kwargs.get("attention_mask")
        flat = mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)
        eager = getattr(getattr(tower.module, "config", None), "_attn_implementation", None) == "eager"
        if flat and eager and mask is not None and not bool(mask.all()):
            return False  # there padding attends to all positions, later ones too
        own = getattr(self.known.caches[tower.name], "self_attention_cache", self.known.caches[tower.name])
        return (
            flat
            and len(own.layers) == len(tower.blocks)
            and all(self._attention(tower, i) for i in range(len(tower.blocks)))
        )

    def _attention(self, tower: Tower, layer: int, part: str = "attn") -> Any:
        seat = self.engine.seats.get(f"{tower.name}.{layer}.{part}.q")
        return seat.module if seat and hasattr(seat.module, "layer_idx") and hasattr(seat.module, "config") else None

    def _length(self, tower: str) -> int:
        return self._entering(tower)[1]

    def _entering(self, tower: str) -> tuple[int, int]:
        """Rows and positions of the words that enter a tower; no positions where none do."""
        _, kwargs = self.known.arguments.get(tower, ((), {}))
        found = [value for name in ("inputs_embeds", "input_ids") if isinstance(value := kwargs.get(name), Tensor)]
        return (int(found[0].shape[0]), int(found[0].shape[1])) if found else (0, 0)

    def _positions(self, need: Need) -> int:
        rows, length = self._entering(need.tower)
        return rows * (length - need.start) if need.way in ("suffix", "tower") else 0

    # --- costs --------------------------------------------------------------------------------------------------------

    def _cost(self, need: Need, cells: Sequence[int]) -> float:
        """FLOPs of one cell run this way, beside these others."""
        key = (need.way, need.tower, need.since, need.start, self._last_mlp(cells) is None)
        if key not in self.costs:
            self.costs[key] = self._counted(need, cells)
        return self.costs[key]

    def _counted(self, need: Need, cells: Sequence[int]) -> float:
        live = self.work.outer(need.since)
        if need.way in ("tower", "suffix") and self.engine.family.kind == "contrastive":
            live = [unit for unit in live if self.homes[id(unit)].name == need.tower]
        length = self._length(need.tower)
        share = (length - need.start) / length if need.way == "suffix" else 1.0
        return sum(self.work.flops(unit, need.since, share) for unit in live) - self._left_out(need, cells)

    def _left_out(self, need: Need, cells: Sequence[int]) -> float:
        """What an MLP does not compute that works on the last position alone."""
        mlp, blocks = self._last_mlp(cells), self.engine.towers["text"].blocks if "text" in self.engine.towers else ()
        if mlp is None or self.known.ended(blocks[-1]) < need.since:
            return 0.0
        weights = sum(parameter.numel() for parameter in mlp.parameters() if parameter.dim() > 1)
        return 2.0 * weights * max(0, self._length("text") - need.start - 1) * self._rows_of(self.known.outputs)

    def _row_bytes(self, way: Way, needs: Sequence[Need]) -> int:
        """Rough memory of one cell's rows: of the widest live block, and of the decoder of whole drawings."""
        starts = [need.start for need in needs if need.way == way]
        if not starts:
            return 1
        most = self.work.row_bytes(min(starts) if way == "suffix" else 0)
        coder = getattr(self.engine.pipeline, "vae", None) if self.together else None
        if coder is not None:  # decodes all pictures at once
            images, width = tensors(self.known.outputs)[0], int(coder.config.block_out_channels[0])
            most = max(most, 4 * width * images.numel() // images.shape[1] * images.element_size())
        return most

    def _rows_of(self, outputs: Any) -> int:
        return next((len(tensor) for tensor in tensors(outputs) if tensor.dim()), 1)

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self, chunk: Chunk) -> list[Run]:
        """One run for each cell of a chunk, each as if it had been run alone."""
        n, engine = len(chunk.cells), self.engine
        if chunk.way == "plain":
            own, several = self.inputs, [[edit for _, edit in self.bound[i]] for i in chunk.cells]
            return [engine.run(own, edits=edits, **own.call.sweeping) for edits in several]
        bound = [pair for i in chunk.cells for pair in self.bound[i]]
        shares = [(at, n) for at, i in enumerate(chunk.cells) for _ in self.bound[i]] if n > 1 else []
        session = engine.session(bound, inputs=self.inputs, shares=shares)
        tower = engine.towers[chunk.tower]
        with torch.no_grad(), ExitStack() as stack:
            stack.enter_context(session)
            stack.enter_context(self._given_back(chunk, tower, n))
            stack.enter_context(last_only(self._last_mlp(chunk.cells)))
            inputs = self.inputs
            if chunk.way == "whole" and n > 1:
                call, given = inputs.call.in_cells(inputs.tensors, n, self.plan.rows)
                inputs = replace(inputs, call=call, tensors=given)
            if chunk.way in ("tower", "suffix"):
                self._enter_tower(stack, chunk, tower, n)
            outputs = inputs.call(engine.module, inputs.tensors, **self.options)
        session.check()
        return [self._cell(outputs, chunk, at, i) for at, i in enumerate(chunk.cells)]

    def _last_mlp(self, cells: Sequence[int]) -> nn.Module | None:
        """The MLP before the logits, when only the last of these are read and none of its sites is edited."""
        end = self.engine.seats.get("text.logits")
        if "logits_to_keep" not in self.options or end is None:
            return None
        last = len(end.tower.blocks) - 1
        seat = self.engine.seats.get(f"{end.tower.name}.{last}.mlp.out")
        edited = {seat.site for i in cells for seat, _ in self.bound[i]}
        touched = any(site.layer == last and site.part.startswith("mlp.") for site in edited)
        alone = seat is not None and seat.kind == "out" and not seat.view.flat  # a flat tensor has no last position
        return seat.module if seat is not None and alone and not touched else None

    def _given_back(self, chunk: Chunk, tower: Tower, n: int) -> Any:
        """Stand-ins for all units that had ended before the edit, fitted to the rows where they multiply."""
        apart = chunk.way in ("tower", "suffix")
        contrastive = apart and self.engine.family.kind == "contrastive"

        def before(unit: nn.Module) -> int:
            return 1 << 60 if contrastive and self.homes[id(unit)].name != tower.name else chunk.since

        ended = [self.known.ended(block) for block in tower.blocks]
        last = max((time for time in ended if 0 <= time < chunk.since), default=-1)

        def change(unit: nn.Module, output: Any) -> Any:
            if apart and self.homes[id(unit)].name != tower.name:
                return mapped(output, torch.clone)
            cut = chunk.start if chunk.way == "suffix" else 0
            if cut and self.known.ended(unit) != last:  # the next block is given back too: nobody writes into this
                return mapped(output, lambda x: spread(x[:, cut:], n))
            if self.together and self.homes[id(unit)].stepped:
                rows = len(self.inputs.drawn) * self.inputs.copies
                return mapped(output, lambda x: in_guidance(x, n, rows))
            return mapped(output, lambda x: repeated(x[:, cut:] if cut else x, n))

        return replaying(self.known, self.homes, self.units, before, change)

    def _enter_tower(self, stack: ExitStack, chunk: Chunk, tower: Tower, n: int) -> None:
        """Multiply the rows where the tower begins; for a suffix, over the clean cache and from `start` on."""
        args, kwargs = self.known.arguments[tower.name]
        cut = chunk.start if chunk.way == "suffix" else 0

        def fit(name: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {key: fit(name, entry) for key, entry in value.items()}
            if not isinstance(value, Tensor):
                return value
            if cut and name == "encoder_hidden_states":  # nobody reads them: their keys are in the cache
                return value
            at = {"input_ids": 1, "inputs_embeds": 1, "position_ids": -1, "cache_position": 0}.get(name)
            value = value if at is None else value.narrow(at, cut, value.shape[at] - cut)
            return in_rows(name, value, n, self.plan.rows)

        new_args = tuple(fit("", value) for value in args)
        new = {name: fit(name, value) for name, value in kwargs.items() if name != "past_key_values"}
        if "past_key_values" in kwargs:
            new["past_key_values"] = None
        if cut:
            new |= {"past_key_values": self._prefix(stack, chunk, tower, n), "use_cache": True}
        elif tower.name in self.known.caches:
            new["use_cache"] = False
        handle = tower.module.register_forward_pre_hook(
            lambda module, given, names: (new_args, new), with_kwargs=True, prepend=True
        )
        stack.callback(handle.remove)

    def _prefix(self, stack: ExitStack, chunk: Chunk, tower: Tower, n: int) -> Any:
        from cutaway.model.prefix import attending, shared

        held = self.engine.held.edits if self.engine.held is not None else ()
        edited = [seat for seat, _ in (*held, *(pair for i in chunk.cells for pair in self.bound[i]))]
        touched = {id(seat.module) for seat in edited if seat.kind in ATTENTION_KINDS}
        layers = range(len(tower.blocks))
        own, crossing = (
            [module for layer in layers if (module := self._attention(tower, layer, part)) is not None]
            for part in ("attn", "cross")
        )
        whole, crossed = ([m.layer_idx for m in some if id(m) in touched] for some in (own, crossing))
        cache = shared(self.known.caches[tower.name], chunk.start, n, whole, crossed)
        free, apart = ([m for m in some if id(m) not in touched] for some in (own, crossing))
        stack.enter_context(attending(free, apart, cache))
        return cache

    def _cell(self, outputs: Any, chunk: Chunk, at: int, cell: int) -> Run:
        """The outputs of one cell, shaped as those of a plain run."""
        n, length = len(chunk.cells), self._length(chunk.tower)

        def part(made: Any, clean: Any) -> Any:
            if hasattr(made, "to_tuple"):
                return type(made)(**{key: part(value, getattr(clean, key)) for key, value in entries(made).items()})
            if isinstance(made, dict):
                return {key: part(value, clean[key]) for key, value in made.items() if key in clean}
            if isinstance(made, list) and len(made) == n * len(clean):
                made = made[at * len(clean) : (at + 1) * len(clean)]
            if isinstance(made, list | tuple):
                return type(made)(part(a, b) for a, b in zip(made, clean, strict=True))
            if not isinstance(made, Tensor) or not isinstance(clean, Tensor):
                return made
            for axis in range(made.dim()):
                if n > 1 and made.shape[axis] == n * clean.shape[axis]:
                    made = made.narrow(axis, at * clean.shape[axis], clean.shape[axis])
            if chunk.way == "suffix" and made.dim() > 1 and made.shape[1] == length - chunk.start < clean.shape[1]:
                made = torch.cat([clean[:, : chunk.start], made], 1)
            return made

        edits = tuple(repr(edit) for _, edit in self.bound[cell])
        return Run(part(outputs, self.known.outputs), self.inputs, edits=edits, context=self.engine)
