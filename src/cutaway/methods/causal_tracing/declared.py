"""What causal tracing takes, needs and can not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.methods.causal_tracing.activation_patching import activation_patching, usual_sites
from cutaway.methods.causal_tracing.views import show, tell
from cutaway.methods.method import Entry, Method
from cutaway.questions.question import Question

LEAST = 0.02  # of the target's unit: inputs closer than this are not told apart
RUNS = 1200  # at most so many runs for a map of positions; larger models skip layers evenly


def _apart(question: Question) -> str:
    """Inputs that the model tells apart: else there is nothing to bring back."""
    sides = [question, question.counterpart]
    other = question.counterpart
    gap = 0.0 if other is None else abs(question.value - other.value)
    if gap >= LEAST:
        return ""
    return f"the model gives both nearly the same number ({gap:.3f} between them), so nothing can be brought back"


def _some_layers(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sites of every so many layers, where a map of all positions and layers would take more than `RUNS` runs."""
    pattern = usual_sites(question.model)
    tower, *part = pattern.split(".*.")
    known = None if question.inputs is None else question.inputs.tokens.get(tower)
    if given.get("sites") or "token" not in given.get("over", "token") or known is None:
        return {}
    layers = question.model.sites.towers()[tower]
    step = -(-layers * len(known) // RUNS)
    chosen = [f"{tower}.{layer}.{part[0]}" for layer in range((layers - 1) % step, layers, step)]
    return {} if step == 1 else {"sites": chosen}


METHODS = (
    Method(
        function=activation_patching,
        row="causal tracing and circuits",
        takes={"model": "model", "clean": "inputs", "counterfactual": "counterpart.inputs", "target": "target"},
        fitting=_apart,
        chosen=_some_layers,
        options={"over": "Patch by token or by head.", "sites": "Sites to patch; by default what fits --over."},
        cannot="A share of recovery is no share of responsibility: places in a row each recover all, places side by "
        "side may each recover nothing.",
        reported=(
            Entry(name="patching_token", options={"over": "token"}),
            Entry(name="patching_head", options={"over": "head"}),
        ),
        show=show,
        tell=tell,
    ),
)
