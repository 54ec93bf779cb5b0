"""A store on disk, opened: rows of any site in order, shuffled or by item, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from cutaway.errors import StoreError, near
from cutaway.model.model import Model
from cutaway.model.sites import Site, SiteTable
from cutaway.model.tokens import KINDS
from cutaway.store.files import checksum
from cutaway.store.fitted import Origin
from cutaway.store.shards import Shard
from cutaway.store.spec import Entry, Spec

if TYPE_CHECKING:
    import pandas
    import xarray

Sites = str | Site | Sequence[str | Site]
WORDS, CODED = ("text", "guidance"), ("kind", "key_kind")


@dataclass(frozen=True, eq=False)
class Index:
    """What rows are: a column for each fact, as numbers; `words` are the texts that `text` and `guidance` number."""

    columns: Mapping[str, ndarray]
    words: Sequence[str]

    def __len__(self) -> int:
        return len(self.columns["item"])

    def __getitem__(self, name: str) -> ndarray:
        """A column as a user reads it: kinds and texts in words."""
        if name not in self.columns:
            raise StoreError(
                f"rows have no '{name}'", expected="a column", exists=", ".join(self.columns), do="name one"
            )
        column = self.columns[name]
        if name in CODED:
            return np.array(KINDS, object)[column]
        return np.array(self.words, object)[column] if name in WORDS else column

    def at(self, chosen: Any) -> Index:
        """The same for some rows: a slice, a mask or numbers."""
        return Index({name: column[chosen] for name, column in self.columns.items()}, self.words)

    def frame(self) -> pandas.DataFrame:
        """One row a row."""
        import pandas

        return pandas.DataFrame({name: self[name] for name in self.columns})

    def where(self, **named: Any) -> Bool[ndarray, "row"]:
        """Which rows have these values: `kind="image"`, `step=[0, 3]`, `item=range(10)`."""
        met = np.ones(len(self), bool)
        for name, wanted in named.items():
            values = [wanted] if isinstance(wanted, str | int | float) else list(wanted)
            odd = next((str(one) for one in values if name in CODED and one not in KINDS), None)
            if odd is not None:
                raise StoreError(
                    f"no kind is called '{odd}'", expected="a kind", exists=near(odd, KINDS[1:]), do="name one"
                )
            met &= (
                np.isin(self[name].astype(str), list(map(str, values)))
                if name in (*WORDS, *CODED)
                else np.isin(self[name], values)
            )
        return met

    @staticmethod
    def joined(parts: Sequence[Index]) -> Index:
        """Several behind one another, their texts numbered anew."""
        numbers: dict[str, int] = {}
        found = []
        for one in parts:
            lookup = np.array([numbers.setdefault(word, len(numbers)) for word in one.words], np.int32)
            found.append({name: lookup[x] if name in WORDS else x for name, x in one.columns.items()})
        return Index({name: np.concatenate([one[name] for one in found]) for name in found[0]}, list(numbers))


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of some sites of a table, and what each is."""

    values: Mapping[str, Float[Tensor, "row *shape"]]
    index: Index

    def __getitem__(self, site: str | Site) -> Float[Tensor, "row *shape"]:
        """The rows of a site."""
        if str(site) not in self.values:
            raise StoreError(f"'{site}' was not asked for", exists=near(str(site), self.values), do="name it")
        return self.values[str(site)]

    @property
    def x(self) -> Float[Tensor, "row *shape"]:
        """The rows, where one site was asked for."""
        (only,) = self.values.values()
        return only

    @property
    def item(self) -> Int[Tensor, "row"]:
        """The item that each row belongs to."""
        return torch.from_numpy(np.asarray(self.index["item"], np.int64))

    def __len__(self) -> int:
        return len(self.index)


class Store:
    """Activations on disk: `rows` in order, `shuffled`, by `item`; `index` says what each row of a table is.

    Nothing is read before it is asked for, and nothing held afterwards. `len` is the number of items. Where a harvest
    was stopped, what it committed can be read; the same call of `harvest` goes on.

    >>> import cutaway, tempfile
    >>> from cutaway.store.harvesting import harvest
    >>> model, folder = cutaway.load("tiny:clip"), tempfile.mkdtemp()
    >>> store = harvest(model, ["a red dog", "a cat"], "text.*.resid_post", folder, progress=False)
    >>> [tuple(batch.x.shape) for batch in store.rows("text.1.resid_post", batch=6)]
    [(6, 32), (3, 32)]
    >>> list(store.index("text").query("item == 1")["text"])
    ['<|startoftext|>', 'a', 'cat', '<|endoftext|>']
    """

    def __init__(self, path: str | Path, model: Model | None = None) -> None:
        self.path = Path(path)
        self.spec = Spec.read(self.path)
        if model is not None:
            self.check_model(model)

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in the order of the model."""
        return tuple(self.spec.kept)

    @property
    def tables(self) -> Mapping[str, tuple[str, ...]]:
        """The tables, each with the sites whose rows it tells of."""
        return self.spec.tables

    @property
    def model(self) -> Origin:
        """The model it was made with."""
        return self.spec.on

    @cached_property
    def entries(self) -> Mapping[int, Entry]:
        """What is committed, by shard; a file that is not there in its length is an error."""
        found = {k: entry for k in range(self.spec.shards) if (entry := Entry.read(self.path, k)) is not None}
        cut = next((k for k, entry in found.items() if not entry.whole(self.path)), None)
        if cut is not None:
            name = Entry.names(cut)[0]
            there = (self.path / name).is_file()
            raise StoreError(
                f"the shard '{name}' was cut short" if there else f"the shard '{name}' is gone",
                expected=f"{found[cut].size} bytes", do="run the same harvest again: it makes this shard anew",
                exists=f"{(self.path / name).stat().st_size} bytes" if there else "the other shards",
            )  # fmt: skip
        return found

    @property
    def complete(self) -> bool:
        """Whether all shards are committed."""
        return len(self.entries) == self.spec.shards

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(entry.size for entry in self.entries.values())

    def __len__(self) -> int:
        return sum(len(self.spec.span(shard)) for shard in self.entries)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        self._table(table)
        return sum(entry.rows.get(table, 0) for entry in self.entries.values())

    def shape(self, site: str | Site) -> tuple[int, ...]:
        """The shape of a row of a site."""
        return self.spec.kept[self._site(site)].shape

    def table(self, sites: Sites) -> str:
        """The one table that these sites are in; several are an error."""
        names = {self.spec.kept[site].table for site in self.select(sites)}
        if len(names) > 1:
            raise StoreError(
                f"the rows of {', '.join(self.select(sites)[:5])} are not the same things",
                expected="sites of one table", exists=", ".join(sorted(names)), do="go over each table by itself",
            )  # fmt: skip
        return names.pop()

    def select(self, sites: Sites) -> tuple[str, ...]:
        """The sites of names or patterns, in the order of the model."""
        return tuple(map(str, self._known.select(sites)))

    @cached_property
    def _known(self) -> SiteTable:
        return SiteTable([Site.parse(name) for name in self.spec.kept])

    def __repr__(self) -> str:
        done = "" if self.complete else f" of {self.spec.items}, not complete"
        parts = [
            f"{table}: {self.count(table)} rows of {', '.join(sites[:3])}"
            + (f" and {len(sites) - 3} more" if sites[3:] else "") for table, sites in self.tables.items()
        ]  # fmt: skip
        return (
            f"Store({len(self)} items{done} of '{self.model.model}'; {'; '.join(parts)}; {self.size / 2**20:.1f} MiB)"
        )

    def check_model(self, model: Model) -> None:
        """Raise StoreError unless this very model made it: the same weights, dtype, configuration and tokenizer."""
        here = Origin.of(model, *self.model.sites)
        if here.content != self.model.content:
            raise StoreError(
                f"'{self.path}' holds activations of {self.model}, not of {here}",
                expected="the same weights, dtype, configuration and tokenizer", exists=", ".join(self.sites[:5]),
                do="open that model, or harvest this one into another folder",
            )  # fmt: skip

    def check(self, told: Callable[[int], None] | None = None) -> int:
        """Hold every shard against its checksum; how many there are. StoreError names those that changed."""
        bad = []
        for shard, entry in self.entries.items():
            path = self.path / Entry.names(shard)[0]
            try:
                Shard(path).check(shard, self.spec.digest, entry.rows)
                whole = checksum(path) == entry.checksum
            except StoreError:
                whole = False
            bad += [] if whole else [shard]
            if told is not None:
                told(shard)
        if bad:
            names = ", ".join(Entry.names(shard)[0] for shard in bad[:5])
            raise StoreError(
                f"{len(bad)} of {len(self.entries)} shards changed since they were written: {names}",
                expected="the bytes that their checksums speak of", exists="the other shards are whole",
                do="delete these files and run the same harvest again: it makes them anew",
            )  # fmt: skip
        return len(self.entries)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def index(self, table: str = "", *, shards: Collection[int] | None = None) -> pandas.DataFrame:
        """What each row of a table is, in order, as a pandas data frame; `.to_xarray()` makes an xarray of it.

        All of it is in memory then: of a large store `shards` names some. `indexed` gives the same by shard.
        """
        chosen = self.entries if shards is None else shards
        parts = [self.indexed(self._table(table), shard) for shard in chosen]
        if not parts:
            raise StoreError(f"'{self.path}' has no shard yet", expected="one at least", do="run its harvest again")
        return Index.joined(parts).frame()

    def indexed(self, table: str, shard: int) -> Index:
        """What each row of a table is in one shard."""
        file = self.shard(shard)
        told = file.told
        constants, rows = told["constants"][table], told["rows"][table]
        prefix = f"index.{table}."
        columns = {name: file.read(prefix + name).numpy() for name in file.named(prefix)}
        columns |= {
            name: np.full(rows, value, np.float32 if name == "time" else np.int32) for name, value in constants.items()
        }
        order = [name for name in COLUMNS if name in columns]
        return Index({name: columns[name] for name in order}, told["words"])

    def shard(self, number: int) -> Shard:
        """The file of a committed shard."""
        if number not in self.entries:
            raise StoreError(
                f"shard {number} is not there", expected="a committed one", exists=f"{len(self.entries)} shards",
                do="run the same harvest again",
            )  # fmt: skip
        return Shard(self.path / Entry.names(number)[0])

    def rows(self, sites: Sites, *, batch: int = 1024, **where: Any) -> Iterator[Batch]:
        """The rows of sites of one table in the order of the items, `batch` at a time; `where`: as `Index.where`.

        `store.rows("vision.3.resid_post", kind="cls")`: a `Batch`, whose `x` is (row, d_model) and `item` (row).
        """
        from cutaway.store.mixing import in_order

        return in_order(self, self.select(sites), self.table(sites), batch, where)

    def shuffled(
        self, sites: Sites, *, batch: int = 1024, buffer: int = 2**16, seed: int = 0, **where: Any
    ) -> Iterator[Batch]:
        """The same rows, each once, in an order by chance, in memory that holds `buffer` rows: see `mixing.mixed`."""
        from cutaway.store.mixing import mixed

        return mixed(self, self.select(sites), self.table(sites), batch, buffer, seed, where)

    def means(self, sites: Sites = "*", **where: Any) -> dict[str, Float[Tensor, "1 position *shape"]]:
        """The mean over items at every position, as `Ablate(site, "mean", store.means(site))` takes it: see `means`."""
        from cutaway.store.measures import means

        return means(self, self.select(sites), **where)

    def item(self, number: int) -> dict[str, xarray.DataArray]:
        """All rows of one item, by site, with what each row is as coordinates."""
        import xarray

        if not -self.spec.items <= number < self.spec.items:
            raise StoreError(
                f"no item {number}", expected=f"a number from 0 to {self.spec.items - 1}, or negative", do="name one"
            )
        number %= self.spec.items
        shard = number // self.spec.shard
        file, found = self.shard(shard), {}
        for table, sites in self.tables.items():
            index = self.indexed(table, shard)
            start, stop = np.searchsorted(index.columns["item"], (number, number + 1)).tolist()
            some = index.at(slice(start, stop))
            labels = {name: ("at", some[name]) for name in some.columns}
            for site in sites:
                axes = ("at", *(axis for axis in self.spec.kept[site].axes if axis not in FRONT))
                value = file.read(site, start, stop)
                array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
                found[site] = xarray.DataArray(array, dims=axes, coords=labels, name=site)
        return {site: found[site] for site in self.sites}

    def _site(self, site: str | Site) -> str:
        return str(self._known.one(site))

    def _table(self, table: str) -> str:
        names = list(self.tables)
        if not table and len(names) == 1:
            return names[0]
        if table not in names:
            raise StoreError(
                f"no table '{table}'" if table else "this store has several tables", expected="the name of one",
                exists=", ".join(names), do="name it",
            )  # fmt: skip
        return table


FRONT = ("step", "guidance", "batch", "token", "query", "key", "height", "width")
COLUMNS = (
    "item", "step", "guidance", "copy", "image", "tile", "position", "kind", "row", "col", "time", "text", "key",
    "key_kind",
)  # fmt: skip


def open(path: str | Path, model: Model | None = None) -> Store:
    """A store that `harvest` wrote; with a `model`, an error unless that made it."""
    return Store(path, model)
