"""One step of training in closed form: the loss of a batch and what it is the gradient of, without autograd.

With e = ŷ - ỹ of n rows, in units where rows have a mean square of d, and λ the price of a feature:

    relu         |e|² + λ Σ_j |d_j| f_j                                 Bricken 2023, Conerly 2024
    topk         |e|² + α |ê - (ỹ - ŷ)|², ê of the dead features           Gao 2024, 2406.04093
    batch_topk   the same, the k n largest of a batch                     Bussmann 2024, 2412.06410
    … nested     Σ_l |e of the first m_l features|² + the same            Bussmann 2025, 2503.17547
    jumprelu     |e|² + λ Σ_j 1[u_j > θ_j]                                Rajamanoharan 2024b, 2407.14435
    … `tanh`     |e|² + λ Σ_j tanh(4 |d_j| f_j)                           Conerly 2025, Dictionary Learning Optimization
    gated        |e|² + λ Σ_j |d_j| u⁺_j + |u⁺ W_d + b_d - ỹ|²             Rajamanoharan 2024a, 2404.16014

all of them means over rows; in the last term of `gated` W_d and b_d are held fixed. Steps of `jumprelu` have the
gradient of a window of width ε, of which what lies below 0 is left out: ∂1[u > θ]/∂θ = -[|u - θ| < ε/2] / ε and
∂f/∂θ = -θ/ε [|u - θ| < ε/2]; with `tanh` the last goes to u as well, with the other sign. θ = e^τ is learned by τ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.methods.sparse_autoencoders.activations import ACTIVATIONS
from cutaway.methods.sparse_autoencoders.batch import Batch, Gradients, Price, norms
from cutaway.methods.sparse_autoencoders.codes import Code
from cutaway.methods.sparse_autoencoders.reading import Rows, Tensors, before, centre
from cutaway.methods.sparse_autoencoders.reviving import revived
from cutaway.methods.sparse_autoencoders.shape import Shape

ENTRIES, LEAST = 2**21, 256  # of rows × features that are judged at a time, and of rows


@dataclass(frozen=True, eq=False)
class Judged:
    """A batch as it was judged: parts of its loss, gradients by tensor, and which features were on how often."""

    losses: dict[str, float]
    gradients: Gradients
    error: Float[Tensor, "n d"]
    fired: Int[Tensor, "m"]
    least: float  # the smallest feature that was on, of `batch_topk`

    @property
    def loss(self) -> float:
        """All parts together."""
        return sum(self.losses.values())


@torch.no_grad()
def judged(
    w: Tensors, shape: Shape, rows: Rows, y: Float[Tensor, "n d"], price: Price, *, centred: bool,
    parts: tuple[int, ...] = (), dead: Bool[Tensor, "m"] | None = None,
) -> Judged:  # fmt: skip
    """The loss of a batch of scaled rows and its gradient in every tensor that is learned.

    `centred`: the bias of the decoder is taken from x. `parts`: how long the rows of each site are, for a crosscoder,
    whose |d_j| is Σ_l |d_j^l|. Where features have a price many may be on: then a stretch of rows is judged at a time,
    so that what is held beside the rows stays near the processor.
    """
    long = len(y) if shape.sparse else max(LEAST, ENTRIES // shape.width)
    decoder, parts = w["decoder"], parts or (w["decoder"].shape[1],)
    lengths, found = norms(decoder, parts), list[Judged]()
    for start in range(0, len(y), long):
        at = slice(start, start + long)
        kind, step = (None if one is None else one[at] for one in (rows.kind, rows.step))
        some = Rows(rows.x[at], kind, step)
        found.append(_judged(w, shape, some, y[at], price, centred, lengths, dead, len(y)))
    made = found[0] if len(found) == 1 else _summed(found)
    cost = made.gradients.pop("lengths", None)
    if cost is not None:
        made.gradients["decoder"] += _along(decoder, cost, parts)
    return made


def _summed(found: list[Judged]) -> Judged:
    """Stretches of one batch together."""
    first, grads = found[0], found[0].gradients
    for one in found[1:]:
        for name, value in one.gradients.items():
            grads[name].add_(value)
    losses = {name: sum(one.losses.get(name, 0.0) for one in found) for name in first.losses}
    fired = torch.stack([one.fired for one in found]).sum(0)
    return Judged(losses, grads, torch.cat([one.error for one in found]), fired, first.least)


def _judged(
    w: Tensors, shape: Shape, rows: Rows, y: Float[Tensor, "n d"], price: Price, centred: bool,
    lengths: Float[Tensor, "m"], dead: Bool[Tensor, "m"] | None, n: int,
) -> Judged:  # fmt: skip
    decoder = w["decoder"]
    c = rows.x - centre(w, rows.step) if centred else rows.x
    u = before(w, shape, Rows(c, rows.kind, rows.step), False)
    batch = Batch(w, shape, rows, y, price, decoder, lengths, u, n)
    active = ACTIVATIONS[shape.activation](batch)
    blocks, back = active.code.decode(active.f, decoder)
    made = blocks.cumsum(1) if blocks.shape[1] > 1 else blocks
    error = made + (centre(w, rows.step) - y).unsqueeze(1)
    if "skip" in w:
        error += (rows.x @ w["skip"].T).unsqueeze(1)
    g = error * (2 / n)
    inner = g.flip(1).cumsum(1).flip(1) if g.shape[1] > 1 else g
    passed = active.back(back(inner))
    outer = g.sum(1)
    grads: Gradients = {
        "decoder": active.code.push(active.f, inner), "encoder": active.code.push_rows(passed.du, c),
        "encoder_bias": active.code.total(passed.du),
    }  # fmt: skip
    grads |= _biases(batch, active.code, passed.du, outer, grads["encoder_bias"], centred)
    if "skip" in w:
        grads["skip"] = outer.T @ rows.x
    if passed.lengths is not None:
        grads["lengths"] = passed.lengths
    losses = {"error": float(error.square().sum()) / n, **passed.losses}
    grads |= passed.own
    if dead is not None and price.dead and bool(dead.any()) and (shape.sparse or shape.activation == "jumprelu"):
        losses["dead"] = revived(batch, c, error[:, -1], dead, grads)
    seen = active.code.count(active.on)
    least = float(active.f[active.on].min()) if shape.activation == "batch_topk" and bool(active.on.any()) else 0.0
    return Judged(losses, grads, error[:, -1], seen, least)


def _biases(
    batch: Batch, code: Code, du: Tensor, outer: Float[Tensor, "n d"], total: Float[Tensor, "m"], centred: bool
) -> Gradients:  # fmt: skip
    """Of the decoder's bias, which is also taken from x where this is `centred`, and of those of each step."""
    w, grads = batch.w, {"decoder_bias": outer.sum(0)}
    if centred:
        grads["decoder_bias"] -= total @ w["encoder"]
    step = batch.rows.step
    if batch.shape.timed and step is not None:
        grads["step_encoder"] = code.by_step(du, step, batch.shape.timed)
        each = outer.new_zeros(batch.shape.timed, outer.shape[1]).index_add_(0, step, outer)
        grads["step_decoder"] = each - grads["step_encoder"] @ w["encoder"] if centred else each
    return grads


def _along(decoder: Float[Tensor, "m d"], price: Float[Tensor, "m"], parts: tuple[int, ...]) -> Float[Tensor, "m d"]:
    """The gradient of Σ_j price_j |d_j|."""
    split = decoder.split(list(parts), 1)
    tiny = torch.finfo(decoder.dtype).tiny
    return torch.cat([part / part.norm(dim=1, keepdim=True).clamp_min(tiny) for part in split], 1) * price[:, None]
