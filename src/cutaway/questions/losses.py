"""What an item costs a model while it is trained, as a number a row: targets that a training lowers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from cutaway.errors import TargetError
from cutaway.model.run import Run
from cutaway.model.targets import Target, answer, denoising_error, distance, numbers, of_rows

Measure = Literal["loss", "square", "absolute"]


@dataclass(frozen=True)
class less(Target):  # noqa: N801
    """Minus another target: what is lost where that is what is wanted, -log p of an answer for one."""

    of: Callable[[Run], Tensor]

    def rows(self, start: int, stop: int) -> less:
        """The same of some of the rows."""
        return less(of_rows(self.of, start, stop))

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The number with its sign turned."""
        return -numbers(self.of, run)

    @property
    def unit(self) -> str:
        """That of the other."""
        return self.of.unit if isinstance(self.of, Target) else "numbers"


@dataclass(frozen=True, eq=False, repr=False)
class contrastive_loss(Target):  # noqa: N801
    """What a pair of picture and text costs among other pairs that are held still.

    l_i = ½ [log sum_j exp s(<v_i, t_j> - <v_i, t_i>) + log sum_j exp s(<v_j, t_i> - <v_i, t_i>)], over the pair itself
    and the others, with unit embeddings v and t and the scale s. `pictures` and `texts` are those of the others,
    constants; `own` is where each row stands among them (-1: it is no part of them), and is left out of them there.
    With `whole` also what the pair costs the others, as one that they are told apart from: then the gradients of all
    items of a batch add up to the gradient of the loss of the batch, exactly.
    Units: nats. Source: Radford et al. 2021 (arXiv 2103.00020, figure 3) for the loss of a batch. That the others are
    held still is ours: in training a pair is seen with other others each time, and those move as well. SigLIP is
    trained with another loss (a logistic one for each pair); here it has this one.
    """

    pictures: Float[Tensor, "other joint"]
    texts: Float[Tensor, "other joint"]
    scale: float
    own: tuple[int, ...]
    whole: bool = False

    def __repr__(self) -> str:
        return f"contrastive_loss({len(self.own)} rows among {len(self.pictures)})"

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The loss of each row's picture with its text."""
        found: list[Any] = [getattr(run.outputs, name, None) for name in ("image_embeds", "text_embeds")]
        if any(one is None or len(one) != len(self.own) for one in found):
            raise TargetError(
                f"this run has no {len(self.own)} pictures with a text each", exists=type(run.outputs).__name__,
                expected="a contrastive model on pairs", do="`model.inputs(image=pictures, text=texts)`",
            )  # fmt: skip
        vision, text = (normalize(one, dim=-1) for one in found)
        pictures, texts = (normalize(one.to(vision), dim=-1) for one in (self.pictures, self.texts))
        mine = torch.zeros(len(self.own), len(texts), dtype=torch.bool, device=vision.device)
        for row, place in enumerate(self.own):
            if place >= 0:
                mine[row, place] = True
        own = self.scale * (vision * text).sum(-1)
        lost = -own
        for ours, theirs in ((vision, texts), (text, pictures)):
            others = (self.scale * ours @ theirs.T).masked_fill(mine, float("-inf"))
            lost = lost + torch.cat([own[:, None], others], 1).logsumexp(1) / 2
        return lost + self._of_others(vision, text, pictures, texts, mine) if self.whole else lost

    def _of_others(
        self, vision: Tensor, text: Tensor, pictures: Tensor, texts: Tensor, mine: Tensor
    ) -> Float[Tensor, "batch"]:
        """What the others lose by each row: ½ sum_j log of their sums with the row in it, less those sums without."""
        held = self.scale * pictures @ texts.T
        found = torch.zeros(len(vision), dtype=vision.dtype, device=vision.device)
        for logits, theirs, ours in ((held, pictures, text), (held.T, texts, vision)):
            without = logits[None].masked_fill(mine[:, None], float("-inf")).logsumexp(2)  # row, other
            added = torch.logaddexp(without, self.scale * ours @ theirs.T) - without
            found = found + added.masked_fill(mine, 0.0).sum(1) / 2
        return found

    @property
    def unit(self) -> str:
        """Natural units of information."""
        return "nats"


@dataclass(frozen=True)
class output_size(Target):  # noqa: N801
    """How large what a denoiser gives is: the mean of its square, or of its absolute value.

    It knows nothing of what the denoiser should say. Source: Zheng et al. 2024 (D-TRAK, arXiv 2311.00500).
    """

    measure: Literal["square", "absolute"] = "square"

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The mean of each row."""
        made = getattr(run.outputs, "sample", None)
        if made is None:
            raise TargetError(
                f"'{self.measure}' measures what a denoiser gives", exists=type(run.outputs).__name__,
                expected="one evaluation of a denoiser", do='measure="loss" for any other model',
            )  # fmt: skip
        flat = made.to(torch.promote_types(made.dtype, torch.float32)).flatten(1)
        return (flat.pow(2) if self.measure == "square" else flat.abs()).mean(1)

    @property
    def unit(self) -> str:
        """In latents, squared or not."""
        return "squared output" if self.measure == "square" else "output"


def lowered(target: Callable[[Run], Tensor]) -> bool:
    """Whether a target is better the lower it is: a loss or an error."""
    return isinstance(target, less | contrastive_loss | denoising_error | distance | output_size)


def answer_loss(*, mean: bool = False) -> less:
    """-log p of the whole answer of each row, every token given those before it; `mean` divides by their number."""
    return less(answer(mean))
