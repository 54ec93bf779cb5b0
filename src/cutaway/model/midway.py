"""A drawing between its steps: its latents there, the evaluation of the denoiser on them, others in their place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.calls import processors_of, put_back
from cutaway.model.denoise import LATENT, at_step
from cutaway.model.engine import Opened
from cutaway.model.inputs import Inputs


@dataclass(frozen=True, eq=False)
class Midway:
    """A drawing before the call of its denoiser at a step: the latents that its scheduler has there.

    `inputs` is that one evaluation, on the prompts alone; what the denoiser is given is `scale` times the latents, so
    that a gradient at `denoiser.latent` times `scale` is one at the latents.
    """

    step: int
    latent: Float[Tensor, "row *latent"]
    inputs: Inputs
    scale: float


Change = Callable[[Midway], Float[Tensor, "row *latent"] | None]


def draw_midway(model: Opened, inputs: Inputs, steps: Sequence[int], change: Change) -> Any:
    """What a pipeline draws when its latents are looked at, and changed, before some of its steps.

    `change` is called before each of the `steps` and gives other latents, or None for these: then the drawing is bit
    for bit the plain one. Edits that are held around act. Other latents at step 0 are given to the pipeline in the
    place of the noise it would draw, so that a scheduler that adds noise at every step draws other noise after them.

    Raises InputError for a step that the drawing does not have, what is no whole drawing from noise, and a pipeline
    that calls nobody between its steps.
    """
    pipeline: Any = model.engine.pipeline
    own = {} if pipeline is None else inspect.signature(type(pipeline).__call__).parameters
    late = "strength" in inputs.tensors
    if not inputs.call.loops or late or not {"callback_on_step_end", "latents"} <= set(own):
        raise InputError(
            f"the latents of {'a drawing that begins with a picture' if late else f'this {inputs.call}'} cannot be "
            "changed between its steps",
            expected="a whole drawing from noise, of a pipeline that takes `latents` and `callback_on_step_end`",
            do="`model.inputs(prompt=…)` of Stable Diffusion 1 to 3, or Flux",
        )  # fmt: skip
    with model.engine.taken():
        begun = at_step(model.engine, inputs, 0)
        name = next(name for name in LATENT if name in begun.tensors)
        like = torch.ones_like(begun.tensors[name])
        stops = {step: at_step(model.engine, inputs, step, like) for step in sorted(set(steps))}
    own_way = processors_of(pipeline)
    scales = {step: float(stop.tensors[name].flatten()[0]) for step, stop in stops.items()}

    def changed(step: int, latent: Tensor) -> Tensor | None:
        given = replace(stops[step], tensors={**stops[step].tensors, name: scales[step] * latent})
        theirs = processors_of(pipeline)
        put_back(own_way)  # perturbed guidance holds others, which take no batch of the prompt alone
        try:
            return change(Midway(step, latent, given, scales[step]))
        finally:
            put_back(theirs)

    theirs = inputs.tensors.get("callback_on_step_end")
    names = list(dict.fromkeys(["latents", *inputs.tensors.get("callback_on_step_end_tensor_inputs", ())]))

    def between(pipeline: Any, step: int, time: Any, held: dict[str, Tensor]) -> dict[str, Tensor]:
        held = held if theirs is None else {**held, **theirs(pipeline, step, time, held)}
        new = changed(step + 1, held["latents"]) if step + 1 in stops else None
        return held if new is None else {**held, "latents": new.to(held["latents"])}

    given: dict[str, Any] = {"callback_on_step_end": between, "callback_on_step_end_tensor_inputs": names}
    if 0 in stops and (first := changed(0, begun.tensors[name] / scales[0])) is not None:
        noise = float(getattr(pipeline.scheduler, "init_noise_sigma", 1.0))
        given["latents"] = first.to(like) / noise
    with model.engine.taken():
        return inputs.call(pipeline, inputs.tensors, output="pt", quiet=True, **given)
