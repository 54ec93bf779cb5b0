"""What follows when receivers, and they alone, hear senders as they were in another run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.methods.causal_tracing.graph import Graph, Sender
from cutaway.methods.causal_tracing.pair import Pair
from cutaway.model.edits import Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site

MEMORY = 2**29  # bytes of what receivers make, held at once


def swept_edges(model: Model, graph: Graph, pair: Pair) -> Float[ndarray, "row sender receiver"]:
    """What the target loses when an edge carries the counterfactual, every edge alone: one cell of a sweep each."""
    found = np.zeros((len(pair.values), *graph.edges.shape))
    rows = pair.values.numpy()
    for senders, made in made_of(model, graph, pair, [[sender] for sender in graph.senders]):
        cells: list[list[Edit]] = []
        names: list[tuple[int, int]] = []
        for share, (sender,) in enumerate(senders):
            s = graph.senders.index(sender)
            for at in np.flatnonzero(graph.edges[s]).tolist():
                cells.append([_heard(graph, at, made, share, len(senders))])
                names.append((s, at))
        values = model.sweep(pair.here, cells, pair.target, progress=False, memory=MEMORY).values.values
        for (at, to), value in zip(names, values, strict=True):
            found[:, at, to] = rows - value
    return found


def patched_paths(
    model: Model, graph: Graph, pair: Pair, sets: Sequence[Sequence[Sender]], receivers: Iterable[int]
) -> Float[ndarray, "set row"]:
    """The target when these receivers, all at once, hear each set of senders as in the counterfactual run."""
    found, chosen = [], list(receivers)
    for senders, made in made_of(model, graph, pair, sets):
        cells = []
        for share, some in enumerate(senders):
            heard = [r for r in chosen if any(graph.edges[graph.senders.index(s), r] for s in some)]
            cells.append([_heard(graph, r, made, share, len(senders)) for r in heard])
        found.append(model.sweep(pair.here, cells, pair.target, progress=False, memory=MEMORY).values.values)
    return np.concatenate(found)


def made_of(
    model: Model, graph: Graph, pair: Pair, sets: Sequence[Sequence[Sender]]
) -> Iterator[tuple[list[Sequence[Sender]], Run]]:
    """What every receiver makes when all it reads has a set of senders as in the counterfactual run, sets by sets.

    Every state is put in place at every layer, so one run of several copies of the rows serves all receivers: nothing
    that one of them makes reaches another.
    """
    states = {site: time for receiver in graph.receivers for site, time in receiver.reads}
    held = sum(pair.clean[name].numel() * pair.clean[name].element_size() for name in graph.record)
    packed = any(model.towers[tower].packed for tower in graph.towers)
    step = 1 if packed else max(1, MEMORY // max(1, held))
    made = [*dict.fromkeys(str(receiver.site) for receiver in graph.receivers)]
    for start in range(0, len(sets), step):
        some = list(sets[start : start + step])
        edits = [
            Patch(site, torch.cat([_moved(graph, pair, site, time, of) for of in some]))
            for site, time in states.items()
        ]
        yield some, model.run(copies(pair.here, len(some)), record=made, edits=edits)


def copies(inputs: Inputs, n: int) -> Inputs:
    """The same rows n times over."""
    return inputs if n == 1 else Inputs.stack([inputs] * n)


def _moved(graph: Graph, pair: Pair, site: Site, time: int, senders: Sequence[Sender]) -> Tensor:
    """A state of the clean run with what these senders wrote before it as in the counterfactual run."""
    state = pair.clean[site]
    for sender in senders:
        if sender.tower == site.tower and sender.time < time:
            state = state + graph.writes(sender, pair.corrupt, pair.there) - graph.writes(sender, pair.clean, pair.here)
    return state


def _heard(graph: Graph, receiver: int, made: Run, share: int, of: int) -> Edit:
    """The edit that lets a receiver make what it makes in a copy of the rows."""
    one = graph.receivers[receiver]
    value = made[one.site]
    rows = len(value) // of
    return Patch(one.site, value[share * rows : (share + 1) * rows], **({} if one.head is None else {"head": one.head}))
