"""The graph of a model: who writes into its residual streams, who reads them, and which of them meet.

One graph goes through all towers: a stream ends in the answer, or in the connector that writes into the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError, SiteError, near
from cutaway.model.edits import Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.projections import Projections, projections
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.weights import head_weights, norms_behind

LAST = 1 << 30  # behind every layer
CONNECTOR = "connector"
PICTURED = ("image", "query")  # positions of a text that a connector writes
ROUNDING, SINGLE = 1e4, 1e-5  # how many roundings the sums of a stream may be off; what libraries keep in float32


@dataclass(frozen=True)
class Sender:
    """What writes into the stream of a tower: its embedding, a head, an MLP, the connector.

    `site` holds what it writes, `head` which part of it; `time` counts the sublayers before it.
    """

    name: str
    tower: str
    time: int
    site: Site
    head: int | None = None


@dataclass(frozen=True)
class Receiver:
    """What is made of the stream of a tower: a head's queries, keys or values, an MLP, the connector, the end.

    `reads`: the states it is made of, each with the time before which senders are in it. `site` holds what is made,
    `head` which part of it; of an end that is the state itself.
    """

    name: str
    tower: str
    reads: tuple[tuple[Site, int], ...]
    site: Site
    head: int | None = None

    @property
    def before(self) -> int:
        """Senders before this time can be heard."""
        return max(time for _, time in self.reads)

    @property
    def ends(self) -> bool:
        """Whether it is the end of a stream, from which the answer is read."""
        return self.site == self.reads[-1][0]


@dataclass(frozen=True, eq=False)
class Projected:
    """A layer whose queries, keys and values come from known projections: a short way for slopes, head by head."""

    of: Projections
    read: Site
    time: int
    sites: tuple[str, ...]
    receivers: list[int]

    def part(self, receiver: Receiver) -> str:
        """Whether a receiver is queries, keys or values."""
        return receiver.site.part.rpartition(".")[2]

    def holds(self, run: Run) -> bool:
        """Whether the projections give in a run what their weights say, tried at a few positions."""
        entering = run[self.of.norm].flatten(0, -2)[:4]
        for part, out in self.of.outs.items():
            weight, bias, start = self.of.weights[part], self.of.biases[part], self.of.places[part]
            told = (entering @ weight.flatten(0, 1).T.to(entering) + bias.flatten().to(entering)).float()
            there = run[out].flatten(0, -2)[:4, start : start + told.shape[1]].float()
            if not torch.allclose(told, there, rtol=0.05, atol=max(0.01 * float(there.abs().max()), 1e-6)):
                return False
        return True

    def pulled(self, run: Run, slopes: Mapping[str, Tensor]) -> Float[Tensor, "receiver row token d_model"]:
        """Slopes at what is read, of slopes at what the projections give: by their weights, then through the norm."""
        parts = []
        for part, out in self.of.outs.items():
            weight, start = self.of.weights[part], self.of.places[part]
            slope = slopes[out][..., start : start + weight.shape[0] * weight.shape[1]]
            heads = slope.unflatten(-1, weight.shape[:2]).movedim(-2, 0)
            parts.append(torch.einsum("hbtd,hdm->hbtm", heads, weight.to(heads)))
        found: Tensor = torch.autograd.grad(
            run[self.of.norm], run[self.read], torch.cat(parts), retain_graph=True, is_grads_batched=True
        )[0]
        return found


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

    @classmethod
    def of(cls, model: Model, inputs: Inputs) -> Graph:
        """The graph of the towers that these inputs run through.

        >>> import cutaway
        >>> model = cutaway.load("tiny:llama")
        >>> Graph.of(model, model.inputs(text="a red dog"))
        Graph(16 senders, 28 receivers, 190 edges)
        """
        towers = [name for name in _streams(model) if name in inputs.tokens]
        if not towers:
            raise MethodError(
                f"no stream of {type(model.module).__name__} to which all blocks add",
                expected="a model that matches or answers, on inputs that run through its towers",
                exists=", ".join(model.sites.towers()),
                do="`attribution_patching` goes over the sites of any model; `path_patching` needs a stream",
            )  # fmt: skip
        joined = "connector.out" in model.sites and {"vision", "text"} <= set(towers)
        senders: list[Sender] = []
        receivers: list[Receiver] = []
        weights: dict[str, Tensor] = {}
        for name in sorted(towers, key=["vision", "encoder", "text"].index):
            stream = _Stream(model, name)
            weights |= stream.weights
            senders += stream.senders(joined)
            receivers += stream.receivers(model, inputs, joined)
        return cls(tuple(senders), tuple(receivers), weights, tuple(_projected(model, receivers)))

    # --- what is in it ------------------------------------------------------------------------------------------------

    @cached_property
    def edges(self) -> Bool[np.ndarray, "sender receiver"]:
        """Which receivers hear which senders."""
        return np.array(
            [[s.tower == r.tower and s.time < r.before for r in self.receivers] for s in self.senders], dtype=bool
        )

    @cached_property
    def names(self) -> tuple[list[str], list[str]]:
        """The names of senders and receivers."""
        return [one.name for one in self.senders], [one.name for one in self.receivers]

    @property
    def towers(self) -> list[str]:
        """The towers with a stream, in order."""
        return list(dict.fromkeys(sender.tower for sender in self.senders))

    def of_tower(self, tower: str) -> list[int]:
        """The numbers of the senders into the stream of a tower."""
        return [i for i, sender in enumerate(self.senders) if sender.tower == tower]

    @cached_property
    def makes(self) -> list[tuple[int, int]]:
        """Which receiver is a part of which sender: what the one makes, the other writes."""
        found = []
        for r, receiver in enumerate(self.receivers):
            sublayer = receiver.name.partition("[")[0]
            own = [s for s, sender in enumerate(self.senders) if sender.name.partition("[")[0] == sublayer]
            if receiver.head is not None and self.senders[own[0]].head is not None:
                group = len(own) // receiver.site.sizes[receiver.site.head_axis or "head"]
                own = own[receiver.head * group : (receiver.head + 1) * group]
            found += [(r, s) for s in own]
        return found

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
        ends = [*(str(one.site) for one in self.senders), *(str(one.site) for one in self.receivers)]
        states = (str(site) for receiver in self.receivers for site, _ in receiver.reads)
        through = (name for one in self.projected for name in (one.of.norm, *one.of.outs.values()))
        return list(dict.fromkeys([*ends, *states, *through]))

    def written(self, run: Run, tower: str) -> Float[Tensor, "sender row token d_model"]:
        """What each sender of a tower wrote into its stream, biases of attention apart."""
        return torch.stack([self.writes(sender, run, run.inputs) for sender in self.senders if sender.tower == tower])

    def writes(self, sender: Sender, held: Mapping[str, Tensor] | Run, inputs: Inputs) -> Float[Tensor, "row token d"]:
        """What one sender wrote, of recorded activations."""
        value = held[str(sender.site)]
        if sender.head is not None:
            return value[..., sender.head, :] @ self.weights[str(sender.site)][sender.head].to(value)
        if sender.time == 0 and CONNECTOR in self.names[0] and sender.tower == "text":
            pictured = torch.from_numpy(np.isin(inputs.tokens["text"].kind, PICTURED)).to(value.device)
            return value * (pictured if sender.name == CONNECTOR else ~pictured)[..., None]
        return value

    def check(self, clean: Run, corrupt: Run) -> None:
        """MethodError unless what the senders of two runs wrote differs by as much as the ends of their streams."""
        for tower in self.towers:
            end = next(r for r in self.receivers if r.tower == tower and r.before == LAST).reads[-1][0]
            parts = self.written(corrupt, tower) - self.written(clean, tower)
            gap = (parts.sum(0) - (corrupt[end] - clean[end])).abs().max()
            size = max(float(parts.abs().sum(0).max()), float(clean[end].abs().max()), 1e-30)
            if float(gap) > min(max(ROUNDING * torch.finfo(clean[end].dtype).eps, SINGLE), 0.1) * size:
                raise MethodError(
                    f"what the blocks of '{tower}' write misses its end by {float(gap):.2g}",
                    expected=f"rounding only, of numbers up to {size:.2g}",
                    do="run it without edits around it; else report this: something else writes into this stream",
                )  # fmt: skip

    def __repr__(self) -> str:
        return f"Graph({len(self.senders)} senders, {len(self.receivers)} receivers, {int(self.edges.sum())} edges)"


def readers(model: Model, inputs: Inputs) -> int:
    """How many receivers the graph of these inputs has, nothing run for it; MethodError where there is no graph."""
    towers = [_Stream(model, name) for name in _streams(model) if name in inputs.tokens]
    return sum(len(one.receivers(model, inputs, joined=False)) for one in towers)


# --- one stream -------------------------------------------------------------------------------------------------------


def _streams(model: Model) -> list[str]:
    """The towers with blocks that add to one stream, layer by layer."""
    begun = {tower: f"{tower}.0.resid_pre" for tower in ("vision", "encoder", "text")}
    here = {tower: model.sites.one(name) for tower, name in begun.items() if name in model.sites}
    return [tower for tower, site in here.items() if site.axes[:2] == ("batch", "token")]


class _Stream:
    """The live layers of one tower, and the weights by which its heads write."""

    def __init__(self, model: Model, tower: str) -> None:
        self.model, self.tower = model, tower
        if f"{tower}.0.resid_mid" in model.sites and norms_behind(model, tower):
            raise MethodError(
                f"the blocks of '{tower}' norm their sums, so what they write does not add up",
                expected="blocks that norm what they read",
                do="`attribution_patching` goes over the sites of any model",
            )  # fmt: skip
        if f"{tower}.0.cross.z" in model.sites:
            raise MethodError(
                f"the '{tower}' tower also reads another tower in every block (cross-attention)",
                expected="towers that read one another at their ends, through a connector",
                do="`attribution_patching` goes over the sites of any model",
            )  # fmt: skip
        posts = model.sites[f"{tower}.*.resid_post"]
        self.layers = [site.layer for site in posts if not site.dead and site.layer is not None]
        self.end = next(site for site in posts if site.layer == self.layers[-1])
        self.weights: dict[str, Tensor] = {}
        for layer in self.layers:
            if self.has(layer, "attn.z"):
                try:
                    weight, _ = head_weights(model, tower, layer)
                except SiteError:  # a norm lies between: the heads of a layer write together
                    continue
                self.weights[f"{tower}.{layer}.attn.z"] = weight

    def has(self, layer: int, part: str) -> bool:
        return f"{self.tower}.{layer}.{part}" in self.model.sites

    def site(self, layer: int, part: str) -> Site:
        return self.model.sites.one(f"{self.tower}.{layer}.{part}")

    def senders(self, joined: bool) -> list[Sender]:
        tower, start = self.tower, self.site(self.layers[0], "resid_pre")
        found = [Sender(f"{tower}.embed", tower, 0, start)]
        if joined and tower == "text":
            found.append(Sender(CONNECTOR, tower, 0, start))
        for layer in self.layers:
            here, time = f"{tower}.{layer}", 2 * layer + 1
            z = f"{here}.attn.z"
            if z in self.weights:
                site = self.site(layer, "attn.z")
                found += [Sender(f"{here}.attn[{h}]", tower, time, site, h) for h in range(len(self.weights[z]))]
            elif self.has(layer, "attn.out"):
                found.append(Sender(f"{here}.attn", tower, time, self.site(layer, "attn.out")))
            for part, when in (("mixer", time), ("mlp", time + 1)):
                if self.has(layer, f"{part}.out"):
                    found.append(Sender(f"{here}.{part}", tower, when, self.site(layer, f"{part}.out")))
        return found

    def receivers(self, model: Model, inputs: Inputs, joined: bool) -> list[Receiver]:
        tower, found = self.tower, []
        for layer in self.layers:
            here, time, before = f"{tower}.{layer}", 2 * layer + 1, self.site(layer, "resid_pre")
            for part in ("q", "k", "v"):
                if self.has(layer, f"attn.{part}"):
                    site = self.site(layer, f"attn.{part}")
                    count = site.sizes[site.head_axis or "head"]
                    found += [
                        Receiver(f"{here}.attn[{h}].{part}", tower, ((before, time),), site, h) for h in range(count)
                    ]
            if self.has(layer, "mixer.out"):
                found.append(Receiver(f"{here}.mixer", tower, ((before, time),), self.site(layer, "mixer.out")))
            if self.has(layer, "mlp.out"):
                mid = self.has(layer, "resid_mid")
                read = (self.site(layer, "resid_mid"), time + 1) if mid else (before, time)
                found.append(Receiver(f"{here}.mlp", tower, (read,), self.site(layer, "mlp.out")))
        if joined and tower == "vision":
            found.append(Receiver(CONNECTOR, tower, self._connected(model, inputs), model.sites.one("connector.out")))
        else:
            found.append(Receiver(f"{tower}.end", tower, ((self.end, LAST),), self.end))
        return found

    def _connected(self, model: Model, inputs: Inputs) -> tuple[tuple[Site, int], ...]:
        """The states of the vision tower that the connector is made of: those without which it says something else."""
        states = [(self.site(self.layers[0], "resid_pre"), 1)]
        states += [(self.site(layer, "resid_post"), 2 * layer + 3) for layer in self.layers]
        run = model.run(inputs, record=[*(site for site, _ in states), "connector.out"], stop=True)
        held: list[Edit] = [Patch(site, run[site]) for site, _ in states]
        found = []
        for at, (site, time) in enumerate(states):
            other: Any = Patch(site, run[site].roll(1, -1))
            moved = model.run(inputs, record="connector.out", edits=[*held[:at], other, *held[at + 1 :]], stop=True)
            if not torch.equal(moved["connector.out"], run["connector.out"]):
                found.append((site, time if site != self.end else LAST))
        return tuple(found)


def _projected(model: Model, receivers: Sequence[Receiver]) -> Iterator[Projected]:
    """The layers of which the projections are known, each with its receivers in the order of these."""
    for read, time in dict.fromkeys(one.reads[0] for one in receivers if one.head is not None):
        found = None if model.towers[read.tower].packed else projections(model, read.tower, read.layer or 0)
        if found is None:
            continue
        sites = tuple(f"{read.tower}.{read.layer}.attn.{part}" for part in found.outs)
        ours = [i for name in sites for i, one in enumerate(receivers) if str(one.site) == name]
        yield Projected(found, read, time, sites, ours)


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
