"""Words beside the prompt of a joint-attention denoiser: one evaluation with other words in the text's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError, SiteError
from cutaway.model.denoise import draw_inputs
from cutaway.model.drawing import alone, as_asked
from cutaway.model.engine import Opened
from cutaway.model.inputs import Inputs


@dataclass(frozen=True, eq=False)
class Aside:
    """Words as the denoiser is given them: their `states`, each encoded alone, and which rows are each one's.

    Of an encoding only the positions of the words themselves are kept, of every encoder that says them: no begin, no
    end, no padding.
    """

    words: tuple[str, ...]
    states: Float[Tensor, "*row position d_text"]
    owner: tuple[int, ...]

    def mean(self, values: Float[Tensor, "*rows position d"]) -> Float[Tensor, "*rows word d"]:
        """The mean over the positions of each word."""
        weights = torch.zeros(len(self.words), len(self.owner), dtype=values.dtype, device=values.device)
        weights[list(self.owner), torch.arange(len(self.owner))] = 1
        return (weights / weights.sum(1, keepdim=True)) @ values


def aside(model: Opened, drawing: Inputs, words: Sequence[str]) -> Aside:
    """What the encoders of a pipeline say of words, a prompt each; InputError for one that has no position.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd3")
    >>> made = aside(model, model.inputs(prompt="a dog", steps=2), ["dog", "red cat"])
    >>> made.owner, made.states.shape
    ((0, 0, 1, 1, 1, 1), torch.Size([6, 64]))
    """
    made = draw_inputs(model.engine, alone(_checked(drawing), words), 0, None, {})
    text = made.tokens.get("denoiser.text")
    if text is None:
        raise SiteError(
            f"the denoiser of {type(model.engine.module).__name__} has no stream of words beside the picture's",
            expected="joint attention, as in SD3 and Flux", exists=", ".join(made.tokens) or "no token map",
            do="`cross_attention` maps the words of the prompt of any pipeline",
        )  # fmt: skip
    states, owner = [], []
    for row, word in enumerate(words):
        here = torch.from_numpy(text.kind[row] == "text")
        if not here.any():
            raise InputError(f"'{word}' has no position of its own", expected="words that the encoders know")
        found = made.tensors["encoder_hidden_states"][row]
        states.append(found[here.to(found.device)])
        owner += [row] * int(here.sum())
    return Aside(tuple(words), torch.cat(states), tuple(owner))


def beside(
    model: Opened, drawing: Inputs, step: int, latent: Tensor, told: Float[Tensor, "*row position d_text"]
) -> Inputs:
    """One evaluation of the denoiser at a step of a drawing with other states in the place of its text's.

    Time, pooled prompt and latents are those of the drawing; `told` is one text for all rows or one a row.
    """
    inputs = draw_inputs(model.engine, as_asked(_checked(drawing)), step, latent, {})
    tensors, rows = dict(inputs.tensors), len(latent)
    tensors["encoder_hidden_states"] = told.expand(rows, *told.shape[-2:]).to(tensors["encoder_hidden_states"])
    if "txt_ids" in tensors:  # where words are, which is nowhere, for as many of them
        tensors["txt_ids"] = torch.zeros_like(tensors["txt_ids"][:1]).expand(told.shape[-2], -1)
    return replace(inputs, tensors=tensors)


def in_words_of(inputs: Inputs, other: Inputs) -> Inputs:
    """One evaluation as it is, time, pooled prompt and latents, with the words of another in its text's place.

    So what differs between the two goes by the stream of words alone, and not by the way of the timestep.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd3")
    >>> here, there = (model.inputs(prompt=f"a {word}", step=0, steps=2) for word in ("dog", "cat"))
    >>> in_words_of(here, there).drawn
    ('a cat',)
    """
    name = "encoder_hidden_states"
    shapes = [tuple(given.tensors[name].shape) if name in given.tensors else () for given in (inputs, other)]
    if shapes[0] != shapes[1] or not shapes[0] or "denoiser.text" not in inputs.tokens:
        raise InputError(
            f"words of shape {shapes[1]} do not go where words of shape {shapes[0]} are",
            expected="two evaluations of one denoiser of joint attention, with as many rows and positions",
            exists=f"{inputs.call} and {other.call}", do="make both with `model.inputs(prompt=…, step=…)`",
        )  # fmt: skip
    told = {key: value for key, value in other.tokens.items() if not key.startswith("denoiser")}
    told |= {key: other.tokens[key] for key in ("denoiser.text", "denoiser.joint")}
    tensors = {**inputs.tensors, name: other.tensors[name]}
    call = inputs.call.in_words_of(other.call)
    return replace(inputs, tensors=tensors, tokens={**inputs.tokens, **told}, drawn=other.drawn, call=call)


def _checked(drawing: Inputs) -> Inputs:
    """A whole drawing of a prompt from noise alone; else an error."""
    if not drawing.call.loops or "strength" in drawing.tensors or "prompt" not in drawing.tensors:
        raise InputError(
            "words can be put beside a whole drawing from noise alone", expected="a drawing of a prompt",
            exists=f"{drawing.call}", do="make the inputs with `model.inputs(prompt=…)`, without `step=` and `image=`",
        )  # fmt: skip
    return drawing
