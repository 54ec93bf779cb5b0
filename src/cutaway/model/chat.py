"""A text as a user's turn in a model's chat template: whether there is one, and whether a text is already in it."""

from __future__ import annotations

from typing import Any

from cutaway.model.tools import Tools

_HERE = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for the text while the template is looked at


def template(tools: Tools) -> Any:
    """The part of a processor that knows how a conversation is written; None where none does."""
    return next((one for one in (tools.whole, tools.tokenizer) if getattr(one, "chat_template", None)), None)


def turn(tools: Tools, text: str, pictures: int = 0) -> str:
    """Pictures and a text as what a user says first, up to where the model answers."""
    talker, content = template(tools), [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
    alone = talker is tools.tokenizer and not pictures  # templates of models of texts take strings
    message = [{"role": "user", "content": text if alone else content}]
    return str(talker.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


def in_chat(tools: Tools, text: str) -> str:
    """A text in words alone as a user's turn; as it is without a template, or if it is written in one already.

    It is if it has the template's beginning or end, or any special token.
    """
    if template(tools) is None:
        return text
    before, _, behind = (part.strip() for part in turn(tools, _HERE).partition(_HERE))
    begun = (before and text.lstrip().startswith(before)) or (behind and text.rstrip().endswith(behind))
    tokens = getattr(tools.tokenizer, "added_tokens_decoder", {}).values()
    return text if begun or any(one.special and str(one) in text for one in tokens) else turn(tools, text)
