"""Weights by the name of a site: what a head writes, and how a tower's residual stream is read at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.errors import SiteError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.paths import linear_shape
from cutaway.model.seats import is_rms, norm_eps

Pooled = Literal["cls", "eos", "last", "highest"]

# The one position at whose final state a tower of this class is read: its class token, its first end token, its last.
POOLED: dict[str, Pooled] = {
    "CLIPVisionModel": "cls",
    "CLIPTextModel": "eos",
    "SiglipTextModel": "last",
    "ViTModel": "cls",
    "Dinov2Model": "cls",
    "Dinov2WithRegistersModel": "cls",
}


@dataclass(frozen=True, eq=False)
class Readout:
    """How the residual stream x of a tower is read at its end: y = P (g * (x - m) / s + b) + c.

    g, b: gain and bias of the final norm; m, s: its mean (0 for RMSNorm) and denominator; P, c: the projection
    into the space of the site `space` (the identity where there is none). Only the position `at` is read by the model.
    """

    tower: str
    space: str
    at: Pooled
    gain: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"]
    weight: Float[Tensor, "joint d_model"]
    offset: Float[Tensor, "joint"]
    centred: bool
    eps: float

    @property
    def matrix(self) -> Float[Tensor, "joint d_model"]:
        """The linear part for s = 1: P diag(g), with the mean taken out when the norm does so."""
        scaled = self.weight * self.gain
        return scaled - scaled.mean(1, keepdim=True) if self.centred else scaled

    def scale(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """The denominator s of the final norm for a state."""
        inner = hidden - hidden.mean(-1, keepdim=True) if self.centred else hidden
        return (inner.pow(2).mean(-1) + self.eps).sqrt()

    def __call__(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows joint"]:
        """Read any state of the residual stream as if it were the last one."""
        return hidden @ self.matrix.T / self.scale(hidden)[..., None] + self.weight @ self.bias + self.offset

    def positions(self, inputs: Inputs) -> Int[Tensor, "batch"]:
        """Where in each row the model reads: the first of the kind `at`, the last, that of the highest id."""
        tokens = inputs.tokens[self.tower]
        if self.at == "highest":
            return inputs.tensors["input_ids"].argmax(-1)
        if self.at == "last":
            return torch.full((tokens.batch,), len(tokens) - 1)
        return tokens.where(self.at).int().argmax(1)


def readout(model: Model, tower: str) -> Readout:
    """The end of a tower that is read at one position; SiteError for a tower that is read otherwise."""
    if tower not in model.towers:
        raise SiteError(f"no tower '{tower}'", exists=", ".join(model.towers) or "no named tower")
    kind = type(model.towers[tower].module).__name__
    if f"{tower}.pool.out" in model.sites:
        raise SiteError(
            f"{kind} pools its '{tower}' tower with an attention head, which is no sum over the residual stream",
            expected="a tower that is read at one position (class token, end token) after a final norm",
            exists=", ".join(name for name, t in model.towers.items() if type(t.module).__name__ in POOLED),
            do=f"choose another tower, or read `{tower}.pool.attn.pattern` and `{tower}.pool.out`",
        )
    if kind not in POOLED or f"{tower}.norm.scale" not in model.sites:
        raise SiteError(
            f"it is not known at which position the '{tower}' tower ({kind}) is read",
            expected=f"one of {', '.join(POOLED)}",
            do="add the class to `POOLED` in model/weights.py",
        )
    norm = model._seat(model.sites.one(f"{tower}.norm.scale")).module
    gain, bias = _norm_weights(norm)
    space, weight, offset = _projection(model, tower, gain)
    at = POOLED[kind]
    if at == "eos" and getattr(model.towers[tower].module.config, "eos_token_id", None) == 2:
        at = "highest"  # how the library reads a CLIP text when its config says 2, as those of the first years do
    return Readout(tower, space, at, gain, bias, weight, offset, not is_rms(norm), norm_eps(norm))


def head_weights(
    model: Model, tower: str, layer: int
) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "d_model"]]:
    """W and b with `attn.out` = sum over heads of `attn.z` W + b: what each head of a layer writes to the residual.

    A layer scale behind the output projection (DINOv2) is folded in.
    """
    z, out = (model.sites.one(f"{tower}.{layer}.attn.{part}") for part in ("z", "out"))
    inner, outer = model._seat(z).module, model._seat(out).module
    matrix, bias = _linear(inner, str(z))
    gain = getattr(outer, "lambda1", None)
    if gain is not None:
        matrix, bias = matrix * gain.detach()[:, None], bias * gain.detach()
    elif outer is not inner and inner not in outer.modules():
        raise SiteError(
            f"'{out}' is not linear in '{z}': {type(outer).__name__} lies between them",
            expected="a linear output projection, with a layer scale at most",
            do="use another model, or the activations themselves",
        )
    return matrix.T.unflatten(0, (z.sizes["head"], -1)), bias


def _projection(model: Model, tower: str, gain: Tensor) -> tuple[str, Tensor, Tensor]:
    """The space behind the final norm: joint, class logits where they take one position, else the norm's own output."""
    for part in ("joint", "logits"):
        name = f"{tower}.{part}"
        if name in model.sites:
            matrix, offset = _linear(model._seat(model.sites.one(name)).module, name)
            if matrix.shape[1] == len(gain):
                return name, matrix, offset
    eye = torch.eye(len(gain), dtype=gain.dtype, device=gain.device)
    return f"{tower}.final", eye, torch.zeros_like(gain)


def _linear(module: Any, name: str) -> tuple[Float[Tensor, "out d_in"], Float[Tensor, "out"]]:
    """Matrix (out, in) and bias of a linear map, whichever way round its class keeps them."""
    shape = linear_shape(module)
    if shape is None:
        raise SiteError(f"'{name}' is not a linear map but {type(module).__name__}", do="choose another site")
    matrix = module.weight.detach()
    matrix = matrix if isinstance(module, nn.Linear) else matrix.T
    bias = getattr(module, "bias", None)
    return matrix, torch.zeros_like(matrix[:, 0]) if bias is None else bias.detach()


@torch.no_grad()
def _norm_weights(norm: Any) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Gain and bias; of an RMSNorm by what it does to ones, since some classes keep the gain less one."""
    weight = norm.weight.detach()
    if is_rms(norm):
        return norm(torch.ones_like(weight)) * (1 + norm_eps(norm)) ** 0.5, torch.zeros_like(weight)
    return weight, torch.zeros_like(weight) if norm.bias is None else norm.bias.detach()
