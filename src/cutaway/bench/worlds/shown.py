"""How the values of each world become inputs with a target, and questions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from cutaway.bench.worlds.world import Pairs, Side
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target, logit_diff, outcome
from cutaway.questions.pairs import closer_to
from cutaway.questions.question import Question, ask, match
from cutaway.zoo import planted_clip, planted_llava, planted_mmdit, planted_text
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


@dataclass(frozen=True, eq=False, repr=False)
class toward(Target):  # noqa: N801
    """How much nearer what a denoiser takes a drawing to be lies to one latent than to another.

    2 <x - (a + b) / 2, a - b> / |a - b|^2 with x = noise - v, of the first step of a drawing of one step: 1 where x is
    a, -1 where it is b.
    """

    to: Float[Tensor, "row channel height width"]
    than: Float[Tensor, "row channel height width"]

    def __repr__(self) -> str:
        return f"toward({len(self.to)} rows)"

    def rows(self, start: int, stop: int) -> toward:
        """The target of these rows only."""
        return toward(self.to[start:stop], self.than[start:stop])

    def __call__(self, run: Run) -> Float[Tensor, "batch"]:
        """The share of the way, from -1 to 1."""
        given = outcome(run)
        found = run.inputs.tensors["hidden_states"].to(given) - given
        way, middle = (self.to - self.than).to(given), ((self.to + self.than) / 2).to(given)
        return 2 * ((found - middle) * way).flatten(1).sum(1) / way.square().flatten(1).sum(1)

    @property
    def unit(self) -> str:
        """From one latent to the other."""
        return "share of the way"


def _pairs_of_drawings(model: Model, values: Values, others: Values) -> Pairs:
    one, other = (planted_mmdit.asked(model, planted_mmdit.texts(given), given["noise"]) for given in (values, others))
    shown = (planted_mmdit.drawn(planted_mmdit.PLANT.solve(given)["answer"]) for given in (values, others))
    return Pairs(one, other, toward(*shown))


def _question_of_drawings(model: Model, values: Values, others: Values) -> Question:
    """Of prompts with the same noise."""
    one, other = _pairs_of_drawings(model, values, {**others, "noise": values["noise"]})[:2]
    target = _pairs_of_drawings(model, values, others).target
    (here,), (there,) = planted_mmdit.texts(values), planted_mmdit.texts(others)
    made = Question(model=model, kind="draw", inputs=one, target=target, words=(here,), text=here)
    return replace(made, counterpart=replace(made, inputs=other, words=(there,), text=there))


MMDIT = Side(_pairs_of_drawings, _question_of_drawings, ("thing", "place"))
