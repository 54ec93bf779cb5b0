"""Rows of tokens: what is learnt, what sees what, and that they are the tokens of the chat template."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway import data
from cutaway.zoo import emoji_llava
from cutaway.zoo.contexts import SHARES, TASKS, conversation, kept_apart, sort_of
from cutaway.zoo.conversations import Conversation, Turn, batch, row
from cutaway.zoo.vocabulary import ANSWER, BEGIN, END, PAD, PICTURE, UNKNOWN, ids, tokenizer, vocabulary

TOOLS, WORDS = emoji_llava.processor(), tokenizer()
contexts = given(
    seed=st.integers(0, 2**32), kind=st.sampled_from(list(SHARES)), split=st.sampled_from(["train", "test", "artist"])
)


@contexts
@settings(max_examples=25, deadline=None)
def test_answers_and_their_ends_are_learnt_and_nothing_else(seed, kind, split):
    one = conversation(random.Random(seed), kind, split)
    made = row(one)
    wanted = [token for turn in one.turns if turn.learnt for token in (*ids(turn.answer), END)]
    assert [token for token, learnt in zip(made.input_ids, made.learnt, strict=True) if learnt] == wanted
    assert made.input_ids.count(BEGIN) == 1 and made.input_ids.count(PICTURE) == 64 * len(one.shown())
    assert UNKNOWN not in made.input_ids
    starts = [i for i, token in enumerate(made.input_ids) if token == ANSWER]
    assert len(starts) == len(one.turns) and not any(made.learnt[i] for i in starts)


@contexts
@settings(max_examples=12, deadline=None)
def test_questions_apart_do_not_see_each_other(seed, kind, split):
    one = conversation(random.Random(seed), kind, split)
    made = batch([one, Conversation((Turn("x", "is there a dog?", "no"),))])
    visible, branch = made.visible()[0], made.branch[0]
    length = len(row(one).input_ids)
    for query in random.Random(0).sample(range(length), 12):
        seen = visible[query].nonzero().flatten().tolist()
        expected = [k for k in range(query + 1) if branch[k] in (0, branch[query])]
        assert seen == expected
        assert made.position[0, query] == len(seen) - 1
    assert (made.input_ids[1, -1] == PAD) and not made.visible()[1, :-1, -1].any()


@contexts
@settings(max_examples=12, deadline=None)
def test_rows_are_what_the_chat_template_says(seed, kind, split):
    one = conversation(random.Random(seed), kind, split)
    for said in (one,) if not one.apart else [one.alone(k) for k in range(len(one.turns))]:
        text = TOOLS.apply_chat_template(said.messages())
        pictures = [data.render(scene) for scene in said.shown()] or None
        found = TOOLS(images=pictures, text=text, return_tensors="pt")
        assert found["input_ids"][0].tolist() == row(said).input_ids
        if pictures:
            drawn = batch([said]).pictures.float() / 127.5 - 1
            assert torch.allclose(found["pixel_values"], drawn, atol=1e-6)


def test_together_is_as_alone():
    """The same hidden states whether questions share a row or are asked one by one."""
    from cutaway.zoo.language import scored

    model = emoji_llava.untrained()
    one = conversation(random.Random(3), "picture")
    one = Conversation(one.turns, one.scenes, apart=True)
    with torch.inference_mode():
        together, truth = scored(model, batch([one]))
        alone = [scored(model, batch([one.alone(k)])) for k in range(len(one.turns))]
        assert torch.equal(truth, torch.cat([tokens for _, tokens in alone]))
        assert torch.allclose(together, torch.cat([logits for logits, _ in alone]), atol=2e-4)
        asked = one.alone(0)
        plain = TOOLS(
            images=[data.render(one.scenes[0])], text=TOOLS.apply_chat_template(asked.messages()),
            return_tensors="pt",
        )  # fmt: skip
        at = len(ids(asked.turns[0].answer)) + 2
        assert torch.allclose(model(**plain).logits[0, -at], alone[0][0][0], atol=2e-4)


@given(st.lists(st.sampled_from([*list(vocabulary())[7:], "zebrafish", "of ice"]), max_size=12))
def test_words_are_those_of_the_tokenizer(words):
    text = " ".join(words)
    assert ids(text) == WORDS(text)["input_ids"]


def test_a_name_is_one_token():
    for one in data.concepts():
        assert len(ids(one.name)) == 1 and len(ids(f"What colour is the {one.name}?")) == 6
    assert WORDS.decode(ids("a flipped magnifying glass in the top left")) == (
        "a flipped magnifying glass in the top left"
    )


def test_one_beginning():
    text = TOOLS.apply_chat_template([{"role": "user", "content": "is there a dog?"}], add_generation_prompt=True)
    assert TOOLS.tokenizer(text)["input_ids"].count(BEGIN) == 1
    made = TOOLS.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "is there a dog?"}]}], add_generation_prompt=True,
        tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    assert made["input_ids"][0].tolist() == TOOLS.tokenizer(text)["input_ids"]


def test_kept_apart():
    names = [one.name for one in data.concepts()]
    apart = {name for name in names if kept_apart(name)}
    assert 0.08 < len(apart) / len(names) < 0.18
    draw = random.Random(0)
    for _ in range(20):
        one = conversation(draw, "examples in words")
        assert not apart & {turn.answer for turn in one.turns}
    kinds = {one.turns[0].kind for one in (conversation(draw, "examples") for _ in range(30))}
    assert kinds == {f"task {task}" for task in TASKS}


@pytest.mark.parametrize(("name", "kind"), [("dog", "animal"), ("red apple", "food"), ("hammer", "object")])
def test_sorts(name, kind):
    assert sort_of(name) == kind
