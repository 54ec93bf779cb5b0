"""A model of pictures alone (DINOv2): read against other pictures, taken apart, patched."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

import cutaway
from cutaway.errors import MethodError, TargetError
from cutaway.methods import activation_patching, logit_lens, representation_decomposition
from cutaway.methods.table import method
from cutaway.model.model import Model
from cutaway.model.targets import closer
from cutaway.questions.bank import picture_bank
from cutaway.questions.pairs import closer_to
from cutaway.questions.question import Question
from cutaway.zoo import tiny

SHOWN = [tiny.picture(seed) for seed in range(3)]
NAMES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def model() -> Model:
    return cutaway.load("tiny:dinov2", dtype="float64")


def given_out(model: Model) -> torch.Tensor:
    return model.run(model.inputs(image=SHOWN)).outputs.pooler_output


def test_a_bank_of_pictures_is_what_the_model_gives_out(model: Model) -> None:
    bank = picture_bank(model, SHOWN, NAMES, progress=False)
    assert torch.allclose(bank.embeddings, given_out(model), atol=1e-12)
    with pytest.raises(MethodError, match="3 pictures and 2 different names"):
        picture_bank(model, SHOWN, ["one", "one", "two"], progress=False)


def test_the_lens_ends_in_the_cosines_of_the_pictures(model: Model) -> None:
    bank, own = picture_bank(model, SHOWN, NAMES, progress=False), given_out(model)
    lens = logit_lens(model, SHOWN[:2], bank, progress=False)
    wanted = cosine_similarity(own[:2, None], own[None], dim=-1)
    assert torch.allclose(torch.from_numpy(lens["pooled"].isel(layer=-1).values), wanted, atol=1e-10)


def test_the_class_token_is_a_sum_over_heads_and_patches(model: Model) -> None:
    parts = representation_decomposition(model, SHOWN[:2], by_token=True, progress=False)
    assert float(parts["error"].max()) < 1e-10
    assert abs(parts["head_tokens"].sum("token") - parts["heads"]).max() < 1e-10
    effect = parts.effect(picture_bank(model, SHOWN, NAMES, progress=False)).sum("term")
    own = given_out(model)
    assert torch.allclose(
        torch.from_numpy(effect.transpose("item", "text").values), cosine_similarity(own[:2, None], own[None], dim=-1)
    )


def test_a_question_without_texts_is_enough_for_the_sum_and_not_for_the_lens(model: Model) -> None:
    question = Question(model=model, pictures=(SHOWN[0],))
    assert method("representation_decomposition").why_not(question) == ""
    assert "space of texts" in method("logit_lens").why_not(question)
    llava = Question(model=cutaway.load("tiny:llava"), pictures=(SHOWN[0],))
    assert "gives out" in method("representation_decomposition").why_not(llava)


def test_nearer_to_one_picture_than_to_another_is_a_target(model: Model) -> None:
    own, aim = given_out(model), closer_to(model, SHOWN[1:2], SHOWN[2:])
    wanted = cosine_similarity(own[:1], own[1:2]) - cosine_similarity(own[:1], own[2:])
    assert torch.allclose(aim(model.run(model.inputs(image=SHOWN[0]))), wanted, atol=1e-12)
    clip = cutaway.load("tiny:clip")
    run = clip.run(clip.inputs(image=SHOWN[0], text="a dog"))
    with pytest.raises(TargetError, match="no embedding"):
        aim(run)


def test_a_picture_patched_whole_becomes_the_other(model: Model) -> None:
    aim = closer(*(given_out(model)[at : at + 1] for at in (0, 1)))
    found = activation_patching(model, SHOWN[:1], SHOWN[1:2], target=aim, over=(), progress=False)
    assert abs(found["recovery"].values - 1).max() < 1e-10
