"""What the decomposition takes, needs and can not tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.errors import MethodError, SiteError
from cutaway.methods.method import Entry, Method
from cutaway.methods.representation_decomposition import logit_views
from cutaway.methods.representation_decomposition.logit_decomposition import logit_decomposition
from cutaway.methods.representation_decomposition.logit_terms import check_model, check_target
from cutaway.methods.representation_decomposition.representation_decomposition import (
    Decomposition,
    representation_decomposition,
)
from cutaway.methods.representation_decomposition.verdict import lead
from cutaway.methods.representation_decomposition.views import ENTRY, show
from cutaway.questions.question import Question


def by_layer(made: Decomposition, question: Question) -> Any:
    """With texts, the mean effect of the parts of each layer on each of them; without, the lengths of the parts."""
    if question.texts is None:
        return made.summary()
    effect = made.effect(question.texts).mean("item")
    names = [str(name) for name in effect["term"].values]
    layers = np.array([name.split(".")[0] for name in names])
    kinds = np.array(["heads" if ".head." in name else name.split(".")[-1] for name in names])
    grouped = effect.transpose("term", "text").to_pandas().groupby([layers, kinds], sort=False).sum()
    return grouped.rename_axis(["layer", "part"]).reset_index()


def drawn(made: Decomposition, question: Question) -> Axes:
    """With texts, what the parts of each layer add to each of them; without, the result's own drawing."""
    if question.texts is None:
        return made.plot()
    frame = by_layer(made, question).set_index(["layer", "part"])
    ax = Figure(figsize=(6.4, 0.24 * len(frame) + 1.4), dpi=120, layout="constrained").subplots()
    places = np.arange(len(frame))
    height = 0.8 / len(frame.columns)
    for at, text in enumerate(frame.columns):
        ax.barh(places + at * height, frame[text], height, label=str(text))
    ax.set_yticks(
        places + 0.4 - height / 2,
        [part if layer == part else f"{layer} {part}" for layer, part in frame.index],
        fontsize=7,
    )
    ax.invert_yaxis()
    ax.axvline(0, color="gray", linewidth=0.8)
    ax.set(xlabel="cosine, mean over the pictures", title="What each part adds to the similarity")
    ax.legend(fontsize=8)
    return ax


def a_sum(question: Question) -> str:
    """Why the number is no sum over the parts of this model; "" where it is one."""
    try:
        check_model(question.model)
        check_target(question.target)
    except (MethodError, SiteError) as error:
        return error.failed
    return ""


METHODS = (
    Method(
        function=representation_decomposition,
        row="representation decomposition",
        takes={"model": "model", "rows": "pictures"},
        needs=("end",),
        options={"by_token": "Split every head by the token that it reads."},
        cannot="Direct effects only: what an early layer prepares for a later one counts for nothing.",
        table=by_layer,
        plot=drawn,
        reported=(Entry(name=ENTRY, options={"by_token": True}, when=lambda question: question.texts is not None),),
        beside=True,
        show=show,
        lead=lead,
    ),
    Method(
        function=logit_decomposition,
        row="representation decomposition",
        takes={"model": "model", "inputs": "inputs", "target": "target"},
        needs=("voice",),
        fitting=a_sum,
        options={
            "by_token": "Split every head by the token that it reads.",
            "by_neuron": "Split every MLP by its hidden units.",
            "depth": "2: split what a head reads by what wrote it; 3: go on through the connector of a LLaVA.",
        },
        cannot="Direct effects only, with norms, patterns and gates held as they were: what an early layer prepares "
        "for a later one counts for nothing.",
        reported=(Entry(name=logit_views.ENTRY, options={"by_token": True}),),
        beside=True,
        show=logit_views.show,
        tell=logit_views.tell,
        lead=logit_views.lead,
    ),
)
