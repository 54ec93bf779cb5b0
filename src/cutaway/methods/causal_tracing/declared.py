"""What causal tracing takes, needs and can not tell."""

from __future__ import annotations

from cutaway.methods.causal_tracing.activation_patching import activation_patching
from cutaway.methods.method import Method
from cutaway.questions.question import Question

LEAST = 0.02  # of the target's unit: inputs closer than this are not told apart


def _apart(question: Question) -> str:
    """Inputs that the model tells apart: else there is nothing to bring back."""
    sides = [question, question.counterpart]
    values = [float(side.target(side.model.run(side.inputs))[0]) for side in sides]  # type: ignore[union-attr, misc]
    if abs(values[0] - values[1]) >= LEAST:
        return ""
    gap = abs(values[0] - values[1])
    return f"the model gives both nearly the same number ({gap:.3f} between them), so nothing can be brought back"


METHODS = (
    Method(
        function=activation_patching,
        row="causal tracing and circuits",
        takes={"model": "model", "clean": "inputs", "counterfactual": "counterpart.inputs", "target": "target"},
        fitting=_apart,
        options={"over": "Patch by token or by head.", "sites": "Sites to patch; by default what fits --over."},
        cannot="A share of recovery is no share of responsibility: places in a row each recover all, places side by "
        "side may each recover nothing.",
    ),
)
