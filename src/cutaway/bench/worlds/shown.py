"""How the values of each world become inputs with a target, and questions."""

from __future__ import annotations

from dataclasses import replace

from cutaway.bench.worlds.world import Pairs, Side
from cutaway.model.model import Model
from cutaway.model.targets import logit_diff
from cutaway.questions.pairs import closer_to
from cutaway.questions.question import Question, ask, match
from cutaway.zoo import planted_clip, planted_llava, planted_text
from cutaway.zoo.planted import Values


def _colours(values: Values) -> list[str]:
    """The colour that is the answer to each row."""
    return [planted_text.COLOURS[one] for one in planted_text.PLANT.solve(values)["answer"].tolist()]


def _pairs_of_text(model: Model, values: Values, others: Values) -> Pairs:
    one, other = (model.inputs(text=planted_text.texts(given)) for given in (values, others))
    return Pairs(one, other, logit_diff(_colours(values), _colours(others)))


def _question_of_text(model: Model, values: Values, others: Values) -> Question:
    one, other = planted_text.texts(values)[0], planted_text.texts(others)[0]
    return ask(model, None, one, _colours(values)[0], _colours(others)[0], counterpart=other)


TEXT = Side(_pairs_of_text, _question_of_text, tuple(planted_text.PLANT.given))


def _called(values: Values) -> list[str]:
    """What the colour that is the answer to each row is called."""
    return [planted_llava.COLOURS[one] for one in planted_llava.PLANT.solve(values)["answer"].tolist()]


def _pairs_of_llava(model: Model, values: Values, others: Values) -> Pairs:
    one, other = (
        model.inputs(image=[[picture] for picture in planted_llava.pictures(given)], text=planted_llava.texts(given))
        for given in (values, others)
    )
    return Pairs(one, other, logit_diff(_called(values), _called(others)))


def _question_of_llava(model: Model, values: Values, others: Values) -> Question:
    """The counterpart may differ in the picture and in what is asked."""
    answer, rival = _called(values)[0], _called(others)[0]
    one, other = (
        ask(model, planted_llava.pictures(given)[0], planted_llava.texts(given)[0], answer, rival)
        for given in (values, others)
    )
    return replace(one, counterpart=other)


LLAVA = Side(_pairs_of_llava, _question_of_llava, tuple(planted_llava.PLANT.given))


def _pairs_of_pictures(model: Model, values: Values, others: Values) -> Pairs:
    one, other = (model.inputs(image=planted_clip.pictures(given)) for given in (values, others))
    texts = (planted_clip.texts(given, seen=True) for given in (values, others))
    return Pairs(one, other, closer_to(model, *texts))


def _pairs_of_words(model: Model, values: Values, others: Values) -> Pairs:
    one, other = (model.inputs(text=planted_clip.texts(given)) for given in (values, others))
    shown = (planted_clip.pictures(planted_clip.as_said(given)) for given in (values, others))
    return Pairs(one, other, closer_to(model, *shown))


def _question_of_pictures(model: Model, values: Values, others: Values) -> Question:
    texts = [*planted_clip.texts(values, seen=True), *planted_clip.texts(others, seen=True)]
    return match(model, planted_clip.pictures(values)[0], texts, planted_clip.pictures(others)[0])


def _question_of_words(model: Model, values: Values, others: Values) -> Question:
    """Of pictures that show what is said."""
    return _question_of_pictures(model, planted_clip.as_said(values), planted_clip.as_said(others))


CLIP = {
    "vision": Side(_pairs_of_pictures, _question_of_pictures, ("paint", "kind")),
    "text": Side(_pairs_of_words, _question_of_words, ("said colour", "said kind")),
}
