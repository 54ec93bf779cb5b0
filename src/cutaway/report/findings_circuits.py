"""Circuits of one question asked by picture and asked in words, beside worlds whose circuit was planted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float
from numpy import ndarray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from cutaway.bench.worlds import WORLDS, World
from cutaway.data import Pair, Question, Scene, description, pairs
from cutaway.data.claims import OPPOSITE
from cutaway.methods import attention_knockout, edge_attribution, faithfulness
from cutaway.methods.causal_tracing import EdgeAttribution, Graph
from cutaway.model.edits import Edit, Patch
from cutaway.model.inputs import Inputs
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.targets import Target, log_prob
from cutaway.model.tokens import Where
from cutaway.model.words import next_scores, token_id
from cutaway.report.findings_asked import TOWER, Posed, posed, side_of
from cutaway.report.findings_looks import FORMS
from cutaway.report.findings_scenes import TOLD, resampled

Mask = Bool[ndarray, "sender receiver"]
HOWS = ("exact", "eap-ig", "eap-ig-activations", "eap", "random", "untrained")
EDGES = (5, 10, 20, 50, 100, 200, 500, 1000)
TOPS = (20, 50, 100, 200)
WAYS = (("scene", "question"), ("scene", "last"), ("question", "last"))
WORLD_PAIRS, DRAWS, TRIES = 64, 2, 60


# --- planted ----------------------------------------------------------------------------------------------------------


def worlds(_: Model, __: int, seed: int, told: TOLD) -> xarray.Dataset:
    """How well each way to score edges tells the planted ones from all others.

    `edges`, `nodes` (world, how): AUROC; nodes score as their best edge. `planted` (world), `possible` (world): how
    many edges. `alone` (world, how): f of as many of the best edges as were planted, on other pairs; `fewest` (world,
    how): the fewest with f >= 0.9. `random` is the mean of several orders, `untrained` the exact scores of the floor.
    Of the world that draws the two inputs of a pair have one noise: edges that only that goes along are left out.
    """
    made = []
    for name, one in WORLDS.items():
        told(f"planted circuits, {name}")
        made.append(xarray.concat([_sided(one, side, seed) for side in one.sides], "side").mean("side"))
    return xarray.concat(made, "world").assign_coords(world=list(WORLDS))


def _sided(one: World, side: str, seed: int) -> xarray.Dataset:
    """One side of a world: which tower sees the pairs."""
    model, floor = load(one.model), load(one.floor)
    first, second = (one.pairs(WORLD_PAIRS, 2 * seed + at, tower=side, model=model) for at in (0, 1))
    graph = Graph.of(model, first.clean)
    truth, alike = graph.mask(one.shown(side).edges), one.alike(side)
    asked = graph.edges & np.array([name not in alike for name in graph.names[0]])[:, None]
    dice = np.random.default_rng(seed)
    scored = {how: _scores(model, first, how) for how in HOWS[:4]}
    scored["untrained"] = _scores(floor, one.pairs(WORLD_PAIRS, 2 * seed, tower=side, model=floor), "exact")
    table: dict[str, list[float]] = {name: [] for name in ("edges", "nodes", "alone", "fewest")}
    for how in HOWS:
        orders = [scored[how]] if how in scored else [_shuffled(scored["exact"], dice) for _ in range(DRAWS)]
        parts = [_told(model, asked, truth, order, second) for order in orders]
        for at, name in enumerate(table):
            table[name].append(float(np.mean([part[at] for part in parts])))
    data: dict[str, Any] = {name: ("how", values) for name, values in table.items()}
    data |= {"planted": int(truth.sum()), "possible": int(asked.sum())}
    return xarray.Dataset(data, coords={"how": list(HOWS)})


def _scores(model: Model, given: Any, how: Any) -> EdgeAttribution:
    return edge_attribution(model, given.clean, given.other, given.target, how=how, progress=False)


def _shuffled(like: EdgeAttribution, dice: np.random.Generator) -> EdgeAttribution:
    """The same edges with scores by chance."""
    score = like["score"]
    return reordered(like, score.copy(data=np.where(np.isnan(score.values), np.nan, dice.random(score.shape))))


def reordered(like: EdgeAttribution, score: xarray.DataArray) -> EdgeAttribution:
    """A result with other scores."""
    return EdgeAttribution(like.data.assign(score=score), like.provenance)


def _told(
    model: Model, asked: Mask, truth: Mask, order: EdgeAttribution, given: Any
) -> tuple[float, float, float, float]:
    """AUROC over edges and over nodes, f of as many edges as are true, and how many f >= 0.9 takes."""
    size, total = abs(np.nan_to_num(order["score"].values)), int(order["score"].notnull().sum())
    counts = sorted({*range(1, 2 * int(truth.sum()) + 1), *(count for count in EDGES if count < total), total})
    found = faithfulness(
        model, given.clean, given.other, given.target, order=order, shares=[count / total for count in counts],
        draws=0, progress=False,
    )  # fmt: skip
    alone = float(found["faithfulness"][counts.index(int(truth.sum()))])
    senders, true = (np.asarray(mask.any(1)) for mask in (asked, truth))
    nodes = roc_auc_score(true[senders], np.where(asked, size, 0).max(1)[senders])
    return roc_auc_score(truth[asked], size[asked]), nodes, alone, float(found.smallest(0.9) or total)


# --- one question, two forms ------------------------------------------------------------------------------------------


def exchanged(model: Model, n: int, seed: int, *, told: bool) -> tuple[Posed, Posed]:
    """`n` questions which of left and right, and the same of the scenes with their two things exchanged.

    Those that take as many tokens told in words, so that the same scenes serve both forms.
    """
    known = islice(_apart(model, TRIES * n, seed), n)
    some = list(known)
    asked = [one for _, one in some]
    rivals = [OPPOSITE[one.answer] for one in asked]
    sides: list[list[Scene]] = [[pair.a for pair, _ in some], [pair.b for pair, _ in some]]
    first, second = (Posed(model, scenes, asked, rivals, told) for scenes in sides)
    return first, second


def _apart(model: Model, tries: int, seed: int) -> Iterator[tuple[Pair, Question]]:
    def length(scene: Scene) -> int:
        return len(model.tokenizer(description(scene, 1).text)["input_ids"])

    for pair in pairs("binding place", tries, seed=seed):
        question = side_of(pair)
        if question is not None and length(pair.a) == length(pair.b):
            yield pair, question


def circuits(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """f(k) of the best edges by `eap-ig`, by form; and what the two forms share.

    Half of the scenes make the order, the other half is measured. `right` (form); `gap` (form): by how much the
    exchange moves the difference of the answers; `f`, `f_random` (form, k), and by the `other` form's order of the
    decoder's edges (`f_other`), all edges outside the decoder kept: `f_own` is the own order then, `f_any` by chance.
    `shared` (k, of): the Jaccard index of the decoder's k best edges, of `picture` or `words` between the halves, of
    both forms (`forms`) and by `chance`. `by_layer` (layer, of): of the 100 best, the share of one that the other has,
    by the layer of the receiver.
    """
    half = max(12, n // 20)
    scored: dict[str, tuple[EdgeAttribution, EdgeAttribution]] = {}
    held: dict[str, tuple[Inputs, Inputs, Target]] = {}
    right, gap = [], []
    for form in FORMS:
        told(f"circuit, asked by {form}")
        sides = [exchanged(model, half, seed * 2 + at, told=form == FORMS[1]) for at in (0, 1)]
        first, second = ((one.inputs, other.inputs, one.target) for one, other in sides)
        scored[form] = (_edges(model, first), _edges(model, second))
        held[form] = second
        right.append(float((scored[form][1]["clean"] > 0).mean()))
        gap.append(float((scored[form][1]["clean"] - scored[form][1]["corrupted"]).mean()))
    data: dict[str, Any] = {"right": ("form", right), "gap": ("form", gap), "scenes": half}
    curves = []
    for at, form in enumerate(FORMS):
        told(f"circuit, cut to its best edges, by {form}")
        curves.append(_curves(model, held[form], scored[form][0], scored[FORMS[1 - at]][0], seed))
    data |= dict(xarray.concat(curves, "form").data_vars)
    data |= _shared(scored)
    return xarray.Dataset(data, coords={"form": list(FORMS), "k": list(EDGES), "top": list(TOPS), "of": list(OF)})


OF = ("picture", "words", "forms", "chance")


def _edges(model: Model, given: tuple[Inputs, Inputs, Target]) -> EdgeAttribution:
    return edge_attribution(model, *given, how="eap-ig", progress=False)


def _curves(
    model: Model, given: tuple[Inputs, Inputs, Target], own: EdgeAttribution, other: EdgeAttribution, seed: int
) -> xarray.Dataset:
    """F of the k best edges, and of the k best of the decoder with all others kept, by several orders."""
    total, inside = int(own["score"].notnull().sum()), _inside(own)
    outside = total - int((inside & own["score"].notnull()).sum())

    def f(order: EdgeAttribution, more: int, draws: int = 0) -> xarray.Dataset:
        shares = [min(1.0, (more + count) / total) for count in EDGES]
        return faithfulness(
            model, *given, order=order, shares=shares, draws=draws, seed=seed, progress=False
        ).data  # fmt: skip

    alike = other["score"].reindex_like(own["score"])
    first = f(own, 0, DRAWS)
    kept = {
        "f_own": _kept(own, own["score"], inside), "f_other": _kept(own, alike, inside),
        "f_any": _kept(own, _shuffled(own, np.random.default_rng(seed))["score"], inside),
    }  # fmt: skip
    data = {"f": first["faithfulness"], "f_low": first["low"], "f_high": first["high"],
            "f_random": first["random"].mean("draw")}  # fmt: skip
    data |= {name: f(order, outside)["faithfulness"] for name, order in kept.items()}
    return xarray.Dataset({name: ("k", values.values) for name, values in data.items()})


def _inside(scores: EdgeAttribution) -> xarray.DataArray:
    """The edges whose two ends are in the decoder."""
    within = [scores[name].str.startswith(f"{TOWER}.") for name in ("sender", "receiver")]
    return within[0] & within[1]


def _kept(like: EdgeAttribution, score: xarray.DataArray, inside: xarray.DataArray) -> EdgeAttribution:
    """An order that begins with all edges outside the decoder."""
    ranked = xarray.where(inside, abs(score).fillna(0), 2 * float(abs(score).max()) + 1)
    return reordered(like, ranked.where(like["score"].notnull()))


def _shared(scored: dict[str, tuple[EdgeAttribution, EdgeAttribution]]) -> dict[str, Any]:
    """How many of the decoder's best edges two orders share, and in which layers."""
    ranked = {form: [_best(one) for one in both] for form, both in scored.items()}
    every = len(ranked[FORMS[1]][0])

    def between(k: int) -> list[float]:
        picture, words = ([set(order[:k]) for order in ranked[form]] for form in FORMS)
        across = [_jaccard(picture[at], words[1 - at]) for at in (0, 1)]
        return [_jaccard(*picture), _jaccard(*words), float(np.mean(across)), k / (2 * every - k)]

    layers = sorted({_layer(receiver) for _, receiver in ranked[FORMS[1]][0]})
    by_layer = np.full((len(layers), 3), np.nan)
    for at, layer in enumerate(layers):
        picture, words = (
            [{edge for edge in order[:100] if _layer(edge[1]) == layer} for order in ranked[form]] for form in FORMS
        )
        for column, (one, other) in enumerate(((picture[0], picture[1]), (words[0], words[1]), (picture[0], words[1]))):
            by_layer[at, column] = _jaccard(one, other)
    return {
        "shared": (("top", "of"), [between(k) for k in TOPS]),
        "by_layer": (("layer", "pair"), by_layer), "layer": ("layer", layers), "pair": ("pair", list(OF[:3])),
    }  # fmt: skip


def _best(scores: EdgeAttribution) -> list[tuple[str, str]]:
    """The decoder's edges, best first."""
    table = scores.ranked()
    inside = table["sender"].str.startswith(f"{TOWER}.") & table["receiver"].str.startswith(f"{TOWER}.")
    return list(zip(table["sender"][inside], table["receiver"][inside], strict=True))


def _layer(receiver: str) -> int:
    """The layer of a receiver; one behind the last for the end."""
    word = receiver.split(".")[1]
    return int(word) if word.isdecimal() else 1_000


def _jaccard(one: set[Any], other: set[Any]) -> float:
    return len(one & other) / len(one | other) if one | other else float("nan")


# --- which way it comes -----------------------------------------------------------------------------------------------


def flow(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """The same questions with edges of attention cut, two layers at a time and in all.

    `lost` (form, edge, layer): by what share the probability of the answer falls (1: all of it), with its interval over
    questions (`low`, `high`); `random`: when the same positions lose as many others by chance.
    """
    made = []
    for form in FORMS:
        told(f"which way it comes, by {form}")
        asked, _ = exchanged(model, max(24, n // 10), seed, told=form == FORMS[1])
        own = torch.from_numpy(asked.inputs.tokens[TOWER].kind != "pad")
        question = own & (asked.context.int().cumsum(1) == asked.context.sum(1, keepdim=True)) & ~asked.context
        spans = {"scene": asked.context, "question": question & ~asked.last, "last": asked.last}
        found = attention_knockout(
            model, asked.inputs, log_prob([one.answer for one in asked.questions]), spans=spans, wide=2, seed=seed,
            edges=[f"{one}->{other}" for one, other in WAYS], progress=False,
        )  # fmt: skip
        lost = {"lost": "relative", "low": "relative_high", "high": "relative_low", "random": "random_relative"}
        made.append(xarray.Dataset({name: -found[one] for name, one in lost.items()}))
    return xarray.concat(made, "form").assign_coords(form=list(FORMS))


# --- late states of the picture, earlier ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Likeliest(Target):
    """By how much the logit of each row's answer is above that of any other word."""

    answers: Sequence[str]

    def __call__(self, run: Run) -> Float[Tensor, "row"]:
        """The difference."""
        logits = next_scores(run, -1)
        words = torch.tensor([token_id(run, word) for word in self.answers], device=logits.device)
        own = logits.gather(1, words[:, None])[:, 0]
        return own - logits.scatter(1, words[:, None], -torch.inf).max(1).values


def back(model: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """Back-patching: states of picture tokens after a layer, put in front of an earlier one of the same run.

    `right` (): of the questions what is where, those whose answer is the likeliest next word. `moved` (to, after): the
    share that is right with the states after layer `after` in front of layer `to`. `gain`, with its interval `low`,
    `high` over questions: what is won at the two layers that are best on the other half of the questions.
    """
    told("late states of the picture, earlier")
    asked = posed(model, "what", max(48, n // 4), seed)
    layers = model.sites.towers()[TOWER]
    run = model.run(asked.inputs, record=f"{TOWER}.*.resid_post")
    where = Where("image")
    places = [(to, after) for to in range(layers) for after in range(to, layers)]
    cells: list[list[Edit]] = [
        [Patch(f"{TOWER}.{to}.resid_pre", run[f"{TOWER}.{after}.resid_post"], token=where)] for to, after in places
    ]
    made = model.sweep(asked.inputs, cells, _Likeliest([one.answer for one in asked.questions]), progress=False)
    right, plain = made.values.values > 0, made.clean.values > 0
    found = np.full((layers, layers), np.nan)
    for (to, after), row in zip(places, right, strict=True):
        found[to, after] = row.mean()
    half = right.shape[1] // 2
    gains = np.concatenate([
        right[right[:, other].mean(1).argmax()][own].astype(float) - plain[own]
        for own, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half)))
    ])  # fmt: skip
    low, high = np.quantile(resampled(len(gains), seed) @ gains, (0.025, 0.975))
    data: dict[str, Any] = {
        "right": plain.mean(), "moved": (("to", "after"), found), "gain": gains.mean(), "low": low, "high": high,
        "questions": len(plain),
    }  # fmt: skip
    return xarray.Dataset(data, coords={"to": range(layers), "after": range(layers)})
