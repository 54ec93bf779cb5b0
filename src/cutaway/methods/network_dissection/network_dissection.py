"""Which units mark what a concept covers: network dissection with exact masks, beside shuffled pictures and chance."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.network_dissection.concept_masks import KINDS, Concepts, concepts_in, lettered
from cutaway.methods.network_dissection.unit_maps import TEXT, Maps, Posed, scenes_of, unit_maps, unit_site
from cutaway.methods.result import Provenance, Result
from cutaway.model.model import Model
from cutaway.store.quantiles import Quantiles
from cutaway.store.stored import Store

SOURCE = "Bau, Zhou, Khosla, Oliva, Torralba 2017, arXiv 1704.05796 (Network Dissection)"
SHARES = (0.005, 0.02, 0.1)
LABELLED = 0.04
BEYOND = 0.99  # quantile of the null that a unit has to exceed


@dataclass(frozen=True, eq=False, repr=False)
class Dissection(Result):
    """How well the strongest patches of each unit are those of each concept.

    `iou` (share, unit, concept), with the unit's strongest `share` of all patches; `threshold`, `marked` (share, unit):
    the activation above which these are, and their exact share. `null` (share, shuffle, unit, kind): the best IoU with
    a concept of a kind when masks are those of other pictures; `random` (share, direction, kind): the best of random
    directions. `size` (concept): the share of all pixels it covers; `ceiling` (concept): the best IoU that any set of
    patches could have.
    """

    main: ClassVar[str] = "iou"

    def best(self, share: float | None = None) -> pandas.DataFrame:
        """A row a unit: its concept, the IoU, whether that labels it, and the null's bound; best first."""
        iou = self._at("iou", share)
        order = iou.argmax("concept").values
        found = iou.values[np.arange(len(order)), order]
        bound = self.bound(share)
        table = pandas.DataFrame({
            "unit": iou["unit"].values, "concept": iou["concept"].values[order], "kind": iou["kind"].values[order],
            "iou": found, "labelled": found > LABELLED, "beyond": found > bound, "bound": bound,
        })  # fmt: skip
        return table.sort_values("iou", ascending=False, kind="stable").reset_index(drop=True)

    def bound(self, share: float | None = None, kind: str | None = None) -> float:
        """The 99th percentile of the best IoU of units whose pictures were shuffled, all units together."""
        return float(np.quantile(_of_kind(self._at("null", share), kind), BEYOND))

    def shares(self) -> pandas.DataFrame:
        """For each quantile, all concepts and each kind: how many units, shuffled units and directions are labelled.

        `labelled`: IoU above 0.04; `beyond`: above the null's 99th percentile, which 1 in 100 of the null is.
        """
        rows = []
        for share in self["share"].values:
            iou, null, random = (self._at(name, float(share)) for name in ("iou", "null", "random"))
            for kind in (None, *map(str, null["kind_of"].values)):
                real = iou if kind is None else iou.isel(concept=np.flatnonzero(iou["kind"].values == kind))
                best, shuffled, chance = real.max("concept").values, _of_kind(null, kind), _of_kind(random, kind)
                bound = float(np.quantile(shuffled, BEYOND))
                rows.append({
                    "share": float(share), "kind": kind or "any", "best": float(best.max()), "bound": bound,
                    "labelled": float((best > LABELLED).mean()), "labelled_null": float((shuffled > LABELLED).mean()),
                    "labelled_random": float((chance > LABELLED).mean()), "beyond": float((best > bound).mean()),
                    "beyond_random": float((chance > bound).mean()),
                })  # fmt: skip
        return pandas.DataFrame(rows)

    def summary(self) -> Any:
        """The twelve units with the best concept, at the first quantile."""
        return self.best().head(12)

    def _at(self, name: str, share: float | None) -> xarray.DataArray:
        found = self[name]
        return found.isel(share=0) if share is None else found.sel(share=share, method="nearest", tolerance=1e-9)

    def _draw(self, ax: Axes) -> None:
        best = np.sort(self._at("iou", None).max("concept").values)[::-1]
        null = np.sort(_of_kind(self._at("null", None), None).ravel())[::-1]
        ax.plot(np.linspace(0, 1, len(best)), best, label="units")
        ax.plot(np.linspace(0, 1, len(null)), null, color="grey", label="pictures shuffled")
        ax.axhline(LABELLED, color="grey", linestyle=":")
        ax.set(xlabel="share of units", ylabel="best IoU", title="units by their best concept")
        ax.legend()


def network_dissection(
    model: Model, scenes: Sequence[Any], *, site: str = "", shares: Sequence[float] = SHARES,
    kinds: Sequence[str] = KINDS, least: int = 8, written: int = 4, shuffles: int = 8, directions: int = 256,
    text: str = TEXT, step: int | None = None, held: Store | None = None, batch: int = 32, seed: int = 0,
    progress: bool = True,
) -> Dissection:  # fmt: skip
    """Hold the patches at which each unit is strongest against the exact masks of what scenes show.

    M_k = [a_k > T_k] with P(a_k > T_k) = share over all patches of all pictures; IoU_kc = |M_k and L_c| / |M_k or L_c|,
    summed over the whole set. A unit is labelled with its best concept where IoU > 0.04. Masks are brought to the patch
    grid: L_c counts the share of a patch that c covers, which is the IoU in pixels of maps enlarged patch by patch.
    `shares`: the first is that of the paper, and caps the IoU with a concept of size s at share / s.

    `site` holds units on its last axis: MLP neurons, a residual stream, features of a dictionary; by default MLP units
    in the middle of what draws, writes or looks. A word is written on each `written`-th scene; concepts of these
    `kinds` in `least` scenes count. A model that writes is asked `text`; a denoiser looks at `step` of 20 beside a true
    prompt. `held`: a `Store` of these very scenes in their order (with `written=0`), instead of runs.

    Null: masks of the picture 1 … `shuffles` places further in its batch, which leaves each unit its places and each
    concept its usual ones. Baseline: as many random `directions` in the space of the
    units, each first divided by its spread in the first batch. For the floor, dissect
    `question.floor`'s model.

    Units: IoU. Source: Bau et al. 2017, arXiv 1704.05796, section 2; they enlarge maps bilinearly and take masks of
    people. What it can NOT tell: what a unit does; that it answers to nothing else (it looks at the strongest patches
    alone); a concept that has no mask here.

    >>> import cutaway
    >>> from cutaway.data import scenes
    >>> model = cutaway.load("tiny:clip")
    >>> made = network_dissection(model, list(scenes("test", 24)), shuffles=2, directions=8, progress=False)
    >>> made["iou"].dims, made["iou"].sizes["unit"], len(made.shares()["kind"].unique()) > 3
    (('share', 'unit', 'concept'), 64, True)
    """
    started = time.perf_counter()
    plain = scenes_of(scenes)
    _check(shares, shuffles, directions, held, written)
    chosen, drawn = unit_site(model, site), lettered(plain, written, seed)
    concepts = concepts_in(drawn, least=least, kinds=kinds)
    if len(concepts) < 2:
        raise MethodError(
            f"{len(concepts)} concepts in {len(drawn)} scenes", expected="two at least", do="give more scenes"
        )
    batch = _fitting(len(drawn), max(batch, shuffles + 2))
    maps = _Directed(model, held or drawn, chosen, Posed(text, step, seed=seed), batch, directions, seed, progress)
    spread = Quantiles()
    for one in maps:
        spread.add(one.values.flatten(0, 2))
    tails = [spread.tail(share) for share in shares]
    counts = _Counts(torch.stack([tail.threshold for tail in tails]), shuffles)
    for one in maps:
        part = drawn[one.first : one.first + len(one.values)]
        counts.add(one.values, torch.from_numpy(concepts.shares(part, *one.values.shape[1:3])))
    data = _table(counts, concepts, shares, directions)
    data["marked"] = (("share", "unit"), torch.stack([tail.share for tail in tails])[:, : data.sizes["unit"]].cpu())
    told = Provenance.of(
        "network_dissection", SOURCE, started=started, model=model, sites=(str(chosen),), seed=seed, scenes=len(drawn),
        written=written, shuffles=shuffles, grid=list(counts.grid), step=step, text=text,
    )  # fmt: skip
    return Dissection(data, told)


def _check(shares: Sequence[float], shuffles: int, directions: int, held: Store | None, written: int) -> None:
    if not len(shares) or not all(0 < share < 1 for share in shares) or shuffles < 1 or directions < 1:
        raise MethodError(
            f"shares {', '.join(map(str, shares))}, {shuffles} shuffles, {directions} directions",
            expected="shares between 0 and 1, and one at least of the others", do="leave them out",
        )  # fmt: skip
    if held is not None and written:
        raise MethodError(
            "a store holds scenes as they were run, and here words are to be written on some",
            expected="`written=0`", do="harvest `lettered(scenes)` and give those",
        )  # fmt: skip


def _fitting(rows: int, batch: int) -> int:
    """A batch size that leaves no batch of one, in which there is no other picture."""
    while rows % batch == 1:
        batch += 1
    return batch


@dataclass(frozen=True)
class _Directed:
    """Unit maps with random directions behind the units, as often as they are gone over."""

    model: Model
    rows: Any
    site: Any
    posed: Posed
    batch: int
    directions: int
    seed: int
    progress: bool

    def __iter__(self) -> Iterator[Maps]:
        drawn: Tensor | None = None
        for one in unit_maps(
            self.model, self.rows, self.site, self.posed, batch=self.batch, progress=self.progress
        ):  # fmt: skip
            values = one.values.float()
            if drawn is None:
                dice = torch.Generator().manual_seed(self.seed)
                drawn = torch.randn(values.shape[-1], self.directions, generator=dice).to(values)
                spread = values.flatten(0, 2).std(0)  # else a few large units would be all of every direction
                drawn = drawn / spread.clamp_min(1e-6 * float(spread.max()) + 1e-30)[:, None]
            yield Maps(torch.cat([values, values @ drawn], -1), one.first)


class _Counts:
    """Patches that units mark, that concepts cover, and both, over all pictures; the same with shuffled masks."""

    def __init__(self, thresholds: Float[Tensor, "share unit"], shuffles: int) -> None:
        self.thresholds, self.shuffles, self.grid = thresholds, shuffles, (0, 0)
        self.both: Any = 0.0  # 1 + shuffle, share, unit, concept
        self.marked: Any = 0.0  # share, unit
        self.covered: Any = 0.0  # concept
        self.patches = 0
        self.levels = torch.linspace(0, 0.95, 20)
        self.beyond: Any = 0.0  # level, concept: patches covered more than that, and how much of them is
        self.within: Any = 0.0

    def add(self, values: Float[Tensor, "n row col unit"], masks: Float[Tensor, "n row col concept"]) -> None:
        """Take in a batch."""
        flat, masks = values.flatten(0, 2), masks.to(values)
        marks = (flat > self.thresholds.to(flat)[:, None]).float()  # share, patch, unit
        others = [masks.roll(1 + at % (len(masks) - 1), 0) for at in range(self.shuffles)]
        stacked = torch.cat([masks, *others], -1).flatten(0, 2)
        both = (marks.mT @ stacked).unflatten(-1, (1 + self.shuffles, -1)).movedim(-2, 0)
        plain = masks.flatten(0, 2)
        over = plain > self.levels.to(plain)[:, None, None]
        self.both, self.marked = self.both + both.double().cpu(), self.marked + marks.sum(1).double().cpu()
        self.covered = self.covered + plain.sum(0).double().cpu()
        self.beyond = self.beyond + over.sum(1).double().cpu()
        self.within = self.within + (over * plain).sum(1).double().cpu()
        self.patches, self.grid = self.patches + len(flat), (values.shape[1], values.shape[2])

    def iou(self) -> Float[Tensor, "shuffled share unit concept"]:
        """The IoU of all, the first with the pictures' own masks."""
        union = self.marked[..., None] + self.covered - self.both
        found: Tensor = self.both / union.clamp_min(1e-12)
        return found

    def ceiling(self) -> Float[Tensor, "concept"]:
        """The best IoU of any set of patches: those that are covered more than some level."""
        best: Tensor = (self.within / (self.beyond + self.covered - self.within).clamp_min(1e-12)).max(0).values
        return best


def _table(counts: _Counts, concepts: Concepts, shares: Sequence[float], directions: int) -> xarray.Dataset:
    found, units = counts.iou(), counts.thresholds.shape[1] - directions
    kinds = tuple(dict.fromkeys(concepts.kinds))
    where = [[at for at, kind in enumerate(concepts.kinds) if kind == one] for one in kinds]
    best = torch.stack([found[..., at].amax(-1) for at in where], -1)  # shuffled, share, unit, kind
    return xarray.Dataset(
        {
            "iou": (("share", "unit", "concept"), found[0, :, :units].numpy().astype(np.float32)),
            "null": (("share", "shuffle", "unit", "kind_of"), best[1:, :, :units].movedim(1, 0).numpy()),
            "random": (("share", "direction", "kind_of"), best[0, :, units:].numpy()),
            "threshold": (("share", "unit"), counts.thresholds[:, :units].cpu().numpy()),
            "size": ("concept", (counts.covered / counts.patches).numpy()),
            "ceiling": ("concept", counts.ceiling().numpy()),
        },
        coords={
            "share": list(map(float, shares)), "unit": range(units), "concept": list(concepts.labels),
            "kind": ("concept", list(concepts.kinds)), "kind_of": list(kinds),
        },
    )  # fmt: skip


def _of_kind(values: xarray.DataArray, kind: str | None) -> ndarray:
    """The best over concepts of one kind, or of all."""
    return np.asarray(values.max("kind_of") if kind is None else values.sel(kind_of=kind, drop=True))
