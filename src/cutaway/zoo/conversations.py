"""Conversations about scenes, and the rows of tokens they become: which token sees which, and which are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from cutaway import data
from cutaway.zoo.vocabulary import ANSWER, ASK, BEGIN, END, PAD, PICTURE, ids

SIDE, PATCHES = 64, 64  # pixels a side, and tokens that stand for one picture


@dataclass(frozen=True)
class Turn:
    """A question of some kind, with pictures of its own or none, and its answer. What is not `learnt` has no loss."""

    kind: str
    question: str
    answer: str
    scenes: tuple[data.Scene, ...] = ()
    learnt: bool = True


@dataclass(frozen=True)
class Conversation:
    """Pictures or words, then questions. Where they are `apart`, no question sees another: each is the first."""

    turns: tuple[Turn, ...]
    scenes: tuple[data.Scene, ...] = ()
    words: str = ""
    apart: bool = False

    def alone(self, turn: int) -> Conversation:
        """The same with one of its questions."""
        return replace(self, turns=(self.turns[turn],), apart=False)

    def messages(self) -> list[dict[str, Any]]:
        """What a processor's chat template takes; the pictures are those of `shown`, in order."""
        made = []
        for number, turn in enumerate(self.turns):
            first = number == 0
            scenes = (self.scenes if first else ()) + turn.scenes
            said = f"{self.words} {turn.question}" if first and self.words else turn.question
            content: list[dict[str, str]] = [{"type": "image"} for _ in scenes]
            content += [{"type": "text", "text": said}] if said else []
            made += [{"role": "user", "content": content}]
            made += [{"role": "assistant", "content": [{"type": "text", "text": turn.answer}]}]
        return made

    def shown(self) -> tuple[data.Scene, ...]:
        """Every picture, in the order of their tokens."""
        return self.scenes + tuple(scene for turn in self.turns for scene in turn.scenes)


class Batch(NamedTuple):
    """Rows of tokens, padded on the right.

    `branch` is 0 for what every token of the row sees and the number of the question for what only its own tokens
    see, -1 for padding; `position` counts along what a token sees; `learnt` marks the tokens of answers.
    """

    pictures: UInt8[Tensor, "picture 3 height width"]
    input_ids: Int[Tensor, "row token"]
    branch: Int[Tensor, "row token"]
    position: Int[Tensor, "row token"]
    learnt: Bool[Tensor, "row token"]

    def visible(self) -> Bool[Tensor, "row query key"]:
        """Which tokens each token sees: those before it that are shared or of its own branch."""
        query, key = self.branch[:, :, None], self.branch[:, None, :]
        causal = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool, device=query.device).tril()
        itself = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
        return (causal & ((key == 0) | (key == query)) & (key >= 0)) | itself


class Row(NamedTuple):
    """One conversation in tokens."""

    input_ids: list[int]
    branch: list[int]
    position: list[int]
    learnt: list[bool]


def row(conversation: Conversation) -> Row:
    """The tokens of a conversation."""
    made = Row([], [], [], [])
    start = [BEGIN, ASK, *_pictures(len(conversation.scenes)), *ids(conversation.words)]
    _put(made, start, 0, 0, learnt=False)
    at = len(start)
    for number, turn in enumerate(conversation.turns):
        again = [] if conversation.apart or number == 0 else [ASK]
        branch = number + 1 if conversation.apart else 0
        question = [*again, *_pictures(len(turn.scenes)), *ids(turn.question), ANSWER]
        answer = [*ids(turn.answer), END]
        _put(made, question, branch, at, learnt=False)
        _put(made, answer, branch, at + len(question), learnt=turn.learnt)
        at += 0 if conversation.apart else len(question) + len(answer)
    return made


def _put(made: Row, tokens: list[int], branch: int, start: int, *, learnt: bool) -> None:
    made.input_ids.extend(tokens)
    made.branch.extend([branch] * len(tokens))
    made.position.extend(range(start, start + len(tokens)))
    made.learnt.extend([learnt] * len(tokens))


def _pictures(count: int) -> list[int]:
    """Places for the patches; several pictures are numbered in words."""
    one = [PICTURE] * PATCHES
    if count < 2:
        return one * count
    return list(chain.from_iterable([*ids(f"picture {number}:"), *one] for number in range(1, count + 1)))


def batch(conversations: Sequence[Conversation]) -> Batch:
    """Rows of about one length make little padding."""
    rows = [row(one) for one in conversations]
    longest = max(len(one.input_ids) for one in rows)
    scenes = [scene for one in conversations for scene in one.shown()]
    pictures = data.tensor(scenes) if scenes else torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)

    def padded(part: int, filler: int) -> Tensor:
        return torch.tensor([[*one[part], *[filler] * (longest - len(one[part]))] for one in rows])

    return Batch(pictures, padded(0, PAD), padded(1, -1), padded(2, 0), padded(3, 0).bool())
