"""What a sender does to a receiver and through it alone: path patching of chosen senders and receivers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.methods.causal_tracing.pair import MEMORY, pairs_of
from cutaway.methods.causal_tracing.patched import DRAWS, interval
from cutaway.methods.causal_tracing.routes import Mask, routed
from cutaway.methods.result import Provenance, Result
from cutaway.model.graph import Graph, checked
from cutaway.model.model import Model
from cutaway.model.targets import Target
from cutaway.questions.rows import Rows

METHOD = "path_patching"
SOURCE = "Goldowsky-Dill et al. 2023, arXiv 2304.05969; Wang et al. 2022, arXiv 2211.00593, section 3.1"
SHOWN = 16


@dataclass(frozen=True, eq=False, repr=False)
class PathPatching(Result):
    """What the target loses when these receivers hear a sender as in the counterfactual run.

    `loss` (pair, sender), `mean`, `low`, `high` (sender) with a 95 % bootstrap interval; `random` (sender): the same,
    each sender as in the counterfactual of another pair. `clean`, `corrupted` (pair): the target of either run.
    """

    main: ClassVar[str] = "mean"

    def summary(self) -> Any:
        """The senders that matter most, whichever way."""
        table = self.data[["mean", "low", "high", "random"]].to_dataframe().reset_index()
        return table.iloc[table["mean"].abs().argsort(kind="stable")[::-1]].head(SHOWN)

    def note(self) -> str:
        """To whom, and how much all of it is."""
        gap = float((self["clean"] - self["corrupted"]).mean())
        heard = ", ".join(self.provenance.options["receivers"][:4])
        return f"Heard by {heard}. Between the two runs the target differs by {gap:.3f} on average."

    def _draw(self, ax: Axes) -> None:
        table = self.summary()[::-1]
        places = np.arange(len(table))
        ax.barh(
            places, table["mean"], xerr=np.nan_to_num([table["mean"] - table["low"], table["high"] - table["mean"]])
        )
        ax.plot(table["random"], places, "|", color="gray", label="of another pair")
        ax.set_yticks(places, table["sender"], fontsize=7)
        ax.set(xlabel="what the target loses")
        ax.legend(fontsize=8)


def path_patching(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    senders: str | Sequence[str] = "*", receivers: str | Sequence[str] = "*.end", seed: int = 0,
    batch: int = 8, memory: int = MEMORY, progress: bool = True,
) -> PathPatching:  # fmt: skip
    """What the target loses when some receivers hear one sender as in the counterfactual run, and no one else does.

    loss(s) = m(x) - m(x | x_r <- x_r + c_s' - c_s for all r in R): c_s is what s writes (embedding, head, MLP,
    connector), x_r the state that a receiver reads (queries, keys or values of a head, an MLP, the connector, an end),
    primes of the counterfactual run. What receivers make of it goes on, through the other receivers too. Senders and
    receivers are names or patterns: `text.1.attn[3]`, `text.*.mlp`; `text.2.attn[0].q`, `*.end`. Receivers at the end
    give direct effects. Senders behind all of these receivers lose nothing.

    Units: those of the target. Source: Goldowsky-Dill et al. 2023 (2304.05969), Wang et al. 2022 (2211.00593), whose
    paths go through all that lies between and holds no receiver; ours are single edges of the stream, so MLPs between
    the two stay as they were. The `random` baseline is ours.

    Raises MethodError for names that are not there, and for pairs that do not line up or need more than `memory` bytes,
    `batch` at a time.

    What it can NOT tell: what several senders do together, and whether a receiver would have heard the same elsewhere.

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> pairs = ["a red dog", "a blue dog"], ["a red cat", "a blue cat"]
    >>> found = path_patching(model, *pairs, logit_diff("dog", "cat"), senders="text.*.mlp", progress=False)
    >>> found["loss"].dims, [str(name) for name in found["sender"].values]
    (('pair', 'sender'), ['text.0.mlp', 'text.1.mlp', 'text.2.mlp'])
    """
    started = time.perf_counter()
    wanted, heard = ([one] if isinstance(one, str) else list(one) for one in (senders, receivers))
    losses: list[ndarray] = []
    strange: list[ndarray] = []
    ends: list[tuple[ndarray, ndarray]] = []
    for graph, pair in pairs_of(model, clean, counterfactual, target, batch, progress=progress, memory=memory):
        names, others = checked(graph, wanted, "senders"), checked(graph, heard, "receivers")
        chosen = [graph.names[1].index(name) for name in others]
        circuits = [_without(graph, graph.names[0].index(name), chosen) for name in names]
        rows, apart = pair.values.numpy(), pair.unrelated()
        losses.append((rows - routed(model, graph, pair, circuits)).T)
        if apart is not None:
            strange.append((rows - routed(model, graph, apart, circuits)).T)
        ends.append((rows, pair.corrupted.numpy()))
    loss = np.concatenate(losses)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, seed=seed, senders=wanted, receivers=others,
        target=repr(target), unit=getattr(target, "unit", ""), bootstrap=DRAWS,
    )  # fmt: skip
    return PathPatching(_table(loss, strange, ends, names, seed), told)


def _without(graph: Graph, sender: int, receivers: list[int]) -> Mask:
    """All edges but those from a sender to these receivers."""
    found = graph.edges.copy()
    found[sender, receivers] = False
    return found


def _table(
    loss: ndarray, strange: list[ndarray], ends: list[tuple[ndarray, ndarray]], names: list[str], seed: int
) -> xarray.Dataset:
    mean, low, high = interval(loss, seed)
    random = np.concatenate(strange).mean(0) if strange else np.full(loss.shape[1], np.nan)
    clean, corrupted = (np.concatenate(side) for side in zip(*ends, strict=True))
    data = {
        "loss": (("pair", "sender"), loss), "mean": ("sender", mean), "low": ("sender", low),
        "high": ("sender", high), "random": ("sender", random),
        "clean": ("pair", clean), "corrupted": ("pair", corrupted),
    }  # fmt: skip
    return xarray.Dataset(data, coords={"sender": names})
