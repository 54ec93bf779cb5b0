"""The demonstration: the trained model of the package, and a picture on which a misleading word is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cutaway import data
from cutaway.report.explain import Explained, explained
from cutaway.report.progress import steps
from cutaway.source import Source

MODEL = "zoo:emoji-clip"
SIDE = 448  # pixels; the model sees 64


def run_demo(
    model: Source | str = MODEL, out: Path | None = None, *, overwrite: bool = False, console: Console | None = None
) -> Explained:
    """Explain a drawn scene with a written word, beside the same scene without it; print what was found and where."""
    console = console or Console(emoji=False)
    pair = next(data.pairs("label", 1, "test", world=data.World(things=(1, 1))))
    plain, written = (replace(scene, canvas=(SIDE, SIDE)) for scene in (pair.a, pair.b))
    word = written.label.text if written.label else ""
    thing = pair.caption_a.text.removesuffix(" with nothing written on it")
    texts = [pair.caption_b.text, pair.caption_a.text, thing, data.concept(word).one]
    with steps(console) as told:
        made = explained(
            model, data.render(written), texts, counterfactual=data.render(plain), overwrite=overwrite,
            out=out or Path("reports") / "demo", truth={"the written word": data.label_mask(written)},
            title=f"{model} looks at {thing} that says “{word}”", told=told,
        )  # fmt: skip
    announce(made, console)
    return made


def announce(made: Explained, console: Console) -> None:
    """Where the report is and what was found, a line or two for each finding."""
    console.print(f"[bold]{made.page}[/bold] (open it in a browser)", soft_wrap=True)
    for finding in made.findings:
        console.print(f"- {finding}", markup=False, highlight=False)
    for note in made.notes:
        console.print(note, markup=False, highlight=False, style="dim")
    files = len(list(made.folder.glob("*.nc")))
    console.print(f"The labelled arrays behind it: {files} files *.nc in {made.folder}", markup=False, soft_wrap=True)
