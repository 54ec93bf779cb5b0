"""What relevance takes, needs and can not tell."""

from __future__ import annotations

from cutaway.methods.method import Entry, Method
from cutaway.methods.relevance import views
from cutaway.methods.relevance.relevance import WAYS, relevance
from cutaway.methods.relevance.tokens import token_relevance

METHODS = (
    Method(
        function=relevance,
        row="feature visualisation",
        takes={"model": "model", "inputs": "inputs"},
        also={"target": "number"},
        needs=("target",),
        options={
            "method": f"How: {', '.join(WAYS)}.",
            "site": "Where grad_cam looks, a site with rows and columns.",
            "points": "Points on the way of integrated_gradients.",
            "parts": "Squares of patches a side of the picture, for shapley.",
            "orders": "Orders that shapley draws; 0: all companies.",
        },
        cannot="What the model would do without a part, but for occlusion and shapley; methods contradict one another.",
        reported=(
            Entry(name="relevance"),
            Entry(name="relevance_by_attention", options={"method": "chefer"}),
            Entry(name="relevance_by_slope", options={"method": "gradient_input"}),
            Entry(
                name="relevance_by_removal", options={"method": "occlusion"},
                when=lambda question: question.kind != "draw",
            ),
        ),
        show=views.show,
    ),
    Method(
        function=token_relevance,
        row="feature visualisation",
        takes={"model": "model", "inputs": "inputs"},
        needs=("voice",),
        options={
            "method": "How: as for relevance, or tam.",
            "length": "How many tokens are written at most.",
        },
        cannot="What else the model would have written; a token that follows from the grammar has few patches.",
        example="zoo:emoji-llava",
    ),
)  # fmt: skip
