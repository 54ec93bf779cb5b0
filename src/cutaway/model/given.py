"""Gradients at what a model is given: its pixels, its latents, the states of its prompt, none of which is a site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError, near
from cutaway.model.edits import Edit
from cutaway.model.engine import Opened
from cutaway.model.gradients import plain
from cutaway.model.inputs import Inputs
from cutaway.model.run import Run
from cutaway.model.session import Recording
from cutaway.model.targets import numbers


def given_gradients(
    model: Opened, inputs: Inputs, target: Callable[[Run], Tensor], names: Sequence[str], *, edits: Sequence[Edit] = ()
) -> tuple[Float[Tensor, "row"], dict[str, Float[Tensor, "..."]]]:
    """The target of each row, and d (sum of all rows' targets) / d tensor for prepared tensors by their names.

    As `model.gradients`, for tensors of `inputs.tensors` (`pixel_values`, `sample`, `encoder_hidden_states`). Raises
    InputError for a name that is not among them, for whole numbers, and for calls that have no gradient.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> model = cutaway.load("tiny:clip")
    >>> inputs = model.inputs(image=tiny.picture(), text="a dog")
    >>> values, slopes = given_gradients(model, inputs, cutaway.targets.similarity(), ["pixel_values"])
    >>> slopes["pixel_values"].shape == inputs.tensors["pixel_values"].shape
    True
    """
    engine, inputs = model.engine, plain(inputs)
    if not inputs.call.differentiable:
        raise InputError(
            f"a whole {inputs.call} runs without gradients", expected="one evaluation of the denoiser",
            do="`model.inputs(prompt=…, step=3)` makes its inputs",
        )  # fmt: skip
    for name in names:
        one = inputs.tensors.get(name)
        if not isinstance(one, Tensor) or not one.is_floating_point():
            raise InputError(
                f"there is no slope along '{name}'", expected="a tensor of numbers that the model is given",
                exists=near(name, [key for key, value in inputs.tensors.items() if isinstance(value, Tensor)]),
                do="choose one of these",
            )  # fmt: skip
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {name: inputs.tensors[name].detach().clone().requires_grad_() for name in names}
        moved = replace(inputs, tensors={**inputs.tensors, **leaves})
        outputs, session = engine.ran(moved, [], engine.bind(edits), Recording(grad=True))
        values = numbers(target, engine.result(outputs, session, {}))
        if not values.requires_grad:
            raise InputError("this target does not depend on any of these", exists=", ".join(names))
        slopes = torch.autograd.grad(values.sum(), [*leaves.values()], allow_unused=True, materialize_grads=True)
    return values.detach(), dict(zip(leaves, slopes, strict=True))
