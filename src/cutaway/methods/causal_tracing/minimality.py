"""Whether a circuit needs each of its edges: what it loses without one, beside what an edge by chance would add."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray
from matplotlib.axes import Axes

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.carried import Mask, carried, parts_of
from cutaway.methods.causal_tracing.circuit import Circuit, Edge
from cutaway.methods.causal_tracing.faithfulness import found_circuit
from cutaway.methods.causal_tracing.pair import MEMORY
from cutaway.methods.result import Provenance, Result
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.targets import Target
from cutaway.questions.rows import Rows

METHOD = "minimality"
SOURCE = "Wang et al. 2022, arXiv 2211.00593, section 4; Shi et al. 2024, arXiv 2410.13032 (the comparison with chance)"


@dataclass(frozen=True, eq=False, repr=False)
class Minimality(Result):
    """What a circuit C loses without each of its edges e, in shares of the gap.

    `loss` (edge): f(C) - f(C less e). `most` (edge): the largest change that taking e away makes to C or to C less a
    part K by chance, whichever way it goes. `chance` (draw): f(C and u) - f(C) for edges u by chance from outside.
    Coordinates `sender`, `receiver` (edge). `edges`: how many C has, of which `tried` at most are looked at.
    """

    main: ClassVar[str] = "loss"

    @property
    def bar(self) -> float:
        """The size that 95 % of the edges by chance stay below; NaN where none was drawn."""
        chance = abs(self["chance"].values)
        return float(np.quantile(chance, 0.95)) if len(chance) else float("nan")

    @property
    def needed(self) -> xarray.DataArray:
        """Which edges change more, with some part of the circuit gone, than 95 % of those by chance do."""
        return self["most"] > self.bar

    def summary(self) -> Any:
        """Every edge, the least needed first."""
        table = self.data[["sender", "receiver", "loss", "most"]].to_dataframe().reset_index(drop=True)
        return table.sort_values("most", kind="stable").reset_index(drop=True)

    def note(self) -> str:
        """How many are needed."""
        count = int(self.needed.sum())
        return (
            f"{count} of {self.data.sizes['edge']} edges tried change f by more than {self.bar:.3f}, below which 95 % "
            f"of {self.data.sizes['draw']} edges by chance stay; the largest loss is {float(self['loss'].max()):.2f}."
        )

    def _draw(self, ax: Axes) -> None:
        order = np.argsort(self["loss"].values)[::-1]
        ax.plot(self["loss"].values[order], marker=".", label="without the edge")
        ax.plot(self["most"].values[order], ".", alpha=0.5, label="largest change")
        ax.axhline(self.bar, linestyle=":", color="gray", label="95 % of edges by chance")
        ax.set(xlabel="edges of the circuit, by loss", ylabel="share of the gap")
        ax.legend(fontsize=8)


def minimality(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    circuit: Circuit | str | Path | None = None, tried: int = 32, parts: int = 2, draws: int = 20, seed: int = 0,
    batch: int = 8, memory: int = MEMORY, progress: bool = True,
) -> Minimality:  # fmt: skip
    """Whether a circuit needs each of its edges: what it loses without one, beside what one by chance would add.

    loss(e) = f(C) - f(C less e), f as in `faithfulness`. An edge whose copy stands in for it loses nothing alone, so
    it is also taken from C less K, for `parts` halves K of C by chance: most(e) is the largest change there or in C.
    `chance` is the change that each of `draws` edges from outside makes when it is added to C: an edge of C that
    changes no more might as well be any. `circuit`: one found before, or the file it was saved in; else the fewest
    edges with f >= 0.9 on these very pairs. Of one with more edges than `tried`, so many by chance are taken away.

    Units: shares of the gap. Source: Wang et al. 2022 (2211.00593), section 4, who choose K by hand; the comparison is
    like that of Shi et al. 2024 (2410.13032), who add and cut whole paths and test ranks.

    Raises MethodError for edges that the model does not have and for pairs that do not line up or
    need more than `memory` bytes, `batch` at a time.

    What it can NOT tell: an edge that no drawn part lays bare counts as not needed. The edges of C were chosen and the
    others were not, so on the pairs that chose them the comparison flatters C.

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> pair = ["a red dog"], ["a cat dog"], logit_diff("dog", "cat")
    >>> found = minimality(model, *pair, tried=4, draws=4, progress=False)
    >>> found["loss"].dims, bool((found["most"] >= abs(found["loss"])).all())
    (('edge',), True)
    """
    started = time.perf_counter()
    if parts < 0 or draws < 1 or tried < 1:
        raise MethodError(
            f"{tried} edges, {parts} parts, {draws} edges by chance", expected="one edge at least, parts from 0 on",
            do="the default is 32, 2 and 20",
        )  # fmt: skip
    known = found_circuit(model, clean, counterfactual, target, circuit, batch, memory=memory, progress=progress)
    every = list(known.edges)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(every))[:tried])
    some = [every[at] for at in chosen]
    told = carried(
        model, clean, counterfactual, target, lambda graph: _lessened(graph, known, some, parts, draws, seed),
        batch=batch, memory=memory, progress=progress,
    )  # fmt: skip
    size = 1 + len(some)
    inside, beside = told.f[: (1 + parts) * size].reshape(1 + parts, size), told.f[(1 + parts) * size :]
    losses = inside[:, :1] - inside[:, 1:]
    senders, receivers = zip(*some, strict=True)
    data = xarray.Dataset(
        {
            "loss": ("edge", losses[0]), "most": ("edge", abs(losses).max(0)),
            "chance": ("draw", beside - inside[0, 0]), "f": inside[0, 0], "edges": len(every),
        },
        coords={"sender": ("edge", list(senders)), "receiver": ("edge", list(receivers))},
    )  # fmt: skip
    provenance = Provenance.of(
        METHOD, SOURCE, started=started, model=model, seed=seed, tried=tried, parts=parts, draws=draws,
        circuit=repr(known), target=repr(target), unit=getattr(target, "unit", ""),
    )  # fmt: skip
    return Minimality(data, provenance)


def _lessened(
    graph: Graph, known: Circuit, some: Sequence[Edge], parts: int, draws: int, seed: int
) -> list[Mask]:  # fmt: skip
    """The circuit, and halves of it, whole and less each of some edges; then with an edge by chance beside it."""
    dice, own = np.random.default_rng(seed), known.mask(graph)
    left = [own, *(own & ~parts_of(own, len(known.edges) // 2, dice) for _ in range(parts))]
    made = [each for one in left for each in (one, *(one & ~graph.mask([edge]) for edge in some))]
    outside = graph.edges & ~own
    more = [parts_of(outside, 1, dice) for _ in range(draws if outside.any() else 0)]
    return [*made, *(own | one for one in more)]
