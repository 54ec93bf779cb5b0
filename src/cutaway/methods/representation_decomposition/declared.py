"""What the decomposition takes, needs and can not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.errors import MethodError, SiteError
from cutaway.methods.method import Entry, Method
from cutaway.methods.representation_decomposition import logit_views, velocity_views
from cutaway.methods.representation_decomposition.embedding_terms import ITSELF
from cutaway.methods.representation_decomposition.logit_decomposition import logit_decomposition
from cutaway.methods.representation_decomposition.logit_terms import check_model, check_target
from cutaway.methods.representation_decomposition.representation_decomposition import representation_decomposition
from cutaway.methods.representation_decomposition.velocity_decomposition import velocity_decomposition
from cutaway.methods.representation_decomposition.verdict import lead
from cutaway.methods.representation_decomposition.views import ENTRY, show
from cutaway.model.denoiser_end import denoiser_end
from cutaway.model.writes import picture_writes
from cutaway.questions.question import Question


def a_sum(question: Question) -> str:
    """Why the number is no sum over the parts of this model; "" where it is one."""
    try:
        check_model(question.model)
        check_target(question.target)
    except (MethodError, SiteError) as error:
        return error.failed
    return ""


def _of_itself(question: Question, _: Mapping[str, Any]) -> dict[str, str]:
    """Without texts, shares are what there is to say, and no vector of a head is needed for them."""
    return {"towards": ITSELF} if question.texts is None else {}


def a_velocity(question: Question) -> str:
    """Why what is predicted is no sum over the parts of this denoiser; "" where it is one."""
    try:
        denoiser_end(question.model)
        picture_writes(question.model)
    except SiteError as error:
        return error.failed
    return ""


METHODS = (
    Method(
        function=representation_decomposition,
        row="representation decomposition",
        takes={"model": "model", "rows": "pictures"},
        also={"towards": "texts"},
        needs=("end",),
        chosen=_of_itself,
        options={"by_token": "Split every head by the token that it reads."},
        cannot="Direct effects only: what an early layer prepares for a later one counts for nothing.",
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
    Method(
        function=velocity_decomposition,
        row="representation decomposition",
        takes={"model": "model", "inputs": "drawing"},
        fitting=a_velocity,
        example="zoo:emoji-mmdit",
        options={"steps": "How many steps are taken, at even distances; 0: all."},
        cannot="Direct effects only, with norms, gates and patterns held: what prepares a later layer counts for "
        "nothing.",
        reported=(Entry(name=velocity_views.ENTRY, options={"steps": 5}),),
        beside=True,
        show=velocity_views.show,
        tell=velocity_views.tell,
    ),
)
