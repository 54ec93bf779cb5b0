"""`cutaway features`: a page with all that is known of every feature of a dictionary, or of every neuron of a site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from cutaway.data import scene_at
from cutaway.data.splits import Split, check_split
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.methods.table import method
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.asked import opening
from cutaway.questions.bank import TextBank, emoji_bank
from cutaway.questions.given import check_file
from cutaway.questions.question import Question
from cutaway.report import page
from cutaway.report.run import show
from cutaway.report.tables import amount
from cutaway.source import Source

ROWS = 12  # of the table in the terminal
TEXTS = 400  # of each topic that units may write


def write_features(
    name: Source | str, site: str, out: Path, *, n: int = 400, split: Split = "test", seed: int = 0, top: int = 8,
    steer: int = 48, keep: Path | None = None, overwrite: bool = False, console: Console | None = None,
) -> Path:  # fmt: skip
    """Look at every unit of a site over scenes, and write the page; `keep` keeps the labelled arrays."""
    console = console or Console(emoji=False)
    check_split(split)
    check_file(out, (".html",), overwrite)
    if keep is not None:
        check_file(keep, (".nc",), overwrite)
    model, scenes = load(name), [scene_at(split, at, seed) for at in range(n)]
    bank = _bank(model)
    code = written(name, split, n, seed, bank is not None)
    question = Question(model=model, crowd=scenes, bank=bank, seed=seed, code=code)
    options: dict[str, Any] = {"top": top, "steer": steer, **({"site": site} if site else {})}
    made = method("unit_profiles").apply(question, progress=True, **options)
    if keep is not None:
        made.result.save(keep, overwrite=overwrite)
    views = list(made.method.show(Page(question, {"profiles": made})) if made.method.show else ())
    here = ", ".join(made.result.provenance.sites)
    wrote = page.write(
        out, f"{here} of {model.name}", views, summary=views[0].seen, provenance=origin(made.result),
        overwrite=overwrite,
    )  # fmt: skip
    show(made.result.table().head(ROWS), f"{here}: units by what is in the pictures where they are large", console)
    console.print(f"wrote {out} ({amount(wrote.stat().st_size)})", markup=False, soft_wrap=True)
    return wrote


def written(source: Source | str, split: str, n: int, seed: int, bank: bool) -> str:
    """The lines that make the question again."""
    lines = ["from cutaway.data import scene_at", opening(source)]
    lines += ["from cutaway.questions.bank import emoji_bank"] * bank
    more = f", bank=emoji_bank(model, limit={TEXTS})" if bank else ""
    lines += [
        f"scenes = [scene_at({split!r}, at, {seed}) for at in range({n})]",
        f"question = questions.Question(model=model, crowd=scenes{more}, seed={seed})",
    ]
    return "\n".join(lines)


def _bank(model: Model) -> TextBank | None:
    """Texts in the space of the pictures, where the model has one."""
    return emoji_bank(model, limit=TEXTS, progress=False) if model.family.kind == "contrastive" else None
