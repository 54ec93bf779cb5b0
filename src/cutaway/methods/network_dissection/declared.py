"""What network dissection takes, needs and can not tell."""

from __future__ import annotations

from cutaway.methods.method import Entry, Method
from cutaway.methods.network_dissection.network_dissection import network_dissection
from cutaway.methods.network_dissection.views import show
from cutaway.questions.question import Question

ENOUGH = 512  # scenes from which a report dissects unasked: fewer show most concepts too seldom


def _many(question: Question) -> bool:
    return question.crowd is not None and len(question.crowd) >= ENOUGH


METHODS = (
    Method(
        function=network_dissection,
        row="network dissection",
        takes={"model": "model", "scenes": "scenes"},
        needs=("looks",),
        options={
            "site": "Whose units: MLP neurons, a residual stream, features; else MLP units in the middle.",
            "written": "On each so-manieth scene a word is written; 0 for none.",
            "step": "At which of 20 steps a denoiser looks at the pictures; in the middle unless named.",
        },
        many=512,
        cannot="What a unit does, or what else it answers to: its strongest patches alone are looked at.",
        reported=(Entry(name="dissection", when=_many),),
        show=show,
    ),
)
