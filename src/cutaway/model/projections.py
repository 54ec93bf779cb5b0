"""The projections that make queries, keys and values of what a block's first norm gives, head by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cutaway.model.blocks import BLOCKS
from cutaway.model.engine import Opened
from cutaway.model.linear import linear_map
from cutaway.model.paths import child, has

PARTS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Projections:
    """Queries, keys and values of a layer as they leave their projections: o_h = W_h n + b_h, n what the norm gives.

    `norm` and `outs[part]` are raw sites, `module` the norm; `places[part]` is where a part begins in what its
    projection gives, `weights` and `biases` are by part and head. What comes behind (rotary embedding, norms of
    queries) stays inside each head.
    """

    module: Any
    norm: str
    outs: Mapping[str, str]
    places: Mapping[str, int]
    weights: Mapping[str, Float[Tensor, "head d_head d_model"]]
    biases: Mapping[str, Float[Tensor, "head d_head"]]

    def made(
        self, part: str, head: int, state: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_head"]:
        """What the projection gives a head of any state of the stream."""
        entering = self.module.forward(state)
        return entering @ self.weights[part][head].T.to(entering) + self.biases[part][head].to(entering)

    def place(self, part: str, head: int) -> slice:
        """Where that is in what the projection gives."""
        wide = self.weights[part].shape[1]
        return slice(self.places[part] + head * wide, self.places[part] + (head + 1) * wide)


def projections(model: Opened, tower: str, layer: int) -> Projections | None:
    """Those of a layer; None where the tables do not say which modules they are.

    >>> import cutaway
    >>> found = projections(cutaway.load("tiny:llama"), "text", 1)
    >>> found.norm, found.outs["k"], found.weights["k"].shape
    ('raw.model.layers.1.input_layernorm', 'raw.model.layers.1.self_attn.k_proj', torch.Size([2, 8, 32]))
    """
    engine = model.engine
    block, scale = engine.towers[tower].blocks[layer], f"{tower}.{layer}.attn.norm.scale"
    row = BLOCKS[type(block).__name__].attn if type(block).__name__ in BLOCKS else None
    if row is None or not row.v or scale not in engine.sites or engine.pipeline is not None:
        return None
    paths = {part: row.v.replace("v_proj", f"{part}_proj") for part in PARTS}
    if not all(has(block, path) for path in paths.values()):
        return None
    names = {id(module): f"raw.{name}" for name, module in engine.module.named_modules()}
    modules = {part: child(block, path, path) for part, path in paths.items()}
    norm = engine.seat(scale).module
    if any(id(one) not in names for one in (norm, *modules.values())):
        return None
    sites = {part: engine.sites.one(f"{tower}.{layer}.attn.{part}") for part in PARTS}
    sizes = {part: (site.sizes[site.head_axis or "head"], site.sizes["d_head"]) for part, site in sites.items()}
    places, begun, weights, biases = {}, 0, {}, {}
    for part in PARTS:
        heads, wide = sizes[part]
        matrix, bias = linear_map(modules[part], str(sites[part]), engine.dtype)
        start = begun if paths["q"] == paths["v"] else 0
        if matrix.shape[0] < start + heads * wide:
            return None
        rows = slice(start, start + heads * wide)
        places[part], begun = start, start + heads * wide
        weights[part], biases[part] = matrix[rows].unflatten(0, (heads, wide)), bias[rows].unflatten(0, (heads, wide))
    outs = {part: names[id(one)] for part, one in modules.items()}
    return Projections(norm, names[id(norm)], outs, places, weights, biases)
