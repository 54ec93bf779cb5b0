"""Answers of several tokens: their probability by one forward is what `generate` gives token by token."""

import pytest
import torch

from cutaway import targets
from cutaway.errors import InputError, TargetError
from cutaway.model.answers import one_by_one
from cutaway.model.texts import writes
from cutaway.zoo import tiny
from world import KNOWN, PIPELINES, PROMPTED, opened

WRITERS = [name for name in KNOWN if name not in PIPELINES and writes(opened(name).module)]
TEXTS = ["a red dog on the left", "a cat"]


def asked(name):
    picture = {"image": [tiny.picture(0), tiny.picture(1)]} if "image" in tiny.TINY[name].modalities else {}
    texts = TEXTS[:1] * 2 if name == "gemma2" else TEXTS  # its padding is NaN in float64
    return {**picture, "text": texts}


@pytest.mark.parametrize("name", WRITERS)
def test_it_is_what_generate_gives_token_by_token(name):
    """Two prompts of different length, each with the answer that the model itself writes."""
    model = opened(name)
    made = model.generate(
        model.inputs(**asked(name)), max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    ids = made.ids[:, -3:]
    steps = [logits.double().log_softmax(-1) for logits in made.outputs.logits]
    each = torch.stack([scores.gather(1, ids[:, [t]])[:, 0] for t, scores in enumerate(steps)], 1)
    inputs = model.inputs(**asked(name), answer=list(ids))
    run = model.run(inputs)
    assert torch.allclose(targets.answer()(run).double(), each.sum(1), rtol=0, atol=1e-5)
    assert torch.allclose(targets.answer(mean=True)(run).double(), each.mean(1), rtol=0, atol=1e-5)


def test_words_one_for_all_or_one_a_prompt():
    model = opened("llama")
    one = model.run(model.inputs(text=TEXTS, answer="red dog"))
    both = model.run(model.inputs(text=TEXTS, answer=["red dog", "red dog"]))
    assert torch.equal(targets.answer()(one), targets.answer()(both))
    uneven = model.run(model.inputs(text=TEXTS, answer=["red dog", "cat"]))
    alone = model.run(model.inputs(text=TEXTS[1], answer="cat"))
    assert torch.allclose(targets.answer()(uneven)[1], targets.answer()(alone)[0], rtol=0, atol=1e-9)
    assert uneven.inputs.answers == (2, 1)
    word = model.run(model.inputs(text=TEXTS))
    assert torch.allclose(targets.answer()(uneven)[1], targets.log_prob("cat")(word)[1], rtol=0, atol=1e-9)


def test_tokens_in_a_table_are_one_answer_a_row():
    model = opened("llama")
    table = torch.tensor([[16, 123], [177, 122]])
    inputs = model.inputs(text=TEXTS, answer=table)
    assert inputs.answers == (2, 2) and torch.equal(inputs.tensors["input_ids"][:, -2:], table)


def test_each_row_its_own_word():
    model = opened("llama")
    run = model.run(model.inputs(text=TEXTS))
    each = targets.logit_diff(["dog", "cat"], "red")
    alone = [targets.logit_diff(word, "red")(run)[row] for row, word in enumerate(("dog", "cat"))]
    assert torch.equal(each(run), torch.stack(alone))
    second = model.run(model.inputs(text=TEXTS[1:]))
    assert torch.allclose(each.rows(1, 2)(second)[0], alone[1], rtol=0, atol=1e-9)
    with pytest.raises(TargetError, match="3 words for 2 rows"):
        targets.logit(["dog", "cat", "red"])(run)


def test_refusals():
    model = opened("llama")
    with pytest.raises(InputError, match="3 answers to 2 prompts"):
        model.inputs(text=TEXTS, answer=["a", "b", "c"])
    with pytest.raises(TargetError, match=r"(?i)end in no answer"):
        targets.answer()(model.run(model.inputs(text=TEXTS)))
    for odd in (5, [5, 6], [[5, 6], [7, 8]], torch.ones(2), torch.ones(1, 1, 1, dtype=torch.long)):
        with pytest.raises(InputError, match=r"(?i)no answer in"):
            one_by_one(odd)
    kept = model.run(model.inputs(text=TEXTS, answer="red dog", logits_to_keep=2))
    with pytest.raises(TargetError, match="2 positions for answers of up to 2 tokens"):
        targets.answer()(kept)
    with pytest.raises(InputError, match="does not go on from a prompt"):
        opened("clip").inputs(text="a dog", answer="a cat")


@pytest.mark.parametrize("name", PROMPTED)
def test_the_denoising_error_falls_where_the_truth_is_said(name):
    """Zero where the denoiser's output is written over with the truth; otherwise what its output says."""
    from cutaway import Patch

    model = opened(name)
    inputs = model.inputs(prompt="a red dog", steps=2, step=1, size=(32, 32), image=tiny.picture(0))
    target = targets.denoising_error()
    run = model.run(inputs)
    assert torch.allclose(target(run), (run.outputs.sample - inputs.call.truth).pow(2).flatten(1).mean(1))
    told = model.run(inputs, edits=Patch("denoiser.out", inputs.call.truth[None]))
    assert target(told).max() < 1e-12 < target(run).min()
    with pytest.raises(TargetError, match=r"(?i)nothing is known"):
        target(model.run(model.inputs(prompt="a red dog", steps=2, step=1, size=(32, 32))))
