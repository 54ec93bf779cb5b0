"""What a model that writes may answer, and what that is held against: words of the user's, the text's or its own."""

from __future__ import annotations

import re
from contextlib import suppress

from cutaway.errors import InputError, TargetError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target, log_prob, logit_diff
from cutaway.model.words import token_id

_SMALL = "(?:(?:a|an|the|to|on|in|at) )*"
_CHOICE = re.compile(rf"((?:\w+, {_SMALL})*)(\w+),? or {_SMALL}(\w+)")  # "to the left or to the right"


def answered(model: Model, inputs: Inputs, answer: str, rival: str, text: str) -> tuple[tuple[str, ...], Target]:
    """Answer and rival in words, and the target.

    Without an answer it is what the model says first; without a rival the likeliest other word that the text names
    beside the answer, else what the model finds next likely.
    """
    if answer and answer.strip() == rival.strip():
        raise InputError(f"the answer '{answer}' is its own rival", expected="two words", do="leave --rival out")
    if answer and rival:
        return (answer, rival), logit_diff(answer, rival)
    run = model.run(inputs)
    known = {token_id(run, word) for word in (answer, rival) if word}
    scores = log_prob(0)  # refuses what has no next word
    scores(run)
    order = run.logits[0, -1].float().argsort(descending=True).tolist()
    free = [at for at in order[: 2 + len(known)] if at not in known]
    first = token_id(run, answer) if answer else free.pop(0)
    others = [] if rival else _offered(run, text, first)
    best = min(others, key=order.index) if others else None
    ids = [first, token_id(run, rival) if rival else free.pop(0) if best is None else best]
    tokenizer = model.tokenizer
    said = [answer, rival] if tokenizer is None else [
        word or str(tokenizer.decode([at])).strip() for word, at in zip((answer, rival), ids, strict=True)
    ]  # fmt: skip
    return tuple(word or f"token {at}" for word, at in zip(said, ids, strict=True)), logit_diff(*ids)


def _offered(run: Run, text: str, answer: int) -> list[int]:
    """The tokens of the other words between which a text asks to choose, where the answer is one of them."""
    for before, last, after in _CHOICE.findall(text):
        found = []
        for word in (*re.findall(r"\w+(?=,)", before), last, after):
            with suppress(TargetError):
                found.append(token_id(run, word))
        if answer in found:
            return [one for one in found if one != answer]
    return []
