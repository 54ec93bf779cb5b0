"""What maps of attention to words take, need and can not tell."""

from __future__ import annotations

from cutaway.errors import MethodError
from cutaway.methods.cross_attention import concept_views, views
from cutaway.methods.cross_attention.concept_attention import concept_attention, two_streams
from cutaway.methods.cross_attention.cross_attention import cross_attention
from cutaway.methods.cross_attention.drawn_again import prompt_to_prompt_drawings
from cutaway.methods.method import Entry, Method
from cutaway.questions.question import Question


def beside_the_text(question: Question) -> str:
    """Why no words can be put beside those of this denoiser; "" where they can."""
    try:
        two_streams(question.model)
    except MethodError as error:
        return error.failed
    return ""


def _words_alone(question: Question) -> str:
    """Attention that is to words alone, and another prompt."""
    other = question.counterpart
    if other is not None and other.text == question.text:
        return "both prompts are the same, so there is nothing else to draw"
    crossed = any(site.part == "cross.pattern" for site in question.model.sites)
    return "" if crossed else "it has no cross-attention: its words and patches look at one another in one pattern"


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
    Method(
        function=concept_attention,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing"},
        fitting=beside_the_text,
        example="zoo:emoji-mmdit",
        options={
            "concepts": "What is looked for, with commas between; the words of the prompt unless given.",
            "steps": "How many steps are looked at, at even distances; 0: all.",
        },
        cannot="Whether a concept is in the picture at all: shares sum to 1 wherever none of those asked for is.",
        reported=(Entry(name=concept_views.ENTRY, options={"steps": 5}),),
        beside=True,
        show=concept_views.show,
        tell=concept_views.tell,
    ),
    Method(
        function=prompt_to_prompt_drawings,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing", "other": "counterpart.drawing"},
        fitting=_words_alone,
        options={"own": "At which share of the steps the self-attention is put in as well."},
        cannot="That layout lies in these patterns alone: the same noise lays out much of it.",
    ),
)
