"""The view of a graph in layers: what writes and reads in a model, and which links between them are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cutaway.errors import InputError
from cutaway.views.kinds import View, keep

DRAWN = 300  # links at most, but for true ones: more hide one another


@dataclass(frozen=True)
class Node:
    """One part of a model: its name, its tower, the `level` it stands at in it, what is written on it and what it is.

    Levels count upwards from where the tower begins; nodes of one level stand side by side. `layer` and `head` are its
    numbers, None where it has no such.
    """

    name: str
    tower: str
    level: int
    label: str
    kind: Literal["begin", "head", "MLP", "other", "end"] = "other"
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class Link:
    """What one node hears of another: the places of both among the nodes, its score, its rank among all from 0.

    `role` says as what it is heard ("queries"); `true` whether it is in the graph that is known to be right, None where
    none is known.
    """

    start: int
    end: int
    score: float | None
    rank: int
    role: str = ""
    true: bool | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Layered(View):
    """A graph in layers, of which the first links in order are kept: `carried` by so many, for each of `sizes`.

    `total` is the number of all links; `links` those that may be drawn: the best, and all that are true. `chance` is
    carried by as many links in an order by chance; `low` and `high` bound `carried`. `score` says what the numbers of
    links are, `unit` what is carried, `shown` which size is shown first.
    """

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    total: int
    sizes: tuple[int, ...]
    carried: np.ndarray
    unit: str
    score: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    chance: np.ndarray | None = None
    shown: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("carried", "low", "high", "chance"):
            keep(self, name, (len(self.sizes),), "size")
        lost = [link for link in self.links if not {link.start, link.end} <= set(range(len(self.nodes)))]
        ranks = [link.rank for link in self.links]
        if lost or len(set(ranks)) < len(ranks) or not all(0 <= rank < self.total for rank in ranks):
            raise InputError(
                f"'{self.title}' has links between nodes that are not there, or ranks that are no order",
                expected=f"places below {len(self.nodes)}, and ranks from 0 to {self.total - 1}, each once",
                exists=", ".join(str(link) for link in lost[:2]), do="give every link the places of its two nodes",
            )  # fmt: skip
        if list(self.sizes) != sorted(set(self.sizes)) or not 0 <= self.shown < max(1, len(self.sizes)):
            raise InputError(
                f"'{self.title}' has sizes {self.sizes[:8]} of which number {self.shown} is shown",
                expected="sizes that grow, and the place of one of them", do="sort them and leave doubles out",
            )  # fmt: skip
