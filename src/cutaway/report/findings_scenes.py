"""What a page of findings is measured on: scenes and minimal pairs of one thing each, and what counts as right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.data import Pair, Scene, World, pairs, render
from cutaway.methods.causal_tracing import activation_patching
from cutaway.model.edits import Edit
from cutaway.model.model import Model
from cutaway.questions.drawn import apart
from cutaway.questions.pairs import closer_to
from cutaway.store.sources import Scenes
from cutaway.zoo.evaluate import classes

FACTORS = ("background", "place", "category", "artist")  # of `cutaway.data.pairs`
TOPICS = {"background": "background", "place": "place", "category": "concept", "artist": "artist"}  # of the text bank
LABELS = TOPICS  # of the scenes
PROBED = LABELS | {"category": "group"}  # a probe of every concept would need more scenes
CONCEPTS, BOOTSTRAPS = 48, 2000
TOLD = Callable[[str], None]


def lone(n: int, seed: int, part: int = 0) -> Scenes:
    """Held-out scenes of one unpainted thing each, of `CONCEPTS` concepts; other parts of a page have other scenes."""
    return Scenes(n, "test", 10 * seed + part, World(things=(1, 1), names=classes(CONCEPTS, seed), tinted=0.0))


def lone_scenes(n: int, seed: int, part: int = 0) -> list[Scene]:
    """The same as a list."""
    data = lone(n, seed, part)
    return [data.scene(at) for at in range(n)]


def lone_pairs(n: int, seed: int, part: int = 0) -> dict[str, list[Pair]]:
    """Minimal pairs of every factor, of one thing each."""
    world = World(things=(1, 1))
    return {factor: list(pairs(factor, n, "test", 10 * seed + part, world)) for factor in FACTORS}


class Retrieval:
    """Pairs of one factor, drawn and embedded once: how far each picture prefers its own caption to the other."""

    def __init__(self, model: Model, given: Sequence[Pair]) -> None:
        self.model = model
        pictures = [render(scene) for pair in given for scene in (pair.a, pair.b)]
        own = [text for pair in given for text in (pair.caption_a.text, pair.caption_b.text)]
        other = [text for pair in given for text in (pair.caption_b.text, pair.caption_a.text)]
        target = closer_to(model, own, other)
        starts = range(0, len(pictures), 128)
        self.batches = [(model.inputs(image=pictures[i : i + 128]), target.rows(i, i + 128)) for i in starts]

    def clean(self) -> Float[ndarray, "pair 2"]:
        """cos(picture, own caption) - cos(picture, other caption)."""
        return _pairs([target(self.model.run(inputs)) for inputs, target in self.batches])[0]

    def under(self, cells: Iterable[Sequence[Edit]]) -> Float[ndarray, "cell pair 2"]:
        """The same under each of several lists of edits."""
        given = list(cells)
        swept = [self.model.sweep(inputs, given, target, progress=False) for inputs, target in self.batches]
        return _pairs([torch.from_numpy(one.values.values.reshape(len(given), -1)) for one in swept])


def _pairs(parts: list[Tensor]) -> Float[ndarray, "cell pair 2"]:
    whole = torch.cat([torch.atleast_2d(part) for part in parts], 1).double().cpu().numpy()
    return np.asarray(whole.reshape(len(whole), -1, 2))


def known(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """How often a picture prefers its own caption to its counterpart's: `right` (factor), two choices a pair.

    `low`, `high`: the 95 % interval, from a bootstrap over pairs; `margin`: the mean difference of the cosines.
    """
    told("telling pairs apart")
    given = lone_pairs(max(8, n // 4), seed, 4)
    margins = np.stack([Retrieval(model, given[factor]).clean() for factor in FACTORS])
    right = (margins > 0).mean(2)
    low, high = np.quantile(right @ resampled(right.shape[1], seed).T, (0.025, 0.975), axis=1)
    numbers = {"right": right.mean(1), "low": low, "high": high, "margin": margins.mean((1, 2))}
    data = xarray.Dataset({name: ("factor", values) for name, values in numbers.items()})
    return data.assign_coords(factor=list(FACTORS)).assign_attrs(choices=margins[0].size)


def resampled(n: int, seed: int) -> Float[ndarray, "draw n"]:
    """The weights of n things in each of `BOOTSTRAPS` resamplings."""
    return np.asarray(np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), BOOTSTRAPS) / n)


def patching(model: Model, given: Sequence[Pair], **options: Any) -> xarray.Dataset:
    """Mean recovery with its interval and baseline; NaN when no pair of captions differs for the model's text tower."""
    names = ["mean", "low", "high", "random", "random_high"]
    own, other, target = apart(model, given)
    if torch.allclose(target.to, target.than, rtol=0, atol=1e-6 * float(target.to.abs().max())):
        count, heads = model.sites.towers()["vision"], model.sites.one("vision.0.attn.z").sizes["head"]
        sizes = {"layer": count, **({"head": heads} if "head" in options["over"] else {})}
        empty = xarray.DataArray(
            np.full(list(sizes.values()), np.nan), dims=list(sizes), coords={"layer": range(count)}
        )
        return xarray.Dataset(dict.fromkeys(names, empty)).assign(used=0)
    one = activation_patching(model, own, other, target, progress=False, **options)
    return one.data[names].drop_vars("site").assign(used=int(one["used"].sum()))
