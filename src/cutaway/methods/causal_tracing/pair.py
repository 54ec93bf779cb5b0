"""Two runs of some pairs of inputs, with all that the graph of a model needs of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.graph import Graph
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.streams import lead, stream_of
from cutaway.model.targets import Target, numbers, of_rows
from cutaway.questions.pairs import batches, same_positions, sides
from cutaway.questions.rows import Rows, tracked

MEMORY = 2**32  # bytes of what the runs of some pairs hold


@dataclass(frozen=True, eq=False)
class Pair:
    """Some pairs of inputs, their two runs with all that the graph needs, and the target of each row."""

    here: Inputs
    there: Inputs
    clean: Run
    corrupt: Run
    target: Any
    values: Float[Tensor, "row"]
    corrupted: Float[Tensor, "row"]

    @classmethod
    def of(cls, model: Model, graph: Graph, here: Inputs, there: Inputs, target: Any, start: int = 0) -> Pair:
        """Run both; MethodError where their positions do not line up or nothing is moved."""
        for stream in graph.streams:
            same_positions(here, there, stream, start)
        clean, corrupt = (model.run(inputs, record=graph.record) for inputs in (here, there))
        graph.check(clean, corrupt)
        values, others = (numbers(target, run).detach().double().cpu() for run in (clean, corrupt))
        if torch.equal(values, others):
            raise MethodError(
                "the counterfactual does not move the target in any row", expected="inputs that are answered otherwise",
                exists=f"{len(values)} rows, all the same", do="give counterparts that differ in what is asked for",
            )  # fmt: skip
        return cls(here, there, clean, corrupt, target, values, others)

    def owners(self, tower: str, rows: int) -> list[int]:
        """The row of the target that each row of a tower belongs to."""
        found = self.here.rows(tower)
        if found is None or len(found) != rows or max(found) >= len(self.values):
            if len(self.values) == 1:
                return [0] * rows
            raise MethodError(
                f"the rows of '{tower}' lie behind one another, so no pair has scores of its own",
                expected="one pair at a time for such a tower", exists=f"{len(self.values)} pairs", do="`batch=1`",
            )  # fmt: skip
        return list(found)

    def unrelated(self) -> Pair | None:
        """The same pairs, each with the counterfactual of another; None of one pair, or of several pictures a row."""
        rows, run = len(self.values), self.corrupt
        axis = {name: lead(run.sites[name]) for name in run.activations}
        if rows < 2 or any(value.shape[axis[name]] != rows for name, value in run.activations.items()):
            return None
        moved = {name: value.roll(1, axis[name]) for name, value in run.activations.items()}
        return replace(self, corrupt=replace(self.corrupt, activations=moved), corrupted=self.corrupted.roll(1))


def pairs_of(
    model: Model, clean: Rows, counterfactual: Rows | None, target: Target | None, batch: int, *, progress: bool,
    memory: int = MEMORY,
) -> Iterator[tuple[Graph, Pair]]:  # fmt: skip
    """The pairs of a call, some at a time, and the graph that they run through."""
    tower = model.family.answers or "text"
    one, other, aim = sides(model, clean, counterfactual, target, tower)
    total = None if isinstance(one, Inputs) else -(-len(one) // batch)
    for start, stop, here, there in tracked(batches(model, one, other, tower, batch), "pairs", total, show=progress):
        graph = Graph.of(model, here)
        _check_memory(model, graph, here, memory)
        yield graph, Pair.of(model, graph, here, there, of_rows(aim, start, stop) if stop else aim, start)


def held(model: Model, graph: Graph, inputs: Inputs) -> int:
    """Bytes that a pair of runs holds: what both record, and thrice what every sender writes (two sides, their gap).

    What modules of the library say beside (`raw.`) has no size before a run and counts as a state.
    """
    states = {stream_of(site): str(site) for receiver in graph.receivers for site, _ in receiver.reads}
    known = [name for name in graph.record if not name.startswith("raw.")]
    found = model.estimate(inputs, list(dict.fromkeys([*known, *states.values()]))).by_site
    beside = (len(graph.record) - len(known)) * max(found[state] for state in states.values())
    written = sum(found[state] * len(graph.into(stream)) for stream, state in states.items())
    return 2 * (sum(found[name] for name in known) + beside) + 3 * written


def _check_memory(model: Model, graph: Graph, inputs: Inputs, memory: int) -> None:
    """MethodError, before anything is run, for pairs that hold more than that; a denoiser's sizes are not known yet."""
    if inputs.latent is not None:
        return
    need, pairs = held(model, graph, inputs), max(known.batch for known in inputs.tokens.values())
    if need > memory:
        fits = memory * pairs // need
        raise MethodError(
            f"{graph} takes {need / 2**20:,.1f} MiB for {pairs} pair{'s' * (pairs > 1)} at a time",
            expected=f"at most {memory / 2**20:,.1f} MiB (memory=)", exists=f"{need / pairs / 2**20:,.1f} MiB a pair",
            do=f"batch={fits}" if fits else "shorter inputs, a lower precision, or memory= as large as you have",
        )  # fmt: skip
