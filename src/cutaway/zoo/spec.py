"""What a trained model of the package is: one spec says how it is made, measured, opened and asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cutaway.errors import LoadError
from cutaway.source import left_out
from cutaway.zoo.evaluate import Row
from cutaway.zoo.training import Step

MODELS = Path(__file__).parent / "models"
UNTRAINED = "@untrained"
CARD, MEASURED = "README.md", "measured.json"
INDEX = "model_index.json"  # of a folder that holds a pipeline

Told = Callable[[str], None]


@dataclass(frozen=True)
class Spec:
    """A model of the zoo. All that is known of it is said here, and whoever wants to know asks its spec.

    How it is made: `start` makes the model from a seed, as it is before training, and `processor` what goes in front of
    it. `recipe` is a dataclass with `steps` and `seed`, all of it with defaults; `batches` gives what any of its steps
    learns from. `train` goes through these in place, from where a folder left off (model, batches, recipe, folder,
    device).

    How it is judged: `measure` gives the rows of its card (model, processor, how many trials, told what is measured;
    the first row stands for the model in the list), `lost` says how far the shipped weights, rounded to float16, move
    what it says (trained, shipped), and `template` is the file from which its card is written.

    What it can be asked: to `match` a picture with texts, to `answer` in words about pictures, to `draw` what a prompt
    says; or `nothing`, where it is a part of others, or their judge, or a world of `bench`. `crowd` and `bank` are the
    pictures and the texts that it has unasked, by the word that stands for them where a folder or a file may.
    """

    name: str
    about: str
    start: Callable[[int], Any]
    processor: Callable[[], Any]
    recipe: type[Any]
    batches: Callable[[Any], Callable[[int], Any]]
    train: Callable[[Any, Callable[[int], Any], Any, Path, str], Iterator[Step]]
    measure: Callable[[Any, Any, int, Told], list[Row]]
    lost: Callable[[Any, Any], float]
    template: Path
    asked: Literal["match", "answer", "draw", "nothing"]
    crowd: str | None = None
    bank: str | None = None
    edges: tuple[tuple[str, str], ...] = ()  # of the circuit that was planted in it: sender, receiver
    twin: bool = False  # whether this is the model as it was before training

    @property
    def title(self) -> str:
        """The name by which `cutaway.load` opens it."""
        return f"zoo:{self.name}{UNTRAINED * self.twin}"

    @property
    def floor(self) -> str | None:
        """The name by which the same model opens as it was before training; that one has none below it."""
        return None if self.twin else f"{self.title}{UNTRAINED}"

    @property
    def folder(self) -> Path:
        """The folder that `from_pretrained` opens."""
        return MODELS / self.name

    @property
    def here(self) -> bool:
        """Whether its weights are in this checkout."""
        return holds_model(self.folder)

    def found(self) -> Path:
        """Its folder, or a LoadError that says how to make it."""
        if not self.here:
            here = [f"zoo:{folder.name}" for folder in sorted(MODELS.glob("*/")) if holds_model(folder)]
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

    def open(self, *, dtype: torch.dtype = torch.float32, attn: str | None = None) -> tuple[Any, Any]:
        """The model in eval mode and its processor; the twin is made anew from the seed of the training."""
        processor = self.processor()
        if self.twin:
            module = self.start(self.measured()["recipe"]["seed"]).to(dtype)
            if attn and hasattr(module, "set_attn_implementation"):
                module.set_attn_implementation(attn)
            return module, processor
        return opened(self.found(), dtype, attn), processor


def holds_model(folder: Path) -> bool:
    """Whether `from_pretrained` could open a folder, as a model or as a pipeline."""
    return (folder / "config.json").exists() or (folder / INDEX).exists()


def opened(folder: Path, dtype: torch.dtype, attn: str | None = None) -> Any:
    """The model or pipeline in a folder, by the library and the class that its config names, in eval mode."""
    import transformers

    index = folder / INDEX
    config = json.loads((index if index.exists() else folder / "config.json").read_text(encoding="utf-8"))
    if "_class_name" in config:
        import diffusers

        with _no_bars(transformers, diffusers):
            kind = getattr(diffusers, config["_class_name"])
            module = kind.from_pretrained(folder, dtype=dtype, **absent(folder))
        if index.exists():
            module.set_progress_bar_config(disable=True)
            return module
        return module.eval()
    options = {"attn_implementation": attn} if attn else {}
    kind = getattr(transformers, config["architectures"][0])
    with _no_bars(transformers):
        return kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options).eval()


def absent(folder: Path) -> dict[str, None]:
    """The parts that a pipeline in a folder goes without, as options for opening it; of a model none."""
    index = folder / INDEX
    return left_out(json.loads(index.read_text(encoding="utf-8"))) if index.exists() else {}


@contextmanager
def _no_bars(*libraries: Any) -> Iterator[None]:
    """Without the bars of these libraries: what they show is over before one could read it."""
    shown = [one.utils.logging for one in libraries if one.utils.logging.is_progress_bar_enabled()]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
