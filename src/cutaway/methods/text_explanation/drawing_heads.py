"""Heads of a denoiser in words: the word that a head writes where the thing of that name is, judged by exact masks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from cutaway.data import Scene
from cutaway.errors import MethodError
from cutaway.methods.cross_attention.maps import folded, looking, rows_of, sides
from cutaway.methods.cross_attention.spoken import Word, phrase, sums
from cutaway.methods.network_dissection.concept_masks import masks_of
from cutaway.methods.network_dissection.unit_maps import Posed, scenes_of, unit_runs
from cutaway.methods.neuron_descriptions.multimodal import one_against_all, ranked
from cutaway.methods.result import Provenance, Result
from cutaway.methods.truth import on_patches
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site

METHOD = "drawing_heads"
SOURCE = (
    "Tang et al. 2022, arXiv 2210.04885 (maps of words); Gandelsman et al. 2023, arXiv 2310.05916 (heads named by "
    "texts); Bau et al. 2017, arXiv 1704.05796 (names judged by masks)"
)
HALVES = ("named on", "held")
KINDS = {"concept": "thing", "ground colour": "background"}


@dataclass(frozen=True, eq=False, repr=False)
class DrawingHeads(Result):
    """Words by head ("layer.head"), best first: `word` and `kind` (head, pick), a thing or the colour of a background.

    `fit`: AUROC of the patches of what the word names, on the scenes that chose it; `held`: on as many others;
    `another` (head): there, of the first words of all other heads in its place; `moved`: there, with the mask of
    another scene. `own` (head): how far `held` is above what the head has with any of these words, and any head with
    this one (an interaction, 0 where heads have no word of their own). `share` (head): how much of its attention goes
    to words at all. `auroc` (half, head, said): of every word.
    """

    main: ClassVar[str] = "held"

    def summary(self) -> Any:
        """The twelve heads whose first word holds best, and the mean of all heads."""
        names = ["fit", "held", "another", "moved", "own"]
        first = self.data[names].isel(pick=0).to_dataframe().drop(columns="pick")
        words = [", ".join(map(str, row)) for row in self["word"].values]
        table = first.assign(share=self["share"].values, words=words).reset_index()
        mean = pandas.DataFrame([{"head": "all", **table.mean(numeric_only=True), "words": ""}])
        return pandas.concat([table.sort_values("held", ascending=False).head(12), mean], ignore_index=True)

    def note(self) -> str:
        """What a name is worth."""
        first = self.data.isel(pick=0)
        means = {name: float(first[name].mean()) for name in ("held", "another", "moved", "own")}
        return (
            f"On other scenes the first words have an AUROC of {means['held']:.3f}, those of other heads in their "
            f"place {means['another']:.3f}, with the masks of other scenes {means['moved']:.3f}. Part of that is what "
            f"any word has in a head, and any head with a word; beyond both are {means['own']:+.3f}."
        )

    def _draw(self, ax: Axes) -> None:
        for name in ("held", "another", "moved"):
            ax.plot(np.sort(self.data[name].isel(pick=0, missing_dims="ignore").values)[::-1], label=name)
        ax.set(xlabel="heads", ylabel="AUROC of the patches of what is named")
        ax.legend()


class _Told(NamedTuple):
    """A word of one prompt and where in the picture that is which it names."""

    word: str
    kind: str
    place: list[int]
    mask: Float[ndarray, "h w"]


@dataclass
class _Kept:
    """AUROC of every head by word and half, for its own mask and for that of the scene before."""

    found: dict[tuple[str, str], list[tuple[Float[ndarray, "head"], Float[ndarray, "head"]]]] = field(
        default_factory=dict
    )
    before: dict[str, ndarray] = field(default_factory=dict)
    shares: list[Float[ndarray, "head"]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    def add(self, told: Sequence[Sequence[_Told]], maps: Sequence[Float[ndarray, "picture word _ _ _"]]) -> None:
        """Take in a batch: its words, and the maps of each layer."""
        for at, words in enumerate(told):
            self.shares.append(np.concatenate([layer[at].sum(0).mean((-1, -2)) for layer in maps]))
            for word in words:
                other = self.before.get(word.kind)
                self.before[word.kind] = word.mask
                if other is None:
                    continue
                heads = [layer[at, word.place].sum(0) for layer in maps]
                own, moved = (np.concatenate([_auroc(one, mask) for one in heads]) for mask in (word.mask, other))
                if not np.isnan(own).any():
                    self.found.setdefault((word.kind, word.word), []).append((own, moved))


def drawing_heads(
    model: Model, scenes: Sequence[Any], *, picks: int = 3, least: int = 2, step: int | None = None, batch: int = 8,
    seed: int = 0, progress: bool = True,
) -> DrawingHeads:  # fmt: skip
    """Name every head of a denoiser by the words that it writes where what they name is, judged by exact masks.

    At a patch x a head of cross-attention adds A(x, w) W_O v_w for each word w: one vector, as large as the attention.
    So the map of what a head writes for a word is A(·, w), a word of several tokens their sum, whatever v_w is. Its
    AUROC of the patches that the named thing covers (or the background, for its colour) against all others is meant
    over scenes that say the word, `least` at least in each half: every other scene names heads, the rest judge. The
    scenes are noised pictures at one step, each with a prompt that is true of it. With joint attention it is the part
    of the pattern from patches to words. Words that no prompt has are no names.

    Units: AUROC, 0.5 by chance. Sources: Tang et al. 2022, arXiv 2210.04885, for the maps, Gandelsman et al. 2023,
    arXiv 2310.05916, for naming heads; that the two are put together and held against masks is ours. MethodError for a
    denoiser that does not attend to words, for rows that are no scenes, and where no word is said often enough.
    Baselines: the names of other heads, the masks of other scenes; the floor is the untrained model.
    What it can NOT tell: that the picture needs the head, or what it writes there: the vector may say anything. Words
    behind a name carry what the text model read before, and a head may be named by where it looks in any picture.

    >>> import cutaway
    >>> from cutaway.data import scenes
    >>> from cutaway.data.prompts import DRAWINGS
    >>> drawn = list(scenes("test", 48, world=DRAWINGS))
    >>> found = drawing_heads(cutaway.load("zoo:emoji-sd@untrained"), drawn, picks=2, progress=False)
    >>> found["word"].dims, found["auroc"].dims
    (('head', 'pick'), ('half', 'head', 'said'))
    """
    started, some, kept = time.perf_counter(), scenes_of(scenes), _Kept()
    first, *rest = sites = looking(model)
    done = 0
    for run in unit_runs(model, some, first, Posed(step=step, seed=seed), also=rest, batch=batch, progress=progress):
        done += _taken(run, sites, some[done:], kept)
    data = _named(kept, picks, least)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(map(str, sites)), seed=seed, scenes=len(some),
        picks=picks, least=least, step=step,
    )  # fmt: skip
    return DrawingHeads(data, told)


def _taken(run: Run, sites: Sequence[Site], scenes: Sequence[Scene], kept: _Kept) -> int:
    """Take in the maps of one run; how many pictures it has."""
    maps: list[ndarray] = []
    told: list[list[_Told]] = []
    heads: list[str] = []
    for site in sites:
        pattern = run[site][0, run.guidance[str(site)].index("cond")].detach().float()
        seen = sides(run.inputs, site, pattern)
        spoken = rows_of(seen.said, len(pattern))
        if not told:
            told = [list(_words(scene, row)) for scene, row in zip(scenes, spoken, strict=False)]
        if any(spoken):
            maps.append(folded(pattern, seen, sums(spoken, pattern.shape[-1]).to(pattern)).cpu().numpy())
        heads += [f"{site.layer}.{head}" for head in range(pattern.shape[1])]
    kept.heads = heads
    if maps:
        kept.add(told, maps)
    return len(told)


def _words(scene: Scene, spoken: Sequence[Word]) -> Iterator[_Told]:
    """What a prompt says of a scene: each thing once, and the colour of the background."""
    said = [word.text for word in spoken]
    masks: dict[tuple[str, str], ndarray] = {}
    for (kind, word), mask in masks_of(scene):
        if kind in KINDS:
            masks[kind, word] = masks.get((kind, word), 0.0) + mask
    for (kind, word), mask in masks.items():
        try:
            place = phrase(said, word)
        except MethodError:
            continue
        yield _Told(word, KINDS[kind], place, np.asarray(mask))


def _auroc(maps: Float[ndarray, "head row col"], mask: Float[ndarray, "h w"]) -> Float[ndarray, "head"]:
    """Of the patches that a mask covers by more than half against the others; NaN where there are none of one kind."""
    inside = on_patches(mask, *maps.shape[1:]).ravel() > 0.5
    if not inside.any() or inside.all():
        return np.full(len(maps), np.nan)
    ranks = ranked(maps.reshape(len(maps), -1).T.astype(float))
    return one_against_all(ranks, inside.astype(int), 2)[1]


def _named(kept: _Kept, picks: int, least: int) -> xarray.Dataset:
    """Names by one half of the scenes, and how they hold on the other."""
    known = {name: rows for name, rows in kept.found.items() if len(rows) >= 2 * least}
    if len(known) < 2 or picks < 1 or least < 1:
        raise MethodError(
            f"{len(known)} words are said by {2 * least} scenes or more", expected="two at least, and one pick",
            exists=", ".join(word for _, word in list(known)[:5]) or "none",
            do="give more scenes (drawings of EmojiWorld, some hundreds)",
        )  # fmt: skip
    picks = min(picks, len(known))
    means = [np.stack([np.mean([one[which] for one in rows[half::2]], 0) for rows in known.values()], 1)
             for half, which in ((0, 0), (1, 0), (1, 1))]  # fmt: skip
    own, held, moved = means  # head, word
    order = np.argsort(-own, axis=1, kind="stable")[:, :picks]
    every = held[:, order[:, 0]]  # head, the first word of which head
    count = len(order)
    another = (every.sum(1) - np.diagonal(every)) / max(count - 1, 1)
    alone = np.diagonal(every) - every.mean(1) - every.mean(0) + every.mean()
    said = [word for _, word in known]
    at = (np.arange(count)[:, None], order)
    return xarray.Dataset(
        {
            "word": (("head", "pick"), np.array(said)[order]),
            "kind": (("head", "pick"), np.array([kind for kind, _ in known])[order]),
            "fit": (("head", "pick"), own[at]), "held": (("head", "pick"), held[at]),
            "moved": (("head", "pick"), moved[at]), "another": ("head", another), "own": ("head", alone),
            "share": ("head", np.mean(kept.shares, 0)), "auroc": (("half", "head", "said"), np.stack([own, held])),
            "times": ("said", [len(rows) for rows in known.values()]),
        },
        {"head": kept.heads, "pick": range(1, picks + 1), "half": list(HALVES), "said": said},
    )  # fmt: skip
