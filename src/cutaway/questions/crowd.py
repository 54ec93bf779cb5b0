"""A crowd as a model that is asked takes it: every picture with what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cutaway.data import Scene, render
from cutaway.model.inputs import Inputs

if TYPE_CHECKING:
    from cutaway.questions.question import Question


class AskedOfEach(Sequence[Any]):
    """Every picture of a crowd with the text of a question, as inputs that are made when they are asked for."""

    def __init__(self, question: Question) -> None:
        self.question, self.crowd = question, list(question.crowd or ())

    def __len__(self) -> int:
        return len(self.crowd)

    def __getitem__(self, at: Any) -> Any:
        chosen = range(len(self))[at]
        return self._made(chosen) if isinstance(chosen, int) else [self._made(one) for one in chosen]

    def _made(self, at: int) -> Inputs:
        one = self.crowd[at]
        picture = render(one) if isinstance(one, Scene) else one
        return self.question.model.inputs(image=picture, text=self.question.text)
