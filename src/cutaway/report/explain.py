"""`explain`: a model and a question in; a report with its labelled arrays out. What is on it the methods say."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy import ndarray

from cutaway.errors import InputError
from cutaway.methods.result import versions
from cutaway.methods.shown import Page, Told, applied, measured
from cutaway.methods.table import METHODS
from cutaway.model.model import Model
from cutaway.questions import Question, asked, written
from cutaway.questions.given import EMOJIWORLD, Folder, check_folder, read_picture, unknown_words
from cutaway.report import page
from cutaway.source import Source
from cutaway.views.kinds import Opening, View
from cutaway.views.words import LONG, quoted, signed

REPORT, PICTURE, OTHER, BANK = "report.html", "picture.png", "counterfactual.png", "bank.txt"
ENTRIES = tuple(entry.name for method in METHODS for entry in method.reported)
FILES = (REPORT, PICTURE, OTHER, BANK, *(f"{name}.nc" for name in ENTRIES))  # all that a report may write
EXPECTED = {
    "prompt": "a prompt to draw", "image": "a picture to hold the texts against",
    "text": "at least one text, for instance 'a dog'; of a model that matches better two: what the picture shows, and "
    "what it might be mistaken for",
}  # fmt: skip
Name = Model | Source | str | Path


@dataclass(frozen=True, eq=False)
class Explained:
    """A written report: its folder and page, what was measured, its views, a few sentences on it, what is not on it."""

    folder: Path
    page: Path
    shown: Page
    views: tuple[View, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def explain(
    model: Name, image: Any = None, text: str | Sequence[str] = (), *, answer: str = "", rival: str = "",
    raw: bool = False, prompt: str = "", counterfactual: Any = None, bank: str | Path | None = None,
    pictures: str | Path | None = None, out: str | Path | None = None, overwrite: bool = False, many: int = 256,
    seed: int = 0, skip_bad: bool = False, word: str = "",
) -> Path:  # fmt: skip
    """Run every method that fits a model and a question; write `report.html` and its arrays, return the page.

    For a model that matches, `image` is held against `text`: the first is explained, the second is its rival. For one
    that answers, `text` is what is asked, of a picture or alone; `answer` and `rival` are words, by default the model's
    own first and second choice; it is put into the model's chat template, if it has one, unless it is alone and `raw`.
    For one that draws there is a `prompt`, and the `word` of it that the page begins with. `counterfactual` is the same
    with one thing changed: a picture, or a text or prompt. `bank` is a file with a text a line and `pictures` a folder
    (or both "emojiworld"), in which heads and embedding are put in words; models of the zoo have both unasked. At most
    `many` pictures are used; ones that cannot be read are an error, unless `skip_bad`. `out` is the folder, by default
    `reports/<model>-<picture>`; an earlier report is replaced only with `overwrite`. Raises InputError for what does
    not fit.

    >>> import tempfile
    >>> from cutaway.zoo import tiny
    >>> path = explain("tiny:clip", tiny.picture(), ["a red dog", "a cat"], out=tempfile.mkdtemp())
    >>> sorted(file.name for file in path.parent.iterdir())
    ['decomposition.nc', 'knockout.nc', 'lens.nc', 'picture.png', ..., 'report.html']
    """
    return explained(
        model, image, text, answer=answer, rival=rival, raw=raw, prompt=prompt, counterfactual=counterfactual,
        bank=bank, pictures=pictures, out=out, overwrite=overwrite, many=many, seed=seed, skip_bad=skip_bad, word=word,
    ).page  # fmt: skip


def explained(
    model: Name, image: Any = None, text: str | Sequence[str] = (), *, answer: str = "", rival: str = "",
    raw: bool = False, prompt: str = "", counterfactual: Any = None, bank: str | Path | None = None,
    pictures: str | Path | None = None, out: str | Path | None = None, overwrite: bool = False, many: int = 256,
    seed: int = 0, skip_bad: bool = False, word: str = "", truth: Mapping[str, ndarray] | None = None, title: str = "",
    told: Told = lambda _: None,
) -> Explained:  # fmt: skip
    """`explain`, giving back more than the page; `truth` names regions of the picture, `told` hears the steps."""
    started = time.perf_counter()
    told("reading what was given")
    whole = None if image is None else read_picture(image)
    if not text and not prompt:
        raise InputError(
            "there is no text and no prompt", expected=EXPECTED["text"], do="give --text, or --prompt to draw"
        )
    folder = _folder(out, model.name if isinstance(model, Model) else str(model), image, overwrite)
    plain: dict[str, Any] = {
        "text": text, "answer": answer, "rival": rival, "raw": raw, "prompt": prompt, "many": many,
        "skip_bad": skip_bad, "seed": seed, "word": word,
    }  # fmt: skip
    question = asked(
        model, image=whole, counterfactual=counterfactual, pictures=pictures, bank=bank, truth=truth, **plain
    )
    _check(question, picture=whole is not None)
    saved = _saved(question, bank)
    paths = {name: folder / file for name, file in saved.items()}
    given = {"counterfactual": counterfactual, "bank": bank, "pictures": pictures}
    question = replace(question, code=written(model, **{**plain, **given, **paths}))
    made = applied(question, METHODS, told=told)
    told("writing the page")
    shown = tuple(view for method in METHODS if method.show and made.has(method) for view in method.show(made))
    opening, findings = _opening(made)
    notes = tuple(_left_out(made))
    _remove_report(folder, [image, counterfactual, bank])
    _write_inputs(folder, question, saved, bank)
    for file, result in made.results():
        result.save(folder / f"{file}.nc", overwrite=True)
    page.write(
        folder / REPORT, title or _title(question, image), shown, summary="\n\n".join(notes),
        provenance=_provenance(made, image, time.perf_counter() - started), overwrite=True, opening=opening,
    )  # fmt: skip
    return Explained(folder, folder / REPORT, made, shown, findings, notes)


def _check(question: Question, picture: bool) -> None:
    """Refuse a question that asks nothing."""
    model = question.model
    if question.inputs is not None:
        return
    if model.family.kind not in ("contrastive", "generative", "diffusion"):
        raise InputError(
            f"'{model.name}' can be asked nothing: its family is {model.family.kind}, with the towers "
            f"{', '.join(model.towers) or 'none'}",
            expected="a model that matches (CLIP, SigLIP), answers (LLaVA) or draws",
            do="`cutaway sites`, `model.run` and `model.sweep` take the others",
        )  # fmt: skip
    what = "prompt" if model.family.kind == "diffusion" else "text" if picture else "image"
    raise InputError(
        f"there is no {what} to ask '{model.name}' with", expected=EXPECTED[what], do=f"give --{what} (`{what}=`)"
    )


def _opening(made: Page) -> tuple[Opening, tuple[str, ...]]:
    """How the page begins, and what was found: as a method says that leads, else the number and a sentence of each."""
    for method in METHODS:
        if method.lead is not None and made.has(method):
            return method.lead(made)
    told = tuple(made.told())
    values = tuple(f"{signed(side.question.value):+.3f}" for side in made.beside.values())
    target = made.question.target
    row = ("", made.question.aim.replace("“", "").replace("”", ""), *values)
    opened = Opening(
        verdict=measured(made), columns=tuple(made.beside), texts=(row,), evidence=told,
        heading=f"{target.unit} for" if target is not None else "",
    )  # fmt: skip
    return opened, (measured(made), *told)


# --- the folder -------------------------------------------------------------------------------------------------------


def _folder(out: str | Path | None, model: str, image: Any, overwrite: bool) -> Path:
    """The folder to write to; an error if something is there that should stay."""
    stem = Path(image).stem if isinstance(image, str | Path) else "picture"
    named = re.sub(r"[^\w.@-]+", "-", f"{model}-{stem}").strip("-.")
    folder = Path(out) if out is not None else Path("reports") / named
    if folder.is_file():
        raise InputError(f"'{folder}' is a file", expected="a folder to write the report to", do="give another --out")
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(
            f"'{folder}' is not empty", expected="a new folder",
            exists=", ".join(sorted(file.name for file in folder.iterdir())[:5]),
            do="give another --out, or --overwrite to replace the report in it",
        )  # fmt: skip
    return folder


def _remove_report(folder: Path, given: Sequence[Any]) -> None:
    """Take an earlier report out of the folder, so that none of its files is taken for one of the new; else nothing.

    What the new one is made from stays, and so does everything that no report writes.
    """
    if not (folder / REPORT).is_file():
        return
    kept = {Path(one).resolve() for one in given if isinstance(one, str | Path)}
    for name in FILES:
        if (folder / name).resolve() not in kept:
            (folder / name).unlink(missing_ok=True)


def _saved(question: Question, bank: str | Path | None) -> dict[str, str]:
    """What the programmes on the page start from: arguments that are files, by the name of the copy."""
    other = question.counterpart
    drawn = other is not None and bool(other.pictures) and other.text == question.text
    files = {"image": (PICTURE, bool(question.pictures)), "counterfactual": (OTHER, drawn),
             "bank": (BANK, bank is not None and str(bank) != EMOJIWORLD)}  # fmt: skip
    return {name: file for name, (file, there) in files.items() if there}


def _write_inputs(folder: Path, question: Question, saved: Mapping[str, str], bank: str | Path | None) -> None:
    """The copies."""
    folder.mkdir(parents=True, exist_ok=True)
    if "image" in saved:
        question.pictures[0].save(folder / PICTURE)
    if "counterfactual" in saved and question.counterpart is not None:
        question.counterpart.pictures[0].save(folder / OTHER)
    if bank is not None and "bank" in saved and Path(bank).resolve() != (folder / BANK).resolve():
        (folder / BANK).write_bytes(Path(bank).read_bytes())


def _title(question: Question, image: Any) -> str:
    named = Path(image).name if isinstance(image, str | Path) else "a picture"
    first = question.text or question.words[0]
    does = f"looks at {named}" if question.pictures else "draws"
    return f"{question.model.name}: {quoted(first)}" if len(first) <= LONG else f"{question.model.name} {does}"


def _left_out(made: Page) -> list[str]:
    """What is not on the page, and words the model does not know."""
    question, notes = made.question, list(made.missing)
    skipped = question.crowd.skipped if isinstance(question.crowd, Folder) else ()
    if skipped:
        notes.append(f"Left out because they cannot be read: {', '.join(skipped)}.")
    unknown = unknown_words(question.model, [text for text in (*question.words, question.text) if text])
    if unknown:
        notes.insert(
            0,
            f"This model has no entry for {', '.join(map(quoted, unknown))} and reads any such word as the "
            "same blank, so do not trust what it says of texts with it.",
        )
    return [" ".join(notes)] if notes else []


def _provenance(made: Page, image: Any, seconds: float) -> dict[str, object]:
    question = made.question
    sizes = [f", {one.width} × {one.height} pixels" for one in question.pictures[:1]] or [""]
    named = Path(image).name if isinstance(image, str | Path) else "given in memory" if question.pictures else "none"
    return {
        "model": question.model.name,
        "architecture": repr(question.model).splitlines()[0],
        "revision": question.model.revision or "as it was opened",
        "picture": f"{named}{sizes[0]}",
        **({"text": question.text} if question.text else {}),
        "texts": list(question.words),
        "bank": f"{len(question.bank)} texts" if question.bank is not None else "none",
        "pictures": f"{len(question.crowd)}" if question.crowd is not None else "none",
        "seed": question.seed,
        "seconds": round(seconds, 1),
        "versions": versions(),
        "files": sorted(f"{name}.nc" for name, _ in made.results()),
    }
