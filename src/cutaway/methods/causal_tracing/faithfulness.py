"""How much of an answer the best edges carry alone, for circuits from a few edges to all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.carried import Carried, Mask, carried, opened
from cutaway.methods.causal_tracing.circuit import Circuit
from cutaway.methods.causal_tracing.edges import EdgeAttribution, edge_attribution
from cutaway.methods.causal_tracing.pair import MEMORY
from cutaway.methods.causal_tracing.patched import DRAWS
from cutaway.methods.result import Provenance, Result
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.targets import Target
from cutaway.questions.rows import Rows

METHOD = "faithfulness"
SOURCE = (
    "Mueller et al. 2025, arXiv 2504.13151 (MIB); Wang et al. 2022, arXiv 2211.00593; Hanna et al. 2024, 2403.17806"
)
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness(Result):
    """f(k) of circuits of the k best edges: 0 as in the counterfactual run, 1 as in the clean one.

    `faithfulness` (share) with a 95 % bootstrap interval over pairs (`low`, `high`), `edges` (share) how many edges
    that are; `random` (draw, share): the same for edges in an order by chance. `target` (share, pair), `clean`,
    `corrupted` (pair): the target itself. `score` (sender, receiver): the order, NaN where there is no edge.
    """

    main: ClassVar[str] = "faithfulness"

    @property
    def cpr(self) -> dict[str, float]:
        """The area under f (MIB's CPR) over shares (`linear`), and over their logarithm, of width 1 (`log`)."""
        return _areas(self["share"].values, self["faithfulness"].values)

    @property
    def cmd(self) -> dict[str, float]:
        """The area between f and 1 (MIB's CMD), over shares (`linear`) and over their logarithm (`log`)."""
        return _areas(self["share"].values, abs(1 - self["faithfulness"].values))

    def smallest(self, least: float = 0.9) -> int | None:
        """The fewest edges of those tried from which on f stays at `least` or above; None where it never does."""
        good = self["faithfulness"].values >= least
        if not good[-1]:
            return None
        return int(self["edges"].values[len(good) - np.argmin(good[::-1]) if not good.all() else 0])

    def circuit(self, least: float = 0.9) -> Circuit:
        """The fewest edges from which on f stays at `least`; MethodError where no number tried does."""
        count = self.smallest(least)
        if count is None:
            raise MethodError(
                f"no circuit tried keeps {least} of the gap", expected="a share that f reaches",
                exists=f"at most {float(self['faithfulness'].max()):.2f}", do="give larger `shares`",
            )  # fmt: skip
        table = self["score"].to_series().dropna()
        order = table.abs() if not self.provenance.options["signed"] else table
        best = order.sort_values(ascending=False, kind="stable").index[:count]
        about = {"method": self.provenance.method, "least": least, "target": self.provenance.options["target"]}
        about |= {"shared": shared} if (shared := _shared(self["receiver"].values.tolist())) > 1 else {}
        return Circuit(self.provenance.model, {(s, r): float(table[s, r]) for s, r in best}, about)

    def summary(self) -> Any:
        """Every size."""
        table = self.data[["edges", "faithfulness", "low", "high"]].to_dataframe().reset_index()
        if "random" in self.data:
            table["random"] = self["random"].mean("draw").values
        return table

    def note(self) -> str:
        """The areas."""
        cpr, cmd, few = self.cpr, self.cmd, self.smallest()
        said = f"From {few} edges on f stays at 0.9 or above." if few is not None else "f never stays at 0.9 or above."
        return (
            f"{said} CPR {cpr['linear']:.2f} (log {cpr['log']:.2f}), CMD {cmd['linear']:.2f} (log {cmd['log']:.2f}); "
            "half of a linear area lies above half of all edges, and any order ends at f = 1."
        )

    def _draw(self, ax: Axes) -> None:
        edges = np.maximum(self["edges"].values, 0.5)
        ax.fill_between(edges, self["low"], self["high"], alpha=0.2)
        ax.plot(edges, self["faithfulness"], marker="o", label="best edges")
        if "random" in self.data:
            ax.plot(edges, self["random"].mean("draw"), linestyle=":", color="gray", label="edges by chance")
        ax.axhline(1, color="gray", linewidth=0.8)
        ax.set_xscale("log")
        ax.set(xlabel="edges", ylabel="faithfulness")
        ax.legend(fontsize=8)


def faithfulness(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    order: EdgeAttribution | Circuit | str | Path | None = None, shares: Sequence[float] = SHARES, signed: bool = False,
    draws: int = 3, seed: int = 0, batch: int = 8, memory: int = MEMORY, progress: bool = True,
) -> Faithfulness:  # fmt: skip
    """How much of an answer the k best edges of a graph carry, all others as in the counterfactual run.

    f(k) = (m(C_k) - m(C_0)) / (m(N) - m(C_0)), m the mean target over pairs, C_k the k edges of largest |score| in
    `order` (largest score, if `signed`), C_0 none of them (the counterfactual run), N all (the clean run). Every
    receiver of a cut edge reads what that sender wrote in the counterfactual run, and what it makes of that goes on. Of
    a `Circuit` (or the file it was saved in) the sizes are its own edges, best first, and then all. Without an `order`
    it is made of these very pairs, by `edge_attribution`. `shares`: which k, as shares of all edges.

    Units: shares of the gap, and of edges. Source: Mueller et al. 2025 (2504.13151), section 3 (CPR, CMD), who cut in
    the same way; the areas over log k, intervals over pairs and the curve by chance (`draws` orders) are ours: with
    linear k, half of the area lies above half of all edges, and any order at all ends at 1.

    Raises MethodError for edges that the model does not have, and for pairs that do not line up or need more than
    `memory` bytes, `batch` at a time.

    What it can NOT tell: measured on the pairs from which the order was made it flatters the order; give others. A
    faithful circuit need not be the only one, or minimal, and f above 1 says that what was cut spoke against the
    answer.

    >>> import cutaway
    >>> from cutaway.methods import edge_attribution
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> pair = ["a red dog"], ["a cat dog"], logit_diff("dog", "cat")
    >>> found = faithfulness(model, *pair, order=edge_attribution(model, *pair, progress=False), progress=False)
    >>> abs(float(found["faithfulness"][0])) < 1e-9, round(float(found["faithfulness"][-1]), 6)
    (True, 1.0)
    """
    started = time.perf_counter()
    if order is None:
        order = edge_attribution(model, clean, counterfactual, target, batch=batch, memory=memory, progress=progress)
    elif not isinstance(order, EdgeAttribution):
        order = opened(order)
    known = order

    def circuits(graph: Graph) -> list[Mask]:
        dice, scores = np.random.default_rng(seed), scores_in(graph, known)
        orders = [_ranked(graph, scores, signed), *(dice.permutation(_listed(graph)) for _ in range(draws))]
        return [_first(graph, some, k) for some in orders for k in _counts(graph, known, shares)]

    found = carried(model, clean, counterfactual, target, circuits, batch=batch, memory=memory, progress=progress)
    graph = found.graph
    data = _table(found, _counts(graph, order, shares), seed)
    told_of = dict(zip(("sender", "receiver"), graph.names, strict=True))
    scores = np.where(graph.edges, scores_in(graph, order), np.nan)
    data = data.assign(score=(("sender", "receiver"), scores)).assign_coords(told_of)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, seed=seed, signed=signed, draws=draws, target=repr(target),
        unit=getattr(target, "unit", ""), order=repr(order), bootstrap=DRAWS,
    )  # fmt: skip
    return Faithfulness(data, told)


def found_circuit(
    model: Model, clean: Rows, counterfactual: Rows | None, target: Target | None, circuit: Circuit | str | Path | None,
    batch: int, *, memory: int, progress: bool,
) -> Circuit:  # fmt: skip
    """A circuit that is given, as it is or as a file, or the fewest edges that keep 90 % of the gap of these pairs."""
    if circuit is None:
        return faithfulness(
            model, clean, counterfactual, target, draws=0, batch=batch, memory=memory, progress=progress
        ).circuit()
    known = opened(circuit)
    if not known.edges:
        raise MethodError("this circuit has no edges", expected="one edge at least", do="give another, or none")
    return known


# --- which edges ------------------------------------------------------------------------------------------------------


def scores_in(graph: Graph, order: EdgeAttribution | Circuit) -> Float[ndarray, "sender receiver"]:
    """The score of every edge of a graph; 0 where none is known."""
    if isinstance(order, Circuit):
        graph.mask(order.edges)
        rows, columns = ({name: i for i, name in enumerate(names)} for names in graph.names)
        found = np.zeros(graph.edges.shape)
        for (sender, receiver), score in order.edges.items():
            found[rows[sender], columns[receiver]] = score
        return found
    table = order["score"]
    if [list(table["sender"].values), list(table["receiver"].values)] != [list(names) for names in graph.names]:
        raise MethodError(
            "these scores are of another graph", expected=repr(graph),
            exists=f"{table.sizes['sender']} senders, {table.sizes['receiver']} receivers",
            do="score the edges of this model on inputs that run through the same towers",
        )  # fmt: skip
    return np.nan_to_num(np.asarray(table.values, dtype=float))


def _counts(graph: Graph, order: EdgeAttribution | Circuit, shares: Sequence[float]) -> list[int]:
    total = int(graph.edges.sum())
    if isinstance(order, Circuit):
        own = len(order.edges)
        return sorted({0, own, *(round(share * own) for share in shares), total})
    if not shares or min(shares) < 0 or max(shares) > 1:
        raise MethodError(
            f"shares {tuple(shares)}", expected="shares of all edges, from 0 to 1", do="the default is MIB's"
        )
    return sorted({round(share * total) for share in shares})


def _shared(receivers: Sequence[str]) -> int:
    """How many heads have keys in common, by the names of queries and keys of a tower."""
    count = {part: sum(name.startswith("text.0.") and name.endswith(f".{part}") for name in receivers) for part in "qk"}
    return count["q"] // count["k"] if count["k"] else 1


def _listed(graph: Graph) -> ndarray:
    return np.flatnonzero(graph.edges)


def _ranked(graph: Graph, scores: ndarray, signed: bool) -> ndarray:
    """All edges, best first; equal ones in the order of the graph."""
    there = _listed(graph)
    size = scores.ravel()[there]
    return there[np.argsort(-(size if signed else abs(size)), kind="stable")]


def _first(graph: Graph, order: ndarray, count: int) -> Bool[ndarray, "sender receiver"]:
    found = np.zeros(graph.edges.size, dtype=bool)
    found[order[:count]] = True
    return found.reshape(graph.edges.shape)


# --- what comes out ---------------------------------------------------------------------------------------------------


def _table(found: Carried, counts: list[int], seed: int) -> xarray.Dataset:
    values, corrupted = found.values, found.corrupted
    made, f = (x.reshape(-1, len(counts), *x.shape[1:]) for x in (found.made, found.f))
    dice = np.random.default_rng(seed)
    again = dice.integers(0, len(values), (DRAWS, len(values)))
    low, high = np.full((2, len(counts)), np.nan)
    if len(values) > 1:
        base = corrupted[again].mean(1)
        ratios = (made[0][:, again].mean(-1) - base) / (values[again].mean(1) - base)
        low, high = np.quantile(ratios, (0.025, 0.975), axis=-1)
    data: dict[str, Any] = {
        "faithfulness": ("share", f[0]), "low": ("share", low), "high": ("share", high), "edges": ("share", counts),
        "target": (("share", "pair"), made[0]), "clean": ("pair", values), "corrupted": ("pair", corrupted),
    }  # fmt: skip
    if len(made) > 1:
        data["random"] = (("draw", "share"), f[1:])
    return xarray.Dataset(data, coords={"share": np.array(counts) / int(found.graph.edges.sum())})


def _areas(shares: ndarray, heights: ndarray) -> dict[str, float]:
    """Trapezoids over shares as they are, and over their logarithm scaled to width 1."""
    there = shares > 0
    logs = np.log(shares[there])
    width = logs[-1] - logs[0]
    return {
        "linear": float(np.trapezoid(heights, shares)),
        "log": float(np.trapezoid(heights[there], logs) / width) if width > 0 else float("nan"),
    }
