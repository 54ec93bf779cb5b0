"""Drawing from the layers of a text encoder: the last one is the drawing, an early one what its states give by hand."""

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline

import cutaway
from cutaway.errors import MethodError, SiteError
from cutaway.methods import diffusion_lens
from cutaway.zoo import tiny
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.judging import look

PROMPTS = ["a red dog", "a dog on a cat"]


def without_t5():
    pipeline, _ = tiny.build("sd3", dtype=torch.float64)
    pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
    return cutaway.load(pipeline)


def from_a_picture():
    """With a scheduler that cannot do fewer steps than four, and begins midway."""
    parts = {**cutaway.load("tiny:sd", dtype="float64").module.components, "requires_safety_checker": False}
    parts["scheduler"] = PNDMScheduler.from_config(parts["scheduler"].config)
    return cutaway.load(StableDiffusionImg2ImgPipeline(**parts))


OPENED = {
    "sd": lambda: cutaway.load("tiny:sd", dtype="float64"),
    "from a picture": from_a_picture,
    "sdxl": lambda: cutaway.load("tiny:sdxl", dtype="float64"),
    "sd3": without_t5,
}


@pytest.mark.checks("diffusion_lens", "truth")
@pytest.mark.parametrize("name", OPENED)
def test_the_last_layer_that_is_read_gives_the_drawing_itself(name):
    model = OPENED[name]()
    begun = {"image": tiny.picture(), "strength": 0.25, "steps": 4} if name == "from a picture" else {"steps": 2}
    inputs = model.inputs(prompt=PROMPTS, seed=2, size=(32, 32), **begun)
    found = diffusion_lens(model, inputs, progress=False)
    plain = inputs.call(model.module, inputs.tensors, output="pt", quiet=True).images
    assert (found["value"][-1] == 0).all() and (found["value"][0] > 0).all()
    drawn = (plain.clamp(0, 1) * 255).round().movedim(1, -1).numpy()
    assert np.abs(found["drawn"].isel(layer=-1).values.astype(int) - drawn).max() <= 1
    assert list(found["layer"].values) == (["embed", "0"] if name in ("sdxl", "sd3") else ["embed", "0", "1"])


def test_an_early_layer_is_drawn_as_its_states_under_the_last_norm():
    model = cutaway.load("tiny:sd", dtype="float64")
    inputs = model.inputs(prompt="a red dog", seed=2, steps=2, guidance=3.0, size=(32, 32))
    found = diffusion_lens(model, inputs, progress=False)
    pipeline = model.module
    run = model.run(inputs, record=["text.0.resid_post", "text.final"])
    with torch.no_grad():
        state = pipeline.text_encoder.final_layer_norm(run["text.0.resid_post"][1])
        hand = pipeline(
            prompt_embeds=state, negative_prompt_embeds=run["text.final"][0], num_inference_steps=2, guidance_scale=3.0,
            height=32, width=32, generator=torch.Generator().manual_seed(2), output_type="pt",
        ).images  # fmt: skip
    drawn = (hand.clamp(0, 1) * 255).round().movedim(1, -1).numpy()
    assert np.abs(found["drawn"].sel(layer="0").values.astype(int) - drawn).max() <= 1


@pytest.mark.checks("diffusion_lens", "baseline")
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]])
def test_the_baseline_is_another_prompts_words_or_noise_as_large(prompts):
    model = cutaway.load("tiny:sd", dtype="float64")
    found = diffusion_lens(model, model.inputs(prompt=prompts, seed=2, steps=1), progress=False)
    assert (found["random"].isel(layer=-1) > 0).all()
    again = diffusion_lens(model, model.inputs(prompt=prompts, seed=2, steps=1), progress=False)
    assert (found["random"] == again["random"]).all()


@pytest.mark.checks("diffusion_lens", "floor")
def test_a_trained_encoder_has_the_fox_by_its_end_and_an_untrained_denoiser_never():
    """`value` is what the judge makes of each drawing."""
    prompts = ["a fox on a green background", "a rose on a blue background"]
    names = ["fox", "rose"]

    def there(run):
        seen = look(judge(), torch.as_tensor(run.outputs.images).float() * 2 - 1)
        return torch.stack([seen.there(name)[at] for at, name in enumerate(names)]).detach()

    for which, least, most in (("zoo:emoji-sd", 0.5, 1.0), ("zoo:emoji-sd@untrained", 0.0, 0.5)):
        model = cutaway.load(which)
        found = diffusion_lens(
            model, model.inputs(prompt=prompts, seed=0, steps=8, guidance=3.0), there, levels=2, progress=False
        )
        assert (found["value"][-1] >= least).all() and (found["value"][-1] <= most).all()
        assert (found["random"] < 0.5).all()  # the other prompt's thing


def test_fewer_layers_are_the_same_drawings():
    model = cutaway.load("tiny:sd", dtype="float64")
    inputs = model.inputs(prompt="a red dog", seed=2, steps=1)
    whole, some = (diffusion_lens(model, inputs, levels=levels, progress=False) for levels in (None, 2))
    assert list(some["layer"].values) == ["embed", "1"]
    assert (some["drawn"].values == whole["drawn"].sel(layer=["embed", "1"]).values).all()


def test_what_cannot_be_left_early_is_refused():
    model = cutaway.load("tiny:flux")
    with pytest.raises(SiteError, match="layers of 'text_2'"):
        diffusion_lens(model, model.inputs(prompt="a dog", steps=1), progress=False)
    sd = cutaway.load("tiny:sd")
    with pytest.raises(MethodError, match="at the end of a drawing"):
        diffusion_lens(sd, sd.inputs(prompt="a dog", steps=2, step=1), progress=False)
