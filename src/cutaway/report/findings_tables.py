"""The tables behind the front of a page of findings, and a line about each that follows from it."""

from __future__ import annotations

import numpy as np
import xarray

from cutaway.report.findings_claims import (
    LEVEL,
    MISSED,
    Claims,
    correlations,
    erased,
    first_text,
    needed,
    reading,
    spared,
)
from cutaway.report.findings_heads import DRAWS, SHUFFLES, amount, beyond
from cutaway.report.findings_layers import ERASURES, SET
from cutaway.report.findings_scenes import BOOTSTRAPS, CONCEPTS, FACTORS, PROBED
from cutaway.report.findings_words import (
    best_head,
    both,
    correlation,
    half_way,
    layers_of,
    listed,
    markdown,
    p_value,
    percent,
    ranged,
)

Found = dict[str, xarray.Dataset]
BOTH = ("heads", "MLPs")


def _name(made: Claims, factor: str) -> str:
    return factor if factor in made.known else f"{factor} †"


def _p_values(p: xarray.DataArray) -> str:
    return " / ".join(p_value(float(one)) for one in p.values)


def _some(said: str, factors: list[str], none: str) -> str:
    return said.format(listed(factors)) if factors else none


def known(found: Found, made: Claims) -> str:
    """How often the right caption is nearer, before and after training."""
    one, floor, rows = found["known"], found["known_floor"], []
    for factor in FACTORS:
        cells = [ranged(*(some[name].sel(factor=factor) for name in ("right", "low", "high"))) for some in (one, floor)]
        margins = " / ".join(f"{round(float(value), 3) + 0:.3f}" for value in one["margin"].sel(factor=factor))
        lowest = " / ".join(f"{round(float(value), 3) + 0:.3f}" for value in floor["margin"].sel(factor=factor))
        rows.append([_name(made, factor), *cells, margins, lowest])
    header = ["factor", "right, %", "right at the floor, %", "margin (cosine)", "at the floor"]
    unknown = [factor for factor in FACTORS if factor not in made.known]
    said = _some("Better than chance and than the floor on {}.", made.known, "No factor is told apart.")
    if unknown:
        said += f" Not so on {listed(unknown)}: rows with † are about a model that does not know the answer."
    return (
        "## What there is to explain\n\nTwo pictures that differ in one factor, and the caption of each: how often "
        f"does a picture lie nearer its own (chance 50 %, {int(one.attrs['choices'])} choices a factor, two a pair; "
        f"intervals by {BOOTSTRAPS} resamplings of pairs)? The margin is the mean difference of the two cosines.\n\n"
        f"{markdown(header, rows)}\n\n{said}"
    )


def heads(found: Found, made: Claims) -> str:
    """What heads vary with, what their texts say, what patching them does."""
    one = found["heads"]
    return (
        "## Which heads carry what\n\nThe share is R² of what a head adds to the embedding directly on the labels of "
        f"a factor, less what shuffled labels reach, rescaled ({int(one.attrs['items'])} scenes of {CONCEPTS} "
        f"concepts, {SHUFFLES} shufflings); the category of a scene is its concept. *One by one*: heads above the "
        "97.5 % point of their own shuffled labels, of which a few are there by luck. *Together*: heads so far above "
        "that no head would be, in 95 % of shufflings. *Claimed*: together in both sets, and above every head of the "
        f"floor.\n\n{_counts(found, made)}\n\n"
        f"Texts: the first five of TextSpan, from a bank of {CONCEPTS} things, as many backgrounds, nine places and "
        "three artists. The amount is the share times the variance of the head. Recovery: patching the whole head, "
        f"at all positions, in {int(one.attrs['pairs'])} minimal pairs a factor. Correlations are of ranks over "
        f"heads.\n\n{_agreements(found, made)}\n\n{_head_lines(found, made)}\n\n{_named_table(one)}"
    )


def _counts(found: Found, made: Claims) -> str:
    rows = []
    for factor in FACTORS:
        cells = [_name(made, factor)]
        for name in ("heads", "heads_floor"):
            some = found[name].sel(factor=factor)
            alone = (some["share"] > some["shuffled_high"]).sum(("layer", "head"))
            together = (some["p"] < LEVEL).sum(("layer", "head"))
            largest = beyond(some).max(("layer", "head"))
            cells += ["/".join(str(int(v)) for v in alone), "/".join(str(int(v)) for v in together), both(largest)]
        places = made.carried.get(factor, [])
        rows.append([*cells, f"{len(places)}: {', '.join(places)}" if 0 < len(places) <= 9 else str(len(places))])
    names = ("heads one by one", "together", "largest share, %")
    header = ["factor", *names, *(f"{name}, floor" for name in names), "claimed"]
    size = found["heads"].sizes["layer"] * found["heads"].sizes["head"]
    return f"Of {size} heads:\n\n{markdown(header, rows)}"


def _agreements(found: Found, made: Claims) -> str:
    rows, one = [], found["heads"]
    kinds = {kind: [correlations(found, kind, of) for of in ("heads", "heads_floor")] for kind in ("texts", "moved")}
    for factor in FACTORS:
        most = amount(one).sel(factor=factor)
        cells = [correlation(c["rho"].sel(factor=factor), c["p"].sel(factor=factor)) for k in kinds for c in kinds[k]]
        rows.append([_name(made, factor), best_head(most), best_head(one["recovery"].sel(factor=factor)), *cells])
    names = ("share and texts", "amount and recovery")
    columns = [f"{name}{of}" for name in names for of in ("", ", floor")]
    return markdown(["factor", "head that carries most", "head that recovers most", *columns], rows)


def _head_lines(found: Found, made: Claims) -> str:
    said = [
        _some("Labels and texts rank the heads alike for {}.", made.texts, "Labels and texts do not rank heads alike."),
        _some(
            "Heads that carry more recover more for {}.", made.moved,
            "For no factor do heads that carry more also recover more."
        ),
    ]  # fmt: skip
    several = [[first_text(found[name].isel(set=k)) for k in (0, 1)] for name in ("heads", "heads_floor")]
    same, floor = ("/".join(f"{one.same} of {one.size}" for one in some) for some in several)
    plain = "/".join(str(one.constant) for one in several[0])
    topics = " and ".join(dict.fromkeys(one.topic for one in several[0]))
    verdict = "more than" if made.first_text else "which is not more, beyond luck, than"
    said.append(
        f"The first text of a head is about the factor that explains most of it for {same} heads (at the floor "
        f"{floor}), {verdict} saying “{topics}” of every head would be right for ({plain}; sign test "
        f"{' / '.join(p_value(one.p) for one in several[0])})."
    )
    return " ".join(said)


def _named_table(one: xarray.Dataset) -> str:
    rows = []
    variance = (one["variance"] / one["variance"].sum(("layer", "head"))).transpose("set", "layer", "head")
    order = np.argsort(-variance.mean("set").values, axis=None)[:8]
    for flat in order:
        layer, head = (int(i) for i in np.unravel_index(flat, variance.shape[1:]))
        here = one.isel(layer=layer, head=head)
        share = beyond(here).transpose("set", "factor").values
        best = [f"{FACTORS[row.argmax()]} {percent(float(row.max()))} %" for row in share]
        fits = [f"{float(a):.2f} ({float(b):.2f})" for a, b in zip(here["fit"], here["random_fit"], strict=True)]
        texts = " / ".join(str(text) for text in here["text"].values)
        of = both(variance.isel(layer=layer, head=head))
        rows.append([f"{layer}.{head}", of, " / ".join(best), texts, " / ".join(fits)])
    header = ["head", "% of the variance of heads", "factor that explains most", "first text", "fit (random direction)"]
    return f"The heads that vary most:\n\n{markdown(header, rows)}"


def direct(found: Found, made: Claims, figure: str) -> str:
    """Naming without the direct effects of layers."""
    one, floor = found["direct"], found["direct_floor"]["accuracy"].isel(what=0, order=0, layers=0)
    columns = [(what, order) for what in BOTH for order in ("first", "last", "random")]
    rows = [
        [str(n), *(both(one["accuracy"].sel(what=what, order=order, layers=n)) for what, order in columns)]
        for n in one["layers"].values
    ]  # fmt: skip
    said = []
    for what in BOTH:
        early = spared(found, what)
        first = f"those of the first {layers_of(early)} are not missed" if early > 0 else "already the first are missed"
        half = made.late.get(what)
        last = f"more than half goes with the last {layers_of(half)}, more than with random ones" if half else (
            "no number of last layers takes half and more than random ones do"
        )  # fmt: skip
        said.append(f"{what[0].upper()}{what[1:]}: {first}; {last}.")
    return (
        f"## Which layers write the category\n\nZero-shot naming among {CONCEPTS} things ({int(one.attrs['items'])} "
        "scenes), in %, while what the heads or MLPs of the first or the last n layers add to the embedding directly "
        f"is replaced by its mean; *random*: as many heads or MLPs from anywhere (mean of {DRAWS} draws). The floor "
        f"names {both(floor)} %, the most frequent thing alone makes {both(one['majority'].isel(what=0))} %; of what "
        f"is above that, less than {percent(MISSED)} % is not missed.\n\n![Naming without the direct effects of "
        f"layers]({figure})\n\n{markdown(['layers', *(f'{what}, {order} n' for what, order in columns)], rows)}\n\n"
        + (" ".join(said) if made.late else "Nothing can be said of layers.")
    )


def ablation(found: Found, made: Claims) -> str:
    """What ablating the named heads costs, in choices first and then in margins."""
    one = found["ablation"]
    draws, reference, pairs = (int(one.attrs[name]) for name in ("draws", "reference", "pairs"))
    chosen = [[_name(made, f), *(str(text) for text in one["heads"].sel(ablated=f).values)] for f in FACTORS]
    said = _some("Captions are lost, more than without random heads, for {}.", made.choices,
                 "For no factor do its heads cost more captions, beyond luck, than random heads do.")  # fmt: skip
    more = _some("Margin is lost, more than without random heads, for {}.", made.needed,
                 "For no factor do its heads cost more margin, beyond luck, than random heads do.")  # fmt: skip
    return (
        f"## Are the named heads needed?\n\nFor each factor, the heads whose texts about it explain the most, on the "
        f"*other* set of scenes ({SET} at most, none without such a text), are set to their mean over {reference} "
        f"scenes, at every position. *Random*: {draws} sets of {SET} heads drawn from all, the same for each factor, "
        f"also where fewer are named; the least p they can give is "
        f"{1 / (1 + draws):.4f}, {len(FACTORS) / (1 + draws):.3f} for the smallest of four. Intervals: {BOOTSTRAPS} "
        f"resamplings of {pairs} pairs a factor. The floor knows no answers, so it has none to lose, here and "
        f"below.\n\n{markdown(['factor', 'heads, first set of pairs', 'second set of pairs'], chosen)}\n\n"
        f"So many more of 100 choices are wrong:\n\n{_costs(found, made, 'drop')}\n\n{said}\n\n"
        f"The share of the margin lost, in %:\n\n{_costs(found, made, 'margin')}\n\n{more}"
    )


def _costs(found: Found, made: Claims, of: str) -> str:
    """What nobody knows cannot be lost: a dash."""
    one, p, rows = found["ablation"], needed(found, of), []
    for ablated in FACTORS:
        row = one.sel(ablated=ablated)
        cells = [
            ranged(*(row[name].sel(factor=f) for name in (of, f"{of}_low", f"{of}_high"))) if f in made.known else "–"
            for f in FACTORS
        ]
        own = _p_values(p.sel(factor=ablated)) if ablated in made.known else "–"
        rows.append([f"heads of {_name(made, ablated)}", *cells, own])
    random = [one[f"random_{of}"].sel(factor=f) for f in FACTORS]
    spread = [_spread(values) if f in made.known else "–" for f, values in zip(FACTORS, random, strict=True)]
    rows.append(["random heads: middle, 95 % of sets", *spread, ""])
    header = ["without the", *(f"on {_name(made, f)}" for f in FACTORS), "p of its own factor (Holm)"]
    return markdown(header, rows)


def _spread(draws: xarray.DataArray) -> str:
    return ranged(*(draws.quantile(point, "draw", skipna=False) for point in (0.5, 0.025, 0.975)))


def layers(found: Found, made: Claims, figure: str) -> str:
    """Where factors are read, used and erased."""
    one, floor = found["layers"], found["layers_floor"]
    read_rows, used_rows, p = [], [], erased(found)
    for factor in FACTORS:
        mine, best = one.sel(factor=factor), reading(found, factor)
        name = _name(made, factor)
        at = "/".join(str(int(layer)) for layer in best["layer"])
        read_rows.append(
            [f"{name} ({PROBED[factor]})", ranged(best["mean"], best["low"], best["high"]), at, both(best["floor"]),
             both(best["before"]), both(best["selectivity"]), both(mine["majority"]), half_way(mine["read"])]
        )  # fmt: skip
        kept = [both(mine["kept"]), _spread(mine["kept_random"]), _p_values(p.sel(factor=factor))]
        used_rows.append(
            [name, half_way(mine["used"]), half_way(floor["used"].sel(factor=factor)),
             both(mine["used"].isel(layer=-2)), both(mine["used_random"].isel(layer=-2)),
             both(mine["used_random"].isel(layer=-1)), *(kept if factor in made.known else ["–"] * 3)]
        )  # fmt: skip
    read = ["factor (what is probed)", "best probe, %", "at layer", "floor's best, %", "its upper end", "selectivity",
            "majority, %", "half of the rise at layer"]  # fmt: skip
    used = ["factor", "half of the rise at layer", "floor", "recovery, last layer but one, %", "from a stranger",
            "from a stranger, last layer", "margin left after erasure, %", "after random", "p (Holm)"]  # fmt: skip
    return (
        f"## Where it is read, where it is used\n\nAt the class token, after each block. Read: linear probes "
        f"({int(one.attrs['items'])} scenes, held-out quarter, three splits); the best layer is picked on the other "
        f"set.\n\n![Read and used along the layers]({figure})\n\n{markdown(read, read_rows)}\n\n"
        f"{_read_line(made)}\n\nUsed: activation patching of the class token in {int(one.attrs['pairs'])} minimal "
        "pairs (recovery 0: as the counterpart, 1: as the clean picture; in the last layer 1 by construction). *From "
        "a stranger*: the class token of another picture, which takes the counterpart's evidence away and brings "
        f"none. Erased: the probe's directions taken out in the last layer, against {ERASURES} times as many random "
        f"ones in which the data vary otherwise.\n\n{markdown(used, used_rows)}\n\n{_used_line(made)}"
    )


def _read_line(made: Claims) -> str:
    return _some("The interval of the best probe lies above the floor's for {}.", made.read,
                 "For no factor does the interval of the best probe lie above the floor's.")  # fmt: skip


def _used_line(made: Claims) -> str:
    by_layer = [f"{factor} from layer {layer} on" for factor, layer in made.used.items()]
    strangers = [factor for factor in made.known if factor not in made.used]
    said = _some("The class token brings more than a stranger's does, before the last layer, for {}.", by_layer, "")
    if strangers:
        said += f" For {listed(strangers)} it does not: a stranger's may do as well."
    more = _some("Erasing what is read costs more margin than random directions do for {}.", made.erased,
                 "Erasing what is read costs no more margin than random directions do.")  # fmt: skip
    return f"{said} {more}".strip()


def limits(found: Found) -> str:
    """What the page cannot tell."""
    one, pairs = found["heads"], int(found["heads"].attrs["pairs"])
    left = ", ".join(
        f"{f} {'/'.join(str(int(v)) for v in one['used'].sel(factor=f))}" for f in FACTORS
    )  # fmt: skip
    return (
        "## What this cannot tell\n\n"
        "There is one trained model and one floor: intervals are over pairs, those of probes over splits of the "
        "scenes, never over trainings, and another training may put things elsewhere. Shares are of what a head "
        "writes to the embedding directly; a head that acts through later ones shows only in patching and ablation. "
        "R² asks for differences of means between labels, so a factor coded in interaction with another shows too "
        "little. A head of the floor varies with the picture too, as its patches do; so only what lies above the "
        "floor was learned, and what lies below may be learned and not be seen here. Texts name the nearest thing "
        "the bank has a word for. Ablating a head to its mean removes all it carries, not one factor. Probes are "
        "fitted at one token, and other positions may hold what they miss; erasing their directions also takes what "
        "lies along with them. Curves of reading and of use both tend to rise with depth, so that they rise together "
        f"says little. Pairs whose gap is small are left out of recoveries (heads: of {pairs} pairs, used {left}). "
        "That nothing is claimed does not mean that nothing is there: so few scenes do not show small effects."
    )
