"""The parts of a processor: tokenizer, image processor, feature extractor, wherever the library puts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cutaway.errors import InputError

Tool = Literal["tokenizer", "images", "sounds"]


class Part(NamedTuple):
    """What a part is called, the attribute of a processor that holds it, and one that only such a part has itself."""

    called: str
    attribute: str
    own: str


PARTS: dict[Tool, Part] = {
    "tokenizer": Part("a tokenizer", "tokenizer", "decode"),
    "images": Part("an image processor", "image_processor", "image_mean"),
    "sounds": Part("a feature extractor", "feature_extractor", "sampling_rate"),
}


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
        found: dict[str, Any] = {
            name: getattr(processor, part.attribute, processor if hasattr(processor, part.own) else None)
            for name, part in PARTS.items()
        }
        complete = hasattr(processor, "apply_chat_template") and callable(processor)
        return cls(processor if complete and found["tokenizer"] is not processor else None, **found)

    def need(self, tool: Tool, module: Any) -> Any:
        """The part, or an error that says what the model came without."""
        found = getattr(self, tool)
        if found is None:
            raise InputError(
                f"this {type(module).__name__} came without {PARTS[tool].called}",
                expected="a processor next to the weights, or `cutaway.load(model, processor=…)`",
                do="or pass prepared tensors by name: `model.inputs(pixel_values=…, input_ids=…)`",
            )
        return found
