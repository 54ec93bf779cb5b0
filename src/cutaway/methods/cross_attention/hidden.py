"""The causal check of a map of attention: words that no patch can see."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cutaway.errors import MethodError
from cutaway.methods.cross_attention.maps import looking
from cutaway.methods.cross_attention.spoken import phrase, words
from cutaway.model.edits import Knockout
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model


def hide_words(model: Model, inputs: Inputs, said: str | Sequence[str], *, guidance: str = "cond") -> list[Knockout]:
    """Edits that hide words of its prompt from every patch of a drawing, at every layer, step and head.

    `said` is a word or several in a row, one for all prompts or one for each. What patches gave to these words goes to
    the rest in proportion; with joint attention to patches too, and words go on seeing them. What the text model wrote
    of them at other positions, such as the end, stays to be seen. Raises MethodError for words that are not in a
    prompt, or a model whose patches see none.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> inputs = model.inputs(prompt="a red dog", seed=0, steps=2)
    >>> hide_words(model, inputs, "dog")[0].site
    'denoiser.*.cross'
    """
    part = looking(model)[0].part.removesuffix(".pattern")
    joint = inputs.tokens.get("denoiser.joint")
    tokens = inputs.tokens["text"] if part == "cross" or joint is None else joint
    each = [said] * tokens.batch if isinstance(said, str) else list(said)
    if len(each) != tokens.batch:
        raise MethodError(f"{len(each)} texts for {tokens.batch} prompts", expected="one for all, or one for each")
    mask = torch.zeros(tokens.kind.shape, dtype=torch.bool)
    for row, text in enumerate(each):
        spoken = words(tokens, row)
        for place in phrase([word.text for word in spoken], text):
            mask[row, list(spoken[place].positions)] = True
    patches = None if tokens is not joint else torch.from_numpy(tokens.row >= 0)
    return [Knockout(f"denoiser.*.{part}", query=patches, key=mask, guidance=guidance)]
