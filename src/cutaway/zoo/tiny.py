"""Tiny random models of every architecture, built from configs in a fraction of a second, nothing downloaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cutaway.zoo.tiny_pipelines import PIPELINES
from cutaway.zoo.tiny_specs import IMAGE, MODELS, Config, Part, Tiny
from cutaway.zoo.tiny_text import tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TINY", "Parts", "Tiny", "build", "names", "picture", "save"]
TINY = {spec.name: spec for spec in (*MODELS, *PIPELINES)}


@dataclass(frozen=True)
class Parts:
    """An image processor and a tokenizer, for a model whose own processor class needs torchvision (for video)."""

    image_processor: Any
    tokenizer: Any

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both into one folder."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def names() -> list[str]:
    """The architectures `build` knows."""
    return list(TINY)


def build(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, attn: str | None = None, **overrides: Any
) -> tuple[Any, Any]:
    """The model in eval mode, or the diffusion pipeline, and its processor (None for a pipeline).

    The weights depend on `name`, `seed` and `overrides` only; `dtype` casts them. `attn` is the attention
    implementation of the transformers models, the library's choice unless given. Overrides go to the text config if
    it has the key, else to the model's own; a dict (`vision_config={"num_hidden_layers": 5}`) changes a nested
    config. In a pipeline they go to the denoiser.
    """
    spec = _spec(name)
    with torch.random.fork_rng(devices=[]):
        draw = _Draw(attn, dtype, torch.default_generator.manual_seed(seed))
        if spec.parts:
            return _pipeline(spec, overrides, draw), None
        return _model(spec, overrides, draw), _processor(spec)


def save(name: str, folder: str | Path, **options: Any) -> Path:
    """Write `build(name, **options)` to a folder that `from_pretrained` opens."""
    model, processor = build(name, **options)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return Path(folder)


def picture(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image:
    """A picture of `size` (width, height): a coloured gradient, a square and a disc, placed by `seed`."""
    from PIL import Image, ImageDraw

    generator = torch.Generator().manual_seed(seed)
    width, height = size
    corners = torch.rand(1, 3, 2, 2, generator=generator)
    ground = torch.nn.functional.interpolate(corners, (height, width), mode="bilinear", align_corners=True)
    image = Image.fromarray((ground[0].permute(1, 2, 0) * 255).byte().numpy())
    draw, side = ImageDraw.Draw(image), min(size) // 3
    for shape in (draw.rectangle, draw.ellipse):
        x, y, hue = torch.rand(3, generator=generator).tolist()
        left, top = round(x * (width - side)), round(y * (height - side))
        shape((left, top, left + side, top + side), fill=f"hsv({round(360 * hue)},100%,100%)")
    return image


def _spec(name: str) -> Tiny:
    if name not in TINY:
        raise ValueError(f"no tiny model is called {name!r}; {_known(name, TINY)}; cutaway.zoo.tiny.names() lists all")
    return TINY[name]


def _known(word: str, known: Iterable[str]) -> str:
    """The nearest of the known words, at most five."""
    ordered = sorted(known, key=lambda other: -difflib.SequenceMatcher(None, word, other).ratio())
    return "nearest: " + ", ".join(ordered[:5])


@dataclass(frozen=True)
class _Draw:
    """How modules are made: their attention implementation, their dtype, where their weights come from."""

    attn: str | None
    dtype: torch.dtype
    generator: torch.Generator

    def transformer(self, cls: Any, config: Any) -> Any:
        """A transformers model: weights cast from float32, buffers the library's own for the dtype, as once loaded."""
        options = {} if self.attn is None else {"attn_implementation": self.attn}
        drawn = cls._from_config(config, dtype=torch.float32, **options)
        _randomise(drawn, self.generator)
        if self.dtype == torch.float32:
            return drawn.eval()
        model = cls._from_config(config, dtype=self.dtype, **options)
        model.load_state_dict(drawn.state_dict())
        return model.eval()

    def diffuser(self, cls: Any, config: Config) -> Any:
        """A module or a scheduler of diffusers."""
        made = cls(**config)
        if not isinstance(made, torch.nn.Module):
            return made
        _randomise(made, self.generator)
        return torch.nn.Module.to(made.eval(), self.dtype)  # their own `to` warns of an empty list of modules


def _model(spec: Tiny, overrides: Config, draw: _Draw) -> Any:
    import transformers

    cls = getattr(transformers, spec.model)
    model = draw.transformer(cls, cls.config_class(**_overridden(spec, cls.config_class, overrides)))
    for key, value in spec.generation.items():
        setattr(model.generation_config, key, value)
    return model


def _overridden(spec: Tiny, config_class: Any, overrides: Config) -> dict[str, Any]:
    """The config's arguments, each override put where its key is known."""
    arguments = deepcopy(dict(spec.config))
    default = config_class(**arguments)
    nested = arguments.get("text_config")
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(arguments.get(key), dict):
            arguments[key] |= value
        elif nested is not None and hasattr(default.text_config, key):
            nested[key] = value
        elif hasattr(default, key):
            arguments[key] = value
        else:
            known = {*default.to_dict(), *(nested or ())}
            raise ValueError(f"tiny {spec.name!r} has no config entry {key!r}; {_known(key, known)}")
    return arguments


def _processor(spec: Tiny) -> Any:
    import transformers

    def made(part: Part, *arguments: Any) -> Any:
        return getattr(transformers, part.of)(*arguments, **deepcopy(dict(part.config)))

    front = made(spec.frontend) if spec.frontend else None
    words = tokenizer(spec.tokens) if spec.tokens else None
    if spec.processor:
        return made(spec.processor, front, words)
    return Parts(front, words) if front and words else front or words


def _pipeline(spec: Tiny, overrides: Config, draw: _Draw) -> Any:
    import diffusers

    parts = {
        key: part and _part(part, overrides if key in ("unet", "transformer") else {}, draw)
        for key, part in spec.parts.items()
    }
    extra = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    pipeline = getattr(diffusers, spec.model)(**parts, **extra)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "default_sample_size"):  # Flux has its own, whatever its parts say
        pipeline.default_sample_size = IMAGE // 2
    return pipeline


def _part(part: Part, overrides: Config, draw: _Draw) -> Any:
    import diffusers
    import transformers

    library, _, name = part.of.partition(".")
    config = deepcopy(dict(part.config)) | dict(overrides)
    if library == "tokenizer":
        return tokenizer(**config)
    if library == "diffusers":
        return draw.diffuser(getattr(diffusers, name), config)
    cls = getattr(transformers, name)
    return draw.transformer(cls, cls.config_class(**config))


@torch.no_grad()
def _randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Redraw the weights so that every parameter matters.

    Matrices keep the scale of their input, gains and biases leave their 0 or 1. Frozen tables and state-space
    decay rates stay as they were made.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name.endswith("A_log"):
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise * (parameter.shape[0] / parameter.numel()) ** 0.5)
        else:
            parameter.add_(0.1 * noise)
