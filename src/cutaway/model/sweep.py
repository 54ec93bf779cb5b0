"""Sweeps: thousands of single interventions over one batch of inputs, planned, replayed, labelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import EditError, InputError
from cutaway.model.cells import Cells
from cutaway.model.edits import Edit, Patch
from cutaway.model.engine import Engine
from cutaway.model.fingerprint import fingerprint
from cutaway.model.inputs import Inputs
from cutaway.model.plan import Plan
from cutaway.model.replay import Replay
from cutaway.model.run import Run
from cutaway.model.targets import numbers

if TYPE_CHECKING:
    import xarray

Values = tuple[int, np.ndarray]  # the number of a chunk in the plan, and the target of each of its cells and rows
By = Callable[[Plan, Sequence[int]], Iterable[Values]]  # makes these chunks of a plan, in any order


@dataclass(frozen=True)
class Sweep:
    """The outcome: `values` on the axes of the cells and `row`, the target without any edit in `clean`.

    `seconds` is all the time it took, `clean_seconds` that of the one run without edits; `ran` counts the cells that
    were not in the file of `resume=` already.
    """

    values: xarray.DataArray
    clean: xarray.DataArray
    plan: Plan
    seconds: float
    clean_seconds: float
    ran: int

    @property
    def change(self) -> xarray.DataArray:
        """What each intervention changes: values - clean."""
        return self.values - self.clean

    def __repr__(self) -> str:
        axes = " × ".join(f"{size} {dim}" for dim, size in self.values.sizes.items())
        cells, one = len(self.plan.needs), self.clean_seconds
        ran = "" if self.ran == cells else f" for {self.ran} cells, the others were kept"
        return (
            f"Sweep({axes})\n{self.plan!r}\n  measured: {_time(self.seconds)}{ran}; "
            f"the clean run took {_time(one)}, so a plain loop over all cells would take about {_time(one * cells)}"
        )


def sweep(
    engine: Engine,
    inputs: Inputs,
    cells: Cells | Iterable[Edit | Sequence[Edit]],
    target: Callable[[Run], Tensor],
    *,
    progress: bool = True,
    memory: int = 2**30,
    resume: str | Path | None = None,
    told: Callable[[Plan], None] | None = None,
    by: By | None = None,
) -> Sweep:
    """`model.sweep`: see there."""
    started = time.perf_counter()
    cells = Cells.of(cells)
    check_cells(engine, inputs, cells)
    store = Chunks(Path(resume), _content(engine, inputs, cells, target)) if resume else None
    begun = Begun(engine, inputs, cells, target, memory)
    plan = begun.plan
    if told:
        told(plan)
    clean = begun.clean
    values = store.values(len(cells), len(clean)) if store else np.full((len(cells), len(clean)), np.nan)
    todo = [number for number, chunk in enumerate(plan.chunks) if np.isnan(values[list(chunk.cells)]).any()]
    made = by(plan, todo) if by else ((number, begun.values(number)) for number in todo)
    ran = sum(len(plan.chunks[number].cells) for number in todo)
    for number, found in _shown(plan, progress, made, len(cells) - ran):
        values[list(plan.chunks[number].cells)] = found
        if store:
            store.save(values)
    done, alone = _labelled(cells, values, clean, inputs.named(len(clean)))
    return Sweep(done, alone, plan, time.perf_counter() - started, begun.replay.clean_seconds, ran)


class Begun:
    """A sweep whose clean run is made: its plan, the target without edits, and the values of any chunk of the plan."""

    def __init__(
        self, engine: Engine, inputs: Inputs, cells: Cells, target: Callable[[Run], Tensor], memory: int
    ) -> None:
        self.target = target
        self.replay = Replay(engine, inputs, cells, last_logits=last_logits_only(target), memory=memory)

    @property
    def plan(self) -> Plan:
        """Which cells run together."""
        return self.replay.plan

    @cached_property
    def clean(self) -> Float[Tensor, "row"]:
        """The target without any edit."""
        run = Run(self.replay.known.outputs, self.replay.inputs, context=self.replay.engine)
        return numbers(self.target, run).detach().double().cpu()

    def values(self, number: int) -> Float[np.ndarray, "cell row"]:
        """The target of every cell of a chunk, by the number of the chunk in the plan."""
        runs = self.replay.run(self.plan.chunks[number])
        return np.stack([numbers(self.target, run, finite=False).detach().double().cpu().numpy() for run in runs])


def last_logits_only(target: Any) -> bool:
    """Whether a target says that it reads nothing but the logits of the last position; not one derived from it."""

    def home(name: str) -> type | None:
        return next((kind for kind in type(target).__mro__ if name in vars(kind)), None)

    return home("reads") is home("__call__") and getattr(target, "reads", "all") == "last logits"


def _labelled(
    cells: Cells, values: np.ndarray, clean: Tensor, named: Mapping[str, Sequence[Any]]
) -> tuple[xarray.DataArray, xarray.DataArray]:
    """Both on named axes; `named`: what the rows of a drawing are called."""
    import xarray

    rows = {word: ("row", names) for word, names in named.items()}
    shaped = values.reshape(*(cells.sizes or (len(cells),)), values.shape[1])
    made = xarray.DataArray(shaped, dims=(*cells.dims, "row"), coords={**cells.coords, **rows}, name="target")
    return made, xarray.DataArray(clean.numpy(), dims=("row",), coords=rows, name="clean")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"


def _shown(plan: Plan, progress: bool, made: Iterable[Values], kept: int) -> Iterator[Values]:
    """What is made of a plan's chunks, under the plan itself and a bar that counts cells."""
    if not progress:
        yield from made
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("sweeping"), BarColumn(), MofNCompleteColumn(), TextColumn("cells"), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        bar.console.print(repr(plan), markup=False, highlight=False)
        task = bar.add_task("", total=len(plan.needs), completed=kept)
        for number, found in made:
            yield number, found
            bar.advance(task, len(plan.chunks[number].cells))


def check_cells(engine: Engine, inputs: Inputs, cells: Cells) -> None:
    """Refuse no cells, and patches from a run whose positions are not those of these inputs."""
    if not len(cells):
        raise InputError("a sweep over no cells", expected="at least one edit", do="`model.grid(edit, token=…)`")
    for edit in (edit for edits in cells.edits for edit in edits):
        if not isinstance(edit, Patch) or not isinstance(edit.source, dict):
            continue
        for site in engine.sites[edit.pattern]:
            tensor, known = edit.source.get(str(site)), inputs.tokens.get(site.tower)
            if "step" in site.axes:  # streams and levels of a denoiser have positions of their own
                continue
            if tensor is None or known is None or "token" not in site.axes or site.part.startswith("cross."):
                continue
            if tensor.dim() == len(site.axes) and tensor.shape[site.axes.index("token")] != len(known):
                raise EditError(
                    f"{edit!r}: the other run has {tensor.shape[site.axes.index('token')]} positions, "
                    f"these inputs have {len(known)}",
                    expected="prompts of equal length, position for position",
                    do="reword one of them, or say which position goes where: `aligned(run, positions)`",
                )


class Chunks:
    """Values on disk, so that an interrupted sweep goes on where it was; they are known by what they depend on."""

    def __init__(self, path: Path, content: str) -> None:
        self.path, self.content = path, content
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"no folder can be made at '{path.parent}' ({error.strerror})", do=_OTHER) from error
        if path.is_dir():
            raise InputError(f"'{path}' is a folder", expected="the path of a file, there already or not", do=_OTHER)

    def values(self, cells: int, rows: int) -> np.ndarray:
        """What is there already, NaN where nothing is."""
        if not self.path.exists():
            return np.full((cells, rows), np.nan)
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                content, found = (file.metadata() or {}).get("sweep"), file.get_tensor("values").numpy()
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"'{self.path}' cannot be read as the values of a sweep ({error})",
                expected="a file that `resume=` wrote, whole", do=f"remove it if it is damaged, or {_OTHER}",
            ) from error  # fmt: skip
        if content != self.content or found.shape != (cells, rows):
            raise InputError(
                f"'{self.path}' holds another sweep",
                expected="the same weights, inputs, cells, target and edits held around", do=f"{_OTHER}, or remove it",
            )  # fmt: skip
        return np.array(found)

    def save(self, values: np.ndarray) -> None:
        """Write all values, at once or not at all."""
        from safetensors.torch import save_file

        new = self.path.with_name(self.path.name + ".new")
        save_file({"values": torch.from_numpy(values)}, new, {"sweep": self.content})
        new.replace(self.path)


_OTHER = "give another file to `resume=`"


def held_edits(engine: Engine) -> list[Edit]:
    """The edits that `model.edited` holds in place around this moment, in their order."""
    held = engine.held.edits if engine.held is not None else ()
    return list({id(edit): edit for _, edit in held}.values())


def _content(engine: Engine, inputs: Inputs, cells: Cells, target: Callable[[Run], Tensor]) -> str:
    """A digest of all that the values of a sweep depend on."""
    kind = engine.device.type
    numeric = torch.is_autocast_enabled(kind) and str(torch.get_autocast_dtype(kind))
    return fingerprint(engine, held_edits(engine), inputs, cells.edits, target, numeric)
