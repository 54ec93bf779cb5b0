"""What causal tracing takes, needs and can not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.methods.causal_tracing.activation_patching import activation_patching, usual_sites
from cutaway.methods.method import Method
from cutaway.questions.question import Question

LEAST = 0.02  # cosine: inputs closer than this are not told apart
SHARE = 1e-3  # of the number itself, for targets of any other unit


def _apart(question: Question) -> str:
    """Inputs that the model tells apart: else there is nothing to bring back."""
    if question.counterpart is None:
        return ""
    values = [side.number() for side in (question, question.counterpart)]
    cosine = question.target is not None and question.target.unit == "cosine"
    if abs(values[0] - values[1]) >= (LEAST if cosine else SHARE * max(map(abs, values))):
        return ""
    gap = abs(values[0] - values[1])
    return f"the model gives both nearly the same number ({gap:.3f} between them), so nothing can be brought back"


def _of_one_size(question: Question, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a denoiser whose maps grow and shrink, the sites of the size that most of them have."""
    if question.inputs is None or question.kind != "draw" or options.get("sites"):
        return {}
    axis = options.get("over", "token")
    run = question.model.run(question.inputs, record=usual_sites(question.model, (axis,)))
    by_size: dict[int, list[str]] = {}
    for name in run:
        by_size.setdefault(run[name].shape[run.sites[name].axes.index(axis)], []).append(name)
    return {"sites": max(by_size.values(), key=len)} if len(by_size) > 1 else {}


METHODS = (
    Method(
        function=activation_patching,
        row="causal tracing and circuits",
        takes={"model": "model", "clean": "inputs", "counterfactual": "counterpart.inputs", "target": "target"},
        fitting=_apart,
        chosen=_of_one_size,
        options={"over": "Patch by token or by head.", "sites": "Sites to patch; by default what fits --over."},
        cannot="A share of recovery is no share of responsibility: places in a row each recover all, places side by "
        "side may each recover nothing.",
    ),
)
