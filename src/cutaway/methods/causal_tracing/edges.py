"""What each edge of a model's graph carries of an answer: by gradients, along paths, or exactly, edge by edge."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.pair import MEMORY, Pair, pairs_of
from cutaway.methods.causal_tracing.paths import AT_ONCE, swept_edges
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.edits import Add, Edit, Patch
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.streams import Receiver, by_row, lead, stream_of
from cutaway.model.targets import Target, numbers
from cutaway.questions.rows import Rows

METHOD = "edge_attribution"
SOURCE = (
    "Syed, Rager, Conmy 2023, arXiv 2310.10348 (EAP); Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806 (EAP-IG); "
    "Goldowsky-Dill et al. 2023, arXiv 2304.05969 (exact)"
)
How = Literal["eap", "eap-ig", "eap-ig-activations", "exact"]
HOWS = ("eap", "eap-ig", "eap-ig-activations", "exact")


@dataclass(frozen=True, eq=False, repr=False)
class EdgeAttribution(Result):
    """What the target loses when an edge alone carries the counterfactual: `score` (sender, receiver), mean over pairs.

    Above 0: the edge speaks for the answer. NaN where there is no edge. `error`: the standard error over pairs (NaN of
    one). `clean`, `corrupted` (pair): the target of either run, in whose unit all of it is.
    """

    main: ClassVar[str] = "score"

    def ranked(self) -> Any:
        """Every edge as a table: sender, receiver, score, error; the largest first, whichever way they go."""
        table = self.data[["score", "error"]].to_dataframe().reset_index()
        table = table[table["score"].notna()]
        return table.iloc[table["score"].abs().argsort(kind="stable")[::-1]].reset_index(drop=True)

    def summary(self) -> Any:
        """The twelve largest edges."""
        return self.ranked().head(12)

    def note(self) -> str:
        """How far apart the two runs are."""
        gap = float((self["clean"] - self["corrupted"]).mean())
        return f"The counterfactual moves the target by {gap:.3f} on average over {self.data.sizes['pair']} pairs."

    def _draw(self, ax: Axes) -> None:
        heat(ax, self["score"], "what the target loses without the edge", diverging=True)


def edge_attribution(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    how: How = "eap-ig", points: int = 5, batch: int = 8, memory: int = MEMORY, progress: bool = True,
) -> EdgeAttribution:  # fmt: skip
    """What the target loses when one edge of the model's graph carries what it carries in the counterfactual run.

    A sender s (embedding, head, MLP, connector) writes c_s into a residual stream, a receiver r (queries, keys or
    values of a head, MLP, connector, end) reads the stream at x_r. Exactly: score(s, r) = m(x) - m(x | x_r <- x_r +
    c_s' - c_s), c' of the counterfactual run, what r makes of that going on through the clean run (`exact`: path
    patching of every edge, Goldowsky-Dill et al.). `eap`: its first order, <c_s - c_s', dm / dx_r> at the clean run.
    `eap-ig`: the gradient averaged over `points` Gauss-Legendre points between the two runs' embeddings;
    `eap-ig-activations`: between what each sublayer writes in the two, sublayer by sublayer. The graph goes through all
    towers: a LLaVA's vision tower ends in the connector, which writes into the text; a CLIP has two streams, a denoiser
    of joint attention too, of one evaluation (prepared Inputs: `model.inputs(prompt=…, step=3)`).

    `clean` and `counterfactual` are lists of inputs equal in number, or prepared Inputs; `questions.apart` makes both
    and the target of pairs of EmojiWorld. `memory` bounds the bytes that `batch` pairs hold. Units: those of the
    target. Source: Syed et al. 2023 (2310.10348), Hanna et al. 2024 (2403.17806), whose path is a left-hand sum where
    ours is Gauss-Legendre; `eap` and `exact` give the numbers of their code. Biases belong to no sender.

    Raises MethodError for streams to which blocks do not add (UNets, cross-attention, norms behind the sums), for pairs
    whose positions do not line up or that need more than `memory`, and where anything but words and latents differs
    (`asides.in_words_of`).

    What it can NOT tell: edges are judged one at a time, so copies that stand in for one another all look unneeded, and
    a gradient does not see what a softmax does over a long way. A score is no share. `faithfulness` says whether a set
    of edges carries the answer.

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> found = edge_attribution(model, ["a red dog"], ["a cat dog"], logit_diff("dog", "cat"), progress=False)
    >>> found["score"].dims, int(found["score"].notnull().sum())
    (('sender', 'receiver'), 190)
    """
    started = time.perf_counter()
    _check_options(how, points, batch)
    sums: _Sums | None = None
    for graph, pair in pairs_of(model, clean, counterfactual, target, batch, progress=progress, memory=memory):
        found = (
            swept_edges(model, graph, pair, min(memory, AT_ONCE)) if how == "exact"
            else _estimated(model, graph, pair, how, points)
        )  # fmt: skip
        sums = sums or _Sums(graph)
        sums.add(found, pair)
    assert sums is not None
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(sums.graph.record), how=how,
        points=points if "ig" in how else 0, target=repr(target), unit=getattr(target, "unit", ""),
    )  # fmt: skip
    return EdgeAttribution(sums.table(), told)


def _check_options(how: str, points: int, batch: int) -> None:
    if how not in HOWS or points < 1 or batch < 1:
        raise MethodError(
            f"how '{how}', {points} points, batches of {batch}", expected="a way, and whole numbers from 1 on",
            exists=", ".join(HOWS), do="the default is eap-ig at 5 points",
        )  # fmt: skip


class _Sums:
    """Sums over rows of scores and their squares."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.first, self.second = (np.zeros(graph.edges.shape) for _ in range(2))
        self.values: list[ndarray] = []
        self.corrupted: list[ndarray] = []

    def add(self, scores: Float[ndarray, "row sender receiver"], pair: Pair) -> None:
        self.first += scores.sum(0)
        self.second += (scores**2).sum(0)
        self.values.append(pair.values.numpy())
        self.corrupted.append(pair.corrupted.numpy())

    def table(self) -> xarray.Dataset:
        values, corrupted = np.concatenate(self.values), np.concatenate(self.corrupted)
        n = len(values)
        mean = self.first / n
        spread = np.sqrt(np.maximum(self.second / n - mean**2, 0) / (n - 1)) if n > 1 else np.full_like(mean, np.nan)
        dims, names = ("sender", "receiver"), self.graph.names
        data = {
            "score": (dims, np.where(self.graph.edges, mean, np.nan)),
            "error": (dims, np.where(self.graph.edges, spread, np.nan)),
            "clean": ("pair", values), "corrupted": ("pair", corrupted),
        }  # fmt: skip
        return xarray.Dataset(data, coords=dict(zip(dims, names, strict=True)))


# --- by gradients -----------------------------------------------------------------------------------------------------


def _estimated(model: Model, graph: Graph, pair: Pair, how: str, points: int) -> Float[ndarray, "row sender receiver"]:
    """First-order scores: differences of what is written times slopes where it is read, at a point or over a path."""
    falls = {one: graph.written(pair.clean, one) - graph.written(pair.corrupt, one) for one in graph.streams}
    found = np.zeros((len(pair.values), *graph.edges.shape))
    for edits, weight, chosen in _path(graph, pair, how, points):
        for at, stream, slope, before in slopes(model, graph, pair, edits):
            place = {sender: here for here, sender in enumerate(graph.into(stream))}
            ours = [i for i in place if i in chosen and graph.senders[i].time < before]
            if not ours:
                continue
            fall = falls[stream][[place[i] for i in ours]]
            made = torch.einsum("sbtd,rbtd->bsr", fall.to(slope), slope).double().cpu().numpy()
            for row, owner in enumerate(pair.owners(stream, made.shape[0])):
                found[owner][np.ix_(ours, at)] += weight * made[row]
    return found


def _path(graph: Graph, pair: Pair, how: str, points: int) -> Iterator[tuple[list[Edit], float, set[int]]]:
    """Where slopes are taken: the edits that lead there, its weight, and the senders that it counts for."""
    every = set(range(len(graph.senders)))
    if how == "eap":
        yield [], 1.0, every
        return
    nodes, weights = np.polynomial.legendre.leggauss(points)
    path = list(zip((nodes + 1) / 2, weights / 2, strict=True))
    if how == "eap-ig":
        begun = [s for s in graph.senders if s.begins]
        falls = [graph.writes(s, pair.clean, pair.here) - graph.writes(s, pair.corrupt, pair.there) for s in begun]
        for share, weight in path:
            yield (
                [Add(s.site, fall, float(share) - 1) for s, fall in zip(begun, falls, strict=True)],
                float(weight),
                every,
            )
        return
    for site in dict.fromkeys(sender.site for sender in graph.senders):
        ours = {i for i, sender in enumerate(graph.senders) if sender.site == site}
        fall = pair.clean[site] - pair.corrupt[site]
        for share, weight in path:
            yield [Patch(site, pair.corrupt[site] + float(share) * fall)], float(weight), ours


def slopes(
    model: Model, graph: Graph, pair: Pair, edits: Sequence[Edit] = ()
) -> Iterator[tuple[list[int], str, Float[Tensor, "receiver row token d_model"], int]]:
    """The slopes d target / d x_r under these edits: for receivers that make one site, by state that they read.

    Gives the numbers of the receivers, the stream, the slopes, and the time before which senders are in that state.
    """
    known = {site: one for one in graph.projected for site in one.sites}
    through = [one for one in graph.projected if one.holds(pair.clean)]
    sites = {str(receiver.site): receiver.site for receiver in graph.receivers}
    sites = {name: site for name, site in sites.items() if known.get(name) not in through}
    outs = list(dict.fromkeys(name for one in through for name in one.of.outs.values()))
    wanted = [*sites, *outs]
    more = [name for one in through for name in (one.of.norm, str(one.read))]
    states = [str(site) for receiver in graph.receivers for site, _ in receiver.reads]
    run = model.run(pair.here, record=list(dict.fromkeys([*wanted, *more, *states])), edits=edits, grad=True)
    with torch.inference_mode(False), torch.enable_grad():
        values = numbers(pair.target, run)
        if not values.requires_grad:
            raise MethodError("this target does not depend on what the model reads", do="choose another target")
        made = torch.autograd.grad(
            values.sum(), [run[name] for name in wanted], retain_graph=True, allow_unused=True, materialize_grads=True
        )
    found = dict(zip(wanted, made, strict=True))
    for one in through:
        yield one.receivers, stream_of(one.read), one.pulled(run, found), one.time
    for name, site in sites.items():
        at = [i for i, receiver in enumerate(graph.receivers) if receiver.site == site]
        first, slope = graph.receivers[at[0]], found[name]
        if first.ends:
            yield at, stream_of(site), by_row(slope, site)[None], first.reads[-1][1]
            continue
        cotangents = _apart(slope, site, len(at)) if first.head is not None else slope[None]
        for (state, before), pulled in zip(first.reads, _pulled(run, first, cotangents), strict=True):
            rows = pulled.flatten(1, 1 + lead(state)) if lead(state) else pulled
            yield at, stream_of(state), rows, before


def _apart(slope: Tensor, site: Site, count: int) -> Float[Tensor, "head ..."]:
    """The slope of each head alone, zero at the others."""
    axis = site.axes.index(site.head_axis or "head")
    shape = [1] * (slope.dim() + 1)
    shape[0] = shape[axis + 1] = count
    return slope[None] * torch.eye(count, dtype=slope.dtype, device=slope.device).view(shape)


def _pulled(run: Run, receiver: Receiver, cotangents: Tensor) -> list[Tensor]:
    """The slopes at the states that a receiver reads, each by its direct way alone."""
    states = [run[site] for site, _ in receiver.reads]

    def back(of: Tensor, wanted: list[Tensor], given: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(
            of, wanted, given, retain_graph=True, is_grads_batched=True, allow_unused=True, materialize_grads=True
        )
        return list(found)

    direct = back(run[receiver.site], states, cotangents)
    if receiver.at_once:
        return direct
    for later in range(len(states) - 1, 0, -1):  # a state that is read twice: once itself, once through later ones
        for earlier, more in enumerate(back(states[later], states[:later], direct[later])):
            direct[earlier] = direct[earlier] - more
    return direct
