"""Prompts of several pictures: which belongs to which text, and no row that depends on another's padding."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import InputError
from cutaway.zoo import tiny
from world import fresh, opened

ABOUT_PICTURES = ["llava", "llava-next", "qwen2-vl", "qwen2.5-vl", "paligemma"]
A, B, C = (tiny.picture(k, size) for k, size in enumerate([(48, 40), (64, 32), (32, 64)]))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("images", [[[A, B], [C]], [[A], [C, B]], [[A, B], []]])
@pytest.mark.parametrize("name", ABOUT_PICTURES)
def test_each_text_has_its_own_pictures(name, images, side, monkeypatch):
    model, texts = opened(name), ["what is this ?", "a dog"]
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    inputs = model.inputs(image=images, text=texts)
    logits, mask, tokens = model.run(inputs).logits, inputs.tensors["attention_mask"].bool(), inputs.tokens["text"]
    count = 0
    for row, some in enumerate(images):
        alone = model.inputs(image=[some] if some else None, text=texts[row])
        assert torch.allclose(logits[row][mask[row]], model.run(alone).logits[0], atol=1e-6)
        theirs, own = alone.tokens["text"], mask[row].numpy()
        for place in ("row", "col", "tile", "kind"):
            assert np.array_equal(getattr(tokens, place)[row][own], getattr(theirs, place)[0])
        shifted = np.where(theirs.image[0] >= 0, theirs.image[0] + count, -1)
        assert np.array_equal(tokens.image[row][own], shifted)
        count += len(some)


@pytest.mark.parametrize("name", ABOUT_PICTURES)
def test_all_pictures_go_with_a_single_text(name):
    model = opened(name)
    flat, nested = (model.inputs(image=images, text="a dog") for images in ([A, B], [[A, B]]))
    assert torch.equal(flat.tensors["input_ids"], nested.tensors["input_ids"])
    assert set(flat.tokens["text"].image.ravel()) == {-1, 0, 1}


def test_marks_say_where_pictures_stand():
    model = opened("llava")
    inputs = model.inputs(image=[A, B, C], text=["<image> and <image>", "a <image>"])
    assert set(inputs.tokens["text"].image[0]) == {-1, 0, 1} and set(inputs.tokens["text"].image[1]) == {-1, 2}
    mixed = model.inputs(image=[A, B], text=["<image> what", "what"])
    assert [(row == "image").sum() for row in mixed.tokens["text"].kind] == [16, 16]


@pytest.mark.parametrize(
    ("name", "images", "text", "says"),
    [
        ("llava", [A, B, C], "<image> and <image>", "marks 2 places for 3 pictures"),
        ("llava", [[A], [B]], "what", "do not pair up"),
        ("llava", [A, [B]], ["what", "where"], "do not pair up"),
        ("llava", [A, B, C], ["what", "where"], "3 pictures and 2 texts"),
        ("blip2", [A, B], "what", "one picture a text"),
        ("clip", [[A, B]], None, "one picture a row"),
        ("llama", [A], "what", "takes no picture"),
    ],
)
def test_pictures_that_do_not_pair_up_are_refused(name, images, text, says):
    with pytest.raises(InputError, match=says):
        opened(name).inputs(image=images, text=text)


@pytest.mark.parametrize("name", [*ABOUT_PICTURES, "blip2"])
def test_ids_may_be_prepared_beside_a_picture(name):
    model = opened(name)
    whole = model.inputs(image=A, text="what is this ?")
    given = {k: v for k, v in whole.tensors.items() if k in ("input_ids", "token_type_ids")}
    assert torch.equal(model.run(model.inputs(image=A, **given)).logits, model.run(whole).logits)
    with pytest.raises(InputError, match="together with `image=`"):
        model.inputs(image=A, text="what", pixel_values=whole.tensors["pixel_values"])


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}MARK"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} answer :"
)


@pytest.mark.parametrize("name", ["llava", "llava-next", "paligemma", "blip2"])
def test_a_chat_template_that_writes_the_start_gives_what_the_library_makes_of_it(name):
    made = fresh(name)
    made.processor.chat_template = TEMPLATE.replace("MARK", "" if name == "blip2" else "<image>")
    model = cutaway.load(made.module, processor=made.processor)
    content = [{"type": "image", "image": A}, {"type": "text", "text": "what is this ?"}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    theirs = made.processor.apply_chat_template([{"role": "user", "content": content}], **options)["input_ids"]
    ids = model.inputs(image=A, text="what is this ?").tensors["input_ids"]
    assert torch.equal(ids, theirs)
    assert (ids == model.tokenizer.bos_token_id).sum() == (2 if name == "paligemma" else 1)  # it adds one of its own


def test_a_template_of_the_tokenizer_serves_where_the_processor_needs_torchvision():
    model = fresh("qwen2-vl")
    model.tokenizer.chat_template = TEMPLATE.replace("MARK", "<|vision_start|><|image_pad|><|vision_end|>").replace(
        "{{ bos_token }}", ""
    )
    assert model.inputs(image=A, text="what").tokens["text"].text[0, -2:].tolist() == ["answer", ":"]
