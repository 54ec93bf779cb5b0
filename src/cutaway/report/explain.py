"""`explain`: one picture, some texts and a contrastive model in; a report with its labelled arrays out."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy import ndarray

from cutaway.errors import InputError
from cutaway.methods.result import versions
from cutaway.model.model import Model
from cutaway.questions.given import (
    EMOJIWORLD,
    Folder,
    as_seen,
    bank_of,
    check_bank,
    check_folder,
    crowd,
    opened,
    read_picture,
    read_texts,
    unknown_words,
    untrained,
)
from cutaway.report import lenses, page, sections, words
from cutaway.report.battery import RESULTS, Battery, Case, Told, examine
from cutaway.report.heads import heads
from cutaway.report.patching import maps
from cutaway.report.snippets import BANK, OTHER, PICTURE, Snippets
from cutaway.report.verdict import opening, summary
from cutaway.source import Source
from cutaway.views.kinds import Overlay, View
from cutaway.views.picture import Picture

REPORT = "report.html"
FILES = (REPORT, PICTURE, OTHER, BANK, *(f"{result}.nc" for result in RESULTS))  # all that a report may write
LOADABLE = re.compile(r"(zoo|tiny):|.+/.+")


@dataclass(frozen=True, eq=False)
class Explained:
    """A written report: its folder and page, what was measured, four sentences at most on it, what is not on it."""

    folder: Path
    page: Path
    battery: Battery
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def explain(
    model: Model | Source | str | Path, image: Any, texts: Sequence[str], *, out: str | Path | None = None,
    counterfactual: Any = None, bank: str | Path | None = None, pictures: str | Path | None = None,
    overwrite: bool = False, many: int = 256, seed: int = 0, skip_bad: bool = False,
) -> Path:  # fmt: skip
    """Run what fits a contrastive model on a picture and texts; write `report.html` and its arrays, return the page.

    `image` and `counterfactual` are pictures or paths. The first text is explained, the second is its rival: with two,
    every number is about the first rather than the second. `bank` is a file with one text a line and `pictures` a
    folder (or both "emojiworld"), in which heads and embedding are put in words; models of the zoo have both unasked.
    At most `many` pictures are used; ones that cannot be read are an error, unless `skip_bad`. `out` is the folder, by
    default `reports/<model>-<picture>`; an earlier report is replaced only with `overwrite`. Raises InputError for a
    picture, a text or a model that does not fit.

    >>> import tempfile
    >>> from cutaway.zoo import tiny
    >>> path = explain("tiny:clip", tiny.picture(), ["a red dog", "a cat"], out=tempfile.mkdtemp())
    >>> sorted(file.name for file in path.parent.iterdir())
    ['decomposition.nc', 'lens.nc', 'picture.png', 'report.html']
    """
    return explained(
        model, image, texts, out=out, counterfactual=counterfactual, bank=bank, pictures=pictures,
        overwrite=overwrite, many=many, seed=seed, skip_bad=skip_bad,
    ).page  # fmt: skip


def explained(
    model: Model | Source | str | Path, image: Any, texts: Sequence[str], *, out: str | Path | None = None,
    counterfactual: Any = None, bank: str | Path | None = None, pictures: str | Path | None = None,
    overwrite: bool = False, many: int = 256, seed: int = 0, truth: Mapping[str, ndarray] | None = None,
    title: str = "", told: Told = lambda _: None, skip_bad: bool = False,
) -> Explained:  # fmt: skip
    """`explain`, giving back more than the page; `truth` names regions of the picture, `told` hears the steps."""
    started = time.perf_counter()
    told("reading the picture")
    asked, whole = read_texts(texts), read_picture(image)
    other = None if counterfactual is None else read_picture(counterfactual)
    name = model.name if isinstance(model, Model) else str(model)
    folder = _folder(out, name, image, overwrite)
    check_bank(bank)
    many_pictures = crowd(pictures, name, many, skip_bad=skip_bad)
    told("opening the model")
    found = opened(model)
    told("reading the bank of texts")
    case = Case(
        found, whole, asked, other, bank_of(bank, found), many_pictures, untrained(found), truth or {}, seed
    )  # fmt: skip
    battery = examine(case, told=told)
    code = _snippets(folder, model, battery, bank, pictures)
    told("writing the page")
    _remove_report(folder, [image, counterfactual, bank])
    _write_inputs(folder, case, bank if code.bank == "file" else None)
    for file, result in battery.results():
        result.save(folder / f"{file}.nc", overwrite=True)
    findings, notes = summary(battery), tuple(_left_out(battery))
    made = views(battery, code)
    lead = next(view for view in made if isinstance(view, Overlay))
    page.write(
        folder / REPORT, title or _title(found.name, asked[0], image), made, summary="\n\n".join(notes),
        provenance=_provenance(battery, image, time.perf_counter() - started), overwrite=True,
        opening=opening(battery, lead),
    )  # fmt: skip
    return Explained(folder, folder / REPORT, battery, findings, notes)


def views(found: Battery, code: Snippets) -> list[View]:
    """All views of a report, in the order in which they are best read; after the first two they are folded."""
    case = found.case
    picture = Picture.of(as_seen(case.model, case.picture), f"the picture that is held against {case.texts[0]}")
    sums = sections.bars(found, code)
    made: list[View | None] = [sections.patches(found, picture, code), heads(found, picture, code)]
    made += [sections.floors(found, code)]
    made += [sections.by_word(found, words, picture, code) for words in found.words]
    made += [sums[0]]
    if case.counterfactual is not None:
        other = Picture.of(as_seen(case.model, case.counterfactual), "the counterfactual picture")
        made += maps(found, picture, other, code)
    made += [lenses.growth(found, code), lenses.by_layer(found, picture, code)]
    made += [lenses.last_layer(found, picture, code), sections.nearest(found, code), sections.sparse(found, code)]
    return [view for view in [*made, *sums[1:]] if view is not None]


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


def _title(model: str, text: str, image: Any) -> str:
    named = Path(image).name if isinstance(image, str | Path) else "a picture"
    return f"{model}: {words.quoted(text)}" if len(text) <= words.LONG else f"{model} looks at {named}"


def _write_inputs(folder: Path, case: Case, bank: str | Path | None) -> None:
    """What the programs on the page start from."""
    folder.mkdir(parents=True, exist_ok=True)
    case.picture.save(folder / PICTURE)
    if case.counterfactual is not None:
        case.counterfactual.save(folder / OTHER)
    if bank is not None and Path(bank).resolve() != (folder / BANK).resolve():
        (folder / BANK).write_bytes(Path(bank).read_bytes())


def _snippets(
    folder: Path, model: Any, found: Battery, bank: str | Path | None, pictures: str | Path | None
) -> Snippets:
    case = found.case
    name = case.model.name if LOADABLE.match(case.model.name) or isinstance(model, Source | str | Path) else ""
    crowd_of, skipped = "" if case.crowd is None else EMOJIWORLD, 0
    if isinstance(case.crowd, Folder):
        crowd_of, skipped = str(pictures), len(case.crowd.skipped)
    kind = ""
    if case.bank is not None:
        kind = EMOJIWORLD if bank is None or str(bank) == EMOJIWORLD else "file"
    return Snippets(folder, name, case.texts, kind, crowd_of, len(case.crowd or ()) + skipped, skipped > 0)


def _left_out(found: Battery) -> list[str]:
    """What is not on the page, and words the model does not know."""
    notes = list(found.left_out)
    skipped = found.case.crowd.skipped if isinstance(found.case.crowd, Folder) else ()
    if skipped:
        notes.append(f"Left out because they cannot be read: {', '.join(skipped)}.")
    unknown = unknown_words(found.case.model, found.case.texts)
    if unknown:
        notes.insert(
            0,
            f"This model has no entry for {', '.join(map(words.quoted, unknown))} and reads any such word as the "
            "same blank, so do not trust what it says of texts with it.",
        )
    return [" ".join(notes)] if notes else []


def _provenance(found: Battery, image: Any, seconds: float) -> dict[str, object]:
    case = found.case
    return {
        "model": case.model.name,
        "architecture": repr(case.model).splitlines()[0],
        "revision": case.model.revision or "as it was opened",
        "picture": f"{Path(image).name if isinstance(image, str | Path) else 'given in memory'}, "
        f"{case.picture.width} × {case.picture.height} pixels",
        "texts": list(case.texts),
        "bank": f"{len(case.bank)} texts" if case.bank is not None else "none",
        "pictures": f"{len(case.crowd)}" if case.crowd is not None else "none",
        "seed": case.seed,
        "seconds": round(seconds, 1),
        "versions": versions(),
        "files": sorted(f"{name}.nc" for name, _ in found.results()),
    }
