"""What is asked of a model: inputs and one number, and all there is to compare the answer with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import xarray
from numpy import ndarray
from PIL.Image import Image

from cutaway.data import Scene, questions, render, scenes
from cutaway.data.prompts import DRAWINGS
from cutaway.errors import InputError, SiteError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import Target, denoising_error, distance, margin, numbers, outcome
from cutaway.model.voice import speaking
from cutaway.model.weights import readout
from cutaway.questions import streamed
from cutaway.questions.answered import answered
from cutaway.questions.bank import TextBank
from cutaway.questions.crowd import AskedOfEach
from cutaway.questions.drawn import drawn
from cutaway.questions.lacks import lacking
from cutaway.questions.opposed import Opposed, opposed
from cutaway.questions.rows import embedded
from cutaway.questions.tasks import Tasks, tasks_of
from cutaway.questions.training import Items, candidates

Kind = Literal["match", "ask", "draw", "many"]
AMONG = 63  # pictures of a crowd that one is read among, where all are held at once
SCENES = 256  # of a model that draws, where it has no crowd
OTHERS = 24  # other inputs, of which it is seen whether a change to the question leaves them as they are
LEAST = {"cosine": 0.02, "logits": 0.02, "nats": 0.02}  # inputs whose numbers are closer are not told apart
MIDDLE = 0.5  # of the drawing: the step at which a denoiser is asked unless one is named


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """What is asked of a model, with everything there is to compare the answer with; what is not there is None.

    `words` are what the number is about and, if there is one, its rival; `counterpart` is the same question with one
    thing changed; `floor` the same of the model before training; `crowd` many other inputs, `labels` what is known of
    them; `bank` texts to explain in, `contexts` texts for a model that writes; `told` tasks told by examples; `learnt`
    training items; `truth` parts of the picture by name (rows × columns, true inside); `word` that of a prompt with
    which a page begins; `code` the lines that make it.
    """

    model: Model
    kind: Kind = "many"
    inputs: Inputs | None = None
    target: Target | None = None
    words: tuple[str, ...] = ()
    pictures: tuple[Image, ...] = ()
    text: str = ""
    counterpart: Question | None = None
    floor: Question | None = None
    crowd: Sequence[Any] | None = None
    labels: Mapping[str, Any] | None = None
    bank: TextBank | None = None
    told: Tasks | None = None
    learnt: Items | None = None
    contexts: tuple[str, ...] | None = None
    truth: Mapping[str, ndarray] = field(default_factory=dict)
    seed: int = 0
    word: str = ""
    code: str = "# `question` is the one that was given"

    @cached_property
    def texts(self) -> TextBank | None:
        """The words as directions in the space of the pictures, for a model that matches; one is enough."""
        if self.kind != "match":
            return None
        vectors = embedded(self.model, self.words, "text", progress=False)
        return TextBank(self.words, ("asked",) * len(self.words), vectors, self.model.name)

    @cached_property
    def value(self) -> float:
        """The number itself, as the model gives it."""
        if self.inputs is None or self.target is None:
            raise InputError(
                "this question has no number", expected="inputs and a target",
                do="make it with `questions.match`, `ask` or `draw`",
            )  # fmt: skip
        return float(numbers(self.target, self.model.run(self.inputs))[0])

    @property
    def number(self) -> Target | None:
        """The target; None of a drawing, whose inputs are where it is least and no small change tells."""
        return None if self.kind == "draw" else self.target

    @property
    def alike(self) -> str:
        """Why it has no sense to compare with the counterpart: the numbers of both are nearly the same; "" else."""
        gap = 0.0 if self.counterpart is None else abs(self.value - self.counterpart.value)
        least = LEAST.get(self.target.unit, 0.0) if self.target is not None else 0.0
        return "" if gap > least else f"the model gives both nearly the same number ({gap:.3f} between them)"

    @property
    def among(self) -> list[Any] | None:
        """The pictures with some of the crowd behind them; None without a crowd."""
        return None if self.crowd is None else [*self.pictures, *self.crowd[:AMONG]]

    @property
    def rows(self) -> Sequence[Any] | None:
        """The crowd as the model takes it: pictures, or for a model that is asked, pictures with what is asked."""
        return AskedOfEach(self) if self.kind == "ask" and self.crowd is not None else self.crowd

    @cached_property
    def scenes(self) -> Sequence[Scene] | None:
        """Scenes of EmojiWorld, whose masks are exact: the crowd if it is such; for one that draws, its own kind."""
        if self.crowd is not None and all(isinstance(one, Scene) for one in self.crowd):
            return self.crowd
        drawn = self.model.family.kind == "diffusion"
        return list(scenes("test", SCENES, world=DRAWINGS)) if drawn else None

    @cached_property
    def others(self) -> Sequence[Inputs] | None:
        """Other inputs, in a batch: pictures of the crowd, each with a question of its own if it is a drawn scene.

        Empty where there is no crowd, or nothing that could change: a picture and one text. None for a drawing.
        """
        if self.kind not in ("ask", "match"):
            return None
        some = [] if self.crowd is None else list(self.crowd[:OTHERS])
        if not some or (self.kind == "match" and len(self.words) < 2):
            return ()
        seen = [render(one) if isinstance(one, Scene) else one for one in some]
        if self.kind == "match":
            return (self.model.inputs(image=seen, text=list(self.words)),)
        texts = [_of_its_own(one, at) if isinstance(one, Scene) else self.text for at, one in enumerate(some)]
        return (self.model.inputs(image=[[one] for one in seen], text=texts),)

    @cached_property
    def opposed(self) -> Opposed | None:
        """Pictures of the crowd with small numbers beside such with large ones; None where there are none."""
        return opposed(self)

    @cached_property
    def drawing(self) -> Inputs | None:
        """The whole drawing of which the inputs are a step; None for a model that draws nothing."""
        steps = None if self.inputs is None else self.inputs.call.drawing
        return None if steps is None else self.model.inputs(prompt=self.text, seed=self.seed, steps=steps)

    @cached_property
    def tasks(self) -> Tasks | None:
        """Tasks told by examples: those that were given, or that the model was taught; else None."""
        return tasks_of(self.model) if self.told is None else self.told

    @cached_property
    def training(self) -> Items | None:
        """What the model may have learnt from: the items that were given, or scenes as its recipe draws them."""
        return candidates(self.model) if self.learnt is None else self.learnt

    @property
    def looks(self) -> str | None:
        """The tower that looks at pictures, or that draws them; None where there is neither."""
        return next((name for name in ("vision", "denoiser") if name in self.model.towers), None)

    @property
    def voice(self) -> str | None:
        """The tower that ends in words; None where there is none, and at a step of a drawing, which says none."""
        if self.inputs is not None and self.inputs.call.drawing:
            return None
        return next(iter(speaking(self.model.engine)), None)

    @property
    def dictionary(self) -> str | None:
        """The features of the first dictionary that the model was opened with; None without one."""
        return next(iter(self.model.dictionaries), None)

    @property
    def streams(self) -> tuple[str, ...] | None:
        """The streams that blocks add to where the inputs run, one a tower, two of joint attention; None: none."""
        return streamed.streams(self)

    @cached_property
    def from_words(self) -> Inputs | None:
        """The inputs as circuits take them: a step of joint attention begins at the words; None without inputs."""
        return streamed.from_words(self)

    @cached_property
    def along(self) -> Inputs | None:
        """The counterpart's in the same way, as far as streams carry what differs; None where there is none."""
        return streamed.along(self)

    @property
    def tokens(self) -> tuple[str | int, ...]:
        """The words that the number is about, as the model's tokens: numbers where it chose them itself."""
        told: Sequence[Any] = getattr(self.target, "words", ())  # a function of one's own has none
        return tuple(word for word in told or self.words if isinstance(word, str | int))

    @property
    def space(self) -> str | None:
        """The space that pictures and texts share, where it is known how the picture tower ends in it; else None."""
        if self.model.family.kind != "contrastive" or not {"vision", "text"} <= set(self.model.towers):
            return None
        try:
            return readout(self.model, "vision").space
        except SiteError:
            return None

    @property
    def end(self) -> str | None:
        """The space that the picture tower ends in, where that is what the model gives out; None elsewhere."""
        if self.space or set(self.model.towers) != {"vision"}:
            return self.space
        try:
            return readout(self.model, "vision").space
        except SiteError:
            return None

    @property
    def aim(self) -> str:
        """What the number is about, in words."""
        quoted = [f"“{word}”" for word in self.words[:2]]
        return " rather than ".join(quoted) or "nothing in particular"

    def aimed(self, values: xarray.DataArray) -> xarray.DataArray:
        """Of numbers with an axis `text`, those of the first of the words, less those of its rival if there is one."""
        first = values.isel(text=0, drop=True)
        return first if len(self.words) < 2 else first - values.isel(text=1, drop=True)

    def other(self, picture: Any) -> Inputs:
        """The inputs with another picture in the place of the first."""
        texts = list(self.words) if self.kind == "match" else self.text
        images: Any = picture if self.kind == "match" else [picture, *self.pictures[1:]]
        return self.model.inputs(image=images, text=texts)

    def part(self, path: str) -> Any:
        """What the question has of that name, such as `pictures` or `counterpart.inputs`; None where it is lacking."""
        found: Any = self
        for name in path.split("."):
            found = getattr(found, name)
            if found is None or (name == "pictures" and not found):
                return None
        return found

    def lacks(self, path: str) -> str:
        """Why a part is not there and how it is given; "" where it is there."""
        if self.part(path) is not None:
            return ""
        first = path.split(".")[0]
        if first == "inputs" and self.inputs is None and self.pictures:
            return lacking("beside")
        return lacking(first if self.part(first) is None else path.split(".")[-1])


def _of_its_own(scene: Scene, at: int) -> str:
    """One of the questions about a scene, another kind for each."""
    every = questions(scene, at)
    return every[at % len(every)].question


def match(model: Model, picture: Any, texts: Sequence[str] = (), counterpart: Any = None, **more: Any) -> Question:
    """How near a picture is to the first text, rather than to the second if there is one (cosine).

    `counterpart` is another picture. A scene of EmojiWorld brings its caption and where its things are, a pair brings
    both captions and its other scene. Further parts of a `Question` go by their names.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> match(cutaway.load("tiny:clip"), tiny.picture(), ["a dog", "a cat"]).aim
    '“a dog” rather than “a cat”'
    """
    from cutaway.questions.given import read_picture, read_texts

    if known := drawn(picture):
        picture, texts = known.picture, texts or known.texts
        counterpart = known.counterpart if counterpart is None else counterpart
        more = {"truth": known.truth} | more
    words, image = read_texts(texts), read_picture(picture)
    made = Question(
        model=model, kind="match", inputs=model.inputs(image=image, text=list(words)), words=words,
        target=margin(0, 1 if len(words) > 1 else None), pictures=(image,), **more,
    )  # fmt: skip
    if counterpart is None:
        return made
    return replace(made, counterpart=match(model, counterpart, words, seed=made.seed))


def ask(
    model: Model, pictures: Any, text: str = "", answer: str = "", rival: str = "", counterpart: Any = None, *,
    raw: bool = False, **more: Any,
) -> Question:  # fmt: skip
    """The answer to a text, with pictures or without, rather than a rival: a difference of two logits, a token each.

    The text is put into the model's chat template if it has one (`model.chat`), unless it is `raw`: a text alone as it
    is. Without an answer it is what the model says first; without a rival the likeliest other word that
    the text names beside the answer ("left or right"), else what the model finds next likely. `counterpart` is
    another picture, or another text. A scene of EmojiWorld brings a question with its answer and where its things are,
    a pair a question that the two scenes answer differently. Further parts of a `Question` go by their names.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> asked = ask(cutaway.load("tiny:llava"), tiny.picture(), "what is this", answer="dog", rival="cat")
    >>> asked.aim, asked.target
    ('“dog” rather than “cat”', logit_diff(word='dog', other='cat', position=-1))
    """
    from cutaway.questions.given import read_picture

    if known := drawn(pictures):
        pictures, (text, answer, rival) = known.picture, known.asked(text, answer, rival)
        counterpart = known.counterpart if counterpart is None else counterpart
        more = {"truth": known.truth} | more
    given = [] if pictures is None else list(pictures) if isinstance(pictures, list | tuple) else [pictures]
    images = tuple(read_picture(one) for one in given)
    if raw and images:
        raise InputError(
            "a raw text beside a picture does not say where that stands", expected="a text alone",
            do="leave `raw` out, and mark the picture's place in the text as the model's own processor does",
        )  # fmt: skip
    said = text if raw or images else model.chat(text)
    inputs = model.inputs(text=said, image=list(images) or None)
    words, target = answered(model, inputs, answer, rival, text)
    made = Question(
        model=model, kind="ask", inputs=inputs, target=target, words=words, pictures=images, text=text, **more
    )
    if counterpart is None:
        return made
    other = {"pictures": list(images), "text": text} | _changed(counterpart, images)
    return replace(made, counterpart=replace(ask(model, **other, answer=answer, rival=rival, raw=raw), target=target,
                                             words=words))  # fmt: skip


def draw(
    model: Model, prompt: Any, *, step: int | None = None, steps: int = 20, counterpart: str | None = None,
    image: Any = None, seed: int = 0, word: str = "", **more: Any,
) -> Question:  # fmt: skip
    """What a denoiser gives at one step of drawing a prompt; `step` is in the middle unless named.

    With an `image`, which noise is added to, it is how far that lies from the noise that is there (mean squared
    error). Without one the latents are those of the drawing from `seed`, and it is how far what the denoiser gives
    lies from what it gives for this prompt (mean squared difference): 0, and more for the `counterpart`, another
    prompt. `word` is the one that a page begins with. A scene of EmojiWorld brings its caption as the prompt and its
    picture, a pair also the other caption.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> draw(cutaway.load("tiny:sd"), "a red dog", step=1, steps=3, image=tiny.picture()).target
    denoising_error()
    """
    from cutaway.questions.given import read_picture

    if known := drawn(prompt):
        prompt, *others = known.texts
        image, counterpart = known.picture if image is None else image, counterpart or next(iter(others), None)
        more = {"truth": known.truth} | more
    _check_word(word, prompt)
    at = int(steps * MIDDLE) if step is None else step
    picture = None if image is None else read_picture(image)
    fixed: dict[str, Any] = {"step": at, "steps": steps, "seed": seed} | ({} if picture is None else {"image": picture})
    inputs = model.inputs(prompt=prompt, **fixed)
    target = distance(outcome(model.run(inputs)).detach()) if picture is None else denoising_error()
    made = Question(
        model=model, kind="draw", inputs=inputs, target=target, words=(prompt,),
        pictures=() if picture is None else (picture,), text=prompt, seed=seed, word=word,
        **more,
    )  # fmt: skip
    if counterpart is None:
        return made
    there = model.inputs(prompt=counterpart, **fixed)
    return replace(made, counterpart=replace(made, inputs=there, text=counterpart, words=(counterpart,), word=""))


def _check_word(word: str, prompt: str) -> None:
    """Refuse a word that the prompt does not say."""
    said = re.findall(r"[\w'-]+", prompt)
    if word and word.lower() not in (one.lower() for one in said):
        raise InputError(
            f"'{word}' is not a word of the prompt", expected="one word of it, to begin with", exists=", ".join(said),
            do="name one of these (`--word`), or leave it out",
        )  # fmt: skip


def _changed(counterpart: Any, images: tuple[Image, ...]) -> dict[str, Any]:
    """The part of a question that a counterpart replaces."""
    if isinstance(counterpart, str) and not images:
        return {"text": counterpart}
    if isinstance(counterpart, str):
        from pathlib import Path

        return {"pictures": counterpart} if Path(counterpart).is_file() else {"text": counterpart}
    return {"pictures": counterpart}
