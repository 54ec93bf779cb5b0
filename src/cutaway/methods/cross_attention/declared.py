"""What maps of attention to words take, need and can not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.data import Has
from cutaway.data.prompts import claims_of
from cutaway.errors import MethodError
from cutaway.methods.cross_attention import again_views, concept_views, excite_views, head_views, views
from cutaway.methods.cross_attention.attend_and_excite import attend_and_excite
from cutaway.methods.cross_attention.concept_attention import concept_attention, two_streams
from cutaway.methods.cross_attention.cross_attention import cross_attention
from cutaway.methods.cross_attention.drawn_again import prompt_to_prompt_drawings
from cutaway.methods.cross_attention.head_relevance import head_relevance
from cutaway.methods.cross_attention.maps import looking
from cutaway.methods.cross_attention.rollout import attention_rollout
from cutaway.methods.cross_attention.spoken import words
from cutaway.methods.method import Entry, Method
from cutaway.questions.question import Question

ONE = "its prompt has fewer than two words to tell apart"
SMALL = frozenset("a an the and or of in on at to by with from for is are next beside above below left right".split())


def told(question: Question) -> list[str]:
    """The words of the prompt as the model's own tokens have them; pieces that its tokenizer does not know are none."""
    drawing = question.drawing
    if drawing is None or "text" not in drawing.tokens:
        return []
    return [word.text.lower() for word in words(drawing.tokens["text"], 0)]


def things(question: Question) -> list[str]:
    """The things that a prompt is known to ask for, by their names, where the model reads these."""
    names = [claim.noun.concept for claim in claims_of(question.text) if isinstance(claim, Has)]
    said = f" {' '.join(told(question))} "
    return [name for name in names if f" {name} " in said]


def spoken(question: Question) -> list[str]:
    """The words of a prompt that are no small ones."""
    return list(dict.fromkeys(word for word in told(question) if word.isalpha() and word not in SMALL))


def subjects(question: Question, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Which words are to be looked for unless they are named: the things, or else all that are no small words."""
    return {} if options.get("words") else {"words": things(question) or spoken(question)}


def told_apart(question: Question, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What heads are asked for unless it is named: the words of the prompt, each a concept."""
    return {} if options.get("concepts") else {"concepts": spoken(question)}


def attended(question: Question) -> str:
    """Why there are no words to be looked for; "" where there are."""
    return "" if spoken(question) else "its prompt has no word that could be looked for"


def two_words(question: Question) -> str:
    """Why heads cannot be asked what they look for; "" where there are two words to tell apart."""
    if question.drawing is not None and all(site.part != "cross.pattern" for site in looking(question.model)):
        return beside_the_text(question) or ("" if len(spoken(question)) > 1 else ONE)
    return "" if len(spoken(question)) > 1 else ONE


def beside_the_text(question: Question) -> str:
    """Why no words can be put beside those of this denoiser; "" where they can."""
    try:
        two_streams(question.model)
    except MethodError as error:
        return error.failed
    return ""


def _another(question: Question) -> str:
    """Why there is nothing else to draw; "" where there is another prompt."""
    other = question.counterpart
    same = other is not None and other.text == question.text
    return "both prompts are the same, so there is nothing else to draw" if same else attended(question)


METHODS = (
    Method(
        function=cross_attention,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing"},
        options={"guidance": "Which row of the guidance: cond, with the prompt, or uncond, with the negative one."},
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
        function=attention_rollout,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing"},
        fitting=beside_the_text,
        example="zoo:emoji-mmdit",
        options={"guidance": "Which row of the guidance: cond, with the prompt, or uncond, with the negative one."},
        cannot="What flows: values, norms, gates and MLPs do not count, and half of every state is taken to stay.",
    ),
    Method(
        function=prompt_to_prompt_drawings,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing", "other": "counterpart.drawing"},
        fitting=_another,
        options={"own": "At which share of the steps the self-attention is put in as well."},
        cannot="That layout lies in these patterns alone: the same noise lays out much of it.",
        reported=(Entry(name=again_views.ENTRY, options={"shares": again_views.SHARES}),),
        show=again_views.show,
        tell=again_views.tell,
    ),
    Method(
        function=attend_and_excite,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing"},
        chosen=subjects,
        fitting=attended,
        options={
            "words": "The words to be looked for, with commas between; else the things of the prompt.",
            "eta": "How far the latents are moved along the gradient.",
        },
        cannot="That a word which is looked for is drawn: any move of that length changes the picture too.",
        reported=(
            Entry(
                name=excite_views.ENTRY, options={"steps": (0, 2, 4, 6), "eta": 100.0},
                when=lambda question: len(things(question)) > 1,
            ),
        ),
        show=excite_views.show,
        tell=excite_views.tell,
    ),
    Method(
        function=head_relevance,
        row="cross-attention",
        takes={"model": "model", "inputs": "drawing"},
        chosen=told_apart,
        fitting=two_words,
        options={
            "concepts": "Words with commas between, each a concept; else those of the prompt.",
            "guidance": "Which row of the guidance: cond, with the prompt, or uncond, with the negative one.",
        },
        cannot="That a head draws what it looks for: weaken it to see.",
        reported=(Entry(name=head_views.ENTRY),),
        show=head_views.show,
        tell=head_views.tell,
    ),
)  # fmt: skip
