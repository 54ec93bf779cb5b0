"""What the picture tokens of a model that answers read as, and whether that tells what is there from what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from numpy import ndarray

from cutaway.data import Scene, concept, concepts, coverage, render, scenes
from cutaway.methods.logit_lens import LatentBank, TunedLens, embedding_bank, latent_bank, latent_lens, tuned_lens
from cutaway.methods.logit_lens import word_lens as read_words
from cutaway.methods.truth import COVERED, Fit, detector, fit, on_patches
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.questions.bank import emoji_texts
from cutaway.report.findings_scenes import BOOTSTRAPS, resampled

QUESTION = "What does the picture show?"
LENSES = ("logit", "tuned", "latent", "embedding")
OUTPUT, RANDOM, ANY = "output", "random", "any"  # what was said with, a number by chance; over all layers
BATCH, STEPS, LONGEST, TEXTS, EACH = 16, 200, 64, 512, 5
TOLD = Callable[[str], None]


@dataclass(frozen=True)
class Read:
    """One picture through one lens: per word (layer, row, col), and the first word (layer, row, col) as a token."""

    words: Mapping[str, ndarray]
    first: ndarray


class Lenses:
    """The four lenses of a model: a tuned lens that is fitted on pictures of training, states of words of its texts."""

    def __init__(self, model: Model, kept: Path | None = None, told: TOLD = lambda _: None) -> None:
        """`kept` is the folder of the tuned lens: what is there is opened, else it is fitted and kept there."""
        self.model = model
        told("states of words")
        self.banks: dict[str, LatentBank] = {
            "latent": latent_bank(model, emoji_texts(TEXTS), each=EACH, progress=False),
            "embedding": embedding_bank(model),
        }
        if kept is not None and kept.is_dir():
            self.tuned = TunedLens.load(kept)
            return
        told("fitting a tuned lens")
        rows = [asked(model, some) for some in chunks(scenes("train", 8 * STEPS // 4), 8)]
        self.tuned = tuned_lens(model, rows, steps=STEPS, positions=512, progress=False)
        if kept is not None:
            self.tuned.save(kept)

    def __call__(self, given: Sequence[Scene], words: Sequence[Sequence[str]]) -> Iterator[dict[str, Read]]:
        """What the picture tokens of each scene read as by every lens, and how much as its words.

        Log-probabilities of the logit lens and the tuned lens, cosines of the others.
        """
        inputs = asked(self.model, given)
        every = sorted({word for some in words for word in some}) or [concepts()[0].name]
        found: dict[str, Any] = {}
        for name, lens in (("logit", None), ("tuned", self.tuned)):
            found[name] = read_words(self.model, inputs, every, top=1, tuned=lens, draws=1, progress=False)
        for name, bank in self.banks.items():
            found[name] = latent_lens(self.model, inputs, bank, every, top=1, draws=1, progress=False)
        for at, mine in enumerate(words):
            yield {name: _folded(one, at, mine, name in self.banks) for name, one in found.items()}


def _folded(found: Any, prompt: int, words: Sequence[str], latent: bool) -> Read:
    values = found.on_grid("word_cosine" if latent else "word_probability", prompt)
    maps = {word: values.sel(word=word).values.astype(float) for word in words}
    if not latent:
        maps = {word: np.log(np.maximum(one, np.finfo(np.float32).tiny)) for word, one in maps.items()}
    return Read(maps, found.on_grid("near_id" if latent else "top_id", prompt).isel(rank=0).values)


def asked(model: Model, given: Sequence[Scene]) -> Inputs:
    """Scenes, with the question that a caption answers."""
    return model.inputs(image=[render(scene) for scene in given], text=[QUESTION] * len(given))


def chunks(values: Any, size: int) -> Iterator[list[Any]]:
    """Lists of `size` of a stream."""
    stream = iter(values)
    while some := list(islice(stream, size)):
        yield some


def ids_of(model: Model) -> dict[str, int]:
    """The token of every name of a thing."""
    names = [one.name for one in concepts()]
    return dict(zip(names, model.tokenizer.convert_tokens_to_ids(names), strict=True))


def shown(scene: Scene, name: str) -> bool:
    """Whether a scene shows a thing that a name may mean."""
    return any(concept(name).is_kin(thing.concept) for thing in scene.things)


# --- maps against masks -----------------------------------------------------------------------------------------------


def maps(lenses: Lenses, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """Maps of the words of what is shown, against the masks: by lens and layer, each with its interval over scenes.

    `iou`, `hit`, and the same of shuffled patches; `reads`: the share of patches which one thing covers at least half
    that read first as its name (or that of a kin), with `reads_shuffled`, the same of a patch of the picture by chance.
    """
    ids = ids_of(lenses.model)
    rows: list[dict[str, dict[str, ndarray]]] = []
    for start, some in enumerate(chunks(scenes("test", n, seed), BATCH)):
        told(f"maps, scene {start * BATCH}")
        words = [sorted({thing.concept for thing in scene.things}) for scene in some]
        for scene, mine, read in zip(some, words, lenses(some, words), strict=True):
            rows.append({name: against(scene, mine, one, ids, seed + len(rows)) for name, one in read.items()})
    weights = resampled(len(rows), seed)
    data: dict[str, Any] = {}
    for what in ("iou", "hit", "reads"):
        for suffix in ("", "_shuffled"):
            sums = np.array([[row[lens][what + suffix] for lens in LENSES] for row in rows])  # scene, lens, layer, 2
            total = sums.sum(0)
            drawn = np.einsum("bs,slkp->blkp", weights, sums)
            low, high = np.quantile(drawn[..., 0] / drawn[..., 1], (0.025, 0.975), axis=0)
            for part, values in (("", total[..., 0] / total[..., 1]), ("_low", low), ("_high", high)):
                data[what + suffix + part] = ("lens", "layer"), values
    layers = range(-1, next(iter(rows[0].values()))["iou"].shape[0] - 1)
    counts = {what: int(sum(row["logit"][what][0, 1] for row in rows)) for what in ("iou", "reads")}
    made = xarray.Dataset(data, coords={"lens": list(LENSES), "layer": list(layers)})
    return made.assign(words=counts["iou"], tokens=counts["reads"])


def against(scene: Scene, words: Sequence[str], read: Read, ids: Mapping[str, int], seed: int) -> dict[str, ndarray]:
    """The sum and the number of trials of each measure, (layer, 2)."""
    layers, rows, cols = read.first.shape
    things = [on_patches(layer, rows, cols) for layer in coverage(scene)[1 : 1 + len(scene.things)]]
    found: list[Fit] = []
    for word in words:
        kin = [part for part, thing in zip(things, scene.things, strict=True) if concept(word).is_kin(thing.concept)]
        truth = np.sum(kin, 0)
        if (truth >= COVERED).any():
            found.append(fit(read.words[word], truth >= COVERED, seed=seed))
    sums = {
        name + suffix: np.array([getattr(one, name + suffix) for one in found]).reshape(-1, layers).sum(0)
        for name in ("iou", "hit") for suffix in ("", "_shuffled")
    }  # fmt: skip
    made = {name: np.stack([total, np.full(layers, len(found))], -1) for name, total in sums.items()}
    right, chance, count = np.zeros(layers), np.zeros(layers), 0
    for part, thing in zip(things, scene.things, strict=True):
        names = [ids[name] for name in (thing.concept, *concept(thing.concept).kin) if name in ids]
        says, on = np.isin(read.first, names), part >= COVERED
        right += says[:, on].sum(-1)
        chance += on.sum() * says.mean((1, 2))
        count += int(on.sum())
    both = {"reads": right, "reads_shuffled": chance}
    return made | {name: np.stack([total, np.full(layers, count)], -1) for name, total in both.items()}


# --- what is said and not there ---------------------------------------------------------------------------------------


def mentions(model: Model, given: Sequence[Scene]) -> list[dict[str, float]]:
    """The names of things in the caption of each scene, each with its probability when it was first said."""
    ids = {token: name for name, token in ids_of(model).items()}
    inputs = asked(model, given)
    made = model.generate(
        inputs, do_sample=False, max_new_tokens=LONGEST, output_scores=True, return_dict_in_generate=True
    )
    scores = torch.stack(made.outputs.scores, 1).float().softmax(-1)
    new = made.ids[:, -scores.shape[1] :]
    ends = (new == model.module.generation_config.eos_token_id).cumsum(1) > 0
    found: list[dict[str, float]] = []
    for row, over, said in zip(new.tolist(), ends.tolist(), scores, strict=True):
        mine: dict[str, float] = {}
        for at, token in enumerate(row):
            if token in ids and not over[at]:
                mine.setdefault(ids[token], float(said[at, token]))
        found.append(mine)
    return found


def hallucinated(model: Model, readers: Mapping[str, Lenses], n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """Whether lenses tell what a caption mentions rightly from what is not there: AUROC by reader, lens and layer.

    The score of a mention is the greatest number of its word at any picture token: at one layer, or at `any`. Beside
    it the probability with which the word was said, and a random number.
    """
    real, group, said = [], [], []
    scores: dict[str, dict[str, list[ndarray]]] = {who: {lens: [] for lens in LENSES} for who in readers}
    for start, some in enumerate(chunks(scenes("test", n, seed), BATCH)):
        told(f"captions, scene {start * BATCH}")
        named = mentions(model, some)
        for at, (scene, mine) in enumerate(zip(some, named, strict=True)):
            real += [shown(scene, name) for name in mine]
            group += [start * BATCH + at] * len(mine)
            said += list(mine.values())
        for who, lenses in readers.items():
            for mine, read in zip(named, lenses(some, [list(one) for one in named]), strict=True):
                for lens in LENSES:
                    scores[who][lens] += [read[lens].words[name].max((1, 2)) for name in mine]
    truth = np.array(real, bool)
    dice = np.random.default_rng(seed)
    flat: dict[str, ndarray] = {OUTPUT: np.array(said), RANDOM: dice.random(len(said))}
    layers: list[str] = []
    for who, by_lens in scores.items():
        for lens, values in by_lens.items():
            whole = np.nan_to_num(np.array(values), nan=-1.0)  # of words that the bank lacks
            layers = [*map(str, range(-1, whole.shape[1] - 1)), ANY]
            flat |= {f"{who}/{lens}/{name}": whole[:, at] for at, name in enumerate(layers[:-1])}
            flat[f"{who}/{lens}/{ANY}"] = whole.max(1)
    told("resampling")
    made = detector(flat, truth, np.array(group), than=OUTPUT, draws=BOOTSTRAPS, seed=seed)
    counts = {"mentions": len(truth), "real": int(truth.sum())}
    return _detected(made, list(readers), layers).assign(counts)


def _detected(made: Any, readers: list[str], layers: list[str]) -> xarray.Dataset:
    """The numbers of a detector, by reader, lens and layer; those that have none of these alone."""
    data: dict[str, Any] = {}
    for what in ("auroc", "low", "high"):
        values: Mapping[str, float] = getattr(made, what)
        grid = [[[values[f"{who}/{lens}/{at}"] for at in layers] for lens in LENSES] for who in readers]
        data[what] = ("reader", "lens", "layer"), np.array(grid)
        data |= {f"{name}_{what}": ((), values[name]) for name in (OUTPUT, RANDOM)}
    for at, what in enumerate(("gain", "gain_low", "gain_high")):
        grid = [[[made.gain[f"{who}/{lens}/{one}"][at] for one in layers] for lens in LENSES] for who in readers]
        data[what] = ("reader", "lens", "layer"), np.array(grid)
    return xarray.Dataset(data, coords={"reader": readers, "lens": list(LENSES), "layer": layers})
