"""The command that writes a page for a caption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cutaway.cli.options import Overwrite, opens
from cutaway.source import Source


@opens
def caption(
    model: Source,
    image: Annotated[Path, typer.Option("--image", metavar="FILE", help="The picture.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page goes.")],
    text: Annotated[str, typer.Option(help="What the model is asked about it.")] = "What does the picture show?",
    said: Annotated[str, typer.Option("--caption", help="The caption; else what the model says.")] = "",
    length: Annotated[int, typer.Option(min=1, help="Tokens of the caption at most.")] = 32,
    features: Annotated[int, typer.Option(min=0, help="So many features for each token, with a --dictionary.")] = 5,
    keep: Annotated[Path | None, typer.Option(metavar="FILE.nc", help="Keep the labelled arrays (netCDF).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page for what a model says about a picture: a word lights the patches, heads and features that wrote it.

    Try: cutaway caption zoo:emoji-llava --dictionary zoo:emoji-llava-sae --image photo.png --out caption.html
    """
    from cutaway.report.caption import write_caption

    write_caption(
        model, image, out, text=text, caption=said, length=length, features=features, keep=keep, overwrite=overwrite
    )  # fmt: skip
