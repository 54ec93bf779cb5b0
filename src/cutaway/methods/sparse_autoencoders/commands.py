"""Dictionaries as a command line asks for them: trained, shown, taken from SAELens and given to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutaway.errors import MethodError, StoreError, near
from cutaway.methods.sparse_autoencoders import prisma, saelens
from cutaway.methods.sparse_autoencoders.autoencoder import Crosscoder, SparseAutoencoder, opened, told
from cutaway.methods.sparse_autoencoders.shape import modal
from cutaway.methods.sparse_autoencoders.training import Trained, train
from cutaway.model.dictionary import opened as by_name
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.model.tokens import KINDS
from cutaway.source import Source
from cutaway.store.collect import How
from cutaway.store.fitted import TENSORS, Fitted
from cutaway.store.harvesting import harvest
from cutaway.store.sources import read_data
from cutaway.store.spec import SPEC
from cutaway.store.stored import Store


def trained(
    name: Source, sites: Sequence[str], data: str, out: Path, *, target: str | None = None, n: int | None = None,
    data_seed: int = 0, text: str | None = None, where: str | None = None, store: Path | None = None,
    architecture: str = "batch_topk", width: int | None = None, by_modality: bool = False, work: Path | None = None,
    overwrite: bool = False, options: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Train a dictionary, keep it in `out` and say what came of it. Without a width it has eight features a number."""
    if not data and store is None:
        raise MethodError("there are no rows to learn from", expected="--data or --store", do="name one")
    if where is not None and where not in KINDS[1:]:
        raise MethodError(
            f"no position is a '{where}'", expected="a kind of positions", exists=near(where, KINDS[1:]), do="name one"
        )
    if out.exists() and not overwrite:
        raise StoreError(f"'{out}' exists already", expected="a path where nothing is", do="add --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    model = load(name)
    read = [str(model.sites.one(site)) for site in sites]
    goal = None if target is None else str(model.sites.one(target))
    every = [*read, *([goal] if goal else [])]
    found = read_data(data, n=n, seed=data_seed, text=text) if data else None
    wide = width or 8 * _long(model, read)
    asked: dict[str, Any] = {"width": wide, "target": goal, "folder": work, **(options or {})}
    if by_modality:
        asked |= {"groups": modal(wide - 2 * (wide // 4), wide // 4, wide // 4), "scale": "kind"}
    of: str | list[str] = read if len(read) > 1 else read[0]
    if store is None:
        how = {"how": How(keep=(where,) if where else ())}
        return _kept(train(found, of, architecture, model=model, feed=how, **asked), out, overwrite)
    kept = Store(_store_at(store), model) if found is None else harvest(model, found, every, store)
    chosen = {"where": {"kind": where}} if where else {}
    return _kept(train(kept, of, architecture, feed=chosen, **asked), out, overwrite)


def _long(model: Model, sites: Sequence[str]) -> int:
    """How many numbers a row of these sites has."""
    sizes = [dict(model.sites.one(site).sizes) for site in sites]
    if not all(sizes):
        raise MethodError("how long these rows are is not known", expected="how many features", do="give --width")
    total = 0
    for one in sizes:
        long = 1
        for size in one.values():
            long *= size
        total += long
    return total


def _store_at(folder: Path) -> Path:
    if not (folder / SPEC).is_file():
        raise StoreError(
            f"no store lies at '{folder}'", expected="what `cutaway harvest` wrote, or --data to fill it",
            do="add --data",
        )  # fmt: skip
    return folder


def _kept(made: Trained, out: Path, overwrite: bool) -> str:
    made.dictionary.save(out, overwrite=overwrite)
    picked = made.log.iloc[:: max(1, len(made.log) // 8)]
    shown = picked if picked.index[-1] == made.log.index[-1] else made.log.iloc[[*picked.index, made.log.index[-1]]]
    return f"{shown.round(4).to_string(index=False)}\nwrote {out}: {made.dictionary!r}"


def shown(folder: Path) -> str:
    """What a folder holds: its shape, its sites, and how its training ended."""
    made = _dictionary(folder)
    last = dict(made.config.get("last", {}))
    lines = [repr(made), f"fitted on {made.on}", f"it is {told(made.shape)}"]
    if made.asks:
        lines.append(f"it must know the {' and the '.join(made.asks)} of each position")
    if last:
        ends = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "rate")
        lines.append(f"its training ended at {ends}")
    return "\n".join(lines)


def exported(folder: Path, out: Path, overwrite: bool = False) -> str:
    """Write a dictionary of ours as SAELens reads it."""
    made = _dictionary(folder)
    return f"wrote {saelens.write(made, out, overwrite=overwrite)}: open it with SAE.load_from_disk"


def imported(
    folder: Path, out: Path, *, site: str | None = None, target: str | None = None, tower: str | None = None,
    model: Source | None = None, overwrite: bool = False,
) -> str:  # fmt: skip
    """Take a folder of SAELens, or of ViT-Prisma, in; `model` is what it is said to be fitted on."""
    opens = saelens.read if (folder / saelens.CONFIG).is_file() else prisma.read
    more = {} if tower is None else {"tower": tower}
    on = None if model is None else load(model)
    made = opens(folder, site=site, target=target, model=on, **more)
    return f"wrote {made.save(out, overwrite=overwrite)}: {made!r}"


def _dictionary(folder: Path) -> SparseAutoencoder | Crosscoder:
    """A dictionary by its folder, whoever wrote it, or by its name in the zoo."""
    if (folder / TENSORS).is_file():
        return opened(Fitted.load(folder))
    found = by_name(str(folder))
    assert isinstance(found, SparseAutoencoder | Crosscoder)
    return found
