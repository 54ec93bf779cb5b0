"""`cutaway harvest` and `cutaway store`: activations to disk, and what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cutaway.cli.options import Overwrite, Workers, opens
from cutaway.source import Source

store = typer.Typer(help="Activations on disk: what is in a store, and whether it is whole.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `cutaway harvest` wrote.")]


@opens
def harvest(
    model: Source,
    sites: Annotated[list[str], typer.Option("--sites", help="Names or patterns: 'vision.*.resid_post'; several.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="'emojiworld' (or emojiworld:test), a folder of pictures, a text file with an item (or a prompt) a "
            "line, or a Hugging Face data set on disk.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where it goes; a harvest that was stopped goes on there.")],
    n: Annotated[int | None, typer.Option("--n", min=1, help="How many items at most; of scenes 1000.")] = None,
    seed: Annotated[int, typer.Option(help="Of the scenes, and of the noise that drawings begin with.")] = 0,
    split: Annotated[str | None, typer.Option(help="Of scenes or of a data set.")] = None,
    text: Annotated[str | None, typer.Option(help="What goes with every picture, such as a question.")] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Keep these positions: a kind, or a number (-1: the last).")
    ] = None,
    keep: Annotated[str | None, typer.Option(metavar="DTYPE", help="Keep numbers in float16, bfloat16, …")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Items that run together; else 32.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Items to a file; else as many as make 64 MiB.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps of a drawing; else 20.")] = None,
    at: Annotated[list[int] | None, typer.Option("--at", help="Keep these denoising steps only.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How strongly a drawing follows its prompt.")] = None,
    row: Annotated[list[str] | None, typer.Option("--row", help="Keep these guidance rows only: cond, uncond.")] = None,
    workers: Workers = "0",
    dry: Annotated[bool, typer.Option("--dry", help="Say how many bytes it will be, and write nothing.")] = False,
) -> None:
    """Write the activations of sites over many items to disk, to be read in order or shuffled.

    Try: cutaway harvest zoo:emoji-clip --sites 'vision.*.resid_post' --data emojiworld --n 2000 --out runs/scenes ·
    cutaway harvest zoo:emoji-sd --sites 'denoiser.*.resid_post' --data prompts.txt --row cond --out runs/drawn
    """
    from cutaway.report.store import harvested

    asked = {"steps": steps, "guidance": guidance}
    told = harvested(
        model, sites, data, out, n=n, seed=seed, split=split, text=text, where=where or [], dtype=keep, batch=batch,
        items=items, at=at or [], rows=row or [], dry=dry, workers=workers,
        asked={name: value for name, value in asked.items() if value is not None},
    )  # fmt: skip
    typer.echo(told)


@store.command("show")
def show(
    folder: Folder,
    table: Annotated[str, typer.Option(help="One table of it; else all.")] = "",
    rows: Annotated[int, typer.Option(min=1, help="Rows of the index to print.")] = 6,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write pictures of what is in it.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print what a store holds: its rows, norms, mean and spread by site and kind of position.

    Try: cutaway store show runs/scenes · cutaway store show runs/scenes --out scenes.html
    """
    from cutaway.report.store import show_store

    show_store(folder, table, rows, out, overwrite=overwrite)


@store.command("check")
def check(folder: Folder) -> None:
    """Hold every file of a store against its checksum.

    Try: cutaway store check runs/scenes
    """
    from cutaway.report.store import check_store

    typer.echo(check_store(folder))
