"""What a model may have learnt from: items with what each costs it, for methods that ask which of them did it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL.Image import Image
from torch import Tensor

from cutaway.data import Scene, caption, render, scene_at
from cutaway.data.prompts import DRAWINGS, prompt
from cutaway.errors import InputError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import denoising_error
from cutaway.questions.losses import Measure, answer_loss, contrastive_loss, output_size
from cutaway.questions.rows import embedded
from cutaway.zoo.contexts import asked, some_scene
from cutaway.zoo.trained import spec_of

CANDIDATES = 96  # scenes of a model of the zoo, where no items are given
STEPS = 20  # of the drawing whose noise levels a denoiser is asked at
NOISES = (2, 7, 12, 17)  # the levels: four of these steps, evenly

Target = Callable[[Run], Tensor]
Batch = tuple[Inputs, Target]


class Trainings(NamedTuple):
    """Which items each of some trainings kept, and how well its model did on what is asked; higher is better."""

    kept: Bool[ndarray, "training item"]
    outcome: Float[ndarray, "training query"]


@dataclass(frozen=True, eq=False)
class Items:
    """Ready rows, each with its loss: `inputs` one row each, `target` what any of them costs.

    Other kinds of items say how they are made: `Pairs`, `Answers`, `Drawings`. `draws` is how often an item is looked
    at, each time in another way (noise, step). `likelihood` says that a loss is -log of a probability. `known` is what
    trainings on some of these very items gave, where somebody made them.
    """

    inputs: Sequence[Inputs] = ()
    target: Target | None = None
    known: Trainings | None = field(default=None, kw_only=True)
    likelihood: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def draws(self) -> int:
        """How often each item is looked at."""
        return 1

    def shown(self, at: int) -> tuple[Image | None, str]:
        """The picture and the words of an item, for people."""
        pictures = self.inputs[at].pictures
        return (pictures[0] if pictures else None), f"item {at}"

    def take(self, chosen: Sequence[int]) -> Items:
        """Some of the items."""
        return replace(self, inputs=[self.inputs[i] for i in chosen], known=None)

    def on(self, model: Model, measure: Measure = "loss") -> Callable[[Sequence[int], int], Batch]:
        """For a model: what makes the inputs of some items in one of their draws, and their losses."""
        if self.target is None or measure != "loss":
            raise InputError("these items have no such number", expected="a target", exists=measure)
        target = self.target
        return lambda rows, draw: (Inputs.stack([self.inputs[i] for i in rows]), target)

    def embeddings(self, model: Model, batch: int = 32) -> Float[Tensor, "item width"]:
        """What the model makes of each item as a whole, for comparing items by what they show."""
        make = self.on(model)
        return torch.cat([self.seen(model, make(rows, 0)[0]) for rows in _parts(len(self), batch)])

    def seen(self, model: Model, inputs: Inputs) -> Float[Tensor, "row width"]:
        """What the model makes of any inputs, in the same space."""
        return _state(model, inputs)


@dataclass(frozen=True, eq=False)
class Pairs(Items):
    """Pictures, each with its text, of a model that tells pairs apart; an item's loss is `contrastive_loss`.

    The others that a pair is told apart from are `among`, or these pairs themselves, embedded as the model does and
    held still; `places` is where each pair stands among them (none: nowhere).
    """

    pictures: Sequence[Any] = ()
    texts: Sequence[str] = ()
    among: Pairs | None = None
    places: Sequence[int] | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        _as_many(pictures=self.pictures, texts=self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def shown(self, at: int) -> tuple[Image | None, str]:
        """The picture and its text."""
        return _picture(self.pictures[at]), self.texts[at]

    def take(self, chosen: Sequence[int]) -> Pairs:
        """Some of the pairs, among the same others."""
        every = self._places()
        pictures, texts = [self.pictures[i] for i in chosen], [self.texts[i] for i in chosen]
        places = [every[i] for i in chosen]
        among = self.among or self
        return replace(self, pictures=pictures, texts=texts, places=places, among=among, known=None)

    def _places(self) -> Sequence[int]:
        if self.places is not None:
            return self.places
        return range(len(self)) if self.among is None else [-1] * len(self)

    def on(self, model: Model, measure: Measure = "loss") -> Callable[[Sequence[int], int], Batch]:
        """Pairs and their losses, among the others as the model embeds them now."""
        _only_loss(self, measure)
        pictures, texts = (self.among or self).joint(model)
        every = self._places()
        scale = float(getattr(model.module, "logit_scale", torch.zeros(())).detach().exp())

        def make(rows: Sequence[int], _: int) -> Batch:
            seen, said = [_picture(self.pictures[i]) for i in rows], [self.texts[i] for i in rows]
            target = contrastive_loss(pictures, texts, scale, tuple(every[i] for i in rows), self.whole)
            return model.inputs(image=seen, text=said), target

        return make

    def joint(self, model: Model) -> tuple[Float[Tensor, "item joint"], Float[Tensor, "item joint"]]:
        """The embeddings of all pictures and of all texts."""
        both = (self.pictures, "vision"), (self.texts, "text")
        pictures, texts = (embedded(model, list(rows), tower, progress=False).detach() for rows, tower in both)
        return pictures, texts

    def embeddings(self, model: Model, batch: int = 32) -> Float[Tensor, "item width"]:
        """Picture and text, each of length 1, behind one another: a cosine is the mean of the two."""
        return torch.cat([torch.nn.functional.normalize(one, dim=-1) for one in self.joint(model)], 1)

    def seen(self, model: Model, inputs: Inputs) -> Float[Tensor, "row width"]:
        """Pictures, and the text of each; one picture goes with the first of several texts."""
        outputs = model.run(inputs).outputs
        both = outputs.image_embeds.detach(), outputs.text_embeds.detach()[: len(outputs.image_embeds)]
        return torch.cat([torch.nn.functional.normalize(one, dim=-1) for one in both], 1)


@dataclass(frozen=True, eq=False)
class Answers(Items):
    """Questions with their answers, each about a picture or about none (None): the loss is -log p of the whole answer.

    Each token is given those before it. With `mean` the loss is divided by their number, as where each token counts.
    """

    pictures: Sequence[Any] = ()
    texts: Sequence[str] = ()
    answers: Sequence[str] = ()
    mean: bool = False

    def __post_init__(self) -> None:
        _as_many(pictures=self.pictures, texts=self.texts, answers=self.answers)

    def __len__(self) -> int:
        return len(self.texts)

    def shown(self, at: int) -> tuple[Image | None, str]:
        """The picture, the question and its answer."""
        return _picture(self.pictures[at]), f"{self.texts[at]} {self.answers[at]}"

    def take(self, chosen: Sequence[int]) -> Answers:
        """Some of them."""
        pictures, texts = [self.pictures[i] for i in chosen], [self.texts[i] for i in chosen]
        answers = [self.answers[i] for i in chosen]
        return replace(self, pictures=pictures, texts=texts, answers=answers, known=None)

    def on(self, model: Model, measure: Measure = "loss") -> Callable[[Sequence[int], int], Batch]:
        """Questions with answers, and the losses of these."""
        _only_loss(self, measure)

        def make(rows: Sequence[int], _: int) -> Batch:
            seen = [_picture(self.pictures[i]) for i in rows]
            alone = all(one is None for one in seen)
            both = zip(rows, seen, strict=True)
            said = [self.texts[i] if one is not None else model.chat(self.texts[i]) for i, one in both]
            images = None if alone else [[] if one is None else [one] for one in seen]
            inputs = model.inputs(image=images, text=said, answer=[self.answers[i] for i in rows])
            return inputs, answer_loss(mean=self.mean)

        return make


@dataclass(frozen=True, eq=False)
class Drawings(Items):
    """Pictures with the prompts that ask for them: the loss is the denoiser's error at fixed draws of noise and step.

    A draw is a step of `steps` and a seed of the noise, the same for all items (`at`: the steps; one seed each).
    """

    pictures: Sequence[Any] = ()
    prompts: Sequence[str] = ()
    at: tuple[int, ...] = NOISES
    steps: int = STEPS
    likelihood: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _as_many(pictures=self.pictures, prompts=self.prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def draws(self) -> int:
        """How many noise levels."""
        return len(self.at)

    def shown(self, at: int) -> tuple[Image | None, str]:
        """The picture and its prompt."""
        return _picture(self.pictures[at]), self.prompts[at]

    def take(self, chosen: Sequence[int]) -> Drawings:
        """Some of them."""
        pictures, prompts = [self.pictures[i] for i in chosen], [self.prompts[i] for i in chosen]
        return replace(self, pictures=pictures, prompts=prompts, known=None)

    def on(self, model: Model, measure: Measure = "loss") -> Callable[[Sequence[int], int], Batch]:
        """Noised pictures with their prompts and the denoiser's errors, or with a measure of what it gives."""
        target = denoising_error() if measure == "loss" else output_size(measure)

        def make(rows: Sequence[int], draw: int) -> Batch:
            how: dict[str, Any] = {"step": self.at[draw], "steps": self.steps, "seed": draw}
            each = [model.inputs(prompt=self.prompts[i], image=_picture(self.pictures[i]), **how) for i in rows]
            return Inputs.stack(each), target

        return make


def candidates(model: Model, many: int = CANDIDATES) -> Items | None:
    """Training items of a model of the zoo: scenes drawn, numbered and told as its recipe does; None of other models.

    They are candidates: which scenes the shipped weights saw, and in which order, is not kept beside them.

    >>> import cutaway
    >>> found = candidates(cutaway.load("zoo:emoji-clip"), 3)
    >>> len(found), found.shown(0)[1] == caption(scene_at("train", 0), scene_at("train", 0).seed).text
    (3, True)
    """
    spec = spec_of(model.name)
    made = None if spec is None else KINDS.get(spec.name)
    return None if made is None else made(many)


def _told(many: int) -> Pairs:
    scenes = [scene_at("train", i) for i in range(many)]
    return Pairs(pictures=scenes, texts=[caption(one, one.seed).text for one in scenes])


def _talked(many: int) -> Answers:
    pictures, texts, answers = [], [], []
    for i in range(many):
        dice = random.Random(f"candidates/{i}")
        pictures.append(some_scene(dice, "train"))
        turn = dice.choice(asked(dice, pictures[-1]))
        texts.append(turn.question)
        answers.append(turn.answer)
    return Answers(pictures=pictures, texts=texts, answers=answers)


def _drawn(many: int) -> Drawings:
    scenes = [scene_at("train", i, 0, DRAWINGS) for i in range(many)]
    return Drawings(pictures=scenes, prompts=[prompt(one, one.seed).text for one in scenes])


KINDS: dict[str, Callable[[int], Items]] = {
    "emoji-clip": _told, "emoji-llava": _talked, "emoji-sd": _drawn, "emoji-mmdit": _drawn,
}  # fmt: skip


def _picture(one: Any) -> Any:
    return render(one) if isinstance(one, Scene) else one


def _parts(many: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, many)) for start in range(0, many, size))


def _as_many(**given: Sequence[Any]) -> None:
    """Refuse items with more of one thing than of another."""
    counts = {name: len(values) for name, values in given.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"items with {', '.join(f'{count} {name}' for name, count in counts.items())}", expected="as many of each",
            do="give one for each item, None for no picture",
        )  # fmt: skip


def _only_loss(items: Items, measure: Measure) -> None:
    if measure != "loss":
        raise InputError(
            f"{type(items).__name__} have no measure '{measure}'", expected='measure="loss"',
            do="measures of what a denoiser gives are for `Drawings`",
        )  # fmt: skip


def _state(model: Model, inputs: Inputs) -> Float[Tensor, "row width"]:
    """The mean over positions of the last residual state of each row, or over places of the middle of a denoiser."""
    every = [site for site in model.sites if site.part.endswith(("resid_post", "res.out")) and not site.dead]
    drawn = [site for site in every if site.tower == "denoiser" and site.stream != "text"]
    last = drawn[: len(drawn) // 2 + 1] or [site for site in every if site.tower == "text"] or every
    if not last:
        raise InputError(f"'{model.name}' has no state that stands for an item", do="compare items by gradients")
    state = model.run(inputs, record=last[-1])[last[-1]].detach().float()
    names = last[-1].axes[-state.dim() :]
    return state.mean([axis for axis, name in enumerate(names) if name not in ("batch", "channel", "d_model")])
