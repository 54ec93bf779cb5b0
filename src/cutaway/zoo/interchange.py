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
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.zoo.wiring import CONNECTOR, Wiring


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


def held(wiring: Wiring, run: Run, site: str) -> Float[Tensor, "row ..."]:
    """What a run recorded at a site, by rows: without step and guidance, of which there is one each."""
    return run[site].flatten(0, wiring.lead) if wiring.lead else run[site]


def set_nodes(
    wiring: Wiring, clean: Run, chosen: Bool[Tensor, "row node"], sources: Int[Tensor, "node row"]
) -> list[Edit]:
    """Edits that give each chosen node of a row what it writes in the row that `sources` names for it."""
    by_site: dict[str, list[int]] = {}
    for index, node in enumerate(wiring.nodes):
        if node.inside:
            by_site.setdefault("connector.out" if node.name == CONNECTOR else node.site, []).append(index)
    edits: list[Edit] = []
    for site, members in by_site.items():
        if not bool(chosen[:, members].any()):
            continue
        here = held(wiring, clean, site)
        if wiring.nodes[members[0]].head is None:
            other = here[sources[members[0]]]
            mask = chosen[:, members[0]].view(-1, *(1,) * (here.dim() - 1))
        else:
            other = torch.stack([here[sources[one], :, head] for head, one in enumerate(members)], 2)
            mask = chosen[:, None, members, None]
        edits.append(Mixed(site, other[(None,) * wiring.lead], mask))
    return edits


def moved(
    wiring: Wiring, clean: Run, chosen: Bool[Tensor, "row node"], source: Int[Tensor, "row"]
) -> dict[str, Float[Tensor, "row token d_model"]]:
    """By stream, what the chosen nodes of each row write in its source row, less what they write in it."""
    found: dict[str, Tensor] = {}
    for site in dict.fromkeys(node.site for node in wiring.nodes):
        members = [index for index, node in enumerate(wiring.nodes) if node.site == site]
        mask = chosen[:, members]
        if not bool(mask.any()):
            continue
        first, change = wiring.nodes[members[0]], _change(wiring, clean, members[0], source)
        mask = mask.to(change.device)
        if first.head is not None:
            change = linear((change * mask[:, None, :, None]).flatten(2), _out(wiring, site))
            change = change * held(wiring, clean, first.gate)[:, None] if first.gate else change
        elif len(members) > 1:  # words, and where pictures stand what the connector writes
            shown = clean.inputs.tokens["text"].where("image").to(change.device)
            change = change * torch.where(shown, mask[:, 1:], mask[:, :1])[..., None]
        else:
            change = change * mask[:, :, None]
        found[first.stream] = found.get(first.stream, 0) + change
    return found


def changes(wiring: Wiring, clean: Run, source: Int[Tensor, "row"]) -> Float[Tensor, "node"]:
    """By node, the root mean square length of what its write differs by from row to row; 0 for inputs."""
    found = held(wiring, clean, wiring.nodes[0].site).new_zeros(len(wiring.nodes))
    for site in dict.fromkeys(node.site for node in wiring.nodes if node.layer >= 0):
        members = [index for index, node in enumerate(wiring.nodes) if node.site == site]
        first, change = wiring.nodes[members[0]], _change(wiring, clean, members[0], source)
        if first.head is not None:
            each = _out(wiring, site).unflatten(1, (len(members), -1)).permute(1, 2, 0)
            change = torch.einsum("rthd,hdm->rthm", change, each)
            change = change * held(wiring, clean, first.gate)[:, None, None] if first.gate else change
            square = change.square().sum(-1).mean((0, 1))
        else:
            square = change.square().sum(-1).mean()[None]
        found = found.index_put((torch.tensor(members),), (square + 1e-8).sqrt())
    return found


def _change(wiring: Wiring, clean: Run, index: int, source: Tensor) -> Float[Tensor, "row token ..."]:
    """What a node writes in the source rows less what it writes: of heads before their projection and gate."""
    node = wiring.nodes[index]
    if node.between is not None:
        behind, before = (held(wiring, clean, site) for site in node.between)
        wrote = behind - before
    else:
        wrote = held(wiring, clean, node.site)
        wrote = wrote * held(wiring, clean, node.gate)[:, None] if node.gate and node.head is None else wrote
    return wrote[source] - wrote


def _out(wiring: Wiring, site: str) -> Float[Tensor, "d_model d_heads"]:
    """The weight of the projection behind heads, on the graph: `head_weights` is not."""
    projection: Any = wiring.model.engine.seat(site).module
    weight: Tensor = projection.weight
    return weight


def set_edges(
    wiring: Wiring, clean: Run, chosen: Bool[Tensor, "row node"], source: Int[Tensor, "row"],
    heard: Mapping[str, Bool[Tensor, "row receiver"]], *, grad: bool = False,
) -> list[Edit]:  # fmt: skip
    """Edits that let the receivers of each row hear its chosen nodes as they are in its source row.

    `heard`: for the points at which that is so, the rows and receivers. A row has one point.
    """
    change = moved(wiring, clean, chosen, source)
    first: list[Edit] = []
    last: list[Edit] = []
    sites: list[str] = []
    for point in wiring.points:
        here, there = heard.get(point.name), [stream for stream in point.streams if stream in change]
        if here is None or not there or not bool(here.any()):
            continue
        for stream in there:
            added = change[stream] * here.any(1).to(change[stream].device)[:, None, None]
            (last if point.ends else first).append(Add(point.streams[stream], added))
        if not point.ends:
            sites += dict.fromkeys(one.site for one in point.receivers)
    if not first:
        return last
    told = wiring.model.run(clean.inputs, record=sites, edits=first, grad=grad, stop=not grad)
    return [*_received(wiring, told, heard, sites), *last]


def _received(wiring: Wiring, told: Run, heard: Mapping[str, Tensor], sites: Sequence[str]) -> list[Edit]:
    edits: list[Edit] = []
    for point in wiring.points:
        for site in dict.fromkeys(one.site for one in point.receivers):
            if site in sites:
                members = [index for index, one in enumerate(point.receivers) if one.site == site]
                mask = heard[point.name][:, members]
                whole = point.receivers[members[0]].head is None
                edits.append(Mixed(site, told[site], mask[:, :, None] if whole else mask[:, None, :, None]))
    return edits
