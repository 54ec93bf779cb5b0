"""Circuits: edges exactly and by gradients, circuits alone, paths; against plain torch, on every kind of stream."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cutaway
from cutaway.errors import MethodError
from cutaway.methods import (
    Circuit,
    activation_patching,
    attribution_patching,
    completeness,
    edge_attribution,
    faithfulness,
    minimality,
    path_patching,
)
from cutaway.methods.causal_tracing import Graph
from cutaway.methods.causal_tracing.pair import held
from cutaway.model.targets import closer, logit_diff, similarity
from world import given, opened

TARGET = logit_diff("dog", "cat")
CLEAN = ["a red dog on the grass", "a blue dog on the grass"]
OTHER = ["a red cat on the grass", "a blue cat on the grass"]
DECODERS = ("llama", "gpt2", "qwen3", "gemma2", "phi3", "mamba")
SEEING = ("llava", "llava-next", "paligemma")


@cache
def pictures(count: int, size: int = 32, seed: int = 0) -> tuple[Image.Image, ...]:
    values = np.random.default_rng(seed).integers(0, 255, (count, size, size, 3)).astype("uint8")
    return tuple(Image.fromarray(one) for one in values)


def sides(name: str):
    """A pair of inputs of two rows each, and a target that they move."""
    model = opened(name)
    if name in DECODERS:
        return model.inputs(text=CLEAN), model.inputs(text=OTHER), TARGET
    shown = pictures(4)
    if name in SEEING:
        words = "<image> a red dog", "<image> a red cat"
        one, other = (model.inputs(image=list(shown[2 * i : 2 * i + 2]), text=[words[i]] * 2) for i in range(2))
        return one, other, TARGET
    if name in ("clip", "siglip"):
        one = model.inputs(image=list(shown[:2]), text=["a red dog", "a blue cat"])
        return one, model.inputs(image=list(shown[2:]), text=["a red cat", "a blue dog"]), similarity()
    one, other = (model.inputs(image=list(shown[2 * i : 2 * i + 2])) for i in range(2))
    width = opened(name).run(one).outputs.last_hidden_state.shape[-1]
    ends = torch.randn(2, 2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return one, other, closer(ends[0], ends[1])


def scores(name: str, how: str, **options):
    one, other, target = sides(name)
    return edge_attribution(opened(name), one, other, target, how=how, progress=False, **options)


def alone(name: str, order, shares) -> np.ndarray:
    one, other, target = sides(name)
    found = faithfulness(opened(name), one, other, target, order=order, shares=shares, draws=0, progress=False)
    return found["target"].values


# --- exact identities, on every kind of stream ------------------------------------------------------------------------


@pytest.mark.checks("faithfulness", "truth")
@pytest.mark.checks("edge_attribution", "truth")
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "llava-next", "paligemma", "clip", "dinov2"])
def test_all_edges_are_the_clean_run_none_the_other_and_one_less_is_the_exact_score(name):
    exact = scores(name, "exact")
    model, (one, other, target) = opened(name), sides(name)
    graph = Graph.of(model, one)
    clean, corrupted = exact["clean"].values, exact["corrupted"].values
    there = np.argwhere(graph.edges)
    for at, to in there[np.random.default_rng(0).choice(len(there), 1)]:
        order = exact["score"].fillna(0) * 0
        order[at, to] = -1
        least = edge_attribution_of(exact, order)
        made = faithfulness(
            model,
            one,
            other,
            target,
            order=least,
            shares=(0, 1 - 1 / len(there), 1),
            signed=True,
            draws=0,
            progress=False,
        )["target"].values
        assert np.allclose(made[2], clean, atol=1e-10)
        assert np.allclose(made[0], corrupted, atol=1e-10)
        assert np.isclose((clean - made[1]).mean(), float(exact["score"][at, to]), atol=1e-10)


def edge_attribution_of(like, score):
    """The same result with other scores."""
    return type(like)(like.data.assign(score=score.where(like["score"].notnull())), like.provenance)


@pytest.mark.parametrize("name", ["gpt2", "clip"])
def test_along_the_path_what_leaves_the_embeddings_adds_up_to_the_whole_difference(name):
    found = scores(name, "eap-ig", points=24)
    begun = [str(one) for one in found["sender"].values if str(one).endswith(".embed")]
    gap = float((found["clean"] - found["corrupted"]).mean())
    assert float(found["score"].sel(sender=begun).sum()) == pytest.approx(gap, rel=0.02)


def test_a_model_whose_blocks_norm_their_sums_or_read_another_tower_says_so():
    for name, why in (("bert", "norm their sums"), ("whisper", "cross-attention"), ("sd", "No stream")):
        with pytest.raises(MethodError, match=why):
            Graph.of(opened(name), given(name))


# --- against plain torch ----------------------------------------------------------------------------------------------


def by_hand(layer: int, head: int, part: str, moved: torch.Tensor) -> np.ndarray:
    """A Llama whose one head hears another stream in its queries or values, with hooks of its own."""
    module, inputs = opened("llama").module, opened("llama").inputs(text=CLEAN)
    block = module.model.layers[layer]
    projection = getattr(block.self_attn, f"{part}_proj")
    width = block.self_attn.head_dim
    entering = {}

    def note(_, args, kwargs):
        entering["x"] = (args or (kwargs["hidden_states"],))[0]

    def change(_, __, out):
        with torch.no_grad():
            heard = torch.nn.functional.linear(block.input_layernorm(entering["x"] + moved), projection.weight)
        new = out.clone()
        new[..., head * width : (head + 1) * width] = heard[..., head * width : (head + 1) * width]
        return new

    handles = [block.register_forward_pre_hook(note, with_kwargs=True), projection.register_forward_hook(change)]
    try:
        with torch.no_grad():
            logits = module(**inputs.tensors).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    ids = [opened("llama").tokenizer.encode(f" {w}", add_special_tokens=False)[0] for w in ("dog", "cat")]
    return (logits[:, ids[0]] - logits[:, ids[1]]).numpy()


@pytest.mark.parametrize(("layer", "head", "part"), [(1, 2, "q"), (2, 1, "v"), (2, 0, "k")])
def test_scores_are_those_of_plain_hooks_and_first_order_scores_their_slope(layer, head, part):
    model = opened("llama")
    runs = [model.run(model.inputs(text=text), record="text.*.mlp.out") for text in (CLEAN, OTHER)]
    fall = runs[1]["text.0.mlp.out"] - runs[0]["text.0.mlp.out"]
    edge = {"sender": "text.0.mlp", "receiver": f"text.{layer}.attn[{head}].{part}"}
    still = by_hand(layer, head, part, torch.zeros_like(fall))
    exact = float(scores("llama", "exact")["score"].sel(edge))
    assert exact == pytest.approx(float((still - by_hand(layer, head, part, fall)).mean()), abs=1e-10)
    slope = float(scores("llama", "eap")["score"].sel(edge))
    by_step = [by_hand(layer, head, part, fall * step).mean() for step in (-3e-3, 3e-3)]  # norms are in float32
    assert slope == pytest.approx(float(by_step[0] - by_step[1]) / 6e-3, rel=2e-2, abs=1e-5)


# --- rows, padding, precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", ["exact", "eap", "eap-ig"])
def test_rows_of_several_lengths_score_as_each_alone(side, how):
    model = cutaway.load("tiny:llama", dtype="float64")
    model.tokenizer.padding_side = side
    texts = ["a red dog on the grass", "a dog"], ["a red cat on the grass", "a cat"]
    target = logit_diff(["dog", "red"], ["cat", "blue"])
    both = edge_attribution(model, *texts, target, how=how, batch=2, progress=False)
    one = [
        edge_attribution(model, [a], [b], target.rows(i, i + 1), how=how, progress=False)["score"]
        for i, (a, b) in enumerate(zip(*texts, strict=True))
    ]
    assert np.allclose(both["score"], (one[0] + one[1]) / 2, atol=1e-10, equal_nan=True)


def test_half_precision_and_batches_give_the_same_numbers_to_rounding():
    model = cutaway.load("tiny:llama", dtype="bfloat16")
    whole, rough = scores("llama", "eap"), edge_attribution(model, CLEAN, OTHER, TARGET, how="eap", progress=False)
    size = float(abs(whole["score"]).max())
    assert float(abs(whole["score"] - rough["score"]).max()) < 0.1 * size
    by_one = edge_attribution(opened("llama"), CLEAN, OTHER, TARGET, how="exact", batch=1, progress=False)
    assert np.allclose(by_one["score"], scores("llama", "exact")["score"], equal_nan=True)


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.checks("path_patching", "truth")
def test_a_path_of_one_edge_is_its_score_and_of_all_receivers_the_whole_patch():
    model = opened("llama")
    exact = scores("llama", "exact")["score"]
    one = path_patching(model, CLEAN, OTHER, TARGET, receivers="text.2.attn[1].v", progress=False)
    assert np.allclose(one["mean"], exact.sel(receiver="text.2.attn[1].v").fillna(0), atol=1e-10)
    every = path_patching(model, CLEAN, OTHER, TARGET, senders="text.1.mlp", receivers="*", progress=False)
    patched = activation_patching(
        model, CLEAN, OTHER, TARGET, sites="text.1.mlp.out", over=(), mode="noise", progress=False
    )
    assert float(every["mean"][0]) == pytest.approx(-float(patched["effect"].values.ravel()[0]), abs=1e-10)


@pytest.mark.checks("path_patching", "baseline")
def test_paths_have_a_stranger_as_baseline_and_names_that_are_checked():
    found = path_patching(opened("llama"), CLEAN, OTHER, TARGET, senders="text.embed", progress=False)
    assert np.isfinite(found["random"]).all()
    alone_ = path_patching(opened("llama"), CLEAN[:1], OTHER[:1], TARGET, senders="text.embed", progress=False)
    assert np.isnan(alone_["random"]).all()
    with pytest.raises(MethodError, match=r"No sender 'text.9.mlp'"):
        path_patching(opened("llama"), CLEAN, OTHER, TARGET, senders="text.9.mlp", progress=False)


# --- attribution patching of places -----------------------------------------------------------------------------------


@pytest.mark.checks("attribution_patching", "truth")
@pytest.mark.parametrize(
    ("sites", "over"), [("text.*.attn.z", "head"), ("text.*.resid_post", "token"), ("text.*.mlp.post", "unit")]
)
def test_first_order_scores_of_places_are_the_slope_of_patching(sites, over):
    model = opened("llama")
    found = attribution_patching(model, CLEAN, OTHER, TARGET, sites=sites, over=over, progress=False)
    one, other = (model.run(model.inputs(text=text), record=sites) for text in (CLEAN, OTHER))
    slopes = model.gradients(model.inputs(text=CLEAN), TARGET, sites)
    for layer in (0, 2):
        name = sites.replace("*", str(layer))
        product = (one[name] - other[name]) * slopes[name]
        kept = {"head": 2, "token": 1, "unit": 2}[over]
        expected = product.movedim(kept, 1).flatten(2).sum(2)
        assert np.allclose(found["score"].sel(layer=layer), expected, atol=1e-12)


def test_along_a_path_a_whole_site_scores_as_patching_does():
    model = opened("llama")
    options = {"sites": "text.*.resid_post", "over": ()}
    along = attribution_patching(model, CLEAN, OTHER, TARGET, points=48, progress=False, **options)
    patched = activation_patching(model, CLEAN, OTHER, TARGET, mode="noise", progress=False, **options)
    assert np.allclose(along["mean"], -patched["effect"], rtol=0.05, atol=0.02)


def test_queries_and_keys_are_scored_through_the_softmax_as_it_is():
    """With the pattern as it would be the score is exact where the rest is linear in it: at the last layer's values."""
    model = opened("llama")
    for part, axis in (("attn.q", "head"), ("attn.k", "head")):
        found = attribution_patching(model, CLEAN, OTHER, TARGET, sites=f"text.*.{part}", over=axis, progress=False)
        plain = attribution_patching(
            model, CLEAN, OTHER, TARGET, sites=f"text.*.{part}", over=axis, correct=False, progress=False
        )
        exact = activation_patching(
            model, CLEAN, OTHER, TARGET, sites=f"text.*.{part}", over=axis, mode="noise", progress=False
        )
        assert found["mean"].shape == plain["mean"].shape == exact["effect"].shape
        gaps = [float(abs(one["mean"].isel(layer=-1) + exact["effect"].isel(layer=-1)).sum()) for one in (found, plain)]
        assert gaps[0] < gaps[1]


def test_one_evaluation_of_a_denoiser_is_scored_too():
    model = cutaway.load("tiny:sd", dtype="float64")
    one, other = (model.inputs(prompt=f"a red {word}", step=1, size=(32, 32), seed=0) for word in ("dog", "cat"))
    from cutaway.model.targets import distance

    target = distance(model.run(other))
    found = attribution_patching(model, one, other, target, sites="denoiser.*.cross.z", over=(), progress=False)
    assert np.isfinite(found["mean"]).all() and (found["mean"] != 0).any()


# --- circuits ---------------------------------------------------------------------------------------------------------


def test_a_circuit_is_kept_as_a_node_link_graph_and_comes_back(tmp_path: Path):
    one = Circuit(
        "tiny:llama", {("text.embed", "text.0.attn[1].v"): 0.5, ("text.0.attn[1]", "text.end"): 0.25}, {"k": 2}
    )
    back = Circuit.load(one.save(tmp_path / "one.json"))
    assert back == one
    found = json.loads((tmp_path / "one.json").read_text())
    names = {node["id"] for node in found["nodes"]}
    assert all({edge["source"], edge["target"]} <= names for edge in found["edges"])
    assert {"source": "text.0.attn[1].v", "target": "text.0.attn[1]", "kind": "part"} in found["edges"]
    grouped = Circuit(
        "x", {("text.embed", "text.0.attn[1].k"): 1.0, ("text.0.attn[3]", "text.end"): 1.0}, {"shared": 2}
    )
    assert {"source": "text.0.attn[1].k", "target": "text.0.attn[3]", "kind": "part"} in grouped.to_json()["edges"]
    assert one.overlap(back) == 1 and one.overlap(Circuit("tiny:llama", {("text.embed", "text.end"): 1.0})) == 0
    with pytest.raises(MethodError, match="exists already"):
        one.save(tmp_path / "one.json")
    (tmp_path / "two.json").write_text("{}")
    with pytest.raises(MethodError, match="holds no circuit"):
        Circuit.load(tmp_path / "two.json")


def test_the_areas_are_those_of_their_formulas():
    from cutaway.methods.causal_tracing import Faithfulness

    model, (one, other, target) = opened("llama"), sides("llama")
    found = faithfulness(model, one, other, target, order=scores("llama", "eap"), draws=2, progress=False)
    k, f = found["share"].values, found["faithfulness"].values
    assert found.cpr["linear"] == pytest.approx(
        sum((f[i] + f[i + 1]) / 2 * (k[i + 1] - k[i]) for i in range(len(k) - 1))
    )
    assert found.cmd["linear"] >= 0 and isinstance(found, Faithfulness)
    assert found["random"].shape == (2, len(k))
    assert np.allclose(found["random"][:, -1], 1)


def test_pairs_that_do_not_line_up_or_move_nothing_are_refused_before_anything_is_scored():
    model = opened("llama")
    with pytest.raises(MethodError, match="positions"):
        edge_attribution(model, ["a red dog"], ["a red dog on the grass"], TARGET, progress=False)
    with pytest.raises(MethodError, match="does not move the target"):
        edge_attribution(model, ["a red dog"], ["a red dog"], TARGET, progress=False)
    with pytest.raises(MethodError, match="0 points"):
        edge_attribution(model, ["a dog"], ["a cat"], TARGET, points=0, progress=False)
    with pytest.raises(MethodError, match="another graph"):
        faithfulness(model, CLEAN, OTHER, TARGET, order=scores("gpt2", "eap"), progress=False)
    circuit = Circuit("tiny:llama", {("text.2.mlp", "text.0.mlp"): 1.0})
    with pytest.raises(MethodError, match="No edge from"):
        faithfulness(model, CLEAN, OTHER, TARGET, order=circuit, progress=False)


def test_pairs_that_need_more_memory_are_refused_before_anything_runs(monkeypatch):
    """The estimate holds what is recorded and written; smaller batches fit, and give the same scores."""
    model = opened("llama")
    whole = edge_attribution(model, CLEAN, OTHER, TARGET, how="eap", progress=False)
    here = model.inputs(text=CLEAN)
    graph = Graph.of(model, here)
    run = model.run(here, record=graph.record)
    need = held(model, graph, here)
    really = 2 * sum(run[name].nbytes for name in graph.record) + 3 * graph.written(run, "text").nbytes
    assert really <= need <= 1.1 * really
    single = held(model, graph, model.inputs(text=CLEAN[:1]))
    assert single <= need // 2
    methods = (edge_attribution, faithfulness, path_patching, completeness, minimality)
    monkeypatch.setattr(type(model), "run", lambda *_, **__: pytest.fail("it was run"))
    for method in methods:
        with pytest.raises(MethodError, match=r"MiB for 2 pairs at a time.*memory=.*Batch=1"):
            method(model, CLEAN, OTHER, TARGET, memory=need - 1, progress=False)
        with pytest.raises(MethodError, match="memory= as large as you have"):
            method(model, CLEAN, OTHER, TARGET, memory=single // 2, progress=False)
    monkeypatch.undo()
    enough = edge_attribution(model, CLEAN, OTHER, TARGET, how="eap", memory=need, progress=False)
    assert np.array_equal(enough["score"], whole["score"], equal_nan=True)
