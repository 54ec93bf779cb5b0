"""`cutaway features`: a page with all that is known of every feature of a dictionary, or of every neuron of a site."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cutaway.data import scene_at
from cutaway.data.splits import Split
from cutaway.errors import InputError
from cutaway.methods.sparse_autoencoders.profiles import Profiles, profiles
from cutaway.methods.sparse_autoencoders.views import units_view
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.bank import TextBank, emoji_bank
from cutaway.questions.given import check_file
from cutaway.report import page
from cutaway.report.run import show
from cutaway.report.tables import amount
from cutaway.source import Source

ROWS = 12  # of the table in the terminal


def write_features(
    name: Source | str, site: str, out: Path, *, n: int = 400, split: Split = "test", seed: int = 0, top: int = 8,
    steer: int = 48, keep: Path | None = None, overwrite: bool = False, console: Console | None = None,
) -> Path:  # fmt: skip
    """Look at every unit of a site over scenes, and write the page; `keep` keeps the labelled arrays."""
    console = console or Console(emoji=False)
    check_file(out, (".html",), overwrite)
    if keep is not None:
        check_file(keep, (".nc",), overwrite)
    model = load(name)
    site = site or next(iter(model.dictionaries), "")
    if not site:
        raise InputError(
            f"'{model.name}' has no features", expected="a dictionary, or a site whose units are looked at",
            do="`--dictionary DIR`, or `--site vision.4.mlp.post`",
        )  # fmt: skip
    scenes = [scene_at(split, at, seed) for at in range(n)]
    found = profiles(model, site, scenes, bank=_bank(model), top=top, steer=steer, seed=seed)
    if keep is not None:
        found.save(keep, overwrite=overwrite)
    view = units_view(found, scenes)
    made = page.write(
        out, f"{site} of {model.name}", [view], summary=view.seen, provenance=told(found), overwrite=overwrite
    )
    show(found.table().head(ROWS), f"{site}: units by what is in the pictures in which they are large", console)
    console.print(f"wrote {out} ({amount(made.stat().st_size)})", markup=False, soft_wrap=True)
    return made


def told(found: Profiles) -> dict[str, object]:
    """Where a page comes from."""
    return {"method": found.provenance.method, "model": found.provenance.model, **found.provenance.options}


def _bank(model: Model) -> TextBank | None:
    """Texts in the space of the pictures, where the model has one."""
    return emoji_bank(model, limit=400, progress=False) if model.family.kind == "contrastive" else None
