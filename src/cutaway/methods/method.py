"""How a method is declared: what it takes from a question, what it needs, what it can not tell, and how it is shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes

from cutaway.errors import MethodError, near
from cutaway.methods.result import Result
from cutaway.questions.question import Question

# The rows of the taxonomy (arXiv 2502.17516): seven from language models, five of multi-modal models' own.
ROWS = (
    "linear probing", "logit lens", "causal tracing and circuits", "representation decomposition", "task vectors",
    "sparse autoencoders", "neuron descriptions", "text explanations of embeddings", "network dissection",
    "cross-attention", "training-data attribution", "feature visualisation",
)  # fmt: skip


def _nothing(_: Question, __: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


def _always(_: Question) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method: its function, which part of a `Question` each parameter takes, and what the function can not tell.

    `takes` are parameters and parts (`{"clean": "inputs"}`); `needs` parts that must be there besides; `fitting` says
    why a question that has all of them is not worth asking, "" where it is. `chosen` are options that follow from the
    question and those given; `options` those of the command line, with a line of help each; `many` how large a crowd is
    unless said. `table` and `plot` make what the command line prints and draws,
    where that is more than the result alone can.
    """

    function: Callable[..., Result]
    row: str
    takes: Mapping[str, str]
    cannot: str
    needs: tuple[str, ...] = ()
    fitting: Callable[[Question], str] = _always
    chosen: Callable[[Question, Mapping[str, Any]], Mapping[str, Any]] = _nothing
    options: Mapping[str, str] = field(default_factory=dict)
    many: int = 256
    table: Callable[[Any, Question], Any] | None = None
    plot: Callable[[Any, Question], Axes] | None = None

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    @property
    def line(self) -> str:
        """What it does, in one line: the first of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part of a question that must be there."""
        return tuple(dict.fromkeys((*self.takes.values(), *self.needs)))

    def lacks(self, question: Question) -> str:
        """What a question lacks, and how it is given; "" where it has every part."""
        return next((said for part in self.parts if (said := question.lacks(part))), "")

    def why_not(self, question: Question) -> str:
        """Why the method has nothing to say to a question: what it lacks, or why it is not worth it; else ""."""
        return self.lacks(question) or self.fitting(question)

    def check(self, why: str) -> None:
        """Raise MethodError where there is a reason why the method does not fit."""
        if why:
            raise MethodError(f"'{self.name}' does not fit this question: {why}", do="see `cutaway methods --needs`")

    def apply(self, question: Question, *, progress: bool = False, **options: Any) -> Applied:
        """Answer a question; options are those of the function. Raises MethodError where a part is lacking."""
        known = inspect.signature(self.function).parameters
        for name in options:
            if name not in known or name in self.takes:
                raise MethodError(
                    f"'{self.name}' has no option '{name}'", expected="an option of the function",
                    exists=near(name, [one for one in known if one not in self.takes]), do=f"see help({self.name})",
                )  # fmt: skip
        self.check(self.lacks(question))
        given = {**self.chosen(question, options), **options}
        taken = {parameter: question.part(part) for parameter, part in self.takes.items()}
        shown = {"progress": progress} if "progress" in known else {}
        return Applied(self, question, given, self.function(**taken, **given, **shown))


@dataclass(frozen=True, eq=False)
class Applied:
    """A method that was applied to a question: its result, and the call that made it."""

    method: Method
    question: Question
    options: Mapping[str, Any]
    result: Any

    def code(self, look: str = "print(found.summary())") -> str:
        """The call as a programme of public names; `look` is what it does with the result, `found`."""
        known = inspect.signature(self.method.function).parameters
        given = []
        for parameter, part in self.method.takes.items():
            plain = known[parameter].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            given.append(f"question.{part}" if plain else f"{parameter}=question.{part}")
        given += [f"{name}={value!r}" for name, value in self.options.items()]
        call = f"found = {self.method.name}({', '.join(given)})"
        if len(call) > 100:
            call = f"found = {self.method.name}(\n    {', '.join(given)},\n)"
        lines = ["import cutaway", "from cutaway import questions", f"from cutaway.methods import {self.method.name}"]
        return "\n".join([*lines, "", self.question.code, call, look])
