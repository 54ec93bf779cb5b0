"""What descriptions of units take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.method import Entry, Method
from cutaway.methods.network_dissection.unit_maps import enough
from cutaway.methods.neuron_descriptions.multimodal import multimodal_units
from cutaway.methods.neuron_descriptions.neuron_descriptions import neuron_descriptions
from cutaway.methods.neuron_descriptions.second_order import second_order
from cutaway.methods.neuron_descriptions.unit_profiles import unit_profiles
from cutaway.methods.neuron_descriptions.unit_views import shown
from cutaway.methods.neuron_descriptions.views import show
from cutaway.model.weights import readout
from cutaway.questions.question import Question


def _through_attention(question: Question) -> str:
    """Why the paths of a neuron through later attention are not known; "" where they are."""
    if question.space is None or readout(question.model, "vision").at == "cls":
        return ""
    return "it needs a picture tower that is read at its class token, as that of a CLIP"


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
    Method(
        function=second_order,
        row="neuron descriptions",
        takes={"model": "model", "pictures": "crowd", "bank": "bank"},
        needs=("space",),
        fitting=_through_attention,
        options={
            "site": "Whose neurons: vision.4.mlp.post, say; else those in the middle.",
            "exact": "So many neurons with the largest effects are taken away besides, each by a run.",
        },
        many=32,
        cannot="What a neuron does through later MLPs, which of early layers is most of it.",
    ),
    Method(
        function=multimodal_units,
        row="neuron descriptions",
        takes={"model": "model"},
        needs=("looks",),
        options={
            "names": "Concepts with commas between; else 16 that every artist draws.",
            "site": "Whose units: MLP neurons, a residual stream, features; else MLP units in the middle.",
            "each": "Inputs of each form and concept.",
            "shuffles": "How often what is shown is shuffled, for the null.",
        },
        cannot="That a unit is about the concept and not about what these concepts differ in.",
    ),
)  # fmt: skip
