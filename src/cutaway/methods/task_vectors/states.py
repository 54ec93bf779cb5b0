"""Mean states at chosen positions, and what a model says next: what every vector here is made of and judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import MethodError, SiteError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.own import own_positions
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.targets import Reads, Target
from cutaway.model.tokens import Positions, Where
from cutaway.model.weights import readout
from cutaway.model.words import next_scores
from cutaway.questions.rows import Rows, feed
from cutaway.store.reducers import Mean


def usual_tower(model: Model) -> str:
    """What is steered unless sites are named: the tower of pictures of a model that matches, else that of words."""
    towers = [name for name, layers in model.sites.towers().items() if layers]
    end = model.family.steered
    if not towers:
        raise MethodError(
            f"'{model.name}' has no tower with layers", expected="a model that model/towers.py knows",
            do="name sites: `sites=`, raw ones (`raw.PATH`) if need be",
        )  # fmt: skip
    return end if end in towers else towers[-1]


def usual_position(model: Model, tower: str) -> Positions | None:
    """Where a tower is steered unless told: at the last position of a decoder, at a class token, else everywhere."""
    if model.towers[tower].causal:
        return -1
    try:
        return Where("cls") if readout(model, tower).at == "cls" else None
    except SiteError:  # a tower without an end of its own, such as the eyes of a LLaVA
        return None


def chosen_sites(model: Model, sites: str | Sequence[str] | None, part: str = "resid_post") -> list[Site]:
    """Sites of one tower, live ones; by default a part of every layer of the usual tower."""
    wanted = f"{usual_tower(model)}.*.{part}" if sites is None else sites
    found = [site for site in (model.sites[wanted] if isinstance(wanted, str) else model.sites.select(wanted))
             if not site.dead]  # fmt: skip
    if not found or len({site.tower for site in found}) > 1:
        raise MethodError(
            f"{wanted!r} names {'no site' if not found else 'sites of several towers'}",
            expected="sites of one tower that run", do="see `cutaway sites MODEL`",
        )  # fmt: skip
    return found


def mean_states(
    model: Model, rows: Rows, sites: Sequence[Site], at: Positions | None, *, batch: int = 16, progress: bool = True
) -> tuple[dict[str, Tensor], int]:
    """The mean of each site over rows and chosen positions (`at`: as of an edit; None: all that are a row's own).

    In double precision, as differences of them need it; and how many rows there were. Raises MethodError where a mean
    is not finite.
    """
    means, count = {str(site): Mean() for site in sites}, 0
    for inputs in feed(model, rows, sites[0].tower, batch=batch, what="states", progress=progress):
        run = model.run(inputs, record=list(means), stop=not inputs.call.loops)
        count += run[sites[0]].shape[sites[0].axes.index("batch")]
        for site in sites:
            means[str(site)].add(picked(run, site, at))
    found = {name: mean.value.double() for name, mean in means.items()}
    for name, mean in found.items():
        if not mean.isfinite().all():
            raise MethodError(
                f"the mean of '{name}' over {count} rows is not finite", expected="states that are numbers",
                exists=f"{int((~mean.isfinite()).sum())} of {mean.numel()} numbers that are not",
                do="load the model in another dtype (half precision overflows), or give the rows one by one, "
                "`batch=1` (in float64 eager attention gives NaN where a query sees nothing but padding)",
            )  # fmt: skip
    return found, count


def picked(run: Run, site: Site, at: Positions | None) -> Float[Tensor, "n *d"]:
    """The states of the chosen positions of every row, row by row; of a denoiser, by step, where it sees the prompt.

    Maps of a UNet (channel, height, width) give each place as a position, with two axes of one entry behind.
    """
    state, axes = run[site], [*site.axes]
    if "step" in axes:
        state = state.select(axes.index("guidance"), _seeing(run, site))
        axes.remove("guidance")
    if "token" not in axes:
        if "step" not in axes:
            return state
        places = [axes.index(axis) for axis in ("batch", "height", "width") if axis in axes]
        return state.movedim(places, [*range(len(places))]).flatten(0, len(places) - 1)[..., None, None]
    state = state.movedim((axes.index("batch"), axes.index("token")), (0, 1))
    return state[_mask(run.inputs, site, at, *state.shape[:2]).to(state.device)]


def _seeing(run: Run, site: Site) -> int:
    """Which row of the guidance sees the prompt."""
    names = [str(name) for name in run.labelled(site)["guidance"].values]
    if "cond" not in names:
        raise MethodError(
            f"no guidance row of '{site}' sees the prompt", expected="a row cond", exists=", ".join(names),
            do="draw a prompt",
        )  # fmt: skip
    return names.index("cond")


def _mask(inputs: Inputs, site: Site, at: Positions | None, rows: int, size: int) -> Bool[Tensor, "row token"]:
    """Which positions are chosen, of each row its own."""
    own = inputs.own(site, "token") if inputs.tokens else None
    own = torch.ones(rows, size, dtype=torch.bool) if own is None else own
    if at is None:
        known = inputs.tokens.get(site.tower)
        fits = known is not None and known.kind.shape == tuple(own.shape)
        return own & torch.from_numpy(known.kind != "pad") if known is not None and fits else own
    if isinstance(at, Where):
        where = at.resolve(inputs.map_for(site, "token", size))
        return own & where.expand_as(own)
    chosen = torch.zeros_like(own)
    for row, mask in enumerate(own):
        chosen[row, own_positions(at, mask.nonzero().flatten(), f"the mean of '{site}'", "token", row)] = True
    return chosen


# --- what is said -----------------------------------------------------------------------------------------------------


def choices(run: Run) -> Float[Tensor, "row choice"]:
    """The log-probabilities a row: of the next word of a model that writes, of the texts of one that matches."""
    logits = next_scores(run) if run.logits.dim() == 3 else run.logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


@dataclass(frozen=True, eq=False)
class Moved(Target):
    """For each row what it says first, as a number; then for each row KL(before || now) in nats."""

    before: Float[Tensor, "row choice"]

    @property
    def reads(self) -> Reads:
        """What is said at the end of each row."""
        return "last logits"

    def __call__(self, run: Run) -> Float[Tensor, "two_rows"]:
        """Two numbers a row, one behind the other: a sweep takes them at once."""
        now = choices(run)
        kl = (self.before.exp() * (self.before - now).where(self.before.isfinite(), 0.0)).sum(-1)
        return torch.cat([now.argmax(-1).to(kl), kl.clamp(min=0)])


@dataclass(frozen=True)
class FirstWord(Target):
    """The number of the likeliest next word of each row."""

    @property
    def reads(self) -> Reads:
        """The logits of the last position."""
        return "last logits"

    def __call__(self, run: Run) -> Float[Tensor, "row"]:
        """The number of the token."""
        return next_scores(run).argmax(-1).double()


@dataclass(frozen=True)
class Chance(Target):
    """The probability of one next word for each row, by its number."""

    ids: tuple[int, ...]

    @property
    def reads(self) -> Reads:
        """The logits of the last position."""
        return "last logits"

    @property
    def unit(self) -> str:
        """Between 0 and 1."""
        return "probability"

    def __call__(self, run: Run) -> Float[Tensor, "row"]:
        """The probability of each row's word."""
        said = choices(run)
        return said[torch.arange(len(said)), torch.tensor(self.ids, device=said.device)].exp()


def random_directions(
    like: Float[Tensor, "*d"], draws: int, dice: torch.Generator, *, by_step: bool = False
) -> list[Float[Tensor, "*d"]]:  # fmt: skip
    """Directions drawn evenly, each as long as a vector; `by_step` one for all steps, at each as long as there."""
    if by_step:
        lengths = like.cpu().double().flatten(1).norm(dim=1).view(-1, *[1] * (like.dim() - 1))
        each = torch.randn(draws, *like.shape[1:], generator=dice, dtype=torch.float64)
        return [(lengths * (one / one.norm())).to(like) for one in each]
    made = torch.randn(draws, *like.shape, generator=dice, dtype=torch.float64)
    return [(one * (like.cpu().double().norm() / one.norm())).to(like) for one in made]


def firsts(ids: Any) -> Int[Tensor, "row"]:
    """Numbers of tokens from the values of a sweep."""
    return torch.as_tensor(ids).round().long()


def batches_of(others: Inputs | Sequence[Inputs]) -> Iterator[Inputs]:
    """Inputs, alone or several."""
    yield from [others] if isinstance(others, Inputs) else others
