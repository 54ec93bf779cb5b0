"""Which edges bring a word into a drawing: one evaluation of a denoiser of joint attention, one name exchanged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Bool
from numpy import ndarray

from cutaway.bench.worlds.shown import toward
from cutaway.data.prompts import DRAWABLE
from cutaway.data.scene import COLOURS
from cutaway.methods import edge_attribution, faithfulness
from cutaway.methods.causal_tracing.pair import Pair
from cutaway.methods.causal_tracing.routes import routed
from cutaway.model.asides import in_words_of
from cutaway.model.graph import Graph
from cutaway.model.inputs import Inputs
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.model.targets import outcome
from cutaway.report.findings_scenes import TOLD

DRAWER = "zoo:emoji-mmdit"
STEPS, AT = 20, (3, 10)  # of a drawing; the evaluations that are looked at
KEPT = (20, 50, 100, 200, 500, 1000)
OF = ("trained", "untrained")
PARTS, WRITES, WAYS = ("keys", "values", "both"), ("heads", "MLP"), ("as they enter", "their attention", "their MLPs")
Mask = Bool[ndarray, "sender receiver"]


def word(_: Model, n: int, seed: int, told: TOLD) -> xarray.Dataset:
    """What the edges between words and picture carry of one evaluation, when one name in the prompt is another.

    The number is how near the prediction lies to that with the name, and how far from that with the other: 1 and -1 by
    what it is. `f`, `low`, `high`, `random` (of, step, k): of the k best edges by `eap-ig`, on other pairs. `enters`
    (of, step, layer, part): the share that is lost when a layer's heads hear the words as of the other name; `writes`
    (of, step, layer, what): when all hear a layer's heads or MLP of the picture so; `ways` (of, step, way): when all
    heads hear what the words are as they enter, what their attention or their MLPs add. `moved` (of, step): how far the
    two predictions are apart, root mean square, in shares of one.
    """
    pairs = max(8, n // 30)
    made = []
    for name in (DRAWER, f"{DRAWER}@untrained"):
        model, at = load(name), []
        for step in AT:
            told(f"a word in a drawing, step {step} of {name}")
            at.append(_measured(model, step, pairs, seed))
        made.append(xarray.concat(at, "step"))
    found: xarray.Dataset = xarray.concat(made, "of")
    return found.assign_coords(of=list(OF), step=list(AT)).assign(pairs=pairs, steps=STEPS)


def _measured(model: Model, step: int, pairs: int, seed: int) -> xarray.Dataset:
    order = edge_attribution(model, *exchanged(model, pairs, 2 * seed, step), progress=False)
    given = exchanged(model, pairs, 2 * seed + 1, step)
    total = int(order["score"].notnull().sum())
    curve = faithfulness(
        model, *given, order=order, shares=[k / total for k in KEPT], draws=1, seed=seed, progress=False
    ).data
    graph = Graph.of(model, given[0])
    pair = Pair.of(model, graph, *given)
    layers = model.sites.towers()["denoiser"]
    whole, other = pair.values.numpy().mean(), pair.corrupted.numpy().mean()
    lost = (whole - routed(model, graph, pair, list(_cuts(graph, layers))).mean(1)) / (whole - other)
    enters, writes, ways = np.split(lost, [3 * layers, 5 * layers])
    apart = (given[2].to - given[2].than).square().mean().sqrt() / _predicted(model, given[0]).square().mean().sqrt()
    kept = {"f": "faithfulness", "low": "low", "high": "high"}
    data: dict[str, Any] = {name: ("k", curve[one].values) for name, one in kept.items()} | {
        "random": ("k", curve["random"].values[0]), "enters": (("layer", "part"), enters.reshape(layers, 3)),
        "writes": (("layer", "what"), writes.reshape(layers, 2)), "ways": ("way", ways), "moved": float(apart),
        "edges": total,
    }  # fmt: skip
    coords = {"k": list(KEPT), "layer": range(layers), "part": list(PARTS), "what": list(WRITES), "way": list(WAYS)}
    return xarray.Dataset(data, coords=coords)


def exchanged(model: Model, n: int, seed: int, step: int) -> tuple[Inputs, Inputs, toward]:
    """Evaluations of drawings of one thing on a ground, the same with another thing's name among the words, a target.

    Noise, latents, time and pooled prompt are those of the first; names are one token long.
    """
    dice, read = random.Random(f"word/{seed}"), model.tokenizer
    names = [one for one in DRAWABLE if len(read(one)["input_ids"]) == 3 and " " not in one]
    drawn = [(*dice.sample(names, 2), dice.choice(list(COLOURS))) for _ in range(n)]
    sides = [[f"a {both[at]} on a {both[2]} background" for both in drawn] for at in (0, 1)]
    asked: dict[str, Any] = {"step": step, "steps": STEPS, "seed": seed, "guidance": 1.0, "length": 0}
    one, other = (model.inputs(prompt=prompts, **asked) for prompts in sides)
    other = in_words_of(one, other)
    latent = one.tensors["hidden_states"]
    return one, other, toward(latent - _predicted(model, one), latent - _predicted(model, other))


def _predicted(model: Model, inputs: Inputs) -> torch.Tensor:
    return outcome(model.run(inputs)).detach()


# --- what is cut ------------------------------------------------------------------------------------------------------


def _cuts(graph: Graph, layers: int) -> Iterator[Mask]:
    """All edges but some: words to each layer, the picture's own layer by layer, words to all layers, way by way."""
    words = np.array([one.stream.endswith(".text") for one in graph.senders])
    begins = np.array([one.begins for one in graph.senders])
    wrote = np.array([one.site.part for one in graph.senders])
    made = np.array([one.site.part if one.head is not None else "" for one in graph.receivers])
    at, to = (np.array([one.site.layer for one in some]) for some in (graph.senders, graph.receivers))
    looks = np.isin(made, ("attn.k", "attn.v"))

    def without(sends: ndarray, hears: ndarray) -> Mask:
        found: Mask = graph.edges & ~np.outer(sends, hears)
        return found

    for layer in range(layers):
        for parts in (("attn.k",), ("attn.v",), ("attn.k", "attn.v")):
            yield without(words, np.isin(made, parts) & (to == layer))
    for layer in range(layers):
        for part in ("attn.z", "mlp.out"):
            yield without(~words & ~begins & (at == layer) & (wrote == part), np.ones_like(looks))
    yield without(words & begins, looks)
    for part in ("attn.z", "mlp.out"):
        yield without(words & ~begins & (wrote == part), looks)
