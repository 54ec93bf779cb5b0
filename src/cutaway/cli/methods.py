"""`cutaway run`: a command for every declared method, with the options of its question and of its function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from cutaway.cli.options import (
    Bank,
    Count,
    Images,
    Out,
    Overwrite,
    Pictures,
    Plot,
    Question,
    Raw,
    SkipBad,
    Texts,
    Workers,
    opens,
)
from cutaway.methods.method import Method
from cutaway.methods.table import METHODS
from cutaway.questions.asked import BRINGS, Brings, options_for
from cutaway.source import Source

Other = Annotated[
    str | None, typer.Option(metavar="FILE", help="The input with one thing changed: a picture, a text or a prompt.")
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        help="What is known of drawn scenes: place, count, x, …; of drawings: thing, drawn, where, …; or folder.",
    ),
]
Drawings = Annotated[int, typer.Option(min=12, help="How many drawings a model that draws makes for it.")]
Step = Annotated[int | None, typer.Option(help="Which step of a drawing; in the middle unless named.")]
Answer = Annotated[str, typer.Option(metavar="WORD", help="What a model may answer; else its first choice.")]
Rival = Annotated[
    str,
    typer.Option(metavar="WORD", help="What else; unless given a word named beside it, else its next choice."),
]
Prompt = Annotated[str, typer.Option(metavar="TEXT", help="What a pipeline draws.")]

# Type and default of each argument of `questions.asked` that is an option here.
OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "image": (Images, None), "text": (Texts, None), "answer": (Answer, ""), "rival": (Rival, ""), "raw": (Raw, False),
    "prompt": (Prompt, ""), "step": (Step, None), "counterfactual": (Other, None), "pictures": (Pictures, None),
    "many": (Count, 256), "skip_bad": (SkipBad, False), "bank": (Bank, None), "labels": (Labels, None),
    "drawings": (Drawings, 96),
}  # fmt: skip


def commands() -> typer.Typer:
    """The commands of all methods."""
    made = typer.Typer()
    for one in METHODS:
        made.command(one.name.replace("_", "-"), help=_help(one))(opens(_command(one)))
    return made


def _command(one: Method) -> Callable[..., None]:
    """The function behind the command of a method, with a signature that `typer` reads."""
    more = (name for part in one.also.values() for name in BRINGS.get(part.split(".")[0], Brings()).one_of)
    options = {name: OPTIONS[name] for name in (*options_for(one.parts), *more)}
    if "text" in options and one.kinds == ("generative",):
        options["text"] = (Question, None)
    if "many" in options:
        options["many"] = (Count, one.many)
    own = inspect.signature(one.function).parameters
    mine = {name: _option(own[name], told) for name, told in one.options.items()}
    files: dict[str, tuple[Any, Any]] = {"out": (Out, None), "plot": (Plot, None), "overwrite": (Overwrite, False)}
    files |= {"workers": (Workers, "0")} if one.spreads else {}
    shown = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in {**options, **mine, **files}.items()
    ]
    model = inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Source)

    def command(model: Source, **given: Any) -> None:
        from cutaway.report.run import answer

        chosen = {name: given.pop(name) for name in mine}
        settled = {name: value for name, value in chosen.items() if value != mine[name][1]}
        where = {name: given.pop(name) for name in files}
        answer(one, model, given, settled, **where)

    command.__signature__ = inspect.Signature([model, *shown])  # type: ignore[attr-defined]
    command.__doc__ = one.line
    return command


def _option(known: inspect.Parameter, told: str) -> tuple[Any, Any]:
    """Type and default of an option of the function; what is no word or number is written as a word."""
    default = known.default
    flag = isinstance(default, bool)
    kind: Any = type(default)
    if default is None:  # what its annotation names in front of `| None`
        kind = {"int": int, "float": float}.get(str(known.annotation).partition(" |")[0], str)
    elif not isinstance(default, bool | int | float | str):
        kind, default = str, ""
    names = (f"--{known.name.replace('_', '-')}",) if flag else ()
    return Annotated[kind if default is not None else kind | None, typer.Option(*names, help=told)], default


def _help(one: Method) -> str:
    """What the command does, what it can not tell, an example that runs."""
    given = {
        "pictures": '--image photo.png --text "a dog"', "inputs": '--image photo.png --text "a dog" --text "a cat"',
        "counterpart": "--counterfactual other.png", "along": "--counterfactual other.png", "labels": "--label place",
        "opposed": '--image photo.png --text "a dog" --text "a cat"',
    }  # fmt: skip
    whole = dict.fromkeys(part.split(".")[0].replace("from_words", "inputs") for part in one.takes.values())
    model = "zoo:emoji-clip"
    if "drawing" in whole:
        model, given["drawing"] = "zoo:emoji-sd", '--prompt "a fox on a red background"'
        given["counterpart"] = '--counterfactual "a duck on a red background"'
    elif "voice" in one.parts:
        model, given["inputs"] = "zoo:emoji-llava", '--image photo.png --text "is there a dog?" --answer yes'
    example = " ".join((one.example or model, *(given[part] for part in whole if part in given)))
    return (
        f"{one.line}\n\nWhat it can not tell: {one.cannot}\n\nTry: cutaway run {one.name.replace('_', '-')} {example}"
    )
