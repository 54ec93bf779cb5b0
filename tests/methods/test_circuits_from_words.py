"""Circuits that begin at the words of a prompt: text encoders and denoiser in one graph, against plain hooks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import cutaway
from cutaway import questions
from cutaway.errors import InputError, MethodError
from cutaway.methods import attribution_patching, edge_attribution, faithfulness, path_patching
from cutaway.methods.causal_tracing.circuit_views import show
from cutaway.methods.method import Entry
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.model.asides import in_words_of
from cutaway.model.graph import Graph
from cutaway.model.inputs import Inputs
from cutaway.model.targets import distance
from world import fresh, opened

CALL = {"step": 1, "steps": 3, "size": (16, 16), "guidance": 1.0, "length": 4}


@cache
def drawn() -> cutaway.Model:
    """A Stable Diffusion 3 of two prompt encoders, whose blocks are both known."""
    pipeline = fresh("sd3").module
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    return cutaway.load(pipeline)


def asked(*prompts: str, **options) -> Inputs:
    return drawn().inputs(prompt=list(prompts), **{**CALL, "encoder": True, **options})


@cache
def sides():
    one, other = (asked(f"a red {word}", f"a blue {word}") for word in ("dog", "cat"))
    strange = drawn().run(asked("a fox", "a mat", seed=3)).outputs.sample
    return one, in_words_of(one, other), distance(strange)


@cache
def scores(how: str):
    return edge_attribution(drawn(), *sides(), how=how, progress=False)


def test_the_encoders_run_in_the_same_run_and_say_what_they_said():
    for guidance in (1.0, 4.0):  # of a batch for guidance the rows of the prompt
        runs = [drawn().run(asked("a red dog", guidance=guidance, encoder=one)).outputs.sample for one in (True, False)]
        assert torch.equal(*runs)
    graph = Graph.of(drawn(), sides()[0])
    assert graph.streams == ["text", "text_2", "denoiser.image", "denoiser.text"]
    words = next(one for one in graph.receivers if one.name == "denoiser.text.embed")
    assert [str(site) for site, _ in words.reads] == ["text.0.resid_post", "text_2.0.resid_post"]  # the last but one
    assert not any(name.startswith("text.1") for names in graph.names for name in names)


@pytest.mark.checks("faithfulness", "truth")
@pytest.mark.checks("edge_attribution", "truth")
def test_all_edges_are_the_clean_run_none_the_other_and_one_less_is_the_exact_score():
    exact = scores("exact")
    names = [("text_2.0.attn[0]", "text_2.0.mlp"), ("denoiser.text.embed", "denoiser.1.attn[2].k")]
    found = faithfulness(drawn(), *sides(), order=exact, shares=(0, 1), draws=0, progress=False)
    assert np.allclose(found["target"][1], exact["clean"], atol=1e-10)
    assert np.allclose(found["target"][0], exact["corrupted"], atol=1e-10)
    for sender, receiver in names:
        lost = path_patching(drawn(), *sides(), senders=sender, receivers=receiver, progress=False)
        score = float(exact["score"].sel(sender=sender, receiver=receiver))
        assert float(lost["mean"][0]) == pytest.approx(score, abs=1e-12) and abs(score) > 1e-9


def test_along_the_path_what_leaves_the_words_adds_up_to_the_whole_difference():
    """Of the words' embeddings: what the encoders make of them is on the way, and no beginning of its own."""
    found = edge_attribution(drawn(), *sides(), points=4, progress=False)
    begun = found["score"].sel(sender=["text.embed", "text_2.embed"])
    assert float(begun.sum()) == pytest.approx(float((found["clean"] - found["corrupted"]).mean()), rel=1e-3)


# --- against plain torch ----------------------------------------------------------------------------------------------


def by_hand(encoder: str, part: str, moved: Tensor) -> Tensor:
    """The target where one part of an encoder's first layer, or the words, hear another state, with plain hooks."""
    pipeline, inputs, kept = drawn().module, sides()[0], {}
    layer = getattr(pipeline, encoder).text_model.encoder.layers[0]

    def value(_, __, out):
        there = layer.self_attn.v_proj(layer.layer_norm1(kept["in"] + moved))
        new = out.clone()
        wide = out.shape[-1] // layer.self_attn.num_heads
        new[..., wide : 2 * wide] = there[..., wide : 2 * wide]
        return new

    with ExitStack() as stack, torch.no_grad():
        stack.callback(layer.register_forward_pre_hook(lambda _, args: kept.update({"in": args[0]})).remove)
        if part == "value":
            forward, busy = layer.self_attn.v_proj.register_forward_hook, []

            def once(module, args, out):
                if busy:
                    return None
                busy.append(True)
                return value(module, args, out)

            stack.callback(forward(once).remove)
        else:
            front = layer.register_forward_hook(
                lambda _, __, out: out + moved, prepend=True
            )  # the library keeps states by hooks
            stack.callback(front.remove)
        words = pipeline.encode_prompt(
            prompt=list(inputs.drawn), prompt_2=None, prompt_3=None, do_classifier_free_guidance=False,
            max_sequence_length=4,
        )[0]  # fmt: skip
        made = pipeline.transformer(**{**inputs.tensors, "encoder_hidden_states": words})
    return (made.sample - sides()[2].reference).flatten(1).pow(2).mean(1)


@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
def test_scores_in_the_encoders_are_those_of_plain_hooks_and_first_order_scores_their_slope(encoder):
    tower = "text_2" if encoder.endswith("2") else "text"
    embed, mlp = f"{tower}.0.resid_pre", f"{tower}.0.mlp.out"
    runs = [drawn().run(given, record=[embed, mlp]) for given in sides()[:2]]
    for part, site, edge in (
        ("value", embed, {"sender": f"{tower}.embed", "receiver": f"{tower}.0.attn[1].v"}),
        ("words", mlp, {"sender": f"{tower}.0.mlp", "receiver": "denoiser.text.embed"}),
    ):
        fall = (runs[1][site] - runs[0][site])[0]
        lost = by_hand(encoder, part, 0 * fall) - by_hand(encoder, part, fall)
        assert float(scores("exact")["score"].sel(edge)) == pytest.approx(float(lost.mean()), abs=1e-12)
        assert float(abs(lost).max()) > 1e-9
        back, on = (by_hand(encoder, part, at * fall).mean() for at in (-1e-4, 1e-4))
        slope = float(back - on) / 2e-4
        assert float(scores("eap")["score"].sel(edge)) == pytest.approx(slope, rel=1e-4, abs=1e-10)


@pytest.mark.checks("attribution_patching", "truth")
def test_nodes_of_the_encoder_of_a_unet_score_by_what_the_picture_makes_of_them():
    """A UNet has no graph of edges; its prompt encoder and it still are one run, with one slope."""
    model = opened("sd")
    call = {key: value for key, value in CALL.items() if key != "length"} | {"encoder": True}
    one, other = (model.inputs(prompt=f"a red {word}", **call) for word in ("dog", "cat"))
    target = distance(model.run(model.inputs(prompt="a fox", **call)).outputs.sample)
    found = attribution_patching(model, one, other, target, sites="text.*.attn.z", progress=False)
    site = "text.0.attn.z"
    runs = [model.run(given, record=site)[site][..., 1, :] for given in (one, other)]
    ends = []
    for at in (-1e-4, 1e-4):
        moved = cutaway.Set(site, runs[0] + at * (runs[1] - runs[0]), head=1)
        made = model.run(one, edits=moved).outputs.sample
        ends.append(float((made - target.reference).pow(2).mean()))
    assert float(found["mean"].values[0, 1]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)
    with pytest.raises(MethodError, match="No stream"):
        Graph.of(model, one)


# --- as a question ----------------------------------------------------------------------------------------------------


def test_a_question_of_a_drawing_has_circuits_that_begin_at_its_words():
    asked_of = questions.draw(drawn(), "a red dog", step=1, steps=2, counterpart="a red cat")
    few = Entry(name="circuit", options={"draws": 1, "shares": (0.05,)})
    page = applied(asked_of, [replace(method("faithfulness"), reported=(few,))])
    found = page.made("circuit")
    pair = [drawn().inputs(prompt=f"a red {word}", step=1, steps=2, seed=0, encoder=True) for word in ("dog", "cat")]
    there = drawn().run(in_words_of(*pair)).outputs.sample
    assert found["clean"].item() == 0
    assert found["corrupted"].item() == pytest.approx(float((there - asked_of.target.reference).pow(2).mean()))
    (view,) = show(page)
    assert "is on no edge" in view.seen and f"from +{found['corrupted'].item():.3f} there to" in view.seen
    assert list(dict.fromkeys(node.tower for node in view.nodes)) == ["text", "text_2", "denoiser"]
    words = next(at for at, node in enumerate(view.nodes) if node.name == "denoiser.text.embed")
    assert words in {link.start for link in view.links} & {link.end for link in view.links}
    assert "question.from_words, question.along" in view.code


def test_where_an_encoder_has_no_stream_or_other_words_were_given_circuits_begin_at_the_denoiser():
    plain = questions.draw(opened("sd3"), "a red dog", step=1, steps=2, counterpart="a red cat")
    strange = replace(questions.draw(drawn(), "a red dog", step=1, steps=2), text="a blue cat")
    for question in (plain, strange):
        assert question.from_words is question.inputs and question.streams == ("denoiser.image", "denoiser.text")
    assert not plain.along.call.loops and plain.along.drawn == ("a red cat",)


def test_what_can_not_begin_at_the_words_says_so():
    with pytest.raises(MethodError, match=r"goes through 'text_3' \(T5EncoderModel\)"):
        Graph.of(opened("sd3"), opened("sd3").inputs(prompt="a dog", **CALL, encoder=True))
    with pytest.raises(InputError, match="`encoder=` goes with `step=`"):
        asked("a dog", step=None)
    with pytest.raises(InputError, match="begins at the words"):
        in_words_of(asked("a red dog"), asked("a red cat", encoder=False))
    with pytest.raises(InputError, match="no prompt encoders"):
        opened("dit").inputs(label=3, step=0, steps=2, encoder=True)
