"""Pictures of a crowd on which the number of a question is small, beside such on which it is large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.data import Scene, render
from cutaway.model.inputs import Inputs
from cutaway.model.run import Run
from cutaway.model.targets import Reads, Target, numbers, of_rows

if TYPE_CHECKING:
    from cutaway.questions.question import Question

CROWD, EACH, BATCH = 128, 32, 16  # pictures that are looked at, of each side, and at a time
FEW = 4  # of a crowd with fewer there is nothing to hold out


@dataclass(frozen=True)
class beyond(Target):  # noqa: N801
    """How far a number lies on one side of a level: s_i (m_i - level), s_i 1 above and -1 below, an entry a row."""

    target: Target
    level: float
    sides: tuple[int, ...]

    def __repr__(self) -> str:
        return f"beyond({self.target!r}, {self.level:.3g}, {len(self.sides)} rows)"

    @property
    def unit(self) -> str:
        """That of the number."""
        return self.target.unit

    @property
    def reads(self) -> Reads:
        """What the number reads."""
        return self.target.reads

    def rows(self, start: int, stop: int) -> beyond:
        """The same of these rows only."""
        return beyond(of_rows(self.target, start, stop), self.level, self.sides[start:stop])

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The distance, above 0 on the side that is asked for."""
        found = numbers(self.target, run)
        return (found - self.level) * torch.tensor(self.sides, dtype=found.dtype, device=found.device)


@dataclass(frozen=True, eq=False)
class Opposed:
    """Rows and as many sources, whose numbers lie on the other side; each picture is in one row, once.

    `target` is above 0 for rows whose number is on the side of their source's; `labels` are these sides.
    """

    clean: Inputs
    source: Inputs
    target: beyond
    labels: tuple[str, ...]


def opposed(question: Question) -> Opposed | None:
    """The pictures of a crowd with the smallest and the largest numbers; None where there are none to oppose.

    Half of the rows are of small numbers with a source of a large one, half the other way round; the level is the
    middle between the two groups.

    >>> import cutaway
    >>> from cutaway.questions import match
    >>> from cutaway.zoo import tiny
    >>> crowd = [tiny.picture(seed) for seed in range(8)]
    >>> match(cutaway.load("tiny:clip"), crowd[0], ["a dog", "a cat"], crowd=crowd).opposed.labels
    ('above', 'above', 'below', 'below')
    """
    crowd = [] if question.crowd is None else list(question.crowd[:CROWD])
    target = question.target
    if question.kind not in ("match", "ask") or not question.pictures or target is None or len(crowd) < FEW:
        return None
    parts = [crowd[at : at + BATCH] for at in range(0, len(crowd), BATCH)]
    found = torch.cat([numbers(target, question.model.run(_shown(question, part))).detach().cpu() for part in parts])
    order, each = found.argsort().tolist(), min(EACH, len(crowd) // 2)
    low, high = order[:each], order[-each:]
    if not found[low[-1]] < found[high[0]]:
        return None
    clean, source = [*low[::2], *high[1::2]], [*high[::2], *low[1::2]]
    sides = tuple([1] * len(low[::2]) + [-1] * len(low[1::2]))
    return Opposed(
        clean=_shown(question, [crowd[at] for at in clean]),
        source=_shown(question, [crowd[at] for at in source]),
        target=beyond(target, float(found[low[-1]] + found[high[0]]) / 2, sides),
        labels=tuple("above" if side > 0 else "below" for side in sides),
    )


def _shown(question: Question, some: list[Any]) -> Inputs:
    """The question with each of these pictures in the place of its first, a row each."""
    seen = [render(one) if isinstance(one, Scene) else one for one in some]
    if question.kind == "match":
        return question.model.inputs(image=seen, text=list(question.words))
    return question.model.inputs(
        image=[[one, *question.pictures[1:]] for one in seen], text=[question.text] * len(seen)
    )
