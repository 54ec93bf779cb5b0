"""How many bytes a recording takes, from shapes alone, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cutaway.errors import InputError
from cutaway.model.drawing import units
from cutaway.model.inputs import Inputs
from cutaway.model.schedule import steps_in
from cutaway.model.sites import Site
from cutaway.model.table import Drawing
from cutaway.model.towers import PIPELINES

if TYPE_CHECKING:
    from cutaway.model.engine import Engine


@dataclass(frozen=True)
class Estimate:
    """Bytes by site; `total` is their sum."""

    by_site: dict[str, int]
    shapes: dict[str, tuple[int, ...]]

    @property
    def total(self) -> int:
        """Bytes of the whole recording."""
        return sum(self.by_site.values())

    def __repr__(self) -> str:
        largest = sorted(self.by_site, key=lambda name: -self.by_site[name])[:5]
        said = ", ".join(f"{name} {self.by_site[name] / 2**20:.1f}" for name in largest)
        return f"Estimate({self.total / 2**20:.1f} MiB in {len(self.by_site)} sites; largest (MiB): {said})"


def estimate(engine: Engine, inputs: Inputs, sites: Sequence[Site], dtype: torch.dtype) -> Estimate:
    """The shape and size of every site on these inputs."""
    shapes = {str(site): _shape(engine, inputs, site) for site in sites}
    return Estimate({name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}, shapes)


def _shape(engine: Engine, inputs: Inputs, site: Site) -> tuple[int, ...]:
    sizes = dict(site.sizes)
    if inputs.latent is not None and not inputs.call.loops:
        raise InputError(f"the size of '{site}' at {inputs.call} is only known after a run", do="record it and look")
    if inputs.latent is not None:
        sizes |= _drawn(engine, inputs, site)
    for axis in site.axes:
        if axis not in sizes:
            sizes[axis] = _positions(inputs, site, axis, sizes)
    return tuple(sizes[axis] for axis in site.axes)


def _positions(inputs: Inputs, site: Site, axis: str, sizes: dict[str, int]) -> int:
    if axis not in ("batch", "token", "query", "key"):
        raise InputError(
            f"the size of axis '{axis}' of '{site}' is only known after a run", do="record it once and look"
        )
    known = inputs.map_for(site, axis, sizes.get("pixels", 0))
    return known.batch if axis == "batch" else len(known)


def _drawn(engine: Engine, inputs: Inputs, site: Site) -> dict[str, int]:
    """The sizes a pipeline's call fixes: steps, guidance rows, pictures, and the resolution of a block."""
    call = inputs.tensors
    flagged = hasattr(type(engine.module), "do_classifier_free_guidance")
    own = PIPELINES.get(type(engine.module).__name__, Drawing()).scale
    weight = call.get("guidance_scale", 1) if flagged or own else call.get("true_cfg_scale", 1)
    guided = weight > 1
    tower = engine.towers.get(site.tower)
    if tower and tower.prompted and getattr(engine.module.config, "force_zeros_for_empty_prompt", False):
        guided = guided and "negative_prompt" in call  # without one the pipeline (SDXL) encodes nothing, it puts zeros
    prompted = tower is not None and tower.prompted
    rows = 1 + guided + (not prompted and bool(getattr(engine.module, "pag_scale", 0)))
    copies = 1 if prompted else inputs.copies
    sizes = {"batch": len(inputs.drawn) * copies, "step": steps_in(engine.module, call), "guidance": rows}
    height, width = _resolution(engine, inputs, site)
    return sizes | {"height": height, "width": width, "pixels": height * width}


def _resolution(engine: Engine, inputs: Inputs, site: Site) -> tuple[int, int]:
    """Height and width of the picture at a site: halved by every down block of a UNet that lies before it."""
    factor, patch, _ = units(engine.module, engine.towers["denoiser"])
    height, width = (side * factor * patch for side in inputs.latent or (0, 0))
    if site.tower.startswith("vae"):
        return (height // factor, width // factor) if site.part == "latent" else (height, width)
    if "height" in site.axes and site.layer is None:
        return height // factor, width // factor
    height, width = inputs.latent or (0, 0)
    tower = engine.towers["denoiser"]
    if site.tower != "denoiser" or tower.tokens != "latent" or site.layer is None:
        return height, width
    config: Any = tower.module.config
    words, depth = site.label.split("."), len(config.block_out_channels) - 1
    down = depth if words[0] == "mid_block" else int(words[1]) if words[0] == "down_blocks" else depth - int(words[1])
    for _ in range(down):
        height, width = -(-height // 2), -(-width // 2)
    return height, width
