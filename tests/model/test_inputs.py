"""Inputs: pictures as the model's own processor makes them, prompts of one or several, maps for every axis."""

import numpy as np
import pytest
import torch

from cutaway.errors import InputError
from cutaway.model.drawing import prepare_drawing
from cutaway.model.inputs import Inputs
from cutaway.zoo import tiny
from world import given, identical, library_call, opened


@pytest.mark.parametrize("name", ["clip", "siglip", "llava", "llava-next", "paligemma", "blip2"])
def test_the_tensors_are_those_of_the_models_own_processor(name):
    model = opened(name)
    spec, picture = tiny.TINY[name], tiny.picture(size=(50, 30))
    text = "<image> a red dog" if "<image>" in spec.prompt else "a red dog"
    fixed = {"padding": "max_length", "max_length": 16} if name == "siglip" else {}
    theirs = model.processor(images=[picture], text=[text], return_tensors="pt", **fixed)
    ours = model.inputs(image=picture, text=text).tensors
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"].double())


@pytest.mark.parametrize("form", ["array", "floats", "tensor", "path", "list"])
def test_a_picture_may_come_in_any_form(form, tmp_path):
    model, picture = opened("clip"), tiny.picture()
    picture.save(tmp_path / "photo.png")
    array = np.asarray(picture)
    forms = {"array": array, "floats": array / 255, "tensor": torch.tensor(array), "list": [picture]}
    made = model.inputs(image=forms.get(form, tmp_path / "photo.png"))
    assert torch.equal(made.tensors["pixel_values"], model.inputs(image=picture).tensors["pixel_values"])
    assert np.array_equal(np.asarray(made.pictures[0]), array)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "paligemma", "blip2", "llava-next"])
def test_a_batch_of_pictures_and_questions_answers_each_as_alone(name):
    model = opened(name)
    pictures, texts = [tiny.picture(0), tiny.picture(1)], ["what is this", "where is this"]
    both = model.run(model.inputs(image=pictures, text=texts)).logits
    for row in range(2):
        alone = model.run(model.inputs(image=pictures[row], text=texts[row])).logits
        assert torch.allclose(both[row], alone[0], atol=1e-4)  # RMS norms work in float32


def test_two_pictures_of_one_prompt_are_numbered_in_their_order():
    model = opened("llava")
    tokens = model.inputs(image=[tiny.picture(0), tiny.picture(1)], text="which is red").tokens["text"]
    first, second = (tokens.where("image", image=i)[0].nonzero().flatten() for i in range(2))
    assert len(first) == len(second) == 16
    assert first.max() < second.min()


def test_floats_follow_the_dtype_and_whole_numbers_stay():
    inputs = given("clip").to("cpu", torch.float16)
    assert {k: v.dtype for k, v in inputs.tensors.items()} == {
        "pixel_values": torch.float16, "input_ids": torch.int64, "attention_mask": torch.int64,
    }  # fmt: skip
    assert given("clip").tensors["pixel_values"].dtype == torch.float64


def test_padding_is_marked_and_does_not_change_the_answer():
    model = opened("clip")
    texts = ["a dog", "a red dog on the left of a car"]
    tokens = model.inputs(text=texts).tokens["text"]
    assert tokens.kind[0, -1] == "pad"
    assert "pad" not in tokens.kind[1]
    both = model.run(model.inputs(text=texts)).outputs
    assert torch.allclose(both.pooler_output[0], model.run(model.inputs(text=texts[0])).outputs.pooler_output[0])


def test_prepared_tensors_go_to_the_model_as_they_are():
    model = opened("llava")
    inputs = model.inputs(**given("llava").tensors)
    assert identical(library_call(model, inputs), library_call(model, given("llava")))
    assert inputs.tokens["text"].kind.tolist() == given("llava").tokens["text"].kind.tolist()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"text": "a dog", "input_ids": torch.ones(1, 3).long()}, "together with `text="),
        ({"texts": "a dog", "image": tiny.picture()}, "`texts=` came together with `image="),
        ({"images": tiny.picture(), "text": "a dog"}, "takes no `images=`. Available: image"),
        ({"images": tiny.picture(), "input_ids": torch.ones(1, 3).long()}, "Available: image"),
        ({"foo": torch.ones(1)}, "takes no `foo="),
        ({"input_ids": [[1, 2]]}, "cannot be of type list"),
        ({"image": tiny.picture()}, "A picture alone"),
        ({"image": tiny.picture(), "text": "a dog " * 200}, "at most 256 tokens"),
        ({"image": [tiny.picture()] * 3, "text": ["a", "b"]}, "3 pictures and 2 texts"),
    ],
)
def test_what_does_not_go_together_is_refused(bad, says):
    with pytest.raises(InputError, match=says):
        opened("llava").inputs(**bad)


@pytest.mark.parametrize(("name", "size"), [("sd", (36, 32)), ("sd3", (34, 32)), ("flux", (32, 34)), ("sd", (0, 32))])
def test_a_size_that_the_pipeline_cannot_draw_is_refused_before_it_draws(name, size):
    with pytest.raises(InputError, match="both multiples of"):
        opened(name).inputs(prompt="a dog", size=size)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_a_tiny_pipeline_draws_tiny_pictures(name):
    drawn = opened(name).inputs(prompt="a dog", steps=2).tensors
    assert (drawn["height"], drawn["width"]) == (32, 32)


@pytest.mark.parametrize(
    ("name", "size"), [("sd", (40, 24)), ("sdxl", (24, 40)), ("sd3", (36, 28)), ("flux", (28, 36))]
)
def test_a_picture_need_not_be_square(name, size):
    model = opened(name)
    inputs = model.inputs(prompt=["a dog", "a cat"], negative="red", size=size, steps=1, guidance=2.0)
    run = model.run(inputs, record=list(model.sites), output="pt")
    assert run.outputs.images.shape == (2, 3, *size)
    assert model.estimate(inputs, list(model.sites)).shapes == {s: tuple(t.shape) for s, t in run.activations.items()}
    assert inputs.grid(torch.zeros(2, len(inputs.tokens["denoiser"])), tower="denoiser").shape == inputs.latent


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"steps": 1.5}, "1.5 denoising steps"), ({"steps": 0}, "0 denoising"), ({"steps": True}, "True denoising"),
        ({"seed": 1.5}, "`seed=` cannot be 1.5"), ({"guidance": "5"}, "`guidance=`"),
        ({"guidance": float("nan")}, "`guidance=`"), ({"size": 32}, "size 32"), ({"size": (32,)}, "height, width"),
        ({"size": (32.0, 32)}, "height, width"), ({"negative": ["a", "b"]}, "1 prompts and 2 negative"),
        ({"negative": 3}, "type int"), ({"prompt": 3}, "type int"), ({"prompt": []}, "Nothing to draw"),
    ],
)  # fmt: skip
def test_numbers_a_pipeline_cannot_draw_with_are_refused(bad, says):
    model = opened("sd")
    good = dict.fromkeys(("negative", "label", "image", "mask", "strength", "guidance", "pictures", "size", "length"))
    good |= {"prompt": "a dog", "seed": 0, "steps": 1}
    with pytest.raises(InputError, match=says):
        prepare_drawing(model.module, model.towers, good | bad)


def test_a_pipeline_whose_denoiser_is_unknown_says_so():
    model = opened("sd")
    good = dict.fromkeys(("negative", "label", "image", "mask", "strength", "guidance", "pictures", "size", "length"))
    good |= {"prompt": "a dog", "seed": 0, "steps": 1}
    with pytest.raises(InputError, match="Nothing is known of the denoiser"):
        prepare_drawing(model.module, {"text": model.towers["text"]}, good)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_the_empty_prompt_is_a_prompt(name):
    model = opened(name)
    inputs = model.inputs(prompt=["", "a dog"], steps=1, size=(32, 32))
    alone = model.inputs(prompt="", negative="", steps=1, size=(32, 32))
    assert inputs.tensors["prompt"] == ["", "a dog"] and alone.tensors["negative_prompt"] == [""]
    assert inputs.tokens["text"].kind[0].tolist() == alone.tokens["text"].kind[0].tolist()
    assert model.run(inputs, output="latent").outputs.images.shape[0] == 2


def test_a_sound_with_more_words_than_the_decoder_has_places_is_refused():
    with pytest.raises(InputError, match="at most 64 tokens"):
        opened("whisper").inputs(audio=np.zeros(4000), text="a " * 100)


def test_inputs_print_as_one_line_and_an_unknown_tower_names_those_there_are():
    inputs = given("llava")
    assert "\n" not in repr(inputs)
    assert "input_ids: (1," in repr(inputs)
    with pytest.raises(InputError, match="vision"):
        inputs.where("image", tower="visoin")
    with pytest.raises(InputError, match="vision"):
        inputs.grid(torch.zeros(1, 3), tower="visoin")


def test_nothing_stacks_to_nothing():
    with pytest.raises(InputError, match="Nothing to stack"):
        Inputs.stack([])


@pytest.mark.parametrize(("name", "said"), [("blip2", "without a picture"), ("whisper", "without a sound")])
def test_what_a_model_cannot_do_without_is_asked_for(name, said):
    with pytest.raises(InputError, match=said):
        opened(name).inputs(text="what is this")
