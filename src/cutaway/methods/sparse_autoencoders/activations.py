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
    u, each = code.take(batch.u), code.spread(batch.lengths)
    f, on, n = u.relu(), u > 0, batch.n

    def back(df: Tensor) -> Passed:
        price = batch.price.feature / n
        cost, total = price * float((f * each).sum()), price * code.total(f)
        return Passed((df + price * each) * on, {}, {"features": cost}, total)

    return Active(code, f, on, back)


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
    threshold = batch.w["log_threshold"].exp()
    code = of_mask(batch.u > (threshold - wide / 2).clamp_min(0), shape.edges)
    u, bound, each = code.take(batch.u), code.spread(threshold), code.spread(batch.lengths)
    on, near = u > bound, ((u - bound).abs() < wide / 2) & (u > 0)
    f = u * on

    def back(df: Tensor) -> Passed:
        price, lengths = batch.price.feature / n, None
        if shape.penalty == "tanh":
            bent = torch.tanh(SHARP * each * f)
            cost, slope = price * float(bent.sum()), price * SHARP * (1 - bent.square())
            df, lengths = df + slope * each, code.total(slope * f)
            through = bound / wide * near * df
            return Passed(
                df * on + through, {"log_threshold": -threshold * code.total(through)}, {"features": cost}, lengths
            )
        bend = near * (bound * df + price) / wide
        own = {"log_threshold": -threshold * code.total(bend)}
        return Passed(df * on, own, {"features": price * float(on.sum())}, lengths)

    return Active(code, f, on, back)


def _gated(batch: Batch) -> Active:
    w, n = batch.w, batch.n
    code = of_mask(batch.u > 0, batch.shape.edges)
    u, each = code.take(batch.u), code.spread(batch.lengths)
    gain, gate = code.spread(w["log_gain"].exp()), u > 0
    plain = u - code.spread(w["encoder_bias"])
    size = gain * plain + code.spread(w["magnitude_bias"])
    on, opening = gate & (size > 0), u * gate
    f = size * on

    def back(df: Tensor) -> Passed:
        price = batch.price.feature / n
        blocks, backed = code.decode(opening, batch.decoder)
        apart = blocks.sum(1) + centre(w, batch.rows.step) - batch.y
        if "skip" in w:
            apart += batch.rows.x @ w["skip"].T
        de, ds = (_through(backed, apart, blocks, n) + price * each) * gate, df * on
        own = {
            "log_gain": code.total(ds * gain * plain), "magnitude_bias": code.total(ds),
            "encoder_bias": code.total(de),
        }  # fmt: skip
        losses = {"features": price * float((opening * each).sum()), "gate": float(apart.square().sum()) / n}
        return Passed(de + gain * ds, own, losses, price * code.total(opening))

    return Active(code, f, on, back)


def _through(back: Back, apart: Float[Tensor, "n d"], blocks: Float[Tensor, "n b d"], n: int) -> Tensor:
    """D |apart|² / d values, where all blocks add up to one."""
    return back((apart * (2 / n)).unsqueeze(1).expand_as(blocks).contiguous())


ACTIVATIONS: dict[str, Callable[[Batch], Active]] = {
    "relu": _relu, "topk": _topk, "batch_topk": _batch_topk, "jumprelu": _jumprelu, "gated": _gated,
}  # fmt: skip
