"""A model with some edges alone: every other edge carries what it carries in the counterfactual run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.graph import Graph, Projected, Receiver, Sender
from cutaway.methods.causal_tracing.pair import Pair
from cutaway.methods.causal_tracing.paths import MEMORY, copies
from cutaway.model.edits import Edit, Patch
from cutaway.model.model import Model
from cutaway.model.sites import Site

Mask = Bool[ndarray, "sender receiver"]


def routed(model: Model, graph: Graph, pair: Pair, circuits: Sequence[Mask]) -> Float[ndarray, "circuit row"]:
    """The target of every row when the edges of a circuit are kept and all others carry the counterfactual.

    One run a circuit, of as many copies of the rows as receivers hear different things; then the states at the ends are
    put into the clean run, all circuits in one sweep.
    """
    if any(model.towers[tower].packed for tower in graph.towers):
        raise MethodError(
            "the rows of a tower lie behind one another, so they cannot be run several times side by side",
            expected="towers with a batch axis", exists=", ".join(graph.towers), do="use `edge_attribution` alone",
        )  # fmt: skip
    others = {tower: graph.written(pair.corrupt, tower) for tower in graph.towers}
    found: list[Float[ndarray, "row"]] = []
    cells: list[list[Edit]] = []
    per_cell = sum(pair.clean[one.site].nbytes for one in graph.receivers if one.ends)
    for mask in circuits:
        cells.append(_Routing(model, graph, pair, mask, others).ends())
        if len(cells) * per_cell > MEMORY or len(found) + len(cells) == len(circuits):
            found += list(model.sweep(pair.here, cells, pair.target, progress=False).values.values)
            cells = []
    return np.stack(found)


class _At(Edit):
    """An edit that computes what it writes from what is there."""

    def __init__(self, site: Site, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(site)
        object.__setattr__(self, "change", change)

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        return self.change(current)  # type: ignore[attr-defined]


class _Routing:
    """One run of a circuit. The first copy of the rows is the run itself, the others lend it what receivers make.

    Queries, keys and values whose projections are known need no copy: they are made of what each head hears.
    """

    def __init__(self, model: Model, graph: Graph, pair: Pair, mask: Mask, others: dict[str, Tensor]) -> None:
        self.model, self.graph, self.pair, self.mask, self.others = model, graph, pair, mask & graph.edges, others
        self.now: dict[str, list[Tensor]] = {tower: [] for tower in graph.towers}
        self.ended: dict[Site, Tensor] = {}
        self.direct = {r: one for one in graph.projected if one.holds(pair.clean) for r in one.receivers}
        self.heard: dict[int, Tensor] = {}
        self.copy = self._copies()
        self.n = 1 + max(self.copy.values(), default=0)

    def _copies(self) -> dict[int, int]:
        """The copy of each receiver: one for all that read the same state and hear the same senders in it.

        What reads several states has a copy to itself; what hears all it could is made in the run itself, copy 0.
        """
        found: dict[int, int] = {}
        several = [r for r, one in enumerate(self.graph.receivers) if len(one.reads) > 1]
        taken: dict[Site, dict[bytes, int]] = {}
        for r, one in enumerate(self.graph.receivers):
            if r in self.direct or self._whole(r):
                found[r] = 0
            elif r in several:
                found[r] = 1 + several.index(r)
            else:
                there = taken.setdefault(one.reads[0][0], {})
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
        return [Patch(site, state) for site, state in self.ended.items()]

    def _edits(self) -> list[Edit]:
        """In the order in which they act at a site: what is heard first, then what was made and is written."""
        graph, edits = self.graph, list[Edit]()
        written: dict[Site, list[Sender]] = {}
        made: dict[Site, list[int]] = {}
        read: dict[Site, list[int]] = {}
        for sender in graph.senders:
            written.setdefault(sender.site, []).append(sender)
        for r, one in enumerate(graph.receivers):
            if not one.ends and r not in self.direct:
                made.setdefault(one.site, []).append(r)
            for site, _ in one.reads:
                read.setdefault(site, []).append(r)
        for known in dict.fromkeys(self.direct.values()):
            for name in dict.fromkeys(known.of.outs.values()):
                edits.append(_At(self.model.sites.one(name), partial(self._projected, known=known, name=name)))
        edits += [_At(site, partial(self._lent, receivers=some)) for site, some in made.items()]
        edits += [_At(site, partial(self._noted, senders=each)) for site, each in written.items()]
        edits += [_At(site, partial(self._told, site=site, receivers=some)) for site, some in read.items()]
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

    def _noted(self, x: Tensor, senders: list[Sender]) -> Tensor:
        """What senders write in the run itself."""
        held = {str(senders[0].site): x[: len(x) // self.n]}
        for sender in senders:
            self.now[sender.tower].append(self.graph.writes(sender, held, self.pair.here))
        return x

    def _told(self, x: Tensor, site: Site, receivers: list[int]) -> Tensor:
        """Each copy hears the kept senders as they are and the others as in the counterfactual run."""
        rows, new = len(x) // self.n, x.clone()
        own, ours = x[:rows], self.graph.of_tower(site.tower)
        states: dict[bytes, Tensor] = {}
        self.heard = {r: state for r, state in self.heard.items() if self.graph.receivers[r].tower != site.tower}
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
        cut = [i for i, s in enumerate(ours) if self.graph.senders[s].time < before and not self.mask[s, r]]
        if not cut:
            return 0.0
        now = torch.stack([self.now[one.tower][i] for i in cut])
        return (self.others[one.tower][cut] - now).sum(0)
