"""How a denoiser with a last norm and a matrix is read at its end: what each position says of noise or velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import SiteError
from cutaway.model.engine import Opened
from cutaway.model.linear import linear_map, norm_weights
from cutaway.model.run import Run
from cutaway.model.seats import denominator, is_rms, norm_eps
from cutaway.model.towers import TOWERS


@dataclass(frozen=True, eq=False)
class DenoiserEnd:
    """How the picture's residual stream x is read at its end: y_j = P ((1 + a) N(x_j) + b) + c at each position j.

    N(x) = g * (x - m) / s + h is the last norm (m = 0 for an RMSNorm); a and b come from the timestep and what of the
    prompt goes with it, the same at every position of a row: so for a given row y is linear in x / s. P and c are the
    projection into the latent places of a position, `patch` by `patch` of them with all channels each, or the channels
    of a packed position where `patch` is 0.
    """

    tower: str
    gain: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"]
    weight: Float[Tensor, "channel d_model"]
    offset: Float[Tensor, "channel"]
    centred: bool
    eps: float
    patch: int

    @property
    def sites(self) -> tuple[str, ...]:
        """What it needs of a run: what the timestep makes of the last norm."""
        return (f"{self.tower}.norm.condition",)

    @property
    def state(self) -> str:
        """The name that the last state has behind its layer: `image.resid_post`."""
        return "image.resid_post"

    def conditioned(self, run: Run) -> tuple[Float[Tensor, "*rows d_model"], Float[Tensor, "*rows d_model"]]:
        """Gain and bias of the last norm in a run that recorded `sites`, a row each: (1 + a) g and (1 + a) h + b."""
        a, b = run[self.sites[0]].to(self.weight).chunk(2, -1)
        return (1 + a) * self.gain, (1 + a) * self.bias + b

    def matrices(self, run: Run) -> Float[Tensor, "*rows channel d_model"]:
        """The linear part of each row for s = 1: P diag((1 + a) g), with the mean taken out when the norm does so."""
        scaled = self.weight * self.conditioned(run)[0][..., None, :]
        return scaled - scaled.mean(-1, keepdim=True) if self.centred else scaled

    def constants(self, run: Run) -> Float[Tensor, "*rows channel"]:
        """What is there whatever the state: P ((1 + a) h + b) + c, a row each."""
        return self.conditioned(run)[1] @ self.weight.T + self.offset

    def scale(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """The denominator s of the last norm for a state."""
        return denominator(hidden, self.centred, self.eps)

    def __call__(self, hidden: Float[Tensor, "*rows token d_model"], run: Run) -> Float[Tensor, "*rows token channel"]:
        """Read states of the picture's stream as if they were the last ones of the same rows of a run."""
        hidden = hidden.to(self.weight)
        inner = hidden / self.scale(hidden)[..., None]
        return inner @ self.matrices(run).transpose(-1, -2) + self.constants(run)[..., None, :]

    def laid(self, read: Float[Tensor, "*rows token channel"], run: Run) -> Float[Tensor, "*latent"]:
        """What positions say, laid out as the denoiser gives it: on the latent picture, or packed as it is."""
        if not self.patch:
            return read
        tokens = run.inputs.tokens[self.tower]
        rows, cols = (int(axis[0].max()) + 1 for axis in (tokens.row, tokens.col))
        places = read.unflatten(-2, (rows, cols)).unflatten(-1, (self.patch, self.patch, -1))
        return torch.einsum("...hwpqc->...chpwq", places).flatten(-4, -3).flatten(-2, -1)

    def parted(self, made: Float[Tensor, "*latent"]) -> Float[Tensor, "*rows token channel"]:
        """What the denoiser gives, position by position: the inverse of `laid`."""
        if not self.patch:
            return made
        places = made.unflatten(-2, (-1, self.patch)).unflatten(-1, (-1, self.patch))
        return torch.einsum("...chpwq->...hwpqc", places).flatten(-3, -1).flatten(-3, -2)


def denoiser_end(model: Opened, tower: str = "denoiser") -> DenoiserEnd:
    """How a denoiser is read at its end; SiteError where no matrix stands behind its last state, as in a UNet.

    Of a run of one evaluation (`model.inputs(…, step=)`) or a drawing, row by row. What it can NOT tell: what a state
    before the last becomes in the blocks behind it, which read the text as well.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd3", dtype="float64")
    >>> end, last = denoiser_end(model), "denoiser.1.image.resid_post"
    >>> inputs = model.inputs(prompt="a dog", steps=2, step=1, size=(32, 32), guidance=1.0)
    >>> run = model.run(inputs, record=[last, "denoiser.out", *end.sites])
    >>> torch.allclose(end.laid(end(run[last], run), run), run["denoiser.out"])
    True
    """
    engine = model.engine
    if tower not in engine.towers:
        raise SiteError(f"no tower '{tower}'", exists=", ".join(engine.towers) or "no named tower")
    condition, scale, final = (f"{tower}.{part}" for part in ("norm.condition", "norm.scale", "final"))
    if condition not in engine.sites:
        kind = type(engine.towers[tower].module).__name__
        known = [name for name, row in TOWERS.items() if "norm.condition" in row.once]
        unet = engine.towers[tower].tokens == "latent"
        raise SiteError(
            f"the end of '{tower}' ({kind}) is not linear in any state of it"
            if unet
            else f"it is not known how '{tower}' ({kind}) is read at its end",
            expected=f"a last norm with a matrix behind it, as in {', '.join(known)}",
            exists="convolutions over neighbouring places with a non-linearity before the last, and skips that join "
            "states of several sizes" if unet else "no such end in its row of model/towers.py",
            do="ask for its slope at an input, `model.gradients`, or change a state and see, `model.sweep`",
        )  # fmt: skip
    norm = engine.seat(scale).module
    gain, bias = (weight.detach() for weight in norm_weights(norm))
    out = engine.sites.one(f"{tower}.out")
    weight, offset = linear_map(engine.seat(final).module, final, engine.dtype)  # what the last norm's output enters
    config: Any = engine.towers[tower].module.config
    patch = int(config.patch_size) if "height" in out.axes else 0
    return DenoiserEnd(tower, gain.to(weight), bias.to(weight), weight, offset, not is_rms(norm), norm_eps(norm), patch)
