"""Which denoising steps and guidance rows are meant, by an edit or by whoever reads some steps of a drawing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import EditError, InputError
from cutaway.model.edits import Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.schedule import steps_in


def steps_of(choice: Any, steps: int) -> Sequence[int]:
    """The steps a selector names, of so many; negative ones count from the end, a mask has one entry a step."""
    if isinstance(choice, slice):
        return range(steps)[choice]
    try:
        listed = torch.as_tensor(list(choice) if isinstance(choice, range) else choice)
    except (TypeError, ValueError, RuntimeError):
        listed = None
    if listed is None or (listed.is_floating_point() and listed.numel()):
        raise EditError(f"`step=` cannot be {choice!r}", expected="a number, a list, a slice or a mask")
    if listed.dtype == torch.bool:
        if listed.numel() != steps:
            raise EditError(f"`step=` has {listed.numel()} entries", expected=f"a mask with one for each step: {steps}")
        return list(listed.flatten().nonzero().flatten().tolist())
    return [step + steps if step < 0 else step for step in listed.flatten().long().tolist()]


def drawn_steps(pipeline: Any, inputs: Inputs) -> int:
    """How many steps run on these inputs: those of a whole drawing as its scheduler counts them, else one.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> drawn_steps(model.module, model.inputs(prompt="a dog", steps=4))
    4
    """
    return steps_in(pipeline, inputs.tensors) if inputs.call.loops else 1


def chosen_steps(pipeline: Any, steps: int | Collection[int], inputs: Inputs) -> Collection[int] | None:
    """Which steps of a drawing are read: those given, or so many at even distances; None for 0: all that run."""
    if not inputs.call.loops or steps == 0:
        return None
    count = drawn_steps(pipeline, inputs)
    if isinstance(steps, int):
        many = min(max(1, steps), count)
        return {round(at * (count - 1) / max(1, many - 1)) for at in range(many)}
    odd = [step for step in steps if not 0 <= step < count]
    if odd or not steps:
        raise InputError(
            f"no step {odd[0]} of this drawing" if odd else "no step is named", expected=f"some of 0 to {count - 1}",
            do="`steps=0` takes all of them",
        )  # fmt: skip
    return set(steps)


def present(full: Float[Tensor, "guidance *axes"], names: tuple[str, ...], edit: Edit) -> Float[Tensor, "row *axes"]:
    """Of a value with both guidance rows the one that runs now (guidance has ended, or the prompt is encoded apart).

    Raises EditError for a patch from a run without guidance into one with it that does not say which row is meant.
    """
    if isinstance(edit, Patch) and edit.lengths is not None and len(full) == 1 < len(names) and edit.guidance is None:
        raise EditError(
            f"{edit!r}: the other run was drawn without guidance, this one has the rows {', '.join(names)}",
            expected="one row for the row of the prompt", do="say which: `guidance='cond'`, or draw both with guidance",
        )  # fmt: skip
    known = ("uncond", "cond")
    alone = len(full) == len(known) and len(names) == 1 and names[0] in known
    return full[known.index(names[0])][None] if alone else full
