"""From features of items to scores: products, each with another matrix between them.

A raw score of a query q and an item i is <g_q, M g_i>, with gradients g of what is asked and of the item's loss: to
first order, what a step down the loss of i takes off the number of q. M is the identity (dot), or the inverse of some
curvature of the loss of all items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.data_attribution.features import Features

Name = Literal["dot", "cosine", "trak", "logra", "ekfac", "datainf"]
Scores = Float[Tensor, "query item"]
LEAST = 1e-6  # of what a probability lacks to 1


@dataclass(frozen=True, eq=False)
class Curved:
    """What M is made of: the features whose curvature it is, `damping`, and whether a loss is a log-probability."""

    of: Features
    damping: float = 0.0
    margin: bool = False


def dot(query: Features, train: Features, by: Curved) -> Scores:
    """<g_q, g_i>."""
    return query.values @ train.values.T


def cosine(query: Features, train: Features, by: Curved) -> Scores:
    """<g_q, g_i> / (|g_q| |g_i|)."""
    return _unit(query.values) @ _unit(train.values).T


def trak(query: Features, train: Features, by: Curved) -> Scores:
    """g_q' (F'F + r)^-1 f_i (1 - p_i), with f_i = g_i / (1 - p_i), p_i = exp(-loss_i); without `margin` f = g.

    f is minus the gradient of the log-odds log p / (1 - p), which is what Park et al. linearise; 1 - p_i, their Q,
    turns it back into that of the loss, so that the items count by F'F alone. r: `damping` times the mean eigenvalue.
    """
    scaled = by.of.values
    if by.margin:
        scaled = scaled / (-torch.expm1(-by.of.losses)).clamp_min(LEAST)[:, None].to(scaled)
    return _solved(query.values, scaled, train.values, by.damping)


def logra(query: Features, train: Features, by: Curved) -> Scores:
    """Sum over pieces l of g_ql' (G_l'G_l / n + r_l)^-1 g_il, r_l `damping` times the mean eigenvalue."""
    found = torch.zeros(len(query), len(train), dtype=train.values.dtype)
    for asked, held, curved in _pieces(query, train, by):
        found += len(curved) * _solved(asked, curved, held, by.damping)
    return found


def ekfac(query: Features, train: Features, by: Curved) -> Scores:
    """Sum over all numbers of g_q g_i / (mean of g² + r), in the eigenbases of both factors; r by piece as before."""
    found = torch.zeros(len(query), len(train), dtype=train.values.dtype)
    for asked, held, curved in _pieces(query, train, by):
        curvature = curved.pow(2).mean(0)
        steep = curvature + by.damping * curvature.mean()
        if bool((held[:, steep <= 0] != 0).any()):
            raise _flat(len(curved), held.shape[1])
        found += torch.where(steep > 0, asked / _floor(steep), 0.0) @ held.T
    return found


def datainf(query: Features, train: Features, by: Curved) -> Scores:
    """Sum over pieces of (1 / r) [<g_q, g_i> - mean over k of <g_q, g_k> <g_k, g_i> / (r + |g_k|²)].

    The mean of inverses in place of the inverse of the mean; r: `damping` times the mean square of a number of g.
    """
    found = torch.zeros(len(query), len(train), dtype=train.values.dtype)
    for asked, held, curved in _pieces(query, train, by):
        lengths = curved.pow(2).sum(1)
        ridge = by.damping * lengths.mean() / held.shape[1]
        if not ridge > 0:
            raise _flat(len(curved), held.shape[1])
        through = (asked @ curved.T / (ridge + lengths)) @ (curved @ held.T) / len(curved)
        found += (asked @ held.T - through) / ridge
    return found


METHODS: dict[str, Callable[..., Scores]] = {
    "dot": dot, "cosine": cosine, "trak": trak, "logra": logra, "ekfac": ekfac, "datainf": datainf,
}  # fmt: skip


def own(train: Features, method: Callable[..., Scores], by: Curved) -> Float[Tensor, "item"]:
    """The score of each item for itself: <g_i, M g_i>."""
    return method(train, train, by).diagonal().clone()


def _solved(query: Tensor, curved: Tensor, train: Tensor, damping: float) -> Scores:
    """Q (F'F + r)^-1 G' by the smaller of its two forms, in double precision; MethodError where it has no inverse."""
    q, f, g = (one.to(torch.float64) for one in (query, curved, train))
    n, k = f.shape
    ridge = damping * f.pow(2).sum() / k
    small = f.T @ f if k <= n else f @ f.T
    small.diagonal().add_(ridge)
    solver, bad = torch.linalg.cholesky_ex(small)
    if int(bad) or (k > n and not ridge > 0):
        raise _flat(n, k)
    if k <= n:
        return (q @ torch.cholesky_solve(g.T, solver)).to(train)
    inside = (q @ f.T) @ torch.cholesky_solve(f @ g.T, solver)  # (F'F + r)^-1 = (1 - F'(FF' + r)^-1 F) / r
    return ((q @ g.T - inside) / ridge).to(train)


def _pieces(query: Features, train: Features, by: Curved) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The features of each piece; a piece that no item moves has nothing to say, and no curvature either."""
    for asked, held, curved in zip(query.each(), train.each(), by.of.each(), strict=True):
        if bool(held.any()):
            yield asked, held, curved


def _flat(items: int, many: int) -> MethodError:
    return MethodError(
        f"the curvature of {items} items over {many} numbers has no inverse",
        expected="damping above 0, and items that differ and have a gradient", do="give `damping=0.01`, say, or fewer "
        "numbers (`size`), or weights that these items run through (`weights=`)",
    )  # fmt: skip


def _floor(value: Tensor) -> Tensor:
    return value.clamp_min(torch.finfo(value.dtype).tiny)


def _unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
