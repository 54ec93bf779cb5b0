"""Circuits on a page: the graph of a model with its best edges, and how much those carry alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas

from cutaway.methods.causal_tracing.circuit import Circuit
from cutaway.methods.causal_tracing.faithfulness import Faithfulness
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.model.streams import CONNECTOR
from cutaway.views.graphs import DRAWN, Layered, Link, Node
from cutaway.views.words import signed
from cutaway.zoo.trained import spec_of

ENTRY, UNIT, SCORE = "circuit", "share of the gap", "loss without the edge, by gradients"
ENOUGH = 0.5  # of the gap: the first circuit that carries so much is shown first
TIMED = " What the timestep and a pooled prompt do to every block is on no edge: both stay as they are here."
ROLES = {"q": "queries", "k": "keys", "v": "values"}
_NAME = re.compile(
    r"(?P<tower>\w+)(?:\.(?P<layer>\d+))?(?:\.(?P<stream>image|text))?\.(?P<part>\w+)(?:\[(?P<head>\d+)\])?"
    r"(?:\.(?P<role>[qkv]))?$"
)
BELOW = ("vision", CONNECTOR)  # what other towers stand upon
_ORDER = {"keys": 0, "mixer": 1, "head": 2, "attn": 3, "mlp": 4}


def show(page: Page) -> Iterator[Layered]:
    """The graph, for what was measured of it."""
    if ENTRY not in page.applied:
        return
    found, look = page.made(ENTRY), page.applied[ENTRY].look(ranked)
    at = _first(found)
    here, there = (signed(float(found[name].mean())) for name in ("clean", "corrupted"))
    total, few = int(found["edges"][-1]), found.smallest()
    stays = f" From {few} edges on it stays at 90% or above." if few is not None else ""
    still = _still(found)
    true = _planted(page)
    known = f" {_planted_found(found, at, true)}" if true is not None else ""
    timed = TIMED if page.question.kind == "draw" else ""
    quiet = f" Nothing in the {' and the '.join(still)} tower differs, so it is left out." if still else ""
    yield layered(
        found,
        true=true,
        title="The circuit: which edges carry it",
        seen=f"The model as a graph: from what writes (embeddings, heads, MLPs, a connector) to what reads (queries, "
        f"keys and values of heads, MLPs, a connector, the end), {total} edges. They are ranked by what {page.number} "
        f"for {page.names.aim} would lose with an edge as in the counterfactual, to first order. Then the best are "
        f"kept, and all others carry the counterfactual. {_carried(found, at)}{stays} The gap is that from "
        f"{there:+.3f} there to {here:+.3f} here.{known}{quiet}{timed} Order and curve come from this one pair, "
        "which flatters the curve.",
        limits="Whether the same edges carry the answer on other inputs: they were ranked and measured on one pair. "
        "Other edges may carry as much, and above 100% what was cut spoke against the answer. Scores are estimates by "
        "gradients, one edge at a time, and do not add up.",
        provenance=origin(found),
        code=look.code,
        folded=True,
    )  # fmt: skip


def tell(page: Page) -> Iterator[str]:
    """How much how few edges carry, beside as many by chance."""
    if ENTRY in page.applied:
        found = page.made(ENTRY)
        yield f"{_carried(found, _first(found))} That is measured on the pair that ranked them."


def ranked(found: Faithfulness) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """The best edges with their scores, and how much circuits of the best carry."""
    table = found["score"].to_series().dropna()
    size = table if found.provenance.options["signed"] else table.abs()
    best = table[size.sort_values(ascending=False, kind="stable").index]
    return best.head(DRAWN).reset_index(), found.summary()


def layered(found: Faithfulness, *, true: Circuit | None = None, **said: Any) -> Layered:
    """The graph of a result as a view; `true` is the circuit that is known to be there, `said` what all views say.

    >>> import cutaway
    >>> from cutaway.methods import faithfulness
    >>> from cutaway.model.targets import logit_diff
    >>> pair = ["a red dog"], ["a cat dog"], logit_diff("dog", "cat")
    >>> found = faithfulness(cutaway.load("tiny:llama"), *pair, draws=0, progress=False)
    >>> view = layered(found, title="A circuit", seen="The best edges.", limits="Whether others would do.")
    >>> len(view.nodes), len(view.links), view.total
    (23, 190, 190)
    """
    table = found["score"].to_series().dropna()
    order = _order(found)
    known = set() if true is None else set(true.edges)
    kept = [(rank, edge) for rank, edge in enumerate(order) if rank < DRAWN or edge in known]
    still, groups = _still(found), _groups([str(name) for name in found["receiver"].values])
    kept = [(rank, edge) for rank, edge in kept if _tower(edge[0]) not in still]
    names = [str(name) for side in ("sender", "receiver") for name in found[side].values]
    nodes = _nodes([name for name in names if _tower(name) not in still], groups)
    place = {node.name: at for at, node in enumerate(nodes)}
    links = [
        Link(place[_owner(edge[0], groups)], place[_owner(edge[1], groups)], float(table[edge]), rank,
             _role(edge[1]), None if true is None else edge in known)
        for rank, edge in kept
    ]  # fmt: skip
    sizes, first = np.unique(found["edges"].values, return_index=True)
    shown = int(np.searchsorted(sizes, found["edges"].values[_first(found)]))
    return Layered(
        nodes=nodes, links=tuple(links), total=len(order), sizes=tuple(map(int, sizes)), unit=UNIT, score=SCORE,
        carried=found["faithfulness"].values[first], low=_there(found["low"].values[first]),
        high=_there(found["high"].values[first]), shown=shown,
        chance=found["random"].mean("draw").values[first] if "random" in found.data else None, **said,
    )  # fmt: skip


def _order(found: Faithfulness) -> list[tuple[str, str]]:
    """All edges, in the order that was measured."""
    table = found["score"].to_series().dropna()
    size = table if found.provenance.options["signed"] else table.abs()
    return list(size.sort_values(ascending=False, kind="stable").index)


# --- which size -------------------------------------------------------------------------------------------------------


def _first(found: Faithfulness) -> int:
    """The size that is shown first: the smallest that carries half of the gap, of those that can be drawn whole."""
    sizes, values = found["edges"].values, found["faithfulness"].values
    drawn = [at for at, size in enumerate(sizes) if size <= DRAWN] or [0]
    return next((at for at in drawn if values[at] >= ENOUGH), drawn[-1])


def _carried(found: Faithfulness, at: int) -> str:
    """How much the circuit of one size carries, as a sentence."""
    value, count = signed(float(found["faithfulness"][at])), int(found["edges"][at])
    chance = ""
    if "random" in found.data:
        chance = f", as many by chance {signed(round(float(found['random'].mean('draw')[at]), 4) + 0.0):.1%}"
    total = int(found["edges"][-1])
    return f"The best {count} of {total} edges alone keep {value:.1%} of the gap to the counterfactual{chance}."


def _planted(page: Page) -> Circuit | None:
    """The circuit that was planted in the model; None of one that has none, as before training."""
    spec = spec_of(page.question.model.name)
    return Circuit.of(spec.title, spec.edges) if spec is not None and spec.edges and not spec.twin else None


def _planted_found(found: Faithfulness, at: int, true: Circuit) -> str:
    """How many of the first edges were planted, as a sentence."""
    first = set(_order(found)[: int(found["edges"][at])])
    return (
        f"Of these {len(first)}, {len(first & set(true.edges))} are among the {len(true.edges)} edges that were "
        "planted in this model; of planted edges along which the two inputs do not differ no pair can tell."
    )


def _there(values: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(values).all() else values


def _still(found: Faithfulness) -> list[str]:
    """Towers in which no edge carries anything else in the counterfactual."""
    scores = found["score"]
    towers = [_tower(str(name)) for name in scores["sender"].values]
    largest = np.nan_to_num(np.abs(scores.values)).max(1)
    return [one for one in dict.fromkeys(towers) if not any(largest[at] for at, own in enumerate(towers) if own == one)]


# --- nodes ------------------------------------------------------------------------------------------------------------


def _parsed(name: str) -> Mapping[str, str | None]:
    found = _NAME.match(name)
    plain = dict.fromkeys(("layer", "stream", "head", "role"))
    return found.groupdict() if found else {**plain, "tower": name, "part": name}


def _tower(name: str) -> str:
    """The tower that a name is of; the connector stands between two."""
    return str(_parsed(name)["tower"])


def _role(name: str) -> str:
    return ROLES.get(_parsed(name)["role"] or "", "")


def _groups(receivers: Sequence[str]) -> dict[str, bool]:
    """By layer, whether fewer heads have keys than queries, so that keys are a part of their own."""
    counts: dict[tuple[str, str], int] = {}
    for name in receivers:
        sublayer, role = name.partition("[")[0], _parsed(name)["role"]
        counts[sublayer, role or ""] = counts.get((sublayer, role or ""), 0) + 1
    return {one: count < counts.get((one, "q"), 0) for (one, role), count in counts.items() if role == "k"}


def _owner(name: str, groups: Mapping[str, bool]) -> str:
    """The node that a sender or receiver belongs to: a head has queries, keys and values, unless heads share keys."""
    role = _parsed(name)["role"]
    own = name.removesuffix(f".{role}") if role else re.sub(r"\.(image|text)\.attn\[", ".attn[", name)
    return f"{own}.kv" if role in ("k", "v") and groups[name.partition("[")[0]] else own


def _nodes(names: Sequence[str], groups: Mapping[str, bool]) -> tuple[Node, ...]:
    """All parts, tower by tower from below; levels are counted in each."""
    owners = dict.fromkeys(_owner(name, groups) for name in names)
    made = [_node(name) for name in owners]
    towers = dict.fromkeys(node.tower for node, _ in made)
    order = sorted(towers, key=lambda tower: BELOW.index(tower) if tower in BELOW else len(BELOW))
    found: list[Node] = []
    for tower in order:
        own = sorted(((node, key) for node, key in made if node.tower == tower), key=lambda one: one[1])
        levels = {key[:2]: 0 for _, key in own}
        levels = {key: level for level, key in enumerate(levels)}
        found += [replace(node, level=levels[key[:2]]) for node, key in own]
    return tuple(found)


def _node(name: str) -> tuple[Node, tuple[int, int, int]]:
    """One part, and where it comes in its tower: its layer, its sublayer, its number there."""
    shared = name.endswith(".kv")
    one = _parsed(name.removesuffix(".kv"))
    tower, part, layer = str(one["tower"]), str(one["part"]), None if one["layer"] is None else int(one["layer"])
    number = None if one["head"] is None else int(one["head"])
    of = f", {one['stream']}" if one["stream"] else ""
    if layer is None:
        end = part == "end"
        label = {"embed": "embedding", "end": "end", CONNECTOR: CONNECTOR}.get(part, part)
        return Node(name, tower, 0, label + of, "end" if end else "begin"), (10**6 if end else -1, 0, 0)
    kind = "keys" if shared else "head" if number is not None else part
    label = {"head": str(number), "keys": f"kv {number}", "mlp": "MLP", "attn": "heads"}.get(kind, kind) + of
    told = "MLP" if kind == "mlp" else "head" if kind == "head" else "other"
    return Node(name, tower, 0, label, told, layer, None if shared else number), (layer, _ORDER[kind], number or 0)  # type: ignore[arg-type]
