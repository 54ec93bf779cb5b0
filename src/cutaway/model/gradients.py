"""Gradients of a target at any site: a zero that needs a gradient is added there, the way edits change it.

So what is differentiated is the tensor that is read and edited, also where the library keeps no such tensor (patterns,
slices of a fused projection, denominators of norms) and where no weight needs a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError, SiteError, near
from cutaway.model.attention import diagonal
from cutaway.model.edits import Edit, Patch
from cutaway.model.engine import Edits, Engine, Record
from cutaway.model.inputs import Inputs
from cutaway.model.run import Run
from cutaway.model.session import Recording
from cutaway.model.sites import Site
from cutaway.model.targets import numbers

Target = Callable[[Run], Tensor]


@dataclass(frozen=True, repr=False)
class Gradients:
    """`gradients[site]` is d target / d activation, on the axes of the site; `activations` what was there.

    `values`: the target of each row. The gradient at a row is that of the sum of all rows' targets: of its own where
    rows do not see each other. `baseline`: what activations are compared with, if not with zero. `gaps`: of a path, by
    how much the sum of `attribution(site)` falls short of target(x) - target(b), all rows together.
    """

    values: Float[Tensor, "row"]
    slopes: Mapping[str, Float[Tensor, "..."]]
    activations: Mapping[str, Float[Tensor, "..."]]
    sites: Mapping[str, Site]
    inputs: Inputs
    baseline: Mapping[str, Float[Tensor, "..."]] = field(default_factory=dict)
    gaps: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, site: str | Site) -> Float[Tensor, "..."]:
        if str(site) not in self.slopes:
            raise SiteError(f"no gradient was taken at '{site}'", exists=near(str(site), self.slopes))
        return self.slopes[str(site)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.slopes)

    def __len__(self) -> int:
        return len(self.slopes)

    def __repr__(self) -> str:
        shown = [f"  {name}: {tuple(slope.shape)}" for name, slope in list(self.slopes.items())[:12]]
        more = [f"  … and {len(self) - 12} more"] if len(self) > 12 else []
        return "\n".join([f"Gradients({len(self)} sites, {len(self.values)} rows)", *shown, *more])

    def attribution(self, site: str | Site) -> Float[Tensor, "..."]:
        """What each entry adds to the target to first order: (activation - baseline) x gradient."""
        at = str(site)
        return (self.activations[at] - self.baseline.get(at, torch.zeros(()))) * self[site]


def gradients(
    engine: Engine, inputs: Inputs, target: Target, sites: Record, *, edits: Edits = (), path: int = 0,
    baseline: float | Mapping[str, Tensor] | Run = 0.0,
) -> Gradients:  # fmt: skip
    """`model.gradients`: see there."""
    if not inputs.call.differentiable:
        raise InputError(
            f"a whole {inputs.call} runs without gradients", expected="one evaluation of the denoiser",
            do="`model.inputs(prompt=…, step=3)` makes its inputs",
        )  # fmt: skip
    if path != int(path) or path < 0:
        raise InputError(f"a path of {path} points", expected="a whole number; 0 for the gradient where it is")
    around = [edits] if isinstance(edits, Edit) else list(edits)
    chosen = engine.sites.select(sites)
    inputs = plain(inputs)
    clean = _slopes(engine, inputs, target, chosen, around)
    if not path and isinstance(baseline, int | float) and not baseline:
        return clean
    begun = {str(site): _start(baseline, site, clean.activations[str(site)]) for site in chosen}
    if not path:
        return replace(clean, baseline=begun)
    nodes, weights = np.polynomial.legendre.leggauss(path)
    slopes = {name: torch.zeros_like(slope) for name, slope in clean.slopes.items()}
    gaps: dict[str, float] = {}
    for site in chosen:
        name = str(site)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            between = begun[name] + float(node) * (clean.activations[name] - begun[name])
            made = _slopes(engine, inputs, target, [site], [*around, Patch(site, between)])
            slopes[name] += float(weight) * made[name]
        start = _slopes(engine, inputs, target, [site], [*around, Patch(site, begun[name])]).values
        added = (clean.activations[name] - begun[name]) * slopes[name]
        gaps[name] = float((clean.values - start).sum()) - float(added.sum())
    return Gradients(clean.values, slopes, clean.activations, clean.sites, inputs, begun, gaps)


def plain(inputs: Inputs) -> Inputs:
    """The inputs with copies of tensors made under `inference_mode`, which no graph may hold."""

    def copied(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: copied(entry) for key, entry in value.items()}
        return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

    with torch.inference_mode(False):
        return replace(inputs, tensors=copied(inputs.tensors))


def _start(baseline: float | Mapping[str, Tensor] | Run, site: Site, like: Tensor) -> Tensor:
    if isinstance(baseline, int | float):
        return torch.full_like(like, float(baseline))
    if str(site) not in baseline:
        raise InputError(f"the baseline has nothing at '{site}'", exists=near(str(site), list(baseline)))
    found = baseline[str(site)].detach().to(like)
    if found.shape != like.shape:
        raise InputError(f"the baseline has another shape at '{site}'", expected=f"{tuple(like.shape)}")
    return found


def _slopes(engine: Engine, inputs: Inputs, target: Target, sites: Sequence[Site], edits: list[Edit]) -> Gradients:
    """One forward and one backward pass."""
    named = {str(site): site for site in sites}
    outputs, session = engine.ran(inputs, [engine.seat(s) for s in sites], engine.bind(edits), Recording(grad=True))
    held = {name: [tensor for _, tensor in session.read[name]] for name in named}
    kept = {name: fired[0] for name, fired in held.items() if len(fired) == 1}
    with torch.inference_mode(False), torch.enable_grad():
        values = numbers(target, engine.result(outputs, session, kept))
        if not values.requires_grad:
            raise InputError("this target does not depend on any of these sites", exists=", ".join(list(held)[:5]))
        leaves = [tensor for fired in held.values() for tensor in fired]
        found = iter(torch.autograd.grad(values.sum(), leaves, allow_unused=True, materialize_grads=True))
    slopes = {name: _whole(named[name], [next(found) for _ in fired]) for name, fired in held.items()}
    there = {name: _whole(named[name], [tensor.detach() for tensor in fired]) for name, fired in held.items()}
    return Gradients(values.detach(), slopes, there, named, inputs)


def _whole(site: Site, parts: list[Tensor]) -> Tensor:
    """One tensor a site; a packed tower attends to one window at a time."""
    if len(parts) == 1:
        return parts[0]
    return diagonal(parts) if "query" in site.axes else torch.cat(parts, site.axes.index("token"))
