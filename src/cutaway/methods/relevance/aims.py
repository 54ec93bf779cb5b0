"""Numbers that relevance is of: each token of what was written, and what a prompt adds to a drawing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.errors import MethodError, TargetError
from cutaway.methods.relevance.leaves import PROMPTED, unprompted
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target, outcome


@dataclass(frozen=True)
class told(Target):  # noqa: N801, as targets are called
    """The logit of one token a row less the mean of all logits, read where the row has it: `places` count from the end.

    Token `ids[i]` of row i stands at position `places[i]` (negative) and is predicted by the position before it. With
    `sure` its log-probability, which a model that is sure of a token leaves without a slope.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]
    sure: bool = False

    @property
    def unit(self) -> str:
        """Logits, or natural units of information."""
        return "nats" if self.sure else "logits"

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The number of each row."""
        logits = run.logits
        if logits.dim() != 3 or len(logits) != len(self.ids):
            raise TargetError(f"{len(self.ids)} tokens for logits of shape {tuple(logits.shape)}")
        rows = torch.arange(len(logits), device=logits.device)
        scores = logits[rows, torch.tensor(self.places, device=logits.device) - 1]
        exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
        exact = exact.log_softmax(-1) if self.sure else exact - exact.mean(-1, keepdim=True)
        return exact[rows, torch.tensor(self.ids, device=logits.device)]


@dataclass(frozen=True, eq=False)
class prompted(Target):  # noqa: N801
    """How much of what the prompt adds to what a denoiser gives is there: 1 with the prompt, 0 without, as a share.

    m = <e - e_0, e_1 - e_0> / |e_1 - e_0|², over the channels of the `places` (row, height, width) that count; e_1 is
    what it gives for the prompt, e_0 for the empty one, on the same latents.
    """

    with_it: Float[Tensor, "row *latent"]
    without: Float[Tensor, "row *latent"]
    places: Bool[Tensor, "row *place"] | None = None

    @property
    def unit(self) -> str:
        """A share."""
        return "share of the prompt's effect"

    def each(self, run: Run) -> Float[Tensor, "row *place"]:
        """What of the number comes from each place; added up they are it."""
        made = outcome(run)
        exact = torch.promote_types(made.dtype, torch.float32)
        start = self.without.to(made.device, exact)
        way = self.with_it.to(made.device, exact) - start
        over = 1 if made.dim() == 4 else 2
        product, length = ((one * way).sum(over) for one in (made.to(exact) - start, way))
        if self.places is not None:
            product, length = (torch.where(self.places.to(made.device), one, 0.0) for one in (product, length))
        return product / length.flatten(1).sum(1).clamp(min=torch.finfo(exact).tiny).view(
            -1, *[1] * (product.dim() - 1)
        )

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The share of each row."""
        return self.each(run).flatten(1).sum(1)

    def rows(self, start: int, stop: int) -> Target:
        """The same for some of the rows."""
        places = None if self.places is None else self.places[start:stop]
        return prompted(self.with_it[start:stop], self.without[start:stop], places)

    def times(self, copies: int) -> prompted:
        """The same for a batch that lies behind itself so many times."""
        places = None if self.places is None else self.places.repeat(copies, *[1] * (self.places.dim() - 1))
        ends = [one.repeat(copies, *[1] * (one.dim() - 1)) for one in (self.with_it, self.without)]
        return prompted(ends[0], ends[1], places)


def drawn_by_prompt(model: Model, inputs: Inputs, places: Bool[Tensor, "row *place"] | None = None) -> prompted:
    """What the prompt of one evaluation of a denoiser adds, everywhere or at some places of the latents (a thing).

    Raises MethodError for inputs that are no such evaluation.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> inputs = model.inputs(prompt="a red dog", step=1, steps=3)
    >>> round(float(drawn_by_prompt(model, inputs)(model.run(inputs))), 6)
    1.0
    """
    if not inputs.call.drawing or PROMPTED not in inputs.tensors:
        raise MethodError(
            f"a {inputs.call} is no evaluation of a denoiser with a prompt", expected="one step of a drawing",
            do="`model.inputs(prompt=…, step=3)` makes its inputs",
        )  # fmt: skip
    ends = [outcome(model.run(one)).detach() for one in (inputs, unprompted(model, inputs))]
    return prompted(ends[0], ends[1], places)
