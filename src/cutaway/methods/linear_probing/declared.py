"""What probes take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.linear_probing.linear_probing import linear_probing
from cutaway.methods.method import Method

METHODS = (
    Method(
        function=linear_probing,
        row="linear probing",
        takes={"model": "model", "rows": "crowd", "given": "labels"},
        options={"pool": "What stands for a picture: `pooled`, its class token; `mean`, that of its patches."},
        many=400,
        cannot="That the model uses what can be read, or that what no linear probe finds is not there.",
    ),
)
