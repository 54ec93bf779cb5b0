"""The graph of a model: who writes into its residual streams, who reads them, and which of them meet.

One graph goes through all towers: a stream ends in the answer, or in the connector that writes into the next one. A
denoiser of joint attention has a stream for the picture and one for the words, and every head reads both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError, near
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.projected import Projected, projected
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.streams import CONNECTOR, Receiver, Sender, by_row, stream_of, streams

PICTURED = ("image", "query")  # positions of a text that a connector writes
ROUNDING, SINGLE = 1e4, 1e-5  # how many roundings the sums of a stream may be off; what libraries keep in float32


@dataclass(frozen=True)
class Point:
    """Where receivers read the same: all heads of a layer, an MLP, a connector, an end.

    `streams`: by stream, the state that is read. `seen`: the senders in it, by number. Of heads each has its queries,
    keys and values next to one another.
    """

    name: str
    streams: Mapping[str, Site]
    seen: tuple[int, ...]
    receivers: tuple[Receiver, ...]

    @property
    def ends(self) -> bool:
        """Whether it is an end, from which the answer is read."""
        return self.receivers[0].ends


@dataclass(frozen=True, eq=False)
class Graph:
    """Senders and receivers of a model on some inputs; `edges[s, r]` where r reads what s writes.

    Raises MethodError for a model whose blocks do not add up in a stream (a UNet), SiteError for one without a row in
    the tables.
    """

    senders: tuple[Sender, ...]
    receivers: tuple[Receiver, ...]
    weights: Mapping[str, Float[Tensor, "head d_head d_model"]] = field(repr=False)
    projected: tuple[Projected, ...] = field(default=(), repr=False)
    packed: bool = False  # whether the rows of a tower lie behind one another

    @classmethod
    def of(cls, model: Model, inputs: Inputs | None = None) -> Graph:
        """The graph of the towers that these inputs run through; without inputs, of all towers, and nothing is run.

        A denoiser of joint attention has one of one evaluation (`model.inputs(prompt=…, step=3)`).

        >>> import cutaway
        >>> model = cutaway.load("tiny:llama")
        >>> Graph.of(model, model.inputs(text="a red dog"))
        Graph(16 senders, 28 receivers, 190 edges)
        """
        senders: list[Sender] = []
        receivers: list[Receiver] = []
        weights: dict[str, Tensor] = {}
        found = streams(model, inputs)
        for stream in found:
            weights |= stream.weights
            senders += stream.senders()
            receivers += stream.receivers(inputs)
        packed = any(model.towers[stream.tower].packed for stream in found)
        return cls(tuple(senders), tuple(receivers), weights, tuple(projected(model, receivers)), packed)

    # --- what is in it ------------------------------------------------------------------------------------------------

    @cached_property
    def edges(self) -> Bool[np.ndarray, "sender receiver"]:
        """Which receivers hear which senders."""
        return np.array(
            [[receiver.hears(sender) for receiver in self.receivers] for sender in self.senders], dtype=bool
        )

    @cached_property
    def names(self) -> tuple[list[str], list[str]]:
        """The names of senders and receivers."""
        return [one.name for one in self.senders], [one.name for one in self.receivers]

    @property
    def streams(self) -> list[str]:
        """The streams, in order: a tower each, of a denoiser of joint attention two."""
        return list(dict.fromkeys(sender.stream for sender in self.senders))

    def into(self, stream: str) -> list[int]:
        """The numbers of the senders into a stream."""
        return [i for i, sender in enumerate(self.senders) if sender.stream == stream]

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The receivers by where they read, in order."""
        found: dict[str, list[int]] = {}
        for at, one in enumerate(self.receivers):
            found.setdefault(one.name.partition("[")[0], []).append(at)
        made = []
        for name, members in found.items():
            ours = sorted(members, key=lambda at: self.receivers[at].head or 0)
            read = {stream_of(site): site for site, _ in self.receivers[ours[0]].reads}
            seen = tuple(np.flatnonzero(self.edges[:, ours[0]]).tolist())
            made.append(Point(name, read, seen, tuple(self.receivers[at] for at in ours)))
        return tuple(made)

    @cached_property
    def at(self) -> dict[str, tuple[Point, int]]:
        """By name of a receiver, its point and its place there."""
        return {one.name: (point, place) for point in self.points for place, one in enumerate(point.receivers)}

    @cached_property
    def number(self) -> dict[str, int]:
        """The senders by name."""
        return {name: at for at, name in enumerate(self.names[0])}

    def named(self, edges: Bool[np.ndarray, "sender receiver"]) -> list[tuple[str, str]]:
        """The names of some edges, sender and receiver, receiver by receiver."""
        senders, receivers = self.names
        return [(senders[at], receivers[to]) for to, at in np.argwhere(edges.T)]

    def mask(self, edges: Iterable[tuple[str, str]]) -> Bool[np.ndarray, "sender receiver"]:
        """The edges of these names; MethodError for one that is not there."""
        found = np.zeros_like(self.edges)
        rows, columns = ({name: i for i, name in enumerate(names)} for names in self.names)
        for sender, receiver in edges:
            if sender not in rows or receiver not in columns or not self.edges[rows[sender], columns[receiver]]:
                unknown = sender if sender not in rows else receiver if receiver not in columns else ""
                raise MethodError(
                    f"no edge from '{sender}' to '{receiver}'", expected="a sender, and a receiver behind it",
                    exists=near(unknown, [*rows, *columns]) if unknown else f"'{receiver}' comes before it",
                    do="`Graph.of(model, inputs).names` lists both",
                )  # fmt: skip
            found[rows[sender], columns[receiver]] = True
        return found

    # --- what runs say of it ------------------------------------------------------------------------------------------

    @property
    def record(self) -> list[str]:
        """The sites that say what every sender wrote, and what every receiver was made of and made."""
        wrote = (str(site) for sender in self.senders for site in (sender.site, *sender.sites))
        made = (str(receiver.site) for receiver in self.receivers)
        states = (str(site) for receiver in self.receivers for site, _ in receiver.reads)
        through = (name for one in self.projected for name in (one.of.norm, *one.of.outs.values()))
        return list(dict.fromkeys([*wrote, *made, *states, *through]))

    def written(self, run: Run, stream: str) -> Float[Tensor, "sender row token d_model"]:
        """What each sender into a stream wrote, biases of attention apart."""
        return torch.stack([self.writes(self.senders[at], run, run.inputs) for at in self.into(stream)])

    def writes(self, sender: Sender, held: Mapping[str, Tensor] | Run, inputs: Inputs) -> Float[Tensor, "row token d"]:
        """What one sender wrote, of recorded activations."""
        value, *more = (by_row(held[str(site)], site) for site in sender.sites)
        if sender.between is not None:
            return value - more[0]
        value = sender.own(value, inputs)
        if sender.head is not None or (sender.order and str(sender.site) in self.weights):
            at = sender.head or 0
            value = (value if sender.head is None else value[..., at, :]) @ self.weights[str(sender.site)][at].to(value)
        if sender.gate is not None:
            value = value * more[0][:, None]
        if sender.time == 0 and CONNECTOR in self.names[0] and sender.stream == "text":
            pictured = torch.from_numpy(np.isin(inputs.tokens["text"].kind, PICTURED)).to(value.device)
            return value * (pictured if sender.name == CONNECTOR else ~pictured)[..., None]
        return value

    def check(self, clean: Run, corrupt: Run) -> None:
        """MethodError unless what the senders of two runs wrote differs by as much as the ends of their streams."""
        odd = next((site for site in self._gates if not torch.equal(clean[site], corrupt[site])), None)
        if odd is not None:
            raise MethodError(
                f"'{odd}' differs between the two runs: something of their inputs goes by the way of the timestep",
                expected="one timestep, and one pooled prompt: what they make of a block is on no edge",
                do="give the one inputs the words of the other: `asides.in_words_of(inputs, other)`",
            )  # fmt: skip
        for stream in self.streams:
            states = [read for receiver in self.receivers for read in receiver.reads if stream_of(read[0]) == stream]
            end = max(states, key=lambda read: read[1])[0]
            parts = self.written(corrupt, stream) - self.written(clean, stream)
            gap = (parts.sum(0) - by_row(corrupt[end] - clean[end], end)).abs().max()
            size = max(float(parts.abs().sum(0).max()), float(clean[end].abs().max()), 1e-30)
            if float(gap) > min(max(ROUNDING * torch.finfo(clean[end].dtype).eps, SINGLE), 0.1) * size:
                raise MethodError(
                    f"what the blocks of '{stream}' write misses its end by {float(gap):.2g}",
                    expected=f"rounding only, of numbers up to {size:.2g}",
                    do="run it without edits around it; else report this: something else writes into this stream",
                )  # fmt: skip

    @property
    def _gates(self) -> dict[Site, None]:
        return dict.fromkeys(sender.gate for sender in self.senders if sender.gate is not None)

    def __repr__(self) -> str:
        return f"Graph({len(self.senders)} senders, {len(self.receivers)} receivers, {int(self.edges.sum())} edges)"


def readers(model: Model, inputs: Inputs) -> int:
    """How many receivers the graph of these inputs has, nothing run for it; MethodError where there is no graph."""
    return sum(len(stream.receivers(None)) for stream in streams(model, inputs, look=False))


def checked(graph: Graph, wanted: Sequence[str], which: str) -> list[str]:
    """Names of senders or receivers, patterns spelled out; MethodError for what is not there."""
    import fnmatch

    names = graph.names[0 if which == "senders" else 1]
    found: list[str] = []
    for pattern in wanted:
        some = [pattern] if pattern in names else fnmatch.filter(names, pattern.replace("[", "[[]"))
        if not some:
            raise MethodError(
                f"no {which[:-1]} '{pattern}'", expected="a name, or a pattern such as `text.1.attn*`",
                exists=near(pattern, names), do=f"`Graph.of(model, inputs).names` lists the {which}",
            )  # fmt: skip
        found += some
    return list(dict.fromkeys(found))
