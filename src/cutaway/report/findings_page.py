"""The words of a page of findings: every sentence is made from the numbers it states."""

from __future__ import annotations

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
from cutaway.report.findings_words import (
    best_head,
    correlation,
    half_way,
    interval,
    layers_of,
    listed,
    markdown,
    p_value,
    percent,
)

Found = dict[str, xarray.Dataset]
ENOUGH = 19  # other sets: with fewer, even the best of them all has p above 0.05


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
    return [factor for factor in FACTORS if float(found["known"]["low"].sel(factor=factor)) > 0.5]


def _name(found: Found, factor: str) -> str:
    return factor if factor in known_factors(found) else f"{factor} †"


def _known(found: Found) -> str:
    n, rows = int(found["known"].attrs["choices"]), []
    for factor in FACTORS:
        cells = [_name(found, factor)]
        for name in ("known", "known_floor"):
            one = found[name].sel(factor=factor)
            cells.append(f"{percent(float(one['right']))} {interval(float(one['low']), float(one['high']))}")
        cells.append(f"{float(found['known']['margin'].sel(factor=factor)):.3f}")
        rows.append(cells)
    known = known_factors(found)
    unknown = [factor for factor in FACTORS if factor not in known]
    said = f"Better than chance on {listed(known)}." if known else "No factor is told apart better than chance."
    if unknown:
        said += (
            f" On {listed(unknown)} the interval is not above chance. Tables mark "
            f"{'them' if len(unknown) > 1 else 'it'} with †: those rows are about a model that does not know the "
            f"answer."
        )
    table = markdown(["factor", "right, %", "right at the floor, %", "margin (cosine)"], rows)
    return (
        f"## What there is to explain\n\nTwo pictures that differ in one factor, and the caption of each: how "
        f"often does a picture lie nearer its own (chance 50 %, {n} choices a factor, two a pair; intervals by "
        f"{BOOTSTRAPS} resamplings of pairs)? The margin is the mean "
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
                f"{best_head(mine)}: {percent(float(mine.max()))} %",
                f"{percent(float(below.sel(factor=factor).max()))} %",
                f"{best_head(most)}: {percent(float(most.max() / most.sum()))} %",
                best_head(one["recovery"].sel(factor=factor)), correlation(*texts), correlation(*moved),
            ]
        )  # fmt: skip
    table = markdown(
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
    agrees: list[str] = []
    differs: list[str] = []
    for factor in FACTORS:
        rho, at = agreement(share.sel(factor=factor).values, one["named"].sel(factor=factor).values, about.seed)
        (agrees if rho > 0 and at < 0.05 else differs).append(factor)
    said = [_topic_sentence(one, share, about.seed)]
    if agrees:
        said.append(f"Labels and texts rank the heads alike (p < 0.05) for {listed(agrees)}.")
    if differs:
        said.append(f"They do not, or there is nothing to rank, for {listed(differs)}.")
    return " ".join(said)


def _topic_sentence(one: xarray.Dataset, share: xarray.DataArray, seed: int) -> str:
    """Whether the topic of a head's first text is the factor that explains most of it; heads of no factor aside."""
    some = (share.values.max(0) > 0).ravel()
    if not some.any():
        return "No factor explains more of any head than shuffled labels do."
    best = np.array([TOPICS[FACTORS[i]] for i in share.values.argmax(0).ravel()])[some]
    first = one["topic"].values.ravel()[some]
    weight = (one["variance"] / one["variance"].sum()).values.ravel()[some]
    same, draw = best == first, np.random.default_rng(seed)
    chance = np.array([(best == draw.permutation(first)).mean() for _ in range(2000)])
    p = (1 + (chance >= same.mean()).sum()) / 2001
    return (
        f"The topic of a head's first text is the factor that explains most of it for {same.sum()} of "
        f"{same.size} heads ({percent(float((same * weight).sum()))} % of the variance of all heads); heads "
        f"matched with the texts of other heads at random agree in {percent(float(chance.mean()))} % ({p_value(p)})."
    )


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
                f"{layer}.{head}", percent(float(variance.isel(here))),
                f"{FACTORS[best]} {percent(float(share.isel(here).max()))} %", str(one["text"].isel(here).item()),
                f"{float(one['fit'].isel(here)):.2f} ({float(one['random_fit'].isel(here)):.2f})",
            ]
        )  # fmt: skip
    return "The eight heads that vary most:\n\n" + markdown(
        ["head", "% of the variance of heads", "factor that explains most", "first text", "fit (random direction)"],
        rows,
    )


def _direct(one: xarray.Dataset, figure: str) -> str:
    n = one["layers"].values
    rows = [
        [str(count), *(
            percent(float(one["accuracy"].sel(what=what, order=order, layers=count)))
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
        f"{percent(float(one['majority'].max()))} %; of what is above that, less than a twentieth is not missed.\n\n"
        f"![Naming without the direct effects of layers]({figure})\n\n"
        f"{markdown(header, rows)}\n\n" + " ".join(said)
    )


def _direct_sentence(one: xarray.Dataset, what: str) -> str:
    first, last = (one["accuracy"].sel(order=order).values for order in ("first", "last"))
    gain = first[0] - float(one["majority"])
    if gain <= 0:
        return f"{what[0].upper()}{what[1:]}: there is nothing above the most frequent thing to lose."
    lost = [(first[0] - values) / gain for values in (first, last)]
    spared = int(np.argmax(np.append(lost[0] >= 0.05, True))) - 1
    half = int(np.argmax(np.append(lost[1] > 0.5, True)))
    early = f"those of the first {layers_of(spared)} are not" if spared else "already those of the first are"
    late = f"more than half goes with the last {layers_of(half)}" if half < len(last) else "no number takes half"
    return f"{what[0].upper()}{what[1:]}: {early} missed; {late}."


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
        f"of the same layers (where a layer has too few others, some of the named ones are among them, never all).\n\n"
        f"![What ablating the named heads costs]({figure})\n\n{markdown(header, drops)}\n\n"
        f"The same as the share of the margin lost, in %:\n\n{markdown(header, margins)}\n\n" + " ".join(said)
    )


def _cell(one: xarray.Dataset, value: str, low: str, high: str, random: str) -> str:
    draws = one[random].values[np.isfinite(one[random].values)]
    if not len(draws):
        return percent(float(one[value]))
    return (
        f"{percent(float(one[value]))} {interval(float(one[low]), float(one[high]))}; random "
        f"{percent(draws.mean())} ({percent(draws.min())} to {percent(draws.max())})"
    )


def _ablation_sentence(row: xarray.Dataset, ablated: str, rest: list[str]) -> str:
    own = row.sel(factor=ablated)
    drop, draws = float(own["margin"]), own["random_margin"].values
    draws = draws[np.isfinite(draws)]
    p = (1 + (draws >= drop).sum()) / (1 + len(draws))
    if len(draws) < ENOUGH:
        more = "more" if drop > draws.max() else "not more"
        verdict = f"{more} than without each of the {len(draws)} other sets there are"
    elif drop > 0 and p < 0.05:
        verdict = f"more than random heads ({p_value(p)}, {len(draws)} other sets)"
    else:
        verdict = f"which random heads may do as well ({p_value(p)}, {len(draws)} other sets)"
    said = (
        f"Without the heads named for {ablated} the model {'loses' if drop > 0 else 'gains'} {percent(abs(drop))} "
        f"% of its margin on {ablated}, {verdict}"
    )
    if not rest:
        return f"{said}."
    side = [f"{factor} {percent(float(row['margin'].sel(factor=factor)))} %" for factor in rest]
    return f"{said}; of its margin on what else it knows it loses: {', '.join(side)}."


def _layers(found: Found, about: About, figure: str) -> str:
    one, floor = found["layers"], found["layers_floor"]
    rows, said = [], []
    for factor in FACTORS:
        mine = one.sel(factor=factor)
        best = int(mine["read"].values.argmax())
        span = interval(float(mine["read_low"][best]), float(mine["read_high"][best]))
        kept, noise = (mine[name].isel(layer=-1) for name in ("kept", "kept_random"))
        rows.append(
            [
                f"{_name(found, factor)} ({PROBED[factor]})",
                f"{percent(float(mine['read'][best]))} {span} at {best}",
                percent(float(mine["selectivity"][best])),
                percent(float(floor["read"].sel(factor=factor).max())), percent(float(mine["majority"])),
                half_way(mine["read"].values), percent(float(mine["used_random"][-1])), half_way(mine["used"].values),
                f"{percent(float(kept.mean()))} (random {percent(float(noise.mean()))})",
            ]
        )  # fmt: skip
        if factor in known_factors(found):
            said.append(_layer_sentence(mine, floor.sel(factor=factor), factor))
    table = markdown(
        ["factor (what is probed)", "best probe, %, at layer", "selectivity", "floor's best, %", "majority, %",
         "half of the rise read at layer", "recovery from a stranger, last layer, %",
         "half of the rise recovered at layer", "margin left after erasure, last layer, %"], rows,
    )  # fmt: skip
    return (
        f"## Where it is read, where it is used\n\nAt the class token, after each block. Read: linear probes "
        f"({int(one.attrs['items'])} scenes, held-out quarter, three splits). Used: activation patching of the "
        f"class token in {int(one.attrs['pairs'])} minimal pairs (recovery 0: as the counterpart, 1: as the clean "
        f"picture). Erased: the probe's directions taken out there, against as many random ones; what is left of "
        f"the margin, {SPLITS} splits.\n\n"
        f"![Read, used and erased along the layers]({figure})\n\n{table}\n\n" + " ".join(said)
    )


def _layer_sentence(mine: xarray.Dataset, floor: xarray.Dataset, factor: str) -> str:
    kept, noise = float(mine["kept"].isel(layer=-1).mean()), float(mine["kept_random"].isel(layer=-1).mean())
    gain = float(mine["read"].max() - floor["read"].max())
    rise = f"{percent(abs(gain))} percentage points {'above' if gain > 0 else 'below'} the floor's"
    read, used = (half_way(mine[name].values) for name in ("read", "used"))
    when = [f"half of the rise {what} {'never comes' if at in ('no rise', '–') else f'has come by layer {at}'}"
            for what, at in (("in reading", read), ("in recovery", used))]  # fmt: skip
    return (
        f"{factor.capitalize()}: the best probe is {rise}; {' and '.join(when)}; erasing the last layer's probe leaves "
        f"{percent(kept)} % of the margin, random directions {percent(noise)} %."
    )


def _limits(found: Found, about: About) -> str:
    sets = found["ablation"]["random_margin"].isel(factor=0)
    tested = [f for f in known_factors(found) if np.isfinite(sets.sel(ablated=f)).sum() >= ENOUGH]
    count = 1 + 2 * len(FACTORS) + len(tested)
    left = ", ".join(f"{f} {int(found['heads']['used'].sel(factor=f))}" for f in FACTORS)
    return (
        "## What this cannot tell\n\n"
        f"Shares are of what a head writes to the embedding directly; a head that acts through later ones shows "
        f"only in patching and ablation. R² asks for differences of means between labels, so a factor coded in "
        f"interaction with another shows too little. Texts name the nearest thing the bank has a word for. "
        f"Ablating a head to its mean removes all it carries, not one factor. Probes are fitted at one token, and "
        f"other positions may hold what they miss; erasing their directions also takes what lies along with them. "
        f"Patching a class token also removes the counterpart's evidence, hence the recovery from a stranger. Curves "
        f"of reading and of use both tend to rise with depth, so that they rise together says little. Pairs whose gap "
        f"is small are left out of recoveries (of {int(found['heads'].attrs['pairs'])} pairs, used: {left}). Intervals "
        f"are over pairs, those of probes over splits of the scenes, never over trainings: there is one trained model. "
        f"P-values are of single comparisons; {count} are on this page, of which {0.05 * count:.1f} would be below "
        f"0.05 by luck alone."
    )
