"""The page on features: what the best feature tells beside the best neuron, in each family, and what it misses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from cutaway import __version__
from cutaway.report.findings_features import FEATURES, FEWEST, NEURONS, PROBE, UNITS
from cutaway.report.findings_page import About
from cutaway.report.findings_plots import saved
from cutaway.report.findings_words import listed, markdown
from cutaway.zoo.dictionaries import SHIPPED

Found = dict[str, xarray.Dataset]
APART, READ, LOST = 0.05, 0.9, 0.75  # AUROC: what counts as more; what a probe reads; what no feature says
MOST = 8  # concepts that a list names
COLOURS = ("#2066a8", "#9ecae1", "#c6c6c6", "#a0a0a0", "#d97706", "#16a34a")


def page(found: Found, about: About, figures: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    numbered = "\n".join(f"{i}. {said}" for i, said in enumerate(sentences(found), 1))
    front = (
        "# Features of dictionaries: what the best of them tells beside the best neuron, and what it misses\n\n"
        f"{numbered}\n\n*Where two numbers stand with a slash between them, the same was measured on two sets of "
        f"scenes.*\n\n![How well the best single unit tells a concept, by kind of concept]({figures['units']})"
    )
    parts = [front, _made(about), *(_family(found, name) for name in models(found)), _limits()]
    return "\n\n".join(parts) + "\n"


def models(found: Found) -> list[str]:
    """The sections of trained models."""
    return [name for name in found if not name.endswith("_floor")]


# --- sentences --------------------------------------------------------------------------------------------------------


def sentences(found: Found) -> list[str]:
    """What a reader should know first: one sentence a family, and what none of them does."""
    made = []
    for name in models(found):
        one, of = found[name], SHIPPED[name].model
        more, less = wins(one), wins(one, NEURONS, FEATURES)
        plain = ("untrained features", "random directions")
        chance = len(wins(one, *plain)), len(wins(one, *plain[::-1]))
        made.append(
            f"**{of}**: the best single feature tells a concept with an AUROC of {mean(one, FEATURES)}, the best "
            f"single neuron with {mean(one, NEURONS)}, the best of as many random directions with "
            f"{mean(one, 'random directions')}, a probe on the whole state with {mean(one, PROBE)} (means over "
            f"{_both(one).sizes['concept']} concepts). In both sets of scenes that feature is ahead of that "
            f"neuron by more than {APART:g} for {len(more)} concepts, behind for {len(less)}; the best untrained "
            f"feature is ahead of the best random direction for {chance[0]}, behind for {chance[1]}."
        )  # fmt: skip
    lost = {SHIPPED[name].model: missed(found[name]) for name in models(found)}
    told = [f"{of}: {len(some)}" for of, some in lost.items()]
    made.append(
        f"**What single features miss**: concepts that a probe on the state reads (AUROC {READ:g} and above) and that "
        f"the best feature does not tell ({LOST:g} and below), in both sets: {', '.join(told)}."
    )
    return made


def mean(one: xarray.Dataset, units: str) -> str:
    """The mean over concepts that both sets have, in each of them."""
    return " / ".join(f"{value:.3f}" for value in _both(one)["auroc"].sel(units=units).mean("concept").values)


def _both(one: xarray.Dataset) -> xarray.Dataset:
    """The concepts that were measured in both sets."""
    return one.isel(concept=np.flatnonzero(one["auroc"].notnull().all(("set", "units")).values))


def wins(one: xarray.Dataset, left: str = FEATURES, right: str = NEURONS) -> list[str]:
    """The concepts for which one kind of unit is ahead of another in both sets, the widest gap first."""
    kept = _both(one)
    gap = (kept["auroc"].sel(units=left) - kept["auroc"].sel(units=right)).min("set")
    order = np.argsort(-gap.values, kind="stable")
    return [str(kept["concept"].values[at]) for at in order if gap.values[at] > APART]


def missed(one: xarray.Dataset) -> list[str]:
    """The concepts that a probe reads and the best feature does not tell, in both sets."""
    kept = _both(one)["auroc"]
    lost = (kept.sel(units=PROBE) >= READ).all("set") & (kept.sel(units=FEATURES) <= LOST).all("set")
    return [str(name) for name in kept["concept"].values[lost.values]]


# --- parts ------------------------------------------------------------------------------------------------------------


def _made(about: About) -> str:
    seconds = sum(about.seconds.values())
    return (
        f"## How it was measured\n\n`cutaway findings {about.model} --about features --out {about.out} --n {about.n}"
        + (f" --seed {about.seed}" if about.seed else "")
        + f"` with cutaway {__version__}; {seconds / 60:.0f} minutes. Each model is looked at over {about.n} scenes of "
        f"the test split, two sets of them. A unit's number in a scene is its largest activation at any patch of the "
        f"picture (of zoo:emoji-sd at step 10 of 20, with noise on the scene's latents). For each concept that at "
        f"least {FEWEST} scenes of each half show, and as many do not, the unit with the highest AUROC on the even "
        "scenes is chosen and judged on the odd ones (*best* below): a unit that was lucky on the first gains nothing "
        "on the second. `random directions` are as many as the features, drawn with the covariance of the states, the "
        "k largest on at a patch; `untrained features` the same with weights as a training begins; `axes of the state` "
        "are its coordinates, each with both signs; the probe is a ridge regression on the mean state of the patches, "
        "which may use every direction."
    )


def _family(found: Found, name: str) -> str:
    one, shipped = found[name], SHIPPED[name]
    floor = found.get(f"{name}_floor")
    kept = _both(one)
    kinds = list(dict.fromkeys(str(concept).split(": ")[0] for concept in kept["concept"].values))
    of = np.array([str(concept).split(": ")[0] for concept in kept["concept"].values])
    rows = []
    for units in (unit for unit in UNITS if unit in one["units"].values):
        values = kept["auroc"].sel(units=units)
        cells = [" / ".join(f"{v:.2f}" for v in values.isel(concept=np.flatnonzero(of == kind)).mean("concept").values)
                 for kind in kinds]  # fmt: skip
        untrained = "" if floor is None or units not in floor["units"].values else mean(floor, units)
        width, on = (float(one[part].sel(units=units).mean()) for part in ("width", "on"))
        rows.append([units, f"{width:.0f}", f"{on:.1f}", *cells, mean(one, units), untrained])
    counts = [f"{kind} ({int((of == kind).sum())})" for kind in kinds]
    table = markdown(["units", "how many", "on at a patch", *counts, "all", "model before training"], rows)
    more, less, lost = wins(one), wins(one, NEURONS, FEATURES), missed(one)
    return (
        f"## {shipped.model}, `{shipped.site}`\n\n{table}\n\n"
        f"- The best feature is ahead of the best neuron in both sets: {_names(more)}.\n- Behind: {_names(less)}.\n"
        f"- Read by the probe, not told by the best feature: {_names(lost)}.\n"
        f"- With the second half shuffled the chosen features have an AUROC of {_shuffled(one)}."
    )


def _names(some: list[str]) -> str:
    more = f", and {len(some) - MOST} more" if len(some) > MOST else ""
    return (listed(["{1} ({0})".format(*one.split(": ")) for one in some[:MOST]]) + more) if some else "none"


def _shuffled(one: xarray.Dataset) -> str:
    values = one["shuffled"].sel(units=FEATURES).mean("concept").values
    return " / ".join(f"{value:.3f}" for value in values)


def _limits() -> str:
    return (
        "## What this can not tell\n\nA unit that tells a concept need not be about it, and need not be used: these "
        "are correlations over the scenes of one world, whose concepts are those that it draws. One dictionary a model "
        "was looked at, of one seed, one width and one site; [measures](../dictionary-measures.md) has several seeds. "
        "Neurons of one layer stand beside features of the state behind it, which all earlier layers wrote. A concept "
        "that several features share, each telling a part of it, counts as missed."
    )


# --- the figure -------------------------------------------------------------------------------------------------------


def draw_all(found: Found, folder: Path, stem: str) -> dict[str, str]:
    """Draw the figure; its path as the page beside the folder writes it."""
    return saved({"units": units(found)}, folder, stem)


def units(found: Found) -> Figure:
    """The mean AUROC of each kind of unit for each model; a dot for each set, a line where chance is."""
    names = models(found)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    ax = figure.subplots()
    for row, (kind, colour) in enumerate(zip(UNITS, COLOURS, strict=True)):
        for at, name in enumerate(names):
            if kind not in found[name]["units"].values:
                continue
            values = _both(found[name])["auroc"].sel(units=kind).mean("concept").values
            place = at + (row - (len(UNITS) - 1) / 2) * 0.13
            ax.bar(place, values.mean() - 0.5, 0.12, bottom=0.5, color=colour, label=kind if at == 0 else None)
            ax.plot([place] * len(values), values, "o", color="black", markersize=3)
    ax.axhline(0.5, color="black", linestyle="--", linewidth=1)
    ax.set_xticks(range(len(names)), [SHIPPED[name].model for name in names])
    ax.set(ylabel="AUROC of the best single unit, on scenes\nthat did not choose it", ylim=(0.48, 1.0))
    figure.legend(loc="outside right center", fontsize=9)
    return figure
