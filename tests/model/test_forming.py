"""What a drawing would become at each step: at the last one it is the drawing; before, what formulas by hand say."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, StableDiffusionImg2ImgPipeline

import cutaway
from cutaway.errors import InputError
from cutaway.methods import cross_attention
from cutaway.model.forming import clean_latent, guided
from cutaway.zoo import tiny


def forming(model, **options):
    inputs = model.inputs(prompt="a red dog", seed=1, steps=3, **options)
    made = cross_attention(model, inputs, progress=False)
    return made["forming"].values.astype(int), made["drawn"].values[0].astype(int)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_at_the_last_step_it_is_what_is_drawn(name, guidance):
    frames, drawn = forming(cutaway.load(f"tiny:{name}", dtype="float64"), guidance=guidance, size=(32, 32))
    left = 4 if name == "sd" else 1  # its schedule does not end without noise
    assert len(frames) == 3 and np.abs(frames[-1] - drawn).max() <= left
    assert np.abs(frames[0] - drawn).max() > 4


def test_a_drawing_that_begins_with_a_picture_runs_the_last_times_of_the_list():
    ends = DDIMScheduler(clip_sample=False)  # without noise
    parts = tiny.build("sd", dtype=torch.float64)[0].components | {"scheduler": ends}
    model = cutaway.load(StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False))
    inputs = model.inputs(prompt="a red dog", image=tiny.picture(), strength=0.5, steps=4, size=(32, 32))
    found = cross_attention(model, inputs, progress=False)
    frames, drawn = found["forming"].values.astype(int), found["drawn"].values[0].astype(int)
    assert len(frames) == 2 and np.abs(frames[-1] - drawn).max() <= 1


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_is_taken_out_again(kind, scheduler):
    """Latents with noise at a time, and what a perfect denoiser says of them."""
    made = scheduler(prediction_type=kind)
    made.set_timesteps(10)
    x, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time = made.timesteps[4:5]
    noisy = made.add_noise(x, noise, time)
    if hasattr(made, "sigmas"):
        alpha = 1 / (1 + made.sigmas[4].double() ** 2)
        noisy = noisy * alpha**0.5
    else:
        alpha = made.alphas_cumprod[int(time)].double()
    said = {"epsilon": noise, "sample": x, "v_prediction": alpha**0.5 * noise - (1 - alpha) ** 0.5 * x}[kind]
    assert torch.allclose(clean_latent(made, 4, noisy, said), x, atol=1e-5)


def test_guidance_is_the_pipelines_own_sum():
    u, c = torch.randn(2, 3, 4)
    assert torch.allclose(guided(torch.stack([u, c]), ("uncond", "cond"), 3.0), u + 3 * (c - u))
    assert torch.equal(guided(c[None], ("cond",), 3.0), c)


def test_a_scheduler_that_asks_twice_says_so_and_has_no_film():
    twice = HeunDiscreteScheduler()
    twice.set_timesteps(3)
    with pytest.raises(InputError, match="more than once a step"):
        clean_latent(twice, 0, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    pipeline, _ = tiny.build("sd")
    pipeline.scheduler = twice
    model = cutaway.load(pipeline)
    made = cross_attention(model, model.inputs(prompt="a red dog", seed=1, steps=2), progress=False)
    assert "forming" not in made.data and "drawn" in made.data
