"""One method at a time for the command line: compute it, print its labelled table, keep it, draw it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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
from cutaway.model.targets import margin
from cutaway.report.sources import (
    EMOJIWORLD,
    Folder,
    asked,
    check_bank,
    check_file,
    crowd,
    opened,
    read_bank,
    read_picture,
    read_texts,
)
from cutaway.report.tables import heading
from cutaway.source import Source
from cutaway.zoo.trained import spec_of

ROWS = 40  # of a table


def finish(result: Result, out: Path | None, plot: Path | None, overwrite: bool, table: Any = None) -> None:
    """Print the table of a result and write its files; ones that exist are kept unless `overwrite`."""
    console = Console()
    show(result.summary() if table is None else table, repr(result), console)
    if result.note():
        console.print(result.note(), markup=False, highlight=False)
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
        check_file(path, kinds, overwrite)


def show(frame: Any, title: str, console: Console) -> None:
    """A data frame as a table, its numbers with four digits; what is too wide goes on in a further table below."""
    numeric = {name: kind.kind in "fi" for name, kind in zip(frame, frame.dtypes, strict=True)}
    cells = {name: [_cell(value) for value in frame[name].head(ROWS)] for name in frame}
    heading(console, title)
    if not len(frame):
        console.print("Nothing to list: the method found no row.")
        return
    for names in _fitting(cells, numeric, console.width):
        columns = (
            Column(str(name), justify="right" if numeric[name] else "left", min_width=_least(cells[name], name))
            for name in names
        )
        table = Table(*columns)
        for row in zip(*(cells[name] for name in names), strict=True):
            table.add_row(*row)
        console.print(table)
    if len(frame) > ROWS:
        console.print(f"… and {len(frame) - ROWS} rows more: --out keeps them all")


def _least(cells: Sequence[str], name: object) -> int:
    """The width below which a word of a column, or a number, would be broken."""
    return max(len(word) for cell in (*cells, str(name)) for word in cell.split() or [""])


def _fitting(cells: Mapping[Any, Sequence[str]], numeric: Mapping[Any, bool], width: int) -> list[list[Any]]:
    """The columns of each table, so that none is too wide; the first ones that name a row stand in each of them."""
    labels = list(itertools.takewhile(lambda name: not numeric[name] or name in ("layer", "head", "token"), cells))
    taken = 1 + sum(_least(cells[name], name) + 3 for name in labels)
    tables, room = [list(labels)], width - taken
    for name in list(cells)[len(labels) :]:
        need = _least(cells[name], name) + 3
        if need > room and len(tables[-1]) > len(labels):
            tables.append(list(labels))
            room = width - taken
        tables[-1].append(name)
        room -= need
    return tables


def decomposition(model: Source | str, images: Sequence[Path], texts: Sequence[str], tower: str) -> tuple[Result, Any]:
    """The decomposition of pictures, and with texts the mean effect of each layer on each of them."""
    from cutaway.methods.representation_decomposition import representation_decomposition

    rows = list(read_texts(texts)) if tower.startswith("text") else _pictures(images)
    asked_for = read_texts(texts) if texts else ()
    found = load(model)
    made = representation_decomposition(found, rows, tower=tower)
    if not texts or tower.startswith("text"):
        return made, None
    effect = made.effect(asked(found, asked_for)).mean("item")
    layers = [str(name).split(".")[0] for name in effect["term"].values]
    kinds = ["heads" if ".head." in str(name) else str(name).split(".")[-1] for name in effect["term"].values]
    grouped = (
        effect.transpose("term", "text").to_pandas().groupby([np.array(layers), np.array(kinds)], sort=False).sum()
    )
    return made, grouped.rename_axis(["layer", "part"]).reset_index()


def lens(model: Source | str, images: Sequence[Path], texts: Sequence[str], centre: bool) -> tuple[Result, Any]:
    """The logit lens of pictures: the cosine of the pooled state with each text, by layer."""
    from cutaway.methods.logit_lens import logit_lens

    pictures, asked_for = _pictures(images), read_texts(texts)
    if centre and min(len(pictures), len(asked_for)) < 2:
        raise InputError(
            f"{len(pictures)} picture and {len(asked_for)} text have no mean to subtract",
            expected="two of each for --centre", do="give more of --image and --text, or no --centre",
        )  # fmt: skip
    found = load(model)
    made = logit_lens(found, pictures, asked(found, asked_for), centre=centre)
    frame = made["pooled"].isel(picture=0).transpose("layer", "text").to_pandas().reset_index()
    return made, frame.assign(random=made["random"].values)


def explanation(
    model: Source | str, pictures: str | None, bank: str | None, image: Path | None, count: int, skip_bad: bool = False
) -> Result:
    """Heads as texts over many pictures, or one picture's embedding as texts."""
    from cutaway.methods.feed import embedded, unit
    from cutaway.methods.representation_decomposition import representation_decomposition
    from cutaway.methods.text_explanation import splice, text_span

    check_bank(bank)
    one = None if image is None else read_picture(image)
    many = crowd(pictures, str(model), count, skip_bad=skip_bad)
    spec = spec_of(str(model))
    bank = spec.bank if bank is None and spec else bank
    if many is None or bank is None:
        raise InputError(
            f"'{model}' has no {'bank of texts' if many is not None else 'pictures'} of its own",
            expected=f"--pictures FOLDER and --bank FILE, or the word '{EMOJIWORLD}' for either",
            exists="both, unasked, for the models that `cutaway zoo list` shows", do="give what is missing",
        )  # fmt: skip
    found = opened(model)
    texts = read_bank(bank, found)
    if one is None:
        return text_span(representation_decomposition(found, many), texts, picks=min(5, len(texts)))
    mean = unit(embedded(found, many, "vision").double()).mean(0)
    return splice(representation_decomposition(found, [one]), texts, mean=mean)


def probing(
    model: Source | str, pictures: str, labels: Sequence[str], pool: Pool, count: int, skip_bad: bool = False
) -> Result:
    """Linear probes of what is known of the pictures: the truth of scenes, or the names of sub-folders."""
    from cutaway.methods.linear_probing import linear_probing
    from cutaway.methods.scene_labels import LABELS, scene_labels

    if pictures == EMOJIWORLD:
        unknown = [name for name in labels if name not in LABELS]
        if unknown:
            raise InputError(
                f"scenes have no label '{unknown[0]}'", expected="what is known of a drawn scene",
                exists=", ".join(LABELS), do="choose one of these for --label",
            )  # fmt: skip
        scenes = list(data.scenes("test", count, world=data.World(things=(1, 1))))
        known = scene_labels(scenes)
        return linear_probing(load(model), scenes, {name: known[name] for name in labels or ("place",)}, pool=pool)
    path = Path(pictures)
    folders = sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
    if len(folders) < 2:
        raise InputError(
            f"'{pictures}' holds {len(folders)} sub-folders", expected="two at least: one of pictures for each class",
            exists=", ".join(one.name for one in folders) or ("a file" if path.is_file() else "none"),
            do=f"sort the pictures into folders, or --pictures {EMOJIWORLD} for drawn scenes whose truth is known",
        )  # fmt: skip
    if labels:
        raise InputError(
            f"--label {labels[0]} is of drawn scenes, not of the pictures in '{pictures}'",
            expected="the sub-folders as the only label", exists=", ".join(one.name for one in folders[:5]),
            do=f"leave --label out, or --pictures {EMOJIWORLD}",
        )  # fmt: skip
    per = [Folder(one, max(3, count // len(folders)), skip=skip_bad) for one in folders]
    rows = [picture for one in per for picture in one]
    classes = np.repeat([one.name for one in folders], [len(one) for one in per])
    return linear_probing(load(model), rows, {"folder": classes}, pool=pool)


def patching(
    model: Model | Source | str, image: Path, counterfactual: Path, texts: Sequence[str], over: str, sites: str
) -> Result:
    """Activation patching between two pictures, for the first text rather than the second."""
    from cutaway.methods.activation_patching import OVER, activation_patching

    words, pictures = list(read_texts(texts)), [read_picture(one) for one in (image, counterfactual)]
    if over not in OVER:
        raise InputError(
            f"cannot patch over '{over}'", expected="an axis of the sites", exists=", ".join(OVER),
            do="--over token or --over head",
        )  # fmt: skip
    found = opened(model)
    pair = [found.inputs(image=one, text=words) for one in pictures]
    site = sites or {"token": "vision.*.resid_post", "head": "vision.*.attn.z"}[over]
    target = margin(0, 1 if len(words) > 1 else None)
    return activation_patching(found, *pair, sites=site, over=(over,), target=target)


def _pictures(images: Sequence[Path]) -> list[Any]:
    if not images:
        raise InputError(
            "there is no picture", expected="--image FILE, once or more often",
            do="name a picture file, for instance --image photo.png",
        )  # fmt: skip
    return [read_picture(image) for image in images]


def _cell(value: Any) -> str:
    """Four digits of a number; nothing for what does not exist, such as the heads of an embedding."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4f}"
    return str(value)
