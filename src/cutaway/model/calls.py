"""How a model is run, as a value: its forward, a method of it, a whole pipeline, one evaluation of its denoiser.

A call says what can be done with it; nothing else asks what kind of model it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import InputError
from cutaway.model.known import parameters
from cutaway.model.schedule import OneStep, Schedule


@dataclass(frozen=True)
class Forward:
    """The module's own forward: `module(**tensors)`."""

    batched: ClassVar[bool] = True  # rows of the batch do not see each other, and may be several cells of a sweep
    differentiable: ClassVar[bool] = True
    loops: ClassVar[bool] = False  # a denoiser runs once a step
    stacks: ClassVar[bool] = True  # inputs of several calls may become those of one
    sweeping: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # options while many cells are run

    def __call__(self, module: Any, tensors: Mapping[str, Any], **options: Any) -> Any:
        """What the library returns."""
        return module(**tensors, **_known(self, options))

    def takes(self, module: Any) -> tuple[str, ...]:
        """The names of the arguments."""
        return parameters(module)

    @property
    def drawing(self) -> int | None:
        """How many steps the drawing has of which this is one; None where it is none."""
        return None

    @property
    def truth(self) -> Float[Tensor, "row *latent"] | None:
        """What should come out, where that is known beforehand."""
        return None

    def schedule(self, pipeline: Any, rows: int | None) -> Schedule | OneStep | None:
        """What counts the denoising steps."""
        return None

    def __str__(self) -> str:
        return "forward"


@dataclass(frozen=True)
class Method(Forward):
    """A method of the module, such as `get_image_features`, which runs one of its towers."""

    name: str

    def __call__(self, module: Any, tensors: Mapping[str, Any], **options: Any) -> Any:
        """What the method returns."""
        return getattr(module, self.name)(**tensors, **_known(self, options))

    def takes(self, module: Any) -> tuple[str, ...]:
        """Nothing of the forward's options."""
        return ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Pipeline(Forward):
    """A whole pipeline: prompt, denoising loop, decoding."""

    batched: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    loops: ClassVar[bool] = True
    stacks: ClassVar[bool] = False
    sweeping: ClassVar[Mapping[str, Any]] = MappingProxyType({"output": "pt", "quiet": True})

    def __call__(
        self, module: Any, tensors: Mapping[str, Any], *, output: str = "pil", quiet: bool = False, **options: Any
    ) -> Any:
        """What the pipeline returns: `output` is `pil`, `pt` or `latent`; from 8 steps on it shows its own bar."""
        if output == "latent" and not {"vae", "vqvae"} & set(module.components):
            _latents(None, module)
        call = {**tensors, **options}
        generator = torch.Generator("cpu").manual_seed(call.pop("seed"))
        before = vars(module).get("_progress_bar_config")
        own = {"disable": call["num_inference_steps"] < 8, **(before or {}), **({"disable": True} if quiet else {})}
        module.set_progress_bar_config(**own)
        processors = _processors(module)
        try:
            made = module(**call, generator=generator, output_type=output)
        finally:
            _put_back(processors)  # perturbed guidance leaves its own where a call ends early
            vars(module).pop("_progress_bar_config", None)
            if before is not None:
                module._progress_bar_config = before
        return _latents(made, module) if output == "latent" else made

    def takes(self, module: Any) -> tuple[str, ...]:
        """Nothing of a forward's options."""
        return ()

    def schedule(self, pipeline: Any, rows: int | None) -> Schedule | OneStep | None:
        """The pipeline's own loop."""
        return Schedule(pipeline, rows)

    def __str__(self) -> str:
        return "pipeline"


@dataclass(frozen=True, eq=False)
class Denoise(Forward):
    """One evaluation of a denoiser: latents at a noise level, a prompt each; `part` is its name in the pipeline.

    `step` of `steps` is where it stands in the loop of a drawing. `truth` is what the denoiser was trained to give
    there (the noise, the velocity, …), known where the latents were made by adding noise to a picture.
    """

    part: str
    step: int
    steps: int
    truth: Float[Tensor, "row *latent"] | None = None
    stacks: ClassVar[bool] = False  # what a pipeline gives its denoiser has rows in some places and none in others

    def __call__(self, module: Any, tensors: Mapping[str, Any], **options: Any) -> Any:
        """What the denoiser returns."""
        return getattr(module, self.part)(**tensors, **_known(self, options))

    @property
    def drawing(self) -> int | None:
        """The steps of the drawing."""
        return self.steps

    def takes(self, module: Any) -> tuple[str, ...]:
        """The names of the denoiser's arguments."""
        return parameters(getattr(module, self.part))

    def schedule(self, pipeline: Any, rows: int | None) -> Schedule | OneStep | None:
        """This one step."""
        return OneStep(self.step, self.steps)

    def __str__(self) -> str:
        return f"step {self.step} of {self.steps}"


def _processors(pipeline: Any) -> list[tuple[nn.Module, Any]]:
    """The attention processors of a pipeline, each with its module."""
    roots = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    return [(m, m.processor) for root in roots for m in root.modules() if hasattr(m, "processor")]


def _put_back(processors: list[tuple[nn.Module, Any]]) -> None:
    """Put attention processors back where another one stands now."""
    for module, processor in processors:
        if module.processor is not processor:
            vars(module).pop("processor", None)
            module.processor = processor


def _latents(made: Any, pipeline: Any) -> Any:
    """What a pipeline returned for latents, if it is that: some know only pictures, and give arrays of these."""
    if not isinstance(getattr(made, "images", None), Tensor):
        raise InputError(
            f"{type(pipeline).__name__} gives no latents", expected="`output='pil'` or `output='pt'`",
            do="record `denoiser.out`, which has every step",
        )  # fmt: skip
    return made


def _known(call: Forward, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options, unless one is for a pipeline."""
    if "output" in options:
        raise InputError(f"`output=` says what a pipeline returns; this is {call}", do="leave it out")
    return options
