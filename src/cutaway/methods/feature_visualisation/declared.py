"""What pictures that are made for a unit or a number take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.feature_visualisation import caption_views, led_views
from cutaway.methods.feature_visualisation.caption_sources import caption_sources
from cutaway.methods.feature_visualisation.drawing_visualisation import drawing_visualisation
from cutaway.methods.feature_visualisation.feature_visualisation import feature_visualisation
from cutaway.methods.feature_visualisation.views import show
from cutaway.methods.method import Entry, Method
from cutaway.questions.question import Question

SHORT = 16  # tokens of what a model says, on a page about something else


def _read_off_a_picture(question: Question) -> bool:
    """Whether one picture lies among the positions of the tower that is asked."""
    tokens = None if question.inputs is None else question.inputs.tokens.get(question.voice or "")
    return question.kind == "ask" and tokens is not None and len(tokens.image) == 1 and bool((tokens.image >= 0).any())


def _comparable(question: Question) -> bool:
    """Made pictures say little without those of the model before training, and of a large model they take long."""
    return question.floor is not None


METHODS = (
    Method(
        function=feature_visualisation,
        row="feature visualisation",
        takes={"model": "model", "inputs": "inputs"},
        also={"target": "target", "pictures": "crowd", "floor": "floor.model"},
        needs=("inputs.whole",),
        options={
            "site": "Whose units become large: neurons, heads (attn.z), a residual stream, features; else the number.",
            "units": "Their numbers; else those that move the number most.",
            "many": "So many units; without a site of the MLP in the middle.",
            "at": "Where: patches, peak, class, last or all.",
            "by": "How pictures are made: pixel, fourier, or maco (phases under the spectrum of the data set).",
            "steps": "Steps of the ascent.",
        },
        cannot="That anything like the picture is what makes the number large in real ones.",
        reported=(
            Entry(name="vision", options={"steps": 32}, when=_comparable),
            Entry(name="unit_visions", options={"many": 4, "steps": 32}, when=_comparable),
        ),
        show=show,
    ),
    Method(
        function=caption_sources,
        row="feature visualisation",
        takes={"model": "model", "inputs": "inputs"},
        needs=("inputs.whole", "voice"),
        options={
            "length": "Tokens of the caption at most.",
            "features": "So many features of the first dictionary for each token; 0: none.",
        },
        cannot="What would be written if a head or a patch were gone.",
        reported=(Entry(name="caption", options={"length": SHORT, "features": 0}, when=_read_off_a_picture),),
        show=caption_views.show,
    ),
    Method(
        function=drawing_visualisation,
        row="feature visualisation",
        takes={"model": "model", "inputs": "drawing"},
        options={
            "site": "Whose units become large; else MLP units in the middle.",
            "units": "Their numbers; else those whose largest activation stands out most.",
            "many": "How many of these.",
            "step": "At which step the unit is read; latents are moved before it. In the middle unless named.",
            "strength": "How far latents are moved at a step, as a share of their length.",
        },
        cannot="That the unit is about what is drawn: a move of that length changes a drawing by itself.",
        reported=(Entry(name="led", options={"many": 1}),),
        show=led_views.show,
    ),
)  # fmt: skip
