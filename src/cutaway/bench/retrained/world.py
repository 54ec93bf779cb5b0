"""A retrained world: a model, what it was trained on, and what many other trainings made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from safetensors.torch import load_file
from torch import Tensor

from cutaway.bench.retrained.contrastive import Contrastive
from cutaway.bench.retrained.drawing import Drawing
from cutaway.bench.retrained.family import Family, learnt, pictures
from cutaway.bench.retrained.generative import Generative
from cutaway.bench.retrained.items import SIDE, Planted, Truth, planted
from cutaway.bench.retrained.jobs import MARKS, SEED
from cutaway.bench.retrained.training import train
from cutaway.data.worlds import Item
from cutaway.errors import InputError, LoadError, near
from cutaway.model.model import Model
from cutaway.model.pieces import Piece, pieces
from cutaway.questions.question import Question
from cutaway.questions.training import Items, Trainings

_HOME = Path(__file__).parent / "shipped"
KINDS = {"clip": "match", "llava": "ask", "sd": "draw"}
FAMILIES: dict[str, Family] = {one.name: one for one in (Contrastive(), Generative(), Drawing())}


class LeftOut(NamedTuple):
    """Items left out alone, and what each query lost by it: its outcome with all items less the one without."""

    items: Int[ndarray, "item"]
    lost: Float[ndarray, "item query"]


@dataclass(frozen=True, eq=False)
class Retrained:
    """A model that trains in seconds, with the outcomes of many trainings without some of its items.

    `kept` says which items each subset was trained on, `outcome` how well that training does on each query; all begin
    at the same weights and see the same batches. `again` is the outcome of the first `len(again)` subsets with another
    seed, and so another start: the correlation of the two is a ceiling for whoever foretells one of them.
    """

    family: Family
    numbers: Mapping[str, Tensor] = field(repr=False)

    @property
    def name(self) -> str:
        """Its name: clip, llava, sd."""
        return self.family.name

    @property
    def planted(self) -> Planted:
        """The items, the queries and the truth, the same in all worlds."""
        return planted()

    @property
    def items(self) -> tuple[Item, ...]:
        """What it was trained on."""
        return self.planted.items

    @property
    def queries(self) -> tuple[Item, ...]:
        """What it is judged on."""
        return self.planted.queries

    @property
    def truth(self) -> Truth:
        """What was planted among the items."""
        return self.planted.truth

    @cached_property
    def kept(self) -> Bool[ndarray, "subset item"]:
        """Which items each subset holds."""
        return self.numbers["kept"].numpy().astype(bool)

    @cached_property
    def outcome(self) -> Float[ndarray, "subset query"]:
        """How well the model of each subset does on each query; the family says in which unit. Higher is better."""
        return self._array("outcome")

    @cached_property
    def again(self) -> Float[ndarray, "twice query"]:
        """The same of the first so many subsets with another seed."""
        return self._array("again")

    @cached_property
    def full(self) -> Float[ndarray, "query"]:
        """The outcome of the model that is opened: of all items."""
        return self._array("full")[0]

    @cached_property
    def without(self) -> Mapping[str, Float[ndarray, "query"]]:
        """The outcome without all wrong items, and without all items that carry the cue."""
        return dict(zip(("wrong", "cued"), self._array("flaw"), strict=True))

    @cached_property
    def leave_one_out(self) -> LeftOut:
        """Some single items left out: of each kind of flaw, and of none."""
        return LeftOut(self.numbers["left"].numpy(), self.full - self._array("alone"))

    @cached_property
    def model(self) -> Model:
        """The model trained on all items, opened from shipped weights."""
        return self._with("weight.")

    def floor(self) -> Model:
        """The same before training."""
        return self.family.start(SEED)

    def checkpoints(self) -> tuple[list[Model], list[float]]:
        """The model on its way, in half precision weights, and at its end; with the rate of each.

        Where the weights on the way are not shipped (`sd`: they are large), it is trained once more, in seconds.
        """
        recipe = self.family.recipe
        steps = [round(mark * recipe.steps) for mark in MARKS]
        on_the_way = self.numbers if any(name.startswith("mark.") for name in self.numbers) else self._marks(steps)
        models = [self._with(f"mark.{index}.", on_the_way) for index in range(len(steps))]
        return [*models, self.model], [recipe.rate_at(step - 1) for step in (*steps, recipe.steps)]

    def _marks(self, steps: Sequence[int]) -> dict[str, Tensor]:
        """The weights after these steps of a training on all items."""
        start, found = self.floor(), dict[str, Tensor]()

        def saw(step: int, model: Model) -> None:
            if step in steps:
                parts = learnt(self.family.learning(model)).items()
                found.update({f"mark.{steps.index(step)}.{name}": one.detach().half() for name, one in parts})

        train(self.family, self.family.ready(start, self.items), torch.ones(len(self.items)).bool(), SEED, start, saw)
        return found

    def pieces(self, model: Model | None = None) -> tuple[Piece, ...]:
        """The pieces of weights that learn, of its model or another one of this world: locked towers are left out."""
        model = model or self.model
        front = "unet." if model.engine.pipeline is not None else ""
        layers = {f"{front}{name.rpartition('.')[0]}" for name in learnt(self.family.learning(model))}
        return tuple(one for one in pieces(model) if one.layer in layers)

    def training(self) -> Items:
        """The items as methods take them, each with its loss."""
        return self.family.asked(self.items)

    def asked(self, kind: str = "") -> Items:
        """The queries as methods take them, or those of one kind; the outcome is minus their loss."""
        chosen = self.planted.asked(kind) if kind else range(len(self.queries))
        return self.family.asked([self.queries[index] for index in chosen], self.planted.reference)

    def question(self, query: int = 0) -> Question:
        """A query as a question, of what draws at one level of noise, with the items and what the halves gave for it.

        >>> world("llava").question(3).training.known.outcome.shape
        (64, 1)
        """
        at = range(len(self.queries))[query]
        item, model = self.queries[at], self.model
        inputs, target = self.asked().take([at]).on(model)([0], 0)
        items = replace(self.training(), known=Trainings(self.kept, self.outcome[:, [at]]))
        more: dict[str, Any] = {"kind": KINDS[self.name], "target": target, "pictures": tuple(pictures([item], SIDE))}
        return Question(
            model=model, inputs=inputs, words=(item.caption.text,), text=item.caption.text, learnt=items, **more
        )

    def ready(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """What the frozen parts make of items and of queries: seconds, once for any number of `retrain`."""
        start = self.floor()
        return (
            self.family.ready(start, self.items),
            self.family.known(start, self.queries, self.planted.reference),
        )

    def retrain(
        self,
        kept: Bool[ndarray, "item"] | Sequence[bool],
        seed: int = SEED,
        ready: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
    ) -> Float[ndarray, "query"]:
        """Train anew on the items kept, and the outcome: seconds. The same numbers for the same (kept, seed).

        On another machine they differ in their last digits, and training makes that somewhat more.
        """
        given, known = ready or self.ready()
        chosen = torch.from_numpy(np.asarray(kept, dtype=bool))
        if len(chosen) != len(self.items):
            raise InputError(f"{len(chosen)} marks for {len(self.items)} items", expected="for each whether it is kept")
        model = train(self.family, given, chosen, seed, self.family.start(seed))
        with torch.no_grad():
            return self.family.outcome(model, known).numpy()

    def _array(self, name: str) -> Float[ndarray, "..."]:
        return self.numbers[name].double().numpy()

    def _with(self, prefix: str, numbers: Mapping[str, Tensor] | None = None) -> Model:
        """A model of this world with some of the shipped weights, or of others."""
        model = self.floor()
        for name, weight in learnt(self.family.learning(model)).items():
            weight.data.copy_((numbers or self.numbers)[f"{prefix}{name}"])
        return model


@cache
def world(name: str) -> Retrained:
    """The retrained world of that name: clip, llava, sd.

    >>> made = world("clip")
    >>> made.kept.shape, made.outcome.shape, len(made.truth.duplicates)
    ((64, 192), (64, 40), 8)
    """
    if name not in FAMILIES:
        raise InputError(
            f"no retrained world is called '{name}'", expected="a family", exists=near(name, FAMILIES), do="name one"
        )
    if not shipped(name).exists():
        raise LoadError(
            f"the numbers of '{name}' are not here", expected=shipped(name).name,
            do=f"`python scripts/make_retrained.py {name} --work DIR`, then the same with `--pack`",
        )  # fmt: skip
    return Retrained(FAMILIES[name], load_file(shipped(name)))


def shipped(name: str) -> Path:
    """The file with the numbers of a world."""
    return _HOME / f"{name}.safetensors"
