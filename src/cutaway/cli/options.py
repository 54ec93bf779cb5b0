"""Options that several commands share, and how a model is opened for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from cutaway.source import Source

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A hub id, a folder that `save_pretrained` wrote, `zoo:NAME` (trained) or `tiny:NAME` (random).",
    ),
]
Pictures = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Many pictures to compare with, or the word 'emojiworld' for drawn scenes."),
]
Bank = Annotated[
    str | None, typer.Option(metavar="FILE", help="Texts to explain in, one a line, or the word 'emojiworld'.")
]
Images = Annotated[list[Path] | None, typer.Option("--image", help="A picture file; may be given more than once.")]
Texts = Annotated[list[str] | None, typer.Option("--text", help="A text; a model that matches takes several.")]
Question = Annotated[list[str] | None, typer.Option("--text", help="What is asked.")]
Raw = Annotated[bool, typer.Option("--raw", help="Ask a --text alone as it is, not in the model's chat template.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE.nc", help="Keep the labelled arrays (netCDF).")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw them.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out pictures of the folder that cannot be read, and say which.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier run.")]
Count = Annotated[int, typer.Option("--count", min=3, help="How many pictures at most.")]
Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="Where to run: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str | None, typer.Option(metavar="DTYPE", help="Open the weights in: float32, bfloat16, float16, …")]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a hub model.")]
Workers = Annotated[
    str,
    typer.Option(
        metavar="N", help="How many processes share its runs, on Ray; or a cluster: ray://HOST:10001, auto. 0: none."
    ),
]
Dictionary = Annotated[
    list[str] | None,
    typer.Option(
        "--dictionary", metavar="DIR",
        help="A dictionary whose features become sites (`SITE.features`): its folder, or zoo:NAME; several. "
        "WORD=DIR puts a word into their name (`SITE.WORD.features`), for two of one site.",
    ),
]  # fmt: skip
OPENING = {"device": Device, "dtype": Dtype, "revision": Revision, "dictionary": Dictionary}


def _named(model: inspect.Parameter) -> inspect.Parameter:
    """The parameter of a model as typed: a name, by default that of the default."""
    default = model.default
    return model.replace(annotation=ModelName, default=str(default) if isinstance(default, Source) else default)


def opens(command: Callable[..., None]) -> Callable[..., None]:
    """A command on a MODEL with the options by which that is opened: it gets them with the name, as one `Source`."""
    own = inspect.signature(command, eval_str=True).parameters
    shown = [_named(one) if name == "model" else one for name, one in own.items()]
    none = {"default": None, "kind": inspect.Parameter.KEYWORD_ONLY}
    more = [inspect.Parameter(name, annotation=kind, **none) for name, kind in OPENING.items()]  # type: ignore[arg-type]

    @wraps(command)
    def wrapped(model: str, **given: Any) -> None:
        how = {name: value for name in OPENING if (value := given.pop(name)) is not None}
        how |= {"dictionary": tuple(how["dictionary"])} if "dictionary" in how else {}
        command(model=Source(model, **how), **given)

    wrapped.__signature__ = inspect.Signature([*shown, *more])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in (*shown, *more)}
    return wrapped
