"""Inputs for one evaluation of a denoiser: what a pipeline gives it at a step, with latents of one's own if wanted.

The pipeline itself prepares the call (prompt embeddings, time ids, rotary ids, the form of the timestep): it is run up
to the denoiser and stopped there. So nothing of it is written again here, and any pipeline with a known denoiser works.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import InputError
from cutaway.model.calls import Denoise
from cutaway.model.drawing import prepare_drawing, taken, units
from cutaway.model.encoded import encoded
from cutaway.model.engine import Engine
from cutaway.model.inputs import Inputs, as_list
from cutaway.model.known import SHARED, parameters
from cutaway.model.pictures import picture
from cutaway.model.schedule import Schedule
from cutaway.model.seats import Tower

LATENT = ("sample", "hidden_states")  # what denoisers call the picture


class _Caught(Exception):  # noqa: N818, it carries what was looked for
    """The call of the denoiser that was waited for."""

    def __init__(self, given: dict[str, Any], names: tuple[str, ...], clock: Schedule) -> None:
        super().__init__()
        self.given, self.names, self.clock = given, names, clock


def draw_inputs(
    engine: Engine, drawn: dict[str, Any], step: int | None, latent: Tensor | None, others: Mapping[str, Any],
    *, encoder: bool = False,
) -> Inputs:  # fmt: skip
    """What a pipeline is run on: a whole drawing, or with a `step` one evaluation of its denoiser.

    The picture of a pipeline that begins with one is part of the drawing; any other takes a picture at a step alone.
    """
    pipeline: Any = engine.pipeline
    takes, image = taken(pipeline), None
    if "image" not in takes:
        image, drawn = drawn["image"], {**drawn, "image": None}
    odd = next((name for name, value in others.items() if value is not None), None)
    alone = next((name for name, value in (("image", image), ("latent", latent)) if value is not None), None)
    alone = alone or ("encoder" if encoder else None)
    if odd or (alone and step is None):
        raise InputError(
            f"{type(pipeline).__name__} takes no `{odd or alone}=`",
            expected=", ".join(f"`{name}=`" for name in takes if name != "height"),
            do="" if odd else f"`{alone}=` goes with `step=`: one evaluation of the denoiser on it",
        )  # fmt: skip
    made = prepare_drawing(pipeline, engine.towers, drawn)
    if step is None:
        return made
    pixels = None
    if image is not None:
        if not hasattr(pipeline, "vae"):
            raise InputError(
                f"{type(pipeline).__name__} has no autoencoder for `image=`", expected="`latent=`: pixels in [-1, 1]"
            )
        factor, patch, _ = units(pipeline, engine.towers["denoiser"])
        height, width = (side * factor * patch for side in made.latent or (0, 0))
        pixels = pipeline.image_processor.preprocess([picture(one) for one in as_list(image)], height, width)
        pixels = pixels.repeat_interleave(made.copies, 0) if len(pixels) == len(made.drawn) else pixels
    with engine.taken():
        once = _denoise(pipeline, engine.towers["denoiser"], made, step, latent, pixels)
        return encoded(pipeline, made, once) if encoder else once


def at_step(engine: Engine, drawn: Inputs, step: int, latent: Tensor | None = None) -> Inputs:
    """The evaluation of the denoiser at a step of a whole drawing: on its own latents there, or on these."""
    return _denoise(engine.pipeline, engine.towers["denoiser"], drawn, step, latent, None)


def _denoise(
    pipeline: Any, tower: Tower, drawn: Inputs, step: int, latent: Tensor | None, image: Tensor | None
) -> Inputs:  # fmt: skip
    """One evaluation at a step of the drawing that `drawn` describes.

    The latents are those that the drawing itself has there (its guidance and all steps before are computed), or
    `latent`, or `image` (in [-1, 1]) encoded by the pipeline's autoencoder with noise of the drawing's seed added.
    """
    rows, own = len(drawn.drawn) * drawn.copies, latent is None and image is None
    caught = _caught(pipeline, tower, drawn, step, first=not own)
    given, names, clock = caught.given, caught.names, caught.clock
    name = next((name for name in LATENT if name in given), None)
    if name is None:
        raise InputError(
            f"it is not known what {type(tower.module).__name__} calls its picture", expected=" or ".join(LATENT),
            exists=", ".join(given),
        )  # fmt: skip
    if "cond" not in names or len(given[name]) != rows * len(names):
        raise InputError(
            f"nothing says which of the {len(given[name])} rows that {type(pipeline).__name__} puts into one batch are "
            f"those of {rows} pictures",
            expected="one guidance row of a name for each", exists=", ".join(filter(None, names)),
            do="draw with `guidance=1` or plain guidance",
        )  # fmt: skip
    part, of = slice(names.index("cond") * rows, (names.index("cond") + 1) * rows), len(names)
    tensors = {
        key: _prompted(value, part, rows * of) if of > 1 and key not in SHARED else value
        for key, value in given.items()
        if key != "return_dict" and value is not None
    }
    truth = None
    if not own:
        tensors["timestep"] = _time(pipeline, tensors["timestep"], clock, step)
        tensors[name], truth = _given(
            pipeline, clock.time(step), step, latent, image, drawn.tensors["seed"], tensors[name]
        )
    for key in {"timestep", "guidance"} & set(tensors):  # one a row, so that rows may be several cells of a sweep
        tensors[key] = torch.as_tensor(tensors[key]).to(tensors[name].device).expand(rows)
    part_name = next(part for part, module in pipeline.components.items() if module is tower.module)
    return replace(drawn, tensors={**tensors, "return_dict": True}, call=Denoise(part_name, step, clock.steps, truth))


@torch.no_grad()
def _caught(pipeline: Any, tower: Tower, drawn: Inputs, step: int, *, first: bool) -> _Caught:
    """The denoiser's first call at a step of a drawing, or at its first step: of a batch for guidance all rows."""
    names, clock = parameters(tower.module), Schedule(pipeline, len(drawn.drawn) * drawn.copies)

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        clock.tick(given.get("timestep"))
        if not 0 <= step < clock.steps:
            raise InputError(
                f"no step {step}", expected=f"0 to {clock.steps - 1}: the calls of the denoiser in this drawing"
            )
        if clock.step == (0 if first else step):
            batch = next((len(given[name]) for name in LATENT if name in given), 0)
            raise _Caught(given, clock.names(batch), clock)

    handle = tower.module.register_forward_pre_hook(catch, with_kwargs=True, prepend=True)
    try:
        drawn.call(pipeline, drawn.tensors, output="pt", quiet=True)
    except _Caught as caught:
        return caught
    finally:
        handle.remove()
    raise InputError(f"the denoiser never came to step {step}", do="report this: the pipeline skips steps")


def _prompted(value: Any, part: slice, batch: int) -> Any:
    """The rows of the prompt out of a batch that holds those of guidance as well."""
    if isinstance(value, Mapping):
        return {key: _prompted(entry, part, batch) for key, entry in value.items()}
    whole = isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch
    return value[part] if whole else value


def _given(
    pipeline: Any, time: Tensor, step: int, latent: Tensor | None, image: Tensor | None, seed: int, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Latents of one's own as the denoiser takes them at a step, and what it is to say of them where that is known."""
    scheduler, truth = _fresh(pipeline.scheduler), None
    if hasattr(scheduler, "sigmas_interpol") and step % 2:
        raise InputError(
            f"call {step} of {type(scheduler).__name__} stands between two of its noise levels",
            expected="an even step: the first of its two calls",
            do=f"`step={step - 1}`, or leave out `latent=` and `image=`",
        )  # fmt: skip
    if latent is None:
        latent, truth = _noised(pipeline.vae, scheduler, image, time, seed, like)
        truth = _packed(pipeline, truth, like).to(like)
    latent = _packed(pipeline, latent, like)
    if latent.shape != like.shape:
        raise InputError(f"latents of shape {tuple(latent.shape)}", expected=f"{tuple(like.shape)}")
    if hasattr(scheduler, "scale_model_input"):
        latent = scheduler.scale_model_input(latent, time)
    return latent.to(like), truth


def _time(pipeline: Any, first: Any, clock: Schedule, step: int) -> Tensor:
    """The timestep of a step in the form in which the pipeline gave the first one: itself, or a share of the whole."""
    begun, first = float(clock.time(0)), torch.as_tensor(first)
    share = float(first.flatten()[0]) / begun
    whole = int(getattr(pipeline.scheduler.config, "num_train_timesteps", 1000))
    if not any(abs(share * by - 1) < 1e-3 for by in (1, whole)):
        raise InputError(
            f"{type(pipeline).__name__} gives its denoiser another time than its scheduler's",
            expected=f"{begun} or {begun / whole}", exists=f"{float(first.flatten()[0])}",
            do="leave out `latent=` and `image=`: the drawing's own latents need no time of ours",
        )  # fmt: skip
    made = clock.time(step).to(first.device, first.dtype)
    return (made if abs(share - 1) < 1e-3 else made / whole).expand(first.shape)


def _fresh(scheduler: Any) -> Any:
    """A copy of a scheduler that looks up every time it is given, instead of counting its own steps."""
    made = copy.copy(scheduler)
    made._step_index = made._begin_index = None
    return made


def _noised(
    vae: Any, scheduler: Any, image: Any, time: Tensor, seed: int, like: Tensor
) -> tuple[Float[Tensor, "row channel height width"], Tensor]:
    """Latents of pictures with noise of a seed at a time, and what the denoiser is to say of them."""
    with torch.no_grad():
        clean = vae.encode(image.to(like.device, vae.dtype)).latent_dist.mode()
    clean = (clean - (getattr(vae.config, "shift_factor", None) or 0)) * vae.config.scaling_factor
    time = time[None].expand(len(clean))
    noise = torch.randn(clean.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(clean)
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return scheduler.scale_noise(clean, time, noise), noise - clean
    kind = scheduler.config.prediction_type
    truths = {"epsilon": noise, "sample": clean}
    if kind == "v_prediction":
        truths[kind] = scheduler.get_velocity(clean, noise, time)
    if kind not in truths:
        raise InputError(f"nothing is known of predictions of type '{kind}'", expected="epsilon, sample, v_prediction")
    return scheduler.add_noise(clean, noise, time), truths[kind]


def _packed(pipeline: Any, latent: Tensor, like: Tensor) -> Tensor:
    """Latents in the form that the denoiser takes: Flux packs 2 x 2 places into one position."""
    if latent.dim() == 4 and like.dim() == 3:
        packed: Tensor = pipeline._pack_latents(latent, *latent.shape)
        return packed
    return latent
