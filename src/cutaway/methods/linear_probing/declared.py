"""What probes take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.linear_probing.linear_probing import linear_probing
from cutaway.methods.method import Method

METHODS = (
    Method(
        function=linear_probing,
        row="linear probing",
        takes={"model": "model", "rows": "rows", "given": "labels"},
        needs=("eyes",),
        options={
            "tower": "Which tower: vision or text.",
            "pool": "What stands for a picture: `pooled`, what its tower is read at; `mean`, the mean of its patches; "
            "of a prompt (--tower text --text …) its `picture`, its `question` or its `last` position.",
        },
        many=400,
        cannot="That the model uses what can be read, or that what no linear probe finds is not there.",
    ),
)
