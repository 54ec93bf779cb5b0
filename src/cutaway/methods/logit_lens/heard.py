"""A run of a model that writes, as its lenses see it: every layer, at every position that is a row's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.voice import Voice, voice


def sites_of(model: Model, tower: str) -> tuple[str, ...]:
    """The residual stream of a tower: what enters its first block, and what leaves each."""
    return (f"{tower}.0.resid_pre", *(f"{tower}.{layer}.resid_post" for layer in range(model.sites.towers()[tower])))


@dataclass(frozen=True, eq=False)
class Heard:
    """The states of one run and its logits; `own` are the positions that are each row's own, no padding among them."""

    run: Run
    voice: Voice
    sites: tuple[str, ...]
    own: Bool[Tensor, "row token"]

    @property
    def layers(self) -> range:
        """The number of each site; -1 is what enters the first block."""
        return range(-1, len(self.sites) - 1)

    @property
    def places(self) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
        """Row and place of every own position, row by row, in order."""
        rows, places = self.own.nonzero(as_tuple=True)
        return rows, places

    def states(self, site: str, at: Int[Tensor, "m"]) -> Float[Tensor, "m *axes"]:
        """What was recorded at some of the own positions, by their numbers among all of them."""
        rows, places = self.places
        return self.run[site][rows[at], places[at]]

    def read(self, states: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        """The logits of any states, in the dtype and on the device of the model's own."""
        return self.voice(states).to(self.run.logits)

    def final(self, at: Int[Tensor, "m"]) -> tuple[Float[Tensor, "m vocab"], Float[Tensor, "m vocab"]]:
        """The model's own logits at some of the own positions, and what the voice gives there, the same or an error."""
        rows, places = self.places
        own = self.run.logits[rows[at], places[at]]
        read = self.read(self.states(self.sites[-1], at))
        check_numbers(own, rows[at], self.own)
        coarse = max(torch.finfo(one).eps for one in (own.dtype, self.voice.dtype))
        most = float(own.abs().max().clamp(min=1e-30))
        error = float((read - own).abs().max()) / most if read.shape == own.shape else torch.nan
        if not error <= coarse**0.5:
            raise MethodError(
                f"the last layer of '{self.voice.tower}', read through the model's own end, does not give its logits: "
                f"they differ by {error:.1%} of the largest",
                expected="logits that follow from the last layer by its norm and unembedding alone",
                exists=", ".join(type(module).__name__ for module in self.voice.modules),
                do="take off edits and hooks at its end; or say what its class does behind its unembedding "
                "(`shift`, `cap`) in its row of model/towers.py",
            )
        return own, read


def hear(model: Model, inputs: Inputs, tower: str, more: tuple[str, ...] = ()) -> Heard:
    """Run a model that writes, and keep its residual stream, and `more` sites with an axis of tokens behind the rows.

    Raises SiteError for a tower that does not write.
    """
    end, sites = voice(model.engine, tower), sites_of(model, tower)
    run = model.run(inputs, record=(*sites, *more))
    shape = run[sites[0]].shape[:2]
    if run.logits.shape[:2] != shape:
        raise MethodError(
            f"logits of shape {tuple(run.logits.shape)} for {tuple(shape)} positions", do="leave such options out",
            expected="the logits of every position: nothing that keeps those of the last ones alone (`logits_to_keep`)",
        )  # fmt: skip
    return Heard(run, end, sites, own_of(run.inputs, tower, shape))


def own_of(inputs: Inputs, tower: str, shape: torch.Size) -> Bool[Tensor, "row token"]:
    """Which positions of a tower are each row's own, of so many."""
    own = inputs.own(Site(tower, None, "final"), "token")
    return torch.ones(shape, dtype=torch.bool) if own is None else own


def check_numbers(
    logits: Float[Tensor, "m vocab"], rows: Int[Tensor, "m"], own: Bool[Tensor, "row token"]
) -> None:  # fmt: skip
    """Raise MethodError where logits, of these rows each, are none."""
    if logits.isnan().any():
        raise MethodError(
            f"the model's own logits are NaN in row {int(rows[logits.isnan().any(-1).cpu()][0])}",
            expected="numbers", exists=f"padding in {int((~own).any(1).sum())} of {len(own)} rows",
            do="run rows without padding, or load the model in another dtype",
        )  # fmt: skip


def log_probs(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
    """In single precision at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def as_long(noise: Float[Tensor, "n d"], like: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Each row as long as that of others, and in their dtype: half precision may hold a state and not its length."""
    exact = like.to(torch.promote_types(like.dtype, torch.float32))
    drawn = noise.to(exact)
    return (drawn * (exact.norm(dim=-1) / drawn.norm(dim=-1))[:, None]).to(like)


def check_counts(top: int, draws: int, entries: int, ids: list[int] | None = None) -> None:
    """Raise MethodError unless so many first words, random draws and tokens there are can be given."""
    wrong = [at for at in ids or () if not 0 <= at < entries]
    if wrong:
        raise MethodError(f"no token {wrong[0]}", expected=f"tokens from 0 to {entries - 1}", do="choose one of these")
    if not 1 <= top <= entries:
        raise MethodError(f"no {top} first words", expected=f"`top` from 1 to {entries}", do="choose such a number")
    if draws < 1:
        raise MethodError(f"{draws} random directions", expected="`draws` of 1 at least", do="choose such a number")
