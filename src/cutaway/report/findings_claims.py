"""What a page of findings may say: an effect is claimed where every set of scenes shows it, beyond luck and floor."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import xarray
from jaxtyping import Bool, Float
from numpy import ndarray

from cutaway.report.findings_heads import amount, beyond
from cutaway.report.findings_scenes import FACTORS, TOPICS

LEVEL = 0.05  # of luck, in each set of scenes, for a whole family of comparisons
MISSED = 0.05  # of what is above the most frequent thing: less is not missed
SHUFFLES = 5000  # of ranks
Found = dict[str, xarray.Dataset]


@dataclass(frozen=True)
class Claims:
    """The effects that hold in every set of scenes, for each question; empty where there is none to claim.

    `known`: factors told apart better than by chance and by the floor. `late`: of heads or MLPs, the least number of
    last layers without which more than half of the naming is gone, and more than without random ones. `carried`:
    the heads that vary with a factor. `first_text`: (`texts`,) where first texts match the labels better than one topic
    for all would. `texts`, `moved`: factors for which shares and texts, amounts and recoveries rank heads alike.
    `needed`, `choices`: factors whose named heads cost more margin, more choices than random heads. `read`: those that
    probes read better than before training; `used`: the first layer whose class token carries a factor, of those
    before the last; `erased`: those for which the probe's directions cost more than random ones.
    """

    known: list[str]
    late: dict[str, int]
    carried: dict[str, list[str]]
    first_text: list[str]
    texts: list[str]
    moved: list[str]
    needed: list[str]
    choices: list[str]
    read: list[str]
    used: dict[str, int]
    erased: list[str]

    def made(self) -> list[str]:
        """The questions on which something is claimed."""
        return [field.name for field in fields(self) if getattr(self, field.name)]


def claims(found: Found) -> Claims:
    """All that may be said; of what heads and states are used for, only where the model knows the factor."""
    known, readings = _known(found), {factor: reading(found, factor) for factor in FACTORS}
    late = {what: half for what in ("heads", "MLPs") if (half := last_half(found, what)) is not None}
    return Claims(
        known=known,
        late=late,
        carried={factor: places for factor in FACTORS if (places := heads_of(apart(found).sel(factor=factor)))},
        first_text=["texts"] if _told(found, "heads") and not _told(found, "heads_floor") else [],
        texts=_alike(found, "texts"),
        moved=[factor for factor in _alike(found, "moved") if factor in known],
        needed=[factor for factor in known if _always(needed(found, "margin").sel(factor=factor))],
        choices=[factor for factor in known if _always(needed(found, "drop").sel(factor=factor))],
        read=[factor for factor, best in readings.items() if bool((best["low"] > best["before"]).all())],
        used={factor: layer for factor in known if (layer := carried_on(found, factor)) is not None},
        erased=[factor for factor in known if _always(erased(found).sel(factor=factor))],
    )


def _sets(found: Found) -> range:
    return range(found["known"].sizes["set"])


def _always(p: xarray.DataArray) -> bool:
    return bool((p < LEVEL).all())


def _known(found: Found) -> list[str]:
    one, floor = found["known"], found["known_floor"]
    above = ((one["low"] > 0.5) & (one["low"] > floor["high"])).all("set")
    return [factor for factor in FACTORS if bool(above.sel(factor=factor))]


# --- corrections ------------------------------------------------------------------------------------------------------


def holm(p: Float[ndarray, "*sets family"]) -> Float[ndarray, "*sets family"]:
    """Holm's adjusted p-values along the last axis (Holm 1979); what is no number stays so and counts as a test."""
    order = np.argsort(p, -1)
    sizes = np.arange(p.shape[-1], 0, -1)
    grown = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, -1) * sizes, -1), 1)
    adjusted = np.empty_like(grown)
    np.put_along_axis(adjusted, order, grown, -1)
    return adjusted


def rank_p(own: ndarray, random: ndarray) -> ndarray:
    """The share of draws (last axis) that reach a value, the value itself counted; NaN for what is no number."""
    p = (1 + (random >= own[..., None]).sum(-1)) / (1 + random.shape[-1])
    return np.where(np.isfinite(own), p, np.nan)


def rank_correlation(one: ndarray, other: ndarray, seed: int = 0) -> tuple[float, float]:
    """Spearman's correlation over places, and the share of shufflings that reach it (one-sided)."""
    from scipy import stats

    a, b = (stats.rankdata(values.ravel()) for values in (one, other))
    if a.std() == 0 or b.std() == 0 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan"), float("nan")
    a, b = ((ranks - ranks.mean()) / ranks.std() for ranks in (a, b))
    own, draw = float(a @ b) / len(a), np.random.default_rng(seed)
    chance = draw.permuted(np.tile(b, (SHUFFLES, 1)), axis=1) @ a / len(a)
    return own, float((1 + (chance >= own - 1e-12).sum()) / (1 + SHUFFLES))


def _by_factor(values: ndarray) -> xarray.DataArray:
    return xarray.DataArray(values, dims=("set", "factor"), coords={"factor": list(FACTORS)})


# --- heads ------------------------------------------------------------------------------------------------------------


def apart(found: Found) -> xarray.DataArray:
    """The heads (factor, layer, head) that vary with a factor in every set: beyond luck, and beyond every head before.

    Luck: family-wise over the heads, by the shuffling in which the largest of them all is largest.
    """
    largest = beyond(found["heads_floor"]).max(("layer", "head"))
    return ((found["heads"]["p"] < LEVEL) & (beyond(found["heads"]) > largest)).all("set")


def heads_of(mask: xarray.DataArray) -> list[str]:
    """`layer.head` where a mask holds."""
    return [f"{layer}.{head}" for layer, head in np.argwhere(mask.transpose("layer", "head").values)]


def correlations(found: Found, kind: str, of: str = "heads") -> xarray.Dataset:
    """`rho` and Holm's `p` (set, factor) of shares and texts (`texts`), or of amounts and recoveries (`moved`)."""
    one = found[of]
    a, b = (beyond(one), one["named"]) if kind == "texts" else (amount(one), one["recovery"])
    pairs = [
        [rank_correlation(a.isel(set=k).sel(factor=f).values, b.isel(set=k).sel(factor=f).values) for f in FACTORS]
        for k in range(one.sizes["set"])
    ]  # fmt: skip
    rho, p = np.moveaxis(np.array(pairs), -1, 0)
    return xarray.Dataset({"rho": _by_factor(rho), "p": _by_factor(holm(p))})


def _alike(found: Found, kind: str) -> list[str]:
    """Where ranks agree in every set, more than those of the floor, for which they do not."""
    one, floor = correlations(found, kind), correlations(found, kind, "heads_floor")
    more = (one["rho"] > floor["rho"].fillna(0)).all("set")
    here, before = ({f for f in FACTORS if _always(some["p"].sel(factor=f))} for some in (one, floor))
    return [factor for factor in FACTORS if factor in here - before and bool(more.sel(factor=factor))]


@dataclass(frozen=True)
class FirstText:
    """For how many heads (of `size`) the first text is of the factor that explains most; beside one topic for all."""

    same: int
    size: int
    topic: str
    constant: int
    p: float


def first_text(one: xarray.Dataset) -> FirstText:
    """Of one set; `p` is of a sign test over the heads for which only the text or only the best topic is right."""
    from scipy import stats

    share = beyond(one).transpose("factor", "layer", "head").values.reshape(len(FACTORS), -1)
    some = share.max(0) > 0
    best = np.array([TOPICS[FACTORS[i]] for i in share.argmax(0)])[some]
    first = one["topic"].values.ravel()[some]
    topic = max(TOPICS.values(), key=lambda name: int((best == name).sum()))
    right, plain = best == first, best == topic
    wins, losses = int((right & ~plain).sum()), int((plain & ~right).sum())
    p = float(stats.binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0
    return FirstText(int(right.sum()), len(best), topic, int(plain.sum()), p)


def _told(found: Found, of: str) -> bool:
    return all(first_text(found[of].isel(set=k)).p < LEVEL for k in _sets(found))


def needed(found: Found, of: str) -> xarray.DataArray:
    """Holm's p (set, factor): how many random sets of heads cost a factor as much `margin` (or choices: `drop`)."""
    one = found["ablation"]
    own = np.stack([one[of].sel(ablated=factor, factor=factor).values for factor in FACTORS], -1)
    return _by_factor(holm(rank_p(own, one[f"random_{of}"].transpose("set", "factor", "draw").values)))


# --- layers -----------------------------------------------------------------------------------------------------------


def lost_naming(one: xarray.Dataset) -> xarray.DataArray:
    """What is lost of the naming above the most frequent thing (set, order, layers)."""
    whole = one["accuracy"].isel(layers=0)
    gain = (whole - one["majority"]).where(whole > one["majority"])
    return (whole - one["accuracy"]) / gain


def names(found: Found) -> bool:
    """Whether the model names things better than the most frequent one would do, and than the floor."""
    one, floor = found["direct"], found["direct_floor"]["accuracy"].isel(what=0, order=0, layers=0)
    return bool(((one["low"] > one["majority"].max("what")) & (one["low"] > floor)).all())


def last_half(found: Found, what: str) -> int | None:
    """The least number of last layers that take more than half of the naming, and more than random layers' worth do."""
    one = found["direct"].sel(what=what)
    if not names(found):
        return None
    gone = lost_naming(one).sel(order="last") > 0.5
    beats = one["accuracy"].sel(order="last") < one["random_low"]
    reached = [int(n) for n in one["layers"].values[1:-1] if bool((gone & beats).sel(layers=n).all())]
    return reached[0] if reached else None


def spared(found: Found, what: str) -> int:
    """How many first layers are not missed."""
    missed = (lost_naming(found["direct"].sel(what=what)).sel(order="first") >= MISSED).any("set").values
    return int(np.argmax(np.append(missed, True))) - 1


def reading(found: Found, factor: str) -> xarray.Dataset:
    """The best probe (set): `layer` picked on the other set, `mean`, `low`, `high`, `selectivity` there.

    `floor` and `before`: the floor's best probe, picked in the same way, and the upper end of its interval.
    """
    one, floor = found["layers"].sel(factor=factor), found["layers_floor"].sel(factor=factor)
    rows = []
    for k in _sets(found):
        at, below = (int(some["read"].isel(set=1 - k).argmax("layer")) for some in (one, floor))
        mine, before = one.isel(set=k, layer=at), floor.isel(set=k, layer=below)
        names = {"mean": "read", "low": "read_low", "high": "read_high", "selectivity": "selectivity"}
        values = {"layer": at, **{name: mine[of] for name, of in names.items()}}
        values |= {"floor": before["read"], "before": before["read_high"]}
        rows.append(xarray.Dataset({name: ((), float(value)) for name, value in values.items()}))
    return xarray.concat(rows, "set")


def carried_on(found: Found, factor: str) -> int | None:
    """The first layer from which on the class token recovers more than a stranger's does; None if only the last does.

    In the last layer it recovers all by construction.
    """
    one = found["layers"].sel(factor=factor)
    above: Bool[ndarray, "layer"] = (one["used_low"] > one["used_random_high"]).all("set").values
    if not above[-2:].all():
        return None
    return int(len(above) - np.argmin(np.append(above[::-1], False)))


def erased(found: Found) -> xarray.DataArray:
    """Holm's p (set, factor): how many random bases leave as little of the margin as the probe's directions do."""
    one = found["layers"].transpose("set", "factor", ...)
    return _by_factor(holm(rank_p(-one["kept"].values, -one["kept_random"].values)))
