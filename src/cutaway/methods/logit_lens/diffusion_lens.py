"""What a prompt is drawn as when its text encoder is left early: a picture for each of its layers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.result import Provenance, Result
from cutaway.model.drawing import alone
from cutaway.model.edits import Set
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.prompts import layered_encoders
from cutaway.model.run import Run
from cutaway.model.targets import distance, numbers, outcome
from cutaway.questions.rows import tracked

SOURCE = "Toker et al. 2024, arXiv 2403.05846 (Diffusion Lens)"


@dataclass(frozen=True, eq=False, repr=False)
class DrawnLayers(Result):
    """What is drawn from the states behind each layer of the text encoder.

    `value` (layer, picture): the number of each drawing; `random` (layer, picture): the same from states of that layer
    whose words are those of another prompt, or for a single prompt from noise as large; `plain` (picture): the drawing
    as it is. `drawn` (layer, picture, y, x, channel) in 0 … 255.
    """

    main: ClassVar[str] = "value"

    def summary(self) -> Any:
        """The mean number of each layer, beside that of the baseline."""
        return self.data[["value", "random"]].mean("picture").to_dataframe().reset_index()

    def _draw(self, ax: Axes) -> None:
        """The first drawing of each layer, side by side."""
        frames = self["drawn"].isel(picture=0).values
        ax.imshow(np.concatenate(list(frames), 1).astype(np.uint8))
        wide = frames.shape[2]
        ax.set_xticks([wide * (at + 0.5) for at in range(len(frames))], [str(name) for name in self["layer"].values])
        ax.set_yticks([])
        ax.set_xlabel("layer of the text encoder")


def diffusion_lens(
    model: Model, inputs: Inputs, target: Callable[[Run], Tensor] | None = None, *, levels: int | None = None,
    seed: int = 0, progress: bool = True,
) -> DrawnLayers:  # fmt: skip
    """Draw a prompt from the states behind each layer of its text encoder, as if the layers after it were not there.

    In the place of x_L, the state that the denoiser reads, stands x_l; the encoder's last norm, where one follows, is
    applied as always. `embed` is what enters the first layer. With several encoders all are left at the same share of
    their depth. The rows that guidance is against stay as they are. Each layer costs two drawings; `levels` is how many
    are drawn from, `embed` and the last among them, at even distances.

    `target` is one number a picture, by default the distance (mean squared difference) to the drawing as it is.

    Source: Toker et al. 2024, 2403.05846, section 3, which applies the last norm as this does.
    Raises SiteError for an encoder whose layers are not known (T5), MethodError for a state that the denoiser does not
    read as it is.
    What it can NOT tell: that a word is not there yet. The denoiser was never shown these states; what it cannot draw
    from them may be in them in another form.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> found = diffusion_lens(model, model.inputs(prompt="a red dog", steps=2), progress=False)
    >>> [str(name) for name in found["layer"].values], float(found["value"][-1, 0])
    (['embed', '0', '1'], 0.0)
    """
    started = time.perf_counter()
    read = last_read(model, inputs)
    record = [f"{tower}.0.resid_pre" for tower in read] + [
        f"{tower}.{layer}.resid_post" for tower, top in read.items() for layer in range(top + 1)
    ]
    plain = model.run(inputs, record=record, output="pt")
    aim = distance(outcome(plain).detach()) if target is None else target
    depth = max(read.values()) + 1
    dice = torch.Generator().manual_seed(seed)
    value, random, drawn = [], [], []
    chosen = range(depth + 1) if levels is None else sorted({round(at) for at in np.linspace(0, depth, max(2, levels))})
    for level in tracked(chosen, "drawing from each layer", show=progress):
        states = {tower: _state(plain, tower, round(level * (top + 1) / depth)) for tower, top in read.items()}
        made = _drawn(model, inputs, read, states)
        value.append(numbers(aim, made).detach().double().cpu())
        drawn.append((outcome(made).detach().float().clamp(0, 1).cpu() * 255).round().byte().movedim(1, -1))
        other = {tower: _other(state, dice) for tower, state in states.items()}
        random.append(numbers(aim, _drawn(model, inputs, read, other)).detach().double().cpu())
    names = [str(level - 1) if level else "embed" for level in chosen]
    data = xarray.Dataset(
        {
            "value": (("layer", "picture"), torch.stack(value).numpy()),
            "random": (("layer", "picture"), torch.stack(random).numpy()),
            "plain": ("picture", numbers(aim, plain).detach().double().cpu().numpy()),
            "drawn": (("layer", "picture", "y", "x", "channel"), torch.stack(drawn).numpy()),
        },
        {"layer": names},
    )
    sites = [f"{tower}.{top}.resid_post" for tower, top in read.items()]
    told = Provenance.of(
        "diffusion_lens", SOURCE, started=started, model=model, sites=tuple(sites), seed=seed,
        prompt=inputs.tensors.get("prompt"), unit=getattr(aim, "unit", ""),
    )  # fmt: skip
    return DrawnLayers(data, told)


def last_read(model: Model, inputs: Inputs) -> dict[str, int]:
    """The last layer of each text encoder whose states the denoiser reads, by the tower."""
    if not inputs.call.loops:
        raise MethodError(
            f"what is drawn is seen at the end of a drawing; this is {inputs.call}", expected="a whole drawing",
            do="make the inputs without `step=`",
        )  # fmt: skip
    towers = layered_encoders(model)
    asked = alone(inputs, inputs.drawn[:1])
    given = model.inputs(**asked, step=0).tensors["encoder_hidden_states"][0]
    record = [f"{name}.{end}" for name in towers for end in ("final", "*.resid_post")]
    run = model.run(model.inputs(**asked, step=0, encoder=True), record=record, stop=True)
    found = {}
    for name in towers:
        last = len(model.towers[name].labels) - 1
        ends = {f"{name}.final": last} | {f"{name}.{layer}.resid_post": layer for layer in range(last + 1)}
        tops = [layer for site, layer in ends.items() if _holds(given, run[site].flatten(0, -3)[0])]
        if not tops:
            raise MethodError(
                f"it is not known which state of '{name}' the denoiser of '{model.name}' reads",
                expected="states of one layer, as they are or behind the last norm",
            )  # fmt: skip
        found[name] = max(tops)
    return found


def _holds(given: Float[Tensor, "positions wide"], state: Float[Tensor, "position d"]) -> bool:
    """Whether what a denoiser is given holds a state, in some of its columns."""
    positions, d = state.shape
    if len(given) < positions:
        return False
    columns = given[:positions].split(d, dim=1)
    return any(one.shape == state.shape and torch.equal(one.cpu(), state.cpu().to(one.dtype)) for one in columns)


def _state(run: Run, tower: str, layers: int) -> Float[Tensor, "picture position d"]:
    """The prompts' states behind so many layers."""
    site = f"{tower}.{layers - 1}.resid_post" if layers else f"{tower}.0.resid_pre"
    value = run[site]
    return value[run.guidance[site].index("cond")] if "guidance" in run.sites[site].axes else value


def _drawn(model: Model, inputs: Inputs, read: dict[str, int], states: dict[str, Tensor]) -> Run:
    edits = [Set(f"{tower}.{read[tower]}.resid_post", state, guidance="cond") for tower, state in states.items()]
    return model.run(inputs, edits=edits, output="pt")


def _other(state: Float[Tensor, "picture position d"], dice: torch.Generator) -> Float[Tensor, "picture position d"]:
    """The states of the next prompt; of a single prompt noise as large at each position."""
    if len(state) > 1:
        return state.roll(1, 0)
    noise = torch.randn(state.shape, generator=dice, dtype=torch.float64).to(state)
    return noise * (state.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
