"""What the blocks of a joint-attention denoiser add to the picture's stream: heads, MLPs, and the gates before them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cutaway.errors import SiteError
from cutaway.model.engine import Opened
from cutaway.model.linear import linear_map
from cutaway.model.sites import Site
from cutaway.model.weights import head_weights


@dataclass(frozen=True, eq=False)
class Writes:
    """What one block adds to the picture's stream x: g (sum_h z_h W_h + b) + g' m, gates g and g' of the timestep.

    `z`, `gate`, `mlp`, `mlp_gate` are the sites of z, g, m and g', `pattern` and `v` those that z comes from, over the
    joint positions of picture and text. In a block of one stream z and m are over the joint positions too, g' is g,
    and m is what `mlp` has times `mlp_weight`; b is then of the whole block.
    """

    layer: int
    z: Site
    gate: Site
    mlp: Site
    mlp_gate: Site
    pattern: Site
    v: Site
    weight: Float[Tensor, "head d_head d_model"]
    bias: Float[Tensor, "d_model"]
    mlp_weight: Float[Tensor, "d_mlp d_model"] | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """What the sum needs of a run."""
        return tuple(dict.fromkeys((self.z, self.gate, self.mlp, self.mlp_gate)))


def picture_writes(model: Opened, tower: str = "denoiser") -> tuple[Writes, ...]:
    """What each block adds to the picture's stream, in order; SiteError where a block is not of joint attention.

    A second attention of the picture alone (SD3.5) and what a ControlNet adds are no part of it.

    >>> import cutaway
    >>> one, *_, last = picture_writes(cutaway.load("tiny:flux"))
    >>> str(one.gate), str(last.gate), one.mlp_weight is None, last.weight.shape
    ('denoiser.0.image.attn.gate', 'denoiser.3.gate', True, torch.Size([4, 8, 32]))
    """
    return tuple(_of(model, tower, layer) for layer in range(len(model.engine.towers[tower].blocks)))


def _of(model: Opened, tower: str, layer: int) -> Writes:
    engine, here = model.engine, f"{tower}.{layer}"

    def site(part: str) -> Site:
        return engine.sites.one(f"{here}.{part}")

    if f"{here}.image.attn.gate" in engine.sites:
        weight, bias = head_weights(engine, tower, layer, "image.attn")
        return Writes(
            layer, site("image.attn.z"), site("image.attn.gate"), site("image.mlp.out"), site("image.mlp.gate"),
            site("attn.pattern"), site("attn.v"), weight, bias,
        )  # fmt: skip
    if f"{here}.gate" not in engine.sites:
        raise SiteError(
            f"it is not known what {type(engine.towers[tower].blocks[layer]).__name__} adds to the picture's stream",
            expected="blocks of joint attention with a gate, as in SD3 and Flux",
            exists=f"the towers {', '.join(engine.towers)}",
            do="record `resid_post` of its layers; `model.sweep` says what rests on each",
        )  # fmt: skip
    z, gate = site("attn.z"), site("gate")
    matrix, bias = linear_map(engine.seat(z).module, str(z), engine.dtype)
    heads, wide = z.sizes["head"], z.sizes["head"] * z.sizes["d_head"]
    attended, hidden = matrix.T[:wide].unflatten(0, (heads, -1)), matrix.T[wide:]
    return Writes(
        layer, z, gate, site("mlp.post"), gate, site("attn.pattern"), site("attn.v"), attended, bias, hidden
    )  # fmt: skip
