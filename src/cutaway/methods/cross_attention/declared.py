"""What maps of attention to words take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.cross_attention import views
from cutaway.methods.cross_attention.cross_attention import cross_attention
from cutaway.methods.method import Entry, Method

METHODS = (
    Method(
        function=cross_attention,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing"},
        options={"guidance": "Which row of the guidance: cond, with the prompt, or uncond."},
        cannot="Whether the word is what makes the thing appear there: cut the attention to see that.",
        reported=(
            Entry(name=views.ENTRY),
            Entry(name=views.BY_HEAD, options={"apart": ("layer", "head")}),
        ),
        beside=True,
        show=views.show,
        tell=views.tell,
        lead=views.lead,
    ),
)
