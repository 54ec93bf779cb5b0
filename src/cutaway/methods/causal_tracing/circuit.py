"""A circuit: some edges of a model's graph, kept as JSON that other tools read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from cutaway.errors import MethodError
from cutaway.model.graph import Graph

FORMAT = "cutaway-circuit/1"
Edge = tuple[str, str]


@dataclass(frozen=True)
class Circuit:
    """Edges (sender, receiver) with their scores, of a model: found, or known; `about`: how they were found, as JSON.

    >>> one = Circuit("tiny:llama", {("text.embed", "text.0.attn[1].v"): 0.5, ("text.0.attn[1]", "text.end"): 0.75})
    >>> one
    Circuit(2 edges of 'tiny:llama')
    >>> sorted(one.heads)
    ['text.0.attn[1]']
    """

    model: str
    edges: Mapping[Edge, float]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, edges: Iterable[Edge], **about: Any) -> Circuit:
        """A circuit that is known, each edge at a score of 1."""
        return cls(model, dict.fromkeys(((sender, receiver) for sender, receiver in edges), 1.0), about)

    @property
    def senders(self) -> set[str]:
        """All that writes along its edges."""
        return {sender for sender, _ in self.edges}

    @property
    def heads(self) -> set[str]:
        """The heads that write along its edges."""
        return {name for name in self.senders if name.endswith("]")}

    def mask(self, graph: Graph) -> Bool[np.ndarray, "sender receiver"]:
        """Its edges in a graph; MethodError for one that is not there."""
        return graph.mask(self.edges)

    def overlap(self, other: Circuit) -> float:
        """Shared edges over all edges of the two (the Jaccard index); NaN of two that are empty."""
        every = set(self.edges) | set(other.edges)
        return len(set(self.edges) & set(other.edges)) / len(every) if every else float("nan")

    # --- keeping ------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """A node-link graph, as networkx (`node_link_graph(found, edges="edges")`) and d3 read it.

        Nodes are senders and receivers by name. An edge of kind `edge` is one of the circuit, with its score; one of
        kind `part` leads from a receiver to what it is a part of.
        """
        receivers = dict.fromkeys(receiver for _, receiver in self.edges)
        senders = dict.fromkeys(sender for sender, _ in self.edges)
        nodes = [{"id": name, **_place(name)} for name in dict.fromkeys([*senders, *receivers])]
        parts = [(r, s) for r in receivers for s in senders if _part_of(r, s, int(self.about.get("shared", 1)))]
        links: list[dict[str, Any]] = [
            {"source": sender, "target": receiver, "kind": "edge", "score": score}
            for (sender, receiver), score in self.edges.items()
        ]
        links += [{"source": receiver, "target": sender, "kind": "part"} for receiver, sender in parts]
        graph = {"format": FORMAT, "model": self.model, "about": dict(self.about)}
        return {"directed": True, "multigraph": False, "graph": graph, "nodes": nodes, "edges": links}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as JSON; a file that is there already is an error unless `overwrite`."""
        path = Path(path)
        if path.exists() and not overwrite:
            raise MethodError(
                f"'{path}' exists already", expected="a path where nothing is", do="choose another, or overwrite=True"
            )
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """What `save` wrote; MethodError for anything else."""
        path = Path(path)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["graph"]["format"] != FORMAT:
                raise KeyError(found["graph"]["format"])
            links = [link for link in found["edges"] if link["kind"] == "edge"]
            edges = {(str(link["source"]), str(link["target"])): float(link["score"]) for link in links}
            return cls(str(found["graph"]["model"]), edges, dict(found["graph"]["about"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MethodError(
                f"'{path}' holds no circuit ({type(error).__name__}: {error})",
                expected=f"JSON of the format {FORMAT}, as `Circuit.save` writes it", do="check which file it is",
            ) from error  # fmt: skip

    def __repr__(self) -> str:
        return f"Circuit({len(self.edges)} edges of '{self.model}')"


def _place(name: str) -> dict[str, Any]:
    """Tower, layer and part of a name."""
    tower, *rest = name.split(".")
    layer = int(rest.pop(0)) if rest and rest[0].isdecimal() else None
    return {"tower": tower, "layer": layer, "part": ".".join(rest) or tower}


def _part_of(receiver: str, sender: str, shared: int) -> bool:
    """Whether queries, keys or values belong to a head, `shared` of which have keys and values in common."""
    place, _, part = receiver.rpartition(".")
    layer, _, head = place.rstrip("]").partition("[")
    if part not in ("q", "k", "v") or not head:
        return False
    group = 1 if part == "q" else shared
    sender = sender.replace(".image.attn", ".attn").replace(".text.attn", ".attn")  # one head reads both streams
    return sender == layer or sender in {f"{layer}[{int(head) * group + at}]" for at in range(group)}
