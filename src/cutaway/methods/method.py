"""How a method is declared: what it takes from a question, what it needs, what it can not tell, and how it is shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from cutaway.errors import MethodError, near
from cutaway.jobs.crew import Workers
from cutaway.jobs.spread import spread
from cutaway.methods.look import Look, imported, looked, summary
from cutaway.methods.result import Result
from cutaway.questions.asked import kinds_for
from cutaway.questions.question import Question

if TYPE_CHECKING:
    from cutaway.methods.shown import Page
    from cutaway.views.kinds import Opening, View

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


def _cheap(_: Question, __: Mapping[str, Any]) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One way in which a report applies a method: its name, which is that of its file, and what is special to it.

    `options` are the function's, `takes` stands before what the method takes; `when` says whether a question is one
    for it.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=dict)
    when: Callable[[Question], bool] = lambda _: True


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method: its function, which part of a `Question` each parameter takes, and what the function can not tell.

    `takes` are parameters and parts (`{"clean": "inputs"}`); `also` such that are left out where the question lacks the
    part; `needs` parts that must be there besides; `never` kinds of models that have all of them and are refused;
    `fitting` says why a question that has all of them is not worth asking, "" where it is. `chosen` are options that
    follow from the question and those given; `cost` says in words what it will take, where that is worth saying
    beforehand; `options` those of the command line, with a line of help each; `spreads` says that its work is sweeps of
    `model` or other chunks, which workers can share (`cutaway.jobs`); `many` how large a crowd is unless said;
    `example` the model that its help names, where the first of its family has not what it needs. `table` and `plot`
    make what the command line prints and draws, where that is more than the result alone can.

    In a report: `reported` are the ways in which it is applied there, `beside` whether to the counterpart and the floor
    of a question too; `show` makes its views, `tell` sentences on what was found; `lead`, of a method that can, the
    beginning of the page and its sentences.
    """

    function: Callable[..., Result]
    row: str
    takes: Mapping[str, str]
    cannot: str
    also: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    fitting: Callable[[Question], str] = _always
    chosen: Callable[[Question, Mapping[str, Any]], Mapping[str, Any]] = _nothing
    cost: Callable[[Question, Mapping[str, Any]], str] = _cheap
    options: Mapping[str, str] = field(default_factory=dict)
    spreads: bool = False
    many: int = 256
    example: str = ""
    table: Callable[[Any, Question], Any] | None = None
    plot: Callable[[Any, Question], Axes] | None = None
    reported: tuple[Entry, ...] = ()
    beside: bool = False
    show: Callable[[Page], Iterable[View]] | None = None
    tell: Callable[[Page], Iterable[str]] | None = None
    lead: Callable[[Page], tuple[Opening, tuple[str, ...]]] | None = None

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    @property
    def line(self) -> str:
        """What it does, in one line: the first of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of models that it runs on."""
        return tuple(kind for kind in kinds_for(self.parts) if kind not in self.never)

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part of a question that must be there."""
        return tuple(dict.fromkeys((*self.needs, *self.takes.values())))

    def entries(self, question: Question) -> Iterator[tuple[Entry, Method]]:
        """The ways in which a report applies it to a question, each with the method as it is declared for that."""
        for entry in self.reported:
            if entry.when(question):
                yield entry, replace(self, takes={**self.takes, **entry.takes})

    def taken(self, question: Question) -> dict[str, str]:
        """The parameters that a question fills, each with the part that fills it."""
        return {**self.takes, **{name: part for name, part in self.also.items() if question.part(part) is not None}}

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

    def apply(self, question: Question, *, progress: bool = False, workers: Workers = 0, **options: Any) -> Applied:
        """Answer a question; options are those of the function, `workers` share its work, where it has such.

        Raises MethodError where a part is lacking, and for workers that would have nothing to do.
        """
        known = inspect.signature(self.function).parameters
        own = [name for name in known if name not in {*self.takes, *self.also}]
        for name in options:
            if name not in own:
                raise MethodError(
                    f"'{self.name}' has no option '{name}'", expected="an option of the function",
                    exists=near(name, own), do=f"see help({self.name})",
                )  # fmt: skip
        refused = question.model.family.kind in self.never
        self.check(self.lacks(question) or (self.fitting(question) if refused else ""))
        if workers != 0 and not self.spreads:
            raise MethodError(
                f"'{self.name}' has no work that workers could share", expected="a method that does, or workers=0",
                do="leave `workers` out",
            )  # fmt: skip
        seed = {"seed": question.seed} if "seed" in known and question.seed else {}
        given = {**seed, **self.chosen(question, options), **options}
        taken = {parameter: question.part(part) for parameter, part in self.taken(question).items()}
        shown = {"progress": progress} if "progress" in known else {}
        with spread(question.model, workers) as model:
            taken |= {parameter: model for parameter in taken if taken[parameter] is question.model}
            return Applied(self, question, given, self.function(**taken, **given, **shown))


@dataclass(frozen=True, eq=False)
class Applied:
    """A method that was applied to a question: its result, and the call that made it."""

    method: Method
    question: Question
    options: Mapping[str, Any]
    result: Any

    @property
    def call(self) -> str:
        """The call as it was made, an expression."""
        known = inspect.signature(self.method.function).parameters
        taken, given = self.method.taken(self.question), []
        for at, parameter in enumerate(name for name in known if name in taken):
            plain = known[parameter].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and list(known)[at] == parameter
            given.append(f"{'' if plain else f'{parameter}='}question.{taken[parameter]}")
        given += [f"{name}={value!r}" for name, value in self.options.items()]
        call = f"{self.method.name}({', '.join(given)})"
        return call if len(call) <= 92 else f"{self.method.name}(\n    {', '.join(given)},\n)"

    def look(self, function: Callable[..., Any] = summary, **constants: Any) -> Look:
        """What a function makes of the result (`found`) and the `question`, and the programme that makes it again."""
        value, lines = looked(function, self.result, self.question, constants)
        return Look(value, _programme([(self, lines)], imported(function)))

    def code(self) -> str:
        """The call as a programme of public names that prints the summary of its result, `found`."""
        return self.look().code


def together(*looks: tuple[Applied, Callable[..., Any]]) -> str:
    """One programme for several calls on one question, each with what a function makes of its result."""
    lines = [(made, looked(function, made.result, made.question, {})[1]) for made, function in looks]
    return _programme(lines, [line for _, function in looks for line in imported(function)])


def _programme(made: list[tuple[Applied, str]], imports: Iterable[str]) -> str:
    homes = {f"from cutaway.methods import {one.method.name}" for one, _ in made}
    lines = [
        "import cutaway",
        "from cutaway import questions",
        *sorted({*homes, *imports}),
        "",
        made[0][0].question.code,
    ]
    return "\n".join([*lines, *(f"found = {one.call}\n{look}" for one, look in made)])
