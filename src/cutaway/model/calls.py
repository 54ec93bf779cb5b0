"""How a model is run, as a value: its forward, a method of it, a whole pipeline, one evaluation of its denoiser.

A call says what can be done with it; nothing else asks what kind of model it is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway.errors import InputError
from cutaway.model.known import in_rows_all, parameters
from cutaway.model.schedule import OneStep, Schedule
from cutaway.model.table import Drawing
from cutaway.model.towers import PIPELINES

# What a pipeline is given with an entry for each row, or (`batch_size`) the number of these; what is the same for all.
LISTED = ("prompt", "negative_prompt", "class_labels", "image", "mask_image", "batch_size")
SAME = (
    "num_inference_steps", "num_images_per_prompt", "guidance_scale", "height", "width", "seed", "strength",
    "max_sequence_length", "true_cfg_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Forward:
    """The module's own forward: `module(**tensors)`."""

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

    def apart(self, module: Any, tensors: Mapping[str, Any]) -> str:
        """Why rows of the batch cannot be several cells of a sweep; nothing where they can: no row sees another."""
        return ""

    def in_cells(self, tensors: Mapping[str, Any], n: int, rows: int) -> tuple[Forward, Mapping[str, Any]]:
        """The call and the arguments of n cells behind one another, `rows` in each."""
        return self, in_rows_all(tensors, n, rows)

    def joined(self, calls: Sequence[Forward]) -> Forward | None:
        """The one call of the inputs of several, this one first; None where that is no call."""
        return self if self.stacks and all(call == self for call in calls) else None

    def in_words_of(self, other: Forward) -> Forward:
        """The call with the words of another: these are in the tensors, if the call does not say otherwise."""
        return self

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
    """A whole pipeline: prompt, denoising loop, decoding; of several `cells` at once from the same noise each."""

    cells: int = 1
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
        processors = processors_of(module)
        noise = SameNoise(generator, self.cells) if self.cells > 1 else nullcontext()
        try:
            with noise:
                made = module(**call, generator=generator, output_type=output)
        finally:
            put_back(processors)  # perturbed guidance leaves its own where a call ends early
            vars(module).pop("_progress_bar_config", None)
            if before is not None:
                module._progress_bar_config = before
        return _latents(made, module) if output == "latent" else made

    def apart(self, module: Any, tensors: Mapping[str, Any]) -> str:
        """A list of prompts may be several cells where all noise is drawn here, and all that is given is known."""
        odd = next((name for name in tensors if name not in (*LISTED, *SAME)), None)
        if odd is not None:
            return f"how the rows of '{odd}' lie is not known"
        if hasattr(module.scheduler, "noise_sampler"):
            return f"{type(module.scheduler).__name__} draws noise of its own"
        doubled = PIPELINES.get(type(module).__name__, Drawing()).scale
        if doubled and tensors.get(doubled, 1) > 1:
            return f"{type(module).__name__} draws noise for its guidance rows as well"
        return ""

    def in_cells(self, tensors: Mapping[str, Any], n: int, rows: int) -> tuple[Forward, Mapping[str, Any]]:
        """As many prompts, cell behind cell."""
        return replace(self, cells=n), {k: v * n if k in LISTED else v for k, v in tensors.items()}

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

    def __call__(self, module: Any, tensors: Mapping[str, Any], **options: Any) -> Any:
        """What the denoiser returns."""
        return getattr(module, self.part)(**tensors, **_known(self, options))

    def joined(self, calls: Sequence[Forward]) -> Forward | None:
        """The same step of the same denoiser, with the truth of all rows where that is known of all."""
        every = [call for call in calls if isinstance(call, Denoise)]
        same = [call for call in every if (call.part, call.step, call.steps) == (self.part, self.step, self.steps)]
        known = [call.truth for call in same if call.truth is not None]
        if len(same) < len(calls) or len(known) not in (0, len(calls)):
            return None
        return replace(self, truth=torch.cat(known) if known else None)

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


class SameNoise(TorchFunctionMode):
    """Noise for several cells from one generator: drawn once, as for one cell alone, and the same for each."""

    def __init__(self, generator: torch.Generator, cells: int) -> None:
        super().__init__()
        self._generator, self._cells = generator, cells

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.randn or kwargs.get("generator") is not self._generator:
            return func(*args, **kwargs)
        shape = tuple(args[0]) if args and not isinstance(args[0], int) else args
        return func((shape[0] // self._cells, *shape[1:]), **kwargs).repeat(self._cells, *[1] * (len(shape) - 1))


def processors_of(pipeline: Any) -> list[tuple[nn.Module, Any]]:
    """The attention processors of a pipeline that puts others in their place while it runs, each with its module."""
    if not hasattr(type(pipeline), "do_perturbed_attention_guidance"):
        return []
    roots = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    return [(m, m.processor) for root in roots for m in root.modules() if hasattr(m, "processor")]


def put_back(processors: list[tuple[nn.Module, Any]]) -> None:
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
