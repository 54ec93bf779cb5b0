"""What each head counts for when others are gone too: a linear surrogate over many random sets of heads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.activation_patching import usual_sites
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.edits import Edit, Patch
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.targets import Target, numbers, of_rows
from cutaway.questions.pairs import batches, same_positions, sides
from cutaway.questions.rows import Rows, tracked

METHOD = "head_attribution"
SOURCE = "Kim et al. 2025, arXiv 2509.17588; linear surrogates as in Ribeiro et al. 2016, arXiv 1602.04938"
SHUFFLES = 20


@dataclass(frozen=True, eq=False, repr=False)
class HeadAttribution(Result):
    """The weight of each head in a linear surrogate of the target, and what it loses alone.

    `weight`, `alone` (layer, head), mean over pairs, in the unit of the target: what the target loses with the head as
    in the counterfactual, among others that are so too, or alone. `error` (layer, head): the standard error of the
    weight over pairs. `chance` (): the 95th percentile of |weight| when the sets are matched with the wrong runs. `r2`
    (pair): how much of the target's variance over unseen sets the surrogate explains.
    """

    main: ClassVar[str] = "weight"

    def summary(self) -> Any:
        """The twelve heads that count most."""
        table = self.data[["weight", "error", "alone"]].to_dataframe().reset_index()
        return table.iloc[table["weight"].abs().argsort(kind="stable")[::-1]].head(12)

    def note(self) -> str:
        """How good the surrogate is, and what chance gives."""
        return (
            f"The surrogate explains {float(self['r2'].mean()):.2f} of the variance over unseen sets; by chance a "
            f"weight is at most {float(self['chance']):.3f} in 95 of 100 heads."
        )

    def _draw(self, ax: Axes) -> None:
        heat(ax, self["weight"], "weight in the surrogate", diverging=True)


def head_attribution(
    model: Model, clean: Rows, counterfactual: Rows | None = None, target: Target | None = None, *,
    sites: str | Sequence[str] | None = None, draws: int = 256, share: float = 0.25, ridge: float = 1.0,
    seed: int = 0, batch: int = 8, progress: bool = True,
) -> HeadAttribution:  # fmt: skip
    """How much each head counts while random others are gone, by a linear surrogate of many such runs.

    In each of `draws` runs every head is with probability `share` as in the counterfactual run (z_h <- z_h'), u_h = 1,
    or left, u_h = 0. Weights w of ridge regression m(u) = m_0 - sum_h w_h u_h, pair by pair, on four fifths of the
    runs; `r2` on the last fifth. `alone`: m(x) - m(x | z_h <- z_h'). Heads that stand in for one another lose nothing
    alone and share a weight here.

    Units: those of the target. Source: Kim et al. 2025 (2509.17588), who ablate to the mean; ours go to the
    counterfactual of a minimal pair. `chance` is ours: weights after a shuffle of the runs.

    Raises MethodError for sites without heads and for pairs that do not line up.

    What it can NOT tell: who stands in for whom; a surrogate is linear, and weights depend on how many are gone
    (`share`).

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> pairs = ["a red dog", "a blue dog"], ["a red cat", "a blue cat"]
    >>> found = head_attribution(model, *pairs, logit_diff("dog", "cat"), draws=64, progress=False)
    >>> found["weight"].dims, found["weight"].shape
    (('layer', 'head'), (3, 4))
    """
    started = time.perf_counter()
    chosen = model.sites.select(usual_sites(model, ("head",)) if sites is None else sites)
    heads = {str(site): site.sizes.get(site.head_axis or "", 0) for site in chosen}
    if len(set(heads.values())) != 1 or not all(heads.values()) or draws < 10 or not 0 < share < 1 or ridge <= 0:
        raise MethodError(
            f"{len(chosen)} sites of {sorted(set(heads.values()))} heads, {draws} draws, a share of {share}",
            expected="sites with one number of heads, 10 draws at least, a share between 0 and 1, a ridge above 0",
            do="`text.*.attn.z` are the heads of a decoder",
        )  # fmt: skip
    one, other, aim = sides(model, clean, counterfactual, target, chosen[0].tower)
    dice = np.random.default_rng(seed)
    sets = dice.random((draws, len(chosen), next(iter(heads.values())))) < share
    made: list[dict[str, ndarray]] = []
    for start, stop, here, there in tracked(
        batches(model, one, other, chosen[0].tower, batch), "pairs", None, show=progress
    ):
        same_positions(here, there, chosen[0].tower, start)
        run = model.run(there, record=[str(site) for site in chosen])
        m = of_rows(aim, start, stop) if stop else aim
        cells = [_gone(chosen, some, run) for some in (*sets, *_each(sets[0]))]
        values = model.sweep(here, cells, m, progress=False)
        clean_values = values.clean.values
        made.append(_fitted(values.values.values, clean_values, sets, ridge, dice))
        made[-1] |= {"clean": clean_values, "corrupted": numbers(m, run).detach().double().cpu().numpy()}
    found = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(heads), seed=seed, draws=draws, share=share,
        ridge=ridge, target=repr(aim), unit=aim.unit,
    )  # fmt: skip
    return HeadAttribution(_table(found, chosen), told)


def _each(like: Bool[ndarray, "layer head"]) -> list[Bool[ndarray, "layer head"]]:
    """Every head alone."""
    return list(np.eye(like.size, dtype=bool).reshape(-1, *like.shape))


def _gone(sites: Sequence[Site], some: Bool[ndarray, "layer head"], run: Run) -> list[Edit]:
    """A set of heads as in the counterfactual run."""
    return [
        Patch(str(site), run, head=np.flatnonzero(heads).tolist())
        for site, heads in zip(sites, some, strict=True) if heads.any()
    ]  # fmt: skip


def _fitted(
    values: Float[ndarray, "cell row"], clean: Float[ndarray, "row"], sets: Bool[ndarray, "draw layer head"],
    ridge: float, dice: np.random.Generator,
) -> dict[str, ndarray]:  # fmt: skip
    """Weights of each row, what is lost alone, what shuffled runs give, and how well unseen sets are told."""
    u, lost = sets.reshape(len(sets), -1).astype(float), (clean - values[: len(sets)]).T
    held = len(sets) // 5
    fit, unseen = slice(held, None), slice(0, held)
    weights, start = _ridge(u[fit], lost[:, fit], ridge)
    told = weights @ u[unseen].T + start[:, None]
    spread = lost[:, unseen].var(1)
    r2 = 1 - ((lost[:, unseen] - told) ** 2).mean(1) / np.where(spread > 0, spread, 1)
    by_chance = [
        _ridge(u[fit], lost[:, fit][:, dice.permutation(len(sets) - held)], ridge)[0].mean(0) for _ in range(SHUFFLES)
    ]
    shape = sets.shape[1:]
    rows = len(weights)
    return {
        "weight": weights.reshape(rows, *shape), "alone": (clean - values[len(sets) :]).T.reshape(rows, *shape),
        "r2": r2, "chance": np.repeat(np.quantile(np.abs(by_chance), 0.95), rows),
    }  # fmt: skip


def _ridge(u: ndarray, lost: Float[ndarray, "row draw"], ridge: float) -> tuple[ndarray, ndarray]:
    """Ridge regression with a free start, all rows at once."""
    centre, mean = u.mean(0), lost.mean(1)
    x = u - centre
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (lost - mean[:, None]).T).T
    return weights, mean - weights @ centre


def _table(found: dict[str, ndarray], sites: Sequence[Site]) -> xarray.Dataset:
    weight, rows = found["weight"], len(found["weight"])
    error = weight.std(0, ddof=1) / rows**0.5 if rows > 1 else np.full(weight.shape[1:], np.nan)
    dims = ("layer", "head")
    data = {
        "weight": (dims, weight.mean(0)), "error": (dims, error), "alone": (dims, found["alone"].mean(0)),
        "chance": ((), found["chance"].mean()), "r2": ("pair", found["r2"]), "clean": ("pair", found["clean"]),
        "corrupted": ("pair", found["corrupted"]),
    }  # fmt: skip
    return xarray.Dataset(data, coords={"layer": [site.layer for site in sites], "head": range(weight.shape[2])})
