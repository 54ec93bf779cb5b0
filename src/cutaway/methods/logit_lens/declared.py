"""What lenses take, need and can not tell."""

from __future__ import annotations

from typing import Any

from cutaway.errors import MethodError, SiteError
from cutaway.methods.logit_lens import denoiser_views, drawn_views, word_views
from cutaway.methods.logit_lens.attention_lens import attention_lens, check_heads
from cutaway.methods.logit_lens.denoiser_lens import denoiser_lens
from cutaway.methods.logit_lens.diffusion_lens import diffusion_lens
from cutaway.methods.logit_lens.latent_lens import embedding_lens, latent_lens
from cutaway.methods.logit_lens.logit_lens import Lens, logit_lens
from cutaway.methods.logit_lens.views import show
from cutaway.methods.logit_lens.word_lens import word_lens
from cutaway.methods.method import Entry, Method
from cutaway.model.denoiser_end import denoiser_end
from cutaway.model.prompts import layered_encoders
from cutaway.questions.question import Question


def by_layer(made: Lens, _: Question) -> Any:
    """The pooled state of the first picture against each text, by layer, beside the size of chance."""
    frame = made["pooled"].isel(picture=0).transpose("layer", "text").to_pandas().reset_index()
    return frame.assign(random=made["random"].values)


def read_heads(question: Question) -> str:
    """Why what the heads of this model write cannot be read at its end; "" where it can."""
    try:
        check_heads(question.model, question.voice or "text")
    except (MethodError, SiteError) as error:
        return error.failed
    return ""


def left_early(question: Question) -> str:
    """Why the text encoders of this pipeline cannot be left early; "" where they can."""
    try:
        layered_encoders(question.model)
    except SiteError as error:
        return error.failed
    return ""


def read_at_the_end(question: Question) -> str:
    """Why the blocks of this denoiser cannot be read at its end; "" where they can."""
    try:
        denoiser_end(question.model)
    except SiteError as error:
        return error.failed
    return ""


METHODS = (
    Method(
        function=logit_lens,
        row="logit lens",
        takes={"model": "model", "pictures": "pictures", "bank": "texts"},
        needs=("space",),
        options={"centre": "Subtract the means over pictures and over texts."},
        cannot="A low number does not mean that a state knows nothing, only that the output's own words do not say so.",
        table=by_layer,
        reported=(
            Entry(name="lens"),
            Entry(
                name="lens_centred",
                options={"centre": True},
                takes={"pictures": "among"},
                when=lambda question: len(question.words) > 1,
            ),
        ),
        beside=True,
        show=show,
    ),
    Method(
        function=word_lens,
        row="logit lens",
        takes={"model": "model", "inputs": "inputs", "words": "tokens", "tower": "voice"},
        options={"top": "How many words of each layer are kept."},
        cannot="That the model uses what is read; an early layer may hold a word in another basis.",
        reported=(Entry(name=word_views.ENTRY),),
        beside=True,
        show=word_views.show,
        tell=word_views.tell,
    ),
    Method(
        function=latent_lens,
        row="logit lens",
        takes={"model": "model", "inputs": "inputs", "bank": "contexts", "words": "tokens", "tower": "voice"},
        options={
            "top": "How many words are kept of each state.",
            "across": "Compare with the states of all layers, not those of the same one.",
            "centre": "Subtract the means of the inputs and of the texts, layer by layer.",
        },
        cannot="That the model uses what is found; the nearest may be far, and other texts find others.",
    ),
    Method(
        function=embedding_lens,
        row="logit lens",
        takes={"model": "model", "inputs": "inputs", "words": "tokens", "tower": "voice"},
        options={
            "top": "How many words are kept of each state.",
            "centre": "Subtract the means of the inputs and of the table.",
        },
        cannot="What a layer says in a basis of its own, which words enter in another.",
    ),
    Method(
        function=attention_lens,
        row="logit lens",
        takes={"model": "model", "inputs": "inputs", "words": "tokens", "tower": "voice"},
        options={"top": "How many words of each head are kept."},
        cannot="What later layers make of it: a head that writes for a later one to read seems to say nothing.",
        fitting=read_heads,
    ),
    Method(
        function=diffusion_lens,
        row="logit lens",
        takes={"model": "model", "inputs": "drawing"},
        options={"levels": "From how many layers it is drawn; from all of them unless given."},
        cannot="That a word is not there yet: the denoiser was never shown the states of early layers.",
        fitting=left_early,
        reported=(Entry(name=drawn_views.ENTRY, options={"levels": 4}),),
        show=drawn_views.show,
        tell=drawn_views.tell,
    ),
    Method(
        function=denoiser_lens,
        row="logit lens",
        takes={"model": "model", "inputs": "drawing"},
        options={"steps": "How many steps are read, at even distances; 0: all."},
        cannot="That a block knows no more than is read: what it holds in another basis is not.",
        fitting=read_at_the_end,
        example="zoo:emoji-mmdit",
        reported=(Entry(name=denoiser_views.ENTRY, options={"steps": denoiser_views.STEPS}),),
        beside=True,
        show=denoiser_views.show,
        tell=denoiser_views.tell,
    ),
)
