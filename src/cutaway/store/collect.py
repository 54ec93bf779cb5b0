"""The rows of one batch: the model runs once, and of every reading only the rows that are asked for are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import StoreError
from cutaway.model.drawing import against
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading, Stop
from cutaway.model.sites import Site
from cutaway.model.steps import chosen_steps
from cutaway.model.windows import axes_of
from cutaway.store.places import Filter, Places, Words, places, table_of
from cutaway.store.spec import Kept


@dataclass(frozen=True)
class How:
    """Which rows are kept, in which dtype: kinds, positions or `Where`s; denoising steps; guidance rows; none: all."""

    keep: tuple[Filter, ...] = ()
    steps: tuple[int, ...] = ()
    guidance: tuple[str, ...] = ()
    dtype: torch.dtype | None = None


@dataclass(frozen=True, eq=False)
class Collected:
    """What one batch left: rows by site, the columns of each table, in the order of the items; texts by number."""

    rows: Mapping[str, Float[Tensor, "row *shape"]]
    columns: Mapping[str, Mapping[str, ndarray]]
    kept: Mapping[str, Kept]
    words: Words


def collect(
    model: Model, inputs: Inputs, sites: Sequence[Site], how: How, *, start: int = 0, words: Words | None = None
) -> Collected:
    """Run a batch, whose first item has the number `start`, no further than the last site, and keep its rows."""
    steps = chosen_steps(model.module, how.steps, inputs) if how.steps else None
    taker = _Taker(model, inputs, start, how, steps, Words() if words is None else words)
    if inputs.call.loops:
        output = "latent" if "vae" in model.towers and not any(site.tower.startswith("vae") for site in sites) else "pt"
        guided = any("guidance" in site.axes for site in sites) and len(how.guidance) == 1
        model.run(
            inputs, record=sites, into=taker, output=output,  # type: ignore[arg-type]
            guidance=how.guidance[0] if guided else "",
        )  # fmt: skip
    else:
        model.run(inputs, record=sites, into=taker, stop=True)
    return taker.collected()


@dataclass
class _Taker:
    """Takes each reading as it comes."""

    model: Model
    inputs: Inputs
    start: int
    how: How
    steps: Collection[int] | None
    words: Words
    uncond: Inputs | None = None
    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    known: dict[tuple[str, tuple[str, ...]], Places] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    made: dict[str, list[tuple[int, tuple[str, ...]]]] = field(default_factory=dict)

    def __call__(self, reading: Reading) -> None:
        site, axes = reading.site, axes_of(reading.site)
        stepped = "step" in site.axes and self.steps is not None
        if stepped and self.steps is not None and reading.step not in self.steps:
            if reading.step > max(self.steps):
                raise Stop  # all that is kept of this drawing is there
            return
        guided = [name for name in reading.guidance if not self.how.guidance or name in self.how.guidance]
        if reading.guidance and not guided:
            return
        value, sizes = reading.value, dict(zip(axes, reading.value.shape, strict=True))
        if len(guided) < len(reading.guidance):
            value = value[[reading.guidance.index(name) for name in guided]]
        places = self._places(site, sizes, tuple(guided))
        self._keep(site, _rows(value, axes), places, (reading.step if "step" in site.axes else -1, tuple(guided)))

    def _places(self, site: Site, sizes: Mapping[str, int], guided: tuple[str, ...]) -> Places:
        given = [(name, self._inputs(name)) for name in guided or ("",)]
        key = table_of(site, self.inputs, sizes), guided
        if key not in self.known:
            self.known[key] = places(
                self.model, given, site, sizes, start=self.start, keep=self.how.keep, words=self.words
            )
        return self.known[key]

    def _inputs(self, guidance: str) -> Inputs:
        """The inputs with the token maps of a guidance row: what guidance is against has words of its own."""
        if guidance != "uncond" or self.model.engine.pipeline is None:
            return self.inputs
        if self.uncond is None:
            self.uncond = against(self.model.engine.pipeline, dict(self.model.towers), self.inputs)
        return self.uncond

    def _keep(
        self, site: Site, value: Float[Tensor, "place *shape"], at: Places, when: tuple[int, tuple[str, ...]]
    ) -> None:
        name, flat = str(site), at.flat
        dtype = self.how.dtype or value.dtype
        whole = len(flat) == len(value)
        part = (value if whole else value.index_select(0, flat.to(value.device))).to("cpu", dtype, copy=whole)
        if (
            dtype == torch.float16
            and value.dtype != dtype
            and bool(part.isinf().any())
            and not bool(value.isinf().any())
        ):
            raise StoreError(
                f"'{name}' holds numbers up to {float(value.abs().max()):.3g}", expected="at most 65504 in float16",
                do="keep it in bfloat16 or float32 (`dtype=`)",
            )  # fmt: skip
        self.parts.setdefault(name, []).append(part)
        self.made.setdefault(name, []).append(when)
        self.kept[name] = Kept(site.axes, at.table, tuple(part.shape[1:]), str(dtype).removeprefix("torch."))

    def collected(self) -> Collected:
        """All of it, the rows of an item behind one another."""
        tables: dict[str, str] = {}
        for name, one in self.kept.items():
            first = tables.setdefault(one.table, name)
            if self.made[first] != self.made[name]:
                raise StoreError(
                    f"'{name}' and '{first}' ran in other steps or guidance rows, so their rows are not the same",
                    expected="sites that run together", do="harvest them into a store each",
                )  # fmt: skip
        columns = {table: self._columns(table, self.made[name]) for table, name in tables.items()}
        rows = {}
        for name, parts in self.parts.items():
            item = columns[self.kept[name].table]["item"]
            order = None if (np.diff(item) >= 0).all() else torch.from_numpy(np.argsort(item, kind="stable"))
            joined = parts[0] if len(parts) == 1 else torch.cat(parts)
            rows[name] = joined if order is None else joined[order]
        return Collected(rows, {table: _sorted(one) for table, one in columns.items()}, self.kept, self.words)

    def _columns(self, table: str, made: Sequence[tuple[int, tuple[str, ...]]]) -> dict[str, ndarray]:
        found = []
        for step, guided in made:
            columns = self.known[table, guided].columns
            found.append({**columns, "step": np.full(len(columns["item"]), step, np.int32)})
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _sorted(columns: Mapping[str, ndarray]) -> Mapping[str, ndarray]:
    order = np.argsort(columns["item"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _rows(value: Float[Tensor, "..."], axes: Sequence[str]) -> Float[Tensor, "place *shape"]:
    """A reading with guidance, row and positions in front, as one axis."""
    front = [axis for axis in ("guidance", "batch", "token", "query", "key", "height", "width") if axis in axes]
    order = [axes.index(axis) for axis in (*front, *(axis for axis in axes if axis not in front))]
    moved = value.permute(order)
    return moved.reshape(-1, *moved.shape[len(front) :])
