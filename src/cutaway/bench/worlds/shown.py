"""How the values of each world become inputs with a target, and questions."""

from __future__ import annotations

from cutaway.bench.worlds.world import Pairs, Side
from cutaway.model.model import Model
from cutaway.model.targets import logit_diff
from cutaway.questions.question import Question, ask
from cutaway.zoo import planted_text
from cutaway.zoo.planted import Values


def _said(values: Values) -> list[str]:
    """The colour that is the answer to each row."""
    return [planted_text.COLOURS[one] for one in planted_text.PLANT.solve(values)["answer"].tolist()]


def _pairs_of_text(model: Model, values: Values, others: Values) -> Pairs:
    one, other = (planted_text.inputs(model, given) for given in (values, others))
    return Pairs(one, other, logit_diff(_said(values), _said(others)))


def _question_of_text(model: Model, values: Values, others: Values) -> Question:
    one, other = planted_text.texts(values)[0], planted_text.texts(others)[0]
    return ask(model, None, one, _said(values)[0], _said(others)[0], counterpart=other)


TEXT = Side(_pairs_of_text, _question_of_text, tuple(planted_text.PLANT.given))
