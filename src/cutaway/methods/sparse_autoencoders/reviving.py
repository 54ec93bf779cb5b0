"""What is done for features that are never on: a loss of their own, or another start."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.methods.sparse_autoencoders.batch import Batch, Gradients
from cutaway.methods.sparse_autoencoders.reading import OFF


def revived(
    batch: Batch, c: Float[Tensor, "n d_in"], error: Float[Tensor, "n d"], dead: Bool[Tensor, "m"], grads: Gradients
) -> float:
    """Add the gradient of what dead features are to do, and give that loss.

    TopK and its kin (Gao 2024, appendix A.2): the d/2 largest of them, u itself, stand for what the others left,
    |ê - (ỹ - ŷ)|², which is held fixed; fewer than d/2 count by their share. JumpReLU (Conerly 2025): (θ - u)⁺ |d_j|,
    which draws them towards their threshold.
    """
    at = dead.nonzero().squeeze(1)
    u = batch.u[:, at]
    du, db, loss = _closer(batch, u, at) if not batch.shape.sparse else _residual(batch, u, at, error, grads)
    grads["encoder"].index_add_(0, at, du.T @ c)
    grads["encoder_bias"].index_add_(0, at, du.sum(0))
    if db is not None:
        grads["log_threshold"].index_add_(0, at, db)
    return loss


def _residual(
    batch: Batch, u: Float[Tensor, "n dead"], at: Int[Tensor, "dead"], error: Float[Tensor, "n d"], grads: Gradients
) -> tuple[Float[Tensor, "n dead"], None, float]:
    few, n = batch.y.shape[1] // 2 or 1, batch.n
    price = batch.price.dead * min(1.0, len(at) / few)
    if len(at) > few:
        top = u.topk(few, sorted=False)
        v = torch.zeros_like(u).scatter(1, top.indices, top.values)
        chosen = torch.zeros_like(u).scatter(1, top.indices, 1.0)
    else:
        v, chosen = u, torch.ones_like(u)
    allowed = u > OFF / 2
    v, chosen = v * allowed, chosen * allowed
    rows = batch.decoder[at]
    apart = v @ rows + error  # ê - (ỹ - ŷ)
    g = apart * (2 * price / n)
    grads["decoder"].index_add_(0, at, v.T @ g)
    return (g @ rows.T) * chosen, None, price * float(apart.square().sum()) / n


def _closer(
    batch: Batch, u: Float[Tensor, "n dead"], at: Int[Tensor, "dead"]
) -> tuple[Float[Tensor, "n dead"], Float[Tensor, "dead"], float]:
    threshold = batch.w["log_threshold"][at].exp()
    below = (u < threshold) & (u > OFF / 2)
    price = batch.price.dead / batch.n * batch.lengths[at]
    apart = (threshold - u) * below
    return -price * below, price * below.sum(0) * threshold, float((price * apart).sum())


def resampled(
    w: dict[str, Tensor], moments: list[dict[str, Tensor]], dead: Bool[Tensor, "m"], c: Float[Tensor, "n d"],
    y: Float[Tensor, "n d_out"], error: Float[Tensor, "n d_out"], dice: torch.Generator,
) -> int:  # fmt: skip
    """Begin dead features anew at rows that are told badly, drawn by the square of their loss (Bricken 2023); how many.

    The encoder row is the row as it is read, a fifth as long as the living are on average, the decoder row what it
    stands for, as long as these; the bias is 0, and what the optimiser keeps of them is forgotten.
    """
    at = dead.nonzero().squeeze(1)
    loss = error.square().sum(1).double().cpu()
    if not len(at) or float(loss.sum()) == 0:
        return 0
    drawn = torch.multinomial(loss.square(), len(at), replacement=len(at) > len(loss), generator=dice).to(c.device)
    unit, living = (
        torch.nn.functional.normalize,
        w if not bool((~dead).any()) else {"encoder": w["encoder"][~dead], "decoder": w["decoder"][~dead]},
    )
    w["encoder"][at] = unit(c[drawn], dim=1) * living["encoder"].norm(dim=1).mean() * 0.2
    w["decoder"][at] = unit((y - w["decoder_bias"])[drawn], dim=1) * living["decoder"].norm(dim=1).mean()
    w["encoder_bias"][at] = 0
    for kept in moments:
        for name in ("encoder", "decoder", "encoder_bias"):
            kept[name][at] = 0
    return len(at)
