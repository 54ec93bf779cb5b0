"""From activations to features and back, as plain equations of tensors that have a gradient.

Per row x of kind κ at step t, with s_κ a scale a kind (1 where there is none):

    x̃ = s_κ x                              or, for weights made elsewhere, the row's own layer norm or unit length
    u = W_e (x̃ - c_t) + b_e + v_t           c_t = b_d + w_t of an autoencoder, 0 of a transcoder; v_t, w_t of a step
    f = act(u)                              0 for features of a group that does not fit κ
    ŷ = (f W_d + b_d + w_t + S x̃) / s'_κ    S of a skip transcoder; s' = s of an autoencoder

    relu         f = max(u, 0)
    topk         f = max(u, 0) for the k largest of a row, else 0
    batch_topk   f = u if u > θ else 0      one θ, so that training had k a row on average
    jumprelu     f = u if u > θ_j else 0
    gated        f = max(e^{r_j} (u - b_e) + b_m, 0) if u > 0 else 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.shape import Shape
from cutaway.model.dictionary import At

OFF = -1e30  # what stands before the activation of a feature that may not be on
EPS = 1e-5  # of a row's own layer norm, as SAELens and ViT-Prisma have it
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """Rows as a dictionary takes them: scaled, and what each is; what undoes the scale of the target."""

    x: Float[Tensor, "n d"]
    kind: Int[Tensor, "n"] | None = None
    step: Int[Tensor, "n"] | None = None


def places(given: Int[Tensor, "..."] | None, size: tuple[int, ...], device: torch.device) -> Int[Tensor, "n"] | None:
    """What is known of the rows, one number a row."""
    return None if given is None else given.to(device).broadcast_to(size).reshape(-1)


def steps_of(at: At, steps: int) -> Int[Tensor, "..."] | None:
    """The steps of another number of steps, at the places of these: the step whose stretch holds its middle."""
    if at.step is not None and at.step.numel() and int(at.step.max()) >= at.steps:
        raise MethodError(
            f"a row is of step {int(at.step.max())} of {at.steps}", expected="steps below their number",
            do="give `At(step=…, steps=…)`",
        )  # fmt: skip
    if at.step is None or at.steps == steps:
        return at.step
    return ((2 * at.step + 1) * steps // (2 * at.steps)).clamp(0, steps - 1)


def factor(
    table: Float[Tensor, "kind part"] | None, kind: Int[Tensor, "n"] | None, sizes: tuple[int, ...]
) -> Float[Tensor, "#n d"] | None:
    """The scale of each number of each row: `table` has one a kind and part, `sizes` says how long the parts are."""
    if table is None:
        return None
    each = table[:1] if kind is None else table[kind]
    return each.repeat_interleave(torch.tensor(sizes, device=each.device), 1)


def before(w: Tensors, shape: Shape, rows: Rows, centred: bool) -> Float[Tensor, "n m"]:
    """u: what stands before the activation."""
    x = rows.x
    if centred:
        x = x - centre(w, rows.step)
    u = torch.addmm(w["encoder_bias"], x, w["encoder"].T)
    if shape.timed and rows.step is not None:
        u = u + w["step_encoder"][rows.step]
    if shape.groups and rows.kind is not None:
        u = u.masked_fill(~w["allowed"][rows.kind], OFF)
    return u


def centre(w: Tensors, step: Int[Tensor, "n"] | None) -> Float[Tensor, "..."]:
    """b_d, and that of the step."""
    bias = w["decoder_bias"]
    return bias + w["step_decoder"][step] if "step_decoder" in w and step is not None else bias


def features(u: Float[Tensor, "n m"], w: Tensors, shape: Shape) -> Float[Tensor, "n m"]:
    """f: the activation as it is read."""
    if shape.activation == "relu":
        return u.relu()
    if shape.activation == "topk":
        top = u.topk(shape.k, sorted=False)
        return torch.zeros_like(u).scatter(1, top.indices, top.values.relu())
    if shape.activation == "gated":
        size = w["log_gain"].exp() * (u - w["encoder_bias"]) + w["magnitude_bias"]
        return size.relu() * (u > 0)
    return u.relu() * (u > w["threshold"])


def decoded(f: Float[Tensor, "n m"], w: Tensors, rows: Rows) -> Float[Tensor, "n d"]:
    """ŷ before its scale is undone."""
    y = f @ w["decoder"] + centre(w, rows.step)
    return y + rows.x @ w["skip"].T if "skip" in w else y


def levelled(
    x: Float[Tensor, "n d"], how: str
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """A row by its own norm, with the mean and the factor that bring it back."""
    zero, one = x.new_zeros(len(x), 1), x.new_ones(len(x), 1)
    if how == "layer_norm":
        mean = x.mean(1, keepdim=True)
        apart = x - mean
        spread = apart.std(1, keepdim=True)
        return apart / (spread + EPS), mean, spread
    if how == "constant_norm_rescale":
        size = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
        return x / size, zero, size
    return x, zero, one
