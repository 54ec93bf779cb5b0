"""Activations in training: which features of a batch are on, and how a gradient goes back through that.

`stepping` has the losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.methods.sparse_autoencoders.batch import Batch, Gradients
from cutaway.methods.sparse_autoencoders.codes import Back, Code, of_best, of_mask, of_top
from cutaway.methods.sparse_autoencoders.reading import centre

where_on = torch.ops.aten.threshold_backward  # of (g, f, 0): g where f > 0, else 0, in one pass
SHARP = 4.0  # how soon the tanh of a feature is 1


class Passed(NamedTuple):
    """Through the activation: d loss / d u, other gradients, parts of the loss, d loss / d |d_j|."""

    du: Float[Tensor, "..."]
    own: Gradients
    losses: dict[str, float]
    lengths: Float[Tensor, "m"] | None = None


@dataclass(frozen=True, eq=False)
class Active:
    """The features of a batch, which of them are on, and how d loss / d f goes back through the activation."""

    code: Code
    f: Float[Tensor, "..."]
    on: Bool[Tensor, "..."]
    back: Callable[[Tensor], Passed]


def _relu(batch: Batch) -> Active:
    code = of_mask(batch.u > 0, batch.shape.edges)
    f, n = code.take(batch.u).relu(), batch.n

    def back(df: Tensor) -> Passed:
        price = batch.price.feature / n
        total = price * code.total(f)
        du = where_on(df.add_(price * code.spread(batch.lengths)), f, 0)
        return Passed(du, {}, {"features": float(total @ batch.lengths)}, total)

    return Active(code, f, f > 0, back)


def _topk(batch: Batch) -> Active:
    return _top(batch, of_top(batch.u, batch.shape.k, batch.shape.edges))


def _batch_topk(batch: Batch) -> Active:
    return _top(batch, of_best(batch.u, batch.shape.k * len(batch.u), batch.shape.edges))


def _top(batch: Batch, code: Code) -> Active:
    u = code.take(batch.u)
    on = u > 0
    return Active(code, u.relu(), on, lambda df: Passed(df * on, {}, {}))


def _jumprelu(batch: Batch) -> Active:
    shape, n, wide = batch.shape, batch.n, batch.shape.bandwidth
    limit = batch.w["log_threshold"].exp()
    code = of_mask(batch.u > (limit - wide / 2).clamp_min(0), shape.edges)
    u, bound = code.take(batch.u), code.spread(limit)
    on, near = u > bound, ((u - bound).abs_() < wide / 2).logical_and_(u > 0)
    f = u * on

    def back(df: Tensor) -> Passed:
        price, lengths, cost = batch.price.feature / n, None, 0.0
        if shape.penalty == "tanh":
            each = code.spread(batch.lengths)
            bent = torch.tanh(SHARP * each * f)
            cost, slope = price * float(bent.sum()), price * SHARP * (1 - bent.square())
            df, lengths = df + slope * each, code.total(slope * f)
            through = bound / wide * near * df
            du, own = df * on + through, -limit * code.total(through)
        else:
            cost = price * float(on.count_nonzero())
            own = code.total((bound * df).add_(price).mul_(near)) * -limit / wide
            du = where_on(df, f, 0)
        return Passed(du, {"log_threshold": own}, {"features": cost}, lengths)

    return Active(code, f, on, back)


def _gated(batch: Batch) -> Active:
    w, n = batch.w, batch.n
    code = of_mask(batch.u > 0, batch.shape.edges)
    u, gain, bias = code.take(batch.u), w["log_gain"].exp(), w["encoder_bias"]
    size = torch.addcmul(code.spread(w["magnitude_bias"] - gain * bias), code.spread(gain), u)
    f, opening = where_on(size.relu_(), u, 0), u.relu()

    def back(df: Tensor) -> Passed:
        price = batch.price.feature / n
        blocks, backed = code.decode(opening, batch.decoder)
        apart = blocks.sum(1) + centre(w, batch.rows.step) - batch.y
        if "skip" in w:
            apart += batch.rows.x @ w["skip"].T
        ds, total = where_on(df, f, 0), price * code.total(opening)
        de = where_on(_through(backed, apart, blocks, n).add_(price * code.spread(batch.lengths)), u, 0)
        moved = code.total(ds)
        own = {"log_gain": gain * (code.total(ds * u) - bias * moved), "magnitude_bias": moved,
               "encoder_bias": code.total(de)}  # fmt: skip
        losses = {"features": float(total @ batch.lengths), "gate": float(apart.square().sum()) / n}
        return Passed(de.addcmul_(ds, code.spread(gain)), own, losses, total)

    return Active(code, f, f > 0, back)


def _through(back: Back, apart: Float[Tensor, "n d"], blocks: Float[Tensor, "n b d"], n: int) -> Tensor:
    """D |apart|² / d values, where all blocks add up to one."""
    return back((apart * (2 / n)).unsqueeze(1).expand_as(blocks).contiguous())


ACTIVATIONS: dict[str, Callable[[Batch], Active]] = {
    "relu": _relu, "topk": _topk, "batch_topk": _batch_topk, "jumprelu": _jumprelu, "gated": _gated,
}  # fmt: skip
