"""`batch=` is a row of the inputs, however many rows the library makes of it: beams, samples, pictures a prompt."""

from functools import cache

import pytest
import torch

from cutaway import Add, Patch, Scale, Where
from cutaway.errors import EditError
from cutaway.zoo import tiny
from world import noise, opened

WRITERS = [
    "llama",
    "gpt2",
    "mamba",
    "gemma2",
    "llava",
    "llava-next",
    "paligemma",
    "blip2",
    "qwen2-vl",
    "whisper",
    "bart",
]
MARK = "<|vision_start|><|image_pad|><|vision_end|>"
TEXTS = ("a red dog", "a blue cat")
VECTOR = 3 * noise(32)
SITE = "text.1.resid_post"
DRAWN = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent", "guidance_scale": 3.0}

writers = pytest.mark.parametrize("name", WRITERS)


@cache
def batch(name: str, rows: tuple[int, ...] = (0, 1)):
    model, modalities = opened(name), tiny.TINY[name].modalities
    if "audio" in modalities:
        return model.inputs(audio=[noise(8000, seed=row).numpy() for row in rows])
    texts = [(MARK if name.startswith("qwen2-vl") else "") + TEXTS[row] for row in rows]
    return model.inputs(image=[tiny.picture(row) for row in rows] if "image" in modalities else None, text=texts)


def written(name, inputs, edits=(), **options):
    """The new tokens of each beam, filled up to one length."""
    made = opened(name).generate(inputs, edits=edits, max_new_tokens=4, **options)
    return list(made.texts)


@writers
def test_the_second_prompt_is_edited_alone_under_beams(name):
    got = written(name, batch(name), [Add(SITE, VECTOR, batch=1)], num_beams=3, do_sample=False)
    first = written(name, batch(name, (0,)), num_beams=3, do_sample=False)
    second = written(name, batch(name, (1,)), [Add(SITE, VECTOR)], num_beams=3, do_sample=False)
    assert got == first + second


@writers
def test_samples_of_a_prompt_are_its_rows(name):
    def sampled(edits):
        torch.manual_seed(0)
        model = opened(name)
        options = {"max_new_tokens": 3, "do_sample": True, "num_return_sequences": 3}
        return model.generate(batch(name), edits=edits, **options).ids

    plain, edited = sampled([]), sampled([Add(SITE, VECTOR, batch=1)])
    width = min(plain.shape[1], edited.shape[1])
    changed = (plain[:, :width] != edited[:, :width]).any(1)
    assert not changed[:3].any() and changed[3:].any()


@pytest.mark.parametrize("name", ["llama", "mamba", "llava", "whisper"])
def test_donors_and_masks_are_repeated_alike(name):
    model, inputs = opened(name), batch(name)
    donor = model.run(inputs, record=SITE)
    swapped = {SITE: donor[SITE].flip(0)}
    got = written(name, inputs, [Patch(SITE, swapped, token=-1)], num_beams=2, do_sample=False)
    apart = [
        written(name, batch(name, (row,)), [Patch(SITE, {SITE: swapped[SITE][row : row + 1]}, token=-1)], num_beams=2,
                do_sample=False)
        for row in (0, 1)
    ]  # fmt: skip
    assert got == apart[0] + apart[1]
    if name == "llama":
        by_word = [Scale(SITE, 0.0, token=Where(text=["red", "cat"]))]
        alone = [written(name, batch(name, (row,)), by_word, num_beams=2, do_sample=False) for row in (0, 1)]
        assert written(name, inputs, by_word, num_beams=2, do_sample=False) == alone[0] + alone[1]


def test_rows_hold_where_the_inputs_are_not_named():
    model, inputs = opened("llama"), batch("llama")
    edit = [Add(SITE, VECTOR, batch=1, token=-1)]
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    with model.edited(edit) as module:
        got = module.generate(**inputs.tensors, **options)
    assert torch.equal(got, model.generate(inputs, edits=edit, **options).ids)
    assert "generate" not in vars(model.module)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_several_pictures_of_a_prompt_are_its_rows(name, known):
    model, prompts = opened(name), ["a red dog", "a blue cat"]
    inputs = model.inputs(prompt=prompts, steps=2, guidance=3.0, size=(32, 32))
    site = next(str(s) for s in model.sites if s.tower == "denoiser" and s.part == "attn.z")
    extra = {k: v for k, v in inputs.tensors.items() if k == "max_sequence_length"}

    def drawn(edits):
        with model.edited(edits, inputs if known else None) as pipeline:
            seeds = [torch.Generator().manual_seed(k) for k in range(4)]
            return pipeline(prompt=prompts, num_images_per_prompt=2, generator=seeds, **DRAWN, **extra).images

    plain, whole, second = drawn([]), drawn([Scale(site, 2.0)]), drawn([Scale(site, 2.0, batch=1)])
    assert torch.equal(second[:2], plain[:2]) and torch.equal(second[2:], whole[2:])
    assert not torch.equal(plain[:2], whole[:2])


def test_the_rows_of_a_picture_tower_are_those_of_the_prompts():
    model = opened("llava")
    pictures = [tiny.picture(k) for k in range(3)]
    inputs = model.inputs(image=pictures, text=["<image> and <image> what", "<image> what is this ?"])
    assert inputs.rows("vision") == (0, 0, 1)
    site = "vision.1.resid_post"
    got = model.run(inputs, record=site, edits=Scale(site, 0.0, batch=0))[site]
    assert not got[:2].any() and got[2].any()
    got = model.run(inputs, record=site, edits=Scale(site, 0.0, batch=[1]))[site]
    assert got[:2].any() and not got[2].any()


def test_pictures_without_a_batch_axis_are_chosen_by_meaning():
    model, inputs = opened("qwen2-vl"), batch("qwen2-vl")
    with pytest.raises(EditError, match="without a batch axis"):
        model.run(inputs, edits=Scale("vision.1.resid_post", 0.0, batch=1))
    site = "vision.1.resid_post"
    edited = model.run(inputs, record=site, edits=Scale(site, 0.0, token=Where("image", image=1)))[site]
    half = edited.shape[1] // 2
    assert edited[:, :half].any() and not edited[:, half:].any()
