"""The page on circuits: planted ones found again, one question by picture and in words, late states moved early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from cutaway import __version__
from cutaway.report.findings_circuits import EDGES, HOWS, OF, TOPS
from cutaway.report.findings_looks import FORMS
from cutaway.report.findings_page import About
from cutaway.report.findings_plots import saved
from cutaway.report.findings_words import interval, listed, markdown, percent

Found = dict[str, xarray.Dataset]
METHODS = HOWS[:4]
GOOD, MEET, HALF, SHOWN, INSIDE = 0.9, 0.75, 0.5, 100, 50
FELT, SILENT = 0.25, 0.05  # shares of a probability: what is lost where something comes through, and where nothing does
COLOURS = {"picture": "#2563eb", "words": "#d97706", "forms": "#16a34a"}
NAMES = {"picture": "picture, two halves", "words": "words, two halves", "forms": "picture and words"}


def page(found: Found, about: About, figures: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    numbered = "\n".join(f"{i}. {said}" for i, said in enumerate(sentences(found), 1))
    pictures = (
        ("How well each way to score edges tells planted edges from all others", "worlds"),
        ("What the best edges carry alone, asked by picture and in words", "alone"),
        ("Which of the decoder's best edges two orders share, by layer", "shared"),
    )
    shown = "\n\n".join(f"![{said}]({figures[name]})" for said, name in pictures)
    front = (
        f"# Circuits: planted ones found again, and one question asked by picture and in words\n\n{numbered}\n\n*Where "
        f"two numbers stand with a slash between them, the same was measured on two sets of pairs.*\n\n{shown}"
    )
    parts = [
        front,
        _made(about),
        _planted(found),
        _curves(found),
        _overlap(found),
        _flow(found),
        _back(found),
        _limits(),
    ]
    return "\n\n".join(parts) + "\n"


# --- sentences --------------------------------------------------------------------------------------------------------


def sentences(found: Found) -> list[str]:
    """What a reader should know first."""
    return [
        _recovered(found["worlds"]),
        _carried(found["circuits"]),
        _meet(found["circuits"]),
        _way(found["flow"]),
        _moved(found["back"]),
    ]


def _recovered(one: xarray.Dataset) -> str:
    """How well the planted edges are found."""
    worst, before = one["edges"].min("world"), one["edges"].sel(how="untrained").max("world")
    told = (
        f"over {one.sizes['world']} worlds, exact scores tell the planted edges from all others with an AUROC of at "
        f"least {_two(worst.sel(how='exact'))}, those by `eap-ig` with {_two(worst.sel(how='eap-ig'))} (in an order by "
        f"chance {_two(one['edges'].sel(how='random').mean('world'))}, before training up to {_two(before)})"
    )
    sure = bool((worst.sel(how=["exact", "eap-ig"]) > before).all())
    return (
        f"**Planted circuits are found again**: {told}." if sure else f"**Planted circuits are not all found**: {told}."
    )


def _carried(one: xarray.Dataset) -> str:
    """How few edges carry the answer."""
    found = {}
    for form in FORMS:
        mine = one["f"].sel(form=form)
        found[form] = next((k for k in EDGES if bool((mine.sel(k=k) >= GOOD).all())), None)
    told = [
        f"{'in words' if form == 'words' else 'by picture'} "
        f"{f'the {k} best' if k else f'none of the sizes tried (up to {EDGES[-1]})'}"
        for form, k in found.items()
    ]
    rest, (picture, words) = one["f_random"].sel(k=EDGES[-1]), found.values()
    fewer = words is not None and (picture is None or words < picture)
    begins = "Told in words the answer hangs on fewer edges" if fewer else "How many edges an answer hangs on"
    return (
        f"**{begins}**: {told[0]} and {told[1]} keep {percent(GOOD)} % of the difference of the answers on other "
        f"pairs; {EDGES[-1]} edges by chance keep {percent(float(rest.max()))} %."
    )


def _meet(one: xarray.Dataset) -> str:
    """Where the two forms part and meet."""
    ratio = _alike(one)
    layers = [int(layer) for layer in one["layer"].values]
    high = [layer for layer in layers if bool((ratio.sel(layer=layer) >= MEET).all())]
    low = [layer for layer in layers if bool((ratio.sel(layer=layer) < HALF).all())]
    across, same = one["shared"].sel(top=SHOWN, of="forms"), one["shared"].sel(top=SHOWN, of=list(OF[:2])).min("of")
    inside = one.sel(form="picture", k=INSIDE)
    told = (
        f"of the {SHOWN} best edges of the decoder, the two forms share {_hundred(across)} of 100 (two sets of pairs "
        f"of one form at least {_hundred(same)}; chance {_hundred(one['shared'].sel(top=SHOWN, of='chance'))}); by "
        f"picture {INSIDE} of the decoder's edges keep {_hundred(inside['f_own'])} % of the difference in the order of "
        f"pictures, {_hundred(inside['f_other'])} % in that of words"
    )
    if high and low and max(low) < min(high) and high == layers[layers.index(min(high)) :]:
        return (
            f"**Picture and words take ways of their own into the decoder and come together by its layer "
            f"{_name(min(high))}**: {told}. Edges into {_layers(low)} are shared less than half as often as within one "
            f"form, edges into {_layers(high)} at least {percent(MEET)} % as often."
        )
    return f"**Picture and words share a part of their circuit**: {told}."


def _way(one: xarray.Dataset) -> str:
    """Whether the answer comes over the question, form by form."""
    every, windows = one.sel(layer="all"), one.isel(layer=one["layer"].values != "all")
    there = windows["lost"].where(windows["low"] > windows["random"]).max("layer")
    over, direct = ("scene->question", "question->last"), every["lost"].sel(edge="scene->last")
    sure = [
        form for form in FORMS
        if bool((there.sel(form=form, edge=list(over)) > FELT).all()) and bool((direct.sel(form=form) < SILENT).all())
    ]  # fmt: skip
    if not sure:
        return "**That the answer comes over the words of the question can not be said** (see the table)."
    told = "; ".join(
        f"{'by picture' if form == 'picture' else 'in words'} the probability of the answer loses "
        f"{_hundred(direct.sel(form=form))} of 100 when the last position sees nothing of the scene in any layer, "
        f"{_hundred(there.sel(form=form, edge=over[0]))} when the question does not in two layers, and "
        f"{_hundred(there.sel(form=form, edge=over[1]))} when the last position sees nothing of the question in two"
        for form in sure
    )
    rest = "" if len(sure) == len(FORMS) else " Of the other form that can not be told from chance."
    return f"**The answer comes from the scene to the words of the question, and from there to the end**: {told}.{rest}"


def _moved(one: xarray.Dataset) -> str:
    """What late states of the picture, put in front of an earlier layer, do."""
    gain = f"{_points(one['gain'])} of 100 ({', '.join(_intervals(one))})"
    right = f"{'/'.join(percent(float(value)) for value in one['right'].values)} of 100 are right uncut"
    if bool((one["low"] > 0).all()):
        return f"**Late states of the picture help when they come earlier**: gain {gain}; {right}."
    return f"**That late states of the picture help when they come earlier can not be said**: gain {gain}; {right}."


# --- parts ------------------------------------------------------------------------------------------------------------


def _made(about: About) -> str:
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in about.seconds.items())
    return (
        "## How to read this\n\n"
        f"Made by `cutaway findings {about.model} --circuits --out {about.out} --n {about.n}` with cutaway "
        f"{__version__} ({seconds}). An edge leads from what writes into a residual stream (embedding, head, MLP, "
        "connector) to what reads it (queries, keys, values of a head, MLP, connector, end). A cut edge carries what "
        "it carries in the counterfactual. f is the share of the difference of answers between clean and "
        "counterfactual inputs that is left. See [circuits](../circuits.md)."
    )


def _planted(found: Found) -> str:
    one = found["worlds"]
    rows = [
        [str(world), f"{int(mine['planted'].mean())} of {int(mine['possible'].mean())}", how, _two(part["edges"]),
         _two(part["nodes"]), _two(part["alone"]), _whole(part["fewest"])]
        for world in one["world"].values for mine in [one.sel(world=world)]
        for how in HOWS for part in [mine.sel(how=how)]
    ]  # fmt: skip
    header = ["world", "planted edges", "scored by", "AUROC, edges", "AUROC, nodes", "f of as many", "fewest, f ≥ 0.9"]
    return (
        "## Planted circuits\n\nModels whose circuit we trained into them ([planted "
        "circuits](../planted-circuits.md)); scores on 64 pairs, f on 64 others. *f of as many*: of as many of the "
        "best edges as were planted. *Fewest*: the fewest edges tried that keep 0.9. *random*: the mean of two orders "
        "by chance. *untrained*: exact scores of the model before training. A mean over the two towers of the CLIP.\n\n"
        + markdown(header, rows)
    )


def _curves(found: Found) -> str:
    one = found["circuits"]
    names = "f", "f_random", "f_own", "f_other", "f_any"
    rows = [[form, str(k), *(_two(one[name].sel(form=form, k=k)) for name in names)] for form in FORMS for k in EDGES]
    right = listed([f"{form} {_hundred(one['right'].sel(form=form))} of 100" for form in FORMS])
    return (
        "## One question, two forms\n\n"
        f"Questions which of left and right about two things; the counterfactual exchanges the things "
        f"({int(one['scenes'].min())} pairs a set make the order, as many others are measured). Right answers: "
        f"{right}. *f*: the k best edges of the whole graph; *by chance*: k edges of any. Then with all edges outside "
        "the decoder kept and the k best inside it, in the order of the form itself (*own*), of the other form "
        "(*other*), and by chance.\n\n"
        + markdown(["asked by", "k", "f", "by chance", "own", "other", "chance inside"], rows)
    )


def _overlap(found: Found) -> str:
    one = found["circuits"]
    top = [[str(k), *(_hundred(one["shared"].sel(top=k, of=of)) for of in OF)] for k in TOPS]
    layers = [
        [_name(int(layer)), *(_hundred(one["by_layer"].sel(layer=layer, pair=of)) for of in OF[:3])]
        for layer in one["layer"].values
    ]
    return (
        "### What the two forms share\n\nJaccard index of the decoder's k best edges, of 100: between the two sets of "
        "pairs of one form, between the forms (on different sets), and of two sets of edges by chance.\n\n"
        + markdown(["k", "picture", "words", "both forms", "chance"], top)
        + f"\n\nOf the {SHOWN} best, by the layer of the receiver:\n\n"
        + markdown(["layer", "picture", "words", "both forms"], layers)
    )


def _flow(found: Found) -> str:
    one = found["flow"]
    layers = [str(layer) for layer in one["layer"].values]
    rows = [
        [form, str(edge).replace("->", " → "),
         *(f"{_hundred(mine['lost'])} ({_hundred(mine['random'])})" for layer in layers
           for mine in [one.sel(form=form, edge=edge, layer=layer)])]
        for form in FORMS for edge in one["edge"].values
    ]  # fmt: skip
    return (
        "### Which way it comes\n\nBy how many of 100 the probability of the answer falls when the later span no "
        "longer sees the earlier one, in two layers or in all; in brackets, when the same positions lose as many "
        "others by chance (a span that is most of what a position sees leaves chance little else). *scene*: the "
        "picture, or the words that tell it; *question*: what follows. Questions of another kind take another way: "
        "[causal tracing](../causal-tracing.md).\n\n"
        + markdown(["asked by", "edge", *(f"layers {layer}" for layer in layers)], rows)
    )


def _back(found: Found) -> str:
    one = found["back"]
    layers = [int(layer) for layer in one["to"].values]
    rows = [
        [
            f"in front of {to}",
            *("" if after < to else _hundred(one["moved"].sel(to=to, after=after)) for after in layers),
        ]
        for to in layers
    ]
    return (
        "## Late states of the picture, earlier\n\nStates of the picture's positions after a layer, put in front of an "
        f"earlier one of the same run (back-patching); {int(one['questions'].min())} questions what is where, right "
        "where the answer is the likeliest next word, of 100. The gain is at the two layers that are best on the other "
        "half of the questions, with its 95 % interval over questions.\n\n"
        + markdown(["", *(f"after {layer}" for layer in layers)], rows)
        + f"\n\nUncut {_hundred(one['right'])}; gain {_points(one['gain'])} ({', '.join(_intervals(one))})."
    )


def _limits() -> str:
    return (
        "## What this cannot tell\n\nEdges are scored one at a time, so edges that stand in for one another look "
        "unneeded and are cut. The two forms differ in more than the picture (more words, other positions). Planted "
        "worlds are small and trained to hold to their circuit; what finds them need not find circuits that nobody "
        "planted. One model, one training."
    )


# --- words and numbers ------------------------------------------------------------------------------------------------


def _alike(one: xarray.Dataset) -> xarray.DataArray:
    """By layer, how often the forms share an edge, in shares of how often two sets of one form do."""
    table = one["by_layer"]
    same = table.sel(pair=list(OF[:2])).mean("pair")
    return (table.sel(pair="forms") / same.where(same > 0)).fillna(0)


def _two(values: xarray.DataArray) -> str:
    return "/".join(f"{round(float(value), 2) + 0.0:.2f}" for value in np.atleast_1d(values.values))


def _whole(values: xarray.DataArray) -> str:
    return "/".join(f"{float(value):.0f}" for value in np.atleast_1d(values.values))


def _hundred(values: xarray.DataArray) -> str:
    return "/".join(percent(float(value)) for value in np.atleast_1d(values.values))


def _points(values: xarray.DataArray) -> str:
    return "/".join(f"{100 * float(value):+.0f}" for value in np.atleast_1d(values.values))


def _intervals(one: xarray.Dataset) -> list[str]:
    return [interval(float(low), float(high)) for low, high in zip(one["low"].values, one["high"].values, strict=True)]


def _layers(layers: list[int]) -> str:
    numbers, end = [str(one) for one in layers if one < 1_000], ["the end"] if layers[-1] >= 1_000 else []
    return listed([*([f"layer{'s' * (len(numbers) > 1)} {listed(numbers)}"] if numbers else []), *end])


def _name(layer: int) -> str:
    return "end" if layer >= 1_000 else str(layer)


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw_all(found: Found, folder: Path, stem: str) -> dict[str, str]:
    """Draw the figures; their paths as the page beside the folder writes them."""
    made = {"worlds": worlds(found["worlds"]), "alone": alone(found["circuits"]), "shared": shared(found["circuits"])}
    return saved(made, folder, stem)


def worlds(one: xarray.Dataset) -> Figure:
    """AUROC over edges of every way, world by world; a dot for each set."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ax, places, wide = figure.subplots(), np.arange(one.sizes["world"]), 0.8 / len(HOWS)
    for at, how in enumerate(HOWS):
        shift = places + (at - (len(HOWS) - 1) / 2) * wide
        colour = {"random": "#9ca3af", "untrained": "#d1d5db"}.get(how, f"C{at}")
        ax.bar(shift, one["edges"].sel(how=how).mean("set"), wide * 0.92, color=colour, label=how)
        for k in range(one.sizes["set"]):
            ax.plot(shift, one["edges"].sel(how=how).isel(set=k), "o", color="black", markersize=2.5)
    ax.axhline(0.5, color="black", linestyle="--", linewidth=1)
    ax.set_xticks(places, [str(name) for name in one["world"].values])
    ax.set(ylabel="AUROC over edges", ylim=(0, 1.05), title="Which edges were planted?")
    figure.legend(loc="outside right center", fontsize=9)
    return figure


def alone(one: xarray.Dataset) -> Figure:
    """f(k) of each form, beside chance."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    ax = figure.subplots()
    for form in FORMS:
        mine = one.sel(form=form)
        ax.fill_between(EDGES, mine["f_low"].min("set"), mine["f_high"].max("set"), color=COLOURS[form], alpha=0.15)
        ax.plot(EDGES, mine["f"].mean("set"), marker="o", color=COLOURS[form], label=f"asked by {form}")
        ax.plot(EDGES, mine["f_random"].mean("set"), ":", color=COLOURS[form], label=f"edges by chance, {form}")
    ax.axhline(1, color="gray", linewidth=0.8)
    ax.set_xscale("log")
    ax.set(xlabel="edges kept", ylabel="f", title="What the best edges carry alone")
    ax.legend(fontsize=8)
    return figure


def shared(one: xarray.Dataset) -> Figure:
    """The Jaccard index by layer, within a form and between the forms."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    ax, places = figure.subplots(), np.arange(one.sizes["layer"])
    for at, of in enumerate(OF[:3]):
        ax.bar(
            places + (at - 1) * 0.27,
            100 * one["by_layer"].sel(pair=of).mean("set"),
            0.25,
            color=COLOURS[of],
            label=NAMES[of],
        )
    ax.set_xticks(places, [_name(int(layer)) for layer in one["layer"].values])
    ax.set(xlabel="layer of the receiver", ylabel="shared, of 100", title=f"The decoder's {SHOWN} best edges")
    figure.legend(loc="outside right center", fontsize=8)
    return figure
