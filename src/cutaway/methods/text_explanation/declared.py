"""What text explanations take, need and can not tell."""

from __future__ import annotations

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.maps import looking
from cutaway.methods.method import Entry, Method
from cutaway.methods.text_explanation.concept_dictionary import concept_dictionary
from cutaway.methods.text_explanation.drawing_heads import drawing_heads
from cutaway.methods.text_explanation.splice import picture_texts
from cutaway.methods.text_explanation.text_span import head_texts
from cutaway.methods.text_explanation.views import concepts, sparse
from cutaway.questions.question import Question

ROW = "text explanations of embeddings"

FEW = 64  # rows of a report below which concepts are not looked for


def _many(question: Question) -> bool:
    return question.crowd is not None and len(question.crowd) >= FEW


def _read(question: Question) -> str:
    """Why nothing reads the states in words, if so."""
    if question.model.family.kind == "diffusion":
        return (
            "it needs an end that is read in words, and a denoiser ends in a picture: `drawing_heads` names its heads"
        )
    if question.kind == "many" and question.model.family.image_tokens:
        return "it needs something that is asked of each picture: --image FILE and --text TEXT"
    return ""


def _drawn(question: Question) -> str:
    """Why no head attends to the words of a prompt; "" where some do."""
    try:
        looking(question.model)
    except MethodError:
        return "it needs a denoiser whose patches attend to words: `head_texts` names the heads of a picture tower"
    return ""


METHODS = (
    Method(
        function=head_texts,
        row=ROW,
        takes={"model": "model", "pictures": "crowd", "bank": "bank"},
        needs=("space",),
        options={"picks": "How many texts name a head."},
        cannot="Texts along which a head varies on these pictures: not what it does, and no word that the bank lacks.",
        reported=(Entry(name="head_texts", options={"picks": 3}),),
    ),
    Method(
        function=picture_texts,
        row=ROW,
        takes={"model": "model", "pictures": "pictures", "bank": "bank", "crowd": "crowd"},
        needs=("space",),
        options={"penalty": "Larger: fewer texts."},
        cannot="A description, not an effect on the output; of near-synonyms one is picked.",
        reported=(Entry(name="splice"),),
        show=sparse,
    ),
    Method(
        function=concept_dictionary,
        row=ROW,
        takes={"model": "model", "rows": "rows"},
        also={"scenes": "scenes", "bank": "bank"},
        needs=("looks",),
        never=("diffusion",),
        fitting=_read,
        options={
            "site": "Which residual stream; else two thirds up the tower that writes, or that looks.",
            "concepts": "How many concepts; 0: 16, of few rows a quarter as many.",
            "penalty": "Larger: fewer concepts in each state.",
        },
        example="zoo:emoji-llava",
        cannot="That the model uses a concept; one that no word names; other seeds give others.",
        reported=(Entry(name="concepts", when=lambda question: question.kind == "ask" and _many(question)),),
        show=concepts,
    ),
    Method(
        function=drawing_heads,
        row=ROW,
        takes={"model": "model", "scenes": "scenes"},
        needs=("looks",),
        never=("contrastive", "generative"),
        fitting=_drawn,
        options={
            "picks": "How many words name a head.",
            "step": "At which of 20 steps the pictures are looked at; in the middle unless named.",
        },
        example="zoo:emoji-sd",
        cannot="That the picture needs the head, or what it writes there; where a head looks is no word of its own.",
    ),
)
