"""Whether what is outside a circuit can stand in for it: the same edges cut from the circuit and from the model."""

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
from cutaway.methods.causal_tracing.circuit import Circuit
from cutaway.methods.causal_tracing.faithfulness import found_circuit
from cutaway.methods.causal_tracing.pair import MEMORY
from cutaway.methods.result import Provenance, Result
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.targets import Target
from cutaway.questions.rows import Rows

METHOD = "completeness"
SOURCE = "Wang et al. 2022, arXiv 2211.00593, section 4"
CUT = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class Completeness(Result):
    """f of what is left when the same edges K are cut from a circuit C and from the whole model M.

    `circuit` (cut, draw): f(C less K), `model` (cut, draw): f(M less K), `cut` the share of C that K is; `apart` their
    difference. `chance` (cut, draw): the difference of as many edges by chance in the place of C. `edges`: how many C
    has, of `possible`.
    """

    main: ClassVar[str] = "apart"

    @property
    def incompleteness(self) -> float:
        """The largest difference between model and circuit over all that was cut, in shares of the gap."""
        return float(abs(self["apart"]).max())

    def summary(self) -> Any:
        """Every share that was cut, mean over draws."""
        return self.data[["circuit", "model", "apart", "chance"]].mean("draw").to_dataframe().reset_index()

    def note(self) -> str:
        """What the model does without the circuit."""
        left = self["model"].sel(cut=1.0, method="nearest").mean("draw")
        return (
            f"Without {float(left['cut']):.0%} of the circuit's {int(self['edges'])} edges the model keeps "
            f"{float(left):.2f} of the gap; the largest difference is {self.incompleteness:.2f}."
        )

    def _draw(self, ax: Axes) -> None:
        for name, style in (("model", "-"), ("circuit", "--")):
            ax.plot(self["cut"], self[name].mean("draw"), style, marker="o", label=f"{name} without them")
        ax.set(xlabel="share of the circuit that is cut", ylabel="faithfulness")
        ax.legend(fontsize=8)


def completeness(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    circuit: Circuit | str | Path | None = None, cut: Sequence[float] = CUT, draws: int = 4, seed: int = 0,
    batch: int = 8, memory: int = MEMORY, progress: bool = True,
) -> Completeness:  # fmt: skip
    """Whether a circuit is all there is: f(C less K) beside f(M less K), the same edges K of C cut from both.

    f(S) = (m(S) - m(none)) / (m(M) - m(none)), m the mean target with the edges of S alone and all others as in the
    counterfactual run (`faithfulness`). With K empty the two are f(C) and 1; with K all of C the model's value says
    what the edges outside the circuit can do without it. K are `draws` parts of C by chance for each share `cut`.
    `chance`: the same for as many edges by chance in the place of C. `circuit`: one found before, or the file it was
    saved in; else the fewest edges with f >= 0.9 on these very pairs.

    Units: shares of the gap. Source: Wang et al. 2022 (2211.00593), section 4, who cut nodes and take the mean over
    other inputs for what is cut; ours are edges, and the counterfactual.

    Raises MethodError for edges that the model does not have, for shares outside 0 to 1, and for pairs that do not
    line up or need more than `memory` bytes, `batch` at a time.

    What it can NOT tell: a part of C that no draw cut may still have a stand-in outside; the greedy search of the
    source finds worse ones than chance does.

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> pair = ["a red dog"], ["a cat dog"], logit_diff("dog", "cat")
    >>> found = completeness(model, *pair, cut=(0, 1), draws=1, progress=False)
    >>> found["model"].sel(cut=0).values.round(6).tolist(), abs(found["circuit"].sel(cut=1)).values.round(6).tolist()
    ([1.0], [0.0])
    """
    started = time.perf_counter()
    if not cut or min(cut) < 0 or max(cut) > 1 or draws < 1:
        raise MethodError(
            f"{draws} draws of shares {tuple(cut)}", expected="one draw at least, and shares from 0 to 1",
            do="the default is four draws of a quarter each",
        )  # fmt: skip
    known = found_circuit(model, clean, counterfactual, target, circuit, batch, memory=memory, progress=progress)
    told = carried(
        model, clean, counterfactual, target, lambda graph: _cut(graph, known.mask(graph), cut, draws, seed),
        batch=batch, memory=memory, progress=progress,
    )  # fmt: skip
    pairs = told.f.reshape(-1, 2)
    own, chance = pairs[: len(cut) * draws].reshape(len(cut), draws, 2), pairs[len(cut) * draws :]
    data = xarray.Dataset(
        {
            "circuit": (("cut", "draw"), own[..., 0]), "model": (("cut", "draw"), own[..., 1]),
            "apart": (("cut", "draw"), own[..., 1] - own[..., 0]),
            "chance": (("cut", "draw"), (chance[:, 1] - chance[:, 0]).reshape(draws, len(cut)).T),
            "edges": len(known.edges), "possible": int(told.graph.edges.sum()),
        },
        coords={"cut": [float(share) for share in cut]},
    )  # fmt: skip
    provenance = Provenance.of(
        METHOD, SOURCE, started=started, model=model, seed=seed, cut=list(cut), draws=draws, circuit=repr(known),
        target=repr(target), unit=getattr(target, "unit", ""),
    )  # fmt: skip
    return Completeness(data, provenance)


def _cut(graph: Graph, own: Mask, cut: Sequence[float], draws: int, seed: int) -> list[Mask]:
    """What is left of a circuit and of the model, in turn: of this one, then of circuits by chance."""
    dice, made = np.random.default_rng(seed), list[Mask]()
    for inside in (own, *(parts_of(graph.edges, int(own.sum()), dice) for _ in range(draws))):
        for share in cut:
            for _ in range(draws if inside is own else 1):
                without = parts_of(inside, round(share * int(own.sum())), dice)
                made += [inside & ~without, graph.edges & ~without]
    return made
