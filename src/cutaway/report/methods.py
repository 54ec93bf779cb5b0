"""The table of methods: rows of the taxonomy, families of models, what each needs; from the declarations alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cutaway.data import scenes
from cutaway.methods.method import ROWS, Method
from cutaway.methods.table import METHODS, in_row
from cutaway.model.dictionary import Neurons
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.bank import text_bank
from cutaway.questions.drawings import drawings
from cutaway.questions.lacks import LACKS
from cutaway.questions.question import Question, ask, draw, match
from cutaway.questions.tasks import Task, Tasks, prompts
from cutaway.questions.training import Answers, Drawings, Pairs
from cutaway.report.tables import heading
from cutaway.zoo import tiny

NONE = "not yet"
EMPTY = {  # why no method of a row is for a family
    ("cross-attention", "contrastive"): "its towers do not attend to one another",
    ("cross-attention", "generative"): "pictures are among its words: `attention_knockout`, `relevance` by rollout",
}


@dataclass(frozen=True)
class Row:
    """One method of a row of the taxonomy, or none: on which families it runs, and what it needs there."""

    row: str
    method: Method | None
    families: Mapping[str, bool]

    @property
    def needs(self) -> str:
        """The parts of a question that must be given, in words."""
        parts = () if self.method is None else self.method.parts
        named = dict.fromkeys(part.split(".")[0] for part in parts)
        return "; ".join(LACKS[part][0] for part in named if part in LACKS)


@cache
def questions() -> dict[str, Question]:
    """A question of each family that lacks nothing which the family can have."""
    one, other = tiny.picture(), tiny.picture(3)
    sites = {"clip": "vision.1.resid_post", "llava": "text.1.resid_post", "sd": "denoiser.1.resid_post"}
    clip, llava, sd = (_with_features(f"tiny:{name}", site) for name, site in sites.items())
    crowd = list(scenes("test", 8))
    many: dict[str, Any] = {"crowd": crowd, "labels": {"half": np.array([0, 1] * 4)}}
    drawn = {**many, "crowd": drawings(sd, [f"a {thing} dog" for thing in "abcdefgh"], steps=2)}
    bank = text_bank(clip, ["a dog", "a cat", "a bird"], progress=False)
    shown, said = [one, other], ["a dog", "a cat"]
    pairs, told = Pairs(pictures=shown, texts=said), Drawings(pictures=shown, prompts=said, at=(1,), steps=4)
    talked = Answers(pictures=shown, texts=["what is this"] * 2, answers=["dog", "cat"])
    return {
        "contrastive": match(clip, one, ["a dog", "a cat"], other, bank=bank, learnt=pairs, **many),
        "generative": ask(
            llava, one, "what is this", "dog", "cat", other, told=_tasks(llava), contexts=("a red dog", "a cat"),
            learnt=talked, **many,
        ),
        "diffusion": draw(sd, "a red dog", steps=4, counterpart="a red cat", image=one, learnt=told, **drawn),
    }  # fmt: skip


@cache
def _joint() -> Question:
    """The same for a denoiser of joint attention, which some methods are for."""
    return draw(load("tiny:sd3"), "a red dog", steps=2, counterpart="a red cat", image=tiny.picture())


def _with_features(name: str, site: str) -> Model:
    """A model with a dictionary: the numbers of a state."""
    model = load(name)
    here = model.sites.one(site)
    return model.with_dictionaries(Neurons(site, torch.zeros(here.sizes[here.axes[-1]])))


def question_for(method: Method, family: str) -> Question:
    """The question of a family that a method answers; one that it does not, where it answers none."""
    first = questions()[family]
    other = family == "diffusion" and bool(method.why_not(first)) and not method.lacks(_joint())
    return _joint() if other else first


def _tasks(model: Model) -> Tasks:
    """One task by example, in words."""
    shots = prompts(model, ["a dog : red , a cat :"] * 2, ["blue"] * 2)
    alone = prompts(model, ["a dog :", "a cat :"], ["red", "blue"])
    return Tasks(lambda: [Task("colour", "words", shots, alone, alone)], lambda: alone)


def rows() -> list[Row]:
    """The whole table, in the order of the taxonomy."""
    made = []
    for row in ROWS:
        there: list[Method | None] = [*in_row(row)]
        for method in there or [None]:
            fits = {name: bool(method and not method.why_not(question_for(method, name))) for name in questions()}
            made.append(Row(row, method, fits))
    return made


def print_methods(*, needs: bool = False, console: Console | None = None) -> None:
    """The table on the terminal; with `needs` the words of every declaration below it."""
    console = console or Console(emoji=False)
    table = Table("row of the taxonomy", "method", *questions())
    for row in rows():
        name = NONE if row.method is None else row.method.name.replace("_", "-")
        table.add_row(row.row, name, *("yes" if fits else "" for fits in row.families.values()))
    heading(console, f"{len(METHODS)} methods; `cutaway run METHOD --help` says how to run one")
    console.print(table)
    for row in rows() if needs else ():
        if row.method is not None:
            console.print(f"{row.method.name}: {row.method.line}", markup=False)
            console.print(f"  needs {row.needs}", markup=False)
            console.print(f"  can not tell: {row.method.cannot}", markup=False)


def markdown() -> str:
    """The table as `docs/methods.md` has it."""
    families = [*questions()]
    lines = [f"| row of the taxonomy | method | {' | '.join(families)} | needs |", "|---|---|" + "---|" * 4]
    for row in rows():
        name = NONE if row.method is None else f"`{row.method.name}`"
        cells = ["yes" if row.families[family] else "" for family in families]
        lines.append(f"| {row.row} | {name} | {' | '.join(cells)} | {row.needs} |")
    return "\n".join(lines)


def overview() -> str:
    """The rows of the taxonomy and the methods of each for every family, as the README has it; why a cell is empty."""
    families = [*questions()]
    lines = [f"| row of the taxonomy | {' | '.join(families)} |", "|---|" + "---|" * len(families)]
    for name in ROWS:
        cells = []
        for family in families:
            named = [
                f"`{row.method.name}`" for row in rows() if row.row == name and row.method and row.families[family]
            ]
            cells.append(", ".join(named) or f"*{EMPTY.get((name, family), NONE)}*")
        lines.append(f"| **{name}** | {' | '.join(cells)} |")
    return "\n".join(lines)
