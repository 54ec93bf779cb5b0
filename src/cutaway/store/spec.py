"""What a store was asked to hold, as its first file says it: model, sites, data, filters, how it is cut into shards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from cutaway import __version__
from cutaway.errors import StoreError
from cutaway.model.fingerprint import fingerprint
from cutaway.model.tokens import KINDS
from cutaway.store.files import read_json, write_json
from cutaway.store.fitted import Origin

FORMAT, SPEC = 1, "store.json"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.bfloat16, torch.float16
)}  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What is kept of a site: its axes, the table its rows are in, the shape and dtype of a row."""

    axes: tuple[str, ...]
    table: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Spec:
    """All that the bytes of a store depend on. `content` is the data's; `items` of them, `shard` to a file.

    `batch` items run together; `keep`, `steps` and `guidance` say which positions, denoising steps and guidance rows
    are kept (none named: all).
    """

    on: Origin
    kept: Mapping[str, Kept]
    told: str
    content: str
    items: int
    batch: int
    shard: int
    keep: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    guidance: tuple[str, ...] = ()
    dtype: str = ""
    version: str = __version__

    @property
    def digest(self) -> str:
        """What shards know their store by: all of this but the version that writes them."""
        return fingerprint({name: value for name, value in asdict(self).items() if name != "version"})[:16]

    @property
    def shards(self) -> int:
        """How many files."""
        return -(-self.items // self.shard)

    @property
    def tables(self) -> dict[str, tuple[str, ...]]:
        """The tables, each with its sites."""
        names = dict.fromkeys(one.table for one in self.kept.values())
        return {table: tuple(site for site, one in self.kept.items() if one.table == table) for table in names}

    def span(self, shard: int) -> range:
        """The items of a shard."""
        return range(shard * self.shard, min(self.items, (shard + 1) * self.shard))

    def write(self, folder: Path) -> None:
        """Write the first file of a store."""
        told = asdict(self) | {"kept": {site: asdict(one) for site, one in self.kept.items()}}
        write_json(folder / SPEC, {"format": FORMAT, "kinds": list(KINDS), **told})

    @classmethod
    def read(cls, folder: Path) -> Spec:
        """What the first file of a store says; StoreError where there is none."""
        if not (folder / SPEC).is_file():
            raise StoreError(
                f"no store lies at '{folder}'", expected=f"a folder with {SPEC}, as `harvest` writes it",
                exists=", ".join(sorted(one.name for one in folder.iterdir())[:5]) if folder.is_dir() else "no folder",
                do="check the path",
            )  # fmt: skip
        told = read_json(folder / SPEC, "copy it again: without it nothing says what the shards hold")
        if told.get("format", 0) > FORMAT:
            raise StoreError(
                f"'{folder}' was written by cutaway {told.get('version')}", expected=f"format {FORMAT}",
                exists=f"format {told['format']}", do="open it with that version",
            )  # fmt: skip
        if tuple(told.get("kinds", ())) != KINDS[: len(told.get("kinds", ()))]:
            raise StoreError(
                f"'{folder}' numbers kinds of positions otherwise", expected=", ".join(KINDS[1:]),
                exists=", ".join(told["kinds"][1:]), do="open it with the version that wrote it",
            )  # fmt: skip
        try:
            told["on"] = Origin(**{**told["on"], "sites": tuple(told["on"]["sites"])})
            told["kept"] = {
                site: Kept(tuple(one["axes"]), one["table"], tuple(one["shape"]), one["dtype"])
                for site, one in told["kept"].items()
            }
            known = {one.name: told[one.name] for one in fields(cls)}
            listed: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in known.items()}
            return cls(**listed)
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"'{folder / SPEC}' lacks {error}", expected="the file that `harvest` wrote", do="copy it again"
            ) from error

    def check_same(self, other: Spec, folder: Path) -> None:
        """Raise StoreError, which says how they differ, unless another harvest asks for the same store."""
        differs = next((name for name in _SAID if _asked(self, name) != _asked(other, name)), None)
        if differs is None:
            return
        what, do = _SAID[differs]
        before, now = (str(_asked(one, differs)) for one in (self, other))
        if differs == "on":
            before, now = str(self.on), str(other.on)
        elif differs == "kept":
            before, now = (", ".join(sorted(_odd(*pair))) or "fewer" for pair in ((self, other), (other, self)))
        elif differs == "content":
            before, now = (f"{one.told} ({one.content[:8]})" for one in (self, other))
        raise StoreError(
            f"'{folder}' holds {what}: {before}, not {now}", expected="the same model, data and options as before",
            exists=f"a store of {self.items} items", do=do,
        )  # fmt: skip


_SAID = {
    "on": ("activations of another model", "open that model (its revision, its dtype), or give another folder"),
    "items": ("another number of items", "give that many, or another folder"),
    "content": ("activations on other data, or the data changed meanwhile", "give back that data, or another folder"),
    "kept": ("other sites, or rows of another shape", "name the same sites, or give another folder"),
    "keep": ("other positions (`where=`)", "name the same, or give another folder"),
    "steps": ("other denoising steps", "name the same, or give another folder"),
    "guidance": ("other guidance rows", "name the same, or give another folder"),
    "dtype": ("numbers kept in another dtype", "name the same, or give another folder"),
    "batch": ("items that ran in batches of another size", "leave `batch=` as it was, or give another folder"),
    "shard": ("another number of items to a shard", "leave `items=` as it was, or give another folder"),
}


def _odd(one: Spec, other: Spec) -> list[str]:
    """The sites of one that the other has not, or keeps in another way; five of them at most."""
    odd = [
        site for site, kept in one.kept.items() if other.kept.get(site) not in (kept, None) or site not in other.kept
    ]
    return odd[:5]


def _asked(spec: Spec, name: str) -> Any:
    """What two harvests of the same store have in common; a model is known by its content alone."""
    value = getattr(spec, name)
    return value.content if name == "on" else dict(value) if name == "kept" else value


@dataclass(frozen=True)
class Entry:
    """What a committed shard holds: rows by table, bytes, and the checksum of its file."""

    shard: int
    rows: Mapping[str, int]
    size: int
    checksum: str

    @staticmethod
    def names(shard: int) -> tuple[str, str]:
        """The file of a shard, and the file that says it is whole."""
        return f"shard-{shard:06d}.safetensors", f"shard-{shard:06d}.json"

    def write(self, folder: Path) -> None:
        """Commit the shard."""
        write_json(folder / self.names(self.shard)[1], asdict(self))

    @classmethod
    def read(cls, folder: Path, shard: int) -> Entry | None:
        """The entry of a shard; None where it is not committed."""
        path = folder / cls.names(shard)[1]
        if not path.is_file():
            return None
        told = read_json(path)
        try:
            if told["shard"] != shard:
                raise KeyError(f"shard {shard}")
            return cls(**{one.name: told[one.name] for one in fields(cls)})
        except KeyError as error:
            raise StoreError(
                f"'{path}' lacks {error}", expected="the file that `harvest` wrote", exists="the other shards",
                do="run the same harvest again: it makes this shard anew",
            ) from error  # fmt: skip

    def whole(self, folder: Path) -> bool:
        """Whether the file of the shard is there in its length; its content is not read."""
        path = folder / self.names(self.shard)[0]
        return path.is_file() and path.stat().st_size == self.size
