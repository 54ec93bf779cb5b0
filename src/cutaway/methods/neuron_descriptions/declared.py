"""What descriptions of units take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.method import Entry, Method
from cutaway.methods.network_dissection.unit_maps import enough
from cutaway.methods.neuron_descriptions.neuron_descriptions import neuron_descriptions
from cutaway.methods.neuron_descriptions.unit_profiles import unit_profiles
from cutaway.methods.neuron_descriptions.unit_views import shown
from cutaway.methods.neuron_descriptions.views import show

METHODS = (
    Method(
        function=neuron_descriptions,
        row="neuron descriptions",
        takes={"model": "model", "scenes": "scenes"},
        also={"inputs": "inputs", "target": "target", "bank": "bank", "texts": "contexts"},
        needs=("looks",),
        options={
            "site": "Whose units: MLP neurons, a residual stream, features; else MLP units in the middle.",
            "many": "How many units, those that move the number most.",
            "step": "At which of 20 steps a denoiser looks at the pictures; in the middle unless named.",
        },
        cannot="That a unit is about what its strongest pictures share, or what it does together with others.",
        reported=(Entry(name="neurons", when=enough),),
        show=show,
    ),
    Method(
        function=unit_profiles,
        row="neuron descriptions",
        takes={"model": "model", "scenes": "scenes"},
        also={"bank": "bank"},
        needs=("looks",),
        options={
            "site": "Whose units: features, MLP neurons, a residual stream; else of the first dictionary.",
            "top": "Pictures of each unit.",
            "steer": "So many units are set to see what that does; 0: none.",
            "step": "At which of 20 steps a denoiser looks at the pictures; in the middle unless named.",
        },
        cannot="What a unit is for: what it is large in and what it writes are two things, and neither is what the "
        "model does with it.",
        reported=(Entry(name="profiles", when=lambda _: False),),
        show=shown,
    ),
)  # fmt: skip
