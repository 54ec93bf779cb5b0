"""What training-data attribution takes, needs and can not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.methods.data_attribution.data_attribution import data_attribution
from cutaway.methods.data_attribution.views import show, tell
from cutaway.methods.method import Entry, Method
from cutaway.model.targets import distance
from cutaway.questions.question import Question


def _chosen(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a drawing without a picture there is no error: the size of what the denoiser gives stands for it."""
    blind = isinstance(question.target, distance) and "measure" not in given
    return {"measure": "square"} if blind else {}


def _cost(question: Question, given: Mapping[str, Any]) -> str:
    """A forward and a backward pass for each training item."""
    items = question.training
    return "" if items is None else f"{len(items) * items.draws} forward and backward passes of one item"


METHODS = (
    Method(
        function=data_attribution,
        row="training-data attribution",
        takes={"model": "model", "train": "training", "queries": "inputs", "target": "target"},
        chosen=_chosen,
        cost=_cost,
        options={
            "method": "dot, cosine, trak, logra, ekfac, datainf, or representation (no gradients).",
            "weights": "Whose gradients: a tower, a site or pattern, a head (vision.2.attn[3]); all unless named.",
            "kind": "How gradients are made small: factored, dense, adapter, eigen, whole; by method unless named.",
            "size": "To so many numbers a side of each piece of weights; dense: so many in all.",
            "seeds": "How many projections are averaged.",
            "damping": "Share of the mean eigenvalue that is added to the curvature.",
            "measure": "Of a denoiser: loss, or square or absolute size of what it gives (D-TRAK).",
            "even": "Every noise level of a denoiser counts the same (ReTrac).",
            "batch": "Items at once.",
            "folder": "Where gradients are kept, to be taken up.",
        },
        cannot="What a training without the items would give, or what items do that were not looked at.",
        reported=(Entry(name="data_attribution", when=lambda question: question.learnt is not None),),
        show=show,
        tell=tell,
        spreads=True,
    ),
)
