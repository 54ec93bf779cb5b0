"""What is measured for a page of findings: what heads carry, what they are needed for, where factors are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from cutaway.data import Pair, Scene, World, concept, pairs, render, scenes
from cutaway.methods.activation_patching import activation_patching
from cutaway.methods.erasure import erase
from cutaway.methods.feed import embedded
from cutaway.methods.linear_probing import linear_probing
from cutaway.methods.minimal_pairs import closer_to
from cutaway.methods.representation_decomposition import (
    Decomposition,
    accumulated_ablation,
    representation_decomposition,
)
from cutaway.methods.scene_labels import scene_labels
from cutaway.methods.text_bank import TextBank, emoji_bank, text_bank
from cutaway.methods.text_explanation import Spans, text_span
from cutaway.model.edits import Ablate, Edit
from cutaway.model.model import Model
from cutaway.model.tokens import Where
from cutaway.zoo.evaluate import classes

FACTORS = ("background", "place", "category", "artist")  # of `cutaway.data.pairs`
TOPICS = {"background": "background", "place": "place", "category": "concept", "artist": "artist"}  # of the text bank
LABELS = {"background": "background", "place": "place", "category": "concept", "artist": "artist"}  # of the scenes
PROBED = LABELS | {"category": "group"}  # a probe of every concept would need more scenes
CONCEPTS, SHUFFLES, DRAWS, BOOTSTRAPS = 48, 100, 20, 2000
SPLITS = 2  # of the scenes, for erasure
LARGEST_SET = 3  # heads that are ablated together for a factor, at most
SIDES = ("caption_a", "caption_b")
TOLD = Callable[[str], None]

Pairs = dict[str, list[Pair]]
Place = tuple[int, int]  # layer, head


def lone_scenes(n: int, seed: int) -> list[Scene]:
    """Held-out scenes of one unpainted thing each, of `CONCEPTS` concepts, so that every factor has one value."""
    world = World(things=(1, 1), names=classes(CONCEPTS, seed), tinted=0.0)
    return list(scenes("test", n, seed, world))


def lone_pairs(n: int, seed: int) -> Pairs:
    """Minimal pairs of every factor, of one thing each."""
    world = World(things=(1, 1))
    return {factor: list(pairs(factor, n, "test", seed, world)) for factor in FACTORS}


def known(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """How often a picture prefers its own caption to its counterpart's: `right` (factor), two choices a pair.

    `low`, `high`: the 95 % interval, from a bootstrap over pairs.
    """
    told("telling pairs apart")
    given = lone_pairs(max(8, n // 4), seed + 3)
    margins = np.stack([Retrieval(model, given[factor]).margins([]) for factor in FACTORS])
    right = (margins > 0).mean(2)
    pairs_of = right.shape[1]
    weights = np.random.default_rng(seed).multinomial(pairs_of, np.full(pairs_of, 1 / pairs_of), BOOTSTRAPS) / pairs_of
    low, high = np.quantile(right @ weights.T, (0.025, 0.975), axis=1)
    numbers = {"right": right.mean(1), "low": low, "high": high, "margin": margins.mean((1, 2))}
    data = xarray.Dataset({name: ("factor", values) for name, values in numbers.items()})
    return data.assign_coords(factor=list(FACTORS)).assign_attrs(choices=margins[0].size)


# --- what heads carry -------------------------------------------------------------------------------------------------


def heads(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """For every head: how much of what it adds each factor explains, what its texts are about, what patching it does.

    `share` (factor, layer, head): R^2 of the head's contributions on the labels, `shuffled` and `shuffled_high`: the
    mean and the 97.5 % point with labels shuffled; `named` (factor, layer, head): the share of variance that the texts
    about the factor explain; `recovery`, `low`, `random_high`: patching the head in minimal pairs of the factor.
    """
    told("decomposing embeddings")
    some = lone_scenes(n, seed)
    parts = representation_decomposition(model, some, progress=False)
    truth = scene_labels(some)
    told("naming heads")
    spans = text_span(parts, bank(model), seed=seed, progress=False)
    found = [variance_shares(parts, truth[LABELS[factor]], seed) for factor in FACTORS]
    data = xarray.concat(found, "factor")
    data["named"] = xarray.concat([named_share(spans, TOPICS[factor]) for factor in FACTORS], "factor")
    for name in ("variance", "fit", "random_fit"):
        data[name] = spans[name] if name == "variance" else spans[name].isel(pick=0, drop=True)
    data["text"], data["topic"] = spans["text"].isel(pick=0, drop=True), spans["topic"].isel(pick=0, drop=True)
    patched = []
    for factor, given in lone_pairs(max(8, n // 8), seed).items():
        told(f"patching heads, {factor}")
        patched.append(_patching(model, given, sites="vision.*.attn.z", over=("head",), seed=seed, batch=32))
    data = data.merge(xarray.concat(patched, "factor").rename(mean="recovery"))
    return data.assign_coords(factor=list(FACTORS)).assign_attrs(items=n, pairs=max(8, n // 8))


def direct(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """Naming one of `CONCEPTS` things while the direct effects of more and more layers are replaced by their mean.

    `accuracy` (what, order, layers), `random_low`, `random_high` (what, layers), `majority`; what: heads or MLPs.
    """
    told("taking layers out of the sum")
    some, names = lone_scenes(n, seed + 4), classes(CONCEPTS, seed + 4)
    parts = representation_decomposition(model, some, progress=False)
    texts = text_bank(model, [concept(name).one for name in names], progress=False)
    truth = np.array([names.index(scene.things[0].concept) for scene in some])
    curves = [accumulated_ablation(parts, texts, truth, what=what, seed=seed).data for what in ("heads", "mlps")]
    return xarray.concat(curves, "what").assign_coords(what=["heads", "MLPs"]).assign_attrs(items=n)


def _patching(model: Model, given: Sequence[Pair], **options: Any) -> xarray.Dataset:
    """Mean recovery with its interval and baseline; NaN when no pair of captions differs for the model's text tower."""
    names = ["mean", "low", "high", "random", "random_high"]
    to, than = (embedded(model, [getattr(pair, name).text for pair in given], "text", progress=False) for name in SIDES)
    if torch.allclose(to, than, rtol=0, atol=1e-6 * float(to.abs().max())):
        count, heads = model.sites.towers()["vision"], model.sites.one("vision.0.attn.z").sizes["head"]
        sizes = {"layer": count, **({"head": heads} if "head" in options["over"] else {})}
        empty = xarray.DataArray(
            np.full(list(sizes.values()), np.nan), dims=list(sizes), coords={"layer": range(count)}
        )
        return xarray.Dataset(dict.fromkeys(names, empty)).assign(used=0)
    one = activation_patching(model, given, progress=False, **options)
    return one.data[names].drop_vars("site").assign(used=int(one["used"].sum()))


def bank(model: Model) -> TextBank:
    """The texts heads are named by: as many of each topic as the places allow for, so that no topic wins by number."""
    return emoji_bank(model, tuple(TOPICS.values()), limit=48, progress=False)


def variance_shares(parts: Decomposition, truth: Any, seed: int) -> xarray.Dataset:
    """R^2 = sum_g n_g |mean_g - mean|^2 / sum_i |c_i - mean|^2 of every head, and the same with labels shuffled."""
    terms = parts["heads"].transpose("layer", "head", "item", "joint").values.astype(np.float64)
    moved = terms - terms.mean(2, keepdims=True)
    _, groups = np.unique(truth, return_inverse=True)
    draw = np.random.default_rng(seed)
    shuffled = np.stack([_between(moved, draw.permutation(groups)) for _ in range(SHUFFLES)])
    axes = ("layer", "head")
    values = {
        "share": _between(moved, groups), "shuffled": shuffled.mean(0), "shuffled_high": np.quantile(shuffled, 0.975, 0)
    }  # fmt: skip
    return xarray.Dataset({name: (axes, value) for name, value in values.items()})


def _between(moved: Float[ndarray, "layer head item joint"], groups: ndarray) -> Float[ndarray, "layer head"]:
    member = np.eye(groups.max() + 1)[groups]  # item, group
    sums = np.einsum("ig,lhij->lhgj", member, moved, optimize=True)
    between = ((sums**2).sum(-1) / member.sum(0)).sum(-1)
    return np.asarray(between / np.maximum((moved**2).sum((-1, -2)), 1e-30))


def named_share(spans: Spans, topic: str) -> xarray.DataArray:
    """The share of each head's variance that its picks about a topic explain."""
    explained = spans["explained"].values
    each = np.diff(explained, axis=-1, prepend=0)
    return xarray.DataArray((each * (spans["topic"].values == topic)).sum(-1), dims=("layer", "head"))


# --- what ablating heads costs ----------------------------------------------------------------------------------------


def named_heads(found: xarray.Dataset, factor: str) -> list[Place]:
    """The heads whose texts speak of a factor most: at most `LARGEST_SET`, by share times variance, first text of it.

    When no head's first text is about the factor, the one head whose texts speak of it most.
    """
    weight = found["named"].sel(factor=factor) * found["variance"]
    first = (found["topic"] == TOPICS[factor]).values
    chosen = np.where(first, weight.values, -1) if first.any() else weight.values
    order = np.argsort(-chosen, axis=None)[: LARGEST_SET if first.any() else 1]
    places = [tuple(map(int, np.unravel_index(i, chosen.shape))) for i in order if chosen.flat[i] >= 0]
    return sorted((layer, head) for layer, head in places)


def ablation(model: Model, found: xarray.Dataset, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """What mean-ablating the heads named for a factor costs on the pairs of every factor, beside random heads.

    `right` (factor): share of choices that are right unedited; `drop` (ablated, factor): how much fewer, with `low`
    and `high` from a bootstrap over pairs; `random` (ablated, factor, draw): the drop for as many other heads of the
    same layers; `margin` and `random_margin`: the share of the mean margin lost, in the same way.
    """
    given = {factor: Retrieval(model, some) for factor, some in lone_pairs(max(8, n // 6), seed).items()}
    reference = _mean_heads(model, lone_scenes(min(n, 256), seed + 1))
    clean = {factor: one.margins([]) for factor, one in given.items()}
    draw, rows = np.random.default_rng(seed), []
    for factor in FACTORS:
        told(f"ablating the heads named for {factor}")
        chosen = named_heads(found, factor)
        sets = [chosen, *others(chosen, found.sizes["head"], draw, DRAWS)]
        cost = [
            {name: one.margins(_without(heads, reference)) for name, one in given.items()} for heads in sets
        ]  # fmt: skip
        rows.append(xarray.concat([_costs(clean[name], [c[name] for c in cost], seed) for name in FACTORS], "factor"))
    data = xarray.concat(rows, "ablated").assign_coords(factor=list(FACTORS), ablated=list(FACTORS))
    data["right"] = ("factor", [float((clean[name] > 0).mean()) for name in FACTORS])
    data["heads"] = ("ablated", [", ".join(f"{a}.{b}" for a, b in named_heads(found, name)) for name in FACTORS])
    return data.assign_attrs(pairs=max(8, n // 6), draws=DRAWS, reference=min(n, 256))


class Retrieval:
    """Pairs of one factor, drawn and embedded once: how far each picture prefers its own caption to the other."""

    def __init__(self, model: Model, given: Sequence[Pair]) -> None:
        self.model = model
        pictures = [render(scene) for pair in given for scene in (pair.a, pair.b)]
        own = [text for pair in given for text in (pair.caption_a.text, pair.caption_b.text)]
        other = [text for pair in given for text in (pair.caption_b.text, pair.caption_a.text)]
        self.target = closer_to(model, own, other)
        self.inputs = [(i, model.inputs(image=pictures[i : i + 128])) for i in range(0, len(pictures), 128)]

    def margins(self, edits: Sequence[Edit]) -> Float[ndarray, "pair 2"]:
        """cos(picture, own caption) - cos(picture, other caption) under edits."""
        found = []
        for start, inputs in self.inputs:
            target = self.target.rows(start, start + 128)
            found.append(target(self.model.run(inputs, edits=edits)).double().cpu())
        return np.asarray(torch.cat(found).numpy().reshape(-1, 2))


def others(chosen: Sequence[Place], heads: int, draw: np.random.Generator, draws: int) -> list[list[Place]]:
    """Different sets of as many heads of the same layers, drawn among those not chosen where a layer has enough.

    Where it has not, some of the chosen may be among them; never all.
    """
    pools = []
    for layer in sorted({layer for layer, _ in chosen}):
        mine = [head for at, head in chosen if at == layer]
        rest = [head for head in range(heads) if head not in mine]
        pool = rest if len(rest) >= len(mine) else list(range(heads))
        pools.append([[(layer, head) for head in some] for some in combinations(pool, len(mine))])
    every = [found for several in product(*pools) if set(found := list(chain(*several))) != set(chosen)]
    return [every[i] for i in draw.permutation(len(every))[:draws]]


def _mean_heads(model: Model, some: Sequence[Scene]) -> dict[str, Tensor]:
    run = model.run(model.inputs(image=[render(scene) for scene in some]), record="vision.*.attn.z")
    return {name: value.mean(0, keepdim=True) for name, value in run.activations.items()}


def _without(heads: Sequence[Place], reference: dict[str, Tensor]) -> list[Edit]:
    return [Ablate(f"vision.{layer}.attn.z", "mean", reference, head=head) for layer, head in heads]


def _costs(clean: Float[ndarray, "pair 2"], under: list[ndarray], seed: int) -> xarray.Dataset:
    """Drop of the share of right choices and of the margin: of the first entry with intervals, of the others plain."""
    n = len(clean)
    right = [(clean > 0).astype(float).mean(1) - (one > 0).mean(1) for one in under]
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), BOOTSTRAPS) / n
    low, high = np.quantile(weights @ right[0], (0.025, 0.975))
    whole = clean.mean() or np.nan
    lost = [1 - one.mean() / whole for one in under]
    resampled = weights @ clean.mean(1)
    margins = 1 - (weights @ under[0].mean(1)) / np.where(resampled == 0, np.nan, resampled)
    lost_low, lost_high = np.quantile(margins, (0.025, 0.975))
    single = {
        "drop": right[0].mean(), "low": low, "high": high, "margin": lost[0], "margin_low": lost_low,
        "margin_high": lost_high,
    }  # fmt: skip
    data = xarray.Dataset({name: ((), float(value)) for name, value in single.items()})
    rest = [np.nan] * (DRAWS + 1 - len(under))  # where there are fewer other sets
    data["random"] = ("draw", [float(one.mean()) for one in right[1:]] + rest)
    data["random_margin"] = ("draw", [float(one) for one in lost[1:]] + rest)
    return data


# --- where factors are read and used ----------------------------------------------------------------------------------


def layers(model: Model, n: int, seed: int, told: TOLD, *, with_erasure: bool = True) -> xarray.Dataset:
    """Along the layers, at the class token: what probes read, what patching recovers, what erasing costs.

    `read`, `read_low`, `read_high`, `selectivity`, `majority` (factor, layer); `used`, `used_low`, `used_high`,
    `used_random` (factor, layer): recovery in minimal pairs; `kept`, `kept_random` (factor, layer, split): the share
    of the margin for the own caption that is left after the probe's directions are erased there, or as many at random.
    """
    some = lone_scenes(n, seed + 2)
    truth = scene_labels(some)
    told("probing")
    probes = linear_probing(
        model, [render(scene) for scene in some], {factor: truth[PROBED[factor]] for factor in FACTORS},
        sites="vision.*.resid_post", seeds=(seed, seed + 1, seed + 2), batch=128, progress=False,
    )  # fmt: skip
    renamed = {"mean": "read", "low": "read_low", "high": "read_high", "label": "factor", "selectivity": "selectivity"}
    data = probes.data[["mean", "low", "high", "selectivity"]].rename(renamed)
    data["majority"] = probes["majority"].mean(("site", "seed")).rename(label="factor")
    data = data.swap_dims(site="layer").drop_vars(["site", "metric"])
    given = lone_pairs(max(8, n // 8), seed + 2)
    curves = []
    for factor in FACTORS:
        told(f"patching layers, {factor}")
        curve = _patching(model, given[factor], over=(), at=Where("cls"), seed=seed, batch=64)
        curve = curve.drop_vars(["used", "random_high"])
        curves.append(curve.rename({k: f"used_{k}" for k in ("low", "high", "random")}))
    data = data.merge(xarray.concat(curves, "factor").rename(mean="used").assign_coords(factor=list(FACTORS)))
    if with_erasure:
        data = data.merge(_erased(model, some, truth, given, seed, told))
    return data.transpose("factor", "layer", ...).assign_attrs(items=n, pairs=max(8, n // 8))


def _erased(
    model: Model, some: Sequence[Scene], truth: dict[str, Any], given: Pairs, seed: int, told: TOLD
) -> xarray.Dataset:  # fmt: skip
    pictures, count = [render(scene) for scene in some], model.sites.towers()["vision"]
    kept = np.zeros((2, len(FACTORS), count, SPLITS))
    for f, factor in enumerate(FACTORS):
        told(f"erasing {factor}")
        on = model.inputs(image=[render(pair.a) for pair in given[factor]])
        words = [[getattr(pair, name).text for pair in given[factor]] for name in SIDES]
        target = closer_to(model, *words)
        for layer in range(count):
            for split in range(SPLITS):
                one = erase(
                    model, pictures, truth[PROBED[factor]], site=f"vision.{layer}.resid_post", target=target, on=on,
                    read=[f"vision.{layer}.resid_post"], draws=2, seed=seed + split, test=0.1, batch=128,
                    progress=False,
                )  # fmt: skip
                clean, erased, random = one["target"].values
                kept[:, f, layer, split] = (erased / clean, random / clean) if clean else np.nan
    dims = ("factor", "layer", "split")
    return xarray.Dataset(
        {"kept": (dims, kept[0]), "kept_random": (dims, kept[1])},
        coords={"factor": list(FACTORS), "layer": range(count)},
    )


# --- agreement --------------------------------------------------------------------------------------------------------


def beyond(found: xarray.Dataset) -> xarray.DataArray:
    """What a factor explains of a head beyond shuffled labels: (share - shuffled) / (1 - shuffled), not below 0."""
    return ((found["share"] - found["shuffled"]) / (1 - found["shuffled"])).clip(0)


def amount(found: xarray.Dataset) -> xarray.DataArray:
    """The same in the variance of all heads together: a head that hardly moves carries little, whatever its share."""
    return beyond(found) * found["variance"] / found["variance"].sum()


def agreement(one: ndarray, other: ndarray, seed: int, draws: int = 5000) -> tuple[float, float]:
    """Spearman's correlation over places, and the share of shufflings that reach it (one-sided)."""
    from scipy import stats

    a, b = (stats.rankdata(values.ravel()) for values in (one, other))
    if a.std() == 0 or b.std() == 0 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan"), float("nan")
    a, b = ((ranks - ranks.mean()) / ranks.std() for ranks in (a, b))
    own, draw = float(a @ b) / len(a), np.random.default_rng(seed)
    chance = np.array([a @ draw.permutation(b) for _ in range(draws)]) / len(a)
    return own, float((1 + (chance >= own - 1e-12).sum()) / (1 + draws))


def carried(found: xarray.Dataset) -> Bool[ndarray, "*factor layer head"]:
    """Where a factor explains more of a head than the 97.5 % point of shuffled labels."""
    return np.asarray((found["share"] > found["shuffled_high"]).values)
