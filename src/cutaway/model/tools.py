"""The parts of a processor: tokenizer, image processor, feature extractor, wherever the library puts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cutaway.errors import InputError


@dataclass(frozen=True)
class Tools:
    """The parts of a processor, wherever the library puts them; `whole` is the processor itself when it is complete."""

    whole: Any = None
    tokenizer: Any = None
    images: Any = None
    sounds: Any = None

    @classmethod
    def of(cls, processor: Any) -> Tools:
        """Take a processor, a bare tokenizer or a bare image processor apart."""
        if processor is None:
            return cls()
        tokenizer = getattr(processor, "tokenizer", processor if hasattr(processor, "decode") else None)
        images = getattr(processor, "image_processor", processor if hasattr(processor, "image_mean") else None)
        sounds = getattr(processor, "feature_extractor", processor if hasattr(processor, "sampling_rate") else None)
        complete = hasattr(processor, "apply_chat_template") and callable(processor) and tokenizer is not processor
        return cls(processor if complete else None, tokenizer, images, sounds)


def need(tool: Any, what: str, module: Any) -> Any:
    """The tool, or an error that says what the model came without."""
    if tool is None:
        raise InputError(
            f"this {type(module).__name__} came without {what}",
            expected="a processor next to the weights, or `cutaway.load(model, processor=…)`",
            do="or pass prepared tensors by name: `model.inputs(pixel_values=…, input_ids=…)`",
        )
    return tool
