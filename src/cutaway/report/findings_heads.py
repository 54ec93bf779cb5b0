"""What heads carry, and which layers write the name of the thing: measured on one set of scenes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from numpy import ndarray

from cutaway.data import concept
from cutaway.methods.representation_decomposition import (
    Decomposition,
    accumulated_ablation,
    decompositions,
)
from cutaway.methods.text_explanation import Spans, text_span
from cutaway.model.model import Model
from cutaway.questions.bank import TextBank, emoji_bank, text_bank
from cutaway.questions.labels import scene_labels
from cutaway.questions.rows import Rows
from cutaway.report.findings_scenes import CONCEPTS, FACTORS, LABELS, TOLD, TOPICS, lone_pairs, lone_scenes, patching
from cutaway.store.reducers import Mean
from cutaway.store.stored import Store
from cutaway.zoo.evaluate import classes, wilson

SHUFFLES = 200  # of the labels
DRAWS = 99  # of random heads or MLPs taken out of the sum
HELD = 2**26  # bytes of sums of shuffled groups at a time
READ = ("vision.0.resid_pre", "vision.*.attn.z", "vision.*.mlp.out", "vision.norm.scale", "vision.joint")


@dataclass(frozen=True)
class Anew:
    """Decompositions of a store, batch by batch, as often as they are gone over."""

    model: Model
    store: Store
    towards: TextBank | None

    def __iter__(self) -> Iterator[Decomposition]:
        return decompositions(self.model, self.store, towards=self.towards, progress=False)


def decomposed(model: Model, rows: Rows, towards: TextBank | None = None) -> Iterable[Decomposition]:
    """Batches to be gone over several times: of rows that are run they are kept, of a store made anew each time."""
    if isinstance(rows, Store):
        return Anew(model, rows, towards)
    return list(decompositions(model, rows, towards=towards, progress=False))


def heads(model: Model, n: int, seed: int, told: TOLD, rows: Store | None = None) -> xarray.Dataset:
    """For every head: how much of what it adds each factor explains, what its texts are about, what patching it does.

    `share`, `shuffled`, `shuffled_high`, `p` (factor, layer, head): see `variance_shares`; `named` (factor, layer,
    head): the share of variance that the texts about the factor explain; `recovery`, `low`, `random_high`: patching the
    head in minimal pairs of the factor. `rows`: what a store has of the scenes, in place of a run.
    """
    told("decomposing embeddings")
    some = lone_scenes(n, seed)
    parts = decomposed(model, some if rows is None else rows)
    truth = scene_labels(some)
    told("naming heads")
    spans = text_span(parts, bank(model), seed=seed, progress=False)
    found = [variance_shares(parts, truth[LABELS[factor]], seed) for factor in FACTORS]
    data = xarray.concat(found, "factor")
    data["named"] = xarray.concat([named_share(spans, TOPICS[factor]) for factor in FACTORS], "factor")
    data["variance"] = spans["variance"]
    for name in ("fit", "random_fit", "text", "topic"):
        data[name] = spans[name].isel(pick=0, drop=True)
    patched = []
    for factor, given in lone_pairs(max(8, n // 16), seed, 5).items():
        told(f"patching heads, {factor}")
        patched.append(patching(model, given, sites="vision.*.attn.z", over=("head",), seed=seed, batch=32))
    data = data.merge(xarray.concat(patched, "factor").rename(mean="recovery"))
    return data.assign_coords(factor=list(FACTORS)).assign_attrs(items=n, pairs=max(8, n // 16))


def bank(model: Model) -> TextBank:
    """The texts heads are named by: at most 48 of a topic; there are no more than nine places and three artists."""
    return emoji_bank(model, tuple(TOPICS.values()), limit=48, progress=False)


def variance_shares(parts: Iterable[Decomposition], truth: Any, seed: int) -> xarray.Dataset:
    """R^2 = sum_g n_g |mean_g - mean|^2 / sum_i |c_i - mean|^2 of every head, and the same with labels shuffled.

    `shuffled`, `shuffled_high`: mean and 97.5 % point. `p`: the share of shufflings in which *any* head lies as many
    standard deviations above its own mean (Westfall and Young 1993), so that 5 % is the chance of one false head. The
    batches are gone over several times; what is held are sums by group, `HELD` bytes of them.
    """
    centre = Mean()
    for part in parts:
        centre.add(torch.from_numpy(_of_heads(part)))
    _, groups = np.unique(truth, return_inverse=True)
    draw, middle = np.random.default_rng(seed), centre.value.numpy()
    every = np.stack([groups, *(draw.permutation(groups) for _ in range(SHUFFLES))])
    some = max(1, HELD // (middle.nbytes * (groups.max() + 1)))
    own, *rest = np.concatenate(
        [_between(parts, middle, every[at : at + some]) for at in range(0, len(every), some)]
    )  # fmt: skip
    shuffled = np.stack(rest)
    mean, spread = shuffled.mean(0), np.maximum(shuffled.std(0), 1e-12)
    largest = ((shuffled - mean) / spread).max((1, 2))
    p = (1 + (largest[:, None, None] >= (own - mean) / spread).sum(0)) / (1 + SHUFFLES)
    values = {"share": own, "shuffled": mean, "shuffled_high": np.quantile(shuffled, 0.975, 0), "p": p}
    return xarray.Dataset({name: (("layer", "head"), value) for name, value in values.items()})


def _of_heads(part: Decomposition) -> Float[ndarray, "item layer head joint"]:
    values = part.vectors("heads").transpose("item", "layer", "head", "joint").values
    return np.asarray(values, dtype=np.float64)


def _between(
    parts: Iterable[Decomposition], middle: Float[ndarray, "layer head joint"], groups: Int[ndarray, "shuffle item"]
) -> Float[ndarray, "shuffle layer head"]:
    """The share of the variance between groups, for each assignment of items to groups."""
    sizes, count = np.bincount(groups[0]), len(groups)
    sums, total, start = np.zeros((count * len(sizes), middle.size)), np.zeros(middle.shape[:2]), 0
    for part in parts:
        moved = _of_heads(part) - middle
        member = np.eye(len(sizes))[groups[:, start : start + len(moved)]]  # shuffle, item, group
        sums += member.swapaxes(1, 2).reshape(len(sums), -1) @ moved.reshape(len(moved), -1)
        total += (moved**2).sum((0, 3))
        start += len(moved)
    between = (sums**2).reshape(count, len(sizes), *middle.shape).sum(-1) / sizes[:, None, None]
    return np.asarray(between.sum(1) / np.maximum(total, 1e-30))


def named_share(spans: Spans, topic: str) -> xarray.DataArray:
    """The share of each head's variance that its picks about a topic explain."""
    explained = spans["explained"].values
    each = np.diff(explained, axis=-1, prepend=0)
    return xarray.DataArray((each * (spans["topic"].values == topic)).sum(-1), dims=("layer", "head"))


def direct(model: Model, n: int, seed: int, told: TOLD, rows: Store | None = None) -> xarray.Dataset:
    """Naming one of `CONCEPTS` things while the direct effects of more and more layers are replaced by their mean.

    `accuracy` (what, order, layers), `random_low`, `random_high` (what, layers), `majority`; what: heads or MLPs.
    `low`: the lower end of the 95 % interval of the accuracy with nothing replaced.
    """
    told("taking layers out of the sum")
    some, names = lone_scenes(n, seed, 1), classes(CONCEPTS, seed)
    texts = text_bank(model, [concept(name).one for name in names], progress=False)
    parts = decomposed(model, some if rows is None else rows, texts)
    truth = np.array([names.index(scene.things[0].concept) for scene in some])
    curves = [
        accumulated_ablation(parts, texts, truth, what=what, draws=DRAWS, seed=seed).data for what in ("heads", "mlps")
    ]  # fmt: skip
    data = xarray.concat(curves, "what").assign_coords(what=["heads", "MLPs"])
    data["low"] = wilson(float(data["accuracy"].isel(what=0, order=0, layers=0)), n)[0]
    return data.assign_attrs(items=n)


# --- what is made of it -----------------------------------------------------------------------------------------------


def beyond(found: xarray.Dataset) -> xarray.DataArray:
    """What a factor explains of a head beyond shuffled labels: (share - shuffled) / (1 - shuffled), not below 0."""
    return ((found["share"] - found["shuffled"]) / (1 - found["shuffled"])).clip(0)


def amount(found: xarray.Dataset) -> xarray.DataArray:
    """The same in the variance of all heads together: a head that hardly moves carries little, whatever its share."""
    return beyond(found) * found["variance"] / found["variance"].sum(("layer", "head"))
