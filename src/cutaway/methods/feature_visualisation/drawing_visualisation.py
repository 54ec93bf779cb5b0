"""Drawings led so that a unit becomes large: of the denoiser itself, or of another model that sees what is drawn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.feature_visualisation.aims import activation, laid, units_of
from cutaway.methods.feature_visualisation.ascent import Aim, Eye
from cutaway.methods.feature_visualisation.feature_visualisation import listed
from cutaway.methods.network_dissection.unit_maps import unit_site
from cutaway.methods.result import Provenance, Result
from cutaway.model.denoise import LATENT
from cutaway.model.forming import clean_latent, decoded
from cutaway.model.inputs import Inputs
from cutaway.model.midway import Midway, draw_midway
from cutaway.model.model import Model
from cutaway.model.steps import drawn_steps
from cutaway.model.targets import numbers
from cutaway.questions.rows import tracked

METHOD = "drawing_visualisation"
SOURCE = "Bansal et al. 2023, arXiv 2302.07121 (universal guidance); Augustin et al. 2024, arXiv 2311.17833 (neurons)"
SIDES = ("plain", "led", "random")
SEEN = "denoiser.latent"
FEW, TINY = 2, 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class Led(Result):
    """Drawings from one noise: as they are, led so that a number becomes large, and moved as far by chance.

    `value` (unit, side, draw): the number, of the denoiser at `step`, of a model that sees the picture in the end;
    `path` (unit, side, step, draw) the same as the drawing goes on; `picture` (unit, side, y, x, channel): of each side
    the drawing in which it is largest; `length` how far latents are moved at a step, as a share of their length.
    """

    main: ClassVar[str] = "value"

    def summary(self) -> Any:
        """A row a unit: the best draw of each side."""
        return self["value"].max("draw").to_pandas().reset_index()

    def note(self) -> str:
        """What is compared."""
        return f"The best of {self.data.sizes['draw']} drawings of each side; `plain` is choosing among draws alone."

    def _draw(self, ax: Axes) -> None:
        """The pictures, a row a unit."""
        rows = [np.concatenate([*one], 1) for one in self["picture"].values]
        ax.imshow(np.concatenate(rows, 0))
        side = self.data.sizes["x"]
        ax.set_xticks([side * (at + 0.5) for at in range(len(SIDES))], SIDES)
        ax.set_yticks([side * (at + 0.5) for at in range(len(rows))], self["unit"].values)


def drawing_visualisation(
    model: Model, inputs: Inputs, *, site: str = "", units: Sequence[int] | str | None = None, many: int = FEW,
    step: int | None = None, eye: Model | None = None, shown: Inputs | None = None, aims: Sequence[Aim] = (),
    strength: float = 0.1, seed: int = 0, progress: bool = True,
) -> Led:  # fmt: skip
    """Draw so that a unit becomes large: latents are moved up its gradient before each call of the denoiser.

    x_t <- x_t + strength |x_t| g / |g|, g = df / dx_t, before every step up to `step` (the middle), f the mean
    activation of the unit at `site` of the denoiser, called with the prompt alone; f is read at `step`. Without `units`
    the `many` whose largest activation in the plain drawing stands out most. With an `eye`, a model that sees pictures
    (`shown`: its inputs, with one), f is its number of what the drawing would become, the autoencoder's picture of
    x0(x_t), at every step: units at `site` of the eye, or `aims`. The denoiser keeps the picture among those that it
    draws: it is the prior. `random` moves as far in directions that `seed` draws.

    Units: those of the site or target. Sources: Bansal et al. 2023, 2302.07121, who also go back and forth at a step;
    Augustin et al. 2024, 2311.17833, who do so for neurons and optimise the first noise and the prompt instead.
    InputError for a pipeline that cannot be stopped between its steps.

    What it can NOT tell: that the unit is about what is drawn: a prior that draws few things shows the nearest of
    these, and a move of that length changes a drawing by itself: compare `random`.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> inputs = model.inputs(prompt="a dog", steps=3)
    >>> found = drawing_visualisation(model, inputs, many=1, progress=False)
    >>> found["value"].dims, found["value"].shape
    (('unit', 'side', 'draw'), (1, 3, 1))
    """
    started = time.perf_counter()
    every = drawn_steps(model.module, inputs)
    last = every - 1 if eye is not None else every // 2 if step is None else step
    if not 0 <= last < every or strength < 0 or many < 1:
        raise MethodError(
            f"a drawing of {every} steps is led to step {last} with strength {strength}, for {many} units",
            expected=f"a step from 0 to {every - 1}, a strength from 0, a unit at least", do="name another `step`",
        )  # fmt: skip
    if eye is None:
        named, risers = _own(model, inputs, site, listed(units), many, last)
    else:
        named, risers = _seen(model, eye, shown, site, listed(units), aims)
    made = []
    for riser in tracked(risers, "drawings", show=progress):
        pulled: dict[int, Tensor] = {}
        dice = torch.Generator().manual_seed(seed)
        made.append([_drawn(model, inputs, riser, last, side, strength, pulled, dice) for side in SIDES])
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=(site,) if site else (), seed=seed, step=last,
        strength=strength, eye=None if eye is None else eye.name, prompt=inputs.tensors.get("prompt"),
    )  # fmt: skip
    return Led(_table(made, named, last, strength), told)


@dataclass(frozen=True, eq=False)
class Riser:
    """A number of a drawing at a step, and its gradient to the latents: of the denoiser, or of who sees the picture."""

    model: Model
    aim: Aim
    eye: Eye | None = None

    def __call__(self, midway: Midway) -> tuple[Float[Tensor, "draw"], Float[Tensor, "draw *latent"]]:
        """What is there, and d sum / d x_t."""
        if self.eye is None:
            assert isinstance(self.aim, activation)
            found = self.model.gradients(midway.inputs, self._rows(len(midway.latent)), [SEEN, self.aim.reads_at])
            return found.values, midway.scale * found[SEEN][0, 0]
        with torch.inference_mode(False), torch.enable_grad():
            latent = midway.latent.detach().clone().requires_grad_()
            name = next(one for one in LATENT if one in midway.inputs.tensors)
            given = {**midway.inputs.tensors, name: midway.scale * latent}
            said = self.model.run(replace(midway.inputs, tensors=given), grad=True).outputs.sample
            scheduler: Any = self.model.engine.pipeline.scheduler  # type: ignore[union-attr]
            clean = clean_latent(scheduler, midway.step, midway.scale * latent, said)
            value = self.sees(decoded(self.model, clean), grad=True)
            (slope,) = torch.autograd.grad(value.sum(), latent)
        return value.detach(), slope

    def sees(self, pictures: Float[Tensor, "n channel y x"], *, grad: bool = False) -> Float[Tensor, "n"]:
        """The number of pictures in [0, 1], of whatever size."""
        assert self.eye is not None
        if tuple(pictures.shape[-2:]) != self.eye.size:
            pictures = torch.nn.functional.interpolate(pictures, self.eye.size, mode="bilinear", antialias=True)
        aim = self._rows(len(pictures))
        record = [aim.reads_at] if isinstance(aim, activation) else []
        return numbers(aim, self.eye.run(pictures, record, grad=grad, stop=True))

    def _rows(self, rows: int) -> Aim:
        return replace(self.aim, units=self.aim.units * rows) if isinstance(self.aim, activation) else self.aim


def _own(
    model: Model, inputs: Inputs, site: str, units: Sequence[int] | None, many: int, step: int
) -> tuple[list[str], list[Riser]]:  # fmt: skip
    """Units of the denoiser."""
    chosen = str(unit_site(model, site))
    if not units:
        held: list[Tensor] = []

        def look(midway: Midway) -> None:
            run = model.run(midway.inputs, record=[chosen])
            held.append(units_table(run, chosen))

        draw_midway(model, inputs, [step], look)
        peak = held[0].amax(0) / held[0].abs().mean(0).clamp_min(TINY)
        units = peak.topk(min(many, len(peak))).indices.tolist()
    return [str(one) for one in units], [Riser(model, units_of(model, chosen, [one], "all")) for one in units]


def units_table(run: Any, site: str) -> Float[Tensor, "place unit"]:
    """What all units of a site do at all places of all rows."""
    return laid(run, site).flatten(0, 1).detach().float()


def _seen(
    model: Model, eye: Model, shown: Inputs | None, site: str, units: Sequence[int] | None, aims: Sequence[Aim]
) -> tuple[list[str], list[Riser]]:  # fmt: skip
    """Numbers of a model that sees what is drawn."""
    if shown is None or not (aims or (site and units)):
        raise MethodError(
            "nothing of the model that sees the drawing is to become large", expected="its inputs (`shown=`), and "
            "units of a site or `aims`", do="`shown=eye.inputs(image=…), site='vision.4.mlp.post', units=[3]`",
        )  # fmt: skip
    sight = Eye(eye, shown)
    wanted: list[Aim] = list(aims) or [units_of(eye, site, [one], "patches") for one in units or ()]
    names = [repr(one) for one in aims] or [str(one) for one in units or ()]
    return names, [Riser(model, one, sight) for one in wanted]


def _drawn(
    model: Model, inputs: Inputs, riser: Riser, last: int, side: str, strength: float, pulled: dict[int, Tensor],
    dice: torch.Generator,
) -> tuple[Float[Tensor, "step draw"], Float[Tensor, "draw channel y x"]]:  # fmt: skip
    """One side: its number at every step, the pictures."""
    path: list[Tensor] = []

    def change(midway: Midway) -> Tensor | None:
        value, slope = riser(midway)
        path.append(value.detach().float().cpu())
        still = side == "plain" or (midway.step >= last and riser.eye is None) or not strength
        if still:
            return None
        way = slope
        if side == "random":
            way = torch.randn(slope.shape, generator=dice).to(slope)
        return midway.latent + strength * _length(midway.latent) * way / _length(way).clamp_min(TINY)

    pictures = draw_midway(model, inputs, range(last + 1), change).images.detach().clamp(0, 1)
    if riser.eye is not None:
        path.append(riser.sees(pictures).detach().float().cpu())
    return torch.stack(path), pictures


def _length(move: Tensor) -> Tensor:
    """The length of each row, to be divided by."""
    return move.flatten(1).norm(dim=1).reshape(-1, *[1] * (move.dim() - 1))


def _table(made: Sequence[Any], named: list[str], last: int, strength: float) -> xarray.Dataset:
    path = torch.stack([torch.stack([one for one, _ in sides]) for sides in made])
    best = path[:, :, -1].argmax(-1)
    shown = torch.stack([
        torch.stack([pictures[int(best[unit, side])] for side, (_, pictures) in enumerate(sides)])
        for unit, sides in enumerate(made)
    ])  # fmt: skip
    return xarray.Dataset(
        {
            "value": (("unit", "side", "draw"), path[:, :, -1].numpy()),
            "path": (("unit", "side", "step", "draw"), path.numpy()),
            "picture": (
                ("unit", "side", "y", "x", "channel"),
                (shown.movedim(2, -1) * 255).round().to(torch.uint8).cpu().numpy(),
            ),
            "length": float(strength),
        },
        {"unit": named, "side": list(SIDES)},
    )  # fmt: skip
