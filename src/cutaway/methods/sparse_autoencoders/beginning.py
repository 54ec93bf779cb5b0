"""How a dictionary begins: scales and a centre from some rows, weights by chance, points of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.autoencoder import SparseAutoencoder
from cutaway.methods.sparse_autoencoders.shape import Shape, shaped
from cutaway.model.tokens import KINDS
from cutaway.store.fitted import Origin

FEW = 32  # rows of a kind below which it has no scale of its own
THRESHOLD = 0.1  # where those of `jumprelu` begin
SHORT = 0.1  # how long decoder rows of free length begin (Conerly 2024)
STEEP = 1e-6  # when the geometric median is found, as a share of its length


def scales(
    x: Float[Tensor, "n d"], kind: Int[Tensor, "n"] | None, parts: Sequence[int], by: str
) -> Float[Tensor, "kind part"] | None:
    """What brings the mean square of a row to its number of coordinates, for each kind of position and each part.

    s_κ = √(d / mean |x|²), of `by` "one" the same for all kinds; "none": no scale. A kind of few rows has that of all.
    """
    if by == "none":
        return None
    squares = torch.stack([part.square().sum(1) for part in x.split(list(parts), 1)], 1)
    sizes = torch.tensor(parts, dtype=x.dtype, device=x.device)
    every = (sizes / squares.mean(0)).sqrt()
    if not bool(x.isfinite().all()):
        raise MethodError(
            "some rows hold numbers that are not finite", expected="activations", do="leave them out; in half "
            "precision they may have overflowed: open the model in float32 or bfloat16",
        )  # fmt: skip
    if not bool(every.isfinite().all()):
        raise MethodError("all rows are zero", expected="activations that differ", do="check where they come from")
    table = every.repeat(len(KINDS), 1)
    if by == "kind" and kind is not None:
        for one in kind.unique().tolist():
            mine = squares[kind == one]
            if len(mine) >= FEW and bool((mine.mean(0) > 0).all()):
                table[one] = (sizes / mine.mean(0)).sqrt()
    return table


def median(x: Float[Tensor, "n d"], rounds: int = 100) -> Float[Tensor, "d"]:
    """The geometric median: the point whose distances from all rows have the least sum (Weiszfeld's rounds)."""
    at = x.mean(0)
    for _ in range(rounds):
        weight = 1 / (x - at).norm(dim=1).clamp_min(1e-6)
        after = (x * weight[:, None]).sum(0) / weight.sum()
        moved, at = float((after - at).norm()), after
        if moved <= STEEP * (float(at.norm()) + STEEP):
            break
    return at


def centres(y: Float[Tensor, "n d"], how: str) -> Float[Tensor, "d"]:
    """Where the decoder's bias begins: the geometric `median` of the target, its `mean`, or `zero`."""
    return median(y) if how == "median" else y.mean(0) if how == "mean" else y.new_zeros(y.shape[1])


def begun(
    shape: Shape, d_in: int, d_out: int, dice: torch.Generator, *, tied: bool,
    points: Float[Tensor, "point d"] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Weights by chance: decoder rows of any direction, of an autoencoder (`tied`) the encoder's the same; no bias."""
    long = 1.0 if shape.unit or shape.points else SHORT
    m = shape.width
    decoder = _unit(torch.randn(m, d_out, generator=dice)) * long
    w: dict[str, Tensor] = {}
    if shape.points:
        if points is None:
            points = torch.randn(shape.points, d_out, generator=dice)
        w |= _mixed(points, m, dice)
        decoder = archetypes(w)
    w["decoder"] = decoder
    w["encoder"] = decoder.clone() if tied else _unit(torch.randn(m, d_in, generator=dice)) * long
    w["encoder_bias"], w["decoder_bias"] = torch.zeros(m), torch.zeros(d_out)
    if shape.activation == "jumprelu":
        w["log_threshold"] = torch.full((m,), math.log(THRESHOLD))
    if shape.activation == "gated":
        w["log_gain"], w["magnitude_bias"] = torch.zeros(m), torch.zeros(m)
    if shape.skip:
        w["skip"] = torch.zeros(d_out, d_in)
    if shape.timed:
        w["step_encoder"], w["step_decoder"] = torch.zeros(shape.timed, m), torch.zeros(shape.timed, d_out)
    if shape.groups:
        w["allowed"] = allowed(shape)
    return w


def allowed(shape: Shape) -> Bool[Tensor, "kind feature"]:
    """Which features may be on at positions of each kind."""
    columns = []
    for group in shape.groups:
        met = torch.tensor([not group.kinds or kind in group.kinds for kind in KINDS])
        columns.append(met[:, None].expand(len(KINDS), group.width))
    return torch.cat(columns, 1).contiguous()


def _mixed(points: Float[Tensor, "point d"], m: int, dice: torch.Generator) -> dict[str, Tensor]:
    """Each feature begins between two points, nearer to the first; together they are about of length 1."""
    count = len(points)
    first = torch.cat([torch.randperm(count, generator=dice) for _ in range(-(-m // count))])[:m]
    mix = torch.zeros(m, count)
    mix[torch.arange(m), torch.randint(count, (m,), generator=dice)] = 0.3
    mix[torch.arange(m), first] += 0.7
    length = (mix / mix.sum(1, keepdim=True) @ points).norm(dim=1).mean().clamp_min(1e-6)
    return {
        "mix": mix / mix.sum(1, keepdim=True), "points": points.clone(), "drift": torch.zeros(m, points.shape[1]),
        "log_size": -length.log().reshape(1),
    }  # fmt: skip


def archetypes(w: Mapping[str, Tensor]) -> Float[Tensor, "m d"]:
    """W_d = e^s (A P + Λ): convex combinations of points, and how far each may leave them (Fel 2025, 2502.12892).

    Rows of A are not negative and add up to 1; |Λ_j| is bounded by the shape's `drift`, as a share of √d.
    """
    return w["log_size"].exp() * (w["mix"] @ w["points"] + w["drift"])


def _unit(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return torch.nn.functional.normalize(x, dim=1)


def kept(w: Mapping[str, Tensor], shape: Shape, least: float) -> dict[str, Tensor]:
    """The tensors that a dictionary keeps: thresholds as they are read."""
    made = {name: value for name, value in w.items() if name != "log_threshold"}
    if shape.activation == "jumprelu":
        made["threshold"] = w["log_threshold"].exp()
    if shape.activation == "batch_topk":
        made["threshold"] = torch.full_like(w["encoder_bias"], least)
    return made


def folded(w: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One scale for all kinds taken into the weights, so that rows are read as they are.

    Features become u / s, in units of the rows; decoder rows keep their length where s' = s.
    """
    made = dict(w)
    into, out = (float(table[0, 0]) for table in (w["scale"], w.get("scale_out", w["scale"])))
    for name in ("encoder_bias", "threshold", "magnitude_bias", "step_encoder"):
        if name in made:
            made[name] = made[name] / into
    for name in ("decoder_bias", "step_decoder"):
        if name in made:
            made[name] = made[name] / out
    for name in ("decoder", "skip"):
        if name in made:
            made[name] = made[name] * (into / out)
    if into != out and "log_size" in made:
        made["log_size"] = made["log_size"] + math.log(into / out)
    return {name: value for name, value in made.items() if name not in ("scale", "scale_out")}


def untrained(
    architecture: str | Shape, site: str, d_in: int, *, target: str | None = None, d_out: int | None = None,
    centre: Float[Tensor, "d_out"] | None = None, on: Origin | None = None, seed: int = 0, **more: Any,
) -> SparseAutoencoder:  # fmt: skip
    """A dictionary with the weights that a training begins with, for rows of a mean square of d: the untrained floor.

    `centre` is where the decoder's bias begins, the mean of the target's rows: a training takes one from its first rows
    (`centres`). Without it, and where that mean is long, the floor is worse than what a training begins with.

    >>> untrained("topk", "text.1.resid_post", 32, width=64, k=4)
    SparseAutoencoder(64 features, topk, k 4 at text.1.resid_post of 'nothing')
    """
    shape = shaped(architecture, **more)
    tied = target in (None, site)
    w = begun(shape, d_in, d_out or d_in, torch.Generator().manual_seed(seed), tied=tied)
    if centre is not None:
        w["decoder_bias"] = centre.detach().to("cpu", torch.float32, copy=True)
    config = {"shape": shape.told(), "site": site, "target": target or site, "centred": tied}
    return SparseAutoencoder(kept(w, shape, 0.0), config, on or nowhere(site, *([target] if target else [])))


def nowhere(*sites: str) -> Origin:
    """What is said of a dictionary that was fitted on rows of no known model."""
    return Origin("nothing", "", "float32", "", sites)
