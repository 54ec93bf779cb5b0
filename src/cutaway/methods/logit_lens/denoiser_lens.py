"""What each block of a denoiser would predict if it were the last: read through the denoiser's own end."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import InputError, MethodError
from cutaway.methods.result import Provenance, Result, drawn, heat
from cutaway.model.denoiser_end import DenoiserEnd, denoiser_end
from cutaway.model.forming import clean_latent, guided, pictured
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.session import Reading
from cutaway.model.steps import chosen_steps, drawn_steps
from cutaway.questions.rows import tracked

METHOD = "denoiser_lens"
SOURCE = "nostalgebraist 2020, interpreting GPT: the logit lens; Esser et al. 2024, arXiv 2403.03206 (the architecture)"
TOWER = "denoiser"


@dataclass(frozen=True, eq=False, repr=False)
class DenoiserLens(Result):
    """What each block says of the prediction, -1 being what enters the first.

    `far` (step, layer, picture): how far what is read lies from what is predicted, in lengths of the latter: 0 at the
    last block, 1 where nothing is said. `random`, the same axes: of the states of other patches of the picture. `away`
    (step, layer, picture, row, col): patch by patch, in root mean square lengths of the prediction; far² is its mean
    square. `forming` (step, layer, y, x, channel): what the first drawing would become by what each block says, where
    the scheduler tells. `drawn` (picture, y, x, channel) is what was drawn.
    """

    main: ClassVar[str] = "far"

    def summary(self) -> Any:
        """Each layer, the mean over steps and pictures, beside states of other patches."""
        return self.data[["far", "random"]].mean(("step", "picture")).to_dataframe().reset_index()

    def note(self) -> str:
        """What the numbers are."""
        return "Lengths of the prediction: 0 is what the denoiser predicts, 1 is nothing, and more is worse than that."

    def _draw(self, ax: Axes) -> None:
        heat(ax, self["far"].mean("picture").transpose("layer", "step"), "how far each block is from the prediction")


def denoiser_lens(
    model: Model, inputs: Inputs, *, steps: int | Collection[int] = 5, seed: int = 0, progress: bool = True
) -> DenoiserLens:  # fmt: skip
    """Read what a denoiser of joint attention would predict if it ended behind each of its blocks.

    y_l = P ((1 + a) N(x_l) + b) + c at each patch: the denoiser's own last norm, at the scale of x_l, what the timestep
    makes of it (a, b), and its matrix; with guidance y = u + w (y_cond - u) of the readings of both rows, w the scale.
    far_l = sqrt(sum over patches |y_l - y|² / sum |y|²), y the prediction itself, which y_l is at the last block; a
    denoiser where it is not is an error. With what y_l says of the noise, the latents of a step become a picture.
    `steps`: which of a drawing, or so many at even distances, all for 0. Chance: each patch read at another patch.

    Units: lengths of the prediction. Source: the logit lens (nostalgebraist 2020), carried over to the picture's stream
    of SD3 and Flux; we know of no publication that does so. SiteError for a denoiser with no such end (a UNet, DiT),
    MethodError for guidance rows other than cond and uncond.
    What it can NOT tell: that a block knows no more than is read: what it holds in another basis is not read. Nor that
    the blocks behind use what is.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd3")
    >>> found = denoiser_lens(model, model.inputs(prompt="a red dog", steps=2, size=(32, 32)), progress=False)
    >>> found["far"].dims, bool(found["far"].sel(layer=1).max() < 1e-5)
    (('step', 'layer', 'picture'), True)
    """
    started = time.perf_counter()
    end = denoiser_end(model)
    layers = range(-1, model.sites.towers()[TOWER])
    states = [f"{TOWER}.0.image.resid_pre", *(f"{TOWER}.{layer}.{end.state}" for layer in layers[1:])]
    kept = _Kept(end, states, inputs, chosen_steps(model.module, steps, inputs), torch.Generator().manual_seed(seed))
    many = drawn_steps(model.module, inputs) * (len(states) + 3)
    bar = tracked(range(many), "drawing", show=progress)

    def add(reading: Reading) -> None:
        kept.add(reading)
        next(bar, None)

    sites = [f"{TOWER}.latent", *states, *end.sites, f"{TOWER}.out"]
    outputs = model.run(inputs, record=sites, into=add).outputs
    kept.close()
    data = kept.data(layers).assign(drawn(outputs))
    if "drawn" in data and (frames := kept.pictures(model)) is not None:
        data["forming"] = ("step", "layer", "y", "x", "channel"), frames
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(sites), seed=seed, prompt=list(inputs.drawn)
    )
    return DenoiserLens(data, told)


@dataclass
class _Kept:
    """What every block says at the steps that are read: a step is put together when the next begins."""

    end: DenoiserEnd
    states: list[str]
    inputs: Inputs
    steps: Collection[int] | None
    dice: torch.Generator
    now: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    step: int = -1
    away: dict[int, Float[Tensor, "picture layer patch"]] = field(default_factory=dict)
    chance: dict[int, Float[Tensor, "picture layer patch"]] = field(default_factory=dict)
    first: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # of the first drawing: latents, readings

    def add(self, reading: Reading) -> None:
        """One reading."""
        if reading.step != self.step:
            self.close()
            self.step = reading.step
        if self.steps is None or reading.step in self.steps:
            for at, name in enumerate(reading.guidance):
                self.now.setdefault(name, {})[str(reading.site)] = reading.value[at].clone()

    def close(self) -> None:
        """The step is over: put it together, and let go of what was read."""
        if not self.now:
            return
        odd = sorted(set(self.now) - {"cond", "uncond"})
        if odd or "cond" not in self.now:
            raise MethodError(
                f"it is not known what becomes of the guidance rows {', '.join(self.now)}",
                expected="those with the prompt and without", do="draw with plain guidance, or with none",
            )  # fmt: skip
        runs = {name: Run(None, self.inputs, activations=found) for name, found in self.now.items()}
        read = self._guided(runs, None)
        order = torch.randperm(read.shape[2], generator=self.dice)
        length = read[:, -1:].norm(dim=-1).square().mean(-1, keepdim=True).sqrt()
        other = self._guided(runs, order)
        self.away[self.step] = ((read - read[:, -1:]).norm(dim=-1) / length).cpu()
        self.chance[self.step] = ((other - read[:, -1:]).norm(dim=-1) / length).cpu()
        cond = runs["cond"]
        laid = self.end.laid(read[0], cond).cpu()
        self.first[self.step] = cond[f"{TOWER}.latent"][:1].cpu().expand_as(laid), laid
        self.now = {}

    def _guided(self, runs: Mapping[str, Run], order: Tensor | None) -> Float[Tensor, "picture layer patch channel"]:
        """What all rows of the guidance say together, by layer; of patches in another order, if one is given."""
        made = []
        for run in runs.values():
            states = torch.stack([run[site] for site in self.states], 1)
            here = {name: run[name][:, None] for name in self.end.sites}
            said = self.end(states if order is None else states[:, :, order.to(states.device)], _with(run, here))
            out = self.end.parted(run[f"{TOWER}.out"]).to(said)
            gap = float((said[:, -1] - out).abs().max() / out.abs().max()) if order is None else 0.0
            if not gap <= torch.finfo(run[self.states[0]].dtype).eps ** 0.5:
                raise MethodError(
                    f"the last block, read through the denoiser's end, is {gap:.1%} from what it gives",
                    expected="a prediction that follows from the last state by its norm and matrix",
                    do="take off edits and hooks at its end",
                )  # fmt: skip
            made.append(said)
        return guided(torch.stack(made), list(runs), float(self.inputs.tensors.get("guidance_scale", 1.0)))

    def data(self, layers: range) -> xarray.Dataset:
        """All steps, patches on their grid."""
        steps, tokens = sorted(self.away), self.inputs.tokens[TOWER]
        away, chance = (torch.stack([one[step] for step in steps]).transpose(1, 2) for one in (self.away, self.chance))
        grid = int(tokens.row.max()) + 1, int(tokens.col.max()) + 1
        return xarray.Dataset(
            {
                "far": (("step", "layer", "picture"), _root(away)),
                "random": (("step", "layer", "picture"), _root(chance)),
                "away": (("step", "layer", "picture", "row", "col"), away.unflatten(-1, grid).double().numpy()),
            },
            {"step": steps, "layer": list(layers)},
        )

    def pictures(self, model: Model) -> UInt8[np.ndarray, "step layer y x channel"] | None:
        """What the first drawing would become, by step and layer; None where the scheduler does not say how."""
        pipeline: Any = model.engine.pipeline
        late = "strength" in self.inputs.tensors  # a drawing that begins with a picture runs the last times of the list
        before = len(pipeline.scheduler.timesteps) - self.step - 1 if late else 0
        try:
            clean = [
                clean_latent(pipeline.scheduler, before + step, latent, said)
                for step, (latent, said) in sorted(self.first.items())
            ]
        except InputError:
            return None
        return np.stack([pictured(model, self.inputs, one) for one in clean])


def _root(away: Float[Tensor, "step layer picture patch"]) -> np.ndarray:
    """The root of the mean square over patches."""
    return np.asarray(away.double().square().mean(-1).sqrt().numpy())


def _with(run: Run, activations: Mapping[str, Tensor]) -> Run:
    return Run(None, run.inputs, activations=dict(activations))
