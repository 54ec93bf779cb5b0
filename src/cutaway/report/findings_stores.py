"""Stores of the scenes that sections of a page read: harvested where they are missing, read where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cutaway.errors import StoreError
from cutaway.model.model import Model
from cutaway.report.findings_heads import READ
from cutaway.report.findings_layers import BATCH, MEANS, PROBES, REFERENCE
from cutaway.report.findings_scenes import lone
from cutaway.store.harvesting import harvest
from cutaway.store.sources import Scenes
from cutaway.store.spec import SPEC
from cutaway.store.stored import Store

FLOOR = "_floor"  # behind the name of a section that is measured on the model before training


@dataclass(frozen=True)
class Reads:
    """What a section reads of its scenes: which part of them, at most so many, the sites; of which kind of position."""

    part: int
    sites: tuple[str, ...]
    where: str | None = "cls"
    most: int | None = None
    batch: int = 32

    def scenes(self, n: int, seed: int) -> Scenes:
        """The scenes that the section draws without a store."""
        return lone(n if self.most is None else min(n, self.most), seed, self.part)


OF_MATCH: Mapping[str, Reads] = {
    "heads": Reads(0, READ),
    "direct": Reads(1, READ),
    "layers": Reads(2, PROBES, batch=BATCH),
    "ablation": Reads(3, MEANS, where=None, most=REFERENCE),
}


@dataclass(frozen=True)
class Stores:
    """A folder with a store for each section and set of scenes, such as `heads-0` and `heads_floor-0`."""

    folder: Path
    reads: Mapping[str, Reads]
    n: int

    def check(self, sections: Iterable[tuple[str, Model]], seeds: Iterable[int]) -> None:
        """Raise StoreError where a store that lies there is of another model or other scenes, or lacks a site."""
        own = list(seeds)
        for name, of in sections:
            for seed in own if self._reads(name) is not None else ():
                self._found(name, of, seed)

    def rows(self, name: str, of: Model, seed: int) -> Store | None:
        """The store of a section and set, harvested now where it is missing or not complete; None: it reads none."""
        reads = self._reads(name)
        if reads is None:
            return None
        found = self._found(name, of, seed)
        if found is not None and found.complete:
            return found
        return harvest(
            of, reads.scenes(self.n, seed), reads.sites, self._path(name, seed), where=reads.where, batch=reads.batch,
            progress=False,
        )  # fmt: skip

    def _reads(self, name: str) -> Reads | None:
        return self.reads.get(name.removesuffix(FLOOR))

    def _path(self, name: str, seed: int) -> Path:
        return self.folder / f"{name}-{seed}"

    def _found(self, name: str, of: Model, seed: int) -> Store | None:
        """What lies there of a section, if it is what the section reads."""
        reads, path = self._reads(name), self._path(name, seed)
        if reads is None or not (path / SPEC).is_file():
            return None
        found, scenes = Store(path, of), reads.scenes(self.n, seed)
        if found.spec.content != scenes.content():
            raise StoreError(
                f"'{path}' holds other scenes than section '{name}' reads", expected=scenes.told(),
                exists=found.spec.told, do="give the page's --n and --seed as they were, or another folder",
            )  # fmt: skip
        lacks = [str(site) for site in of.sites.select(reads.sites) if str(site) not in found.sites]
        if lacks:
            raise StoreError(
                f"'{path}' lacks {', '.join(lacks[:3])}, which section '{name}' reads", expected=", ".join(reads.sites),
                exists=", ".join(found.sites[:5]), do="take the folder away: it is made anew, with these",
            )  # fmt: skip
        if found.spec.keep and repr(reads.where) not in found.spec.keep:
            raise StoreError(
                f"'{path}' keeps other positions than section '{name}' reads", expected=reads.where or "all positions",
                exists=", ".join(found.spec.keep), do="take the folder away: it is made anew",
            )  # fmt: skip
        return found
