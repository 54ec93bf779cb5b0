"""What is known of each unit of a site, a feature or a neuron: where it is largest, how often, what it writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas
import torch
import xarray
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from cutaway.data import Scene
from cutaway.errors import MethodError, SiteError
from cutaway.methods.network_dissection.concept_masks import Concepts, concepts_in
from cutaway.methods.network_dissection.similarities import SIMILARITIES, similarities
from cutaway.methods.network_dissection.unit_maps import TEXT, Posed, scenes_of, unit_maps, unit_site
from cutaway.methods.neuron_descriptions.exemplars import exemplar_maps
from cutaway.methods.neuron_descriptions.steering import POINTS, steered
from cutaway.methods.neuron_descriptions.word_contexts import word_contexts
from cutaway.methods.neuron_descriptions.worded import written
from cutaway.methods.neuron_descriptions.write_vectors import write_vectors
from cutaway.methods.result import Provenance, Result
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.questions.bank import TextBank, emoji_texts
from cutaway.questions.rows import unit
from cutaway.store.reducers import Gram, Histogram, Mean, TopK

SOURCE = "Bricken et al. 2023 (Towards Monosemanticity), feature pages; Gandelsman et al. 2024, arXiv 2406.04341"
BINS = 24
BEYOND = 0.99  # quantile of the best correlation of shuffled pictures that a description has to exceed
OFTEN = 8  # scenes that show a concept; of few scenes 2
STEERED = 48  # units whose effect is measured
TEXTS = 64  # descriptions of scenes, beside the names of all things, in which words are looked for


@dataclass(frozen=True, eq=False, repr=False)
class Profiles(Result):
    """Units of a site, by number.

    `value`, `item` (unit, top): the pictures in which a unit is largest anywhere; `map` (unit, top, row, col): its
    activation over them. `density`: the share of patches where it is on (above 0), `mean`: its mean there, `largest`:
    its largest. `counts` (unit, bin): patches by activation, `edge` (bin) the lower edges. `concept` (unit): what is in
    the pictures in which it is large, `correlation` how much, `bound` what shuffled pictures reach (99 in 100 units),
    `scores` (score, unit) the five valid `similarities` of the two, on these pictures;
    `near`, `cosine` (unit, neighbour): units that write alike. Of a tower that reads words: `at_word` (unit, place) the
    largest activations at words of texts that are read alone, with `before`, `token`, `after`; `at_image` (unit): the
    share of patches in its mean activations above 0 at patches and at words. Where the tower ends in words: `text`,
    `says` (unit, word): what it writes and the cosine; `effect` (unit, point): how much more of its first text
    comes out when it is set to so many times its largest on every patch, NaN where that was not measured; `chance`
    (quantile, point): the same of other units' texts.
    """

    main: ClassVar[str] = "density"

    @property
    def alive(self) -> ndarray:
        """Which units are ever on, at a patch or a word."""
        on = self.data["largest"].values > 0
        return np.asarray(on | (self.data["at_word"].values[:, 0] > 0) if "at_word" in self.data else on)

    def table(self) -> pandas.DataFrame:
        """A row a unit that is ever on, the most telling first."""
        data = self.data
        named = data["correlation"].values > float(data["bound"])
        table = pandas.DataFrame({
            "unit": data["unit"].values, "concept": np.where(named, data["concept"].values, ""),
            "correlation": data["correlation"].values, "density": data["density"].values,
            "largest": data["largest"].values,
        })  # fmt: skip
        if "text" in data:
            table["writes"] = data["text"].isel(word=0).values
        if "token" in data:
            table["word"] = np.where(data["at_word"].values[:, 0] > 0, data["token"].values[:, 0], "")
            table["at_image"] = data["at_image"].values
        alive = table[self.alive]
        return alive.sort_values("correlation", ascending=False, kind="stable").reset_index(drop=True)


def unit_profiles(
    model: Model, scenes: Sequence[Any], *, site: str = "", bank: TextBank | None = None,
    contexts: Sequence[str] = (), text: str = TEXT, step: int | None = None, top: int = 8, neighbours: int = 6,
    words: int = 6, steer: int = STEERED, batch: int = 32, seed: int = 0, progress: bool = True,
) -> Profiles:  # fmt: skip
    """Look at every unit of a site over scenes of EmojiWorld, whose content is known.

    A description is the concept whose presence in a picture correlates most with the unit's largest activation there,
    r = cov(a, c) / (s_a s_c), one number a picture; it is compared with the best of the same concepts when
    pictures are shuffled. What a unit writes is what `neuron_descriptions` says: its direction through the end of the
    tower, by texts of a bank, or by next words. A tower that reads words is also given `contexts`, texts alone. Sums
    alone are kept of all pictures; those that a unit is largest in are run a second time. Units: those of the site.
    Raises MethodError for rows that are no scenes, and for so few that no concept tells them apart.
    What it can NOT tell: what the unit is for: what it is large in, and what it writes, are two things, and neither is
    what the model does with it. A description is a correlation, of concepts that the scenes have.

    >>> import cutaway
    >>> from cutaway.data import scene_at
    >>> scenes = [scene_at("test", i) for i in range(24)]
    >>> found = unit_profiles(cutaway.load("tiny:clip"), scenes, top=2, steer=0, progress=False)
    >>> found["map"].sizes["unit"], found["map"].sizes["top"]
    (64, 2)
    """
    started = time.perf_counter()
    some, posed = scenes_of(scenes), Posed(text, step, seed=seed)
    here = unit_site(model, site or next(iter(model.dictionaries), ""))
    if top < 1 or neighbours < 1 or words < 1:
        raise MethodError("nothing to keep of a unit", expected="one of each at least", do="give top=8")
    seen = _Seen(top, _varying(some), some, seed)
    for made in unit_maps(model, some, here, posed, batch=batch, progress=progress):
        seen.add(made.values)
    data = seen.told()
    units, items = range(data.sizes["unit"]), data["item"].values.tolist()
    laid = exemplar_maps(model, some, here, posed, items, units, batch=batch, progress=progress)
    data["map"] = (("unit", "top", "row", "col"), laid)
    data = _alike(data, model, here, neighbours)
    data = _heard(data, model, here, contexts or emoji_texts(TEXTS), words, batch)
    data = _spoken(data, model, here, bank, words, steer, some, posed, seed)
    told = Provenance.of(
        "unit_profiles", SOURCE, started=started, model=model, sites=(str(here),), seed=seed, scenes=len(some), top=top,
        neighbours=neighbours, words=words, steer=steer, text=text, step=step,
    )  # fmt: skip
    return Profiles(data, told)


def _heard(
    data: xarray.Dataset, model: Model, site: Site, texts: Sequence[str], top: int, batch: int
) -> xarray.Dataset:  # fmt: skip
    """The words at which units are largest, where words are read."""
    found = word_contexts(model, site, texts, top, batch=batch)
    if found is None:
        return data
    seen = data["density"].values * np.nan_to_num(data["mean"].values)
    both = seen + found.mean
    return data.assign(
        at_word=(("unit", "place"), found.values), before=(("unit", "place"), found.before),
        token=(("unit", "place"), found.token), after=(("unit", "place"), found.after),
        at_image=("unit", np.divide(seen, both, out=np.full_like(both, np.nan), where=both > 0)),
    )  # fmt: skip


def _varying(scenes: Sequence[Scene]) -> Concepts:
    """The concepts that enough of the scenes show and others do not."""
    known = concepts_in(scenes, least=OFTEN if len(scenes) >= 4 * OFTEN else 2)
    present = known.present(scenes)
    kept = tuple(name for name, shows in zip(known.names, present.T, strict=True) if not shows.all())
    if not kept or len(scenes) < OFTEN:
        raise MethodError(
            f"there is nothing to tell {len(scenes)} scenes apart by", do="give more scenes, 48 say (--n)",
            expected=f"{OFTEN} scenes at least, and concepts that some of them show and others do not",
        )  # fmt: skip
    return Concepts(kept)


class _Seen:
    """What is left of pictures that are seen once."""

    def __init__(self, top: int, known: Concepts, scenes: Sequence[Scene], seed: int) -> None:
        self.concepts = known
        self.present = torch.from_numpy(known.present(scenes)).float()
        self.shuffled = self.present[torch.randperm(len(scenes), generator=torch.Generator().manual_seed(seed))]
        self.largest, self.together, self.on, self.mean = TopK(top), Gram(), Mean(), Mean()
        self.counts: Histogram | None = None
        self.best: list[Float[Tensor, "picture unit"]] = []
        self.first = 0

    def add(self, values: Float[Tensor, "picture row col unit"]) -> None:
        """Take in pictures."""
        values = values.float()
        flat, best = values.flatten(0, 2), values.amax((1, 2))
        span = slice(self.first, self.first + len(best))
        if self.counts is None:
            step = float(flat[flat > 0].mean()) / 4 if bool((flat > 0).any()) else 1.0
            self.counts = Histogram([step * at for at in range(BINS + 1)])
        self.largest.add(best)
        self.best.append(best.cpu())
        self.together.add(torch.cat([best, self.present[span].to(best), self.shuffled[span].to(best)], 1))
        self.on.add((flat > 0).float())
        self.mean.add(flat, (flat > 0).float())
        self.counts.add(flat.clamp(min=0))
        self.first = span.stop

    def told(self) -> xarray.Dataset:
        """All of it as labelled arrays."""
        ranked, counts = self.largest.value, self.counts
        assert counts is not None
        units, own, null = ranked.values.shape[1], *self._correlations()
        best = own.argmax(1)
        labels = np.array(self.concepts.labels, dtype=object)
        inside = counts.value.inside.clone()
        inside[-1] += counts.value.above
        inside[0] -= self._off()
        return xarray.Dataset(
            {
                "value": (("unit", "top"), ranked.values.T.float().numpy()),
                "item": (("unit", "top"), ranked.items.T.numpy()),
                "density": ("unit", self.on.value.float().numpy()),
                "mean": ("unit", self.mean.value.float().numpy()),
                "largest": ("unit", ranked.values[0].float().numpy()),
                "counts": (("unit", "bin"), inside.T.numpy()),
                "concept": ("unit", labels[best].astype(str)),
                "correlation": ("unit", own[np.arange(units), best].astype(np.float32)),
                "bound": float(np.quantile(null.max(1), BEYOND)),
                "scores": (("score", "unit"), self._scores(best)),
            },
            {"unit": np.arange(units), "bin": counts.edges[:-1].numpy(), "score": list(SIMILARITIES)},
        )

    def _scores(self, chosen: Int[ndarray, "unit"]) -> Float[ndarray, "score unit"]:
        """Of each unit with its own concept, every valid similarity on the pictures that chose it."""
        values, present = torch.cat(self.best).numpy(), self.present.bool().numpy()
        made = np.zeros((len(SIMILARITIES), len(chosen)), np.float32)
        for concept in np.unique(chosen):
            units = np.flatnonzero(chosen == concept)
            found = similarities(values[:, units], present[:, [concept]])
            made[:, units] = [found[name].values[:, 0] for name in SIMILARITIES]
        return made

    def _off(self) -> Tensor:
        """Patches at which a unit is off: they are no activation."""
        assert self.counts is not None
        total = self.counts.value.inside.sum(0) + self.counts.value.above + self.counts.value.below
        return total - (self.on.value * total).round().long()

    def _correlations(self) -> tuple[Float[ndarray, "unit concept"], Float[ndarray, "unit concept"]]:
        """Of the largest activation in a picture with what it shows, and with what another one shows."""
        scatter, count = self.together.value.scatter.numpy(), len(self.concepts)
        units = len(scatter) - 2 * count
        spread = np.sqrt(np.maximum(np.diagonal(scatter), 1e-30))
        r = scatter[:units, units:] / spread[:units, None] / spread[None, units:]
        return r[:, :count], r[:, count:]


def _alike(data: xarray.Dataset, model: Model, site: Site, count: int) -> xarray.Dataset:
    """The units that write most alike, where what they write is known."""
    try:
        rows = unit(write_vectors(model, site).detach().float())
    except SiteError:
        return data
    count = min(count, len(rows) - 1)
    alike = rows @ rows.T
    found = alike.fill_diagonal_(-2.0).topk(count, dim=1)
    return data.assign(
        near=(("unit", "neighbour"), found.indices.cpu().numpy()),
        cosine=(("unit", "neighbour"), found.values.cpu().numpy()),
    )


def _spoken(
    data: xarray.Dataset, model: Model, site: Site, bank: TextBank | None, count: int, steer: int,
    scenes: Sequence[Scene], posed: Posed, seed: int,
) -> xarray.Dataset:  # fmt: skip
    """What units write, and what setting some of them does to that."""
    found = written(model, site, bank)
    if found is None:
        return data
    words, scores = found
    best = scores.topk(min(count, scores.shape[1]), dim=1)
    texts = np.array(words.texts, dtype=object)[best.indices.cpu().numpy()].astype(str)
    data = data.assign(
        text=(("unit", "word"), texts), says=(("unit", "word"), best.values.float().cpu().numpy())
    ).assign_attrs(reads=words.unit)  # fmt: skip
    if not steer:
        return data
    order = np.argsort(-data["correlation"].values * (data["largest"].values > 0), kind="stable")[:steer]
    made = steered(model, site, scenes, posed, words, order, data["largest"].values, best.indices[:, 0].cpu(), seed)
    whole = np.full((data.sizes["unit"], len(POINTS)), np.nan, np.float32)
    whole[order] = made.own
    return data.assign(
        effect=(("unit", "point"), whole), chance=(("quantile", "point"), made.chance)
    ).assign_coords(point=list(POINTS), quantile=["low", "middle", "high"])  # fmt: skip
