"""Tasks that are told by examples, as prompts: with examples, alone, and asked in words."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from cutaway.data import Scene, Split, concept, render
from cutaway.data.captions import at_place
from cutaway.data.claims import Noun
from cutaway.errors import InputError
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.words import token_id
from cutaway.zoo.contexts import TASKS, answer_to, asked, brief, by_example, kept_apart, one_of_each, task_scene
from cutaway.zoo.conversations import Conversation, Turn
from cutaway.zoo.trained import spec_of

Way = Literal["picture", "words"]
WAYS: tuple[Way, ...] = ("picture", "words")
MANY, EXAMPLES = 24, 3


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts, a row each, and the right next word of each as the number of a token."""

    inputs: Inputs
    answers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.answers)


@dataclass(frozen=True, eq=False)
class Task:
    """One task, told in one way (by pictures, or in words).

    `shots` are prompts with examples, from which a vector is made, `trial` prompts without examples, on which it is
    decided where that is put. The others are about something else, to judge it: `alone` are prompts without examples,
    `shown` the same behind examples, `asked` with the question in words, where there is one.
    """

    name: str
    way: str
    shots: Prompts
    trial: Prompts
    alone: Prompts
    shown: Prompts | None = None
    asked: Prompts | None = None

    def __repr__(self) -> str:
        return f"Task({self.name} by {self.way}: {len(self.shots)} prompts with examples, {len(self.alone)} alone)"


class Tasks(Sequence[Task]):
    """Several tasks, and `others`: prompts that ask something else, whose answers should stay. Made when asked for."""

    def __init__(self, made: Callable[[], Sequence[Task]], others: Callable[[], Prompts]) -> None:
        self._made, self._others = cache(made), cache(others)

    def __len__(self) -> int:
        return len(self._made())

    def __getitem__(self, at: Any) -> Any:
        return self._made()[at]

    @property
    def others(self) -> Prompts:
        """Prompts that ask something else."""
        return self._others()


def prompts(model: Model, texts: Sequence[str], answers: Sequence[str | int], pictures: Any = None) -> Prompts:
    """Prompts of texts and their next words; `pictures` has a list for each text, or is None.

    >>> import cutaway
    >>> prompts(cutaway.load("tiny:llama"), ["a dog is", "a cat is"], ["red", "blue"]).answers
    (177, 179)
    """
    if not texts or len(texts) != len(answers):
        raise InputError(f"{len(texts)} texts and {len(answers)} answers", expected="one answer a text, one text least")
    inputs = model.inputs(text=list(texts), **({} if pictures is None else {"image": pictures}))
    spoken = Run(None, inputs, context=model.engine)
    return Prompts(inputs, tuple(token_id(spoken, answer) for answer in answers))


def emoji_tasks(
    model: Model, tasks: Iterable[str] = TASKS, *, ways: Iterable[Way] = WAYS, many: int = MANY,
    examples: int = EXAMPLES, seed: int = 0, split: Split = "test",
) -> tuple[Task, ...]:  # fmt: skip
    """The tasks that `zoo:emoji-llava` was taught by example, for any model that takes its chats.

    `many` prompts of each kind, behind `examples` examples. Things in these and in the trial are ones that training had
    in examples, those that are asked about otherwise ones that it had not. Of an answer of several words ("top left")
    the first one counts. `place` has no question in words.
    """
    made = []
    for way in ways:
        for task in tasks:

            def scenes(part: str, task: str = task, way: str = way) -> list[list[Scene]]:
                number = 0 if part == "trial" else examples
                draws = (random.Random(f"{part}/{task}/{way}/{n}/{seed}") for n in range(many))
                return [_scenes(task, number, draw, split, part == "shown") for draw in draws]

            shots, trial, shown = scenes("shots"), scenes("trial"), scenes("shown")
            said = [chat for some in shown if (chat := _worded(task, way, some[-1])) is not None]
            parts = (shots, trial, [some[-1:] for some in shown], shown)
            one, two, three, four = (conversations(model, [_chat(task, way, some) for some in part]) for part in parts)
            words = conversations(model, said) if len(said) == many else None
            made.append(Task(task, way, shots=one, trial=two, alone=three, shown=four, asked=words))
    return tuple(made)


def emoji_questions(model: Model, many: int = 64, seed: int = 0, split: Split = "test") -> Prompts:
    """One question of some kind about each of many pictures, in words, with its first word of answer."""
    draw, made = random.Random(f"others/{seed}"), []
    for _ in range(many):
        scene = task_scene(draw, draw.choice(TASKS), split, lambda _: True)
        turn = draw.choice(one_of_each(draw, asked(draw, scene)))
        made.append(Conversation((turn,), (scene,)))
    return conversations(model, made)


def tasks_of(model: Model) -> Tasks | None:
    """The tasks by example that a model of the zoo was taught; None for any other model."""
    spec = spec_of(model.name)
    if spec is None or spec.asked != "answer":
        return None
    return Tasks(lambda: emoji_tasks(model), lambda: emoji_questions(model))


def conversations(model: Model, chats: Sequence[Conversation]) -> Prompts:
    """Conversations up to their last answer, in the model's own chat template."""
    talker = getattr(model.processor, "apply_chat_template", None)
    if talker is None:
        raise InputError(
            f"'{model.name}' has no chat template", expected="a processor that knows how a conversation is written",
            do="write the prompts as texts: `prompts(model, texts, answers)`",
        )  # fmt: skip
    texts = [str(talker(one.messages()[:-1], add_generation_prompt=True, tokenize=False)) for one in chats]
    pictures = [[render(scene) for scene in one.shown()] for one in chats]
    first = [one.turns[-1].answer for one in chats]
    return prompts(model, texts, [_first(model, word) for word in first], pictures if any(pictures) else None)


def _first(model: Model, answer: str) -> int:
    """The number of the first token of an answer."""
    tokenizer = model.tokenizer
    return int(tokenizer.encode(f" {answer}", add_special_tokens=False)[0])


def _scenes(task: str, examples: int, draw: random.Random, split: Split, apart: bool) -> list[Scene]:
    """Scenes for a task; only the last may be, and then is, of the things kept apart from examples in training."""
    before = [task_scene(draw, task, split, lambda name: not kept_apart(name)) for _ in range(examples)]
    return [*before, task_scene(draw, task, split, lambda name: kept_apart(name) == apart)]


def _chat(task: str, way: str, scenes: Sequence[Scene]) -> Conversation:
    """Scenes as a task by example; one alone is a prompt without examples."""
    return by_example(task, len(scenes) - 1, iter(scenes).__next__, words=way == "words")


def _worded(task: str, way: str, scene: Scene) -> Conversation | None:
    """The question of a task in words about a scene, a picture or told in a phrase; None for a task that has none."""
    name, place = scene.things[0].concept, scene.things[0].place_name
    question = {
        "thing": f"What is {at_place(place)}?", "background": "What colour is the background?",
        "kind": f"What kind of thing {'are' if concept(name).plural else 'is'} {Noun(name).the}?",
        "count": "How many things are there?",
    }.get(task)  # fmt: skip
    if question is None:
        return None
    told = brief(scene) if way == "words" else ""
    turn = Turn(task, question, answer_to(task, scene))
    return Conversation((turn,), () if told else (scene,), told)
