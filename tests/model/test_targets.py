"""Targets are the library's own numbers."""

import pickle
from copy import deepcopy

import pytest
import torch

import cutaway
from cutaway import Scale, targets
from cutaway.errors import TargetError
from cutaway.model.words import token_of
from cutaway.zoo import tiny
from world import PT, given, opened


def test_words_are_read_off_the_next_token():
    model = opened("llava")
    run = model.run(given("llava"))
    dog, cat = (model.tokenizer.convert_tokens_to_ids(word) for word in ("dog", "cat"))
    last = run.outputs.logits[:, -1]
    assert torch.equal(targets.logit("dog")(run), last[:, dog])
    assert torch.equal(targets.logit_diff("dog", "cat")(run), last[:, dog] - last[:, cat])
    assert torch.allclose(targets.log_prob("dog")(run).exp(), last.softmax(-1)[:, dog])
    assert torch.equal(targets.logit(dog, position=2)(run), run.outputs.logits[:, 2, dog])


def test_words_that_are_added_later_are_found():
    tokenizer = deepcopy(opened("llama").tokenizer)
    for _ in range(2):
        with pytest.raises(TargetError, match="not one token"):
            token_of(tokenizer, "wyvern")
    known = token_of(tokenizer, "dog")
    tokenizer.add_tokens([" wyvern"])
    assert token_of(tokenizer, "wyvern") == len(tokenizer) - 1 and token_of(tokenizer, "dog") == known


def test_a_target_tells_its_words_and_where_it_reads_the_last_state():
    model = opened("llama")
    run = model.run(model.inputs(text=["a red dog", "a cat"]), record="text.final", tokens=[-1])
    for target in (targets.logit("dog"), targets.logit_diff("dog", "cat"), targets.logit_diff(["dog", "cat"], "red")):
        for opener in (model, model.engine):
            directions, constant = target.directions(opener)
            assert torch.allclose((run["text.final"][:, 0] * directions).sum(-1) + constant, target(run))
    assert targets.logit_diff("dog", "cat").words == ("dog", "cat") and targets.log_prob("dog").words == ("dog",)
    for target in (targets.log_prob("dog"), targets.label(1), targets.answer()):
        assert target.directions(model) is None and target.signs == ()
    assert targets.label(1).words == ()
    with pytest.raises(TargetError, match="do not pair up"):
        targets.logit_diff(["dog", "cat"], ["red"] * 3).directions(model)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_similarity_is_the_cosine_the_model_scores_by(name):
    model = opened(name)
    inputs = model.inputs(image=[tiny.picture(i) for i in range(2)], text=["a dog", "a red cat"])
    run = model.run(inputs)
    bias = getattr(model.module, "logit_bias", torch.zeros(()))
    cosines = (run.outputs.logits_per_image - bias) / model.module.logit_scale.exp()
    assert torch.allclose(targets.similarity()(run), cosines.diagonal())
    assert torch.allclose(targets.similarity(text=1)(run), cosines[:, 1])


def test_labels_by_number_and_by_name():
    run = opened("vit").run(given("vit"))
    assert torch.equal(targets.label(1)(run), run.outputs.logits[:, 1])
    assert torch.equal(targets.label("dog")(run), run.outputs.logits[:, 1])
    for wrong in (99, "zebra"):
        with pytest.raises(TargetError):
            targets.label(wrong)(run)


def test_distance_is_zero_from_itself_and_grows_with_an_edit():
    model = opened("sd")
    base = model.run(given("sd"), **PT)
    far = targets.distance(base)
    assert far(base).tolist() == [0.0]
    edited = [model.run(given("sd"), edits=Scale("denoiser.1.resid_post", f), **PT) for f in (1.1, 2.0)]
    assert 0 < far(edited[0]).item() < far(edited[1]).item()


def test_targets_are_values():
    target = targets.logit_diff("dog", "cat")
    assert pickle.loads(pickle.dumps(target)) == target
    assert {targets.log_prob("a").unit, targets.similarity().unit, target.unit} == {"nats", "cosine", "logits"}


@pytest.mark.parametrize(
    "target",
    [
        targets.logit(10**6), targets.logit(True), targets.logit_diff("dog", -(10**6)), targets.log_prob(10**6),
        targets.logit("dog", position=True),
    ],
)  # fmt: skip
def test_numbers_that_name_no_token_or_position_are_errors(target):
    with pytest.raises(TargetError, match=r"No (token|position)"):
        target(opened("llava").run(given("llava")))


@pytest.mark.parametrize("wrong", [2, -3, True])
def test_a_text_that_is_not_there_is_an_error(wrong):
    model = opened("clip")
    run = model.run(model.inputs(image=tiny.picture(0), text=["a dog", "a red cat"]))
    with pytest.raises(TargetError, match="No text"):
        targets.similarity(wrong)(run)
    assert torch.equal(targets.similarity(-1)(run), targets.similarity(1)(run))


@pytest.mark.parametrize("wrong", [True, -6])
def test_a_class_is_a_whole_number(wrong):
    with pytest.raises(TargetError, match="No class"):
        targets.label(wrong)(opened("vit").run(given("vit")))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_log_probability_of_a_half_precision_model_is_not_rounded_again(dtype):
    model = cutaway.load("tiny:llama", dtype=dtype)
    run, cat = model.run(model.inputs(text="a red dog")), model.tokenizer.convert_tokens_to_ids("cat")
    want = run.logits[:, -1].double().log_softmax(-1)[:, cat]
    assert abs(targets.log_prob("cat")(run) - want).max() < 1e-5


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_target_that_is_not_finite_names_its_row(bad):
    """In a gradient and before a sweep; a cell that an edit breaks says so with its own number."""
    model = opened("llama")
    inputs = model.inputs(text=["a red dog", "a red cat"])
    broken = Scale("text.logits", float(bad), batch=1)
    target = targets.logit("dog")
    with model.edited(broken), pytest.raises(TargetError, match=f"{bad} in row 1 of the 2 ") as caught:
        model.gradients(inputs, target, "text.0.resid_post")
    assert all((caught.value.failed, caught.value.expected, caught.value.exists, caught.value.do))
    with model.edited(broken), pytest.raises(TargetError, match="in row 1"):
        model.sweep(inputs, [Scale("text.0.mlp.out", 0)], target, progress=False)
    found = model.sweep(inputs, [broken], target, progress=False)
    assert found.values.values.ravel()[0] == float(found.clean[0]) and not abs(found.values.values.ravel()[1]) < 1e9
