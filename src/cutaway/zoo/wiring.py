"""What could be in a circuit: everything that writes to a residual stream, and everything that reads one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.model.model import Model

ORDER: tuple[str, ...] = ("vision", "text")  # of towers: what one writes the next may read
CONNECTOR, DENOISER = "connector", "denoiser"


@dataclass(frozen=True)
class Node:
    """What writes to a stream: `site` is where that can be set, `head` says which of its heads.

    `gate`: the site of what it is multiplied by before it is added. `between`: the sites of the stream behind it and
    before it, where what it writes is read off these.
    """

    name: str
    stream: str
    layer: int
    site: str
    head: int | None = None
    gate: str = ""
    between: tuple[str, str] | None = None

    @property
    def inside(self) -> bool:
        """Whether it can be exchanged: what enters the first block is the input itself."""
        return self.layer >= 0 or self.name == CONNECTOR

    @property
    def sites(self) -> tuple[str, ...]:
        """All that has to be known of a run."""
        return tuple(site for site in (self.site, self.gate, *(self.between or ())) if site)


@dataclass(frozen=True)
class Receiver:
    """What reads, and the site (and head) at which that is set."""

    name: str
    site: str
    head: int | None = None


@dataclass(frozen=True)
class Point:
    """Where receivers read: the residual of each stream, and the nodes, by number, that wrote there before."""

    name: str
    streams: dict[str, str]
    seen: tuple[int, ...]
    receivers: tuple[Receiver, ...]

    @property
    def ends(self) -> bool:
        """Whether it is an end, from which the answer is read."""
        return self.name.endswith(".end")


class Wiring:
    """All nodes and receivers of a model: of a decoder, a CLIP, a LLaVA with its connector, a denoiser of two streams.

    In a denoiser of joint attention a head writes to the picture alone; what a block writes to the text is two nodes,
    all its heads and its MLP.

    >>> import cutaway
    >>> wiring = Wiring(cutaway.load("tiny:llama"))
    >>> len(wiring.nodes), wiring.points[0].receivers[0].name
    (16, 'text.0.attn[0].q')
    """

    def __init__(self, model: Model) -> None:
        layers = dict(model.sites.towers())
        self.model = model
        self.joined = model.family.kind != "contrastive" and "vision" in model.towers
        self.lead = 2 if DENOISER in layers else 0  # axes in front of the rows: step and guidance
        self.nodes: list[Node] = []
        self.points: list[Point] = []
        if self.lead:
            self._joint(layers[DENOISER])
        for tower in () if self.lead else ORDER:
            if tower in layers:
                self._tower(tower, layers[tower])
        self.number = {node.name: index for index, node in enumerate(self.nodes)}
        self.at = {one.name: (point.name, i) for point in self.points for i, one in enumerate(point.receivers)}

    def _tower(self, tower: str, layers: int) -> None:
        first = len(self.nodes)
        self.nodes.append(Node(f"{tower}.embed", tower, -1, f"{tower}.0.resid_pre"))
        if self.joined and tower == "text":
            self.nodes.append(Node(CONNECTOR, tower, -1, f"{tower}.0.resid_pre"))
        heads = self.model.sites.one(f"{tower}.0.attn.z").sizes["head"]
        for layer in range(layers):
            at = f"{tower}.{layer}"
            self._reads(f"{at}.attn", {tower: f"{at}.resid_pre"}, first, _heads(at, heads))
            self.nodes += [Node(f"{at}.attn[{head}]", tower, layer, f"{at}.attn.z", head) for head in range(heads)]
            self._reads(f"{at}.mlp", {tower: f"{at}.resid_mid"}, first, (Receiver(f"{at}.mlp", f"{at}.mlp.out"),))
            self.nodes.append(Node(f"{at}.mlp", tower, layer, f"{at}.mlp.out"))
        end = f"{tower}.{layers - 1}.resid_post"
        name, site = (CONNECTOR, "connector.out") if self.joined and tower == "vision" else (f"{tower}.end", end)
        self._reads(name, {tower: end}, first, (Receiver(name, site),))

    def _joint(self, layers: int) -> None:
        image, text = f"{DENOISER}.image", f"{DENOISER}.text"
        self.nodes += [Node(f"{one}.embed", one, -1, f"{DENOISER}.0.{one[9:]}.resid_pre") for one in (image, text)]
        heads = self.model.sites.one(f"{DENOISER}.0.image.attn.z").sizes["head"]
        for layer in range(layers):
            at, last = f"{DENOISER}.{layer}", layer == layers - 1
            streams = {image: f"{at}.image.resid_pre", text: f"{at}.text.resid_pre"}
            self._reads(f"{at}.attn", streams, 0, _heads(at, heads))
            z, gate = f"{at}.image.attn.z", f"{at}.image.attn.gate"
            self.nodes += [Node(f"{at}.image.attn[{head}]", image, layer, z, head, gate) for head in range(heads)]
            before, middle, behind = (f"{at}.text.resid_{one}" for one in ("pre", "mid", "post"))
            if not last:
                name = f"{at}.text.attn"
                self.nodes.append(Node(name, text, layer, f"{name}.z", between=(middle, before)))
            for stream in (image,) if last else (image, text):
                name = f"{at}.{stream[9:]}.mlp"
                resid = f"{at}.{stream[9:]}.resid_mid"
                self._reads(name, {stream: resid}, 0, (Receiver(name, f"{name}.out"),))
            self.nodes.append(Node(f"{at}.image.mlp", image, layer, f"{at}.image.mlp.out", gate=f"{at}.image.mlp.gate"))
            if not last:
                name = f"{at}.text.mlp"
                self.nodes.append(Node(name, text, layer, f"{name}.out", between=(behind, middle)))
        end = f"{DENOISER}.{layers - 1}.image.resid_post"
        self._reads(f"{image}.end", {image: end}, 0, (Receiver(f"{image}.end", end),))

    def _reads(self, name: str, streams: dict[str, str], first: int, receivers: tuple[Receiver, ...]) -> None:
        """A point that sees all nodes so far, from the first of its tower on, in the streams that it reads."""
        seen = tuple(at for at, node in enumerate(self.nodes) if at >= first and node.stream in streams)
        self.points.append(Point(name, streams, seen, receivers))

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
        return (*dict.fromkeys(site for node in self.nodes for site in node.sites), *more)

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Every edge there could be."""
        return [
            (self.nodes[index].name, one.name) for point in self.points for one in point.receivers
            for index in point.seen
        ]  # fmt: skip


def _heads(at: str, heads: int) -> tuple[Receiver, ...]:
    """The queries, keys and values of every head."""
    return tuple(
        Receiver(f"{at}.attn[{head}].{part}", f"{at}.attn.{part}", head) for head in range(heads) for part in "qkv"
    )
