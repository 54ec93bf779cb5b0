"""The command that writes a page with all that is known of the features of a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cutaway.cli.options import Overwrite, opens
from cutaway.source import Source


@opens
def features(
    model: Source,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page goes.")],
    site: Annotated[str, typer.Option(help="Whose units: SITE.features, or neurons such as vision.4.mlp.post.")] = "",
    n: Annotated[int, typer.Option("--n", min=8, help="How many scenes are looked at.")] = 400,
    split: Annotated[str, typer.Option(help="Of the scenes: train, test, pairs, places or artist.")] = "test",
    seed: Annotated[int, typer.Option(help="Of the scenes, and of what is drawn by chance.")] = 0,
    top: Annotated[int, typer.Option(min=1, help="Pictures of each unit.")] = 8,
    steer: Annotated[int, typer.Option(min=0, help="So many units are set to see what that does; 0: none.")] = 48,
    keep: Annotated[Path | None, typer.Option(metavar="FILE.nc", help="Keep the labelled arrays (netCDF).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page with every feature of a dictionary, or every neuron of a site: a table to search, and for each where
    it is largest, how often it is on, what is in those pictures, what it writes, and what setting it does.

    Try: cutaway features zoo:emoji-clip --dictionary zoo:emoji-clip-sae --out features.html ·
    cutaway features zoo:emoji-clip --site vision.4.mlp.post --out neurons.html
    """
    from cutaway.report.features import write_features

    write_features(
        model, site, out, n=n, split=split, seed=seed, top=top, steer=steer, keep=keep, overwrite=overwrite  # type: ignore[arg-type]
    )  # fmt: skip
