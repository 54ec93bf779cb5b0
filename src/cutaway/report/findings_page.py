"""The words of a page of findings: every sentence is made from the numbers it states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray

from cutaway import __version__
from cutaway.report.findings_measures import (
    BOOTSTRAPS,
    CONCEPTS,
    FACTORS,
    LARGEST_SET,
    PROBED,
    SHUFFLES,
    SPLITS,
    TOPICS,
    agreement,
    amount,
    beyond,
    carried,
)
from cutaway.zoo.evaluate import wilson

Found = dict[str, xarray.Dataset]


@dataclass(frozen=True)
class About:
    """What the page says of its own making; `seconds` of each section."""

    model: str
    n: int
    seed: int
    out: str
    seconds: dict[str, float]


def page(found: Found, about: About, figures: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    parts = [
        _head(found, about),
        _known(found),
        _heads(found, about, figures["heads"]),
        _direct(found["direct"], figures["direct"]),
        _ablation(found, figures["ablation"]),
        _layers(found, about, figures["layers"]),
        _limits(found, about),
    ]
    return "\n\n".join(parts) + "\n"


# --- sections ---------------------------------------------------------------------------------------------------------


def _head(found: Found, about: About) -> str:
    command = f"cutaway findings {about.model} --out {about.out} --n {about.n} --seed {about.seed}"
    return (
        f"# How {about.model} tells backgrounds, places, categories and artists apart\n\n"
        f"Every number and sentence on this page is written by one command:\n\n```sh\n{command}\n```\n\n"
        f"It takes {sum(about.seconds.values()):.0f} s when nothing is kept from before. cutaway {__version__}, "
        f"torch {torch.__version__}. Held-out scenes of one thing each; seed {about.seed}. *The floor* is the same "
        f"model before training. A head is written `layer.head`, both from 0. Intervals are 95 %."
    )


def known_factors(found: Found) -> list[str]:
    """The factors on which the model chooses the right caption more often than chance, by the lower end."""
    one = found["known"]
    n = int(one.attrs["choices"])
    return [f for f in FACTORS if wilson(float(one["right"].sel(factor=f)), n)[0] > 0.5]


def _name(found: Found, factor: str) -> str:
    return factor if factor in known_factors(found) else f"{factor} †"


def _known(found: Found) -> str:
    n, rows = int(found["known"].attrs["choices"]), []
    for factor in FACTORS:
        cells = [_name(found, factor)]
        for name in ("known", "known_floor"):
            right = float(found[name]["right"].sel(factor=factor))
            cells.append(f"{_percent(right)} {_range(*wilson(right, n))}")
        cells.append(f"{float(found['known']['margin'].sel(factor=factor)):.3f}")
        rows.append(cells)
    known = known_factors(found)
    unknown = [factor for factor in FACTORS if factor not in known]
    said = f"Better than chance on {_listed(known)}." if known else "No factor is told apart better than chance."
    if unknown:
        said += (
            f" On {_listed(unknown)} the interval reaches down to chance. Tables mark "
            f"{'them' if len(unknown) > 1 else 'it'} with †: those rows are about a model that does not know the "
            f"answer."
        )
    table = _table(["factor", "right, %", "right at the floor, %", "margin (cosine)"], rows)
    return (
        f"## What there is to explain\n\nTwo pictures that differ in one factor, and the caption of each: how "
        f"often does a picture lie nearer its own (chance 50 %, {n} choices a factor)? The margin is the mean "
        f"difference of the two cosines.\n\n{table}\n\n{said}"
    )


def _heads(found: Found, about: About, figure: str) -> str:
    one, floor = found["heads"], found["heads_floor"]
    share, below, dots, rows = beyond(one), beyond(floor), carried(one), []
    for f, factor in enumerate(FACTORS):
        mine = share.sel(factor=factor)
        texts = agreement(mine.values, one["named"].sel(factor=factor).values, about.seed)
        most = amount(one).sel(factor=factor)
        moved = agreement(most.values, one["recovery"].sel(factor=factor).values, about.seed)
        rows.append(
            [
                _name(found, factor), f"{int(dots[f].sum())} of {dots[f].size}",
                f"{_place(mine)}: {_percent(float(mine.max()))} %",
                f"{_percent(float(below.sel(factor=factor).max()))} %",
                f"{_place(most)}: {_percent(float(most.max() / most.sum()))} %",
                _place(one["recovery"].sel(factor=factor)), _rho(*texts), _rho(*moved),
            ]
        )  # fmt: skip
    table = _table(
        ["factor", "heads beyond shuffling", "largest share", "largest share at the floor",
         "head that carries most, % of what all carry of the factor", "head that recovers most",
         "share and texts, rank correlation", "amount and recovery, rank correlation"], rows,
    )  # fmt: skip
    return (
        f"## Which heads carry what\n\nThe share is R² of what a head adds to the embedding directly on the labels "
        f"of a factor, less what shuffled labels reach, rescaled; the amount is share times the variance of the "
        f"head ({int(one.attrs['items'])} scenes of {CONCEPTS} concepts, {SHUFFLES} shufflings). The category of a "
        f"scene is its concept. Texts: TextSpan with as many texts on each topic as fit; recovery: patching the "
        f"whole head, at all positions, in minimal pairs ({int(one.attrs['pairs'])} a factor).\n\n![Share "
        f"explained and recovery, by head]({figure})\n\n"
        "White dots: beyond the 97.5 % point of shuffled labels.\n\n"
        f"{table}\n\n{_head_sentences(found, about)}\n\n{_named_table(one)}"
    )


def _head_sentences(found: Found, about: About) -> str:
    one = found["heads"]
    share = beyond(one)
    best = np.array([TOPICS[FACTORS[i]] for i in share.values.argmax(0).ravel()])
    first = one["topic"].values.ravel()
    weight = (one["variance"] / one["variance"].sum()).values.ravel()
    same, draw = best == first, np.random.default_rng(about.seed)
    chance = np.array([(best == draw.permutation(first)).mean() for _ in range(2000)])
    p = (1 + (chance >= same.mean()).sum()) / 2001
    agrees: list[str] = []
    differs: list[str] = []
    for factor in FACTORS:
        rho, at = agreement(share.sel(factor=factor).values, one["named"].sel(factor=factor).values, about.seed)
        (agrees if rho > 0 and at < 0.05 else differs).append(factor)
    said = [
        (
            f"The topic of a head's first text is the factor that explains most of it for {same.sum()} of "
            f"{same.size} heads ({_percent(float((same * weight).sum()))} % of the variance of all heads); heads "
            f"matched with the texts of other heads at random agree in {_percent(float(chance.mean()))} % ({_p(p)})."
        )
    ]
    if agrees:
        said.append(f"Labels and texts rank the heads alike (p < 0.05) for {_listed(agrees)}.")
    if differs:
        said.append(f"They do not, or there is nothing to rank, for {_listed(differs)}.")
    return " ".join(said)


def _named_table(one: xarray.Dataset) -> str:
    share, rows = beyond(one), []
    variance = one["variance"] / one["variance"].sum()
    order = np.argsort(-variance.values, axis=None)[:8]
    for flat in order:
        layer, head = (int(i) for i in np.unravel_index(flat, variance.shape))
        here = {"layer": layer, "head": head}
        best = int(share.isel(here).values.argmax())
        rows.append(
            [
                f"{layer}.{head}", _percent(float(variance.isel(here))),
                f"{FACTORS[best]} {_percent(float(share.isel(here).max()))} %", str(one["text"].isel(here).item()),
                f"{float(one['fit'].isel(here)):.2f} ({float(one['random_fit'].isel(here)):.2f})",
            ]
        )  # fmt: skip
    return "The eight heads that vary most:\n\n" + _table(
        ["head", "% of the variance of heads", "factor that explains most", "first text", "fit (random direction)"],
        rows,
    )


def _direct(one: xarray.Dataset, figure: str) -> str:
    n = one["layers"].values
    rows = [
        [str(count), *(
            _percent(float(one["accuracy"].sel(what=what, order=order, layers=count)))
            for what in ("heads", "MLPs") for order in ("first", "last", "random")
        )]
        for count in n
    ]  # fmt: skip
    header = ["layers", *(f"{what}, {order} n" for what in ("heads", "MLPs") for order in ("first", "last", "random"))]
    said = [_direct_sentence(one.sel(what=what), what) for what in ("heads", "MLPs")]
    return (
        f"## Which layers write the category\n\nZero-shot naming among {CONCEPTS} things ({int(one.attrs['items'])} "
        f"scenes), in %, while what the heads or MLPs of the first or the last n layers add to the embedding directly "
        f"is replaced by its mean; *random*: as many heads or MLPs from anywhere. The most frequent thing alone makes "
        f"{_percent(float(one['majority'].max()))} %.\n\n![Naming without the direct effects of layers]({figure})\n\n"
        f"{_table(header, rows)}\n\n" + " ".join(said)
    )


def _direct_sentence(one: xarray.Dataset, what: str) -> str:
    first, last = (one["accuracy"].sel(order=order).values for order in ("first", "last"))
    spared = int(np.argmax(np.append(first < 0.95 * first[0], True))) - 1
    half = int(np.argmax(np.append(last < (first[0] + float(one["majority"])) / 2, True)))
    early = f"those of the first {_layers_of(spared)} add less than a twentieth of it" if spared else "all layers count"
    late = (
        f"more than half goes with the last {_layers_of(half)}" if half < len(last) else "no number of them takes half"
    )
    return f"{what[0].upper()}{what[1:]}: {early}; {late}."


def _layers_of(count: int) -> str:
    return "layer" if count == 1 else f"{count} layers"


def _ablation(found: Found, figure: str) -> str:
    one = found["ablation"]
    drops, margins, said = [], [], []
    for ablated in FACTORS:
        row = one.sel(ablated=ablated)
        names = f"{_name(found, ablated)}: {row['heads'].item()}"
        drops.append([names, *(_cell(row.sel(factor=f), "drop", "low", "high", "random") for f in FACTORS)])
        fields = ("margin", "margin_low", "margin_high", "random_margin")
        margins.append([names, *(_cell(row.sel(factor=f), *fields) for f in FACTORS)])
        if ablated in known_factors(found):
            said.append(_ablation_sentence(row, ablated, [f for f in known_factors(found) if f != ablated]))
    header = ["without the heads of", *(f"on {_name(found, factor)}" for factor in FACTORS)]
    return (
        f"## Are the named heads needed?\n\nFor each factor, the heads whose first text is about it (at most "
        f"{LARGEST_SET}, by what those texts explain; one head where no first text is) are set to their mean over "
        f"{int(one.attrs['reference'])} scenes, at every position. Points of caption choices lost on the minimal "
        f"pairs of every factor ({int(one.attrs['pairs'])} pairs each, interval by {BOOTSTRAPS} resamplings), and "
        f"behind it the mean and range over up to {int(one.attrs['draws'])} different sets of as many other heads "
        f"of the same layers.\n\n"
        f"![What ablating the named heads costs]({figure})\n\n{_table(header, drops)}\n\n"
        f"The same as the share of the margin lost, in %:\n\n{_table(header, margins)}\n\n" + " ".join(said)
    )


def _cell(one: xarray.Dataset, value: str, low: str, high: str, random: str) -> str:
    draws = one[random].values[np.isfinite(one[random].values)]
    if not len(draws):
        return _percent(float(one[value]))
    return (
        f"{_percent(float(one[value]))} {_range(float(one[low]), float(one[high]))}; random "
        f"{_percent(draws.mean())} ({_percent(draws.min())} to {_percent(draws.max())})"
    )


def _ablation_sentence(row: xarray.Dataset, ablated: str, rest: list[str]) -> str:
    own = row.sel(factor=ablated)
    drop, draws = float(own["margin"]), own["random_margin"].values
    draws = draws[np.isfinite(draws)]
    p = (1 + (draws >= drop).sum()) / (1 + len(draws))
    verdict = "more than random heads" if p < 0.05 else "which random heads may do as well"
    said = (
        f"Without the heads named for {ablated} the model {'loses' if drop > 0 else 'gains'} {_percent(abs(drop))} "
        f"% of its margin on {ablated}, {verdict} ({_p(p)}, {len(draws)} other sets)"
    )
    if not rest:
        return f"{said}."
    side = [f"{factor} {_percent(float(row['margin'].sel(factor=factor)))} %" for factor in rest]
    return f"{said}; of its margin on what else it knows it loses: {', '.join(side)}."


def _layers(found: Found, about: About, figure: str) -> str:
    one, floor = found["layers"], found["layers_floor"]
    rows, said = [], []
    for factor in FACTORS:
        mine = one.sel(factor=factor)
        best = int(mine["read"].values.argmax())
        span = _range(float(mine["read_low"][best]), float(mine["read_high"][best]))
        kept, noise = (mine[name].isel(layer=-1) for name in ("kept", "kept_random"))
        rows.append(
            [
                f"{_name(found, factor)} ({PROBED[factor]})",
                f"{_percent(float(mine['read'][best]))} {span} at {best}",
                _percent(float(mine["selectivity"][best])),
                _percent(float(floor["read"].sel(factor=factor).max())), _percent(float(mine["majority"])),
                _first(mine["read"].values), f"{_percent(float(mine['used_random'][-1]))}", _first(mine["used"].values),
                f"{_percent(float(kept.mean()))} (random {_percent(float(noise.mean()))})",
            ]
        )  # fmt: skip
        if factor in known_factors(found):
            said.append(_layer_sentence(mine, floor.sel(factor=factor), factor, about.seed))
    table = _table(
        ["factor (what is probed)", "best probe, %, at layer", "selectivity", "floor's best, %", "majority, %",
         "half read at layer", "recovery from a stranger, last layer, %", "half recovered at layer",
         "margin left after erasure, last layer, %"], rows,
    )  # fmt: skip
    return (
        f"## Where it is read, where it is used\n\nAt the class token, after each block. Read: linear probes "
        f"({int(one.attrs['items'])} scenes, held-out quarter, three splits). Used: activation patching of the "
        f"class token in {int(one.attrs['pairs'])} minimal pairs (recovery 0: as the counterpart, 1: as the clean "
        f"picture). Erased: the probe's directions taken out there, against as many random ones; what is left of "
        f"the margin, {SPLITS} splits.\n\n"
        f"![Read, used and erased along the layers]({figure})\n\n{table}\n\n" + " ".join(said)
    )


def _layer_sentence(mine: xarray.Dataset, floor: xarray.Dataset, factor: str, seed: int) -> str:
    rho, p = agreement(mine["read"].values, mine["used"].values, seed)
    kept, noise = float(mine["kept"].isel(layer=-1).mean()), float(mine["kept_random"].isel(layer=-1).mean())
    gain = float(mine["read"].max() - floor["read"].max())
    rise = f"{_percent(abs(gain))} percentage points {'above' if gain > 0 else 'below'} the floor's"
    verdict = "agree" if rho > 0 and p < 0.05 else "do not agree"
    return (
        f"{factor.capitalize()}: the best probe is {rise}; along the layers, reading and use {verdict} (rank "
        f"correlation {rho:.2f}, {_p(p)}, {mine.sizes['layer']} layers); erasing the last layer's probe leaves "
        f"{_percent(kept)} % of the margin, random directions {_percent(noise)} %."
    )


def _limits(found: Found, about: About) -> str:
    count = 1 + 2 * len(FACTORS) + 2 * len(known_factors(found))
    left = ", ".join(f"{f} {int(found['heads']['used'].sel(factor=f))}" for f in FACTORS)
    return (
        "## What this cannot tell\n\n"
        f"Shares are of what a head writes to the embedding directly; a head that acts through later ones shows "
        f"only in patching and ablation. R² asks for differences of means between labels, so a factor coded in "
        f"interaction with another shows too little. Texts name the nearest thing the bank has a word for. "
        f"Ablating a head to its mean removes all it carries, not one factor. Probes are fitted at one token, and "
        f"other positions may hold what they miss; erasing their directions also takes what lies along with them. "
        f"Patching a class token also removes the counterpart's evidence, hence the recovery from a stranger. Rank "
        f"correlations over six layers can only be rough. Pairs whose gap is small are left out of recoveries (of "
        f"{int(found['heads'].attrs['pairs'])} pairs, used: {left}). Intervals are over scenes or pairs, never "
        f"over trainings: there is one trained model. P-values are of single comparisons; {count} are on this "
        f"page, of which {0.05 * count:.1f} would be below 0.05 by luck alone."
    )


# --- small words ------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _rho(rho: float, p: float) -> str:
    return f"{rho:.2f} ({_p(p)})" if np.isfinite(rho) else "–"


def _percent(share: float) -> str:
    return str(round(100 * share)) if np.isfinite(share) else "–"


def _range(low: float, high: float) -> str:
    return f"[{_percent(low)}, {_percent(high)}]"


def _place(values: xarray.DataArray) -> str:
    """The head at which a value is largest."""
    if not np.isfinite(values).any():
        return "–"
    best = values.argmax(("layer", "head"))
    return f"{int(best['layer'])}.{int(best['head'])}"


def _first(values: np.ndarray) -> str:
    """The first layer at which a curve is half way from its first to its largest value, or that it never rises."""
    rise = values.max() - values[0]
    if not np.isfinite(rise):
        return "–"
    if rise < 0.05:
        return "no rise"
    return str(int(np.argmax(values >= values[0] + rise / 2)))


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
