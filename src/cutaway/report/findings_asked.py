"""Questions that a page of findings asks: one right answer each, a rival, and what is where in the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from cutaway.data import Pair, Question, Scene, coverage, description, pairs, questions, render, scenes
from cutaway.data.claims import OPPOSITE
from cutaway.methods.truth import COVERED, on_patches
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import logit_diff
from cutaway.questions.drawn import OTHER

KINDS = ("presence", "what", "colour", "count", "side")
TOWER = "text"
TRIES = 60  # scenes looked at for each question that is kept
VERBS = ("is", "are")
OPPOSITES = {**OTHER, **OPPOSITE}


@dataclass(frozen=True)
class Posed:
    """One question about each of some scenes, of a kind, in a batch; `told` scenes are told in words, not shown."""

    model: Model
    scenes: Sequence[Scene]
    questions: Sequence[Question]
    rivals: Sequence[str]
    told: bool = False

    @cached_property
    def inputs(self) -> Inputs:
        """The prompts: a picture and its question, or its description and the question."""
        asked = [one.question for one in self.questions]
        if not self.told:
            return self.model.inputs(image=[[render(scene)] for scene in self.scenes], text=asked)
        said = [f"{description(scene, 1).text} {one}" for scene, one in zip(self.scenes, asked, strict=True)]
        turns = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in said]
        chat = self.model.processor.apply_chat_template
        return self.model.inputs(text=[chat(one, add_generation_prompt=True, tokenize=False) for one in turns])

    @cached_property
    def target(self) -> logit_diff:
        """The true answer rather than its rival, row by row."""
        return logit_diff([one.answer for one in self.questions], list(self.rivals))

    @cached_property
    def context(self) -> Bool[Tensor, "row position"]:
        """Where the scene is: at the picture tokens, or at the words in front of the question."""
        kinds = self.inputs.tokens[TOWER].kind
        if not self.told:
            return torch.from_numpy(kinds == "image")
        before = np.arange(kinds.shape[1]) < np.array(self._starts)[:, None]
        return torch.from_numpy((kinds == "text") & before)

    @cached_property
    def named(self) -> Bool[Tensor, "row position"]:
        """Where the question names a thing of the scene."""
        texts, found = self.inputs.tokens[TOWER].text, np.zeros(self.inputs.tokens[TOWER].text.shape, bool)
        for row, (scene, start) in enumerate(zip(self.scenes, self._starts, strict=True)):
            names = {thing.concept for thing in scene.things}
            found[row, start:] = [str(word) in names for word in texts[row, start:]]
        return torch.from_numpy(found)

    @cached_property
    def last(self) -> Bool[Tensor, "row position"]:
        """Where the answer is said next."""
        own = self.inputs.tokens[TOWER].kind != "pad"
        ends = own.shape[1] - 1 - own[:, ::-1].argmax(1)
        return torch.from_numpy(np.arange(own.shape[1]) == ends[:, None])

    @cached_property
    def on_things(self) -> Bool[Tensor, "row position"]:
        """The picture tokens of which a thing that decides the answer covers at least half."""
        found = [
            np.any([self.covered(row, thing) >= COVERED for thing in one.things], 0)
            if one.things else np.zeros(self.context.shape[1], bool)
            for row, one in enumerate(self.questions)
        ]  # fmt: skip
        return torch.from_numpy(np.stack(found))

    def covered(self, row: int, thing: int) -> Float[ndarray, "position"]:
        """The share of each position that a thing of the scene covers; none of what is no picture token."""
        tokens, layer = self.inputs.tokens[TOWER], coverage(self.scenes[row])[1 + thing]
        here, found = tokens.kind[row] == "image", np.zeros(tokens.kind.shape[1])
        rows, cols = tokens.row[row, here], tokens.col[row, here]
        found[here] = on_patches(layer, int(rows.max()) + 1, int(cols.max()) + 1)[rows, cols]
        return found

    @cached_property
    def _starts(self) -> list[int]:
        """Where the question begins: at its verb, which is the last one of the prompt."""
        tokens = self.inputs.tokens[TOWER]
        found = []
        for row, one in enumerate(self.questions):
            words = [str(word) for word in tokens.text[row]]
            verb = next((word for word in one.question.lower().split() if word in VERBS), "")
            found.append(len(words) - 1 - words[::-1].index(verb) if verb else 0)
        return found


def posed(model: Model, kind: str, n: int, seed: int) -> Posed:
    """`n` questions of a kind, each about a held-out scene of its own; the rival is the opposite, or another answer."""
    some = list(islice(_of_kind(kind, n, seed), n))
    answers, dice = sorted({one.answer for _, one in some}), np.random.default_rng(seed)
    rivals = [
        OPPOSITES.get(one.answer) or str(dice.choice([word for word in answers if word != one.answer]))
        for _, one in some
    ]
    return Posed(model, [scene for scene, _ in some], [one for _, one in some], rivals)


def _of_kind(kind: str, n: int, seed: int) -> Iterator[tuple[Scene, Question]]:
    for at, scene in enumerate(scenes("test", TRIES * n, seed)):
        every = [one for one in questions(scene, at, (kind,)) if one.question != "How many things are there?"]
        if every:
            yield scene, every[at % len(every)]


def sided(model: Model, n: int, seed: int, *, told: bool = False) -> Posed:
    """`n` questions which of left and right, each about a held-out scene of two things."""
    known = ((pair.a, side_of(pair)) for pair in pairs("binding place", TRIES * n, seed=seed))
    some = list(islice(((scene, one) for scene, one in known if one), n))
    return Posed(model, [scene for scene, _ in some], [one for _, one in some],
                 [OPPOSITE[one.answer] for _, one in some], told)  # fmt: skip


def side_of(pair: Pair) -> Question | None:
    """The first question about left and right of the first scene of a pair."""
    known = questions(pair.a, kinds=("side",))
    return next((one for one in known if one.answer in ("left", "right")), None)
