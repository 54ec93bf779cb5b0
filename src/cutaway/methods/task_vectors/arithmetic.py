"""Tasks in the weights: what a fine-tuning changed, to be added, taken away and combined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from cutaway.errors import MethodError, near
from cutaway.model.model import Model
from cutaway.model.shift import shifted, weights
from cutaway.store.fitted import Fitted, Origin


class WeightVector(Fitted):
    """What a fine-tuning added to each weight that it changed; `added` puts it in for the length of a block."""

    kind: ClassVar[str] = "weight_vector"

    @contextmanager
    def added(self, model: Model, scale: float = 1.0) -> Iterator[Model]:
        """The model with W + scale * change while the block runs; a negative scale takes the task away."""
        self.check(model)
        with shifted(model.engine, self.tensors, scale):
            yield model

    @property
    def length(self) -> float:
        """How far the fine-tuning went: the square root of the sum of squares over all weights."""
        return float(sum(value.double().pow(2).sum() for value in self.tensors.values()) ** 0.5)

    def random(self, seed: int = 0) -> WeightVector:
        """A change drawn evenly, as long in each weight."""
        dice, made = torch.Generator().manual_seed(seed), {}
        for name, value in self.tensors.items():
            noise = torch.randn(value.shape, generator=dice, dtype=torch.float64)
            made[name] = (noise * (value.double().norm().cpu() / noise.norm())).to(value)
        return WeightVector(made, {"random": seed}, self.on)


def weight_vector(base: Model, tuned: Model) -> WeightVector:
    """What a fine-tuning changed: the weights after it less those before it.

    tau = W_tuned - W_base, of the weights that differ. With `added` a model has W_base + alpha tau: at alpha 1 it is
    the fine-tuned one, but for rounding, below 0 it forgets. `combined` adds and takes away several. Of two models in
    different dtypes tau is in the finer one.

    Units: those of the weights. Source: Ilharco et al. 2022, arXiv 2212.04089 (add, negate, analogy).

    What it can NOT tell: what the change does: weights that differ need not matter. That two changes add up is to be
    measured; fine-tunings from the same start at a small rate mostly do, others need not.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> base, tuned = cutaway.load("tiny:llama"), cutaway.load(tiny.build("llama")[0])
    >>> tuned.module.lm_head.weight.data[0] += 1
    >>> weight_vector(base, tuned)
    WeightVector(lm_head.weight 242x32;  of 'tiny:llama')
    """
    here, there = weights(base.engine), weights(tuned.engine)
    strange = [name for name in here if name not in there or there[name].shape != here[name].shape]
    if strange or len(here) != len(there):
        lost = (strange or [name for name in there if name not in here])[0]
        raise MethodError(
            f"'{base.name}' and '{tuned.name}' have not the same weights: '{lost}'",
            expected="two models of one architecture", exists=near(lost, there), do="fine-tune a copy of the first",
        )  # fmt: skip
    changed = {
        name: there[name].detach().to(value.device) - value.detach()
        for name, value in here.items() if not bool((there[name].to(value.device) == value).all())
    }  # fmt: skip
    if not changed:
        raise MethodError("the two models have the same weights", expected="a fine-tuned copy", do="train it first")
    return WeightVector(changed, {"tuned": tuned.name}, Origin.of(base))


def combined(vectors: Sequence[WeightVector], scales: Sequence[float]) -> WeightVector:
    """Several changes of one model as one: sum_i scale_i tau_i, such as a - b + c (an analogy)."""
    if not vectors or len(vectors) != len(scales) or len({one.on.content for one in vectors}) > 1:
        raise MethodError(
            f"{len(vectors)} changes and {len(scales)} scales", expected="changes of one model, a scale for each",
            exists=", ".join({str(one.on) for one in vectors}), do="take all differences from the same model",
        )  # fmt: skip
    made: dict[str, Any] = {}
    for one, scale in zip(vectors, scales, strict=True):
        for name, value in one.tensors.items():
            made[name] = made.get(name, 0) + scale * value
    return WeightVector(made, {"scales": list(map(float, scales))}, vectors[0].on)
