"""Activation patching of every place at once, to first order: differences of activations times gradients."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.activation_patching import usual_sites
from cutaway.methods.causal_tracing.patched import DRAWS, interval
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.edits import Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import HEAD_AXES, Site
from cutaway.model.targets import Target, numbers, of_rows
from cutaway.questions.pairs import batches, same_positions, sides
from cutaway.questions.rows import Rows, tracked

METHOD = "attribution_patching"
SOURCE = (
    "Nanda 2023 (attribution patching); Kramár et al. 2024, arXiv 2403.00745 (AtP*); Nikankin et al. 2025, 2506.09047"
)
OVER = ("token", "head", "unit")


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """What the target would lose to first order with a place as in the counterfactual run.

    `score` (pair, site, *over), `mean`, `low`, `high` (site, *over) with a 95 % bootstrap interval over pairs;
    `random`: the same towards the counterfactual of another pair. `clean`, `corrupted` (pair): the target.
    """

    main: ClassVar[str] = "mean"

    def summary(self) -> Any:
        """The twelve places that matter most, whichever way."""
        table = self.data[["mean", "low", "high", "random"]].to_dataframe().reset_index()
        return table.iloc[table["mean"].abs().argsort(kind="stable")[::-1]].head(12)

    def note(self) -> str:
        """How far apart the two runs are."""
        gap = float((self["clean"] - self["corrupted"]).mean())
        return f"Between the two runs the target differs by {gap:.3f} on average. First order: a gradient, no patching."

    def _draw(self, ax: Axes) -> None:
        shown = self["mean"]
        if shown.ndim == 2:
            heat(ax, shown, "first-order loss", diverging=True)
        else:
            super()._draw(ax)


def attribution_patching(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    sites: str | Sequence[str] | None = None, over: str | Sequence[str] = "head", points: int = 0,
    correct: bool = True, seed: int = 0, batch: int = 8, progress: bool = True,
) -> Attribution:  # fmt: skip
    """What patching each place from the counterfactual run would take from the target, all places in two passes.

    score(c) = <a_c - a_c', dm / da_c>, a_c what a place holds in the clean run and a_c' in the counterfactual one: the
    first order of m(x) - m(x | a_c <- a_c'). A place is a site and one value of each axis in `over` (`token`, `head`,
    `unit`; () for whole sites); `mlp.post` with `unit` gives neurons. `points`: the gradient averaged over so many
    Gauss-Legendre points between a_c' and a_c, each site on its own way (AP-IG of Nikankin et al.). For queries and
    keys `correct` takes the softmax as it is (AtP*): score = <A - A', dm / dA> with A' the pattern that the
    counterfactual queries (or keys) give with the clean rest.

    Takes any model: denoisers too, for one evaluation (`model.inputs(prompt=…, step=3)`). Units: those of the target.
    Sources: Nanda 2023; Kramár et al. 2024 (2403.00745), section 3.1, without their GradDrop; Nikankin et al. 2025.

    Raises MethodError for axes that a site does not have and for pairs that do not line up.

    What it can NOT tell: how far the first order holds. Saturated softmaxes, norms and copies that stand in for one
    another make it small where patching is large; `activation_patching` at the same sites gives the exact numbers.

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> pairs = ["a red dog", "a blue dog"], ["a red cat", "a blue cat"]
    >>> found = attribution_patching(model, *pairs, logit_diff("dog", "cat"), progress=False)
    >>> found["score"].dims, found["score"].shape
    (('pair', 'layer', 'head'), (2, 3, 4))
    """
    started = time.perf_counter()
    over = (over,) if isinstance(over, str) else tuple(over)
    wanted = usual_sites(model, over) if sites is None else sites
    chosen = model.sites[wanted] if isinstance(wanted, str) else model.sites.select(wanted)
    _check(chosen, over, points)
    one, other, aim = sides(model, clean, counterfactual, target, chosen[0].tower)
    found: dict[str, list[ndarray]] = {name: [] for name in ("score", "random", "clean", "corrupted")}
    total = None if isinstance(one, Inputs) else -(-len(one) // batch)
    several = batches(model, one, other, chosen[0].tower, batch)
    for start, stop, here, there in tracked(several, "pairs", total, show=progress):
        same_positions(here, there, chosen[0].tower, start)
        made = _scored(model, chosen, over, here, there, of_rows(aim, start, stop) if stop else aim, points, correct)
        for name, values in made.items():
            found[name].append(values)
    data = _table({name: np.concatenate(parts) for name, parts in found.items() if parts}, chosen, over, seed)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(map(str, chosen)), seed=seed, over=list(over),
        points=points, correct=correct, target=repr(aim), unit=aim.unit, bootstrap=DRAWS,
    )  # fmt: skip
    return Attribution(data, told)


def _check(sites: Sequence[Site], over: Sequence[str], points: int) -> None:
    bad = [axis for axis in over if axis not in OVER or any(_axis(site, axis) is None for site in sites)]
    if bad or points < 0 or len({site.tower for site in sites}) > 1:
        raise MethodError(
            f"cannot go over {', '.join(bad) or 'these'} at {points} points", exists=f"{sites[0]} has {sites[0].axes}",
            expected="sites of one tower; axes of `token`, `head`, `unit` that each has; 0 points or more",
            do="`*.attn.z` has heads, `*.mlp.post` has units; `over=()` takes sites whole",
        )  # fmt: skip


def _axis(site: Site, axis: str) -> int | None:
    """Which dimension of a site an axis is; None where it has no such."""
    names = {"head": HEAD_AXES, "token": ("token",), "unit": site.axes[-1:]}[axis]
    return next((site.axes.index(name) for name in names if name in site.axes), None)


def _scored(
    model: Model, sites: Sequence[Site], over: Sequence[str], here: Inputs, there: Inputs, target: Target,
    points: int, correct: bool,
) -> dict[str, ndarray]:  # fmt: skip
    """Scores of some pairs, those towards another pair's counterfactual, and both targets."""
    through = [site for site in sites if correct and site.part in ("attn.q", "attn.k")]
    patterns = [f"{site.tower}.{site.layer}.attn.pattern" for site in through]
    needed = [str(site) for site in sites]
    if through:
        needed += [f"{site.tower}.{site.layer}.attn.{part}" for site in through for part in ("q", "k")]
    runs = [model.run(inputs, record=[*dict.fromkeys(needed)]) for inputs in (here, there)]
    one, other = runs
    kept = [site for site in sites if site not in through]
    slopes = model.gradients(here, target, [*map(str, kept), *dict.fromkeys(patterns)])
    if points and kept:
        along = model.gradients(here, target, [str(site) for site in kept], path=points, baseline=other)
        slopes_of: dict[str, Tensor] = {str(site): along[site] for site in kept}
    else:
        slopes_of = {str(site): slopes[site] for site in kept}
    made: dict[str, list[ndarray]] = {"score": [], "random": []}
    ways: dict[str, Mapping[str, Tensor]] = {"score": dict(other.activations)}
    if len(slopes.values) > 1:
        ways["random"] = {str(s): other[s].roll(1, s.axes.index("batch")) for s in other.sites.values()}
    for name, towards in ways.items():
        changed = _patterns(model, here, through, dict(one.activations), towards)
        for site in sites:
            if site in through:
                at = model.sites.one(f"{site.tower}.{site.layer}.attn.pattern")
                product = (slopes.activations[str(at)] - changed[str(site)]) * slopes[at]
                made[name].append(_summed(product, at, ["head"] if "head" in over else [], one[site], site))
            else:
                product = (one[site] - towards[str(site)]) * slopes_of[str(site)]
                made[name].append(_summed(product, site, over))
    ends = {
        "clean": slopes.values.double().cpu().numpy(),
        "corrupted": numbers(target, other).detach().double().cpu().numpy(),
    }
    return {name: np.stack(parts, 1) for name, parts in made.items() if parts} | ends


def _patterns(
    model: Model, here: Inputs, sites: Sequence[Site], clean: Mapping[str, Tensor], towards: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What each head attends to with other queries, or other keys, and the clean rest: one run for all of a kind."""
    found: dict[str, Tensor] = {}
    for part in dict.fromkeys(site.part for site in sites):
        some = [site for site in sites if site.part == part]
        edits: list[Edit] = []
        for site in some:
            names = {kind: f"{site.tower}.{site.layer}.attn.{kind}" for kind in ("q", "k")}
            edits += [Patch(name, (towards if f"attn.{kind}" == part else clean)[name]) for kind, name in names.items()]
        patterns = {str(site): f"{site.tower}.{site.layer}.attn.pattern" for site in some}
        run = model.run(here, record=list(patterns.values()), edits=edits)
        found |= {name: run[pattern] for name, pattern in patterns.items()}
    return found


def _summed(
    product: Tensor, site: Site, over: Sequence[str], like: Tensor | None = None, shown: Site | None = None
) -> ndarray:
    """One number a row and a value of each axis; heads that share keys are put together."""
    kept = [site.axes.index("batch"), *(at for axis in over if (at := _axis(site, axis)) is not None)]
    exact = product.to(torch.promote_types(product.dtype, torch.float32))
    summed = exact.sum([axis for axis in range(product.dim()) if axis not in kept])
    order = [sorted(kept).index(axis) for axis in kept]
    summed = summed.permute(order)
    if shown is not None and like is not None and over:
        groups = like.shape[shown.axes.index(shown.head_axis or "head")]
        summed = summed.unflatten(1, (groups, -1)).sum(2)
    return np.asarray(summed.double().cpu().numpy())


def _table(found: dict[str, ndarray], sites: Sequence[Site], over: tuple[str, ...], seed: int) -> xarray.Dataset:
    kinds = {site.part for site in sites}
    first, names = ("layer", [site.layer for site in sites]) if len(kinds) == 1 else ("site", [str(s) for s in sites])
    score, dims = found["score"], (first, *over)
    mean, low, high = interval(score, seed)
    random = found["random"].mean(0) if "random" in found else np.full(score.shape[1:], np.nan)
    data: dict[str, Any] = {
        "score": (("pair", *dims), score), "mean": (dims, mean), "low": (dims, low), "high": (dims, high),
        "random": (dims, random), "clean": ("pair", found["clean"]), "corrupted": ("pair", found["corrupted"]),
    }  # fmt: skip
    return xarray.Dataset(data, coords={first: names})
