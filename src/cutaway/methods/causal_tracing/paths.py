"""What follows when receivers, and they alone, hear senders as they were in another run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.methods.causal_tracing.pair import Pair
from cutaway.model.edits import Edit, Patch
from cutaway.model.graph import Graph
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.streams import Sender, by_row, laid, stream_of

AT_ONCE = 2**29  # bytes of what receivers make, held at once


class At(Edit):
    """An edit that computes what it writes from what is there, rows in front."""

    def __init__(self, site: Site, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(site)
        object.__setattr__(self, "change", change)

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """What is computed of it, in its place."""
        assert isinstance(self.site, Site)
        return self.change(by_row(current, self.site)).reshape(current.shape)  # type: ignore[attr-defined]


def swept_edges(model: Model, graph: Graph, pair: Pair, memory: int = AT_ONCE) -> Float[ndarray, "row sender receiver"]:
    """What the target loses when an edge carries the counterfactual, every edge alone: one cell of a sweep each."""
    found = np.zeros((len(pair.values), *graph.edges.shape))
    rows = pair.values.numpy()
    for senders, made in _made(model, graph, pair, memory):
        cells: list[list[Edit]] = []
        names: list[tuple[int, int]] = []
        for share, at in enumerate(senders):
            for to in np.flatnonzero(graph.edges[at]).tolist():
                edit = _heard(graph, pair, to, made, share, len(senders))
                if edit is not None:
                    cells.append([edit])
                    names.append((at, to))
        if not cells:
            continue
        values = model.sweep(pair.here, cells, pair.target, progress=False, memory=memory).values.values
        for (at, to), value in zip(names, values, strict=True):
            found[:, at, to] = rows - value
    return found


def _made(model: Model, graph: Graph, pair: Pair, memory: int) -> Iterator[tuple[Sequence[int], Mapping[str, Tensor]]]:
    """What every receiver makes when all it reads has one sender as in the counterfactual run, some senders at a time.

    Every state is put in place at every layer, so one run of several copies of the rows serves all receivers: nothing
    that one of them makes reaches another.
    """
    states = {site: time for receiver in graph.receivers for site, time in receiver.reads}
    held = sum(pair.clean[name].numel() * pair.clean[name].element_size() for name in graph.record)
    step = 1 if graph.packed else max(1, memory // max(1, held))
    made = dict.fromkeys(receiver.site for receiver in graph.receivers)
    noted: dict[str, Tensor] = {}

    def note(x: Tensor, site: Site) -> Tensor:
        noted[str(site)] = x.clone()
        return x

    made_before = dict.fromkeys(one.site for one in graph.receivers if one.site in states and not one.ends)
    first: list[Edit] = [At(site, partial(note, site=site)) for site in made_before]
    for start in range(0, len(graph.senders), step):
        some = range(start, min(start + step, len(graph.senders)))
        edits = first + [
            Patch(site, laid(torch.cat([_moved(graph, pair, site, time, graph.senders[at]) for at in some]), site))
            for site, time in states.items()
        ]
        run = model.run(copies(pair.here, len(some)), record=[*map(str, made)], edits=edits)
        yield some, {**run.activations, **noted}


def copies(inputs: Inputs, n: int) -> Inputs:
    """The same rows n times over."""
    return inputs if n == 1 else Inputs.stack([inputs] * n)


def _moved(graph: Graph, pair: Pair, site: Site, time: int, sender: Sender) -> Tensor:
    """A state of the clean run with what a sender wrote before it as in the counterfactual run."""
    clean = by_row(pair.clean[site], site)
    if sender.stream != stream_of(site) or sender.time >= time:
        return clean
    other, own = graph.writes(sender, pair.corrupt, pair.there), graph.writes(sender, pair.clean, pair.here)
    return clean + other - own


def _heard(graph: Graph, pair: Pair, receiver: int, made: Mapping[str, Tensor], share: int, of: int) -> Edit | None:
    """The edit that lets a receiver make what it makes in a copy of the rows; None where that is what it made.

    From the first position on at which it is anything else: a sweep need not run those before.
    """
    one = graph.receivers[receiver]
    every, clean = (by_row(x, one.site) for x in (made[str(one.site)], pair.clean[one.site]))
    rows = len(every) // of
    value = every[share * rows : (share + 1) * rows]
    where: dict[str, Any] = {} if one.head is None else {"head": one.head}
    own, there = (x if one.head is None else x[..., one.head, :] for x in (clean, value))
    moved = (own != there).any(-1).any(0).nonzero().flatten()
    if not len(moved):
        return None
    if pair.here.own(one.site, "token") is None and int(moved[0]):
        where["token"] = slice(int(moved[0]), None)
    return Patch(one.site, laid(value, one.site), **where)
