"""The demonstrations: the trained models of the package, each with a drawn scene or a prompt, one report each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cutaway import data
from cutaway.questions.drawn import Drawn
from cutaway.report.explain import Explained, explained
from cutaway.report.progress import steps
from cutaway.source import Source

MODEL = "zoo:emoji-clip"
SIDE = 448  # pixels; the model sees 64
ALL = Path("reports") / "demo-all"


def run_demo(
    model: Source | str = MODEL, out: Path | None = None, *, overwrite: bool = False, console: Console | None = None
) -> Explained:
    """Explain a drawn scene with a written word, beside the same scene without it; print what was found and where."""
    console = console or Console(emoji=False)
    with steps(console) as told:
        made = explained(model, **_match(), overwrite=overwrite, out=out or Path("reports") / "demo", told=told)
    announce(made, console)
    return made


def run_demos(out: Path | None = None, *, overwrite: bool = False, console: Console | None = None) -> list[Path]:
    """A report of each family: a model that matches, one that answers, one that draws; gives their pages.

    They go into folders of `out`, by default `reports/demo-all`, named after the models.
    """
    console = console or Console(emoji=False)
    asked = {MODEL: _match, "zoo:emoji-llava": _answer, "zoo:emoji-sd": _drawing}
    reports = []
    for model, question in asked.items():
        started = time.perf_counter()
        folder = (out or ALL) / model.partition(":")[2]
        with steps(console) as told:
            made = explained(model, **question(), overwrite=overwrite, out=folder, told=told)
        seconds = time.perf_counter() - started
        console.print(f"[bold]{made.page}[/bold] ({model}, {seconds:.0f} s)", soft_wrap=True, highlight=False)
        console.print(f"- {made.findings[0]}", markup=False, highlight=False)
        reports.append(made.page)
    return reports


def _match() -> Mapping[str, Any]:
    """A picture on which a misleading word is written."""
    pair = next(data.pairs("label", 1, "test", world=data.World(things=(1, 1))))
    plain, written = (replace(scene, canvas=(SIDE, SIDE)) for scene in (pair.a, pair.b))
    word = written.label.text if written.label else ""
    thing = pair.caption_a.text.removesuffix(" with nothing written on it")
    return {
        "image": data.render(written), "counterfactual": data.render(plain),
        "text": [pair.caption_b.text, pair.caption_a.text, thing, data.concept(word).one],
        "truth": {"the written word": data.label_mask(written)},
        "title": f"{MODEL} looks at {thing} that says “{word}”",
    }  # fmt: skip


def _answer() -> Mapping[str, Any]:
    """A question about a scene that another scene answers otherwise."""
    pair = next(data.pairs("binding colour", 1, "test"))
    known = Drawn(pair.a, pair)
    text, answer, rival = known.asked("", "", "")
    return {
        "image": known.picture, "counterfactual": known.counterpart, "text": text, "answer": answer, "rival": rival,
        "truth": known.truth,
    }  # fmt: skip


def _drawing() -> Mapping[str, Any]:
    """A prompt, and the word of it that the page begins with."""
    return {"prompt": "a fox on a green background", "word": "fox"}


def announce(made: Explained, console: Console) -> None:
    """Where the report is and what was found, a line or two for each finding."""
    console.print(f"[bold]{made.page}[/bold] (open it in a browser)", soft_wrap=True)
    for finding in made.findings:
        console.print(f"- {finding}", markup=False, highlight=False)
    for note in made.notes:
        console.print(note, markup=False, highlight=False, style="dim")
    files = len(list(made.folder.glob("*.nc")))
    console.print(f"The labelled arrays behind it: {files} files *.nc in {made.folder}", markup=False, soft_wrap=True)
