"""One evaluation of a denoiser is what the drawing computes at that step; it is batched, swept, differentiated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cutaway import Scale
from cutaway.errors import EditError, InputError
from world import PROMPTED, opened

each = pytest.mark.parametrize("name", PROMPTED)
CALL = {"steps": 3, "seed": 1, "size": (32, 32)}
PICTURE = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype("uint8")


def made(run):
    return run.outputs.sample


@each
def test_it_is_the_step_of_the_drawing(name):
    """With guidance the row of the prompt, at every step, with two prompts."""
    model, prompts = opened(name), ["a red dog", "a cat"]
    for guidance in (1.0, 4.0):
        drawn = model.run(
            model.inputs(prompt=prompts, guidance=guidance, **CALL), record="denoiser.out", output="latent"
        )
        for step in (0, 2):
            inputs = model.inputs(prompt=prompts, guidance=guidance, step=step, **CALL)
            run = model.run(inputs, record="denoiser.out")
            want = drawn["denoiser.out"][step, -1]
            assert torch.allclose(run["denoiser.out"][0, 0], want, rtol=0, atol=1e-10)
            assert run.sites["denoiser.out"].axes[:2] == ("step", "guidance")


@each
def test_own_latents_at_any_step(name):
    model = opened(name)
    start = model.inputs(prompt="a red dog", guidance=1.0, step=0, **CALL)
    key = next(key for key in ("sample", "hidden_states") if key in start.tensors)
    drawn = model.inputs(prompt="a red dog", guidance=1.0, step=1, **CALL)
    given = model.inputs(prompt="a red dog", guidance=1.0, step=1, latent=start.tensors[key], **CALL)
    for tensor in ("timestep", "encoder_hidden_states"):
        assert torch.equal(given.tensors[tensor], drawn.tensors[tensor])
    assert given.call.truth is None and given.tensors[key].shape == drawn.tensors[key].shape


@each
def test_a_picture_with_noise_and_what_is_to_be_said_of_it(name):
    """The truth leads from the noisy latents back to the picture's own."""
    model, step = opened(name), 1
    inputs = model.inputs(prompt="a red dog", guidance=1.0, step=step, image=PICTURE, **CALL)
    other = model.inputs(prompt="a red dog", guidance=1.0, step=step, image=PICTURE, **{**CALL, "seed": 2})
    key = next(key for key in ("sample", "hidden_states") if key in inputs.tensors)
    scheduler = model.module.scheduler

    def clean(given):
        noisy, truth = given.tensors[key], given.call.truth
        if hasattr(scheduler, "alphas_cumprod") and scheduler.config.prediction_type == "epsilon":
            share = scheduler.alphas_cumprod[scheduler.timesteps[step].long()]
            scale = share.sqrt() if not hasattr(scheduler, "sigmas") else 1 / (1 + scheduler.sigmas[step] ** 2).sqrt()
            rest = (1 - share).sqrt() if not hasattr(scheduler, "sigmas") else scheduler.sigmas[step] * scale
            return (noisy - rest * truth) / scale
        return noisy - scheduler.sigmas[step] * truth

    assert not torch.equal(inputs.call.truth, other.call.truth)
    assert torch.allclose(clean(inputs), clean(other), atol=1e-4)  # schedulers compute in float32


@each
def test_cells_share_a_forward_and_equal_single_runs(name):
    model = opened(name)
    inputs = model.inputs(prompt=["a red dog", "a cat"], guidance=1.0, step=1, **CALL)
    sites = [str(site) for site in model.sites["denoiser.*"] if site.part in ("mlp.out", "attn.z") and not site.dead]
    cells = [Scale(sites[0], 0.5, batch=0), Scale(sites[-1], 0.5), Scale(sites[-1], 0.5, step=1, batch=1)]

    def target(run):
        return made(run).flatten(1).pow(2).mean(1)

    swept = model.sweep(inputs, cells, target, progress=False)
    assert {chunk.way for chunk in swept.plan.chunks} == {"tower"}
    alone = torch.stack([target(model.run(inputs, edits=edit)) for edit in cells])
    assert np.allclose(swept.values, alone, rtol=0, atol=1e-8)
    assert not np.allclose(swept.values[1], swept.clean)


def test_steps_are_those_of_the_drawing():
    model = opened("sd")
    inputs = model.inputs(prompt="a red dog", step=2, **CALL)
    site = "denoiser.1.attn.z"
    acted = model.run(inputs, edits=Scale(site, 0.0, step=-1))
    assert torch.equal(made(acted), made(model.run(inputs, edits=Scale(site, 0.0, step=2, guidance="cond"))))
    with pytest.raises(EditError, match="never acted"):
        model.run(inputs, edits=Scale(site, 0.0, step=0))


def test_the_graph_is_kept():
    model = opened("sd")
    inputs = model.inputs(prompt="a red dog", step=0, **CALL)
    run = model.run(inputs, record="denoiser.1.resid_post", grad=True)
    (slope,) = torch.autograd.grad(made(run).pow(2).sum(), run["denoiser.1.resid_post"])
    assert slope.abs().max() > 0


def test_refusals_name_the_way_out():
    model = opened("sd")
    with pytest.raises(InputError, match="No step 3"):
        model.inputs(prompt="a dog", step=3, **CALL)
    with pytest.raises(InputError, match="goes with `step=`"):
        model.inputs(prompt="a dog", image=PICTURE, **CALL)
    with pytest.raises(InputError, match="Latents of shape"):
        model.inputs(prompt="a dog", step=1, latent=torch.zeros(1, 4, 4, 4), **CALL)
    with pytest.raises(InputError, match="one evaluation of the denoiser"):
        model.run(model.inputs(prompt="a dog", **CALL), grad=True)
    with pytest.raises(InputError, match="says what a pipeline returns"):
        model.run(model.inputs(prompt="a dog", step=1, **CALL), output="pt")
    with pytest.raises(InputError, match="step"):
        opened("clip").inputs(text="a dog", step=1)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_several_evaluations_are_one_with_the_rows_of_each(name):
    model = opened(name)
    words = {"guidance": 1.0, "step": 1, "image": PICTURE}
    both = [model.inputs(prompt=prompt, **words, **CALL) for prompt in ("a red dog", "a cat")]
    stacked = type(both[0]).stack(both)
    assert stacked.drawn == ("a red dog", "a cat") and len(stacked.call.truth) == stacked.tokens["text"].batch == 2
    alone = torch.cat([made(model.run(inputs)) for inputs in both])
    assert torch.allclose(made(model.run(stacked)), alone, rtol=0, atol=1e-10)
    assert torch.equal(stacked.call.truth, torch.cat([inputs.call.truth for inputs in both]))


def test_evaluations_that_are_not_one_say_so():
    model = opened("flux")
    inputs = model.inputs(prompt="a dog", step=1, **CALL)
    noisy = model.inputs(prompt="a dog", step=1, image=PICTURE, **CALL)
    for other in (model.inputs(prompt="a dog", step=2, **CALL), noisy, model.inputs(prompt="a dog", **CALL)):
        with pytest.raises(InputError, match="do not line up"):
            type(inputs).stack([inputs, other])
    moved = replace(inputs, tensors={**inputs.tensors, "img_ids": inputs.tensors["img_ids"] + 1})
    with pytest.raises(InputError, match="'img_ids', which is one for all rows"):
        type(inputs).stack([inputs, moved])
    with pytest.raises(InputError, match="only known after a run"):
        model.estimate(inputs, "denoiser.out")
