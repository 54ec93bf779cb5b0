"""The causal check of a map of attention: words that no patch can see."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.spoken import phrase, words
from cutaway.model.edits import Knockout
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model


def hide_words(model: Model, inputs: Inputs, said: str | Sequence[str], *, guidance: str = "cond") -> list[Knockout]:
    """Edits that hide words of its prompt from every patch of a drawing, at every cross-attention, step and head.

    `said` is a word or several in a row, one for all prompts or one for each. What patches gave to these words goes to
    the rest in proportion. What the text model wrote of them at other positions, such as the end, stays to be seen.
    Raises MethodError for words that are not in a prompt, or a model without cross-attention.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> inputs = model.inputs(prompt="a red dog", seed=0, steps=2)
    >>> hide_words(model, inputs, "dog")[0].site
    'denoiser.*.cross'
    """
    if not any(site.part == "cross.pattern" for site in model.sites):
        raise MethodError(
            f"'{model.name}' has no cross-attention from patches to words", expected="a UNet that draws prompts",
            do="with joint attention, cut `denoiser.*.attn` from the patches to the words",
        )  # fmt: skip
    tokens = inputs.tokens["text"]
    each = [said] * tokens.batch if isinstance(said, str) else list(said)
    if len(each) != tokens.batch:
        raise MethodError(f"{len(each)} texts for {tokens.batch} prompts", expected="one for all, or one for each")
    mask = torch.zeros(tokens.kind.shape, dtype=torch.bool)
    for row, text in enumerate(each):
        spoken = words(tokens, row)
        for place in phrase([word.text for word in spoken], text):
            mask[row, list(spoken[place].positions)] = True
    return [Knockout("denoiser.*.cross", key=mask, guidance=guidance)]
