"""What network dissection takes, needs and can not tell."""

from __future__ import annotations

from cutaway.methods.method import Entry, Method
from cutaway.methods.network_dissection.description_scores import description_scores
from cutaway.methods.network_dissection.description_views import shown
from cutaway.methods.network_dissection.network_dissection import network_dissection
from cutaway.methods.network_dissection.unit_maps import enough
from cutaway.methods.network_dissection.views import show

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
        reported=(Entry(name="dissection", when=enough),),
        show=show,
    ),
    Method(
        function=description_scores,
        row="network dissection",
        takes={"model": "model", "scenes": "scenes"},
        needs=("looks",),
        options={
            "site": "Whose units: MLP neurons, a residual stream, features; else MLP units in the middle.",
            "many": "How many units, by chance.",
            "draw": "Pictures drawn to each description; 0: none.",
            "length": "Concepts of a formula at most.",
            "step": "At which of 20 steps a denoiser looks at the pictures; in the middle unless named.",
        },
        many=512,
        cannot="That the concept is what drives the unit; a description that is no concept of these scenes.",
        reported=(Entry(name="descriptions", options={"many": 16, "draw": 8}, when=enough),),
        show=shown,
    ),
)
