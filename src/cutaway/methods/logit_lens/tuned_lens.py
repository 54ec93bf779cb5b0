"""A lens that has learned how each layer speaks: an affine translator in front of the model's own end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.logit_lens.heard import Heard, check_numbers, hear, log_probs, own_of, sites_of
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.session import Reading
from cutaway.model.sites import Site
from cutaway.model.voice import voice
from cutaway.questions.rows import Rows, check_rows, feed, tracked
from cutaway.store.fitted import Fitted, Origin

SOURCE = "Belrose et al. 2023, arXiv 2303.08112 (tuned lens)"


class TunedLens(Fitted):
    """x + C x + b for each layer but the last (`change`, `bias`), to read with `word_lens(…, tuned=…)`."""

    kind: ClassVar[str] = "tuned_lens"

    def fits(self, model: Model, tower: str) -> None:
        """Raise StoreError unless it was fitted on this very model, at this tower."""
        self.check(model, *sites_of(model, tower)[:-1])

    def to(self, device: torch.device | str) -> TunedLens:
        """The same with its tensors on a device."""
        return TunedLens({name: value.to(device) for name, value in self.tensors.items()}, self.config, self.on)

    def translated(self, state: Float[Tensor, "n d_model"], layer: int) -> Float[Tensor, "n d_model"]:
        """A state of a layer (-1: what enters the first) in the words of the last one; that one's own as they are."""
        if layer + 1 == len(self.tensors["bias"]):
            return state
        change, bias = (self.tensors[name][layer + 1].to(state.device) for name in ("change", "bias"))
        return _translated(state, change, bias)


@torch.no_grad()
def tuned_lens(
    model: Model, rows: Rows, *, tower: str = "text", steps: int = 250, rate: float = 1e-3, batch: int = 8,
    positions: int = 128, seed: int = 0, progress: bool = True,
) -> TunedLens:  # fmt: skip
    """Learn, for each layer, the affine change after which the model's own end says what the model will say.

    For each layer l but the last C_l and b_l minimise KL(p_final || p_l), p_l = softmax(U N(x_l + C_l x_l + b_l)), mean
    over positions, by Adam with a `rate` that falls to zero; both begin at 0, where the tuned lens is the logit lens.
    A step takes `batch` rows, and of their own positions at most `positions` by chance: more of them cost more time
    than more steps. `rows` are texts, or ready Inputs (with pictures); a list is gone over in a new order as often as
    it takes, a stream once. That the end gives the model's own logits is checked at the first step.

    Units: `config["kl"]` has the nats that are left at each layer, the mean of the last tenth of the steps. Source:
    Belrose et al. 2023, arXiv 2303.08112, section 3; they use SGD with momentum, and weight decay.

    What it can NOT tell: that a layer itself says what its translator makes of it: this is trained to foretell the
    answer, and may compute what later layers would. Positions of a kind it has not seen (pictures, for texts alone)
    are read badly.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> made = tuned_lens(model, ["a red dog", "a cat on the left"], steps=3, progress=False)
    >>> made
    TunedLens(bias 3x32, change 3x32x32; text.0.resid_pre, text.0.resid_post, text.1.resid_post of 'tiny:llama')
    """
    if steps < 1 or rate <= 0 or positions < 1:
        raise MethodError(
            f"{steps} steps at a rate of {rate} on {positions} positions", expected="one step at least, a rate above 0",
            do="leave them out",
        )  # fmt: skip
    check_rows(model, rows, tower)
    voice(model.engine, tower)  # refuses what does not write, before its rows are read
    dice = torch.Generator().manual_seed(seed)
    fit: _Fit | None = None
    done, left = 0, []
    for inputs in tracked(_stream(model, rows, tower, batch, steps, dice), "tuning", steps, show=progress):
        picked = _Picked(inputs, tower, positions, dice)
        if fit is None:
            heard = hear(model, inputs, tower)
            fit = _Fit(heard, rate, steps)
            for site in heard.sites:
                picked.add(Reading(Site.parse(site), 0, (), heard.run[site]))
            heard.final(picked.numbers)  # that the end gives the model's own logits
        else:
            model.run(inputs, record=fit.sites, into=picked.add, stop=True)
        left.append(fit.step(picked))
        done += 1
    if fit is None or done < steps:
        raise MethodError(
            f"the rows gave {done} batches, and {steps} steps were asked for", expected="a batch for each step",
            do=f"give a list, which is gone over again, or more rows; or ask for {max(1, done)} steps",
        )  # fmt: skip
    kl = torch.tensor(left[-max(1, steps // 10) :]).mean(0).tolist()
    config = {
        "tower": tower, "steps": steps, "rate": rate, "batch": batch, "positions": positions, "seed": seed, "kl": kl,
        "source": SOURCE,
    }  # fmt: skip
    return TunedLens(fit.tensors(), config, Origin.of(model, *sites_of(model, tower)[:-1]))


@dataclass
class _Picked:
    """What is taken of a batch while it runs: the states of every layer at some of its own positions, by chance."""

    inputs: Inputs
    tower: str
    positions: int
    dice: torch.Generator
    states: dict[str, Float[Tensor, "m d_model"]] = field(default_factory=dict)
    own: Bool[Tensor, "row token"] = field(init=False)
    numbers: Int[Tensor, "m"] = field(init=False)
    places: tuple[Int[Tensor, "m"], Int[Tensor, "m"]] = field(init=False)

    def add(self, reading: Reading) -> None:
        """One reading; the first says how many positions there are."""
        if not self.states:
            self.own = own_of(self.inputs, self.tower, reading.value.shape[:2])
            self.numbers = torch.randperm(int(self.own.sum()), generator=self.dice)[: self.positions]
            rows, places = self.own.nonzero(as_tuple=True)
            self.places = rows[self.numbers], places[self.numbers]
        self.states[str(reading.site)] = reading.value[self.places]


class _Fit:
    """Translators in training, in single precision at least: one matrix and one bias a layer."""

    def __init__(self, heard: Heard, rate: float, steps: int) -> None:
        self.sites, self.voice, self.like = heard.sites, heard.voice, heard.run.logits.new_empty(0)
        like = [heard.run[site] for site in heard.sites[:-1]]
        dtype = torch.promote_types(heard.voice.dtype, torch.float32)
        size = like[0].shape[-1]
        self.changes = [torch.zeros(size, size, dtype=dtype, device=x.device, requires_grad=True) for x in like]
        self.biases = [torch.zeros(size, dtype=dtype, device=x.device, requires_grad=True) for x in like]
        self.adam = torch.optim.Adam([*self.changes, *self.biases], lr=rate)
        self.falling = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda step: 1 - step / steps)

    def step(self, picked: _Picked) -> list[float]:
        """One step on some states; the nats that lay between each layer and the end before it.

        d KL(p || softmax(z)) / d z = softmax(z) - p, which is handed to the end as it is.
        """
        said = self._read(picked.states[self.sites[-1]])
        check_numbers(said, picked.places[0], picked.own)
        final, left = log_probs(said), []
        sure, many = final.exp(), len(final)
        for site, change, bias in zip(self.sites, self.changes, self.biases, strict=False):
            with torch.enable_grad():
                logits = self._read(_translated(picked.states[site], change, bias))
            said = log_probs(logits.detach())
            left.append(float((sure * (final - said)).sum() / many))
            slope = said.exp_().sub_(sure).to(logits.dtype)
            change.grad, bias.grad = (one / many for one in torch.autograd.grad(logits, [change, bias], slope))
        self.adam.step()
        self.falling.step()
        return left

    def _read(self, states: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        """Their logits, in the dtype and on the device of the model's own."""
        return self.voice(states).to(self.like)

    def tensors(self) -> Mapping[str, Tensor]:
        """What is kept, layers in front."""
        both = {"change": self.changes, "bias": self.biases}
        return {name: torch.stack([x.detach().cpu() for x in each]) for name, each in both.items()}


def _translated(
    state: Float[Tensor, "n d"], change: Float[Tensor, "d d"], bias: Float[Tensor, "d"]
) -> Float[Tensor, "n d"]:
    exact = state.to(change.dtype)
    return (exact + exact @ change.T + bias).to(state.dtype)


def _stream(
    model: Model, rows: Rows, tower: str, batch: int, steps: int, dice: torch.Generator
) -> Iterator[Inputs]:  # fmt: skip
    """The inputs of each step: a list again and again, in an order of its own each time; a stream as it comes."""
    given = 0
    while given < steps:
        before = given
        each: Any = rows
        if isinstance(rows, Sequence):
            each = [rows[i] for i in torch.randperm(len(rows), generator=dice).tolist()]
        for inputs in feed(model, each, tower, batch=batch, progress=False):
            yield inputs
            given += 1
            if given == steps:
                return
        if not isinstance(rows, Sequence | Inputs) or given == before:
            return
