"""The trained models inside the package: by name, with their cards, and as they were before training."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cutaway.errors import LoadError, near

if TYPE_CHECKING:
    from cutaway.zoo.make import Making

MODELS = Path(__file__).parent / "models"
UNTRAINED = "@untrained"
CARD, MEASURED = "README.md", "measured.json"


@dataclass(frozen=True)
class Trained:
    """A model of the zoo: what it is, where it lies, and the module whose `MAKING` says how it is made and measured."""

    name: str
    about: str
    home: str

    @property
    def folder(self) -> Path:
        """The folder that `from_pretrained` opens."""
        return MODELS / self.name

    @property
    def here(self) -> bool:
        """Whether its weights are in this checkout."""
        return (self.folder / "config.json").exists()

    @property
    def making(self) -> Making:
        """How it is made: before training, trained, measured and told about."""
        found: Making = importlib.import_module(self.home).MAKING
        return found

    def untrained(self) -> Any:
        """The model as it was before the training that made it."""
        return self.making.untrained(self.measured()["recipe"]["seed"])

    def found(self) -> Path:
        """Its folder, or a LoadError that says how to make it."""
        if not self.here:
            here = [f"zoo:{one.name}" for one in TRAINED.values() if one.here]
            raise LoadError(
                f"the weights of 'zoo:{self.name}' are not here yet", expected=f"a model in {self.folder.name}/",
                exists=", ".join(here), do=f"`cutaway zoo train {self.name}`, then open the folder that it wrote",
            )  # fmt: skip
        return self.folder

    def card(self) -> str:
        """Its model card, in Markdown."""
        return (self.found() / CARD).read_text(encoding="utf-8")

    def measured(self) -> dict[str, Any]:
        """What was measured when it was made: the command, versions, seconds and every number of the card."""
        return dict(json.loads((self.found() / MEASURED).read_text(encoding="utf-8")))


# To add a model: a line here, and a module with a `MAKING` and its card's template (`.md`) beside it.
TRAINED = {
    model.name: model
    for model in (
        Trained("emoji-clip", "a small CLIP trained on the drawn scenes of EmojiWorld", "cutaway.zoo.emoji_clip"),
        Trained("emoji-llava", "a small LLaVA that answers questions about these scenes", "cutaway.zoo.emoji_llava"),
    )
}


def trained(name: str) -> Trained:
    """The model of that name, with or without `zoo:` in front and `@untrained` behind."""
    plain, at, twin = name.removeprefix("zoo:").partition("@")
    if at and twin != UNTRAINED[1:]:
        raise LoadError(
            f"'{plain}' has no '{twin}'", expected=f"zoo:{plain}, or zoo:{plain}{UNTRAINED}, the same before training",
            exists=near(plain, TRAINED), do=f"leave '{at}{twin}' out, or write '{UNTRAINED}'",
        )  # fmt: skip
    if plain not in TRAINED:
        raise LoadError(
            f"no model of the zoo is called '{plain}'", expected="zoo:NAME, or zoo:NAME@untrained",
            exists=near(plain, TRAINED), do="`cutaway zoo list` shows them",
        )  # fmt: skip
    return TRAINED[plain]


def build(name: str, *, dtype: torch.dtype = torch.float32, attn: str | None = None) -> tuple[Any, Any]:
    """The model in eval mode and its processor; `NAME@untrained` is the same one before training, made anew."""
    import transformers

    entry = trained(name)
    processor = transformers.AutoProcessor.from_pretrained(entry.found())
    if name.endswith(UNTRAINED):
        module = entry.untrained().to(dtype)
        if attn:
            module.set_attn_implementation(attn)
        return module, processor
    options = {"attn_implementation": attn} if attn else {}
    config = json.loads((entry.folder / "config.json").read_text(encoding="utf-8"))
    kind = getattr(transformers, config["architectures"][0])
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # it is over before one could read it
    try:
        return kind.from_pretrained(entry.folder, dtype=dtype, use_safetensors=True, **options).eval(), processor
    finally:
        if shown:
            bars.enable_progress_bar()
