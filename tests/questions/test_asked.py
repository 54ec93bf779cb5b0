"""Questions from what a user brings, and the lines that ask them again."""

from pathlib import Path

import pytest

import cutaway
from cutaway import questions
from cutaway.errors import InputError
from cutaway.questions import asked, written
from cutaway.source import Source
from cutaway.zoo import tiny


@pytest.fixture
def photo(tmp_path) -> Path:
    tiny.picture().save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("tiny:clip", {"text": ["a dog", "a 'cat'"]}),
        (Source("tiny:llava", dtype="float64"), {"text": "what is this", "answer": "dog", "rival": "cat"}),
        ("tiny:sd", {"prompt": "a red dog", "step": 3}),
    ],
)
def test_a_question_says_the_lines_that_ask_it_again(model, more, photo):
    first = asked(model, image=photo, **more)
    names = {"cutaway": cutaway, "questions": questions}
    exec(compile(first.code, "a question", "exec"), names)  # noqa: S102, the page shows it to be run
    again = names["question"]
    assert again.value == first.value and again.words == first.words and again.model.dtype == first.model.dtype


def test_what_has_no_writing_goes_by_its_name():
    module, processor = tiny.build("clip")
    model = cutaway.load(module, processor=processor)
    code = written(model, image=tiny.picture(), text="a dog", many=256)
    assert code.splitlines() == [
        "# `model` is the one that was given", "# `image` is what was given",
        "question = questions.asked(model, image=image, text='a dog')",
    ]  # fmt: skip


def test_numbers_with_texts_are_aimed_at_the_first_rather_than_the_second(photo):
    two, one = (asked("tiny:clip", image=photo, text=["a dog", "a cat"][:count]) for count in (2, 1))
    run = two.model.run(two.inputs)
    cosines = [float(cutaway.targets.similarity(at)(run)) for at in (0, 1)]
    assert two.value == pytest.approx(cosines[0] - cosines[1]) and one.value == pytest.approx(cosines[0])
    assert two.among is None and two.space is not None


def test_a_model_that_hears_has_no_question():
    with pytest.raises(InputError, match="answers to a sound"):
        asked("tiny:whisper", text="what is this")
