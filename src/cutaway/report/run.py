"""One method at a time for the command line: compute it, print its labelled table, keep it, draw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from cutaway import data
from cutaway.errors import InputError
from cutaway.methods.probe_data import Pool
from cutaway.methods.result import Result
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.report.battery import margin
from cutaway.report.sources import EMOJIWORLD, Folder, asked, bank_of, crowd, opened, read_picture, read_texts

ROWS = 40  # of a table


def finish(result: Result, out: Path | None, plot: Path | None, overwrite: bool, table: Any = None) -> None:
    """Print the table of a result and write its files; ones that exist are kept unless `overwrite`."""
    show(result.summary() if table is None else table, repr(result))
    console = Console()
    if out is not None:
        result.save(out, overwrite=overwrite)
        console.print(f"wrote {out} (open it with cutaway.methods.result.load)", markup=False, soft_wrap=True)
    if plot is not None:
        result.plot().figure.savefig(plot)
        console.print(f"wrote {plot}", markup=False, soft_wrap=True)


def check_files(out: Path | None, plot: Path | None, overwrite: bool) -> None:
    """Refuse paths that cannot be written before anything is computed."""
    for path, kinds in ((out, (".nc",)), (plot, (".png", ".pdf", ".svg"))):
        if path is None:
            continue
        if path.suffix.lower() not in kinds:
            raise InputError(f"'{path}' ends in '{path.suffix}'", expected=" or ".join(kinds))
        if not path.parent.is_dir():
            raise InputError(f"there is no folder '{path.parent}'", do="make it first")
        if path.exists() and not overwrite:
            raise InputError(f"'{path}' is already there", do="give another name, or --overwrite")


def show(frame: Any, title: str) -> None:
    """A data frame as a table, its numbers with four digits."""
    numeric = [kind.kind in "fi" for kind in frame.dtypes]
    names = [Column(str(n), justify="right" if number else "left") for n, number in zip(frame, numeric, strict=True)]
    table = Table(*names, title=title, title_justify="left")
    for row in frame.head(ROWS).itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    console = Console()
    console.print(table)
    if len(frame) > ROWS:
        console.print(f"… and {len(frame) - ROWS} rows more: --out keeps them all")


def decomposition(model: str, images: Sequence[Path], texts: Sequence[str], tower: str) -> tuple[Result, Any]:
    """The decomposition of pictures, and with texts the mean effect of each layer on each of them."""
    from cutaway.methods.representation_decomposition import representation_decomposition

    found = load(model)
    rows = list(texts) if tower.startswith("text") else _pictures(images)
    made = representation_decomposition(found, rows, tower=tower)
    if not texts or tower.startswith("text"):
        return made, None
    effect = made.effect(asked(found, read_texts(texts))).mean("item")
    layers = [str(name).split(".")[0] for name in effect["term"].values]
    kinds = ["heads" if ".head." in str(name) else str(name).split(".")[-1] for name in effect["term"].values]
    grouped = (
        effect.transpose("term", "text").to_pandas().groupby([np.array(layers), np.array(kinds)], sort=False).sum()
    )
    return made, grouped.rename_axis(["layer", "part"]).reset_index()


def lens(model: str, images: Sequence[Path], texts: Sequence[str], centre: bool) -> tuple[Result, Any]:
    """The logit lens of pictures: the cosine of the pooled state with each text, by layer."""
    from cutaway.methods.logit_lens import logit_lens

    found = load(model)
    made = logit_lens(found, _pictures(images), asked(found, read_texts(texts)), centre=centre)
    frame = made["pooled"].isel(picture=0).transpose("layer", "text").to_pandas().reset_index()
    return made, frame.assign(random=made["random"].values)


def explanation(model: str, pictures: str | None, bank: str | None, image: Path | None, count: int) -> Result:
    """Heads as texts over many pictures, or one picture's embedding as texts."""
    from cutaway.methods.feed import embedded, unit
    from cutaway.methods.representation_decomposition import representation_decomposition
    from cutaway.methods.text_explanation import splice, text_span

    found = opened(model)
    texts, many = bank_of(bank, found), crowd(pictures, found, count)
    if texts is None or many is None:
        raise InputError(
            f"'{model}' has no {'pictures' if texts is not None else 'bank of texts'} of its own",
            expected=f"--pictures FOLDER and --bank FILE, or the word '{EMOJIWORLD}' for either",
        )
    if image is None:
        return text_span(representation_decomposition(found, many), texts, picks=min(5, len(texts)))
    mean = unit(embedded(found, many, "vision").double()).mean(0)
    return splice(representation_decomposition(found, _pictures([image])), texts, mean=mean)


def probing(model: str, pictures: str, labels: Sequence[str], pool: Pool, count: int) -> Result:
    """Linear probes of what is known of the pictures: the truth of scenes, or the names of sub-folders."""
    from cutaway.methods.linear_probing import linear_probing
    from cutaway.methods.scene_labels import LABELS, scene_labels

    if pictures == EMOJIWORLD:
        unknown = [name for name in labels if name not in LABELS]
        if unknown:
            raise InputError(f"scenes have no label '{unknown[0]}'", exists=", ".join(LABELS))
        scenes = list(data.scenes("test", count, world=data.World(things=(1, 1))))
        known = scene_labels(scenes)
        return linear_probing(load(model), scenes, {name: known[name] for name in labels or ("place",)}, pool=pool)
    path = Path(pictures)
    folders = sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
    if len(folders) < 2:
        raise InputError(
            f"'{pictures}' holds {len(folders)} sub-folders", expected="one sub-folder of pictures for each class",
            do=f"or --pictures {EMOJIWORLD} for drawn scenes whose truth is known",
        )  # fmt: skip
    per = [Folder(one, max(3, count // len(folders))) for one in folders]
    rows = [picture for one in per for picture in one]
    classes = np.repeat([one.name for one in folders], [len(one) for one in per])
    return linear_probing(load(model), rows, {"folder": classes}, pool=pool)


def patching(
    model: Model | str, image: Path, counterfactual: Path, texts: Sequence[str], over: str, sites: str
) -> Result:
    """Activation patching between two pictures, for the first text rather than the second."""
    from cutaway.methods.activation_patching import activation_patching

    found, words = opened(model), list(read_texts(texts))
    pair = [found.inputs(image=read_picture(one), text=words) for one in (image, counterfactual)]
    site = sites or {"token": "vision.*.resid_post", "head": "vision.*.attn.z"}.get(over, "vision.*.resid_post")
    target = margin(0, 1 if len(words) > 1 else None)
    return activation_patching(found, *pair, sites=site, over=(over,), target=target)


def _pictures(images: Sequence[Path]) -> list[Any]:
    if not images:
        raise InputError("there is no picture", expected="--image FILE, once or more often")
    return [read_picture(image) for image in images]


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float | np.floating) else str(value)
