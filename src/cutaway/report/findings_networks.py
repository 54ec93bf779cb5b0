"""The page on circuits: planted ones found again, one question by picture and in words, late states moved early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from cutaway import __version__
from cutaway.report import findings_worded
from cutaway.report.findings_circuits import EDGES, HOWS, OF, TOPS
from cutaway.report.findings_looks import FORMS
from cutaway.report.findings_page import About
from cutaway.report.findings_plots import saved
from cutaway.report.findings_words import interval, listed, markdown, percent

Found = dict[str, xarray.Dataset]
METHODS = HOWS[:4]
GOOD, SHOWN, INSIDE = 0.9, 100, 50
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
        "# Circuits: planted ones found again, one question asked by picture and in words, a word in a drawing\n\n"
        f"{numbered}\n\n*Where two numbers stand with a slash between them, the same was measured on two sets of "
        f"pairs.*\n\n{shown}"
    )
    parts = [
        front,
        _made(about),
        _planted(found),
        _curves(found),
        _overlap(found),
        _flow(found, about),
        _back(found),
        findings_worded.section(found["word"]),
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
        findings_worded.sentence(found["word"]),
    ]


def _recovered(one: xarray.Dataset) -> str:
    """How well the planted edges are found."""
    worst, before = one["edges"].min("world"), one["edges"].sel(how="untrained")
    kept = one["alone"].min("world")
    told = (
        f"in {one.sizes['world']} worlds the lowest AUROC of planted edges against "
        f"all others is {_floor(worst.sel(how='exact'))} by exact scores and {_floor(worst.sel(how='eap-ig'))} "
        f"by `eap-ig`, {_floor(worst.sel(how='eap'))} by plain `eap` (orders by chance "
        f"{_two(one['edges'].sel(how='random').mean('world'))}, exact scores before training up to "
        f"{_two(before.max('world'))}); as many of the best edges as were planted keep at least "
        f"{_hundred(kept.sel(how='exact'))} % of the difference by exact scores, {_hundred(kept.sel(how='eap-ig'))} % "
        f"by `eap-ig`, {_hundred(kept.sel(how='eap'))} % by `eap`"
    )
    sure = bool((worst.sel(how=["exact", "eap-ig"]) > before.max("world")).all())
    return (
        f"**Planted edges rank above nearly all others**: {told}."
        if sure
        else f"**Planted edges are not all found**: {told}."
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
    rest, inside = one["f_random"].sel(k=EDGES[-1]), one["f_own"].sel(form="picture", k=INSIDE)
    return (
        f"**How many edges in the order of `eap-ig` carry a left-or-right answer**: of the sizes tried, {told[0]} and "
        f"{told[1]} keep {percent(GOOD)} % of the difference of the answers on other pairs of both sets "
        f"(fewer may do); {EDGES[-1]} edges by chance keep {percent(float(rest.max()))} %. The picture's graph has a "
        f"vision tower besides: with all edges outside the decoder kept, {INSIDE} of the decoder's keep "
        f"{_hundred(inside)} %."
    )


def _meet(one: xarray.Dataset) -> str:
    """How much of their circuits the two forms share."""
    across, same = one["shared"].sel(top=SHOWN, of="forms"), one["shared"].sel(top=SHOWN, of=list(OF[:2])).min("of")
    inside, end = one.sel(form="picture", k=INSIDE), one["by_layer"].sel(layer=one["layer"].max())
    told = (
        f"of the {SHOWN} best edges of the decoder both have {_hundred(_both(across))} in common (two sets of pairs of "
        f"one form at least {_hundred(_both(same))}; edges drawn evenly "
        f"{_hundred(_both(one['shared'].sel(top=SHOWN, of='chance')))}), though by picture no edge from the words' "
        f"embedding can score; of those into the end the Jaccard index is {_hundred(end.sel(pair='forms'))} of 100 "
        f"(within a form {_hundred(end.sel(pair='picture'))} and {_hundred(end.sel(pair='words'))}); by picture "
        f"{INSIDE} of them keep {_hundred(inside['f_own'])} % of the difference in the order of pictures, "
        f"{_hundred(inside['f_other'])} % in that of words"
    )  # fmt: skip
    apart = bool((across < same).all()) and bool((inside["f_other"] < inside["f_own"]).all())
    return f"**Picture and words share {'only ' if apart else ''}a part of their circuit**: {told}."


def _both(jaccard: xarray.DataArray) -> xarray.DataArray:
    """The share of one set of edges that another of its size has too, of their Jaccard index."""
    return 2 * jaccard / (1 + jaccard)


def _way(one: xarray.Dataset) -> str:
    """Whether the answer comes over the question, form by form: the last looks at it where it has seen the scene."""
    over, direct = ("scene->question", "question->last"), one["lost"].sel(edge="scene->last", layer="all")
    told = []
    for form in FORMS:
        mine = one.sel(form=form).isel(layer=one["layer"].values != "all")
        beyond = (mine["low"] > mine["random"]).all("set")
        first = mine["lost"].sel(edge=over[0]).where(beyond.sel(edge=over[0])).min("set").fillna(-1)
        if float(first.max()) < FELT or bool((direct.sel(form=form) > SILENT).any()):
            continue
        seen = str(first["layer"].values[int(first.values.argmax())])
        windows = [str(layer) for layer in mine["layer"].values]
        later = {"edge": over[1], "layer": windows[windows.index(seen) :]}
        then = mine["lost"].sel(later).where(beyond.sel(later)).min("set").fillna(-1)
        last = str(then["layer"].values[int(then.values.argmax())])
        if float(then.max()) < FELT:
            continue
        parts = [mine.sel(edge=edge, layer=layer) for edge, layer in zip(over, (seen, last), strict=True)]
        lost = [f"{_hundred(part['lost'])} (as many others by chance {_hundred(part['random'])})" for part in parts]
        told.append(
            f"{'by picture' if form == 'picture' else 'in words'} its probability loses {lost[0]} of 100 when the "
            f"question does not see the scene in layers {seen}, {lost[1]} when the last position does not see the "
            f"question in layers {last}, and {_hundred(direct.sel(form=form))} when the last position never sees the "
            "scene"
        )
    if not told:
        return "**That the answer comes over the words of the question can not be said** (see the table)."
    rest = "" if len(told) == len(FORMS) else " In the other form one of these can not be told from chance."
    return (
        f"**The answer passes through the words of the question**: {'; '.join(told)}: the strongest windows, of those "
        "to the last position among the layers in which the question has seen the scene; a guess between two answers "
        f"loses 50.{rest}"
    )


def _moved(one: xarray.Dataset) -> str:
    """What late states of the picture, put in front of an earlier layer, do."""
    gain = f"{_points(one['gain'])} of 100 ({', '.join(_intervals(one))})"
    right = f"{'/'.join(percent(float(value)) for value in one['right'].values)} of 100 are right uncut"
    if bool((one["low"] > 0).all()):
        return f"**Late states of the picture help when they come earlier**: gain {gain}; {right}."
    return (
        f"**That late states of the picture help when they come earlier can not be said**: gain {gain}; {right}. A "
        f"gain above {percent(float(one['high'].max()))} of 100 is excluded in both sets, at 95 %, for states of the "
        "whole picture."
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _made(about: About) -> str:
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in about.seconds.items())
    return (
        "## How to read this\n\n"
        f"Made by `cutaway findings {about.model} --about circuits --out {about.out} --n {about.n}` with cutaway "
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
        "circuits](../planted-circuits.md)); scores on 64 pairs, f on 64 others; `eap-ig` at 5 points. *Nodes*: a node "
        "scores as its best edge; nodes with many edges score high by chance too, so read them beside *random*. *f of "
        "as many*: of as many of the best edges as were planted; where the AUROC is 1 these are the planted edges. "
        "*Fewest*: the fewest edges tried from which on f stays at 0.9 (all, where none does; tried: each up to twice "
        "as many as planted, then 20, 50, 100, 200). *random*: the mean of two orders by chance. *untrained*: the "
        "order by exact scores of the model before training; its f is of the trained model. A mean over the two towers "
        "of the CLIP. Pairs of `planted-mmdit` have one noise, so edges out of the picture's embedding carry the same "
        "in both: they are left out, the planted one among them.\n\n" + markdown(header, rows)
    )


def _curves(found: Found) -> str:
    one = found["circuits"]
    names = "f", "f_random", "f_own", "f_other", "f_any"
    rows = [[form, str(k), *(_two(one[name].sel(form=form, k=k)) for name in names)] for form in FORMS for k in EDGES]
    right = listed([f"{form} {_hundred(one['right'].sel(form=form))} of 100 pairs" for form in FORMS])
    return (
        "## One question, two forms\n\n"
        "Questions which of left and right about two things; the counterfactual exchanges the things "
        f"({int(one['scenes'].min())} pairs a set make the order, by `eap-ig` at 5 points, as many others are "
        f"measured; scenes whose two descriptions have as many tokens). The answer scores above its opposite: {right}. "
        "*f*: the k best edges of the whole graph; *by chance*: k edges of any, two orders. Then the k best edges "
        "inside the decoder, in the order of the form itself (*own*), of the other form (*other*), and by chance, with "
        "all edges outside it kept. By picture these are all by which the picture comes in; in words there are none, "
        "so the two forms' columns do not compare: the order of pictures cuts every edge by which words come in, since "
        "the question is the same in both its inputs, and *other* in words says nothing.\n\n"
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
        + "\n\nHere *both forms* is one of two pairings of sets, and some rows hold few edges. Edges of the connector "
        "count as outside the decoder, and by picture no edge from the embedding of words can score, so layer 0 says "
        "nothing of both forms, and sets that count the connector as the picture's embedding share somewhat more."
    )


def _flow(found: Found, about: About) -> str:
    one = found["flow"]
    layers = [str(layer) for layer in one["layer"].values]
    rows = [
        [form, str(edge).replace("->", " → "),
         *(f"{_hundred(mine['lost'])} ({_hundred(mine['random'])})" for layer in layers
           for mine in [one.sel(form=form, edge=edge, layer=layer)])]
        for form in FORMS for edge in one["edge"].values
    ]  # fmt: skip
    return (
        f"### Which way it comes\n\nWhat share of itself, of 100, the probability of the answer loses when the later "
        f"span no longer sees the earlier one, in two layers or in all ({max(24, about.n // 10)} questions a set; a "
        "guess between two answers loses 50); in brackets, when the same positions lose as many "
        "others by chance (a span that is most of what a position sees leaves chance little else). *scene*: the "
        "picture, or the words that tell it; *question*: what follows. What the last position reads of the "
        "question in the first layers it reads before any of the scene is there. Questions of another kind take "
        "another way: [causal tracing](../causal-tracing.md).\n\n"
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
        "unneeded and are cut. An order by `eap-ig` is one order; another may need fewer edges. No untrained model was "
        "asked the question of the second part. The two forms differ in more than the picture (more words, other "
        "positions). Planted worlds are small and trained to hold to their circuit; what finds them need not find "
        "circuits that nobody planted. One model, one training."
    )


# --- words and numbers ------------------------------------------------------------------------------------------------


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


def _floor(values: xarray.DataArray) -> str:
    """To three digits, never up: what is not 1 does not read so."""
    return "/".join(f"{np.floor(1000 * float(value)) / 1000:.3f}" for value in np.atleast_1d(values.values))


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
