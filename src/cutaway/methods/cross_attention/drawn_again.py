"""What prompt-to-prompt does to one drawing: how near another prompt stays to it, and whether what is asked comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.methods.cross_attention.prompt_to_prompt import prompt_to_prompt
from cutaway.methods.result import Provenance, Result
from cutaway.model.edits import Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import numbers, outcome
from cutaway.questions.judged import number_of
from cutaway.questions.rows import tracked

SOURCE = "Hertz et al. 2022, arXiv 2208.01626 (Prompt-to-Prompt), section 3"


@dataclass(frozen=True, eq=False, repr=False)
class DrawnAgain(Result):
    """Another prompt drawn with the attention of a first drawing, for more and more of the steps.

    `moved` (share): how far the picture lies from the first one, root mean square of 255; `value` (share): the number
    of what the other prompt asks for, in its own unit. `random_moved`, `random_value` (share): with the same patterns,
    the patches of each in an order by chance. `here`: the number of the first drawing. Of the first prompt `first`
    (y, x, channel), `drawn` and `random_drawn` (share, y, x, channel) are the pictures, in 0 … 255.
    """

    main: ClassVar[str] = "moved"

    def summary(self) -> Any:
        """Each share of the steps, beside chance."""
        return self.data[["moved", "random_moved", "value", "random_value"]].to_dataframe().reset_index()

    def note(self) -> str:
        """What share 0 is, and the number of the first drawing."""
        return f"Share 0 is the other prompt drawn plainly. The first drawing has {float(self['here']):.3g}."

    def _draw(self, ax: Axes) -> None:
        ax.plot(self["share"], self["moved"], marker="o", label="patterns of the first drawing")
        ax.plot(self["share"], self["random_moved"], color="gray", label="their patches by chance")
        ax.set(xlabel="share of the steps", ylabel="moved (of 255)")
        ax.legend(fontsize=8)


def prompt_to_prompt_drawings(
    model: Model, inputs: Inputs, other: Inputs, *, shares: Sequence[float] = (0.0, 0.4, 0.8, 1.0), own: float = 0.0,
    seed: int = 0, progress: bool = True,
) -> DrawnAgain:  # fmt: skip
    """Draw another prompt with the attention to words of a first drawing, and see what stays and what comes.

    For each share of the steps: moved = 255 sqrt(mean (x - x_first)²) over pixels, and m(x), m the judge's probability
    of what the other prompt alone asks for, else how far the picture lies from the other's plain drawing
    (`questions.judged`). Beside it the same patterns with their patches in another order, one for each layer: as much
    attention to each word, in wrong places. `prompt_to_prompt` makes the edits and says what they are.

    Units: grey levels of 255, the number's own; means over prompts. Source: Hertz et al. 2022, arXiv 2208.01626.
    MethodError for two drawings that differ in more than prompts, and a model whose patches see no words.
    What it can NOT tell: that layout lies in these patterns alone: the same noise lays out much of it.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> both = [model.inputs(prompt=one, seed=0, steps=2) for one in ("a red dog", "a blue dog")]
    >>> found = prompt_to_prompt_drawings(model, *both, shares=(0.0, 1.0), progress=False)
    >>> bool(found["moved"][0] == found["random_moved"][0])  # nothing is put in
    True
    """
    started = time.perf_counter()
    aim, dice = number_of(model, other, inputs), torch.Generator().manual_seed(seed)
    first = model.run(inputs, output="pt")
    found: dict[str, list[float]] = {name: [] for name in ("moved", "value", "random_moved", "random_value")}
    seen: dict[str, list[np.ndarray]] = {"drawn": [], "random_drawn": []}
    for share in tracked(shares, "drawing again", show=progress):
        edits = prompt_to_prompt(model, inputs, other, share=float(share), own=own)
        for kind, some in (("", edits), ("random_", [_elsewhere(one, dice) for one in edits])):
            run = model.run(other, edits=some, output="pt")
            off = (outcome(run) - outcome(first)).double().square().flatten(1).mean(1).sqrt()
            found[f"{kind}moved"].append(255 * float(off.mean()))
            found[f"{kind}value"].append(float(numbers(aim, run).mean()))
            seen[f"{kind}drawn"].append(_picture(outcome(run)))
    data = xarray.Dataset(
        {name: ("share", np.array(values)) for name, values in found.items()}
        | {"here": ((), float(numbers(aim, first).mean())), "first": (("y", "x", "channel"), _picture(outcome(first)))}
        | {name: (("share", "y", "x", "channel"), np.stack(some)) for name, some in seen.items()},
        {"share": [float(share) for share in shares]},
    )
    told = Provenance.of(
        "prompt_to_prompt_drawings", SOURCE, started=started, model=model, seed=seed, own=own, unit=aim.unit,
        prompt=inputs.tensors.get("prompt"), other=other.tensors.get("prompt"),
    )  # fmt: skip
    return DrawnAgain(data, told)


def _picture(made: Float[Tensor, "n channel y x"]) -> UInt8[np.ndarray, "y x channel"]:
    """The first of some pictures."""
    return (made[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()


def _elsewhere(edit: Edit, dice: torch.Generator) -> Edit:
    """The same patterns with their patches in an order by chance."""
    if not isinstance(edit, Patch):
        return edit
    name, pattern = str(edit.site), edit.source[str(edit.site)]
    query = edit.query
    among = query[0].nonzero().flatten() if isinstance(query, Tensor) else torch.arange(pattern.shape[-2])
    source = {name: _shuffled(pattern, among, dice)}
    return Patch(name, source, query=edit.query, key=edit.key, step=edit.step, guidance=edit.guidance)


def _shuffled(
    pattern: Float[Tensor, "*axes query key"], among: Int[Tensor, "patch"], dice: torch.Generator
) -> Float[Tensor, "*axes query key"]:
    """With some of the queries, those that are patches, in an order by chance."""
    order = torch.arange(pattern.shape[-2])
    order[among] = among[torch.randperm(len(among), generator=dice)]
    return pattern.index_select(-2, order.to(pattern.device))
