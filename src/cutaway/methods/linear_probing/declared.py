"""What probes take, need and can not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.methods.linear_probing.drawn_states import TOWER
from cutaway.methods.linear_probing.linear_probing import linear_probing
from cutaway.methods.method import Method
from cutaway.questions.question import Question


def _tower(question: Question, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What draws, where the model draws."""
    return {"tower": TOWER} if "tower" not in given and TOWER in question.model.towers else {}


METHODS = (
    Method(
        function=linear_probing,
        row="linear probing",
        takes={"model": "model", "rows": "rows", "given": "labels"},
        needs=("looks",),
        chosen=_tower,
        options={
            "tower": "Which tower: vision or text; of a model that draws its denoiser.",
            "pool": "What stands for a picture: `pooled`, what its tower is read at; `mean`, the mean of its patches; "
            "of a prompt (--tower text --text …) its `picture`, its `question` or its `last` position.",
            "steps": "At how many steps of a drawing, evenly from the first to the last.",
            "guidance": "Which row of a drawing's guidance: cond, with the prompt, or uncond.",
        },
        many=400,
        cannot="That the model uses what can be read, or that what no linear probe finds is not there.",
    ),
)
