"""Weights by the name of a site: what a head writes, and how a tower's residual stream is read at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.errors import SiteError
from cutaway.model.blocks import BLOCKS
from cutaway.model.engine import Engine, Opened
from cutaway.model.inputs import Inputs
from cutaway.model.linear import linear_map, norm_weights
from cutaway.model.paths import child
from cutaway.model.run import Run
from cutaway.model.seats import denominator, is_rms, norm_eps
from cutaway.model.sites import Site
from cutaway.model.towers import TOWERS
from cutaway.model.wrapped import at_rest, present

Pooled = Literal["cls", "eos", "last", "highest", "pool"]

READERS: dict[Pooled, str] = {
    "cls": "class token", "eos": "end token", "last": "last token", "highest": "end token", "pool": "pooling head",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Readout:
    """How the residual stream x of a tower is read at its end: y = sum_k P_k sum_j a_kj N(x_j) + c (+ the pool's MLP).

    N(x) = g * (x - m) / s + b is the final norm with gain g, bias b, mean m (0 for RMSNorm) and denominator s. A tower
    that is read at one position `at` has one k and a = 1 there; P is the projection into the space of the site `space`
    (the identity where there is none). A tower that is pooled by an attention head has its heads as k: a_k is the
    pattern of the learned query, P_k = W_O W_V of head k, and behind the sum stands its MLP, `pool`.
    """

    tower: str
    space: str
    at: Pooled
    gain: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"]
    weight: Float[Tensor, "k joint d_model"]
    offset: Float[Tensor, "joint"]
    centred: bool
    eps: float
    norm: nn.Module
    pool: nn.Module | None = None
    end: int | None = None  # the id of the end token

    @property
    def matrices(self) -> Float[Tensor, "k joint d_model"]:
        """The linear parts for s = 1: P_k diag(g), with the mean taken out when the norm does so."""
        scaled = self.weight * self.gain
        return scaled - scaled.mean(-1, keepdim=True) if self.centred else scaled

    @property
    def matrix(self) -> Float[Tensor, "joint d_model"]:
        """The linear part for a state that is the only one: the sum over k."""
        return self.matrices.sum(0)

    @property
    def norm_bias(self) -> Float[Tensor, "joint"]:
        """What the bias of the final norm adds: sum_k P_k b."""
        accurate = torch.promote_types(self.weight.dtype, torch.float32)
        return self.weight.to(accurate).sum(0) @ self.bias.to(accurate)

    @property
    def reader(self) -> str:
        """What reads the tower, in words."""
        return READERS[self.at]

    @property
    def kind(self) -> str:
        """The kind of the one position that is read; empty where all are, or which one is told by no kind."""
        return {"cls": "cls", "eos": "eos", "highest": "eos"}.get(self.at, "")

    @property
    def sites(self) -> tuple[str, ...]:
        """What `weights` and the exact sum need of a run."""
        pooled = ("pool.attn.pattern", "pool.mlp.out") if self.at == "pool" else ()
        return (*(f"{self.tower}.{part}" for part in ("0.resid_pre", "norm.scale", *pooled)), self.space)

    def weights(self, run: Run) -> Float[Tensor, "batch k token"]:
        """a_kj / s_j: how much of each final state the model reads in a run that recorded `sites`."""
        scale = run[f"{self.tower}.norm.scale"]
        scale = scale.to(torch.promote_types(scale.dtype, torch.float32))
        if self.at == "pool":
            return run[f"{self.tower}.pool.attn.pattern"][:, :, 0] / scale[:, None]
        here, (batch, tokens) = self.positions(run.inputs), run[f"{self.tower}.0.resid_pre"].shape[:2]
        scale = scale if scale.dim() == 1 else scale[torch.arange(batch), here]
        chosen = torch.zeros(batch, tokens, dtype=scale.dtype, device=scale.device)
        chosen[torch.arange(batch), here] = 1 / scale
        return chosen[:, None]

    def scale(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """The denominator s of the final norm for a state."""
        return denominator(hidden, self.centred, self.eps)

    def __call__(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows joint"]:
        """Read any state of the residual stream as if it were the last one, and the only one where all are read."""
        hidden = hidden.to(self.weight.device)
        constant = (self.norm_bias + self.offset).to(hidden.dtype)
        read = hidden @ self.matrix.T / self.scale(hidden)[..., None] + constant
        return read if self.pool is None else read + _pool_mlp(self.pool, read).to(read)

    def directions(
        self, tokens: Int[Tensor, "*rows word"], signs: Sequence[int]
    ) -> tuple[Float[Tensor, "*rows d_model"], Float[Tensor, "*rows"]]:
        """U and c with sum_w signs_w logit_w = <U, y> + c, of the words of each row and the state y behind the norm.

        In single precision at least.
        """
        accurate = torch.promote_types(self.weight.dtype, torch.float32)
        ids = tokens.to(self.weight.device)
        matrix, offset = (part.detach()[ids].to(accurate) for part in (self.weight[0], self.offset))
        sign = torch.tensor(signs).to(matrix)
        return torch.einsum("...wd,w->...d", matrix, sign), offset @ sign

    @torch.no_grad()
    def pooled(self, hidden: Float[Tensor, "batch token d_model"], inputs: Inputs) -> Float[Tensor, "batch joint"]:
        """Read whole states of the residual stream as if the tower ended there."""
        if self.pool is not None:
            with at_rest([self.pool]):
                return self.pool(self.norm(hidden))
        return self(hidden[torch.arange(len(hidden)), self.positions(inputs)])

    def positions(self, inputs: Inputs) -> Int[Tensor, "batch"]:
        """Where in each row the model reads: the first of the kind `at`, the last, that of the highest id.

        Raises SiteError where that is padding, which often has the id of the end: such a row is not read at all.
        """
        tokens = inputs.tokens[self.tower]
        if self.at == "pool":
            raise SiteError(
                f"the '{self.tower}' tower is read at all positions, by a pooling head", expected="a tower read at one",
                do="use the mean over patches",
            )  # fmt: skip
        if self.at == "last":
            own = inputs.own(Site(self.tower, None, "final"), "token")  # where padding is hidden from a decoder
            last = torch.full((tokens.batch,), len(tokens) - 1)
            return last if own is None else last - own.flip(1).int().argmax(1)
        ids = inputs.tensors.get("input_ids")
        if self.at == "cls" or ids is None:
            return tokens.where("cls" if self.at == "cls" else "eos").int().argmax(1)
        found = (ids if self.at == "highest" else ids == self.end).int().argmax(-1).cpu()
        padded = tokens.kind[range(tokens.batch), found.tolist()] == "pad"
        if padded.any():
            raise SiteError(
                f"the model reads row {padded.argmax()} of the '{self.tower}' tower at position "
                f"{int(found[int(padded.argmax())])}, which is padding",
                expected=f"the end of a text before its padding: this tower is read at its first {self.reader}",
                do='pad on the right: `model.tokenizer.padding_side = "right"`',
            )
        return found


def readout(model: Opened, tower: str) -> Readout:
    """The end of a tower that is read at one position; SiteError for a tower that is read otherwise."""
    engine = model.engine
    if tower not in engine.towers:
        raise SiteError(f"no tower '{tower}'", exists=", ".join(engine.towers) or "no named tower")
    kind, row = type(engine.towers[tower].module).__name__, engine.towers[tower].row
    if engine.towers[tower].stepped:
        raise SiteError(
            f"the '{tower}' tower ({kind}) is read at every place of the picture, by what a timestep makes of its end",
            expected="a tower that is read at one position, in one way", exists=", ".join(engine.towers),
            do="`denoiser_end(model)` of cutaway.model.denoiser_end says how, where it is linear",
        )  # fmt: skip
    speaks = engine.towers[tower].causal and f"{tower}.logits" in engine.sites
    at: Pooled | None = row.pooled or ("last" if speaks else None)
    pooled = at == "pool"
    if at is None or f"{tower}.norm.scale" not in engine.sites or (pooled and _pool(engine, tower) is None):
        known = [name for name, one in TOWERS.items() if one.pooled]
        raise SiteError(
            f"it is not known at which position the '{tower}' tower ({kind}) is read",
            expected=f"a decoder with a last norm, or one of {', '.join(known)}, with its pooling head if it has one",
            do="say where it is read (`pooled=`) in its row of model/towers.py",
        )
    norm = engine.seat(f"{tower}.norm.scale").module
    gain, bias = (weight.detach() for weight in norm_weights(norm))
    pool = _pool(engine, tower) if pooled else None
    if pool is not None:
        space = f"{tower}.pool.out"
        weight, offset = _pool_weights(pool.attention)
    else:
        space, matrix, offset = _projection(engine, tower, gain)
        weight = matrix[None]
    end = getattr(engine.towers[tower].module.config, "eos_token_id", None)
    if at == "eos" and end == 2:
        at = "highest"  # how the library reads a CLIP text when its config says 2, as those of the first years do
    gain, bias = gain.to(weight.device), bias.to(weight.device)
    return Readout(tower, space, at, gain, bias, weight, offset, not is_rms(norm), norm_eps(norm), norm, pool, end)


def head_weights(
    model: Opened, tower: str, layer: int, sublayer: Literal["attn", "cross", "image.attn"] = "attn"
) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "d_model"]]:
    """W and b with `attn.out` = sum over heads of `attn.z` W + b: what each head of a layer writes to the residual.

    A layer scale behind the output projection (DINOv2) is folded in. `sublayer="cross"`: the same of
    cross-attention; `"image.attn"`: of the picture's half of a joint one.
    """
    engine = model.engine
    z, out = (engine.sites.one(f"{tower}.{layer}.{sublayer}.{part}") for part in ("z", "out"))
    inner, outer = engine.seat(z).module, engine.seat(out).module
    matrix, bias = linear_map(inner, str(z), engine.dtype)
    if getattr(outer, "lambda1", None) is not None:
        with torch.no_grad():
            gain = outer.forward(torch.ones_like(bias))
        matrix, bias = matrix * gain[:, None], bias * gain
    elif outer is not inner and inner not in outer.modules():
        raise SiteError(
            f"'{out}' is not linear in '{z}': {type(outer).__name__} lies between them",
            expected="a linear output projection, with a layer scale at most",
            do="use another model, or the activations themselves",
        )
    return matrix.T.unflatten(0, (z.sizes["head"], -1)), bias


def value_weights(
    model: Opened, tower: str, layer: int
) -> tuple[Float[Tensor, "kv_head d_head d_model"], Float[Tensor, "kv_head d_head"]]:
    """W and b with `attn.v` = W x / s + b: how a layer's values come from the residual x at a position.

    s is `attn.norm.scale`, the denominator of the norm before the attention; its gain, mean and bias are folded in.
    Raises SiteError where the table does not say which projection makes the values.
    """
    engine = model.engine
    block, v = engine.towers[tower].blocks[layer], f"{tower}.{layer}.attn.v"
    kind = type(block).__name__
    row = BLOCKS[kind].attn
    if row is None or not row.v:
        raise SiteError(
            f"it is not known which projection of {kind} makes '{v}'",
            expected="the name of it in the row of its attention",
            do="add it (`v=`) to its row in model/blocks.py, or use the values themselves",
        )
    matrix, bias = linear_map(child(block, row.v, kind), v, engine.dtype)
    norm = engine.seat(f"{tower}.{layer}.attn.norm.scale").module
    gain, shift = (weight.detach() for weight in norm_weights(norm))
    sizes = engine.sites.one(v).sizes
    heads = sizes.get("kv_head", sizes.get("head"))
    assert heads is not None
    count = heads * sizes["d_head"]
    matrix, bias = matrix[-count:], bias[-count:] + matrix[-count:] @ shift
    scaled = matrix * gain
    scaled = scaled if is_rms(norm) else scaled - scaled.mean(-1, keepdim=True)
    return scaled.unflatten(0, (heads, -1)), bias.unflatten(0, (heads, -1))


def mlp_weights(
    model: Opened, tower: str, layer: int
) -> tuple[Float[Tensor, "d_model d_mlp"], Float[Tensor, "d_model"]]:
    """W and b with `mlp.out` = W `mlp.post` + b; SiteError where something lies between them."""
    engine = model.engine
    post, out = (f"{tower}.{layer}.mlp.{part}" for part in ("post", "out"))
    inner, outer = engine.seat(post).module, engine.seat(out).module
    if inner is not outer and inner not in outer.modules():
        raise SiteError(
            f"'{out}' is not linear in the units: {type(outer).__name__} lies between them",
            expected="an MLP that ends in its output projection", do="use what the MLP adds as a whole",
        )  # fmt: skip
    return linear_map(inner, post, engine.dtype)


def connector_weights(
    model: Opened, part: Literal["pre", "post"]
) -> tuple[Float[Tensor, "out d_in"], Float[Tensor, "out"]]:
    """W and b of a layer of the connector: `connector.pre` = W x + b, or what stands behind `connector.post`."""
    engine, site = model.engine, f"connector.{part}"
    return linear_map(engine.seat(site).module, site, engine.dtype)


def norms_behind(model: Opened, tower: str) -> bool:
    """Whether a decoder's blocks norm their sums (post-norm), so that what they add does not add up to its end."""
    return model.engine.seat(f"{tower}.0.resid_mid").kind != "mid"


def embedding_table(model: Opened, tower: str) -> Float[Tensor, "vocab d_model"]:
    """The vectors that the words of a tower begin with, one a token; what the tower adds to them is no part of it."""
    engine = model.engine
    size = engine.sites.one(f"{tower}.0.resid_pre").sizes["d_model"]
    module: Any = engine.towers[tower].module
    table = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    if not isinstance(table, nn.Embedding) or table.weight.shape[1] != size:
        raise SiteError(
            f"the words of '{tower}' do not begin as rows of a table of width {size}",
            expected="a tower of words that are looked up (`nn.Embedding`) and enter as they are",
            exists=f"{type(table).__name__}", do="use states of words in texts instead",
        )  # fmt: skip
    with present(table):
        return table.weight.detach()


def _projection(engine: Engine, tower: str, gain: Tensor) -> tuple[str, Tensor, Tensor]:
    """The space behind the final norm: joint, class logits where they take one position, else the norm's own output."""
    for part in ("joint", "logits"):
        name = f"{tower}.{part}"
        if name in engine.sites:
            matrix, offset = linear_map(engine.seat(name).module, name, engine.dtype)
            if matrix.shape[1] == len(gain):
                return name, matrix, offset
    eye = torch.eye(len(gain), dtype=gain.dtype, device=gain.device)
    return f"{tower}.final", eye, torch.zeros_like(gain)


def _pool(engine: Engine, tower: str) -> Any:
    """The pooling head of a tower; None where this model goes without one."""
    name = f"{tower}.pool.out"
    return engine.seat(name).module if name in engine.sites else None


def _pool_weights(attention: Any) -> tuple[Float[Tensor, "k joint d"], Float[Tensor, "joint"]]:
    """W_O W_V of each head of a pooling attention, and what its biases add."""
    if type(attention) is not nn.MultiheadAttention:
        kind = f"{type(attention).__module__}.{type(attention).__qualname__}"
        raise SiteError(
            f"the weights that act in the pooling attention are inside {kind}",
            expected="an nn.MultiheadAttention without an adapter around it",
            do="merge the adapter and open what is left: `cutaway.load(peft_model.merge_and_unload())`",
        )
    heads = attention.num_heads
    with present(attention):  # its output projection is read and never called, as the library does it
        value = attention.in_proj_weight.detach().chunk(3)[2].unflatten(0, (heads, -1))  # head, d_head, d
        out = attention.out_proj.weight.detach()
        bias = out @ attention.in_proj_bias.detach().chunk(3)[2] + attention.out_proj.bias.detach()
    return torch.einsum("jhe,hed->hjd", out.unflatten(1, (heads, -1)), value), bias


@torch.no_grad()
def _pool_mlp(pool: Any, attended: Float[Tensor, "*rows joint"]) -> Float[Tensor, "*rows joint"]:
    """What the MLP of a pooling head adds to what its attention gave."""
    with at_rest([pool]):
        return pool.mlp(pool.layernorm(attended))
