"""A model with some edges alone: every other edge carries what it carries in the counterfactual run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.pair import Pair
from cutaway.methods.causal_tracing.paths import AT_ONCE, At, copies
from cutaway.model.edits import Edit, Patch
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.projected import Projected
from cutaway.model.sites import Site
from cutaway.model.streams import Receiver, laid, stream_of

Mask = Bool[ndarray, "sender receiver"]


def routed(model: Model, graph: Graph, pair: Pair, circuits: Sequence[Mask]) -> Float[ndarray, "circuit row"]:
    """The target of every row when the edges of a circuit are kept and all others carry the counterfactual.

    One run a circuit, of as many copies of the rows as receivers hear different things; then the states at the ends are
    put into the clean run, all circuits in one sweep.
    """
    if graph.packed:
        raise MethodError(
            "the rows of a tower lie behind one another, so they cannot be run several times side by side",
            expected="towers with a batch axis", exists=", ".join(graph.streams), do="use `edge_attribution` alone",
        )  # fmt: skip
    others = [graph.writes(sender, pair.corrupt, pair.corrupt.inputs) for sender in graph.senders]
    found: list[Float[ndarray, "row"]] = []
    cells: list[list[Edit]] = []
    per_cell = sum(pair.clean[one.site].nbytes for one in graph.receivers if one.ends)
    for mask in circuits:
        cells.append(_Routing(model, graph, pair, mask, others).ends())
        if len(cells) * per_cell > AT_ONCE or len(found) + len(cells) == len(circuits):
            found += list(model.sweep(pair.here, cells, pair.target, progress=False).values.values)
            cells = []
    return np.stack(found)


class _Routing:
    """One run of a circuit. The first copy of the rows is the run itself, the others lend it what receivers make.

    Queries, keys and values whose projections are known need no copy: they are made of what each head hears.
    """

    def __init__(self, model: Model, graph: Graph, pair: Pair, mask: Mask, others: list[Tensor]) -> None:
        self.model, self.graph, self.pair, self.mask, self.others = model, graph, pair, mask & graph.edges, others
        self.now: dict[int, Tensor] = {}
        self.held: dict[str, Tensor] = {}
        self.ended: dict[Site, Tensor] = {}
        self.direct = {r: one for one in graph.projected if one.holds(pair.clean) for r in one.receivers}
        self.heard: dict[int, Tensor] = {}
        self.copy = self._copies()
        self.n = 1 + max(self.copy.values(), default=0)

    def _copies(self) -> dict[int, int]:
        """The copy of each receiver: one for all that read the same state and hear the same senders in it.

        What reads states one after another has a copy to itself; what hears all it could is made in the run itself,
        copy 0.
        """
        found: dict[int, int] = {}
        several = [r for r, one in enumerate(self.graph.receivers) if not one.at_once]
        taken: dict[tuple[tuple[Site, int], ...], dict[bytes, int]] = {}
        for r, one in enumerate(self.graph.receivers):
            if r in self.direct or self._whole(r):
                found[r] = 0
            elif r in several:
                found[r] = 1 + several.index(r)
            else:
                there = taken.setdefault(one.reads, {})
                found[r] = there.setdefault(self.mask[:, r].tobytes(), 1 + len(several) + len(there))
        return found

    def _whole(self, r: int) -> bool:
        """Whether a receiver hears all that it could."""
        return bool((self.mask[:, r] == self.graph.edges[:, r]).all())

    def ends(self) -> list[Edit]:
        """Run, and give the states at the ends as edits."""
        last = [one.site for one in self.graph.receivers if one.ends]
        with torch.no_grad():
            self.model.run(copies(self.pair.here, self.n), record=last, edits=self._edits(), stop=True)
        return [Patch(site, laid(state, site)) for site, state in self.ended.items()]

    def _edits(self) -> list[Edit]:
        """In the order in which they act at a site: what is heard first, then what was made and is written."""
        graph, edits = self.graph, list[Edit]()
        written: dict[Site, list[int]] = {}
        made: dict[Site, list[int]] = {}
        read: dict[Site, list[int]] = {}
        for at, sender in enumerate(graph.senders):
            for site in sender.sites:
                written.setdefault(site, []).extend([at] if site == sender.sites[0] else [])
        for r, one in enumerate(graph.receivers):
            if not one.ends and r not in self.direct:
                made.setdefault(one.site, []).append(r)
            for site, _ in one.reads:
                read.setdefault(site, []).append(r)
        for known in dict.fromkeys(self.direct.values()):
            for name in dict.fromkeys(known.of.outs.values()):
                edits.append(At(self.model.sites.one(name), partial(self._projected, known=known, name=name)))
        edits += [At(site, partial(self._lent, receivers=some)) for site, some in made.items()]
        edits += [At(site, partial(self._noted, site=site, senders=each)) for site, each in written.items()]
        edits += [At(site, partial(self._told, site=site, receivers=some)) for site, some in read.items()]
        return edits

    def _lent(self, x: Tensor, receivers: list[int]) -> Tensor:
        """The run itself takes what each receiver makes in its copy."""
        rows, new = len(x) // self.n, x.clone()
        for r in receivers:
            at: Any = slice(None) if self.graph.receivers[r].head is None else self.graph.receivers[r].head
            where = (Ellipsis, at, slice(None))
            lent = x[self.copy[r] * rows : (self.copy[r] + 1) * rows]
            new[:rows][where] = lent[where]
        return new

    def _projected(self, x: Tensor, known: Projected, name: str) -> Tensor:
        """The run itself takes what each head's projection gives of what the head hears."""
        rows, new = len(x) // self.n, x.clone()
        for r in known.receivers:
            part = known.part(self.graph.receivers[r])
            head = self.graph.receivers[r].head
            if r in self.heard and known.of.outs[part] == name and head is not None:
                new[:rows, ..., known.of.place(part, head)] = known.of.made(part, head, self.heard[r])
        return new

    def _noted(self, x: Tensor, site: Site, senders: list[int]) -> Tensor:
        """What senders write in the run itself: known when the last of the sites that say it has come."""
        self.held[str(site)] = x[: len(x) // self.n]
        for at in senders:
            self.now[at] = self.graph.writes(self.graph.senders[at], self.held, self.pair.here)
        return x

    def _told(self, x: Tensor, site: Site, receivers: list[int]) -> Tensor:
        """Each copy hears the kept senders as they are and the others as in the counterfactual run."""
        rows, new = len(x) // self.n, x.clone()
        own, ours = x[:rows], self.graph.into(stream_of(site))
        states: dict[bytes, Tensor] = {}
        self.heard = {r: state for r, state in self.heard.items() if self.graph.receivers[r].site.tower != site.tower}
        for r in receivers:
            one = self.graph.receivers[r]
            if self.copy[r] or one.ends or (r in self.direct and not self._whole(r)):
                key = self.mask[:, r].tobytes()
                state = states[key] if key in states else own + self._cut(r, site, one, ours)
                states[key] = state
                if one.ends:
                    self.ended[site] = state
                elif r in self.direct:
                    self.heard[r] = state
                else:
                    new[self.copy[r] * rows : (self.copy[r] + 1) * rows] = state
        return new

    def _cut(self, r: int, site: Site, one: Receiver, ours: list[int]) -> Tensor | float:
        """What is different where the senders that are cut off are as in the counterfactual run."""
        before = dict(one.reads)[site]
        cut = [s for s in ours if self.graph.senders[s].time < before and not self.mask[s, r]]
        if not cut:
            return 0.0
        return (torch.stack([self.others[s] for s in cut]) - torch.stack([self.now[s] for s in cut])).sum(0)
