"""What causal tracing takes, needs and can not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cutaway.errors import MethodError, SiteError
from cutaway.methods.causal_tracing import drawing_views, flow_views
from cutaway.methods.causal_tracing.activation_patching import activation_patching, usual_sites
from cutaway.methods.causal_tracing.attention_knockout import attention_knockout, usual_edges
from cutaway.methods.causal_tracing.causal_tracing import causal_tracing
from cutaway.methods.causal_tracing.drawing_tracing import drawing_tracing
from cutaway.methods.causal_tracing.places import layers_of
from cutaway.methods.causal_tracing.views import show, tell
from cutaway.methods.method import Entry, Method
from cutaway.model.prompts import layered_encoders
from cutaway.model.steps import drawn_steps
from cutaway.questions.question import Question

LAYERED = {"prompt": 16, "word": 6}  # at most so many layers, or groups of layers, of a drawing
HEAVY, FEW = 100_000_000, {"prompt": 6, "word": 3}  # and of a denoiser with so many weights
RUNS = 1200  # at most so many runs for a map of positions; larger models skip layers evenly


def _apart(question: Question) -> str:
    """Inputs that the model tells apart: else there is nothing to bring back."""
    return question.alike and f"{question.alike}, so nothing can be brought back"


def _sites(question: Question, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is patched unless sites are named."""
    if options.get("sites"):
        return {}
    return _of_one_size(question, options) if _drawn(question) else _some_layers(question, options)


def _of_one_size(question: Question, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a denoiser whose maps grow and shrink, the sites of the size that most of them have."""
    axis = options.get("over", "token")
    if question.inputs is None or not axis:
        return {}
    axis = axis if isinstance(axis, str) else axis[0]
    run = question.model.run(question.inputs, record=usual_sites(question.model, (axis,)))
    by_size: dict[int, list[str]] = {}
    for name in run:
        by_size.setdefault(run[name].shape[run.sites[name].axes.index(axis)], []).append(name)
    return {"sites": max(by_size.values(), key=len)} if len(by_size) > 1 else {}


def _some_layers(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sites of every so many layers, where a map of all positions and layers would take more than `RUNS` runs."""
    sites = question.model.sites[usual_sites(question.model)]
    known = None if question.inputs is None else question.inputs.tokens.get(sites[0].tower)
    if "token" not in given.get("over", "token") or known is None:
        return {}
    step = -(-len(sites) * len(known) // RUNS)
    return {} if step == 1 else {"sites": [str(site) for site in sites[(len(sites) - 1) % step :: step]]}


def _drawn(question: Question) -> bool:
    """Whether a denoiser is patched: it has positions and heads of several numbers, so its sites are patched whole."""
    return question.drawing is not None


def _over(axis: str) -> Callable[[Question], bool]:
    """Whether the tower that is patched can be gone over along an axis: a tower without attention has no heads."""

    def has(question: Question) -> bool:
        tower, part = usual_sites(question.model, (axis,)).split(".*.")
        return not _drawn(question) and any(site.tower == tower and site.part == part for site in question.model.sites)

    return has


def _has(name: str) -> Callable[[Question], bool]:
    """Whether the model has a place of that kind."""
    return lambda question: name in {f"{site.tower}.{site.part}" for site in question.model.sites}


def _traceable(question: Question) -> str:
    """A counterpart that the model tells apart; without one a word is swapped, or noise put in."""
    return _apart(question) if question.counterpart is not None else ""


def _whole(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whole sites of a denoiser, whose maps grow and shrink."""
    return {"over": ()} if _drawn(question) and given.get("over") is None else {}


def _adds(question: Question) -> bool:
    """Whether there is a counterpart, and attention and MLPs of which windows can be put back."""
    tower = usual_sites(question.model).partition(".")[0]
    there = all(_has(f"{tower}.{part}")(question) for part in ("attn.out", "mlp.out"))
    return there and question.counterpart is not None and not _drawn(question)


def _attends(question: Question) -> str:
    """Attention, and positions whose edges can be cut."""
    try:
        found = question.inputs is not None and usual_edges(question.model, question.inputs)
    except MethodError as error:
        return error.failed
    return "" if found else "no span of its positions is known by name"


def _other_prompt(question: Question) -> str:
    """Another prompt, and a place to trace it."""
    if question.counterpart is not None and question.counterpart.text == question.text:
        return "both prompts are the same, so nothing can be brought back"
    traced = _has("denoiser.cross.k")(question) or _layered(question)
    return "" if traced else "it has neither cross-attention to words nor sites in all of its text encoders"


def _grouped(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Layers in groups, or every so many, where one after another would take too many drawings.

    What the denoiser reads is taken in groups of layers in a row, so that none is left out; the text encoders are left
    out evenly, since what a layer holds it mostly passes on.
    """
    what = str(given.get("what", "prompt"))
    if what not in LAYERED or given.get("groups") or given.get("wide", 1) != 1:
        return {}
    layers = layers_of(question.model, what)
    most = (FEW if _weights(question) > HEAVY else LAYERED)[what]
    if len(layers) <= most:
        return {}
    if what == "word":
        kept = sorted({layers[round(at)] for at in np.linspace(0, len(layers) - 1, most)})
        return {"groups": {str(layer): [layer] for layer in kept}}
    parts = [[int(one) for one in some] for some in np.array_split(layers, most)]
    return {"groups": {f"{some[0]}-{some[-1]}" if len(some) > 1 else str(some[0]): some for some in parts}}


def _weights(question: Question) -> int:
    """How many weights the denoiser has."""
    return sum(one.numel() for one in question.model.towers["denoiser"].module.parameters())


def _drawings(question: Question, given: Mapping[str, Any]) -> str:
    """How many drawings it takes, and of how many steps."""
    what = str(given.get("what", "prompt"))
    groups = _grouped(question, given).get("groups") or given.get("groups") or layers_of(question.model, what)
    windows = given.get("windows", 3)
    columns = 5 if what == "word" else 1 + (windows if isinstance(windows, int) and windows > 1 else 0)
    count = (len(groups) + 1) * columns + 2
    steps = "" if question.drawing is None else f" of {drawn_steps(question.model.module, question.drawing)} steps"
    return f"about {count} drawings{steps}"


def _layered(question: Question) -> bool:
    """Whether all that say the prompt can be patched in their layers."""
    try:
        return bool(layered_encoders(question.model))
    except SiteError:
        return False


METHODS = (
    Method(
        function=activation_patching,
        row="causal tracing and circuits",
        takes={"model": "model", "clean": "inputs", "counterfactual": "counterpart.inputs", "target": "target"},
        fitting=_apart,
        chosen=_sites,
        options={"over": "Patch by token or by head.", "sites": "Sites to patch; by default what fits --over."},
        spreads=True,
        cannot="A share of recovery is no share of responsibility: places in a row each recover all, places side by "
        "side may each recover nothing.",
        reported=(
            Entry(name="patching_token", options={"over": "token"}, when=_over("token")),
            Entry(name="patching_head", options={"over": "head"}, when=_over("head")),
            Entry(name="patching_part", options={"over": (), "sites": "denoiser.*.out"}, when=_drawn),
        ),
        show=show,
        tell=tell,
    ),
    Method(
        function=causal_tracing,
        row="causal tracing and circuits",
        takes={"model": "model", "clean": "inputs", "target": "target"},
        also={"counterfactual": "counterpart.inputs", "pool": "contexts"},
        fitting=_traceable,
        chosen=_whole,
        options={
            "corruption": "pair: the counterfactual; swap: a word for another; noise: Gaussian noise, a known-bad "
            "baseline.",
            "swap": "Which word becomes which: dog=cat.", "where": "Where noise goes: picture, question, pixels.",
            "what": "What is put back: residual, attention, mlp, head or neuron.",
            "wide": "How many layers in a row at a time.", "at": "At which positions alone: last, class, a word.",
            "mode": "denoise: put clean places into the corrupted run; noise: the other way round.",
        },
        cannot="A place that brings the answer back need not be one that the model needs, nor the best one to edit.",
        reported=(
            Entry(name=flow_views.WINDOWS, options={"what": ("attention", "mlp"), "over": ()}, when=_adds),
        ),
        show=flow_views.show_windows,
        tell=flow_views.tell_windows,
    ),
    Method(
        function=attention_knockout,
        row="causal tracing and circuits",
        takes={"model": "model", "inputs": "inputs", "target": "target"},
        fitting=_attends,
        options={
            "edges": "Edges to cut, such as picture->last,question->last; by default those from picture to answer.",
            "tower": "Whose attention is cut; by default that of the tower the answer comes out of.",
            "wide": "How many layers in a row at a time.", "draws": "How many sets of random edges.",
        },
        spreads=True,
        cannot="What flows, only that something does; what one edge no longer brings another may bring.",
        reported=(Entry(name=flow_views.KNOCKOUT),),
        beside=True,
        show=flow_views.show_knockout,
        tell=flow_views.tell_knockout,
    ),
    Method(
        function=drawing_tracing,
        row="causal tracing and circuits",
        takes={"model": "model", "clean": "drawing", "counterfactual": "counterpart.drawing"},
        fitting=_other_prompt,
        chosen=_grouped,
        cost=_drawings,
        options={
            "what": "Which places: prompt, attention, head or word.", "windows": "How many windows of steps.",
            "wide": "How many layers in a row at a time.",
            "mode": "denoise: put into the counterfactual drawing; noise: into this one.",
        },
        cannot="A place that brings nothing back alone may be one of several that do together; shares do not add up.",
        reported=(
            Entry(name="tracing_prompt", options={"what": "prompt", "windows": 1}, when=_has("denoiser.cross.k")),
            Entry(name="tracing_word", options={"what": "word"}, when=_layered),
        ),
        show=drawing_views.show,
        tell=drawing_views.tell,
    ),
)  # fmt: skip
