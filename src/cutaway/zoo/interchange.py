"""Exchange what nodes write, or what single edges carry, between the rows of a batch: for training and for measures.

A node's write is exchanged by setting what it gives. An edge u → r takes two runs: in the first what u writes in the
other row, less what it writes here, is added to the residual before r, and what r reads is recorded; in the second r
alone is set to that. So nothing but r sees the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear

from cutaway.model.edits import Add, Edit
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.streams import CONNECTOR, Sender, by_row, laid


@dataclass(frozen=True, repr=False, eq=False)
class Mixed(Edit):
    """In the entries where `mask` holds: x <- the same part of another run."""

    source: Float[Tensor, "..."]
    mask: Bool[Tensor, "..."]

    def __init__(self, site: str, source: Tensor, mask: Tensor) -> None:
        Edit.__init__(self, site)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "mask", mask)

    def full(self, site: Site) -> Float[Tensor, "..."]:
        """The whole activation of the other run."""
        return self.source

    def apply(self, current: Float[Tensor, "..."], value: Float[Tensor, "..."] | None) -> Float[Tensor, "..."]:
        """The other run's entries where the mask holds."""
        return torch.where(self.mask.to(current.device), self.source if value is None else value, current)


def written(graph: Graph) -> list[str]:
    """The sites that say what nodes write."""
    return [*dict.fromkeys(str(site) for node in graph.senders for site in (_own(node), node.site, *node.sites))]


def _own(node: Sender) -> Site | str:
    """Where what a node writes can be set."""
    return "connector.out" if node.name == CONNECTOR else node.site


def set_nodes(
    graph: Graph, clean: Run, chosen: Bool[Tensor, "row node"], sources: Int[Tensor, "node row"]
) -> list[Edit]:
    """Edits that give each chosen node of a row what it writes in the row that `sources` names for it."""
    by_site: dict[str, list[int]] = {}
    for index, node in enumerate(graph.senders):
        if not node.begins:
            by_site.setdefault(str(_own(node)), []).append(index)
    edits: list[Edit] = []
    for name, members in by_site.items():
        if not bool(chosen[:, members].any()):
            continue
        site = clean.sites[name]
        here = by_row(clean[name], site)
        if graph.senders[members[0]].head is None:
            other = here[sources[members[0]]]
            mask = chosen[:, members[0]].view(-1, *(1,) * (here.dim() - 1))
        else:
            other = torch.stack([here[sources[one], :, head] for head, one in enumerate(members)], 2)
            mask = chosen[:, None, members, None]
        edits.append(Mixed(name, laid(other, site), mask))
    return edits


def moved(
    model: Model, graph: Graph, clean: Run, chosen: Bool[Tensor, "row node"], source: Int[Tensor, "row"]
) -> dict[str, Float[Tensor, "row token d_model"]]:
    """By stream, what the chosen nodes of each row write in its source row, less what they write in it."""
    found: dict[str, Tensor] = {}
    for site in dict.fromkeys(node.site for node in graph.senders):
        members = [index for index, node in enumerate(graph.senders) if node.site == site]
        mask = chosen[:, members]
        if not bool(mask.any()):
            continue
        first = graph.senders[members[0]]
        change = _change(first, clean, source)
        mask = mask.to(change.device)
        if first.head is not None:
            change = linear((change * mask[:, None, :, None]).flatten(2), _out(model, site))
            change = change * by_row(clean[first.gate], first.gate)[:, None] if first.gate else change
        elif len(members) > 1:  # words, and where pictures stand what the connector writes
            shown = clean.inputs.tokens["text"].where("image").to(change.device)
            change = change * torch.where(shown, mask[:, 1:], mask[:, :1])[..., None]
        else:
            change = change * mask[:, :, None]
        found[first.stream] = found.get(first.stream, 0) + change
    return found


def changes(model: Model, graph: Graph, clean: Run, source: Int[Tensor, "row"]) -> Float[Tensor, "node"]:
    """By node, the root mean square length of what its write differs by from row to row; 0 for inputs."""
    first = graph.senders[0]
    found = clean[first.site].new_zeros(len(graph.senders))
    for site in dict.fromkeys(node.site for node in graph.senders if node.time > 0):
        members = [index for index, node in enumerate(graph.senders) if node.site == site]
        first = graph.senders[members[0]]
        change = _change(first, clean, source)
        if first.head is not None:
            each = _out(model, site).unflatten(1, (len(members), -1)).permute(1, 2, 0)
            change = torch.einsum("rthd,hdm->rthm", change, each)
            change = change * by_row(clean[first.gate], first.gate)[:, None, None] if first.gate else change
            square = change.square().sum(-1).mean((0, 1))
        else:
            square = change.square().sum(-1).mean()[None]
        found = found.index_put((torch.tensor(members),), (square + 1e-8).sqrt())
    return found


def _change(node: Sender, clean: Run, source: Tensor) -> Float[Tensor, "row token ..."]:
    """What a node writes in the source rows less what it writes: of heads before their projection and gate."""
    value, *more = (by_row(clean[site], site) for site in node.sites)
    if node.between is not None:
        value = value - more[0]
    elif node.gate is not None and node.head is None:
        value = value * more[0][:, None]
    return value[source] - value


def _out(model: Model, site: Site) -> Float[Tensor, "d_model d_heads"]:
    """The weight of the projection behind heads, on the graph: `head_weights` is not."""
    projection: Any = model.engine.seat(site).module
    weight: Tensor = projection.weight
    return weight


def set_edges(
    model: Model, graph: Graph, clean: Run, chosen: Bool[Tensor, "row node"], source: Int[Tensor, "row"],
    heard: Mapping[str, Bool[Tensor, "row receiver"]], *, grad: bool = False,
) -> list[Edit]:  # fmt: skip
    """Edits that let the receivers of each row hear its chosen nodes as they are in its source row.

    `heard`: for the points at which that is so, the rows and receivers. A row has one point.
    """
    change = moved(model, graph, clean, chosen, source)
    first: list[Edit] = []
    last: list[Edit] = []
    sites: list[str] = []
    for point in graph.points:
        here, there = heard.get(point.name), [stream for stream in point.streams if stream in change]
        if here is None or not there or not bool(here.any()):
            continue
        for stream in there:
            added = change[stream] * here.any(1).to(change[stream].device)[:, None, None]
            (last if point.ends else first).append(Add(point.streams[stream], added))
        if not point.ends:
            sites += dict.fromkeys(str(one.site) for one in point.receivers)
    if not first:
        return last
    told = model.run(clean.inputs, record=sites, edits=first, grad=grad, stop=not grad)
    return [*_received(graph, told, heard, sites), *last]


def _received(graph: Graph, told: Run, heard: Mapping[str, Tensor], sites: Sequence[str]) -> list[Edit]:
    edits: list[Edit] = []
    for point in graph.points:
        for site in dict.fromkeys(str(one.site) for one in point.receivers):
            if site in sites:
                members = [index for index, one in enumerate(point.receivers) if str(one.site) == site]
                mask = heard[point.name][:, members]
                whole = point.receivers[members[0]].head is None
                edits.append(Mixed(site, told[site], mask[:, :, None] if whole else mask[:, None, :, None]))
    return edits
