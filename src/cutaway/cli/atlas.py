"""`cutaway atlas` and `cutaway cite`: the field as a page, its works on the terminal, and what to cite for a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.cli.options import Overwrite
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.atlas.atlas import Atlas

atlas = typer.Typer(
    help="The field: methods by models, the works behind them, what was measured here.", no_args_is_help=True
)

Works = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Your own works, a table (.tsv) or BibTeX (.bib); see docs/atlas.md; several."),
]
Results = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="A folder of saved results (.nc), to stand in its cells; several."),
]
Form = Annotated[str, typer.Option("--format", help="bibtex, ris or csl-json.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="As `cutaway atlas search` prints it, or an arXiv number.")]


@atlas.callback(invoke_without_command=True)
def page(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where atlas.html goes.")] = None,
    works: Works = None,
    results: Results = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the atlas as one page that opens offline; or ask it: search, related, cite, gaps.

    Try: cutaway atlas --out atlas · cutaway atlas search hallucination lens · cutaway atlas cite neo24 --format ris
    """
    if out is None:
        if works or results:
            raise InputError(
                "there is no folder to write the atlas into", expected="--out DIR beside --works and --results",
                do="give one; for search, related and cite, --works stands behind the command",
            )  # fmt: skip
        return
    made = _opened(works, results)
    typer.echo(f"wrote {made.write(out, overwrite=overwrite)}: {len(made.cells)} squares, {len(made.works)} works")


@atlas.command()
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="All of them: title, author, method, year, …")],
    works: Works = None,
) -> None:
    """List the works in which all words occur, those with more of them in their title first.

    Try: cutaway atlas search sparse autoencoders · cutaway atlas search Neo 2024 --works own.bib
    """
    made = _opened(works)
    found = made.search(" ".join(words))
    for work in found:
        typer.echo(f"{work.key}  {work.said}")
    if not found:
        typer.echo(f"none of {len(made.works)} works has all of these words")


@atlas.command()
def related(key: Key, works: Works = None) -> None:
    """List the works that share cells of the taxonomy with one, and the cells that they share.

    Try: cutaway atlas related neo24 · cutaway atlas related 2310.05916
    """
    made = _opened(works)
    found = made.related(key)
    for work, cells in found:
        typer.echo(f"{work.key}  {work.said}\n    {'; '.join(f'{row}, {family}' for row, family in cells)}")
    if not found:
        typer.echo(f"'{made.find(key).key}' shares no cell with another work")


@atlas.command("cite")
def cite_work(
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="As `cutaway atlas search` prints them.")],
    form: Form = "bibtex",
    works: Works = None,
) -> None:
    """Print works as a reference manager takes them.

    Try: cutaway atlas cite neo24 gandel23 --format csl-json
    """
    typer.echo(_opened(works).cite(keys, form), nl=False)


@atlas.command()
def gaps() -> None:
    """List what the survey says is missing, how far it is closed here, and the command that shows it."""
    made = _opened()
    for gap in made.gaps():
        typer.echo(f"{gap.name} [{gap.state}]\n  {gap.text}\n  Here: {gap.here}\n  $ {gap.command}")
    empty = made.empty()
    nobody = [cell for cell in empty if cell.state == "nobody"]
    typer.echo(f"\nSquares that others fill and this package does not ({len(empty) - len(nobody)}):")
    for cell in empty:
        if cell.state == "elsewhere":
            typer.echo(f"  {cell.row}, {cell.family}: {', '.join(work.key for work in cell.works)}")
    typer.echo(f"Squares of which no work is listed ({len(nobody)}):")
    for row in dict.fromkeys(cell.row for cell in nobody):
        typer.echo(f"  {row}: {', '.join(cell.family for cell in nobody if cell.row == row)}")


def cite(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="As `cutaway methods` lists them.")],
    form: Form = "bibtex",
) -> None:
    """Print the sources of a method, to be cited by whoever uses it.

    Try: cutaway cite concept-attention · cutaway cite edge-attribution --format ris
    """
    from cutaway.atlas.cite import cite as written
    from cutaway.atlas.sources import cited_by

    typer.echo(written(cited_by(method), form), nl=False)


def _opened(works: Sequence[Path] | None = None, results: Sequence[Path] | None = None) -> Atlas:
    """The atlas with a user's own; what could not be read is said on the side."""
    from cutaway.atlas.atlas import open_atlas

    made = open_atlas(works or (), results or ())
    for problem in made.problems:
        typer.secho(f"left out {problem}", fg="yellow", err=True)
    return made
