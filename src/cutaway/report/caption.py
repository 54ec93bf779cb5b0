"""`cutaway caption`: one page for what a model says about a picture, in which a word lights what wrote it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.methods.table import method
from cutaway.model.load import load
from cutaway.questions.asked import opening
from cutaway.questions.given import check_file, read_picture
from cutaway.questions.question import Question
from cutaway.report import page
from cutaway.report.run import show
from cutaway.report.tables import amount
from cutaway.source import Source

ASKED = "What does the picture show?"


def write_caption(
    name: Source | str, image: Path, out: Path, *, text: str = ASKED, caption: str = "", length: int = 32,
    features: int = 5, keep: Path | None = None, overwrite: bool = False, console: Console | None = None,
) -> Path:  # fmt: skip
    """Look at every token of what the model says about a picture, or of a `caption` given, and write the page."""
    console = console or Console(emoji=False)
    check_file(out, (".html",), overwrite)
    if keep is not None:
        check_file(keep, (".nc",), overwrite)
    picture, model = read_picture(image), load(name)
    inputs = model.inputs(image=picture, text=text, answer=caption or None)
    question = Question(
        model=model, kind="ask", inputs=inputs, pictures=(picture,), text=text,
        code=written(name, image, text, caption),
    )  # fmt: skip
    made = method("caption_sources").apply(question, progress=True, length=length, features=features)
    if keep is not None:
        made.result.save(keep, overwrite=overwrite)
    views = list(made.method.show(Page(question, {"caption": made})) if made.method.show else ())
    said = " ".join(map(str, made.result["text"].values))
    wrote = page.write(
        out, f"“{said}”", views, summary=f"What {model.name} says to “{text}”, word for word.",
        provenance=origin(made.result), overwrite=overwrite,
    )  # fmt: skip
    show(made.result.summary(), f"“{said}”", console)
    console.print(f"wrote {out} ({amount(wrote.stat().st_size)})", markup=False, soft_wrap=True)
    return wrote


def written(source: Source | str, image: Path, text: str, caption: str) -> str:
    """The lines that make the question again."""
    more = f", answer={caption!r}" if caption else ""
    return "\n".join([
        opening(source),
        f"inputs = model.inputs(image={str(image)!r}, text={text!r}{more})",
        f"question = questions.Question(model=model, kind='ask', inputs=inputs, text={text!r})",
    ])  # fmt: skip
