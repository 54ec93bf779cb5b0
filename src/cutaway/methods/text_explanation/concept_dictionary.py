"""States of a model as sums of a few concepts, each told by the pictures that have it and by the words it reads as."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.data import Scene
from cutaway.errors import MethodError
from cutaway.methods.network_dissection.concept_masks import shown
from cutaway.methods.neuron_descriptions.worded import Words
from cutaway.methods.neuron_descriptions.write_vectors import read_as
from cutaway.methods.result import Provenance, Result
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.weights import readout
from cutaway.questions.bank import TextBank
from cutaway.questions.rows import Rows, recorded

SOURCE = "Parekh, Khayatan, Shukor, Newson, Cord 2024, arXiv 2406.08074 (CoX-LMM)"
LEARNERS = ("semi-nmf", "pca", "k-means", "states")
FEWEST, MOST = 4, 16  # rows in each half; concepts, where it is not said how many


@dataclass(frozen=True, eq=False, repr=False)
class ConceptDictionary(Result):
    """Concepts found in the states of one half of the rows, told on the other half, by four learners.

    `word`, `score` (learner, concept, place): what a concept reads as, best first. `item` (learner, concept, rank): the
    held rows that have most of it; `active` (learner, concept): the share of held rows that have any. `explained`
    (learner): the share of the held states' variance. `overlap` (learner): the mean share of words that two concepts
    have in common. Where rows are scenes, `named` (learner): the share of held rows in which a word of the strongest
    concept names something that is shown; `named_random`: the same with words of another concept.
    """

    main: ClassVar[str] = "explained"

    def table(self) -> pandas.DataFrame:
        """A row a learner."""
        kept = [name for name in ("explained", "overlap", "named", "named_random") if name in self.data]
        return self.data[kept].to_dataframe().reset_index()

    def concepts(self, learner: str = LEARNERS[0]) -> pandas.DataFrame:
        """A row a concept, those that most rows have first: its words, and how often it is there."""
        one = self.data.sel(learner=learner)
        table = pandas.DataFrame({
            "concept": one["concept"].values, "active": one["active"].values,
            "words": [", ".join(row) for row in one["word"].values], "score": one["score"].values[:, 0],
        })  # fmt: skip
        return table.sort_values("active", ascending=False, kind="stable").reset_index(drop=True)

    def summary(self) -> Any:
        """A row a learner."""
        return self.table()

    def _draw(self, ax: Axes) -> None:
        table = self.concepts().head(12)
        ax.barh(range(len(table)), table["active"])
        ax.set_yticks(range(len(table)), list(table["words"]))
        ax.invert_yaxis()
        ax.set(xlabel="share of rows that have it", title="concepts")


def concept_dictionary(
    model: Model, rows: Rows, *, scenes: Sequence[Scene] | None = None, bank: TextBank | None = None, site: str = "",
    concepts: int = 0, words: int = 6, top: int = 6, penalty: float = 0.1, batch: int = 32, seed: int = 0,
    progress: bool = True,
) -> ConceptDictionary:  # fmt: skip
    """Write the states at the end of each row as non-negative sums of a few directions, and read these in words.

    min over U and V >= 0 of 1/2 |Z - V U|^2 + penalty |V|_1, |u_k| <= 1: semi-NMF, by scikit-learn's dictionary
    learning, from k-means on. Z are the states of `site` (a residual stream; two thirds up the tower that writes unless
    named) where the tower is read: the last position of a decoder, the class token of a CLIP; less their mean, and
    brought to mean length 1. Words: u_k through the last norm and the unembedding; of a CLIP, texts of the `bank`.

    `concepts`: unless said 16, of fewer than 64 rows a quarter as many. Beside it, on the same states: principal
    components (each side of one a concept), k-means, and states drawn as they are. Every number is of the half of the
    rows that nothing was learned on. Units: shares.
    Source: Parekh et al. 2024, arXiv 2406.08074, who take states at one named word of captions and do not subtract the
    mean (so one concept is the mean). `scenes`, where rows are such, judge the words; baseline: words of another
    concept.
    What it can NOT tell: that the model uses a concept; one that no word names; other `concepts` and seeds give others.

    >>> import cutaway
    >>> from cutaway.data import render, scene_at
    >>> model = cutaway.load("tiny:llava")
    >>> scenes = [scene_at("test", i) for i in range(24)]
    >>> rows = [model.inputs(image=render(one), text="what is this") for one in scenes]
    >>> made = concept_dictionary(model, rows, scenes=scenes, concepts=4, progress=False)
    >>> made["word"].dims, list(made.table()["learner"])
    (('learner', 'concept', 'place'), ['semi-nmf', 'pca', 'k-means', 'states'])
    """
    started, place = time.perf_counter(), _site(model, site)
    known = Words.of(model, place.tower, bank)
    if known is None:
        raise MethodError(
            f"nothing reads '{place}' in words", expected="a tower that writes, or one that matches and a bank",
            do="give `bank=` (--bank FILE), or take another site",
        )  # fmt: skip
    states = _states(model, rows, place, batch, progress)
    concepts = concepts or max(2, min(MOST, len(states) // 4))
    _check(len(states), scenes, concepts, words, top)
    order = np.random.default_rng(seed).permutation(len(states))
    half = len(states) // 2
    learned, held = order[:half], np.sort(order[half:])
    centre = states[learned].mean(0)
    scale = float(np.linalg.norm(states[learned] - centre, axis=1).mean()) or 1.0
    fit, rest = ((states[at] - centre) / scale for at in (learned, held))
    shows = None if scenes is None else [_words_of(scenes[at]) for at in held]
    parts = []
    for name in LEARNERS:
        directions, code = _learned(name, fit, rest, concepts, penalty, seed)
        parts.append(_told(model, place, known, bank, directions, code, rest, shows, words, top, held))
    data = xarray.concat(parts, "learner").assign_coords(learner=list(LEARNERS), concept=range(concepts))
    told = Provenance.of(
        "concept_dictionary", SOURCE, started=started, model=model, sites=(str(place),), seed=seed, rows=len(states),
        concepts=concepts, penalty=penalty, words=words,
    )  # fmt: skip
    return ConceptDictionary(data, told)


def _site(model: Model, name: str) -> Site:
    """The site of that name, or the stream two thirds up what writes, or else what looks."""
    if name:
        found = model.sites.one(name)
        if not found.part.startswith("resid_"):
            raise MethodError(
                f"'{found}' is no residual stream", expected="states that the end of a tower can read",
                do="take `resid_post` of a layer",
            )  # fmt: skip
        return found
    tower = "text" if model.family.image_tokens or "vision" not in model.towers else "vision"
    depth = model.sites.towers().get(tower, 0)
    return model.sites.one(f"{tower}.{max(0, depth * 2 // 3 - 1)}.resid_post")


def _check(count: int, scenes: Sequence[Scene] | None, concepts: int, words: int, top: int) -> None:
    if scenes is not None and len(scenes) != count:
        raise MethodError(f"{count} rows and {len(scenes)} scenes", expected="the same", do="give a scene for each row")
    if count < 2 * FEWEST or not 2 <= concepts <= count // 2 or words < 1 or top < 1:
        raise MethodError(
            f"{concepts} concepts of {count} rows, {words} words and {top} rows of each",
            expected=f"{2 * FEWEST} rows at least, 2 concepts and at most half as many as rows", do="give more rows",
        )  # fmt: skip


def _states(model: Model, rows: Rows, site: Site, batch: int, progress: bool) -> Float[ndarray, "item d"]:
    """The state of each row where its tower is read."""
    end, found = readout(model, site.tower), []
    for run in recorded(model, rows, site.tower, [site], batch=batch, what="states", progress=progress):
        states = run[site].detach().double().cpu()
        found.append(states[torch.arange(len(states)), end.positions(run.inputs).cpu()])
    return torch.cat(found).numpy()


def _learned(
    name: str, fit: Float[ndarray, "item d"], rest: Float[ndarray, "other d"], concepts: int, penalty: float, seed: int
) -> tuple[Float[ndarray, "concept d"], Float[ndarray, "other concept"]]:
    """Directions, and how much of each the held states have."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA, DictionaryLearning, SparseCoder
    from sklearn.exceptions import ConvergenceWarning

    if name == "pca":
        some = PCA(min(-(-concepts // 2), *fit.shape), random_state=seed).fit(fit)
        axes = np.concatenate([some.components_, -some.components_])[:concepts]
        return axes, np.maximum((rest - some.mean_) @ axes.T, 0)
    if name == "k-means":
        means = KMeans(concepts, n_init=4, random_state=seed).fit(fit)
        return means.cluster_centers_, np.eye(concepts)[means.predict(rest)]
    if name == "states":
        axes = fit[np.random.default_rng(seed).permutation(len(fit))[:concepts]]
        axes = axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-12)
    else:
        means = KMeans(concepts, n_init=4, random_state=seed).fit(fit)
        begun = means.cluster_centers_ / np.maximum(np.linalg.norm(means.cluster_centers_, axis=1), 1e-12)[:, None]
        made = DictionaryLearning(
            concepts, alpha=penalty, positive_code=True, fit_algorithm="cd", transform_algorithm="lasso_cd",
            max_iter=100, random_state=seed, dict_init=begun, code_init=np.eye(concepts)[means.labels_],
        )  # fmt: skip
        axes = made.fit(fit).components_
    coder = SparseCoder(
        axes, transform_algorithm="lasso_cd", transform_alpha=penalty, positive_code=True, transform_max_iter=2000
    )
    with warnings.catch_warnings():  # of gaps of a millionth
        warnings.simplefilter("ignore", ConvergenceWarning)
        return axes, coder.transform(rest)


def _told(
    model: Model, site: Site, known: Words, bank: TextBank | None, directions: Float[ndarray, "concept d"],
    code: Float[ndarray, "item concept"], rest: Float[ndarray, "item d"], shows: list[set[str]] | None, words: int,
    top: int, held: Int[ndarray, "item"],
) -> xarray.Dataset:  # fmt: skip
    """One learner's concepts: their words, the rows that have them, and what they are worth on held rows."""
    rows = torch.from_numpy(directions).to(model.dtype).to(model.device)
    read = read_as(model, site, rows, bank)[:, known.ids.to(rows.device)].float().cpu()
    best = read.topk(min(words, read.shape[1]), 1)
    named = np.array([[known.texts[int(at)] for at in row] for row in best.indices], dtype=object)
    sets = [set(row) for row in named]
    pairs = [(a, b) for a in range(len(sets)) for b in range(a)]
    spread = max(float(((rest - rest.mean(0)) ** 2).sum()), 1e-30)
    data: dict[str, Any] = {
        "word": (("concept", "place"), named), "score": (("concept", "place"), best.values.numpy()),
        "item": (("concept", "rank"), held[np.argsort(-code, 0, kind="stable")[: min(top, len(code))].T]),
        "active": ("concept", (code > 0).mean(0)),
        "explained": 1 - float(((rest - code @ directions) ** 2).sum()) / spread,
        "overlap": float(np.mean([len(sets[a] & sets[b]) / len(sets[a]) for a, b in pairs])),
    }  # fmt: skip
    if shows is not None:
        there = np.array([[any(_within(word, seen) for word in one) for one in named] for seen in shows])
        strongest, some = code.argmax(1), code.max(1) > 0
        data["named"] = float((there[np.arange(len(code)), strongest] & some).mean())
        others = [there[:, at].copy() for at in range(there.shape[1])]
        others = [np.mean([others[two][row] for two in range(len(others)) if two != one])
                  for row, one in enumerate(strongest)]  # fmt: skip
        data["named_random"] = float((np.array(others) * some).mean())
    return xarray.Dataset(data)


def _words_of(scene: Scene) -> set[str]:
    """The words for what a scene shows, but for those that hold for every scene."""
    return {word for kind, word in shown(scene) if kind not in ("part", "artist", "writing")}


def _within(word: str, seen: set[str]) -> bool:
    """Whether a word, or a text of a bank, names something that is shown."""
    return word in seen or any(f" {one} " in f" {word} " for one in seen)
