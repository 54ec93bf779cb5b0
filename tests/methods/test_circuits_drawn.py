"""Circuits of a denoiser of joint attention: two streams, one evaluation, against plain hooks."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import cutaway
from cutaway.errors import InputError, MethodError
from cutaway.methods import Circuit, activation_patching, edge_attribution, faithfulness, path_patching
from cutaway.methods.causal_tracing.circuit_views import layered
from cutaway.model.asides import in_words_of
from cutaway.model.graph import Graph
from cutaway.model.targets import distance
from cutaway.model.writes import picture_writes
from world import fresh, opened

CALL = {"step": 1, "steps": 3, "size": (16, 16), "guidance": 1.0, "length": 4}


def asked(name: str, *prompts: str, **options):
    return opened(name).inputs(prompt=list(prompts), **{**CALL, **options})


@cache
def sides():
    """Two rows, their counterfactuals in other words with the same pooled prompt, and a target that they move."""
    one, other = (asked("sd3", f"a red {word}", f"a blue {word}") for word in ("dog", "cat"))
    strange = opened("sd3").run(asked("sd3", "a fox", "a mat", seed=3)).outputs.sample
    return one, in_words_of(one, other), distance(strange)


@cache
def scores(how: str, **options):
    return edge_attribution(opened("sd3"), *sides(), how=how, progress=False, **options)


def alone(order, shares) -> np.ndarray:
    found = faithfulness(
        opened("sd3"), *sides(), order=order, shares=shares, signed=True, draws=0, progress=False
    )  # fmt: skip
    return found["target"].values


# --- sums -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny:sd3", "tiny:flux", "zoo:planted-mmdit"])
def test_what_is_written_into_each_stream_adds_up_to_its_end(name):
    """In float64, and of each run alone: what heads and MLPs write, and the biases, is the end less the start."""
    model = cutaway.load(name, dtype="float64")
    planted = name.startswith("zoo")
    prompts = ["star southeast", "ring northwest"] if planted else ["a red dog", "a cat"]
    inputs = model.inputs(prompt=prompts, **({**CALL, "length": 0, "size": None} if planted else CALL))
    graph = Graph.of(model, inputs)
    run = model.run(inputs, record=graph.record)
    blocks = picture_writes(model)
    biases = {"image": blocks, "text": [one for one in blocks[:-1] if one.mlp_weight is not None]}  # others telescope
    last = blocks[-1].layer
    ends = {"image": f"denoiser.{last}.image.resid_post", "text": f"denoiser.{last}.text.resid_pre"}
    assert graph.streams == ["denoiser.image", "denoiser.text"]
    for stream, end in ends.items():
        written = graph.written(run, f"denoiser.{stream}").sum(0)
        written = written + sum(run[one.gate][0, 0, :, None] * one.bias for one in biases[stream])
        assert torch.allclose(written, run[end][0, 0], rtol=0, atol=1e-10), stream


# --- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.checks("faithfulness", "truth")
@pytest.mark.checks("edge_attribution", "truth")
def test_all_edges_are_the_clean_run_none_the_other_and_one_less_is_the_exact_score():
    exact = scores("exact")
    graph = Graph.of(opened("sd3"), sides()[0])
    assert str(graph) == "Graph(14 senders, 28 receivers, 160 edges)"
    total = int(graph.edges.sum())
    names = [("denoiser.text.embed", "denoiser.1.attn[2].k"), ("denoiser.0.text.attn", "denoiser.0.text.mlp"),
             ("denoiser.0.image.attn[1]", "denoiser.1.image.mlp")]  # fmt: skip
    for sender, receiver in names:
        order = exact["score"].fillna(0) * 0
        order.loc[sender, receiver] = -1
        like = type(exact)(exact.data.assign(score=order.where(exact["score"].notnull())), exact.provenance)
        none, less, every = alone(like, (0, 1 - 1 / total, 1))
        assert np.allclose(every, exact["clean"], atol=1e-10) and np.allclose(none, exact["corrupted"], atol=1e-10)
        lost = float((exact["clean"].values - less).mean())
        assert lost == pytest.approx(float(exact["score"].sel(sender=sender, receiver=receiver)), abs=1e-10)
        assert abs(lost) > 1e-9


def test_along_the_path_what_leaves_the_words_adds_up_to_the_whole_difference():
    found = scores("eap-ig", points=16)
    begun = found["score"].sel(sender=["denoiser.text.embed", "denoiser.image.embed"])
    assert float(begun.sum()) == pytest.approx(float((found["clean"] - found["corrupted"]).mean()), rel=1e-3)
    assert not begun.sel(sender="denoiser.image.embed").fillna(0).any()  # the same noise in both


def test_words_reach_the_picture_through_keys_and_values_alone():
    """All edges kept but those from the words to these, in every layer: nothing of the difference is left."""
    graph = Graph.of(opened("sd3"), sides()[0])
    kept = [(s, r) for s, r in graph.named(graph.edges) if "text" not in s or r[-1] not in "kv"]
    found = faithfulness(
        opened("sd3"), *sides(), order=Circuit.of("", kept), shares=(), draws=0, progress=False
    )  # fmt: skip
    assert 100 < len(kept) < 150 and float(found["faithfulness"][1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.checks("path_patching", "truth")
def test_to_all_receivers_the_paths_of_a_layer_are_its_patch():
    every = path_patching(opened("sd3"), *sides(), senders="denoiser.0.image.mlp", receivers="*", progress=False)
    patched = activation_patching(
        opened("sd3"), *sides(), sites="denoiser.0.image.mlp.out", over=(), mode="noise", progress=False
    )  # fmt: skip
    assert float(every["mean"][0]) == pytest.approx(-float(patched["effect"].values.ravel()[0]), abs=1e-10)
    assert np.isfinite(every["random"]).all()


# --- against plain torch ----------------------------------------------------------------------------------------------


def by_hand(layer: int, receiver: str, stream: str, moved: Tensor) -> Tensor:
    """A Stable Diffusion 3 whose one receiver hears another stream, with hooks of its own."""
    transformer, inputs = opened("sd3").module.transformer, sides()[0]
    block = transformer.transformer_blocks[layer]
    end = "" if stream == "image" else "_context"
    seen = {}

    def note(_, args, kwargs):
        given = dict(zip(("hidden_states", "encoder_hidden_states", "temb"), args, strict=False)) | kwargs
        seen["x"] = given["hidden_states" if stream == "image" else "encoder_hidden_states"]
        seen["temb"] = given["temb"]

    def heard(_, __, out):
        """What the projection of one head makes of the stream as it would be, behind the block's first norm."""
        name, head = ("to_" if stream == "image" else "add_") + receiver[-1], int(receiver[5])
        name += "" if stream == "image" else "_proj"
        norm, told = getattr(block, f"norm1{end}"), seen["x"] + moved
        last = stream == "text" and layer == 1  # whose norm of the words gives nothing beside
        entering = norm(told, seen["temb"]) if last else norm(told, emb=seen["temb"])[0]
        there = torch.nn.functional.linear(entering, getattr(block.attn, name).weight, getattr(block.attn, name).bias)
        new = out.clone()
        new[..., head * 8 : head * 8 + 8] = there[..., head * 8 : head * 8 + 8]
        return new

    def mixed(_, args):
        """What the MLP reads, of the stream in the middle of the block as it would be."""
        gates = getattr(block, f"norm1{end}")(seen["x"], emb=seen["temb"])
        shift, scale = gates[2][:, None], gates[3][:, None]
        return (getattr(block, f"norm2{end}").forward(seen["mid"] + moved) * (1 + scale) + shift,)

    with ExitStack() as stack, torch.no_grad():
        stack.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
        if receiver == "mlp":
            middle = getattr(block, f"norm2{end}")
            stack.callback(middle.register_forward_pre_hook(lambda _, args: seen.update(mid=args[0])).remove)
            stack.callback(getattr(block, f"ff{end}").register_forward_pre_hook(mixed).remove)
        else:
            name = {"image": f"to_{receiver[-1]}", "text": f"add_{receiver[-1]}_proj"}[stream]
            stack.callback(getattr(block.attn, name).register_forward_hook(heard).remove)
        made = transformer(**inputs.tensors)
    return (made.sample - sides()[2].reference).flatten(1).pow(2).mean(1)


@cache
def fall(name: str) -> Tensor:
    """What a sender writes in the counterfactual less what it writes, of sites alone."""
    runs = [opened("sd3").run(given, record="denoiser.0.*") for given in sides()[:2]]
    before, after = ("denoiser.0.text.resid_pre", "denoiser.0.text.resid_mid")
    if name == "denoiser.text.embed":
        wrote = [run[before] for run in runs]
    elif name == "denoiser.0.text.attn":
        wrote = [run[after] - run[before] for run in runs]
    else:  # a head of the picture
        weight = opened("sd3").module.transformer.transformer_blocks[0].attn.to_out[0].weight[:, 8:16]
        z, gate = "denoiser.0.image.attn.z", "denoiser.0.image.attn.gate"
        wrote = [run[z][..., 1, :] @ weight.T * run[gate][..., None, :] for run in runs]
    return (wrote[1] - wrote[0])[0, 0].detach()


@pytest.mark.parametrize(
    ("sender", "layer", "receiver", "stream"),
    [
        ("denoiser.text.embed", 0, "attn[2].v", "text"),
        ("denoiser.text.embed", 1, "attn[1].k", "text"),
        ("denoiser.0.text.attn", 0, "mlp", "text"),
        ("denoiser.0.image.attn[1]", 1, "attn[3].q", "image"),
        ("denoiser.0.image.attn[1]", 0, "mlp", "image"),
    ],
)
def test_scores_are_those_of_plain_hooks_and_first_order_scores_their_slope(sender, layer, receiver, stream):
    name = f"denoiser.{layer}.{stream}.mlp" if receiver == "mlp" else f"denoiser.{layer}.{receiver}"
    edge, moved = {"sender": sender, "receiver": name}, fall(sender)
    lost = by_hand(layer, receiver, stream, 0 * moved) - by_hand(layer, receiver, stream, moved)
    assert float(scores("exact")["score"].sel(edge)) == pytest.approx(float(lost.mean()), abs=1e-10)
    step = 1e-4
    by_step = [by_hand(layer, receiver, stream, moved * at).mean() for at in (-step, step)]
    slope = float(by_step[0] - by_step[1]) / (2 * step)
    assert float(scores("eap")["score"].sel(edge)) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_a_block_of_one_stream_writes_to_both_and_reads_both():
    """Of a Flux: all edges and none, and a head of a late block that hears other words, by plain hooks."""
    model = opened("flux")
    one, other = (asked("flux", f"a red {word}", f"a blue {word}") for word in ("dog", "cat"))
    other = in_words_of(one, other)
    target = distance(model.run(asked("flux", "a fox", "a mat", seed=3)).outputs.sample)
    found = faithfulness(
        model, one, other, target, order=Circuit.of("", [("denoiser.text.embed", "denoiser.2.mlp")]), shares=(),
        draws=0, progress=False,
    )  # fmt: skip
    assert np.allclose(found["target"][-1], found["clean"], atol=1e-10)
    assert np.allclose(found["target"][0], found["corrupted"], atol=1e-10)
    runs = [model.run(given, record="denoiser.2.*") for given in (one, other)]
    weight = model.module.transformer.single_transformer_blocks[0].proj_out.weight[:, 8:16]
    words = runs[0]["denoiser.2.text.resid_pre"].shape[-2]
    wrote = [
        run["denoiser.2.attn.z"][0, 0, :, :words, 1] @ weight.T * run["denoiser.2.gate"][0, 0, :, None] for run in runs
    ]
    block, seen = model.module.transformer.single_transformer_blocks[1], {}

    def note(_, __, given):
        seen.update(given)

    def heard(_, __, out):
        states = torch.cat([seen["encoder_hidden_states"] + wrote[1] - wrote[0], seen["hidden_states"]], 1)
        entering, values = block.norm(states, emb=seen["temb"])[0], block.attn.to_v
        there = torch.nn.functional.linear(entering, values.weight, values.bias)
        return torch.cat([out[..., :16], there[..., 16:24], out[..., 24:]], -1)

    with ExitStack() as stack, torch.no_grad():
        stack.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
        stack.callback(block.attn.to_v.register_forward_hook(heard).remove)
        made = model.module.transformer(**one.tensors).sample
    by_hand_ = (made - target.reference).flatten(1).pow(2).mean(1)
    edge = {"senders": "denoiser.2.text.attn[1]", "receivers": "denoiser.3.attn[2].v"}
    lost = path_patching(model, one, other, target, **edge, progress=False)
    assert np.allclose(lost["loss"][:, 0], lost["clean"] - by_hand_.numpy(), atol=1e-10)
    assert float(abs(lost["loss"]).min()) > 1e-9


# --- kept, and shown --------------------------------------------------------------------------------------------------


def test_a_circuit_of_two_streams_is_kept_and_shown_with_each_head_once(tmp_path):
    edges = [("denoiser.text.embed", "denoiser.0.attn[1].v"), ("denoiser.0.image.attn[1]", "denoiser.image.end"),
             ("denoiser.0.text.attn", "denoiser.0.text.mlp")]  # fmt: skip
    known = Circuit.of("tiny:sd3", edges)
    assert Circuit.load(known.save(tmp_path / "one.json")) == known
    parts = {(one["source"], one["target"]) for one in known.to_json()["edges"] if one["kind"] == "part"}
    assert parts == {
        ("denoiser.0.attn[1].v", sender) for sender in ("denoiser.0.image.attn[1]", "denoiser.0.text.attn")
    }
    found = faithfulness(opened("sd3"), *sides(), order=scores("eap"), shares=(0.1, 1.0), draws=0, progress=False)
    view = layered(found, true=known, title="A circuit", seen="Its best edges.", limits="Whether others would do.")
    names = [node.name for node in view.nodes]
    assert len(names) == 15 and {node.tower for node in view.nodes} == {"denoiser"}
    assert [node.label for node in view.nodes if node.layer is None] == [
        "embedding, image",
        "embedding, text",
        "end, image",
    ]
    heads = [node.name for node in view.nodes if node.kind == "head"]
    assert heads == [f"denoiser.{layer}.attn[{head}]" for layer in (0, 1) for head in range(4)]
    assert sum(bool(link.true) for link in view.links) == 3
    levels = {node.name: node.level for node in view.nodes}
    assert levels["denoiser.0.attn[1]"] < levels["denoiser.0.text.mlp"] == levels["denoiser.0.image.mlp"]


# --- what has no graph ------------------------------------------------------------------------------------------------


def test_a_drawing_whole_and_blocks_of_another_kind_say_so():
    for name, options, why in (("sd3", {"step": None}, "whole drawing"), ("sd", {"length": None}, "No stream")):
        with pytest.raises(MethodError, match=why):
            Graph.of(opened(name), asked(name, "a dog", **options))
    twice = fresh("sd3")  # as in SD3.5, whose picture attends a second time to itself
    twice.module.transformer.transformer_blocks[1].attn2 = torch.nn.Identity()
    with pytest.raises(MethodError, match=r"Block 1 of the denoiser \(JointTransformerBlock\)"):
        Graph.of(twice)


def test_what_goes_by_the_way_of_the_timestep_is_refused_with_the_way_out():
    one, other = asked("sd3", "a red dog"), asked("sd3", "a red cat")
    with pytest.raises(MethodError, match="in_words_of"):
        edge_attribution(opened("sd3"), one, other, distance(sides()[2].reference[:1]), progress=False)
    with pytest.raises(InputError, match="do not go where"):
        in_words_of(one, asked("sd3", "a red cat", length=5))
