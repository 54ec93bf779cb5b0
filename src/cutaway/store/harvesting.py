"""Harvest: activations of any sites over any data to disk, shard by shard, taken up again where it was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cutaway.errors import StoreError, near
from cutaway.model.engine import Record
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.tokens import KINDS
from cutaway.model.tokens import Where as MeantWhere
from cutaway.store.collect import Collected, How, collect
from cutaway.store.examples import Data, Ready, as_data
from cutaway.store.files import only_writer, sweep_up
from cutaway.store.fitted import Origin
from cutaway.store.places import Filter
from cutaway.store.shard_work import WriteShard, remember
from cutaway.store.shards import Shard
from cutaway.store.spec import DTYPES, SPEC, Entry, Spec
from cutaway.store.stored import Store

BATCH = 32
SHARD = 2**26  # bytes of a shard, unless `items=` says otherwise
Where = Filter | Sequence[Filter] | None
COORDINATES = ("image", "tile", "row", "col", "time", "text")
Spread = Callable[[WriteShard, Sequence[int]], Iterable[tuple[int, Entry]]]


@dataclass(frozen=True)
class Estimate:
    """What a harvest will write, from its first batch: bytes by site, rows by table, of so many items."""

    items: int
    by_site: Mapping[str, int]
    rows: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of all activations; the index comes to some bytes a row beside."""
        return sum(self.by_site.values())

    def __repr__(self) -> str:
        rows = ", ".join(f"{count} in '{table}'" for table, count in self.rows.items())
        return f"Estimate({self.total / 2**20:.1f} MiB: {self.items} items, {len(self.by_site)} sites; rows: {rows})"


def estimate(
    model: Model, data: Any, sites: Record, *, where: Where = None, steps: Sequence[int] = (),
    guidance: str | Sequence[str] = (), dtype: torch.dtype | str | None = None, batch: int = BATCH,
    asked: Mapping[str, Any] | None = None,
) -> Estimate:  # fmt: skip
    """What `harvest` of the same would write; runs the first batch and writes nothing. Units: bytes.

    Where items have other numbers of positions it is as right as the first batch is typical.

    >>> import cutaway
    >>> estimate(cutaway.load("tiny:clip"), ["a red dog", "a cat"] * 50, "text.*.resid_post", dtype="float16")
    Estimate(0.1 MiB: 100 items, 3 sites; rows: 450 in 'text')
    """
    return _begun(model, as_data(data, **(asked or {})), sites, _how(where, steps, guidance, dtype), batch)[1]


def harvest(
    model: Model, data: Any, sites: Record, out: str | Path, *, where: Where = None, steps: Sequence[int] = (),
    guidance: str | Sequence[str] = (), dtype: torch.dtype | str | None = None, items: int | None = None,
    batch: int | None = None, asked: Mapping[str, Any] | None = None, spread: Spread | None = None,
    progress: bool = True,
) -> Store:  # fmt: skip
    """Write the activations of sites over data into a folder, and open it.

    `data`: pictures, scenes, texts (prompts of a model that draws), examples with names, ready `Inputs`, a torch data
    set, or `Scenes`, `Pictures`, `Lines`, `Dataset` of `cutaway.store`; `asked` goes to `model.inputs` with all of
    them. `where`: kinds (`"image"`), positions (-1: the last of each row) or `Where`s, of which a row meets one;
    `steps` and `guidance` of a drawing; none: all. `dtype`: what is kept, else what the model computes in. `batch`
    items (32) run together, `items` go to a shard (64 MiB of them unless given). A harvest that was stopped in any way
    is taken up by the same call; a folder that holds another one is refused.

    Only what the sites need is run, and shards are written while the next one runs. Memory: about two shards. `spread`
    makes shards elsewhere: given the work and the numbers that are missing, it gives each as it is committed.
    Raises StoreError for another model, other data or options, a second writer, a disk without room.

    What it can NOT tell: a store holds what this model computed on these data, in these batches; another batch size or
    device may differ in the last digits.

    >>> import cutaway, tempfile
    >>> model = cutaway.load("tiny:clip")
    >>> harvest(model, ["a red dog", "a cat"], "text.[01].resid_post", tempfile.mkdtemp(), progress=False)
    Store(2 items of 'tiny:clip'; text: 9 rows of text.0.resid_post, text.1.resid_post; 0.0 MiB)
    """
    found, how, folder = as_data(data, **(asked or {})), _how(where, steps, guidance, dtype), Path(out)
    _check_model(model)
    _check_folder(folder)
    if (folder / SPEC).is_file():
        spec, head = Spec.read(folder), None
        spec = _spec(model, found, spec.kept, sites, how, batch or spec.batch, items or spec.shard)
    else:
        batch = min(batch or BATCH, items or BATCH)
        head, guess = _begun(model, found, sites, how, batch)
        spec = _spec(model, found, head.kept, sites, how, batch, _shard_size(guess, batch) if items is None else items)
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, guess)
    with only_writer(folder):
        if (folder / SPEC).is_file():
            Spec.read(folder).check_same(spec, folder)
        else:
            spec.write(folder)
        sweep_up(folder)
        work = WriteShard(str(folder), spec, found, how)
        remember(model, spec.on.content)
        _write(model, work, missing(folder, spec), head, spread, progress)
    store = Store(folder)
    empty = next((table for table in store.tables if store.complete and not store.count(table)), None)
    if empty is not None:
        raise StoreError(
            f"no position of '{empty}' is {' or '.join(map(str, how.keep))} in any item", do="check `where=`",
            expected="some rows of every site", exists=f"a store in '{folder}' that holds none of them",
        )  # fmt: skip
    return store


def missing(folder: Path, spec: Spec) -> list[int]:
    """The shards that are not committed, or whose file is not there in its length or not of this store."""
    return [number for number in range(spec.shards) if not _committed(folder, spec, number)]


def _committed(folder: Path, spec: Spec, number: int) -> bool:
    try:
        entry = Entry.read(folder, number)
        if entry is None or not entry.whole(folder):
            return False
        Shard(folder / Entry.names(number)[0]).check(number, spec.digest, entry.rows)
    except StoreError:  # damaged, or of another harvest: to be made anew
        return False
    return True


def _write(
    model: Model, work: WriteShard, todo: list[int], head: Collected | None, spread: Spread | None, progress: bool
) -> None:
    """Make shards one after the other, each written while the next one is made; or have them made."""
    folder, waiting = Path(work.folder), None
    with _told(work.spec, todo, progress) as done, ThreadPoolExecutor(1, "store") as writer:
        for _, entry in () if spread is None else spread(work, todo):
            done(entry)
        for number in todo if spread is None else ():
            made = work.made(model, number, head if number == 0 else None)
            head = None if number == 0 else head
            if waiting is not None:
                done(waiting.result())
            waiting = writer.submit(made.write, folder)
            del made
        if waiting is not None:
            done(waiting.result())


@contextmanager
def _told(spec: Spec, todo: list[int], progress: bool) -> Iterator[Any]:
    """A bar that counts items and bytes on the error stream of a terminal, and vanishes when done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(emoji=False, stderr=True)
    columns = (TextColumn("harvesting"), BarColumn(), MofNCompleteColumn(), TextColumn("items"), TimeRemainingColumn(),
               TextColumn("{task.fields[size]:.0f} MB"))  # fmt: skip
    shown = progress and console.is_terminal
    before = spec.items - sum(len(spec.span(number)) for number in todo)
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task, size = bar.add_task("", total=spec.items, completed=before, size=0.0), 0.0

        def done(entry: Entry) -> None:
            nonlocal size
            size += entry.size / 1e6
            bar.update(task, advance=len(spec.span(entry.shard)), size=size)

        yield done


# --- what is asked for ------------------------------------------------------------------------------------------------


def _how(where: Where, steps: Sequence[int], guidance: str | Sequence[str], dtype: torch.dtype | str | None) -> How:
    several = isinstance(where, list | tuple)
    keep: tuple[Any, ...] = () if where is None else tuple(where) if several else (where,)  # type: ignore[arg-type]
    kinds = [one.kind if isinstance(one, MeantWhere) else one for one in keep]
    odd = next((one for one in kinds if isinstance(one, str) and one not in KINDS[1:]), None)
    named = {name for one in keep if isinstance(one, MeantWhere) for name, _ in one.coordinates}
    if named - set(COORDINATES):
        raise StoreError(
            f"positions have no '{min(named - set(COORDINATES))}'", expected="a coordinate of the token map",
            exists=", ".join(COORDINATES), do="name one of these",
        )  # fmt: skip
    if odd is not None:
        raise StoreError(
            f"no position is of kind '{odd}'", expected="a kind, a number or a `Where`", exists=near(odd, KINDS[1:]),
            do="`cutaway tokens` prints what each position is",
        )  # fmt: skip
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name is not None and name not in DTYPES:
        raise StoreError(f"cannot keep numbers in {name}", expected=", ".join(DTYPES), do="give one of these")
    rows = (guidance,) if isinstance(guidance, str) else tuple(guidance)
    return How(keep, tuple(sorted(set(steps))), rows, None if name is None else DTYPES[name])


def _sites(model: Model, sites: Record) -> list[Site]:
    chosen = model.sites.select(sites)
    raw = next((site for site in chosen if site.tower == "raw"), None)
    if raw is not None:
        raise StoreError(
            f"nothing says what the rows of '{raw}' are", expected="a named site, whose axes are known",
            exists=", ".join(model.towers), do="record it with `model.run` and keep it yourself",
        )  # fmt: skip
    return chosen


def _batch(data: Data, batch: int) -> int:
    if batch < 1:
        raise StoreError(f"batches of {batch} items", expected="one at least", do="leave `batch=` out: 32")
    return data.batch if isinstance(data, Ready) else batch


def _begun(model: Model, data: Data, sites: Record, how: How, batch: int) -> tuple[Collected, Estimate]:
    """The first batch, run, and what the whole will take."""
    chosen, batch = _sites(model, sites), _batch(data, batch)
    towers = tuple(dict.fromkeys(site.tower for site in chosen))
    count = min(batch, len(data))
    made = collect(model, data.inputs(model, towers, 0, count), chosen, how)
    for site in map(str, chosen):
        kept = made.kept.get(site)
        if kept is None or kept.dtype not in DTYPES:
            raise StoreError(
                f"nothing of '{site}' is kept" if kept is None else f"'{site}' is in {kept.dtype}",
                expected="steps and guidance rows that run" if kept is None else ", ".join(DTYPES),
                do="check `steps=` and `guidance=`" if kept is None else "give `dtype=`",
            )  # fmt: skip
        if not len(made.rows[site]) and how.keep and all(isinstance(one, str | int) for one in how.keep):
            raise StoreError(
                f"no position of '{site}' is {' or '.join(map(str, how.keep))}", do="leave this site out",
                expected="a kind or a position that its tower has",
                exists="`cutaway tokens` prints what each position is",
            )  # fmt: skip
    share = len(data) / count
    sizes = {site: int(made.rows[site].nbytes * share) for site in map(str, chosen)}
    return made, Estimate(len(data), sizes, {t: int(len(c["item"]) * share) for t, c in made.columns.items()})


def _shard_size(guess: Estimate, batch: int) -> int:
    """Items to a shard: whole batches, about `SHARD` bytes of them."""
    each = max(1, guess.total // guess.items)
    return max(1, SHARD // each // batch) * batch


def _spec(
    model: Model, data: Data, kept: Mapping[str, Any], sites: Record, how: How, batch: int, items: int
) -> Spec:  # fmt: skip
    batch, names = _batch(data, batch), tuple(str(site) for site in _sites(model, sites))
    if items < 1 or items % batch:
        raise StoreError(
            f"{items} items to a shard in batches of {batch}", expected=f"a multiple of {batch}: batches stay whole",
            do=f"give `items={max(1, items // batch) * batch}`",
        )  # fmt: skip
    here = {site: kept[site] for site in names} if set(names) <= set(kept) else dict.fromkeys(names)
    return Spec(
        Origin.of(model, *names), here, data.told(), data.content(), len(data), batch, items,  # type: ignore[arg-type]
        tuple(map(repr, how.keep)), how.steps, how.guidance, "" if how.dtype is None else str(how.dtype)[6:],
    )  # fmt: skip


# --- where it goes ----------------------------------------------------------------------------------------------------


def _check_model(model: Model) -> None:
    """Refuse what a store would not know of: edits held around, and another precision of the block."""
    if model.engine.held is not None:
        raise StoreError(
            "edits are held around this harvest", expected="the model as it is", do="leave the `edited` block first"
        )
    if torch.is_autocast_enabled(model.device.type):
        raise StoreError(
            "this block runs under autocast, which a store would not know of", expected="the model as it is",
            do="leave the block, and load the model in the dtype that is meant",
        )  # fmt: skip


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"'{folder}' is a file", expected="a folder, new or of this harvest", do="give another")
    inside: Iterable[str] = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else ()
    strange = [name for name in inside if not name.startswith((SPEC, "shard-", "writer.lock"))]
    if strange and SPEC not in inside:
        raise StoreError(
            f"'{folder}' holds other things", expected="an empty folder, a new one, or the store of this harvest",
            exists=", ".join(strange[:5]), do="give another folder",
        )  # fmt: skip


def _check_room(folder: Path, guess: Estimate) -> None:
    """Refuse a disk that the whole store will not fit on, before anything is run."""
    free = shutil.disk_usage(folder).free
    if guess.total > free:
        raise StoreError(
            f"this store takes {guess.total / 2**30:.3g} GiB and '{folder}' has {free / 2**30:.3g} GiB left",
            expected="room for all of it", do="keep fewer sites, fewer positions (`where=`) or `dtype='float16'`",
        )  # fmt: skip
