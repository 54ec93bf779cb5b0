"""What streams carry of a question: which there are, and its inputs and its counterpart's from their words on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutaway.errors import InputError
from cutaway.model.asides import in_words_of
from cutaway.model.encoded import Encoded, encoded
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model

if TYPE_CHECKING:
    from cutaway.questions.question import Question

JOINT = ("denoiser.image", "denoiser.text")  # streams of joint attention


def streams(question: Question) -> tuple[str, ...] | None:
    """The streams that blocks add to where its inputs run, one a tower, two of joint attention; None: none."""
    model, inputs = question.model, question.from_words
    if inputs is None or inputs.call.loops:
        return None
    if model.family.kind == "diffusion":
        return (*(_encoders(model) if isinstance(inputs.call, Encoded) else ()), *JOINT) if _joint(model) else None
    begun = (site for site in model.sites if site.layer == 0 and site.part == "resid_pre")
    found = (site.tower for site in begun if site.axes[:2] == ("batch", "token"))
    return tuple(tower for tower in found if tower in inputs.tokens) or None


def from_words(question: Question) -> Inputs | None:
    """Its inputs, at a step of joint attention with the prompt encoders in the same run; None without inputs.

    They stay as they are where an encoder has no stream, or does not say what the denoiser was given.
    """
    drawing, inputs = question.drawing, question.inputs
    if inputs is None or drawing is None or not _joint(question.model) or not _encoders(question.model):
        return inputs
    try:
        return encoded(question.model.engine.pipeline, drawing, inputs)
    except InputError:
        return inputs


def along(question: Question) -> Inputs | None:
    """Its counterpart from the words on, as far as streams carry what differs; None where there is none.

    A denoiser of joint attention keeps its own time and pooled prompt, which are on no stream.
    """
    here, there = question.from_words, None if question.counterpart is None else question.counterpart.from_words
    if here is None or there is None or here.call.loops or not _joint(question.model):
        return there
    return in_words_of(here, there)


def _joint(model: Model) -> bool:
    """Whether the blocks of its denoiser join a stream of words to the picture's."""
    return f"{JOINT[0].replace('.', '.0.')}.resid_pre" in model.sites


def _encoders(model: Model) -> tuple[str, ...]:
    """The prompt encoders, where each of them has a stream; else none."""
    found = tuple(name for name, tower in model.towers.items() if tower.prompted)
    return found if all(f"{name}.0.resid_pre" in model.sites for name in found) else ()
