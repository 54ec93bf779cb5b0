"""Descriptions of units by several describers, each judged on pictures that it has not seen, and by drawing it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas
import xarray
from jaxtyping import Bool, Float
from numpy import ndarray

from cutaway.data import Scene, World
from cutaway.data.prompts import DRAWINGS
from cutaway.errors import MethodError
from cutaway.methods.network_dissection.compositions import composition
from cutaway.methods.network_dissection.concept_masks import KINDS, Concepts, Name, concepts_in
from cutaway.methods.network_dissection.cosy import cosy
from cutaway.methods.network_dissection.network_dissection import network_dissection
from cutaway.methods.network_dissection.similarities import (
    SIMILARITIES,
    extra_labels,
    missing_labels,
    pearson,
    similarities,
)
from cutaway.methods.network_dissection.unit_maps import TEXT, Posed, scenes_of, unit_site, unit_vectors
from cutaway.methods.result import Provenance, Result
from cutaway.model.model import Model
from cutaway.model.sites import Site

SOURCE = "Oikarinen, Yan, Weng 2025, arXiv 2506.05774; Kopf et al. 2024, arXiv 2405.20331 (CoSy)"
DESCRIBERS = ("masks", "presence", "formula")
BEYOND = 0.95  # quantile of the scores of other units' labels that a label has to exceed
FEWEST, MANY = 4, 64  # scenes of each half that have to show a concept, one of fewer than so many


@dataclass(frozen=True, eq=False, repr=False)
class DescriptionScores(Result):
    """Descriptions of some units, and how well they hold.

    `label` (describer, unit); `score` (describer, unit, similarity) on the pictures kept apart, `random` the mean of
    what the labels of the other units score there, `beyond` whether the own one is above 95 in 100 of these.
    `drawn` (describer, unit): how often the unit is stronger on a picture drawn to its label than on others (AUC),
    `drawn_random` for another unit's label; NaN for formulas and where nothing was drawn. `sane` (check,
    similarity): the share of these concepts whose score falls when labels are missing or too many: 1 where it is valid.
    """

    main: ClassVar[str] = "score"

    def table(self) -> pandas.DataFrame:
        """A row a describer: each similarity, mean over units, beside that of other units' labels."""
        rows = []
        for name in self["describer"].values:
            one = self.data.sel(describer=name)
            row: dict[str, Any] = {"describer": str(name), "labels": len({*one["label"].values.tolist()})}
            for kind in self["similarity"].values:
                row[str(kind)] = float(one["score"].sel(similarity=kind).mean())
                row[f"{kind}, others"] = float(one["random"].sel(similarity=kind).mean())
            row |= {"beyond": float(one["beyond"].mean()), "drawn": _mean(one["drawn"].values),
                    "drawn, others": _mean(one["drawn_random"].values)}  # fmt: skip
            rows.append(row)
        return pandas.DataFrame(rows)

    def summary(self) -> Any:
        """A row a describer."""
        return self.table()


def description_scores(
    model: Model, scenes: Sequence[Any], *, site: str = "", units: Sequence[int] = (), many: int = 24, draw: int = 16,
    length: int = 3, text: str = TEXT, step: int | None = None, batch: int = 32, seed: int = 0, progress: bool = True,
) -> DescriptionScores:  # fmt: skip
    """Describe units in three ways on half of the scenes, and judge the descriptions on the other half.

    Concepts count that 4 scenes of each half show, of fewer than 64 scenes one.
    `masks`: the concept with the best IoU on patches (`network_dissection`). `presence`: the one whose presence in
    a picture correlates most with the unit's strongest patch. `formula`: up to `length` concepts joined by AND, OR, NOT
    (`composition`, by IoU). Each is scored on the pictures kept apart by the five `similarities` that pass both sanity
    checks, and by `draw` pictures drawn to it against as many others (`cosy`; 0: none). `units`: by their numbers, else
    `many` that are ever on, by chance, so that the means are those of the site and not of its best units.

    Baseline: the labels that the same describer gave the other units. For the floor take the untrained model.
    Units: those of each similarity, -1 or 0 to 1. Sources: Oikarinen, Yan and Weng 2025, arXiv 2506.05774; Kopf et al.
    2024, arXiv 2405.20331. What it can NOT tell: that the concept is what drives the unit; a description in words that
    are no concept of these scenes.

    >>> import cutaway
    >>> from cutaway.data import scenes
    >>> model = cutaway.load("tiny:clip")
    >>> made = description_scores(model, list(scenes("test", 48)), many=3, draw=0, progress=False)
    >>> made["score"].dims, made["score"].sizes["unit"], list(made.table()["describer"])
    (('describer', 'unit', 'similarity'), 3, ['masks', 'presence', 'formula'])
    """
    started = time.perf_counter()
    plain, place, posed = scenes_of(scenes), unit_site(model, site), Posed(text, step, seed=seed)
    order = np.random.default_rng(seed).permutation(len(plain))
    halves = [[plain[at] for at in sorted(part)] for part in np.array_split(order, 2)]
    concepts = _known(halves)
    values = [unit_vectors(model, half, place, posed, batch=batch, progress=progress).numpy() for half in halves]
    chosen = _chosen(values[0], units, many, seed)
    found, kept = (made[:, chosen].astype(float) for made in values)
    names: dict[str, list[Name]] = {
        "masks": _by_masks(model, halves[0], concepts, place, chosen, posed, batch, seed, progress),
        "presence": [concepts.names[at] for at in pearson(found, concepts.present(halves[0])).argmax(1)],
    }
    items = {name: Concepts(tuple(dict.fromkeys(said))).present(halves[1]) for name, said in names.items()}
    columns = {name: items[name][:, [list(dict.fromkeys(said)).index(one) for one in said]]
               for name, said in names.items()}  # fmt: skip
    labels = {name: [concepts.labels[concepts.names.index(one)] for one in said] for name, said in names.items()}
    formulas = _formulas(found, kept, [concepts.present(half) for half in halves], concepts.labels, length, seed)
    labels["formula"], columns["formula"] = [text for text, _ in formulas], np.stack([one for _, one in formulas], 1)
    drawn = {name: _drawn(model, place, chosen, said, posed, draw, batch, seed, progress)
             for name, said in names.items()}  # fmt: skip
    data = _judged(kept, columns, labels, drawn, chosen)
    data["sane"] = (("check", "similarity"), _checks(concepts.present(plain), seed))
    told = Provenance.of(
        "description_scores", SOURCE, started=started, model=model, sites=(str(place),), seed=seed, scenes=len(plain),
        many=many, draw=draw, length=length, text=text, step=step,
    )  # fmt: skip
    return DescriptionScores(data.assign_coords(check=["missing labels", "extra labels"]), told)


def _known(halves: Sequence[list[Scene]]) -> Concepts:
    """The concepts that both halves show often enough; parts are in every picture."""
    least = _least(sum(map(len, halves)))
    both = [set(concepts_in(half, least=least, kinds=KINDS[1:]).names) for half in halves]
    every = concepts_in([one for half in halves for one in half], least=least, kinds=KINDS[1:]).names
    kept = tuple(one for one in every if one in both[0] & both[1])
    if len(kept) < 2:
        raise MethodError(
            f"{len(kept)} concepts are shown by {least} scenes of both halves of {sum(map(len, halves))}",
            expected="two at least", do="give more scenes, 128 say (--n)",
        )  # fmt: skip
    return Concepts(kept)


def _least(scenes: int) -> int:
    return FEWEST if scenes >= MANY else 1


def _chosen(values: Float[ndarray, "item unit"], units: Sequence[int], many: int, seed: int) -> list[int]:
    """The units asked for, else some that are not the same on all pictures, by chance."""
    count = values.shape[1]
    odd = [one for one in units if not 0 <= one < count]
    if odd or (not len(units) and many < 1):
        raise MethodError(
            f"no unit {odd[0]}" if odd else f"{many} units", do="choose others",
            expected=f"numbers from 0 to {count - 1}" if odd else "one at least",
        )  # fmt: skip
    if len(units):
        return list(units)
    alive = np.flatnonzero(np.ptp(values, axis=0) > 0)
    return sorted(np.random.default_rng(seed).permutation(alive)[:many].tolist())


def _by_masks(
    model: Model, scenes: list[Scene], concepts: Concepts, site: Site, chosen: list[int], posed: Posed, batch: int,
    seed: int, progress: bool,
) -> list[Name]:  # fmt: skip
    """The concept whose masks each unit marks best."""
    made = network_dissection(
        model, scenes, site=str(site), least=_least(2 * len(scenes)), kinds=KINDS[1:], written=0, shuffles=1,
        directions=1, seed=seed, text=posed.text, step=posed.step, batch=batch, progress=progress,
    )  # fmt: skip
    iou = made["iou"].isel(share=0).sel(unit=chosen)
    known = [name for name in made["concept"].values if name in concepts.labels]
    best = iou.sel(concept=known).argmax("concept").values
    return [concepts.names[concepts.labels.index(known[at])] for at in best]


def _formulas(
    found: Float[ndarray, "item unit"], kept: Float[ndarray, "other unit"], present: list[ndarray],
    labels: Sequence[str], length: int, seed: int,
) -> list[tuple[str, Bool[ndarray, "other"]]]:  # fmt: skip
    """For each unit the formula that fits the first half best, and for which of the other half it holds."""
    made = []
    shows = np.concatenate(present)
    apart = np.arange(len(shows)) >= len(found)
    for unit, other in zip(found.T, kept.T, strict=True):
        one = composition(np.concatenate([unit, other]), shows, labels, length=length, held=apart, seed=seed)
        made.append((one.text, one.items[apart]))
    return made


def _drawn(
    model: Model, site: Site, chosen: list[int], names: list[Name], posed: Posed, many: int, batch: int, seed: int,
    progress: bool,
) -> tuple[ndarray, ndarray]:  # fmt: skip
    """The AUC of pictures drawn to each unit's label, and to another unit's."""
    if many == 0:
        blank = np.full(len(chosen), np.nan)
        return blank, blank
    world: World | None = DRAWINGS if model.engine.pipeline is not None else None
    made = cosy(model, site, chosen, names, posed, many=many, world=world, batch=batch, seed=seed, progress=progress)
    return made.auc, made.auc_random


def _judged(
    kept: Float[ndarray, "item unit"], columns: dict[str, ndarray], labels: dict[str, list[str]],
    drawn: dict[str, tuple[ndarray, ndarray]], chosen: list[int],
) -> xarray.Dataset:  # fmt: skip
    """Each unit against its own label and against those of the others, by describer."""
    kinds, blank = list(SIMILARITIES), np.full(len(chosen), np.nan)
    score, random, beyond = [], [], []
    for name in DESCRIBERS:
        every = similarities(kept, columns[name]).to_array("similarity").transpose("unit", "concept", "similarity")
        said = labels[name]
        other = np.array([[one != two for two in said] for one in said], dtype=bool)
        own = every.values[np.arange(len(chosen)), np.arange(len(chosen))]
        score.append(own)
        if not other.any():  # all units are described alike
            random.append(np.full_like(own, np.nan))
            beyond.append(np.zeros(own.shape, bool))
            continue
        grid = np.where(other[..., None], every.values, np.nan)
        random.append(np.nanmean(grid, 1))
        beyond.append(own > np.nanquantile(grid, BEYOND, axis=1))
    auc = [drawn.get(name, (blank, blank)) for name in DESCRIBERS]
    places = ("describer", "unit", "similarity")
    return xarray.Dataset(
        {
            "score": (places, np.stack(score)), "random": (places, np.stack(random)),
            "beyond": (places, np.stack(beyond)),
            "label": (places[:2], np.array([labels[name] for name in DESCRIBERS], dtype=object)),
            "drawn": (places[:2], np.stack([one for one, _ in auc])),
            "drawn_random": (places[:2], np.stack([one for _, one in auc])),
        },
        coords={"describer": list(DESCRIBERS), "unit": chosen, "similarity": kinds},
    )  # fmt: skip


def _checks(present: Bool[ndarray, "item concept"], seed: int) -> Float[ndarray, "check similarity"]:
    """Both sanity checks of each similarity, on these concepts."""
    return np.array([[check(one, present, seed) for one in SIMILARITIES.values()]
                     for check in (missing_labels, extra_labels)])  # fmt: skip


def _mean(values: Float[ndarray, "unit"]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
