"""Exchange what nodes write, or what single edges carry, between the rows of a batch: for training and for measures.

A node's write is exchanged by setting what it gives. An edge u → r takes two runs: in the first what u writes in the
other row, less what it writes here, is added to the residual before r, and what r reads is recorded; in the second r
alone is set to that. So nothing but r sees the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear

from cutaway.model.edits import Add, Edit
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site

ORDER: tuple[str, ...] = ("vision", "text")  # of towers: what one writes the next may read
CONNECTOR = "connector"


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


@dataclass(frozen=True)
class Node:
    """What writes to a residual stream: `site` holds it, `head` says which of its heads."""

    name: str
    tower: str
    layer: int
    site: str
    head: int | None = None

    @property
    def inside(self) -> bool:
        """Whether it can be exchanged: what enters the first block is the input itself."""
        return self.layer >= 0 or self.name == CONNECTOR


@dataclass(frozen=True)
class Receiver:
    """What reads a residual stream, and the site (and head) at which that is set."""

    name: str
    site: str
    head: int | None = None


@dataclass(frozen=True)
class Point:
    """Where receivers read: `site` is the residual they read, `seen` the nodes (by number) that wrote it before."""

    name: str
    tower: str
    site: str
    seen: tuple[int, ...]
    receivers: tuple[Receiver, ...]


class Wiring:
    """All nodes and receivers of a model, by its towers: a decoder, a CLIP, or a LLaVA with its connector.

    >>> import cutaway
    >>> wiring = Wiring(cutaway.load("tiny:llama"))
    >>> len(wiring.nodes), wiring.points[0].receivers[0].name
    (16, 'text.0.attn[0].q')
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.joined = model.family.kind != "contrastive" and "vision" in model.towers
        layers = dict(model.sites.towers())
        self.depth: dict[str, int] = {name: layers[name] for name in ORDER if name in layers}
        self.nodes: list[Node] = []
        self.points: list[Point] = []
        for tower in self.depth:
            self._tower(tower)
        self.number = {node.name: index for index, node in enumerate(self.nodes)}
        self.at = {one.name: (point.name, i) for point in self.points for i, one in enumerate(point.receivers)}

    def _tower(self, tower: str) -> None:
        first = len(self.nodes)
        self.nodes.append(Node(f"{tower}.embed", tower, -1, f"{tower}.0.resid_pre"))
        if self.joined and tower == "text":
            self.nodes.append(Node(CONNECTOR, tower, -1, f"{tower}.0.resid_pre"))
        heads = self.model.sites.one(f"{tower}.0.attn.z").sizes["head"]
        for layer in range(self.depth[tower]):
            at, seen = f"{tower}.{layer}", tuple(range(first, len(self.nodes)))
            reads = tuple(
                Receiver(f"{at}.attn[{head}].{part}", f"{at}.attn.{part}", head)
                for head in range(heads) for part in "qkv"
            )  # fmt: skip
            self.points.append(Point(f"{at}.attn", tower, f"{at}.resid_pre", seen, reads))
            self.nodes += [Node(f"{at}.attn[{head}]", tower, layer, f"{at}.attn.z", head) for head in range(heads)]
            seen = tuple(range(first, len(self.nodes)))
            mlp = (Receiver(f"{at}.mlp", f"{at}.mlp.out"),)
            self.points.append(Point(f"{at}.mlp", tower, f"{at}.resid_mid", seen, mlp))
            self.nodes.append(Node(f"{at}.mlp", tower, layer, f"{at}.mlp.out"))
        end, seen = f"{tower}.{self.depth[tower] - 1}.resid_post", tuple(range(first, len(self.nodes)))
        name, site = (CONNECTOR, "connector.out") if self.joined and tower == "vision" else (f"{tower}.end", end)
        self.points.append(Point(name, tower, end, seen, (Receiver(name, site),)))

    @cached_property
    def seen(self) -> Bool[Tensor, "point node"]:
        """Which nodes each point sees."""
        found = torch.zeros(len(self.points), len(self.nodes), dtype=torch.bool)
        for index, point in enumerate(self.points):
            found[index, list(point.seen)] = True
        return found

    @cached_property
    def written(self) -> tuple[str, ...]:
        """The sites that hold what nodes write."""
        more = ("connector.out",) if self.joined else ()
        return (*dict.fromkeys(node.site for node in self.nodes), *more)

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Every edge there could be."""
        return [
            (self.nodes[index].name, one.name) for point in self.points for one in point.receivers
            for index in point.seen
        ]  # fmt: skip

    # --- nodes --------------------------------------------------------------------------------------------------------

    def set_nodes(self, clean: Run, chosen: Bool[Tensor, "row node"], sources: Int[Tensor, "node row"]) -> list[Edit]:
        """Edits that give each chosen node of a row what it writes in the row that `sources` names for it."""
        by_site: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            if node.inside:
                by_site.setdefault("connector.out" if node.name == CONNECTOR else node.site, []).append(index)
        edits: list[Edit] = []
        for site, members in by_site.items():
            if not bool(chosen[:, members].any()):
                continue
            held = clean[site]
            if self.nodes[members[0]].head is None:
                mask = chosen[:, members[0]].view(-1, *(1,) * (held.dim() - 1))
                edits.append(Mixed(site, held[sources[members[0]]], mask))
            else:
                other = torch.stack([held[sources[one], :, head] for head, one in enumerate(members)], 2)
                edits.append(Mixed(site, other, chosen[:, None, members, None]))
        return edits

    # --- edges --------------------------------------------------------------------------------------------------------

    def moved(
        self, clean: Run, chosen: Bool[Tensor, "row node"], source: Int[Tensor, " row"]
    ) -> dict[str, Float[Tensor, "row token d_model"]]:
        """By tower, what the chosen nodes of each row write in its source row, less what they write in it."""
        found: dict[str, Tensor] = {}
        for site in dict.fromkeys(node.site for node in self.nodes):
            members = [index for index, node in enumerate(self.nodes) if node.site == site]
            mask = chosen[:, members]
            if not bool(mask.any()):
                continue
            first, change = self.nodes[members[0]], clean[site][source] - clean[site]
            mask = mask.to(change.device)
            if first.head is not None:
                change = linear((change * mask[:, None, :, None]).flatten(2), self._out(site))
            elif len(members) > 1:  # words, and where pictures stand what the connector writes
                shown = clean.inputs.tokens["text"].where("image").to(change.device)
                change = change * torch.where(shown, mask[:, 1:], mask[:, :1])[..., None]
            else:
                change = change * mask[:, :, None]
            found[first.tower] = found.get(first.tower, 0) + change
        return found

    def changes(self, clean: Run, source: Int[Tensor, " row"]) -> Float[Tensor, "node"]:
        """By node, the root mean square length of what its write differs by from row to row; 0 for inputs."""
        found = clean[self.nodes[0].site].new_zeros(len(self.nodes))
        for site in dict.fromkeys(node.site for node in self.nodes if node.layer >= 0):
            members = [index for index, node in enumerate(self.nodes) if node.site == site]
            change = clean[site][source] - clean[site]
            if self.nodes[members[0]].head is not None:
                each = self._out(site).unflatten(1, (len(members), -1)).permute(1, 2, 0)
                change = torch.einsum("rthd,hdm->rthm", change, each)
                square = change.square().sum(-1).mean((0, 1))
            else:
                square = change.square().sum(-1).mean()[None]
            found = found.index_put((torch.tensor(members),), (square + 1e-8).sqrt())
        return found

    def _out(self, site: str) -> Tensor:
        """The weight of the projection behind heads, on the graph: `head_weights` is not."""
        projection: Any = self.model.engine.seat(site).module
        weight: Tensor = projection.weight
        return weight

    def set_edges(
        self, inputs: Inputs, clean: Run, chosen: Bool[Tensor, "row node"], source: Int[Tensor, " row"],
        heard: Mapping[str, Bool[Tensor, "row receiver"]], *, grad: bool = False,
    ) -> list[Edit]:  # fmt: skip
        """Edits that let the receivers of each row hear its chosen nodes as they are in its source row.

        `heard`: for the points at which that is so, the rows and receivers. A row has one point.
        """
        moved = self.moved(clean, chosen, source)
        first: list[Edit] = []
        last: list[Edit] = []
        sites: list[str] = []
        for point in self.points:
            here = heard.get(point.name)
            if here is None or point.tower not in moved or not bool(here.any()):
                continue
            add = Add(point.site, moved[point.tower] * here.any(1).to(moved[point.tower].device)[:, None, None])
            if point.name.endswith(".end"):
                last.append(add)
            else:
                first.append(add)
                sites += dict.fromkeys(one.site for one in point.receivers)
        if not first:
            return last
        told = self.model.run(inputs, record=sites, edits=first, grad=grad, stop=not grad)
        return [*self._received(told, heard, sites), *last]

    def _received(self, told: Run, heard: Mapping[str, Tensor], sites: Sequence[str]) -> list[Edit]:
        edits: list[Edit] = []
        for point in self.points:
            for site in dict.fromkeys(one.site for one in point.receivers):
                if site not in sites:
                    continue
                members = [index for index, one in enumerate(point.receivers) if one.site == site]
                mask = heard[point.name][:, members]
                whole = point.receivers[members[0]].head is None
                edits.append(Mixed(site, told[site], mask[:, :, None] if whole else mask[:, None, :, None]))
        return edits
