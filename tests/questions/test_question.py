"""Questions: the three kinds, what they lack, and what is taken from what a user brings."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway import data, questions
from cutaway.errors import InputError, MethodError
from cutaway.methods.table import method
from cutaway.model.targets import denoising_error, logit, logit_diff, numbers
from cutaway.zoo import tiny


@pytest.fixture(scope="module")
def llava():
    return cutaway.load("tiny:llava", dtype="float64")


def test_a_match_is_the_difference_of_two_cosines():
    model = cutaway.load("tiny:clip", dtype="float64")
    asked = questions.match(model, tiny.picture(), ["a dog", "a cat"], tiny.picture(3))
    outputs = model.run(asked.inputs).outputs
    cosines = (outputs.image_embeds @ outputs.text_embeds.T)[0]
    assert float(asked.target(model.run(asked.inputs))) == pytest.approx(float(cosines[0] - cosines[1]))
    assert asked.counterpart.words == asked.words and asked.counterpart.target == asked.target
    assert torch.equal(asked.texts.embeddings, asked.counterpart.texts.embeddings)


def test_without_answers_a_model_that_writes_is_asked_for_its_own_first_choice_against_its_second(llava):
    asked = questions.ask(llava, tiny.picture(), "what is this")
    logits = llava.run(asked.inputs).logits[0, -1]
    first, second = logits.topk(2).indices.tolist()
    assert asked.target == logit_diff(first, second)
    assert float(asked.target(llava.run(asked.inputs))) == pytest.approx(float(logits[first] - logits[second]))


def test_one_answer_is_held_against_the_best_other(llava):
    first = questions.ask(llava, tiny.picture(), "what is this").words[0]
    assert questions.ask(llava, tiny.picture(), "what is this", answer="dog").words == ("dog", first)
    assert questions.ask(llava, tiny.picture(), "what is this", answer=first).words[0] == first
    rival = questions.ask(llava, tiny.picture(), "what is this", rival=first)
    assert rival.words[1] == first != rival.words[0]


def test_a_word_that_the_question_names_is_the_rival(llava):
    for text, answer, rivals in (
        ("is the dog to the left or to the right of the cat?", "right", ("left",)),
        ("is it red, blue or a dog?", "blue", ("red", "dog")),
    ):  # fmt: skip
        asked = questions.ask(llava, tiny.picture(), text, answer)
        logits = {word: float(logit(word)(llava.run(asked.inputs))) for word in rivals}
        assert asked.words == (answer, max(logits, key=logits.get))
    asked = questions.ask(llava, tiny.picture(), "is it left or right?", "dog")
    assert asked.words == questions.ask(llava, tiny.picture(), "is it left or right?", "dog", asked.words[1]).words
    assert asked.target.other == int(llava.run(asked.inputs).logits[0, -1].argmax())


def test_the_counterpart_is_asked_the_same_number(llava):
    asked = questions.ask(llava, tiny.picture(), "what is this", counterpart=tiny.picture(3))
    assert asked.counterpart.target == asked.target and asked.counterpart.text == asked.text
    other = questions.ask(llava, tiny.picture(), "what is this", counterpart="what was this")
    assert other.counterpart.text == "what was this" and other.counterpart.pictures == other.pictures


def test_a_drawing_is_held_against_its_noise_or_its_own_prompt():
    model = cutaway.load("tiny:sd")
    noisy = questions.draw(model, "a red dog", step=1, steps=3, image=tiny.picture())
    assert float(noisy.target(model.run(noisy.inputs))) > 0
    pair = questions.draw(model, "a red dog", step=1, steps=3, counterpart="a red cat")
    assert pair.value == pytest.approx(0, abs=1e-10) and pair.counterpart.value > 0


def test_words_alone_are_asked_in_the_models_chat_as_beside_a_picture(llava):
    """The rest of the prompt is the same but for the picture; a text in the chat stays as it is, and so does `raw`."""
    model, text = cutaway.load("zoo:emoji-llava"), "a dog is left of a cat. Is the dog left or right of the cat?"
    alone, seen = (questions.ask(model, given, text, "left", "right") for given in (None, tiny.picture()))
    words = [one.inputs.tokens["text"] for one in (alone, seen)]
    beside = words[1].text[0][words[1].kind[0] != "image"]
    assert words[0].text[0].tolist() == beside.tolist() and alone.text == text
    chat = model.chat(text)
    assert chat != text == questions.ask(llava, None, text, "dog", "cat").text
    for given in (chat, chat[:-14], chat + " It is", f"<|user|>{text}"):
        assert model.chat(given) == given
    raw = questions.ask(model, None, text, "left", "right", "a cat.", raw=True)
    for one in (raw, raw.counterpart):
        assert torch.equal(one.inputs.tensors["input_ids"], model.inputs(text=one.text).tensors["input_ids"])
    assert questions.asked(model, text=text, raw=True).floor.inputs.tensors["input_ids"].shape[1] == len(words[0]) - 3
    with pytest.raises(InputError, match="raw text beside a picture"):
        questions.ask(model, tiny.picture(), text, raw=True)
    with pytest.raises(InputError, match="--raw says nothing to 'tiny:clip'"):
        questions.asked("tiny:clip", image=tiny.picture(), text="a dog", raw=True)


def test_a_template_of_a_model_of_texts_takes_strings():
    made = cutaway.load("tiny:llama")
    made.tokenizer.chat_template = "{% for m in messages %}USER: {{ m['content'] }} {% endfor %}ASSISTANT:"
    model = cutaway.load(made.module, processor=made.processor)
    assert model.chat("a dog") == "USER: a dog ASSISTANT:" == model.chat("USER: a dog ASSISTANT:")
    assert model.chat("Before. USER: a dog ASSISTANT:").count("USER") == 1


def test_a_word_that_is_no_token_is_refused(llava):
    with pytest.raises(cutaway.errors.TargetError, match="not one token"):
        questions.ask(llava, tiny.picture(), "what is this", answer="hippopotamuses")


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("tiny:clip", {"image": tiny.picture(), "text": ["a dog", "a cat"]}, "match"),
        ("tiny:llava", {"image": tiny.picture(), "text": "what is this"}, "ask"),
        ("tiny:llama", {"text": "a red"}, "ask"),
        ("tiny:sd", {"prompt": "a red dog"}, "draw"),
        ("tiny:clip", {"image": tiny.picture()}, "many"),
    ],
)
def test_what_kind_it_is_follows_from_the_model(name, given, kind):
    assert questions.asked(name, **given).kind == kind


def test_what_does_not_fit_a_model_is_refused():
    with pytest.raises(InputError, match="2 texts to 'tiny:llava'"):
        questions.asked("tiny:llava", image=tiny.picture(), text=["a", "b"])
    with pytest.raises(InputError, match="draws nothing"):
        questions.asked("tiny:clip", prompt="a dog")
    seen = tiny.picture()
    for name, lost, given in (
        ("tiny:llava", "step", {"image": seen, "text": "what is this", "step": 3}),
        ("tiny:clip", "answer", {"image": seen, "text": "a dog", "answer": "dog"}),
        ("tiny:clip", "step", {"image": seen, "text": "a dog", "step": 0}),
        ("tiny:sd", "text", {"prompt": "a dog", "text": "a cat"}),
        ("tiny:sd", "rival", {"prompt": "a dog", "rival": "cat"}),
    ):
        with pytest.raises(InputError, match=f"--{lost} says nothing to '{name}'"):
            questions.asked(name, **given)
    with pytest.raises(InputError, match="its own rival"):
        questions.asked("tiny:llava", image=seen, text="what is this", answer="dog", rival="dog")


def test_a_crowd_is_taken_as_the_model_takes_it(llava):
    crowd = [tiny.picture(seed) for seed in range(3)]
    asked = questions.ask(llava, tiny.picture(), "what is this", crowd=crowd)
    inputs = asked.rows[1]
    same = llava.inputs(image=crowd[1], text="what is this")
    assert torch.equal(inputs.tensors["pixel_values"], same.tensors["pixel_values"]) and len(asked.rows) == 3
    assert questions.Question(model=llava, crowd=crowd).rows is crowd


def test_rows_are_on_the_other_side_of_their_sources_and_each_picture_is_in_one_row(llava):
    crowd = [tiny.picture(seed) for seed in range(10)]
    clip = cutaway.load("tiny:clip", dtype="float64")
    matched = questions.match(clip, crowd[0], ["a dog", "a cat"], crowd=crowd)
    for asked in (matched, questions.ask(llava, crowd[0], "what is this", "dog", "cat", crowd=crowd)):
        found = asked.opposed
        here, there = (numbers(found.target, asked.model.run(one)) for one in (found.clean, found.source))
        assert (here < 0).all() and (there > 0).all() and len(found.labels) == 5
        seen = torch.cat([one.tensors["pixel_values"] for one in (found.clean, found.source)])
        assert len(seen.unique(dim=0)) == 10
        site = "vision.2.resid_post" if asked is matched else "text.2.resid_post"
        whole = method("distributed-alignment-search").apply(asked, site=site, steps=1).result["iia"]
        assert whole.sel(kind="whole") == 1 and whole.sel(kind="none") == 0  # the last state there is all that is read
    assert questions.match(clip, crowd[0], ["a dog"], crowd=crowd[:1] * 8).opposed is None
    assert questions.ask(llava, None, "what is this", "dog", "cat", crowd=crowd).opposed is None


def test_a_call_is_printed_as_it_was_made_and_refusals_name_what_is_missing(llava):
    asked = questions.ask(llava, tiny.picture(), "what is this", "dog", "cat", tiny.picture(3))
    made = method("activation-patching").apply(asked, over="head")
    space = {"question": asked, "print": lambda *_: None}
    exec(made.code(), space)  # noqa: S102
    assert (space["found"]["recovery"].values == made.result["recovery"].values).all()
    with pytest.raises(MethodError, match="ends in the space of texts"):
        method("logit_lens").apply(asked)
    with pytest.raises(MethodError, match="has no option 'ower'"):
        method("activation-patching").apply(asked, ower="head")


# --- scenes and pairs of EmojiWorld -----------------------------------------------------------------------------------


def test_a_pair_brings_both_captions_its_other_scene_and_where_they_differ():
    model, pair = cutaway.load("tiny:clip"), next(data.pairs("category", 1))
    asked = questions.match(model, pair)
    assert asked.words == (pair.caption_a.text, pair.caption_b.text)
    assert np.array_equal(np.asarray(asked.counterpart.pictures[0]), np.asarray(data.render(pair.b)))
    differ = (np.asarray(asked.pictures[0]) != np.asarray(asked.counterpart.pictures[0])).any(-1)
    assert np.array_equal(asked.truth["what differs"], differ) and len(asked.truth) == len(pair.a.things) + 1


def test_many_pairs_are_two_sides_and_what_tells_them_apart(llava):
    model, some = cutaway.load("tiny:clip", dtype="float64"), list(data.pairs("background", 3))
    own, other, target = questions.apart(model, iter(some))
    assert own == [pair.a for pair in some] and other == [pair.b for pair in some]
    assert float(target.rows(1, 2)(model.run(model.inputs(image=data.render(own[1]))))) == pytest.approx(
        questions.match(model, some[1]).value
    )
    texts, others, _ = questions.apart(model, some, "text")
    assert (texts[0], others[0]) == (some[0].caption_a.text, some[0].caption_b.text)
    for refused, given, said in (
        (model, [], "no pair to tell apart"), (model, own, "Scene is no pair"), (llava, some, "no joint space"),
    ):  # fmt: skip
        with pytest.raises((InputError, MethodError), match=said) as caught:
            questions.apart(refused, given)
        assert caught.value.expected and caught.value.do


@pytest.mark.parametrize("factor", ["category", "background", "label", "binding place"])
def test_a_pair_is_asked_what_tells_its_scenes_apart(factor):
    model = cutaway.load("zoo:emoji-llava")
    pair = next(pair for pair in data.pairs(factor, 20) if pair.a.background.kind == pair.b.background.kind == "plain"
                or factor != "background")  # fmt: skip
    asked = questions.ask(model, pair)
    assert {one.question: one.answer for one in data.questions(pair.a)}[asked.text] == asked.words[0]
    assert {one.question: one.answer for one in data.questions(pair.b)}[asked.text] == asked.words[1]
    assert asked.counterpart.text == asked.text and asked.counterpart.words == asked.words


def test_a_pair_that_no_question_tells_apart_is_refused(llava):
    with pytest.raises(InputError, match="tells the two scenes"):
        questions.ask(llava, next(data.pairs("artist", 1)))


def test_a_scene_knows_the_answer_to_its_own_questions_and_keeps_those_of_others():
    model, scene = cutaway.load("zoo:emoji-llava"), data.scene_at("test", 3)
    known = data.questions(scene, kinds=("background",))[0]
    assert questions.ask(model, scene, known.question).words[0] == known.answer
    assert questions.ask(model, scene, known.question, answer="dog", rival="cat").words == ("dog", "cat")
    assert set(questions.ask(model, scene).truth) >= {f"the {scene.things[0].concept}"}
    assert questions.ask(model, scene).words == ("yes", "no")


def test_a_drawn_scene_is_its_caption_and_its_picture():
    model, pair = cutaway.load("tiny:sd"), next(data.pairs("place", 1))
    alone = questions.draw(model, pair.a, step=1, steps=3)
    assert alone.words == (data.captions(pair.a)[0].text,) and alone.target == denoising_error()
    both = questions.draw(model, pair, step=1, steps=3)
    assert both.counterpart.words == (pair.caption_b.text,) and "what differs" in both.truth
