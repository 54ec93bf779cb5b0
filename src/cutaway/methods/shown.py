"""What methods show themselves with: a question, every method that was applied to it, the same of what it is beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cutaway.errors import MethodError
from cutaway.methods.method import Applied, Method
from cutaway.methods.result import Result
from cutaway.questions.given import as_seen
from cutaway.questions.question import Question
from cutaway.views.picture import Picture
from cutaway.views.words import Names, signed

Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Page:
    """One question and all that was measured for it, by the names of the entries; `missing` says what was not, and why.

    `counterpart` and `floor` are pages of what the question stands beside: there, methods that say so are applied.
    """

    question: Question
    applied: Mapping[str, Applied]
    missing: tuple[str, ...] = ()
    counterpart: Page | None = None
    floor: Page | None = None

    def made(self, name: str) -> Any:
        """The result of an entry; None where it was not made."""
        return self.applied[name].result if name in self.applied else None

    def before(self, name: str, said: Callable[[Any], str]) -> str:
        """What is said of the same before training, as a sentence behind another; "" without a floor that has it."""
        if self.floor is None or name not in self.floor.applied:
            return ""
        told = said(self.floor.made(name))
        return f" Before training: {told[0].lower()}{told[1:]}"

    def has(self, method: Method) -> bool:
        """Whether a method was applied."""
        return any(entry.name in self.applied for entry in method.reported)

    def results(self) -> Iterator[tuple[str, Result]]:
        """The labelled arrays by the name of their entry, which is that of their file."""
        yield from ((name, applied.result) for name, applied in self.applied.items())

    def told(self) -> Iterator[str]:
        """A sentence or more of each method that was applied, on what it found."""
        for method in {made.method.name: made.method for made in self.applied.values()}.values():
            if method.tell is not None:
                yield from method.tell(self)

    @property
    def beside(self) -> Mapping[str, Page]:
        """This page and those it stands beside, by what they are called."""
        named = {"this picture" if self.question.pictures else "this input": self, "counterfactual": self.counterpart,
                 "before training": self.floor}  # fmt: skip
        return {name: page for name, page in named.items() if page is not None}

    @property
    def names(self) -> Names:
        """What the words of the question are called in sentences."""
        return Names(self.question.words)

    @property
    def number(self) -> str:
        """What the number that is explained is called."""
        unit = self.question.target.unit if self.question.target is not None else "number"
        if self.question.drawing is not None:
            return f"the {unit}"
        return f"the difference of the two {unit.rstrip('s')}s" if len(self.names) > 1 else f"the {unit} with it"

    @cached_property
    def picture(self) -> Picture | None:
        """The first picture as the model sees it; None where there is none."""
        question = self.question
        if not question.pictures or question.inputs is None:
            return None
        named = f"the picture that is held against {question.words[0]}" if question.texts is not None else "the picture"
        return Picture.of(as_seen(question.model, question.pictures[0], given=question.inputs.tensors), named)

    @property
    def seen(self) -> Picture:
        """The same, for methods that take pictures."""
        if self.picture is None:
            raise MethodError("there is no picture on this page", expected="a question with a picture")
        return self.picture


def applied(question: Question, methods: Iterable[Method], *, told: Told = lambda _: None) -> Page:
    """Every method that reports have, applied to a question and to what it stands beside where it fits.

    `told` hears what is being computed.
    """
    methods = [one for one in methods if one.reported]
    made: dict[str, Applied] = {}
    missing: dict[str, list[str]] = {}
    for method in methods:
        why = method.why_not(question)
        if why:
            missing.setdefault(why, []).append(method.name.replace("_", " "))
        else:
            made |= _entries(method, question, told)
    said = (f"Not measured: {', '.join(names)}. {why[0].upper()}{why[1:]}." for why, names in missing.items())
    other = _beside(question.counterpart, methods, lambda name: told(f"{name} of the counterfactual"))
    floor = _beside(question.floor, methods, lambda name: told(f"{name} before training"))
    return Page(question, made, tuple(said), other, floor)


def _beside(side: Question | None, methods: Iterable[Method], told: Told) -> Page | None:
    """The page of what a question stands beside."""
    if side is None:
        return None
    fits = (one for one in methods if one.beside and not one.why_not(side))
    found = [_entries(one, side, told) for one in fits]
    return Page(side, {name: made for part in found for name, made in part.items()})


def _entries(method: Method, question: Question, told: Told) -> dict[str, Applied]:
    """What a method has on a page, where it fits."""
    found = {}
    for entry, declared in method.entries(question):
        if not declared.why_not(question):
            said, cost = entry.name.replace("_", " "), declared.cost(question, entry.options)
            told(f"{said} ({cost})" if cost else said)
            found[entry.name] = declared.apply(question, **entry.options)
    return found


def measured(page: Page) -> str:
    """The number that is explained, beside the same of the counterfactual and before training, as a sentence."""
    question = page.question
    unit = question.target.unit if question.target is not None else ""
    first, *rest = ((name, f"{signed(side.question.value):+.3f}") for name, side in page.beside.items())
    more = ", ".join(f"{name} {value}" for name, value in rest)
    return f"The model gives {first[1]} ({unit}) for {question.aim}" + (f"; {more}." if more else ".")
