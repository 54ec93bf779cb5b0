"""The command line: a thin shell over the functions of the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Open any multi-modal model: name its parts, watch them, change them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A hub id, a folder that `save_pretrained` wrote, or `tiny:NAME` (random, nothing downloaded).",
    ),
]


@app.command()
def sites(
    model: ModelName,
    pattern: Annotated[
        str, typer.Argument(help="Show only these, e.g. 'vision.*.resid_post' or 'text.0.attn.*'.")
    ] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Every layer; without it one layer stands for those like it.")
    ] = False,
    attn: Annotated[str | None, typer.Option(help="Attention implementation to load with: sdpa or eager.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the weights.")] = False,
) -> None:
    """Print the sites of a model: where an activation can be read and written, with its axes and sizes.

    Try: cutaway sites tiny:llava · cutaway sites tiny:sd 'denoiser.*.cross.*' · cutaway sites ./my-model --all
    """
    from cutaway.model.load import load
    from cutaway.report.tables import print_sites

    print_sites(load(model, attn=attn, trust_remote_code=trust_remote_code), pattern, every=every)


@app.command()
def tokens(
    model: ModelName,
    image: Annotated[Path | None, typer.Option(help="A picture file.")] = None,
    text: Annotated[str | None, typer.Option(help="A text or question.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt, for pipelines that draw.")] = None,
) -> None:
    """Print what each position of each tower is, for a picture and a text.

    Try: cutaway tokens tiny:llava --image photo.png --text "what is this"
    """
    from cutaway.model.load import load
    from cutaway.report.tables import print_tokens

    opened = load(model)
    print_tokens(opened.inputs(image=image, text=text, prompt=prompt))


@app.command()
def tiny() -> None:
    """List the tiny random models: every architecture the tables know, built in a moment, nothing downloaded."""
    from cutaway.report.tables import print_tiny

    print_tiny()


@app.command()
def demo(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A generative `tiny:` model.")] = "tiny:llava",
) -> None:
    """Open a tiny model, print its sites, cut one attention edge after another and watch the answer change."""
    from cutaway.report.demo import run_demo

    run_demo(model)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; what goes wrong on purpose is one paragraph, not a traceback."""
    from cutaway.errors import CutawayError

    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their advice on optional kernels is not for a table
    try:
        app(args=argv, standalone_mode=True)
    except CutawayError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
