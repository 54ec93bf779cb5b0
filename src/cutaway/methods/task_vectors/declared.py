"""What steering and task vectors take, need and can not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.methods.method import Entry, Method
from cutaway.methods.task_vectors.drawing_steering import drawing_steering
from cutaway.methods.task_vectors.states import chosen_sites
from cutaway.methods.task_vectors.steering import steering
from cutaway.methods.task_vectors.transfer import task_transfer
from cutaway.methods.task_vectors.views import ENTRY, show, tell
from cutaway.questions.question import Question

LAYERS = 8  # at most so many are steered, evenly


def _apart(question: Question) -> str:
    """Inputs that the model tells apart: else there is no way to go."""
    return question.alike and f"{question.alike}, so there is no way to steer along"


def _other(question: Question) -> str:
    """Another prompt: else there is no way to go."""
    same = question.counterpart is not None and question.counterpart.text == question.text
    return "both prompts are the same, so there is no way to steer along" if same else ""


def _layers(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sites of every so many layers, the last one always, where there are more than `LAYERS`."""
    if given.get("sites"):
        return {}
    sites = chosen_sites(question.model, None)
    step = -(-len(sites) // LAYERS)
    return {} if step == 1 else {"sites": [str(site) for site in sites[(len(sites) - 1) % step :: step]]}


METHODS = (
    Method(
        function=steering,
        row="task vectors",
        takes={"model": "model", "inputs": "inputs", "counterfactual": "counterpart.inputs", "target": "target",
               "others": "others"},
        fitting=_apart,
        chosen=_layers,
        options={"sites": "Sites to steer at; by default after layers of the tower that fits.",
                 "draws": "How many random directions of the same length stand beside it."},
        many=32,
        cannot="That the model itself moves along this direction; late layers are steered all the way by construction, "
        "so read what it costs.",
        reported=(Entry(name=ENTRY),),
        show=show,
        tell=tell,
    ),
    Method(
        function=drawing_steering,
        row="task vectors",
        takes={"model": "model", "inputs": "drawing", "counterfactual": "counterpart.drawing"},
        fitting=_other,
        options={"sites": "Sites to steer at; by default three of the denoiser's blocks.",
                 "draws": "How many random directions of the same length stand beside it."},
        cannot="That a thing has no direction where this one draws none: it is the same at all places.",
    ),
    Method(
        function=task_transfer,
        row="task vectors",
        takes={"model": "model", "tasks": "tasks", "others": "tasks.others"},
        needs=("voice",),
        options={"summed": "How many heads are added up to one vector.",
                 "draws": "How many random directions of the same length stand beside it."},
        cannot="That the model itself passes a task on in this form: that it can be so does not say that it is.",
    ),
)  # fmt: skip
