"""Units that answer to a concept however it is shown: drawn by one artist, by another, or written as a word."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.data import Label, Scene, World, concept, concepts, scene_at
from cutaway.data.splits import Split
from cutaway.errors import MethodError
from cutaway.methods.network_dissection.unit_maps import TEXT, Posed, unit_site, unit_vectors
from cutaway.methods.result import Provenance, Result, heat
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.questions.rows import reads_words

SOURCE = (
    "Goh et al. 2021, Multimodal Neurons in Artificial Neural Networks (Distill); Schwettmann et al. 2023, 2308.01544"
)
DRAWN, OTHER, WRITTEN, TOKEN = "drawn", "other artist", "written", "token"
PLAIN = World(things=(1, 1), sizes=(0.52, 0.6), tinted=0.0, kinds=("plain",))
CARRIERS = ("is this {}", "a picture of {}", "{} on the left", "where is {}", "there is {} here", "{}")


@dataclass(frozen=True, eq=False, repr=False)
class Selectivity(Result):
    """How well each unit tells a concept from others in each form: `auroc` (form, concept, unit), 0.5 by chance.

    `null` (shuffle, form, concept, unit): the same when what is shown is shuffled within each form.
    """

    main: ClassVar[str] = "auroc"

    def multimodal(self, forms: Sequence[str] | None = None) -> xarray.DataArray:
        """For each unit and concept the worst form: high only where it answers to the concept in all of them."""
        kept = list(self["form"].values) if forms is None else list(forms)
        return self["auroc"].sel(form=kept).min("form")

    def shares(self) -> pandas.DataFrame:
        """For each set of forms: the best unit, and the share of units beyond the 99th percentile of the null.

        In the null of several forms the last one alone is shuffled: a unit that is selective in the others, and by
        chance in that one, is no answer to the question whether it goes on to it.
        """
        forms = [str(one) for one in self["form"].values]
        sets = [[form] for form in forms] + [forms[:upto] for upto in range(2, len(forms) + 1)]
        rows = []
        for kept in sets:
            found = self["auroc"].sel(form=kept).min("form").max("concept").values
            null = self["null"].sel(form=kept[-1])
            null = null if len(kept) == 1 else np.minimum(null, self["auroc"].sel(form=kept[:-1]).min("form"))
            null = null.max("concept").values
            bound = float(np.quantile(null, 0.99))
            rows.append({"forms": " + ".join(kept), "best": float(found.max()), "bound": bound,
                         "beyond": float((found > bound).mean())})  # fmt: skip
        return pandas.DataFrame(rows)

    def summary(self) -> Any:
        """The twelve units that answer to one concept in all forms best."""
        worst = self.multimodal()
        best = worst.max("concept").to_series().sort_values(ascending=False).head(12)
        named = [str(worst.sel(unit=one).idxmax("concept").values) for one in best.index]
        pairs = list(zip(best.index, named, strict=True))
        forms = {form: [float(self["auroc"].sel(form=form, concept=name, unit=one)) for one, name in pairs]
                 for form in self["form"].values}  # fmt: skip
        return best.to_frame("worst").assign(concept=named, **forms).reset_index()

    def _draw(self, ax: Axes) -> None:
        heat(ax, self["auroc"].max("concept").isel(unit=slice(0, 64)), "best AUROC of each unit")


def multimodal_units(
    model: Model, names: str | Sequence[str] | None = None, *, site: str = "", each: int = 6, shuffles: int = 10,
    text: str = TEXT, batch: int = 32, seed: int = 0, progress: bool = True,
) -> Selectivity:  # fmt: skip
    """How selective units are for concepts drawn by seen artists, by one that was not, written, and as a word of text.

    Forms: `drawn` (by artists of the training scenes), `other artist` (by the one kept apart), `written` (its name on a
    plate, nothing else in the picture); of a model that writes also `token`, the name in a text without a picture.
    `names` (in one text, with commas between), or 16 that every artist draws; `each` inputs of every form
    and one; the unit's strongest patch (or word) in each. AUROC of a concept against
    the others of the same form. A unit is multimodal for a concept if its worst form is still high. Null: `shuffles` of
    what is shown, within each form, the best concept of each unit: with many concepts some are high by chance.

    Units: AUROC. Sources: Goh et al. 2021 (Distill), who look at the strongest pictures by hand; Schwettmann et al.
    2023, arXiv 2308.01544, for models that write. For the floor take the untrained model.
    What it can NOT tell: that the unit is about the concept and not about what these concepts differ in; letters may
    be told apart by their shapes.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llava")
    >>> made = multimodal_units(model, ["fox", "pizza", "car"], each=2, shuffles=2, progress=False)
    >>> made["auroc"].dims, [str(one) for one in made["form"].values]
    (('form', 'concept', 'unit'), ['drawn', 'other artist', 'written', 'token'])
    """
    started, at = time.perf_counter(), unit_site(model, site)
    given = [one.strip() for one in names.split(",")] if isinstance(names, str) else names
    chosen = shown_by_all(16) if given is None else list(given)
    if len(chosen) < 2 or each < 2 or shuffles < 1:
        raise MethodError(
            f"{len(chosen)} concepts, {each} inputs of each, {shuffles} shuffles", expected="2, 2 and 1 at least",
            do="give more",
        )  # fmt: skip
    posed = Posed(text, seed=seed)
    states = {form: unit_vectors(model, scenes, at, posed, batch=batch, progress=progress).double().numpy()
              for form, scenes in forms_of(chosen, each, seed).items()}  # fmt: skip
    if reads_words(model, at.tower) and model.engine.pipeline is None:
        states[TOKEN] = _worded(model, at, chosen, each)
    labels = np.repeat(np.arange(len(chosen)), each)
    dice = np.random.default_rng(seed)
    ranks = {form: ranked(values) for form, values in states.items()}
    drawn = [{form: dice.permutation(labels) for form in states} for _ in range(shuffles)]
    null = np.stack([_each(ranks, one, len(chosen)) for one in drawn])
    data = xarray.Dataset(
        {"auroc": (("form", "concept", "unit"), _each(ranks, dict.fromkeys(states, labels), len(chosen))),
         "null": (("shuffle", "form", "concept", "unit"), null.astype(np.float32))},
        coords={"form": list(states), "concept": chosen, "unit": range(null.shape[-1])},
    )  # fmt: skip
    told = Provenance.of(
        "multimodal_units", SOURCE, started=started, model=model, sites=(str(at),), seed=seed, each=each, text=text
    )
    return Selectivity(data, told)


def shown_by_all(many: int) -> list[str]:
    """So many concepts that every artist draws, with names of one word, evenly from the whole list."""
    every = [one.name for one in concepts() if len(one.artists) == 4 and " " not in one.name and len(one.name) < 9]
    return every[:: max(1, len(every) // many)][:many]


def forms_of(names: Sequence[str], each: int, seed: int = 0) -> dict[str, list[Scene]]:
    """Scenes of every form, concept by concept.

    >>> [len(one) for one in forms_of(["fox", "car"], 3).values()]
    [6, 6, 6]
    """
    made: Mapping[str, list[Scene]] = {DRAWN: [], OTHER: [], WRITTEN: []}
    splits: Mapping[str, Split] = {DRAWN: "test", OTHER: "artist"}
    for name in names:
        world = replace(PLAIN, names=(name,))
        for form, split in splits.items():
            made[form].extend(scene_at(split, at, seed + 331, world) for at in range(each))
        for at in range(each):
            ground = scene_at("test", at, seed + 977, PLAIN).background
            made[WRITTEN].append(Scene(background=ground, label=Label(name, ("top", "bottom")[at % 2])))
    return dict(made)


def _worded(model: Model, site: Site, names: Sequence[str], each: int) -> Float[ndarray, "item unit"]:
    """Each unit's strongest word in texts that name a concept."""
    found = []
    for name in names:
        for at in range(each):
            run = model.run(model.inputs(text=CARRIERS[at % len(CARRIERS)].format(concept(name).one)), record=site)
            found.append(run[site].detach()[0, 1:].flatten(1).amax(0).double().cpu())
    return np.asarray(torch.stack(found).numpy())


def ranked(values: Float[ndarray, "item unit"]) -> Float[ndarray, "item unit"]:
    """The rank of each item for each unit, from 1, the mean where values are equal."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=0))


def one_against_all(
    ranks: Float[ndarray, "item unit"], labels: Int[ndarray, "item"], count: int
) -> Float[ndarray, "label unit"]:
    """The AUROC of each label against all others, from ranks: (sum of its ranks - n (n + 1) / 2) / (n m)."""
    own = (labels[None] == np.arange(count)[:, None]).astype(float)
    size = own.sum(1)[:, None]
    return np.asarray((own @ ranks - size * (size + 1) / 2) / (size * (len(labels) - size)))


def _each(ranks: Mapping[str, ndarray], labels: Mapping[str, ndarray], count: int) -> Float[ndarray, "form label unit"]:
    return np.stack([one_against_all(values, labels[form], count) for form, values in ranks.items()])
